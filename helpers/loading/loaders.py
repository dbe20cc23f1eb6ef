"""Which loader a folder needs, with the reason, and what transformers must be told about it.

| in the folder | loader here | the WebUI, October 2023 | the WebUI, version 4.7 |
|---|---|---|---|
| *.gguf | llama.cpp | llama.cpp | llama.cpp |
| quantize_config.json | gptq | ExLlama_HF | Transformers |
| quant_method gptq in config.json only | gptq | Transformers | Transformers |
| quant_config.json, or quant_method awq | awq | AutoAWQ, by that file or -awq in the name | Transformers |
| quant_method bitsandbytes | bitsandbytes | Transformers | Transformers |
| quant_method exl2 or exl3, or so named | refused | ExLlamav2_HF for exl2 in the name | ExLlamav3 for exl3 |
| safetensors | transformers | Transformers | Transformers |
| pickles only (*.bin, *.pt) | refused | Transformers | Transformers |

gptq, awq and bitsandbytes are transformers with another package below it: gptqmodel with optimum, gptqmodel, bitsandbytes.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import convert_file_size_to_int
from transformers import AutoConfig, AwqConfig, BitsAndBytesConfig, GgufConfig, GPTQConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from helpers.common.errors import KitError
from helpers.common.machine import Choice, pick_device
from helpers.weights.gptq import pick_kernel

QUANTIZED = {
    "gptq": "quantize_config.json",
    "awq": "quant_config.json",
    "bitsandbytes": None,
}  # loader: a file that gives the format away


GPTQMODEL = "pip install -c constraints.txt -e '.[gptq]' (Linux); elsewhere take a GGUF version"


PACKAGES = {"gptq": GPTQMODEL, "awq": GPTQMODEL, "bitsandbytes": "pip install bitsandbytes"}


STRATEGIES = (
    "auto",
    "balanced",
    "balanced_low_0",
    "sequential",
)  # device_map in words: transformers finds the places


def detect_loader(folder: Path) -> Choice:
    """The loader for a complete model folder, with the reason; KitError, with what to take instead, for a format that this kit does not read."""
    if any(folder.glob("*.gguf")):
        return Choice("llama.cpp", "there is a .gguf file")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    method = (config.get("quantization_config") or {}).get("quant_method")
    for name, file in QUANTIZED.items():
        if method == name or (file and (folder / file).is_file()):
            return Choice(
                name, f"its config.json says quant_method {name}" if method else f"there is a {file}"
            )
    if method in ("exl2", "exl3") or (not method and re.search(r"exl[23]", folder.name)):
        remedy = "Run it with ExLlama (TabbyAPI; today's WebUI for exl3), or take a GPTQ or GGUF version."
        raise KitError(
            f"{folder.name} is in ExLlama's own format ({method or 'by its name'}), which transformers does not read.",
            remedy,
        )
    if method:
        raise KitError(
            f"{folder.name} is quantised with {method}, which this kit does not load.",
            "Take a GPTQ or an unquantised version.",
        )
    if not any(folder.glob("*.safetensors")):
        raise KitError(
            f"{folder.name} has its weights as pickles only, which can run any code.",
            "Take a copy with safetensors.",
        )
    return Choice("transformers", "safetensors with no quantisation: full precision")


def describe_folder(folder: Path) -> dict[str, object]:
    """What from_pretrained must be told of the folder. A GGUF file is de-quantised.

    What only a file beside it says, as in older GPTQ and AWQ folders, is put into the config, where transformers looks for it.
    """
    if gguf := next(folder.glob("*.gguf"), None):
        return {"gguf_file": gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    config = AutoConfig.from_pretrained(folder)
    for method, file in QUANTIZED.items():
        if file and (folder / file).is_file() and not getattr(config, "quantization_config", None):
            facts = json.loads((folder / file).read_text(encoding="utf-8"))
            renamed = {
                {"w_bit": "bits", "q_group_size": "group_size"}.get(key, key): value
                for key, value in facts.items()
            }  # AutoAWQ's names
            config.quantization_config = {**renamed, "quant_method": method}
    return {"config": config}


def pick_place(device_map: str | dict | None, max_memory: dict | None) -> Choice:
    """Where a model goes, "cuda" or "cpu", and why; KitError for a place or a size that this machine has not."""
    spread = device_map is None or device_map in STRATEGIES
    places = [] if spread else list(device_map.values()) if isinstance(device_map, dict) else [device_map]
    kinds = [find_kind(place) for place in (*places, *(max_memory or {}))]
    for size in (max_memory or {}).values():
        try:
            convert_file_size_to_int(size)
        except ValueError:
            raise KitError(f"'{size}' in max_memory is no size.", "Write it as '14GiB'.") from None
    if spread and not max_memory:
        return pick_device()
    return Choice("cuda" if "cuda" in kinds else "cpu", "asked for with device_map or max_memory")


def find_kind(place: str | int | torch.device) -> str:
    """'cuda' for a GPU (a number is one), 'cpu' or 'disk'; KitError for what is not there."""
    if place == "disk":
        return "disk"
    try:
        device = torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    except RuntimeError:
        raise KitError(
            f"'{place}' is no device.", "Say 'cpu', 'disk', the number of a GPU, or device_map='auto'."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise KitError(
            f"There is no GPU {device.index or 0} on this machine ({pick_device().reason}).",
            "Name one that is there, 'cpu', or 'auto'.",
        )
    return device.type


@contextmanager
def explain_missing_package(name: str, loader: str) -> Iterator[None]:
    """Turns an ImportError inside the block into a KitError with the line that installs what is missing."""
    try:
        yield
    except ImportError as error:
        remedy = f"Install it: {PACKAGES.get(loader, 'pip install -c constraints.txt -e .')}"
        raise KitError(
            f"{name} needs a package that is not installed: {' '.join(str(error).split())[:200]}", remedy
        ) from None


def pick_quantization(
    loader: str, dtype: torch.dtype, purpose: str, bits: int | None, device: str
) -> QuantizationConfigMixin | None:
    """transformers' quantization settings for a folder; None where those in the folder, and the kernel that gptqmodel picks, are right."""
    if bits and loader != "transformers":
        raise KitError(f"The weights are quantised already ({loader}).", "Leave bits away.")
    if bits not in (None, 4, 8):
        raise KitError(f"bitsandbytes quantises to 8 or 4 bits, not {bits}.", "Say bits=8 or bits=4.")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits == 4:
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    kernel = pick_kernel(device, purpose)
    configs = (
        {"awq": AwqConfig(backend="torch_awq"), "gptq": GPTQConfig(bits=4, backend=kernel)} if kernel else {}
    )
    return configs.get(loader)
