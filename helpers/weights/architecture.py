"""Whether transformers loads a folder as a decoder, found out from its files before anything heavy is loaded.

Each check raises one error with the remedy. What only shows when transformers reads the files is not here.
"""

import os
from typing import TYPE_CHECKING

from helpers.common.errors import DamagedError, UnsupportedError
from helpers.common.messages import collect_messages
from helpers.weights.folders import FETCH_AGAIN, SAFETENSORS, ModelFolder
from helpers.weights.shape import MOST, get_text_part, read_number

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OTHER_HEADS = ("ForMaskedLM", "Classification", "ForQuestionAnswering", "ForMultipleChoice")
TAKE_DECODER = "Take a decoder, such as one of `python -m helpers.weights list`."
TAKE_GGUF = "Take a text-only version of it, or a GGUF version, which llama.cpp runs."


def check_decoder(folder: ModelFolder) -> ModelFolder:
    """The folder itself; a KitError if its files rule out that transformers loads it as a decoder."""
    if len(folder.gguf_parts) > 1:
        problem = f"{folder.name} is a GGUF model in {len(folder.gguf_parts)} files, which transformers does"
        raise UnsupportedError(f"{problem} not read.", "Serve it with llama.cpp (helpers.server).")
    if folder.gguf:
        return folder
    kind = folder.quantization
    if kind and kind.method.startswith("exl"):  # detect_loader says which program reads it
        return folder
    refuse_adapter(folder)
    refuse_unknown_type(folder)
    refuse_other_head(folder)
    refuse_wrong_values(folder)
    refuse_unnamed_quantization(folder)
    refuse_kernels(folder)
    refuse_other_file_names(folder)
    return folder


def refuse_adapter(folder: ModelFolder) -> None:
    """An UnsupportedError for a LoRA in a model's folder: transformers loads the base that it names."""
    path = folder.path / "adapter_config.json"
    if os.path.lexists(path):
        problem = f"{path} is that of a LoRA, with which transformers would load the base that it names."
        raise UnsupportedError(problem, "Move the LoRA's files into a folder of their own below loras/.")


def refuse_unknown_type(folder: ModelFolder) -> None:
    """An error unless transformers has a class for the folder's model_type that generates text."""
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto import modeling_auto

    kind = folder.config.get("model_type")
    if not isinstance(kind, str):
        raise DamagedError(f"{folder.path / 'config.json'} has no model_type.", FETCH_AGAIN)
    title = f"{folder.name} has the model_type {kind}, which"
    if kind not in CONFIG_MAPPING:
        if "auto_map" in folder.config:
            problem = f"{title} transformers {__version__} knows only by running code from the folder."
            raise UnsupportedError(problem, "Take a version without auto_map, or a GGUF version.")
        remedy = "Take another model, a GGUF version, or a transformers that knows it."
        raise UnsupportedError(f"{title} transformers {__version__} does not know.", remedy)
    is_decoder = folder.config.get("is_decoder")
    if kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and not is_decoder:
        raise UnsupportedError(f"{title} is an encoder with a decoder.", TAKE_DECODER)
    if kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_decoder:
        raise UnsupportedError(f"{title} is an encoder.", TAKE_DECODER)
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UnsupportedError(f"{title} also reads images; the kit does not load such models.", TAKE_GGUF)
    raise UnsupportedError(f"{title} is not a decoder for text.", TAKE_DECODER)


def refuse_other_head(folder: ModelFolder) -> None:
    """An UnsupportedError if the weights were saved with a head that does not predict the next token."""
    names = folder.config.get("architectures") or []
    if not isinstance(names, list):
        names = [names]
    if names and all(str(name).endswith(OTHER_HEADS) for name in names):
        problem = f"{folder.name} was saved as {names[0]}, which does not generate text."
        raise UnsupportedError(problem, TAKE_DECODER)


def refuse_wrong_values(folder: ModelFolder) -> None:
    """A DamagedError for a number or a dtype in config.json or generation_config.json that is not valid."""
    import torch

    _ = folder.advice
    for name in MOST:
        read_number(get_text_part(folder.config), name)
    try:
        _ = folder.shape
    except KeyError:  # an architecture whose shape is not known here
        pass
    for part in (folder.config, get_text_part(folder.config)):
        for key in ("dtype", "torch_dtype"):
            name = part.get(key)
            if isinstance(name, str) and not isinstance(getattr(torch, name, None), torch.dtype):
                problem = f"{folder.path / 'config.json'} has {key} '{name}', which is not a number format."
                raise DamagedError(problem, "Write it as torch does: float32, bfloat16 or float16.")


def make_config(folder: ModelFolder) -> "PretrainedConfig":
    """What transformers makes of config.json. What it has to say of it, it says when the model is loaded.

    Raises DamagedError if it cannot make a config, such as for a wrong rope type.
    """
    from transformers import AutoConfig

    path = folder.path / "config.json"
    try:
        with collect_messages():
            return AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    except (
        Exception
    ) as error:  # of any kind: KeyError for a value that lacks, TypeError for one of another kind
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DamagedError(
            f"{path} cannot be used ({reason}).", "Correct it, or fetch the model again."
        ) from None


def refuse_kernels(folder: ModelFolder) -> None:
    """An UnsupportedError if config.json names a kernel for attention: transformers would fetch its code."""
    for name in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
        if "/" in str(folder.config.get(name) or ""):
            problem = f"{folder.path / 'config.json'} names code for its attention ({name})."
            raise UnsupportedError(problem, "Delete the line: the kit chooses the attention itself.")


def refuse_unnamed_quantization(folder: ModelFolder) -> None:
    """An UnsupportedError if config.json describes a quantisation without its method."""
    recorded = folder.config.get("quantization_config") or {}
    switches = {"quant_method", "load_in_4bit", "load_in_8bit"}
    if not recorded or switches & recorded.keys():
        return
    where = f"The quantization_config in {folder.path / 'config.json'}"
    looks_like_gptq = "desc_act" in recorded or (folder.path / "quantize_config.json").is_file()
    method = "gptq" if looks_like_gptq else "METHOD"
    raise UnsupportedError(f"{where} has no quant_method: unknown.", f'Add it: "quant_method": "{method}".')


def refuse_other_file_names(folder: ModelFolder) -> None:
    """An UnsupportedError if transformers does not look for weights under the names that they have."""
    if folder.has_standard_names:
        return
    first = folder.weight_files[0].name
    problem = f"{folder.name} has its weights in {first}; transformers reads {SAFETENSORS}."
    remedy = f"Take a copy of the model with {SAFETENSORS}."
    if folder.format == "safetensors" and len(folder.weight_files) == 1 and "consolidated" not in first:
        remedy = f"Rename the file, or link it: ln -s {first} {SAFETENSORS}"
    raise UnsupportedError(problem, remedy)
