"""How much memory a model takes, to run it and to train a LoRA on it: a list of terms with their formulas.

All sizes are in bytes. The formulas are those of a decoder like Llama: attention with grouped keys and
values, and a gated MLP. The factors of the activations are rounded counts of the vectors that a layer
computes for one token. tests/weights/test_memory.py checks the sums against the measured peak of the embedded
model.
"""

from dataclasses import dataclass
from typing import Any

from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.training_settings import ALL_LINEAR, UPPER_LINEAR, count_lower_blocks
from helpers.weights.config import read_dtype, read_quantization
from helpers.weights.shape import Shape, read_shape

# Python, torch, transformers and the buffers of a first pass. "cpu": what runs with torch 2.13 took beyond
# the other terms. "cuda": an allowance for the CUDA context, which none of torch's counters shows.
# "mps": that of a CPU, since nothing was measured there.
OVERHEAD_RUNNING = {"cpu": 470_000_000, "cuda": 500_000_000, "mps": 470_000_000}
OVERHEAD_TRAINING = {"cpu": 700_000_000, "cuda": 500_000_000, "mps": 700_000_000}

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one number

# State that an optimizer keeps for each trained parameter: AdamW two averages, of 4 bytes or of 1 byte each.
OPTIMIZER_BYTES = {
    "adamw_torch_fused": 8,
    "adamw_torch": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "sgd": 0,
}


@dataclass(frozen=True)
class Term:
    """One part of an estimate."""

    name: str
    bytes: int
    formula: str  # in words and numbers


@dataclass(frozen=True)
class TrainingStep:
    """What the memory of a training step depends on, besides the model."""

    r: int = 16  # rank of the LoRA
    targets: str = (
        ALL_LINEAR  # layers with a LoRA: all-linear, upper-linear, or names with commas between them
    )
    optimizer: str = "adamw_torch_fused"  # a key of OPTIMIZER_BYTES
    batch: int = 4  # rows in a step
    length: int = 512  # tokens in a row
    shared: int = 0  # tokens at the beginning of every row that are the same in all, and computed once
    checkpointing: bool | None = None  # of gradients; None: on a GPU only, where it takes the least memory

    @property
    def tokens(self) -> int:
        """Tokens that one step computes: the shared ones once, and the rest of every row."""
        return self.shared + self.batch * (self.length - self.shared)


def estimate_running(
    config: dict[str, Any],
    file_bytes: int,
    dtype: str,
    device: str = "cpu",
    context: int = 2048,
    batch: int = 1,
) -> list[Term]:
    """Memory to generate: `batch` answers at once, each with prompt and answer of `context` tokens together.

    `config` is a config.json, `file_bytes` the size of the weight files, `dtype` a key of DTYPE_BYTES, and
    `device` one of OVERHEAD_RUNNING. Raises UnsupportedError for weights stored in another dtype, and
    KeyError if the config is not that of a decoder like Llama.
    """
    shape = read_shape(config)
    number_bytes = DTYPE_BYTES[dtype]
    tokens = context * batch
    weights = estimate_weights(config, file_bytes, dtype)
    answering = [
        estimate_kv_cache(shape, number_bytes, tokens),
        estimate_running_activations(shape, number_bytes, tokens),
    ]
    # While a CPU converts weights to another dtype, the file and its copy are both in memory. That is over
    # before the first token, so that only the larger of the two amounts counts.
    converted = device == "cpu" and weights.bytes != file_bytes
    if converted and file_bytes > sum(term.bytes for term in answering):
        formula = "bytes on disk; gone when loading ends, more than cache and activations"
        answering = [Term("the file while it is converted", file_bytes, formula)]
    return [weights, *answering, estimate_overhead(OVERHEAD_RUNNING, device)]


