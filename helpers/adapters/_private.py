"""Private parts of PEFT that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

import copy
import sys
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.lora.gptq import GPTQLoraLinear
from torch.nn.functional import linear


class LeanForward:
    """The forward pass of a LoRA layer with fewer steps, computed in the dtype of its input.

    Private: it reads attributes of PEFT's layers. PEFT casts all inputs and outputs and adds B A to the
    layer's result in a copy; this one adds it in place.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in_features) to (..., out_features). Falls back to PEFT for all but one plain LoRA."""
        layers: Any = self  # PEFT keeps A and B in ModuleDicts, which type checkers cannot see into
        name = layers.active_adapters[0] if len(layers.active_adapters) == 1 else None
        if name is None or args or kwargs or not is_plain(layers, name):
            parent: Any = super()
            return parent.forward(x, *args, **kwargs)
        a = layers.lora_A[name].weight.to(x.dtype)  # (rank, in_features)
        b = layers.lora_B[name].weight.to(x.dtype)  # (out_features, rank)
        result = layers.base_layer(x)
        lower = linear(layers.lora_dropout[name](x), a).flatten(0, -2)  # (tokens, rank)
        # result += scaling * lower B', with all axes but the last as one
        result.view(-1, result.shape[-1]).addmm_(lower, b.T, alpha=layers.scaling[name])
        return result


def is_plain(layer: Any, name: str) -> bool:
    """True if a layer only adds B A: no variant, no bias, not merged, not disabled."""
    if layer.disable_adapters or layer.merged or name not in layer.lora_A:
        return False
    return name not in layer.lora_variant and not layer.lora_bias[name]


class LeanLoraLinear(LeanForward, lora.Linear):
    """PEFT's LoRA on a plain linear layer."""


class LeanLoraGptq(LeanForward, GPTQLoraLinear):
    """PEFT's LoRA on a layer of GPTQ weights."""


def build_lean_layer(target: torch.nn.Module, adapter_name: str, **kwargs: Any) -> LeanLoraLinear | None:
    """The layer around `target`; None, so that PEFT takes its own, for all but torch's own Linear."""
    plain = type(target) is torch.nn.Linear and type(target.weight) is torch.nn.Parameter
    return LeanLoraLinear(target, adapter_name, **kwargs) if plain else None


def build_lean_gptq(target: torch.nn.Module, adapter_name: str, **kwargs: Any) -> LeanLoraGptq:
    """The layer around `target`, a layer of gptqmodel's."""
    return LeanLoraGptq(target, adapter_name, **kwargs)


def use_lean_layers(config: LoraConfig) -> LoraConfig:
    """A copy of the config with which PEFT builds lean layers. What is saved of it stays the same.

    Private: _register_custom_module, which PEFT's documentation names as the way to custom layers,
    underscore included.
    """
    config = copy.deepcopy(config)
    layers: dict[Any, Any] = {torch.nn.Linear: build_lean_layer}  # typed for classes only
    if gptq := sys.modules.get("gptqmodel.nn_modules.qlinear"):  # imported by whoever loads such weights
        layers[gptq.GPTQQuantLinear] = build_lean_gptq
    config._register_custom_module(layers)
    return config
