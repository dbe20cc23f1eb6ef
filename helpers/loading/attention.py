"""A model's attention: how far a token sees, and which of torch's kernels compute it."""

import contextlib
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def find_window(config: Any) -> int | None:
    """The tokens that a token sees at most, itself included; None if it sees all earlier ones.

    Newer configs say of each layer what it does. Older ones, such as Mistral's, have the window alone.
    """
    layer_types = getattr(config, "layer_types", None)
    if layer_types and "sliding_attention" not in layer_types:
        return None
    return getattr(config, "sliding_window", None)


def avoid_cudnn(device: torch.device) -> contextlib.AbstractContextManager:
    """Inside the block, torch's attention on CUDA leaves cuDNN aside.

    cuDNN makes a plan for each length that it has not seen, which takes a second of the CPU's time, and
    nearly every prompt and every batch has a new length.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def can_share_heads(query: torch.Tensor) -> bool:
    """shares_heads for the device of a query, (rows, heads, tokens, size)."""
    device = query.device
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return shares_heads(query.dtype, query.shape[-1], capability)


def shares_heads(dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> bool:
    """Whether a fast kernel of torch's attention takes fewer key heads than query heads (enable_gqa).

    Of those for CUDA only FlashAttention does, which needs 16 bits, compute capability 8.0 and heads of up to
    256 numbers. Without it torch would compute and keep the weights between all pairs of tokens. `capability`
    is None for another device. Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    """
    if capability is None:
        return True
    in_16_bits = dtype in (torch.float16, torch.bfloat16)
    return in_16_bits and capability >= (8, 0) and head_size <= 256
