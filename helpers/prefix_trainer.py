"""The same training with the shared prefix computed once: a drop-in SFTTrainer.

Every prompt of a template begins with the same tokens. Within one step the weights do not change, so these tokens need to go through
the model once a batch: a batch is packed as one sequence (helpers.packing), the shared tokens and then the rest of each row, without
padding; back-propagation adds up the rows' gradients. The language-model head is computed only where there is a label. Loss and
gradients are SFTTrainer's up to rounding (test_prefix_trainer holds them against each other); dropout on the shared tokens is drawn
once a batch.
"""

import copy
import os
import warnings

import torch
from peft.tuners import lora
from torch.nn.functional import linear
from transformers import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from helpers.packing import PackedSequence, find_obstacle, pack_segments, score_targets


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


class EpochSampler(LengthGroupedSampler):
    """transformers' sampler by length with an order that follows from seed and epoch alone, so that a resumed epoch goes on in its order."""

    def __init__(self, batch_size: int, dataset, seed: int):
        super().__init__(batch_size, dataset=dataset)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class SharedPrefixTrainer(SFTTrainer):
    """SFTTrainer for rows of `prompt` and `completion`. Where its way of computing cannot apply it says so once and computes as SFTTrainer."""

    def __init__(self, *args, peft_config: lora.LoraConfig | None = None, **kwargs):
        if isinstance(peft_config, lora.LoraConfig):
            peft_config = copy.deepcopy(peft_config)
            peft_config._register_custom_module({torch.nn.Linear: LeanLoraLinear})  # PEFT's documented way in, under this name
        super().__init__(*args, peft_config=peft_config, **kwargs)
        self.remove_callback(PrinterCallback)  # without a bar, transformers would print the figures of every step
        self.obstacle = find_obstacle(self.model)
        if self.obstacle:
            warnings.warn(f"The shared prefix is not used: {self.obstacle}. Training goes on as with SFTTrainer.", stacklevel=2)

    def _get_train_sampler(self, train_dataset=None):
        """The sampler of the training rows; for `group_by_length` one that a resumed training repeats."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochSampler(rows_a_step, self.train_dataset if train_dataset is None else train_dataset, self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-likelihood, in nats, over the labelled tokens of the batch (of all accumulated batches when given their number)."""
        if self.obstacle or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        packed, places, targets = pack_batch(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        scores, hits = score_targets(model, packed, places, targets)
        self._metrics["train" if model.training else "eval"]["mean_token_accuracy"].append(hits.float().mean().item())
        if num_items_in_batch is None:
            return -scores.sum() / max(len(targets), 1)
        return -scores.sum() / num_items_in_batch * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)


def pack_batch(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> tuple[PackedSequence, list[int], list[int]]:
    """(sequence, places, targets) of a batch, three tensors of (rows, tokens): what all rows share, then the rest of each row.

    `places` are those of the tokens that predict a label, `targets` these labels.
    """
    kept = attention_mask.bool()
    rows = [ids[mask].tolist() for ids, mask in zip(input_ids, kept, strict=True)]
    wanted = [row[mask].tolist() for row, mask in zip(labels, kept, strict=True)]
    first_label = min(next((i for i, label in enumerate(row) if label != -100), len(row)) for row in wanted)
    shared = min(len(os.path.commonprefix(rows)), max(first_label - 1, 0))  # the token that predicts a label belongs to its row
    packed = pack_segments([(rows[0][:shared], None), *((row[shared:], 0) for row in rows)])
    following = [-100] * shared + [label for row in wanted for label in [*row[shared + 1 :], -100]]
    places = [place for place, label in enumerate(following) if label != -100]
    return packed, places, [following[place] for place in places]
