"""Which loader a model folder needs, with the reason. Nothing here imports torch.

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

gptq, awq and bitsandbytes are transformers with another package below it: gptqmodel with optimum, gptqmodel,
bitsandbytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from helpers.common.errors import MissingPackageError, UnsupportedError
from helpers.common.machine import Choice
from helpers.weights.architecture import refuse_unnamed_quantization
from helpers.weights.folders import ModelFolder

LOADERS = ("transformers", "gptq", "awq", "bitsandbytes", "llama.cpp")
QUANTIZED = ("gptq", "awq", "bitsandbytes")  # loaders for weights that are quantised already
KIT = "pip install -c constraints.txt -e"
GPTQMODEL = f"{KIT} '.[gptq]' (Linux); elsewhere take a GGUF version"
# Loader: what installs the package below it.
PACKAGES = {"gptq": GPTQMODEL, "awq": GPTQMODEL, "bitsandbytes": "pip install bitsandbytes"}


def detect_loader(folder: ModelFolder) -> Choice[str]:
    """The loader for a complete model folder, with the reason.

    Raises UnsupportedError, with what to take instead, for a format that this kit does not read.
    """
    if folder.format == "gguf":
        return Choice("llama.cpp", folder.gguf_reason)
    if folder.quantization:
        return detect_quantized_loader(folder)
    if folder.format == "pickle":
        problem = f"{folder.name} has its weights as pickles only, which can run any code."
        raise UnsupportedError(problem, "Take a copy with safetensors.")
    return Choice("transformers", "safetensors with no quantisation: full precision")


def check_loader(loader: str, folder: ModelFolder) -> None:
    """An UnsupportedError for a loader of quantised weights and a folder whose weights are something else."""
    found = folder.quantization
    if loader in QUANTIZED and (found is None or found.method != loader):
        kind = f"quantised with {found.method}" if found else "not quantised"
        problem = f"The loader {loader} does not fit: {folder.name} is {kind}."
        raise UnsupportedError(problem, "Omit the loader: the kit finds the one that fits.")


def detect_quantized_loader(folder: ModelFolder) -> Choice[str]:
    """The loader for a folder whose weights are quantised already."""
    kind = folder.quantization
    assert kind is not None
    if kind.method in QUANTIZED and kind.source == "config.json":
        return Choice(kind.method, f"its config.json says quant_method {kind.method}")
    if kind.method in QUANTIZED:
        return Choice(kind.method, f"there is a {kind.source}")
    if kind.method in ("exl2", "exl3"):
        problem = f"{folder.name} is in ExLlama's format ({kind.method}), which transformers does not read."
        remedy = "Run it with ExLlama (TabbyAPI; today's WebUI for exl3), or take a GPTQ or GGUF version."
        raise UnsupportedError(problem, remedy)
    if kind.method == "unknown":
        refuse_unnamed_quantization(folder)
    problem = f"{folder.name} is quantised with the method '{kind.method}', which this kit does not load."
    raise UnsupportedError(problem, "Take a GPTQ or an unquantised version.")


@contextmanager
def explain_missing_package(name: str, loader: str) -> Iterator[None]:
    """Turns an ImportError inside the block into a MissingPackageError that says what to install."""
    try:
        yield
    except ImportError as error:
        problem = f"{name} needs a package that is not installed: {' '.join(str(error).split())[:200]}"
        raise MissingPackageError(problem, f"Install it: {PACKAGES.get(loader, f'{KIT} .')}") from None
