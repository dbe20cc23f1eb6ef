"""LoRA adapters as GGUF files, which llama.cpp takes beside the GGUF file of their base. Nothing here needs torch.

A GGUF adapter holds, for each tensor of the base that it changes, the two factors NAME.lora_a (rank, in) and NAME.lora_b (out, rank), and one
alpha for all: llama.cpp adds alpha / rank * B A. Names and layout: llama.cpp, convert_lora_to_gguf.py and llama-adapter.cpp, 2026.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, GGUFType, GGUFWriter, Keys, get_tensor_name_map

from helpers.adapters.folders import read_config
from helpers.adapters.tensors import PAIR, find_scale, pair_factors, read_tensors
from helpers.common.errors import KitError
from helpers.common.files import replace_when_complete
from helpers.weights.gguf_header import read_header

ARCHITECTURE = "llama"  # Llama 1 to 3, Mistral, SmolLM2: the one whose rows this module knows how to order


ANOTHER_ROAD = "Merge the LoRA into its base, and convert that."


# Settings of PEFT's that change what is computed, beyond B A, or where, with their meaning.
BEYOND_FACTORS = {
    "use_dora": "DoRA", "modules_to_save": "whole modules", "trainable_token_indices": "trained tokens", "lora_bias": "biases",
    "layer_replication": "replicated layers", "target_parameters": "single parameters", "use_qalora": "QALoRA", "use_bdlora": "BD-LoRA",
    "fan_in_fan_out": "transposed layers", "alora_invocation_tokens": "an activated LoRA",
}  # fmt: skip


logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells of every file that it writes


@dataclass(frozen=True)
class Base:
    """What an adapter must know of its base: a GGUF file without its weights."""

    path: Path
    heads: int
    heads_kv: int  # those of keys and values
    layers: int
    shapes: dict[str, tuple[int, ...]]  # name of a matrix: (out, in)


def read_base(gguf: Path) -> Base:
    """The base in a GGUF file, or in a model folder with one. KitError for another architecture than Llama's."""
    path = next(gguf.glob("*.gguf"), gguf) if gguf.is_dir() else gguf
    fields, shapes = read_header(path)
    if (found := fields.get("general.architecture")) != ARCHITECTURE:
        raise KitError(
            f"{path.name} has the architecture {found}; LoRAs convert for {ARCHITECTURE} only.", ANOTHER_ROAD
        )
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    heads = int(fields["llama.attention.head_count"])
    return Base(
        path,
        heads,
        int(fields.get("llama.attention.head_count_kv", heads)),
        int(fields["llama.block_count"]),
        matrices,
    )


def export_gguf(adapter: Path, base: Base | Path, target: Path | None = None) -> Path:
    """Writes the LoRA in the folder `adapter` as GGUF, float32, for the base; returns its path, `target` or adapter.gguf in the same folder.

    `base` is the GGUF file, a folder with one, or what read_base made of it. KitError for what does not convert or does not fit the base.
    """
    base = base if isinstance(base, Base) else read_base(base)
    target = target or adapter / "adapter.gguf"
    config = read_config(adapter)
    refuse_more_than_factors(adapter.name, config)
    alpha = config["lora_alpha"] or 1  # 0 would mean to llama.cpp that nothing is to be scaled
    pairs = dict(convert_pairs(adapter, config, alpha, base))
    with replace_when_complete(target) as fresh:
        writer = GGUFWriter(fresh, ARCHITECTURE)
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
        for name, (a, b) in pairs.items():
            writer.add_tensor(f"{name}.lora_a", a)
            writer.add_tensor(f"{name}.lora_b", b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return target


def refuse_more_than_factors(name: str, config: dict, program: str = "llama.cpp") -> None:
    """KitError for a kind of adapter that is more than two factors a matrix, which neither llama.cpp nor vLLM takes."""
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise KitError(f"{name} is an adapter of the kind {kind}; {program} takes LoRAs.", "Train a LoRA.")
    more = [words for key, words in BEYOND_FACTORS.items() if config.get(key)] + ["biases"] * (
        config.get("bias", "none") != "none"
    )
    if more:
        raise KitError(f"The LoRA {name} has {more[0]}, which {program} does not take.", ANOTHER_ROAD)


def convert_pairs(
    adapter: Path, config: dict, alpha: float, base: Base
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """(name of the base's tensor, (A, B)) for every matrix that the adapter changes, in llama.cpp's order of rows and at its scale."""
    tensors = read_tensors(adapter)
    pairs = pair_factors(tensors)
    if len(tensors) > sum(map(len, pairs.values())):
        odd = next(name for name in sorted(tensors) if not PAIR.fullmatch(name))
        raise KitError(f"The LoRA {adapter.name} holds {odd}, which llama.cpp does not take.", ANOTHER_ROAD)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, base.layers)
    for module, pair in pairs.items():
        name, (a, b) = (
            names.get_name(f"{module}.weight", try_suffixes=(".weight",)),
            (pair.get("A"), pair.get("B")),
        )
        shape = base.shapes.get(name)
        if (
            shape is None
            or a is None
            or b is None
            or (b.shape[0], a.shape[1]) != shape
            or b.shape[1] != a.shape[0]
        ):
            shapes = " and ".join(str(part.shape) if part is not None else "nothing" for part in (a, b))
            raise KitError(
                f"The LoRA {adapter.name} does not fit {base.path.name}: {module} has {shapes} for {shape}.",
                "Take the base it is of.",
            )
        if heads := {"q_proj": base.heads, "k_proj": base.heads_kv}.get(module.rpartition(".")[2]):
            b = order_rows(b, heads)
        strength = (
            find_scale(config, module) * a.shape[0] / alpha
        )  # 1, unless PEFT's scale is not alpha / rank
        yield name, (np.ascontiguousarray(a), np.ascontiguousarray(b * np.float32(strength)))


def order_rows(matrix: np.ndarray, heads: int) -> np.ndarray:
    """The rows of (heads * size, rank) as llama.cpp has them: it turns neighbours by RoPE where transformers turns the two halves of a head."""
    return matrix.reshape(heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)
