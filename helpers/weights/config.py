"""What a model's config.json says of its weights: their dtype, and how they are quantised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from helpers.common.errors import DamagedError
from helpers.weights.shape import get_text_part

# Older GPTQ and AWQ folders describe their quantisation in a file beside config.json. File name: method.
QUANTIZATION_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
AUTOAWQ_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}  # AutoAWQ's name: the name in config.json


class QuantizationRecord(TypedDict, total=False):
    """quantization_config in config.json, or a file beside it."""

    quant_method: str | None
    bits: int | None
    w_bit: int | None
    group_size: int | None
    q_group_size: int | None
    desc_act: bool | None
    checkpoint_format: str | None
    version: str | None


class ModelConfig(TypedDict, total=False):
    """config.json, as far as the kit reads it. The numbers of the shape are judged where they are read."""

    model_type: str | None
    architectures: list[str] | str | None
    quantization_config: QuantizationRecord | None
    dtype: str | dict[str, Any] | None
    torch_dtype: str | dict[str, Any] | None
    vocab_size: int | None
    max_position_embeddings: int | None
    max_seq_len: int | None
    seq_length: int | None
    sliding_window: int | None
    rope_theta: float | None
    rope_scaling: dict[str, Any] | None
    rope_parameters: dict[str, Any] | None
    text_config: dict[str, Any] | None


ADVICE = "generation_config.json"  # how a model's publisher samples


class GenerationRecord(TypedDict, total=False):
    """The publisher's advice, as far as answers depend on it."""

    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    temperature: float | None
    top_p: float | None


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
    recorded = config.get("quantization_config")
    if recorded and not isinstance(recorded, Mapping):
        problem = "The quantization_config in config.json is not a JSON object."
        raise DamagedError(problem, "Fetch the model again, or correct config.json.")
    beside = next((name for name in QUANTIZATION_FILES if name in (files or {})), None)
    if recorded:
        settings, source = dict(recorded), "config.json"
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


def read_dtype(config: Mapping[str, Any]) -> str:
    """The name of the dtype in which the weights are stored, such as bfloat16.

    Older files call it torch_dtype; a model that also reads images may have it in the part for text. Without
    it, float16.
    """
    for part in (config, get_text_part(config)):
        for key in ("dtype", "torch_dtype"):
            if part.get(key):
                return str(part[key]).removeprefix("torch.")
    return "float16"