def estimate_training(
    config: dict[str, Any], file_bytes: int, dtype: str, device: str = "cpu", **step: Any
) -> list[Term]:
    """Memory to train a LoRA with helpers.training; `step` takes the fields of TrainingStep, such as r=8.

    The other parameters are those of estimate_running, and so are the errors; UsageError for unknown targets
    or optimizers. TRL's own SFTTrainer takes more, about twice the activations and the logits of every token:
    it repeats the shared tokens and computes the LoRA in float32.
    """
    chosen = TrainingStep(**step)
    shape = read_shape(config)
    number_bytes = DTYPE_BYTES[dtype]
    checkpointing = device == "cuda" if chosen.checkpointing is None else chosen.checkpointing
    return [
        estimate_weights(config, file_bytes, dtype),
        *estimate_lora(shape, chosen),
        estimate_training_activations(shape, number_bytes, chosen, chosen.tokens, checkpointing),
        estimate_layout(shape, number_bytes, chosen, device, checkpointing),
        estimate_attention_weights(shape, number_bytes, chosen, device, checkpointing),
        estimate_overhead(OVERHEAD_TRAINING, device),
    ]


def estimate_weights(config: dict[str, Any], file_bytes: int, dtype: str) -> Term:
    """The weights in memory. Quantised ones stay as they are on disk, others are converted to `dtype`.

    Raises UnsupportedError if the config says that they are stored in a dtype whose size is not known here.
    """
    if read_quantization(config):
        return Term("weights", file_bytes, "as on disk: quantised weights stay packed")
    stored = read_dtype(config)
    if stored not in DTYPE_BYTES:
        problem = f"The weights are stored as {stored}, whose cost is not known here."
        raise UnsupportedError(problem, f"Known: {', '.join(DTYPE_BYTES)}, and quantised weights.")
    parameters = file_bytes // DTYPE_BYTES[stored]
    number_bytes = DTYPE_BYTES[dtype]
    formula = f"{parameters / 1e6:,.1f} million parameters x {number_bytes} bytes ({dtype})"
    return Term("weights", parameters * number_bytes, formula)


def estimate_kv_cache(shape: Shape, number_bytes: int, tokens: int) -> Term:
    """The KV cache: for every token, one key and one value in each KV head of each layer."""
    numbers = 2 * shape.layers * shape.kv_heads * shape.head_size * tokens
    formula = (
        f"2 x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_size} x {number_bytes} bytes"
        f" x {tokens} tokens"
    )
    return Term("KV cache", numbers * number_bytes, formula)


def estimate_running_activations(shape: Shape, number_bytes: int, tokens: int) -> Term:
    """What one layer computes for the prompt; the next layer uses the same memory.

    For each token: 3 vectors as long as the MLP is wide, and 4 as long as the hidden state.
    """
    numbers = tokens * (3 * shape.intermediate + 4 * shape.hidden)
    formula = (
        f"{tokens} tokens x (3 x {shape.intermediate} + 4 x {shape.hidden}) x {number_bytes} bytes,"
        " one layer at a time"
    )
    return Term("activations", numbers * number_bytes, formula)


def estimate_overhead(overhead: dict[str, int], device: str) -> Term:
    """What Python and its libraries take on a device."""
    return Term("overhead", overhead[device], f"Python and its libraries, measured ({device})")


def count_lora_parameters(shape: Shape, r: int, targets: str) -> int:
    """Parameters of a LoRA of rank `r`: A has r x inputs and B has outputs x r for each layer with a LoRA.

    `targets` as in TrainingStep; UsageError for a name that no layer has.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
    """
    linears = shape.list_linears()
    names = choose_targets(shape, targets)
    in_a_block = sum(r * sum(linears[name]) for name in names)  # the sum of inputs and outputs
    return count_upper_layers(shape, targets) * in_a_block


def count_upper_layers(shape: Shape, targets: str) -> int:
    """How many decoder layers a step goes back through: those from the first one with a LoRA on."""
    return shape.layers - count_lower_blocks(shape.layers, targets)


def choose_targets(shape: Shape, targets: str) -> list[str]:
    """Names of the layers in a block that get a LoRA; UsageError for a name that is not one of them."""
    known = list(shape.list_linears())
    if targets in (ALL_LINEAR, UPPER_LINEAR):
        return known
    chosen = []
    for name in map(str.strip, targets.split(",")):
        found = [layer for layer in known if f".{layer}".endswith(f".{name}")]
        if not found:
            remedy = f"Use all-linear, upper-linear, or some of: {','.join(known)}."
            raise UsageError(f"'{name}' is not a layer that can have a LoRA.", remedy)
        chosen += found
    return chosen


