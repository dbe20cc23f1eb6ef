"""Private parts of PEFT that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

import copy
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch.nn.functional import linear


class LeanLoraLinear(lora.Linear):
    """PEFT's LoRA on a plain linear layer with fewer steps, computed in the dtype of its input.

    Private: it reads attributes of PEFT's layer. PEFT casts all inputs and outputs and adds B A to the
    layer's result in a copy; this one adds it in place.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in_features) to (..., out_features). Falls back to PEFT for all but one plain LoRA."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        if name is None or args or kwargs or not self.is_plain(name):
            return super().forward(x, *args, **kwargs)
        layers: Any = self  # PEFT keeps A and B in ModuleDicts, which type checkers cannot see into
        a = layers.lora_A[name].weight.to(x.dtype)  # (rank, in_features)
        b = layers.lora_B[name].weight.to(x.dtype)  # (out_features, rank)
        result = self.base_layer(x)
        # result += scaling * (x A') B', with all axes but the last as one
        result.view(-1, result.shape[-1]).addmm_(linear(x, a).flatten(0, -2), b.T, alpha=self.scaling[name])
        return result

    def is_plain(self, name: str) -> bool:
        """True if only B A is added: no variant, no bias, no dropout, not merged, not disabled."""
        if self.disable_adapters or self.merged or name not in self.lora_A:
            return False
        if name in self.lora_variant or self.lora_bias[name]:
            return False
        return not self.training or isinstance(self.lora_dropout[name], torch.nn.Identity)


def build_lean_layer(target: torch.nn.Module, adapter_name: str, **kwargs: Any) -> LeanLoraLinear | None:
    """The layer around `target`; None, so that PEFT takes its own, for all but torch's own Linear."""
    plain = type(target) is torch.nn.Linear and type(target.weight) is torch.nn.Parameter
    return LeanLoraLinear(target, adapter_name, **kwargs) if plain else None


def use_lean_layers(config: LoraConfig) -> LoraConfig:
    """A copy of the config with which PEFT builds LeanLoraLinear. What is saved of it stays the same.

    Private: _register_custom_module, which PEFT's documentation names as the way to custom layers,
    underscore included.
    """
    config = copy.deepcopy(config)
    layers: dict[Any, Any] = {torch.nn.Linear: build_lean_layer}  # typed for classes only
    config._register_custom_module(layers)
    return config
