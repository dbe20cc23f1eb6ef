"""A LoRA's B A added to the weights of its base: a model folder that needs no LoRA."""

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from helpers.adapters.attaching import attach_folder, open_for_peft, unwrap
from helpers.adapters.bases import check_base, find_base
from helpers.adapters.chat_template import pick_for_all
from helpers.adapters.fingerprint import TOLERANCE, Messages, compute_logits, list_prompts
from helpers.adapters.folders import AdapterFolder, find_adapter
from helpers.adapters.parts import check_names, check_supported, count_tokens
from helpers.adapters.tensors import read_shapes
from helpers.common.errors import DamagedError, UnsupportedError
from helpers.common.exports import ELSEWHERE
from helpers.common.files import replace_when_complete
from helpers.common.locks import hold
from helpers.common.machine import name_dtype
from helpers.common.messages import hold_messages
from helpers.common.outputs import check_output, name_new_folder, refuse_what_stays
from helpers.common.workspaces import remove_abandoned
from helpers.loading.model import LoadedModel, as_dtype, load_model, refuse_too_large
from helpers.loading.outputs import reread_generation
from helpers.loading.tokenizer import read_padded
from helpers.weights.architecture import check_decoder, make_config
from helpers.weights.folders import ModelFolder, find_model, models_folder


def merge_adapter(
    name: str,
    output: str,
    base: str | None = None,
    dtype: str | None = None,
    chat_template: str | None = None,
) -> Path:
    """Merges loras/NAME into its base and saves the result as models/OUTPUT; returns that folder.

    `base` names another model than the recorded one, such as the full-precision version of a GPTQ base.
    Computed in float32 in the CPU's memory, saved in `dtype` or the base's own. The new folder has the chat
    template of the LoRA's training, or `chat_template`. Raises UnsupportedError for a quantised base and if
    rounding loses the update: that of a short training can be smaller than the step between two bfloat16
    numbers, and AlreadyThereError if the folder is there or being made.
    """
    folder = find_adapter(name)
    target = name_new_folder(models_folder(), output, "model")
    base_folder = find_mergeable_base(folder, base)
    stored = read_dtype(base_folder)
    refuse_too_large(base_folder, "cpu", 4 / stored.itemsize)
    template = pick_for_all(chat_template, [folder])
    saved = as_dtype(dtype) if dtype else stored
    needed = base_folder.weight_bytes * saved.itemsize // stored.itemsize
    check_output(target, "folder", bytes_needed=needed, remedy=ELSEWHERE)
    with hold(target, "a merge"):
        remove_abandoned(target)  # a complete folder of a killed merge takes its place
        refuse_what_stays(target, "folder")
        write_merged(folder, base_folder, target, saved, template)
    return target


def write_merged(
    folder: AdapterFolder, base: ModelFolder, target: Path, dtype: torch.dtype, template: str | None
) -> None:
    """Loads base and LoRA, adds them up, and writes the folder; errors as merge_adapter."""
    loaded = load_model(base.name, dtype="float32", device_map="cpu", chat_template=template)
    attach_whole(loaded, folder)
    prompts = list_prompts(loaded, folder)
    before = [compute_logits(loaded, messages) for messages in prompts]
    loaded.model = add_product(loaded, folder.name).to(dtype)
    refuse_lost_update(loaded, folder.name, prompts, before)
    loaded.model.generation_config = reread_generation(base, loaded.model.config)
    with replace_when_complete(target) as fresh:
        loaded.model.save_pretrained(fresh)
        loaded.tokenizer.save_pretrained(fresh)
        source = f"{loaded.name} with the LoRA {folder.name} merged into it"
        ModelFolder(fresh).write_record(source=source, revision="main")
        folder.refuse_replaced()


