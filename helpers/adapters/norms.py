"""How much a LoRA adds to each weight matrix: the norm of B A, alone and beside the norm of the matrix."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import PeftModel

from helpers.adapters.attaching import unwrap
from helpers.adapters.folders import AdapterFolder
from helpers.adapters.tensors import find_scales, pair_factors, read_tensors
from helpers.common.errors import MismatchError
from helpers.loading.model import LoadedModel
from helpers.weights.shape import LLAMA

AT_ONCE = 512  # inputs whose weights a layer is asked for


def measure_norms(folder: AdapterFolder) -> pd.DataFrame:
    """||scale B A||, the Frobenius norm of what the LoRA adds to each weight matrix.

    One line for each layer, one column for each module; NaN if a module has no LoRA. A large matrix has a
    large norm: see measure_relative_norms.
    """
    return tabulate(measure_products(folder))


def measure_relative_norms(loaded: LoadedModel, folder: AdapterFolder) -> pd.DataFrame:
    """||scale B A|| / ||W||, a share: 0.01 if what the LoRA adds is a hundredth of the matrix.

    Lines and columns as in measure_norms, but columns in the order in which a Llama computes them. The LoRA
    need not be attached. Raises MismatchError if the model lacks one of its layers.
    """
    products = measure_products(folder)
    base = loaded.model.get_base_model() if isinstance(loaded.model, PeftModel) else loaded.model
    layers = dict(base.named_modules())
    if lacking := sorted(set(products) - set(layers)):
        problem = f"{loaded.name} does not have the layer {lacking[0]}, which the LoRA {folder.name} changes."
        raise MismatchError(problem, "Load the base that it was trained on.")
    norms = tabulate(
        {
            module: product / measure_weights(unwrap(layers[module]), loaded.model.dtype)
            for module, product in products.items()
        }
    )
    first = [name for name in LLAMA if name in norms]
    return norms.reindex(columns=[*first, *norms.columns.difference(first)])


def measure_products(folder: AdapterFolder) -> dict[str, float]:
    """{module: ||scale B A||}.

    B A itself is never built: ||B A||² is the sum over (A Aᵀ) * (Bᵀ B), element by element.
    """
    pairs = pair_factors(read_tensors(folder.weights))
    scales = find_scales(folder.config, list(pairs))
    products = {}
    for module, pair in pairs.items():
        a, b = pair["A"].astype(np.float64), pair["B"].astype(np.float64)
        squared = float(((a @ a.T) * (b.T @ b)).sum())
        products[module] = scales[module] * max(squared, 0.0) ** 0.5
    return products


@torch.no_grad()
def measure_weights(layer: Any, dtype: torch.dtype) -> float:
    """||W|| of a layer.

    A quantised layer keeps no W. It is asked for it with unit vectors, in `dtype`: W times the i-th one is
    the i-th column of W.
    """
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        return float(weight.float().norm())
    device = next(itertools.chain(layer.parameters(), layer.buffers())).device
    inputs = layer.in_features
    bias = layer(torch.zeros(1, inputs, device=device, dtype=dtype)).float()
    squared = 0.0
    for start in range(0, inputs, AT_ONCE):
        units = torch.zeros(min(AT_ONCE, inputs - start), inputs, device=device, dtype=dtype)
        units[:, start:].fill_diagonal_(1)
        squared += float((layer(units).float() - bias).square().sum())
    return squared**0.5


def tabulate(values: Mapping[str, float]) -> pd.DataFrame:
    """Values by module as a table: a line for each layer, a column for each name of a module."""
    columns: dict[str, dict[int, float]] = {}
    for module, value in values.items():
        layer = next((int(part) for part in module.split(".") if part.isdigit()), 0)
        columns.setdefault(module.rpartition(".")[2], {})[layer] = value
    return pd.DataFrame(columns).sort_index().rename_axis("layer")
