"""Gradients through GPTQ layers with gptqmodel's Triton kernel.

The kernel unpacks 4-bit weights many times as fast as plain torch does, but as a layer gptqmodel offers it
for answers only. Its function that unpacks is all that a backward pass needs. The weights are frozen, so the
gradient of y = x W is that of x alone, g W'.
"""

from functools import partial
from typing import Any

import torch

TRITON_LAYER = "TritonV2Linear"  # gptqmodel's class


class UnpackedMatmul(torch.autograd.Function):
    """x W, where W is unpacked for the forward pass and again for the backward pass, and never kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        """(tokens, in_features) to (tokens, out_features)."""
        ctx.layer = layer
        return x @ unpack_weight(layer, x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(tokens, out_features) to (tokens, in_features)."""
        (gradient,) = gradients
        return gradient @ unpack_weight(ctx.layer, gradient.dtype).T, None


def unpack_weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """(in_features, out_features): the weights of a layer of gptqmodel's."""
    from gptqmodel.nn_modules.triton_utils.dequant import dequant

    packed = (layer.qweight, layer.scales, layer.qzeros, layer.g_idx)
    return dequant(dtype, *packed, layer.bits, layer.pack_dtype_bits, layer.maxq)


def multiply(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What a layer's forward pass gives: (..., in_features) to (..., out_features)."""
    product: Any = UnpackedMatmul.apply(x.flatten(0, -2), layer)
    if layer.bias is not None:
        product = product + layer.bias
    return product.view(*x.shape[:-1], layer.out_features)


def let_gradients_through(model: torch.nn.Module) -> None:
    """Replaces the forward pass of the model's Triton layers; other layers stay as they are."""
    for layer in model.modules():
        if type(layer).__name__ == TRITON_LAYER:
            layer.forward = partial(multiply, layer)
