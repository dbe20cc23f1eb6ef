"""A LoRA's B A added to the weights of its base: a model folder that needs no adapter."""

from pathlib import Path

import torch
from transformers import AutoConfig

from helpers.adapters.attaching import attach_adapter
from helpers.adapters.fingerprint import TOLERANCE, compute_logits, list_prompts
from helpers.adapters.folders import find_adapter, name_base
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete
from helpers.common.paths import resolve_inside
from helpers.loading.model import LoadedModel, load_model, refuse_too_large
from helpers.weights.config import read_quantization
from helpers.weights.folders import find_model, models_folder, record_source


def merge_adapter(name: str, output: str, base: str | None = None, dtype: str | None = None) -> Path:
    """Merges loras/NAME into its base and saves the result as models/OUTPUT, with tokenizer and templates; returns that folder.

    `base` names another model than the recorded one, such as the full-precision form of a GPTQ base. Computed in float32 in the CPU's
    memory, saved in `dtype` or the base's own. KitError for a quantised base, too little memory, an OUTPUT that is there, and when the
    merged model's logits are not those of base and LoRA (2 % of the largest, 0.1 % where the weights are float32): the update of a
    short training can be smaller than the steps between two bfloat16 numbers, and is then lost in rounding.
    """
    folder, target = find_adapter(name), resolve_inside(models_folder(), output, "model")
    if target.exists():
        raise KitError(f"{target} is there already.", "Choose another --output, or delete it.")
    model_name = base or name_base(folder)
    if model_name is None:
        raise KitError(f"The LoRA {name} does not record its base.", "Name it with --base.")
    model_folder = find_model(model_name)
    refuse_quantized(name, model_folder)
    stored = AutoConfig.from_pretrained(model_folder).dtype or torch.float32
    refuse_too_large(model_folder, "cpu", 4 / stored.itemsize)
    loaded = attach_adapter(
        load_model(model_name, dtype="float32", device_map="cpu"), name, any_model=bool(base)
    )
    before = [compute_logits(loaded, messages) for messages in list_prompts(folder)]
    try:
        loaded.model = loaded.model.merge_and_unload(safe_merge=True).to(
            getattr(torch, dtype) if dtype else stored
        )
    except ValueError as error:
        raise KitError(
            f"{name} cannot be merged: {error}.",
            f"See `python -m helpers.adapters prove {name}`; train it again.",
        ) from None
    refuse_other_logits(loaded, name, before)
    with replace_when_complete(target) as fresh:
        loaded.model.save_pretrained(fresh)
        loaded.tokenizer.save_pretrained(fresh)
        record_source(fresh, source=f"{loaded.name} with the LoRA {name} merged into it", revision="main")
    return target


def refuse_quantized(name: str, folder: Path) -> None:
    """KitError that explains the two roads, for a base whose weights are quantised."""
    if any(folder.glob("*.gguf")) or read_quantization(AutoConfig.from_pretrained(folder).to_dict()):
        raise KitError(
            f"{folder.name} is quantised: its few bits a number have no room for the small difference that {name} makes.",
            "Either serve base and LoRA together (helpers.server --model ... --lora ...), or merge into the full-precision model "
            "(--base MODEL) and quantise the result (python -m helpers.weights gptq).",
        )


def refuse_other_logits(loaded: LoadedModel, name: str, before: list[torch.Tensor]) -> None:
    """KitError when the merged model does not give the logits that base and LoRA gave for the LoRA's recorded prompts."""
    dtype, loaded.model = (
        loaded.model.dtype,
        loaded.model.float(),
    )  # the rounded weights, computed with exactly
    share = 0.001 if dtype == torch.float32 else TOLERANCE
    for messages, wanted in zip(list_prompts(find_adapter(name)), before, strict=True):
        off = (compute_logits(loaded, messages) - wanted).abs().max()
        if not off <= share * wanted.abs().max():
            remedy = "Save it in float32 (--dtype float32), or serve base and LoRA together."
            raise KitError(
                f"Merged in {str(dtype).removeprefix('torch.')}, {name} moves the logits by {off:.2f}: rounding loses it.",
                remedy,
            )
    loaded.model = loaded.model.to(dtype)
