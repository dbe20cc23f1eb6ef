"""The loaded model and tokenizer, and chat with the model's own template. Which loader a folder needs is said in helpers.loading.loaders."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from helpers.common.errors import KitError
from helpers.common.machine import Choice, free_memory, measure_memory, measure_used, pick_dtype
from helpers.loading.loaders import (
    describe_folder,
    detect_loader,
    explain_missing_package,
    pick_place,
    pick_quantization,
)
from helpers.weights.folders import find_model
from helpers.weights.gptq import import_gptqmodel, undo_compiling

# A bar of transformers' would stay in a notebook's file as a widget, and GitHub shows no notebook with broken widgets.
transformers_logging.disable_progress_bar()


@dataclass
class LoadedModel:
    """A model in memory with what belongs to it. An adapter may be attached to `model` later (helpers.adapters)."""

    name: str  # the folder's name
    folder: Path
    loader: Choice  # which one, and why
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: Choice  # "cuda" or "cpu", and why
    dtype: Choice  # a torch dtype, and why
    seconds: float = 0.0  # that loading took
    bytes: int = 0  # of the weights in memory, as transformers counts them


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the left as generation needs it; a missing pad token becomes EOS."""
    gguf = next(folder.glob("*.gguf"), None)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, padding_side="left", **({"gguf_file": gguf.name} if gguf else {})
    )
    if (
        gguf and str(GGUFReader(gguf).fields["tokenizer.ggml.pre"].contents()) == "smollm"
    ):  # its splitting of digits is lost in the conversion
        core = tokenizer.backend_tokenizer
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), core.pre_tokenizer]
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str, loader: str | None = None, dtype: str | torch.dtype | None = None, base: Path | None = None, *,
    purpose: str = "inference", bits: int | None = None, device_map: str | dict | None = None, max_memory: dict | None = None,
) -> LoadedModel:  # fmt: skip
    """Loads a model folder below `base` (models/ by default) onto this machine's device, ready to generate.

    `loader` overrides detect_loader, `dtype` ("float32", "bfloat16", "float16" or a torch dtype) overrides machine.pick_dtype. `purpose` is
    "inference" or "training": a CPU's fastest GPTQ and AWQ kernels let no gradient through. `bits` (8 or 4) quantises full precision while
    loading, with bitsandbytes. `device_map="auto"` spreads over several GPUs, what they lack over the CPU, and the rest stays on the disk, all within
    `max_memory` ({0: "14GiB", "cpu": "30GiB"}; what is not named is not used).
    Raises KitError: no such folder, an incomplete one, a format not read here, more weights than memory, a missing package or place.
    """
    start, folder = time.monotonic(), find_model(name, base)
    choice = Choice(loader, "asked for") if loader else detect_loader(folder)
    if choice.value == "llama.cpp":
        raise KitError(
            f"{folder.name} is a GGUF file, which llama.cpp runs.",
            "Serve it (helpers.server), or de-quantise it: loader='transformers'.",
        )
    device = pick_place(device_map, max_memory)
    device_map = device_map or ("auto" if max_memory else None)
    if device_map is None:
        refuse_too_large(folder, device.value, (bits or 16) / 16)
    number = (
        Choice(getattr(torch, dtype) if isinstance(dtype, str) else dtype, "asked for")
        if dtype
        else pick_dtype(device.value)
    )
    settings = {
        "device_map": device_map or device.value,
        "max_memory": max_memory,
        "dtype": number.value,
        **describe_folder(folder),
    }
    if quantization := pick_quantization(
        choice.value, number.value, purpose, bits, device.value
    ):  # given as None it would hide the folder's own
        settings["quantization_config"] = quantization
    with explain_missing_package(folder.name, "bitsandbytes" if bits else choice.value):
        if choice.value in ("gptq", "awq"):
            import_gptqmodel()
        warnings.filterwarnings(
            "ignore", message="You passed `quantization_config`", category=UserWarning
        )  # only the kernel is passed, as meant
        model, found = AutoModelForCausalLM.from_pretrained(folder, **settings, output_loading_info=True)
        undo_compiling(model)
    if found["missing_keys"]:  # transformers fills them with random numbers
        lacking = f"{len(found['missing_keys'])} tensors, such as {sorted(found['missing_keys'])[0]}"
        raise KitError(
            f"{folder.name} lacks {lacking}.",
            "Fetch it again; if that changes nothing, choose another loader.",
        )
    loaded = LoadedModel(folder.name, folder, choice, model.eval(), load_tokenizer(folder), device, number)
    loaded.seconds, loaded.bytes = round(time.monotonic() - start, 2), model.get_memory_footprint()
    return loaded


def refuse_too_large(folder: Path, device: str, kept: float = 1) -> None:
    """KitError when the weights alone, of which quantising keeps the part `kept`, are larger than the free memory they would go to."""
    needed = kept * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = measure_memory(device).value[0]
    if needed > free:
        raise KitError(
            f"{folder.name} needs {needed / 1e9:.1f} GB for its weights; {free / 1e9:.1f} GB are free ({device}).",
            "Free memory (helpers.common.machine.free_memory), or take a smaller or a 4-bit model.",
        )


def free(loaded: LoadedModel) -> int:
    """Lets go of the model and gives its memory back to the system; returns the bytes that came back, as measured. `loaded` is of no use after it."""
    before = measure_used(loaded.device.value).value
    loaded.model = None
    free_memory()
    return before - measure_used(loaded.device.value).value
