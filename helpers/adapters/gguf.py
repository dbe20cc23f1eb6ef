"""LoRAs as GGUF files, which llama.cpp takes beside the GGUF file of their base. Nothing here needs torch.

A GGUF LoRA holds, for each tensor of the base that it changes, the two factors NAME.lora_a (rank, inputs)
and NAME.lora_b (outputs, rank), and one alpha for all: llama.cpp adds alpha / rank * B A. Names and layout:
llama.cpp, convert_lora_to_gguf.py and llama-adapter.cpp, 2026.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, GGUFType, GGUFWriter, Keys, get_tensor_name_map

from helpers.adapters.bases import fits
from helpers.adapters.folders import AdapterFolder
from helpers.adapters.parts import ANOTHER_WAY, refuse_more_than_factors
from helpers.adapters.tensors import find_scales, pair_factors, read_tensors
from helpers.common.arguments import shorten
from helpers.common.errors import MismatchError, UnsupportedError
from helpers.common.files import explain_odd_form, replace_when_complete
from helpers.common.locks import hold
from helpers.weights.gguf_header import read_header

TOKENS, OUTPUT = "token_embd.weight", "output.weight"  # llama.cpp's names for embed_tokens and lm_head
ARCHITECTURE = "llama"  # Llama 1 to 3, Mistral, SmolLM2: the one whose rows this module knows how to order
logging.getLogger("gguf").setLevel(logging.WARNING)  # it logs every file that it writes


@dataclass(frozen=True)
class Base:
    """What a conversion must know of the LoRA's base: a GGUF file without its weights."""

    path: Path
    heads: int
    heads_kv: int  # those of keys and values
    layers: int
    shapes: dict[str, tuple[int, ...]]  # name of a matrix: (outputs, inputs)


def read_base(gguf: Path) -> Base:
    """The base in a GGUF file. UnsupportedError for another architecture than Llama's."""
    fields, shapes = read_header(gguf)
    found = fields.get("general.architecture")
    if found != ARCHITECTURE:
        named = f"{gguf.name} has the architecture {shorten(found)}"
        problem = f"{named}; LoRAs can be converted for {ARCHITECTURE} only."
        raise UnsupportedError(problem, ANOTHER_WAY)
    with explain_odd_form(gguf, "Fetch it again."):
        heads = int(fields["llama.attention.head_count"])
        base = Base(
            path=gguf,
            heads=heads,
            heads_kv=int(fields.get("llama.attention.head_count_kv", heads)),
            layers=int(fields["llama.block_count"]),
            shapes={name: shape for name, shape in shapes.items() if len(shape) == 2},
        )
        check_counts(base)
    return base


def check_counts(base: Base) -> None:
    """A ValueError if layers or heads are not those of the matrices."""
    if not 0 < base.layers <= len(base.shapes):
        raise ValueError(f"{base.layers} layers with {len(base.shapes)} matrices")
    for part, heads in ((".attn_q.", base.heads), (".attn_k.", base.heads_kv)):
        for name, (rows, _) in base.shapes.items():
            if part in name and (heads < 1 or rows % (2 * heads)):  # each has two halves
                raise ValueError(f"{heads} heads in {rows} rows of {name}")


def export_gguf(adapter: AdapterFolder, base: Base, target: Path) -> Path:
    """Writes the LoRA as GGUF in float32, for the base; returns `target`.

    Raises UnsupportedError for what llama.cpp does not take, MismatchError for what does not fit the base.
    """
    refuse_more_than_factors(adapter)
    alpha = adapter.config["lora_alpha"] or 1  # 0 would tell llama.cpp not to scale at all
    pairs = dict(convert_pairs(adapter, alpha, base))
    with hold(target, "an export"), replace_when_complete(target, is_lora_file) as fresh:
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
        adapter.refuse_replaced()
    return target


def is_lora_file(path: Path) -> bool:
    """True for a GGUF file that says at its beginning that it holds a LoRA, as export_gguf's do."""
    with path.open("rb") as file:
        begin = file.read(1000)
    return begin.startswith(b"GGUF") and Keys.Adapter.TYPE.encode() in begin


def convert_pairs(
    adapter: AdapterFolder, alpha: float, base: Base
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """(name of the base's tensor, (A, B)) for each changed matrix, in llama.cpp's row order and scale."""
    tensors = read_tensors(adapter.weights)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, base.layers)
    heads = {"q_proj": base.heads, "k_proj": base.heads_kv}
    pairs = pair_factors(tensors)
    scales = find_scales(adapter.config, list(pairs))
    for module, pair in pairs.items():
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",)) or ""
        refuse_shared(adapter, base, name)
        check_fit(adapter, base, module, pair, name)
        a, b = pair["A"], pair["B"]
        projection = module.rpartition(".")[2]
        if projection in heads:
            b = order_rows(b, heads[projection])
        # llama.cpp multiplies by alpha / rank; this is 1 unless PEFT's scale is something else.
        strength = scales[module] * a.shape[0] / alpha
        if name == TOKENS:  # of which llama.cpp takes rows
            a = a.T
        yield name, (np.ascontiguousarray(a), np.ascontiguousarray(b * np.float32(strength)))


def refuse_shared(adapter: AdapterFolder, base: Base, name: str) -> None:
    """An UnsupportedError for a LoRA on one of the two ends of a model that has one matrix for both."""
    if name in (TOKENS, OUTPUT) and OUTPUT not in base.shapes:
        ends = "embed_tokens or lm_head, which are one matrix in"
        problem = f"The LoRA {adapter.name} changes {ends} {base.path.name}."
        raise UnsupportedError(problem, ANOTHER_WAY)


def check_fit(
    adapter: AdapterFolder, base: Base, module: str, pair: dict[str, np.ndarray], name: str
) -> None:
    """A MismatchError unless A (rank, inputs) and B (outputs, rank) fit the base's matrix `name`."""
    wanted = base.shapes.get(name, ())
    found = {half: matrix.shape for half, matrix in pair.items()}
    # (outputs, inputs); what goes into embeddings are tokens, of which there is one row each
    if wanted and fits(found, wanted if name == TOKENS else wanted[::-1]):
        return
    shapes = " and ".join(str(found.get(half, "nothing")) for half in ("A", "B"))
    problem = (
        f"The LoRA {adapter.name} does not fit {base.path.name}: {module} has {shapes} for {wanted or None}."
    )
    raise MismatchError(problem, "Take the base that it was trained on.")


def order_rows(matrix: np.ndarray, heads: int) -> np.ndarray:
    """The rows of (heads * size, rank) as llama.cpp orders them.

    RoPE rotates pairs of numbers of a head. transformers pairs number i of the first half with number i of
    the second half, llama.cpp pairs neighbours. For a head of four rows, 0 1 2 3 becomes 0 2 1 3.
    """
    halves = matrix.reshape(heads, 2, -1, matrix.shape[1])  # (heads, halves, size / 2, rank)
    return halves.swapaxes(1, 2).reshape(matrix.shape)
