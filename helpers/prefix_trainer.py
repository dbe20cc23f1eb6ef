"""The same training with the shared prefix computed once: a drop-in SFTTrainer.

Every prompt of a template begins with the same tokens. Within one step the weights do not change, so these tokens need to go through
the model once a batch. A batch is therefore laid out as one sequence, the shared tokens and then the rest of each row, in which a
token sees the shared ones and its own row; there is no padding, and back-propagation adds up the rows' gradients. The
language-model head is computed only where there is a label. Loss and gradients are SFTTrainer's up to rounding
(test_prefix_trainer holds them against each other); dropout on the shared tokens is drawn once a batch.
"""

import copy
import warnings
from typing import NamedTuple

import torch
from peft.tuners import lora
from torch.nn.functional import linear
from trl import SFTTrainer

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}  # transformers' model_type; each is held against the stock trainer by a test


class LeanLoraLinear(lora.Linear):
    """PEFT's LoRA on a linear layer, computed in the dtype of its input while training: PEFT casts all inputs and outputs to float32 and back."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """(..., in_features) to (..., out_features). What is not plain training with one adapter goes PEFT's way."""
        name, *others = self.active_adapters or [None]
        plain = self.training and not (others or args or kwargs or self.disable_adapters or self.merged) and name in self.lora_A
        if not plain or name in self.lora_variant or self.lora_bias[name] or not isinstance(self.lora_dropout[name], torch.nn.Identity):
            return super().forward(x, *args, **kwargs)
        first, second = self.lora_A[name].weight.to(x.dtype), self.lora_B[name].weight.to(x.dtype)
        return self.base_layer(x) + linear(linear(x, first) * self.scaling[name], second)


class SharedPrefixTrainer(SFTTrainer):
    """SFTTrainer for rows of `prompt` and `completion`. Where its way of computing cannot apply it says so once and computes as SFTTrainer."""

    def __init__(self, *args, peft_config: lora.LoraConfig | None = None, **kwargs):
        if isinstance(peft_config, lora.LoraConfig):
            peft_config = copy.deepcopy(peft_config)
            peft_config._register_custom_module({torch.nn.Linear: LeanLoraLinear})  # PEFT's documented way in, under this name
        super().__init__(*args, peft_config=peft_config, **kwargs)
        self.obstacle = find_obstacle(self.model)
        if self.obstacle:
            warnings.warn(f"The shared prefix is not used: {self.obstacle}. Training goes on as with SFTTrainer.", stacklevel=2)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-likelihood, in nats, over the labelled tokens of the batch (of all accumulated batches when given their number)."""
        if self.obstacle or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        packed = pack_batch(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        logits = compute_label_logits(model, packed).float()
        # not cross_entropy: on a CPU its float32 log_softmax over a large vocabulary is off by up to 1e-5
        total = (logits.logsumexp(-1) - logits.gather(-1, packed.targets[:, None])[:, 0]).sum()
        mode = "train" if model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append((logits.argmax(-1) == packed.targets).float().mean().item())
        if num_items_in_batch is None:
            return total / max(len(packed.targets), 1)
        return total / num_items_in_batch * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)


class PackedBatch(NamedTuple):
    """A batch as one sequence of all its tokens, the shared ones once."""

    input_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,): each token's place in its own row
    visible: torch.Tensor  # (tokens, tokens), bool: which tokens (columns) each token (line) sees
    labelled: torch.Tensor  # (labels,): places of the tokens that predict a label
    targets: torch.Tensor  # (labels,): the token ids to predict there


def find_obstacle(model: torch.nn.Module) -> str | None:
    """Why the packed computation cannot apply to this model, in words; None when it can."""
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"it was not tested on the architecture '{config.model_type}'"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention '{config._attn_implementation}' takes no mask of its own"
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        return "the model has sliding-window attention"
    return None


def count_shared(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> int:
    """How many first columns are the same token in every row, with no label in them nor in the next; 0 for a batch padded on the left."""
    same = (input_ids == input_ids[:1]).all(0) & attention_mask.bool().all(0)
    unlabelled = (labels == -100).all(0)
    unlabelled = torch.cat([unlabelled[1:], unlabelled.new_zeros(1)]) & unlabelled
    return int((same & unlabelled).long().cumprod(0).sum())


def pack_batch(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> PackedBatch:
    """Lays out a batch, three tensors of (rows, tokens), as one sequence without padding; the shared prefix stands in it once."""
    shared = count_shared(input_ids, attention_mask, labels)
    kept = attention_mask.bool().clone()
    kept[1:, :shared] = False
    positions = (attention_mask.cumsum(1) - 1)[kept]
    owners = torch.arange(len(input_ids), device=input_ids.device)[:, None].repeat(1, input_ids.shape[1])
    owners[:, :shared] = -1  # everyone's
    owners = owners[kept]
    visible = (positions[:, None] >= positions) & ((owners[:, None] == owners) | (owners == -1))
    following = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), -100)], dim=1)[kept]
    labelled = (following != -100).nonzero().flatten()
    return PackedBatch(input_ids[kept], positions, visible, labelled, following[labelled])


def compute_label_logits(model, packed: PackedBatch) -> torch.Tensor:
    """(labels, vocabulary): the logits at the places that predict a label."""
    return model(
        input_ids=packed.input_ids[None],
        attention_mask=packed.visible[None, None],
        position_ids=packed.positions[None],
        use_cache=False,
        logits_to_keep=packed.labelled,
    ).logits[0]
