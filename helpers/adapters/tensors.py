"""The weights of an adapter's folder as numpy arrays: the factors A and B of each layer. Nothing here needs torch, but old pickles.

PEFT writes adapter_model.safetensors; until 2023 it wrote adapter_model.bin, a pickle.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors import deserialize, safe_open

from helpers.common.errors import KitError

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there is read


PAIR = re.compile(
    r"base_model\.model\.(.+)\.lora_([AB])\.weight"
)  # PEFT's name of a factor: (module, A or B)


def find_weights(folder: Path) -> Path:
    """The file with an adapter's weights; where there is none, the one that is missing."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """An adapter's tensors as float32, by the names in its file. KitError for a pickle that holds anything but tensors, or other numbers."""
    path = find_weights(folder)
    if path.suffix == ".bin":
        return read_pickle(path)
    tensors = {}
    for name, entry in deserialize(path.read_bytes()):
        raw = np.frombuffer(entry["data"], np.uint8)
        kind = {"F32": np.float32, "F16": np.float16}.get(entry["dtype"])
        if kind is None and entry["dtype"] != "BF16":
            raise KitError(f"{path} holds numbers of the kind {entry['dtype']}.", "Save the LoRA in float32.")
        values = (
            raw.view(kind) if kind else dequantize(raw, GGMLQuantizationType.BF16)
        )  # numpy itself has no bfloat16
        tensors[name] = values.astype(np.float32).reshape(entry["shape"])
    return tensors


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's tensors, by the names in its file; of safetensors only the header is read."""
    path = find_weights(folder)
    if path.suffix == ".bin":
        return {name: tensor.shape for name, tensor in read_pickle(path).items()}
    with safe_open(path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The tensors in what torch.save has written; only tensors are unpickled, no code is run."""
    import torch

    try:
        return {
            name: tensor.float().numpy()
            for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
        }
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise KitError(
            f"{path} cannot be read as tensors alone ({reason}).",
            "Do not trust it; ask its maker for safetensors.",
        ) from None


def pair_factors(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{module: {"A": (rank, in), "B": (out, rank)}} of an adapter's tensors, or of their shapes; what is no linear layer's is left out."""
    pairs: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(tensors.items()):
        if found := PAIR.fullmatch(name):
            pairs.setdefault(found[1], {})[found[2]] = tensor
    return pairs


def find_scale(config: dict, module: str) -> float:
    """What PEFT multiplies B A with: alpha / r, or alpha / sqrt(r), each as the patterns say for this module."""

    def pick(patterns: dict, default: float) -> float:
        return next(
            (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default
        )

    rank, alpha = (
        pick(config.get("rank_pattern") or {}, config["r"]),
        pick(config.get("alpha_pattern") or {}, config["lora_alpha"]),
    )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
