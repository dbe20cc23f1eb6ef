"""The loaded model: weights, tokenizer, device and number format together, and its end."""

import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from helpers.common.errors import ResourceError, UnsupportedError, UsageError
from helpers.common.machine import (
    Choice,
    free_memory,
    measure_memory,
    measure_used,
    name_dtype,
    pick_device,
    pick_dtype,
)
from helpers.common.messages import hold_messages
from helpers.loading._private import undo_compiling
from helpers.loading.chat_templates import PickedTemplate
from helpers.loading.gptq_training import let_gradients_through
from helpers.loading.loaders import check_loader, detect_loader, explain_missing_package
from helpers.loading.outputs import restore_generation, restore_outputs
from helpers.loading.quantization import check_bits, find_kernel, pick_quantization
from helpers.loading.tokenizer import load_both
from helpers.weights._private import import_gptqmodel
from helpers.weights.architecture import check_decoder
from helpers.weights.folders import ModelFolder, find_model
from helpers.weights.reading import explain_unreadable, read_model
from helpers.weights.shape import CONTEXT_NAMES, read_context

# A bar of transformers' stays in a notebook's file as a widget, and GitHub does not show notebooks with
# such widgets.
transformers_logging.disable_progress_bar()

Place = str | int | torch.device
# Values of device_map with which transformers decides.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# "14GiB" or "0.5 GB": what accelerate's convert_file_size_to_int reads.
SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*[KMG]i?B", re.IGNORECASE)


@dataclass
class LoadedModel:
    """A model in memory with what belongs to it. LoRAs may be attached to `model` later."""

    name: str  # the folder's name; of one GGUF file among several, folder.name is FOLDER/FILE
    folder: ModelFolder
    loader: Choice[str]  # which one, and why
    model: Any  # transformers' PreTrainedModel, or PEFT's PeftModel around it
    tokenizer: PreTrainedTokenizerBase
    device: Choice[str]  # "cuda", "mps" or "cpu", and why
    dtype: Choice[torch.dtype]
    chat_template: PickedTemplate | None = None  # which one, and why; None without one
    seconds: float = 0.0  # that loading took
    bytes: int = 0  # of the weights in memory, as transformers counts them
    kernel: Choice[str | None] | None = None  # of quantised weights, and why; None: another loader's

    @property
    def choices(self) -> dict[str, Choice[Any]]:
        """What was chosen for these weights on this machine: the kernel of quantised ones."""
        return {"kernel": self.kernel} if self.kernel else {}

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        config = self.model.config.get_text_config()
        return read_context({name: getattr(config, name, None) for name in CONTEXT_NAMES})


def load_model(
    name: str,
    loader: str | None = None,
    dtype: str | torch.dtype | None = None,
    models_dir: Path | None = None,
    *,
    purpose: str = "inference",
    bits: int | None = None,
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[Any, Any] | None = None,
    chat_template: str | None = None,
) -> LoadedModel:
    """Loads the model folder `name` onto this machine's device, ready to generate.

    `loader` overrides detect_loader; `dtype` ("float32", "bfloat16" or a torch dtype) overrides pick_dtype.
    `purpose` is "inference", "judging" or "training": the last two need a chat template with an end, and a
    CPU's fastest GPTQ and AWQ kernels let no gradient through. `chat_template` overrides pick_template.
    `bits` (8 or 4) quantises full precision while loading, with bitsandbytes. `device_map="auto"` spreads
    over GPUs, the CPU, then the disk, all within `max_memory` ({0: "14GiB"}; the rest is not used).
    Raises NotFoundError or DamagedError (the folder), UnsupportedError (the format), ResourceError (memory),
    MissingPackageError, UsageError (a setting).
    """
    start = time.monotonic()
    folder = check_decoder(find_model(name, models_dir))
    chosen = pick_loader(folder, loader)
    check_bits(bits, folder, chosen.value)
    device = pick_place(device_map, max_memory)
    device_map = device_map or ("auto" if max_memory else None)
    if not device_map:
        refuse_too_large(folder, device.value, (bits or 16) / 16)
    number = Choice(as_dtype(dtype), "asked for") if dtype else pick_dtype(device.value)
    settings = {"device_map": device_map or device.value, "max_memory": max_memory, "dtype": number.value}
    with hold_messages(), explain_missing_package(folder.name, "bitsandbytes" if bits else chosen.value):
        kernel = find_kernel(folder, chosen.value, device.value, name_dtype(number.value), purpose)
        settings |= pick_quantization(chosen.value, number.value, bits, kernel)
        tokenizer, template = load_both(folder, chat_template, need_examples=purpose != "inference")
        model = build_model(folder, chosen.value, settings)
    seconds, size = round(time.monotonic() - start, 2), model.get_memory_footprint()
    return LoadedModel(
        folder.path.name, folder, chosen, model, tokenizer, device, number, template, seconds, size, kernel
    )