def estimate_lora(shape: Shape, step: TrainingStep) -> list[Term]:
    """The LoRA, its gradients and the optimizer's state. The LoRA is trained in float32."""
    if step.optimizer not in OPTIMIZER_BYTES:
        remedy = f"Use one of: {', '.join(OPTIMIZER_BYTES)}."
        raise UsageError(f"The memory of the optimizer '{step.optimizer}' is not known here.", remedy)
    names = choose_targets(shape, step.targets)
    trained = count_lora_parameters(shape, step.r, step.targets)
    state = OPTIMIZER_BYTES[step.optimizer]
    size = f"{trained:,} parameters (r {step.r}, {len(names)} layers a block) x 4 bytes (float32)"
    return [
        Term("LoRA", 4 * trained, size),
        Term("gradients", 4 * trained, f"{trained:,} x 4 bytes"),
        Term("optimizer", state * trained, f"{trained:,} x {state} bytes ({step.optimizer})"),
    ]


def estimate_saving(config: dict[str, Any], r: int, targets: str, optimizer: str) -> tuple[int, int]:
    """(bytes of a LoRA on disk, bytes of a checkpoint of its training); (0, 0) for an unknown shape."""
    try:
        shape = read_shape(config)
        trained = count_lora_parameters(shape, r, targets)
    except (KeyError, UsageError):
        return 0, 0
    return 4 * trained, (4 + OPTIMIZER_BYTES.get(optimizer, 8)) * trained


def estimate_training_activations(
    shape: Shape, number_bytes: int, step: TrainingStep, tokens: int, checkpointing: bool
) -> Term:
    """What a pass over `tokens` tokens keeps for the backward pass.

    For each token a layer computes 10 vectors as long as the hidden state and 5 as long as the MLP is wide.
    Without gradient checkpointing every layer keeps them all. With it, each layer keeps only its input, and
    the rest is computed again for one layer at a time. Layers below the first LoRA keep nothing.
    """
    layers = count_upper_layers(shape, step.targets)
    in_a_layer = 10 * shape.hidden + 5 * shape.intermediate  # numbers a token
    words = f"10 x {shape.hidden} + 5 x {shape.intermediate}"
    if checkpointing:
        kept = layers * shape.hidden + in_a_layer
        words = f"({layers} layers x {shape.hidden} + {words})"
    else:
        kept = layers * in_a_layer
        words = f"{layers} layers x ({words})"
    formula = f"{tokens} tokens x {words} x {number_bytes} bytes, kept for the backward pass"
    return Term("activations", tokens * kept * number_bytes, formula)


def estimate_layout(
    shape: Shape, number_bytes: int, step: TrainingStep, device: str, checkpointing: bool
) -> Term:
    """What attention needs of its own in a packed batch.

    On a CPU it is a mask: for each pair of tokens 1 byte, and a copy in the dtype, which all layers share. On
    a GPU the sequences are laid out one below the other, and each layer keeps queries, keys, values and
    results of all their tokens, unless gradients are checkpointed.
    """
    if device == "cpu":
        size = step.tokens**2 * (1 + number_bytes)
        return Term(
            "attention mask", size, f"{step.tokens} x {step.tokens} tokens x (1 + {number_bytes} bytes)"
        )
    layers = 1 if checkpointing else shape.layers
    numbers = 2 * (shape.heads + shape.kv_heads) * shape.head_size  # queries, results; keys, values
    tokens = step.batch * step.length
    formula = f"{layers} layers x {tokens} tokens x {numbers} x {number_bytes} bytes"
    return Term("sequences laid out", layers * tokens * numbers * number_bytes, formula)


def estimate_attention_weights(
    shape: Shape, number_bytes: int, step: TrainingStep, device: str, checkpointing: bool
) -> Term:
    """The weights between every token of the step and the tokens of its row, in every head.

    Only a CPU in 16 bits keeps them, for all layers or, with checkpointing, for one.
    """
    layers = 1 if checkpointing else shape.layers
    kept = device == "cpu" and number_bytes == 2
    size = layers * shape.heads * step.tokens * step.length * number_bytes if kept else 0
    formula = (
        f"{layers} layers x {shape.heads} heads x {step.tokens} x {step.length} tokens"
        f" x {number_bytes} bytes, on a CPU in 16 bits"
    )
    return Term("attention weights", size, formula)
