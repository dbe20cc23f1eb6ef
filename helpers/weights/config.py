"""What a model's config.json says: the shape that memory depends on, and how its weights are quantised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Older GPTQ and AWQ folders describe their quantisation in a file beside config.json. File name: method.
QUANTIZATION_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
AUTOAWQ_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}  # AutoAWQ's name: the name in config.json


@dataclass(frozen=True)
class Shape:
    """The numbers of a config.json that memory depends on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int

    def list_linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by Llama's names."""
        queries = self.heads * self.head_size
        keys = self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes; a KeyError if the model is not a Llama-style decoder."""
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
    )


@dataclass(frozen=True)
class Quantization:
    """How a model's weights are quantised."""

    method: str  # gptq, awq, bitsandbytes, exl2 ...
    bits: int | None
    group_size: int | None  # weights that share a scale
    act_order: bool | None  # GPTQ's desc_act: the columns that matter most are quantised first
    source: str  # where this is recorded: config.json or a file beside it
    settings: dict[str, Any]  # everything recorded, by the names that config.json uses


def read_quantization(
    config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]] | None = None
) -> Quantization | None:
    """The quantisation in a config.json, or in `files` beside it (name: content); None for full precision."""
    beside = next((name for name in QUANTIZATION_FILES if name in (files or {})), None)
    if config.get("quantization_config"):
        settings, source = dict(config["quantization_config"]), "config.json"
    elif files and beside:
        settings, source = rename_autoawq(files[beside]), beside
    else:
        return None
    method = settings.get("quant_method")
    if method is None and beside:
        method = QUANTIZATION_FILES[beside]
    elif method is None:  # transformers takes these two settings for bitsandbytes as well
        method = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & settings.keys() else "unknown"
    return Quantization(
        method=method,
        bits=read_bits(settings),
        group_size=settings.get("group_size"),
        act_order=settings.get("desc_act"),
        source=source,
        settings={**settings, "quant_method": method},
    )


def rename_autoawq(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a file beside config.json, by the names that config.json uses."""
    return {AUTOAWQ_NAMES.get(key, key): value for key, value in settings.items()}


def read_bits(settings: Mapping[str, Any]) -> int | None:
    """Bits of a quantised weight; bitsandbytes records them as a switch."""
    if settings.get("bits"):
        return settings["bits"]
    if settings.get("load_in_4bit"):
        return 4
    return 8 if settings.get("load_in_8bit") else None