def pick_loader(folder: ModelFolder, loader: str | None) -> Choice[str]:
    """The loader that was asked for, or else the detected one; UnsupportedError if that is llama.cpp."""
    if loader:
        check_loader(loader, folder)
    chosen = Choice(loader, "asked for") if loader else detect_loader(folder)
    if chosen.value == "llama.cpp":
        remedy = (
            "Serve it (helpers.server), or take a safetensors version; in Python, "
            "load_model(..., loader='transformers') de-quantises it."
        )
        raise UnsupportedError(f"{folder.name} is a GGUF file, which llama.cpp runs.", remedy)
    return chosen


def pick_place(
    device_map: Place | Mapping[str, Place] | None, max_memory: Mapping[Place, int | str] | None
) -> Choice[str]:
    """Where a model goes, "cuda", "mps" or "cpu", and why.

    Raises UsageError for what is not a place or a size, UnsupportedError for a GPU that is not there.
    """
    spread = device_map is None or device_map in STRATEGIES
    for size in (max_memory or {}).values():
        if isinstance(size, str) and not SIZE.fullmatch(size):
            raise UsageError(f"'{size}' in max_memory is not a size.", "Write it as '14GiB'.")
    places: list[Place] = list(max_memory or {})
    if isinstance(device_map, Mapping):
        places += device_map.values()
    elif device_map is not None and not spread:
        places.append(device_map)
    kinds = {find_kind(place) for place in places}
    if spread and not max_memory:
        return pick_device()
    kind = next((kind for kind in ("cuda", "mps") if kind in kinds), "cpu")
    return Choice(kind, "asked for with device_map or max_memory")


def find_kind(place: Place) -> str:
    """Returns "cuda" for a GPU (a number means one), "mps", "cpu" or "disk". Errors as pick_place."""
    if place == "disk":
        return "disk"
    try:
        device = torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "mps", "cpu"):
        remedy = "Use 'cpu', 'disk', the number of a GPU, or device_map='auto'."
        raise UsageError(f"'{place}' is not a valid place for a model.", remedy)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnsupportedError("There is no MPS on this machine.", "Name 'cpu', or 'auto'.")
    number = device.index or 0
    if device.type == "cuda" and number >= torch.cuda.device_count():
        problem = f"There is no GPU {number} on this machine ({pick_device().reason})."
        raise UnsupportedError(problem, "Name one that is there, 'cpu', or 'auto'.")
    return device.type


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype by its name; UsageError for any other name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise UsageError(f"'{dtype}' is not a number format.", "Use float32, bfloat16 or float16.")
    return found


def build_model(folder: ModelFolder, loader: str, settings: dict[str, Any]) -> PreTrainedModel:
    """The model with its weights, in eval mode; a DamagedError if the files lack some of them."""
    if loader in ("gptq", "awq"):
        import_gptqmodel()
    # Only the kernel is passed as quantization_config, which is what we want; transformers warns anyway.
    warnings.filterwarnings("ignore", message="You passed `quantization_config`", category=UserWarning)
    with explain_unreadable(folder.name):
        settings = settings | describe_weights(folder)
    model = read_model(folder, **settings)
    restore_outputs(model.config)
    undo_compiling(model)
    let_gradients_through(model)
    restore_generation(model.generation_config)
    return model.eval()


def describe_weights(folder: ModelFolder) -> dict[str, Any]:
    """What from_pretrained must be given for this folder. A GGUF file is de-quantised.

    Older GPTQ and AWQ folders describe their quantisation in a file beside config.json: it is put into the
    config, where transformers looks for it.
    """
    if folder.gguf:
        return {"gguf_file": folder.gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
    restore_outputs(config)
    if folder.quantization and not getattr(config, "quantization_config", None):
        config.quantization_config = folder.quantization.settings
    return {"config": config}


def refuse_too_large(folder: ModelFolder, device: str, share: float = 1) -> None:
    """A ResourceError if the weights, of which quantising keeps `share`, exceed the free memory."""
    needed = share * sum(path.stat().st_size for path in folder.safetensors)
    free, _ = measure_memory(device).value
    if needed > free:
        room = f"{free / 1e9:.1f} GB are free ({device})"
        problem = f"{folder.name} needs {needed / 1e9:.1f} GB for its weights; {room}."
        raise ResourceError(problem, "Free memory (common.free_memory), or take a smaller or a 4-bit model.")


def list_places(model: Any) -> list[str]:
    """The devices over which a model is spread, such as "0" and "cpu", in order; [] if it was not."""
    return sorted(set(map(str, (getattr(model, "hf_device_map", None) or {}).values())))


def free(loaded: LoadedModel) -> int:
    """Frees the model's memory and returns the bytes that came back, as measured.

    `loaded` is of no use afterwards.
    """
    before = measure_used(loaded.device.value).value
    del loaded.model
    free_memory()
    return before - measure_used(loaded.device.value).value
