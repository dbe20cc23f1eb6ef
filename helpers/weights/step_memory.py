"""What a training takes beside the weights: the LoRA with its optimizer, and what a step keeps.

The factors of the activations are rounded counts of the vectors that a layer computes for one token.
"""

from dataclasses import dataclass
from typing import Any

from helpers.common.errors import UsageError
from helpers.common.training_settings import ALL_LINEAR, UPPER_LINEAR, count_lower_blocks
from helpers.weights.shape import Shape, read_shape
from helpers.weights.terms import DTYPE_BYTES, Term, add_up

# State that an optimizer keeps for each trained parameter: AdamW two averages, of 4 bytes or of 1 byte each.
OPTIMIZER_BYTES = {
    "adamw_torch_fused": 8,
    "adamw_torch": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "sgd": 0,
}
# A recorded step (helpers.training.step_graph) keeps its memory while one of another shape is computed.
STEPS_AT_ONCE = 2


@dataclass(frozen=True)
class TrainingStep:
    """What the memory of a training step depends on, besides the model."""

    r: int = 16  # rank of the LoRA
    targets: str = ALL_LINEAR  # layers with a LoRA: all-linear, upper-linear, or names with commas between
    optimizer: str = "adamw_torch_fused"  # a key of OPTIMIZER_BYTES
    batch: int = 4  # rows in a step
    length: int = 512  # tokens in a row
    shared: int = 0  # tokens at the beginning of every row that are the same in all, and computed once
    checkpointing: bool | None = None  # of gradients; None: on a GPU only, where it takes the least memory
    recorded: bool | None = None  # whether steps become CUDA graphs; None: on CUDA, without checkpointing

    @property
    def tokens(self) -> int:
        """Tokens that one step computes: the shared ones once, and the rest of every row."""
        return self.shared + self.batch * (self.length - self.shared)


def estimate_step(shape: Shape, dtype: str, step: TrainingStep, tokens: int, device: str) -> list[Term]:
    """What a training takes beside weights and overhead: the LoRA, and what a step of `tokens` tokens keeps.

    Errors are those of estimate_training.
    """
    checkpointing = device == "cuda" if step.checkpointing is None else step.checkpointing
    kept = [
        estimate_training_activations(shape, DTYPE_BYTES[dtype], step, tokens, checkpointing),
        estimate_layout(shape, dtype, step, tokens, device, checkpointing),
        estimate_attention_weights(shape, DTYPE_BYTES[dtype], step, tokens, device, checkpointing),
    ]
    if (device == "cuda" and not checkpointing) if step.recorded is None else step.recorded:
        kept.append(estimate_recorded(kept))
    return [*estimate_lora(shape, step), *kept]


def estimate_recorded(kept: list[Term]) -> Term:
    """What steps that are recorded keep beside the one that is computed; `kept` is what one step keeps.

    torch counts it as reserved, not as allocated.
    """
    again = STEPS_AT_ONCE - 1
    formula = f"{again} x {', '.join(term.name for term in kept if term.bytes)}, kept by CUDA graphs"
    return Term("recorded steps", again * add_up(kept), formula)


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
    in_a_layer = 10 * shape.hidden + 5 * shape.intermediate  # numbers per token
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
    shape: Shape, dtype: str, step: TrainingStep, tokens: int, device: str, checkpointing: bool
) -> Term:
    """What attention needs of its own in a packed batch of `tokens` tokens.

    On a CPU it is a mask: for each pair of tokens 1 byte, and a copy in the dtype, which all layers share. On
    a GPU the sequences are laid out one below the other, and each layer keeps queries, keys, values and
    results of all their tokens, unless gradients are checkpointed. Keys and values are there for each query
    head if the fast kernel cannot share them (helpers.training.path_attention): in bfloat16 it always can; in
    float16, which the kit takes for GPUs without bfloat16, and in float32 it is taken to be unable to.
    """
    number_bytes = DTYPE_BYTES[dtype]
    if device == "cpu":
        size = tokens**2 * (1 + number_bytes)
        return Term("attention mask", size, f"{tokens} x {tokens} tokens x (1 + {number_bytes} bytes)")
    layers = 1 if checkpointing else count_upper_layers(shape, step.targets)
    key_heads = shape.kv_heads if dtype == "bfloat16" else shape.heads
    numbers = 2 * (shape.heads + key_heads) * shape.head_size  # queries, results; keys, values
    laid_out = step.batch * step.length
    formula = f"{layers} layers x {laid_out} tokens x {numbers} x {number_bytes} bytes"
    return Term("sequences laid out", layers * laid_out * numbers * number_bytes, formula)


def estimate_attention_weights(
    shape: Shape, number_bytes: int, step: TrainingStep, tokens: int, device: str, checkpointing: bool
) -> Term:
    """The weights between each of a step's `tokens` tokens and the tokens of its row, in every head.

    Only a CPU in 16 bits keeps them, for all layers or, with checkpointing, for one.
    """
    layers = 1 if checkpointing else count_upper_layers(shape, step.targets)
    kept = device == "cpu" and number_bytes == 2
    size = layers * shape.heads * tokens * step.length * number_bytes if kept else 0
    formula = (
        f"{layers} layers x {shape.heads} heads x {tokens} x {step.length} tokens"
        f" x {number_bytes} bytes, on a CPU in 16 bits"
    )
    return Term("attention weights", size, formula)
