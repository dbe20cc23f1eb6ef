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
