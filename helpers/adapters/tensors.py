"""A LoRA's weights as numpy arrays: the factors A and B of each layer. Only old pickles need torch.

PEFT writes adapter_model.safetensors; until 2023 it wrote adapter_model.bin, a pickle.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors import deserialize, safe_open

from helpers.adapters.patterns import find_values
from helpers.common.errors import DamagedError, UnsupportedError
from helpers.weights.intact import explain_damage

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
    with explain_damage(file):
        entries = deserialize(file.read_bytes())
    for name, entry in entries:
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


def count_broken(file: Path) -> int:
    """How many tensors of a weights file hold NaN or infinity; 0 for numbers that are not read here."""
    try:
        return sum(not np.isfinite(tensor).all() for tensor in read_tensors(file).values())
    except UnsupportedError:
        return 0


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a weights file; of safetensors only the header is read.

    Raises DamagedError for a file that is none, ResourceError for one that cannot be read.
    """
    if file.suffix == ".bin":
        return {name: tensor.shape for name, tensor in read_pickle(file).items()}
    with explain_damage(file), safe_open(file, framework="numpy") as opened:
        names = opened.keys()
        return {name: tuple(opened.get_slice(name).get_shape()) for name in names}


def read_pickle(file: Path) -> dict[str, np.ndarray]:
    """The tensors that torch.save wrote. Only tensors are unpickled; no code runs."""
    import torch

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except (
        pickle.UnpicklingError,
        RuntimeError,
        LookupError,
        TypeError,
        ValueError,
        EOFError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
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


def find_scales(config: Mapping[str, Any], modules: Sequence[str]) -> dict[str, float]:
    """What PEFT multiplies B A of each module by: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    alphas = find_values(config.get("alpha_pattern"), modules, config["lora_alpha"])
    ranks = find_ranks(config, modules)
    power = 0.5 if config.get("use_rslora") else 1
    return {module: alphas[module] / ranks[module] ** power for module in modules}


def find_ranks(config: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """The rank of each module's LoRA as the config says."""
    return find_values(config.get("rank_pattern"), modules, config["r"])
