"""A LoRA's weights as numpy arrays: the factors A and B of each layer. Only old pickles need torch.

PEFT writes adapter_model.safetensors; until 2023 it wrote adapter_model.bin, a pickle.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors import deserialize, safe_open

from helpers.common.errors import DamagedError, UnsupportedError

# PEFT's name of a factor, of a linear layer or of an embedding: (module, A or B).
PAIR = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16}
T = TypeVar("T")


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors in a weights file, as float32, by their names there.

    Raises UnsupportedError for other numbers than F32, F16 and BF16, DamagedError for a pickle that holds
    more than tensors.
    """
    if file.suffix == ".bin":
        return read_pickle(file)
    tensors = {}
    for name, entry in deserialize(file.read_bytes()):
        raw = np.frombuffer(entry["data"], np.uint8)
        if entry["dtype"] == "BF16":  # which numpy does not have
            values = dequantize(raw, GGMLQuantizationType.BF16)
        elif entry["dtype"] in NUMPY_TYPES:
            values = raw.view(NUMPY_TYPES[entry["dtype"]])
        else:
            problem = f"{file} holds numbers of the type {entry['dtype']}."
            raise UnsupportedError(problem, "Save the LoRA in float32.")
        tensors[name] = values.astype(np.float32).reshape(entry["shape"])
    return tensors


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a weights file; of safetensors only the header is read."""
    if file.suffix == ".bin":
        return {name: tensor.shape for name, tensor in read_pickle(file).items()}
    with safe_open(file, framework="numpy") as opened:
        names = opened.keys()
        return {name: tuple(opened.get_slice(name).get_shape()) for name in names}


def read_pickle(file: Path) -> dict[str, np.ndarray]:
    """The tensors that torch.save wrote. Only tensors are unpickled; no code runs."""
    import torch

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        problem = f"{file} cannot be read as tensors alone ({reason})."
        raise DamagedError(problem, "Do not trust it; ask its maker for safetensors.") from None


def pair_factors(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """{module: {"A": (rank, inputs), "B": (outputs, rank)}} from a LoRA's tensors, or from their shapes.

    The inputs of an embedding are its tokens. Anything that is not a factor is left out.
    """
    pairs: dict[str, dict[str, T]] = {}
    for name, tensor in sorted(tensors.items()):
        if found := PAIR.fullmatch(name):
            pairs.setdefault(found[1], {})[found[2]] = tensor
    return pairs


def find_scale(config: Mapping[str, Any], module: str) -> float:
    """What PEFT multiplies B A by: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    alpha = find_value(config.get("alpha_pattern"), module, config["lora_alpha"])
    rank = find_rank(config, module)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def find_rank(config: Mapping[str, Any], module: str) -> Any:
    """The rank of the module's LoRA as the config says."""
    return find_value(config.get("rank_pattern"), module, config["r"])


def find_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that the module's name matches, as PEFT reads them; else `default`."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
