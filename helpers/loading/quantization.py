"""How from_pretrained is told about quantised weights: bits that are asked for, and a folder's kernel."""

import torch
from transformers import AwqConfig, BitsAndBytesConfig, GPTQConfig
from transformers.utils.quantization_config import AwqBackend, QuantizationConfigMixin

from helpers.common.errors import KitError, UsageError
from helpers.common.machine import Choice
from helpers.loading.kernel_trial import choose_kernel
from helpers.loading.kernels import read_facts
from helpers.weights.folders import ModelFolder


def check_bits(bits: int | None, folder: ModelFolder, loader: str) -> None:
    """A UsageError if bitsandbytes cannot quantise this folder to that many bits while it is loaded."""
    if bits and (loader != "transformers" or folder.gguf):
        kind = "GGUF" if folder.gguf else loader
        raise UsageError(f"The weights of {folder.name} are quantised already ({kind}).", "Omit the bits.")
    if bits not in (None, 4, 8):
        raise UsageError(f"bitsandbytes quantises to 8 or 4 bits, not {bits}.", "Use bits=8 or bits=4.")


def find_kernel(
    folder: ModelFolder, loader: str, device: str, dtype: str, purpose: str
) -> Choice[str | None] | None:
    """The kernel for a folder's quantised weights, and why; None if the loader is for others."""
    if loader == "awq":
        plain = device == "cuda" or purpose == "training"
        words = "nothing compiles it, and gradients flow through it" if plain else "gptqmodel chooses"
        return Choice(AwqBackend("torch_awq").value if plain else None, words)
    if loader != "gptq":
        return None
    try:
        sizes = tuple(folder.shape.list_linears().values())
    except (KitError, KeyError):  # an architecture whose layers are not known here
        sizes = ()
    return choose_kernel(read_facts(device, dtype, purpose, folder.quantization, sizes))


def pick_quantization(
    loader: str, dtype: torch.dtype, bits: int | None, kernel: Choice[str | None] | None
) -> dict[str, QuantizationConfigMixin]:
    """from_pretrained's `quantization_config`; {} if the folder's own is enough, which None would hide."""
    config = make_quantization(loader, dtype, bits, kernel)
    return {"quantization_config": config} if config else {}


def make_quantization(
    loader: str, dtype: torch.dtype, bits: int | None, kernel: Choice[str | None] | None
) -> QuantizationConfigMixin | None:
    """transformers' quantisation settings; None if those in the folder are enough."""
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits == 4:
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if not kernel or not kernel.value:
        return None
    if loader == "awq":
        return AwqConfig(backend=AwqBackend(kernel.value))
    return GPTQConfig(bits=4, backend=kernel.value)