def find_mergeable_base(folder: AdapterFolder, base: str | None) -> ModelFolder:
    """The model to merge into: `base`, or the recorded one. A KitError if it or the LoRA cannot be merged."""
    found = find_model(base) if base else find_base(folder, "Name it with --base.")
    refuse_quantized(folder.name, found)
    check_decoder(found)
    if not base:
        check_base(folder, found)
    check_supported(folder)
    check_names(folder, found)
    return found


def add_product(loaded: LoadedModel, name: str) -> torch.nn.Module:
    """The plain model whose weights have the LoRA's B A added."""
    try:
        separate_embeddings(loaded.model)
        return loaded.model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        remedy = f"See `python -m helpers.adapters prove {name}`; train it again."
        raise DamagedError(f"{name} cannot be merged: {error}.", remedy) from None
    except RuntimeError as error:  # PEFT's word for biases that the base has no place for
        raise UnsupportedError(f"{name} cannot be merged: {error}", "Serve base and LoRA together.") from None


def attach_whole(loaded: LoadedModel, folder: AdapterFolder) -> None:
    """Attaches the LoRA with all that it changes in its base, which has its vocabulary and tokenizer then."""
    rows = count_tokens(read_shapes(folder.weights))
    if rows and rows != loaded.model.get_input_embeddings().weight.shape[0]:
        loaded.model.resize_token_embeddings(rows, mean_resizing=False)
    if (folder.path / "tokenizer_config.json").is_file():
        before, loaded.tokenizer = loaded.tokenizer, read_padded(ModelFolder(folder.path))
        loaded.tokenizer.chat_template = loaded.tokenizer.chat_template or before.chat_template
    with hold_messages(), open_for_peft(folder, whole=True) as path:
        attach_folder(loaded, folder, path)


def separate_embeddings(model: PeftModel) -> None:
    """Gives lm_head weights of its own if it shares those of the embeddings and one of the two has a LoRA."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    inputs, outputs = map(unwrap, ends)
    if (
        outputs is not None
        and outputs.weight is inputs.weight
        and any(isinstance(end, LoraLayer) for end in ends)
    ):
        outputs.weight = torch.nn.Parameter(outputs.weight.detach().clone())
        model.config.tie_word_embeddings = False


def read_dtype(folder: ModelFolder) -> torch.dtype:
    """The dtype that the folder's weights are stored in, as its config says. Errors as make_config."""
    dtype = make_config(folder).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def refuse_quantized(name: str, base: ModelFolder) -> None:
    """An UnsupportedError with the two ways out, for a base whose weights are quantised."""
    if base.format == "gguf" or base.quantization:
        problem = f"{base.name} is quantised: its few bits cannot hold the small change that {name} makes."
        remedy = (
            "Either serve base and LoRA together (helpers.server --model ... --lora ...), or merge into the "
            "full-precision model (--base MODEL) and quantise the result (python -m helpers.weights gptq)."
        )
        raise UnsupportedError(problem, remedy)


def refuse_lost_update(
    loaded: LoadedModel, name: str, prompts: list[Messages], before: list[torch.Tensor]
) -> None:
    """An UnsupportedError if the merged model's logits are not those `before`, of base and LoRA.

    They may differ by 2% of a prompt's largest logit, or by 0.1% if the weights are float32.
    """
    dtype = loaded.model.dtype
    allowed = 0.001 if dtype == torch.float32 else TOLERANCE
    loaded.model = loaded.model.float()  # to compute exactly with the rounded weights
    moved = [
        float((compute_logits(loaded, messages) - wanted).abs().max() / wanted.abs().max())
        for messages, wanted in zip(prompts, before, strict=True)
    ]
    loaded.model = loaded.model.to(dtype)
    if not all(share <= allowed for share in moved):  # a NaN is not
        problem = (
            f"Merged in {name_dtype(dtype)}, {name} moves the logits by {max(moved):.1%}: rounding loses it."
        )
        remedy = "Save it in float32 (--dtype float32), or serve base and LoRA together."
        raise UnsupportedError(problem, remedy)
