"""The same training with the shared prefix computed once: a drop-in SFTTrainer.

Every prompt of a template begins with the same tokens, and some rows go on alike. Within one step the weights do not change, so what
rows share needs to go through the model once a batch: a batch is packed as one sequence (helpers.training.packing), in which each shared part
stands once and nothing is padding, so that batches need not be sorted by length; back-propagation adds up the rows' gradients. The
language-model head is computed only where there is a label. Loss and gradients are SFTTrainer's up to rounding (test_prefix_trainer
holds them against each other); dropout on shared tokens is drawn once a batch.
"""

import warnings

import torch
from peft import LoraConfig
from transformers import PrinterCallback
from trl import SFTTrainer

from helpers.adapters._private import use_lean_layers
from helpers.training.branches import attend_branchwise, find_obstacle, score_targets
from helpers.training.packing import PackedSequence, pack_sequences


class SharedPrefixTrainer(SFTTrainer):
    """SFTTrainer for rows of `prompt` and `completion`. Where its way of computing cannot apply it says so once and computes as SFTTrainer."""

    def __init__(self, *args, peft_config: LoraConfig | None = None, **kwargs):
        super().__init__(
            *args,
            peft_config=use_lean_layers(peft_config) if isinstance(peft_config, LoraConfig) else peft_config,
            **kwargs,
        )
        self.remove_callback(
            PrinterCallback
        )  # without a bar, transformers would print the figures of every step
        self.obstacle = find_obstacle(self.model)
        if self.obstacle:
            warnings.warn(
                f"The shared prefix is not used: {self.obstacle}. Training goes on as with SFTTrainer.",
                stacklevel=2,
            )
        else:
            attend_branchwise(self.model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-likelihood, in nats, over the labelled tokens of the batch (of all accumulated batches when given their number)."""
        if self.obstacle or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        packed, places, targets = pack_batch(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        scores, hits = score_targets(model, packed, places, targets)
        self._metrics["train" if model.training else "eval"]["mean_token_accuracy"].append(
            hits.float().mean().item()
        )
        if num_items_in_batch is None:
            return -scores.sum() / max(len(targets), 1)
        return (
            -scores.sum()
            / num_items_in_batch
            * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )


def pack_batch(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[PackedSequence, list[int], list[int]]:
    """(sequence, places, targets) of a batch, three tensors of (rows, tokens): what rows share once, then what is their own.

    `places` are those of the tokens that predict a label, `targets` these labels; a place that several rows share stands once for each.
    """
    kept = attention_mask.bool()
    packed = pack_sequences([ids[mask].tolist() for ids, mask in zip(input_ids, kept, strict=True)])
    wanted = [row[mask].tolist() for row, mask in zip(labels, kept, strict=True)]
    pairs = [
        pair
        for path, row in zip(packed.paths, wanted, strict=True)
        for pair in zip(path, row[1:], strict=False)
        if pair[1] != -100
    ]
    return packed, [place for place, _ in pairs], [label for _, label in pairs]
