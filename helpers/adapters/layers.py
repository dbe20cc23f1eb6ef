"""PEFT's LoRA on a plain linear layer, with fewer steps: PEFT casts all inputs and outputs and adds B A to the layer's result in a copy.

PEFT's own layers stay where a layer is anything but torch's plain one (quantised, for one).
"""

import copy

import torch
from peft.tuners import lora
from torch.nn.functional import linear


class LeanLoraLinear(lora.Linear):
    """A linear layer with LoRAs, computed in the dtype of its input."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """(..., in_features) to (..., out_features). What is not plain use of one adapter goes PEFT's way."""
        name, *others = self.active_adapters or [None]
        plain = not (others or args or kwargs or self.disable_adapters or self.merged) and name in self.lora_A
        if not plain or name in self.lora_variant or self.lora_bias[name] or self.drops(name):
            return super().forward(x, *args, **kwargs)
        first, second = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
        result = self.base_layer(x)
        result.view(-1, result.shape[-1]).addmm_(
            linear(x, first).flatten(0, -2), second.T, alpha=self.scaling[name]
        )
        return result

    def drops(self, name: str) -> bool:
        """Whether the LoRA's dropout has an effect now."""
        return self.training and not isinstance(self.lora_dropout[name], torch.nn.Identity)


def build_layer(target: torch.nn.Module, adapter_name: str, **kwargs) -> LeanLoraLinear | None:
    """The layer around `target`; None, with which PEFT goes on to its own, where it is not torch's plain one with plain weights."""
    plain = type(target) is torch.nn.Linear and type(target.weight) is torch.nn.Parameter
    return LeanLoraLinear(target, adapter_name, **kwargs) if plain else None


def make_lean(config: lora.LoraConfig) -> lora.LoraConfig:
    """A copy of the config, by which PEFT takes LeanLoraLinear; what is saved of it is what it was."""
    config = copy.deepcopy(config)
    config._register_custom_module(
        {torch.nn.Linear: build_layer}
    )  # PEFT's documented way in, under this name
    return config
