"""What a model costs in memory, to run it and to train a LoRA on it: a list of terms, each with its formula and its bytes.

The formulas are those of a decoder as Llama is one: attention with grouped keys and values, a gated MLP. `tests/test_costs.py` holds them
against the measured peak of the embedded model.
"""

from dataclasses import dataclass

from helpers.common.errors import KitError
from helpers.weights.config import Shape, read_quantization, read_shape

# Python, torch, transformers and the buffers of a first pass: what runs with torch 2.13 on a CPU took beyond the other terms; on a GPU the CUDA
# context, which no counter of torch's shows, as an allowance.
OVERHEAD_RUNNING = {"cpu": 470_000_000, "cuda": 500_000_000}


OVERHEAD_TRAINING = {"cpu": 700_000_000, "cuda": 500_000_000}


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


OPTIMIZER_BYTES = {
    "adamw_torch_fused": 8,
    "adamw_torch": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "sgd": 0,
}  # states a trained parameter


@dataclass(frozen=True)
class Term:
    """One part of an estimate."""

    name: str
    bytes: int
    formula: str


def estimate_weights(config: dict, file_bytes: int, dtype: str) -> Term:
    """The weights in memory. Quantised ones stay as they are on disk, others are converted to `dtype`."""
    if read_quantization(config):
        return Term("weights", file_bytes, "as on disk: quantised weights stay packed")
    stored = config.get("dtype") or config.get("torch_dtype") or "float16"
    if stored not in BYTES:
        raise KitError(
            f"The weights are stored as {stored}, whose cost is not known here.",
            f"Known: {', '.join(BYTES)}, and quantised weights.",
        )
    parameters = file_bytes // BYTES[stored]
    return Term(
        "weights",
        parameters * BYTES[dtype],
        f"{parameters / 1e6:,.1f} million parameters x {BYTES[dtype]} bytes ({dtype})",
    )


def estimate_running(
    config: dict, file_bytes: int, dtype: str, device: str = "cpu", context: int = 2048, batch: int = 1
) -> list[Term]:
    """Memory to generate with prompt and answer of `context` tokens together, `batch` of them at once."""
    shape, tokens, size = read_shape(config), context * batch, BYTES[dtype]
    cache = 2 * shape.layers * shape.kv_heads * shape.head_size * size * tokens
    activations = tokens * (3 * shape.intermediate + 4 * shape.hidden) * size
    terms = [
        estimate_weights(config, file_bytes, dtype),
        Term(
            "KV cache",
            cache,
            f"2 x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_size} x {size} bytes x {tokens} tokens",
        ),
        Term(
            "activations",
            activations,
            f"{tokens} tokens x (3 x {shape.intermediate} + 4 x {shape.hidden}) x {size} bytes, one layer at a time",
        ),
    ]
    converting = file_bytes if device == "cpu" and terms[0].bytes != file_bytes else 0
    if (
        converting > cache + activations
    ):  # the file and its copy in another dtype are there together, before the first token
        terms[1:] = [
            Term(
                "the file while it is converted",
                converting,
                "bytes on disk; gone when loading ends, more than cache and activations",
            )
        ]
    return [
        *terms,
        Term("overhead", OVERHEAD_RUNNING[device], f"Python and its libraries, measured ({device})"),
    ]


def estimate_training(
    config: dict, file_bytes: int, dtype: str, device: str = "cpu", r: int = 16, targets: str = "all-linear", optimizer: str = "adamw_torch_fused",
    batch: int = 4, length: int = 512, shared: int = 0, checkpointing: bool | None = None,
) -> list[Term]:  # fmt: skip
    """Memory to train a LoRA on batches of rows of `length` tokens, of which the first `shared` are the same in every row (computed once).

    It is that of helpers.training, which checkpoints gradients on a GPU and only there, unless `checkpointing` says otherwise. TRL's own
    SFTTrainer takes more, about twice the activations and the logits of every token: it repeats the shared tokens and computes the LoRA in float32.
    """
    shape, size, tokens = read_shape(config), BYTES[dtype], shared + batch * (length - shared)
    linears = shape.list_linears()
    names = list(linears) if targets == "all-linear" else targets.split(",")
    if unknown := [name for name in names if name not in linears]:
        raise KitError(
            f"'{unknown[0]}' is no layer that a LoRA is put on.",
            f"Say all-linear, or some of: {','.join(linears)}.",
        )
    trained = shape.layers * r * sum(sum(linears[name]) for name in names)
    checkpointing = device == "cuda" if checkpointing is None else checkpointing
    copies = 1 if checkpointing else shape.layers
    masks = 1 if device == "cpu" else copies  # on a CPU all layers share one (helpers.training.packing)
    weights = (
        shape.heads * tokens * length * size * copies if device == "cpu" and size == 2 else 0
    )  # in float32 they are not kept
    return [
        estimate_weights(config, file_bytes, dtype),
        Term("LoRA", 4 * trained, f"{trained:,} parameters (r {r}, {len(names)} layers a block) x 4 bytes (float32)"),
        Term("gradients", 4 * trained, f"{trained:,} x 4 bytes"),
        Term("optimizer", OPTIMIZER_BYTES[optimizer] * trained, f"{trained:,} x {OPTIMIZER_BYTES[optimizer]} bytes ({optimizer})"),
        estimate_activations(shape, size, tokens, checkpointing),
        Term("attention mask", tokens**2 * (1 + masks * size), f"{tokens} x {tokens} tokens x (1 + {masks} x {size} bytes)"),
        Term("attention weights", weights, f"{copies} layers x {shape.heads} heads x {tokens} x {length} tokens x {size} bytes, on a CPU in 16 bits"),
        Term("overhead", OVERHEAD_TRAINING[device], f"Python and its libraries, measured ({device})"),
    ]  # fmt: skip


def estimate_activations(shape: Shape, size: int, tokens: int, checkpointing: bool) -> Term:
    """What a pass over `tokens` tokens, packed as one sequence, keeps for the backward pass, in numbers of `size` bytes.

    With gradient checkpointing each layer keeps its input only, and one layer at a time is computed once more.
    """
    layer, copies = 10 * shape.hidden + 5 * shape.intermediate, 1 if checkpointing else shape.layers
    words = f"10 x {shape.hidden} + 5 x {shape.intermediate}"
    count, formula = copies * layer, f"{shape.layers} layers x ({words})"
    if checkpointing:
        count, formula = (
            shape.layers * shape.hidden + layer,
            f"({shape.layers} layers x {shape.hidden} + {words})",
        )
    return Term(
        "activations",
        tokens * count * size,
        f"{tokens} tokens x {formula} x {size} bytes, kept for the backward pass",
    )
