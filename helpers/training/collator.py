"""A data collator that packs: the rows of a batch, as lists of token ids, become one packed row with its targets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from helpers.training.packing import PackedInputs, pack_sequences

IGNORED = -100  # the label of a token that the loss leaves out, in transformers as in torch


class PackedBatch(PackedInputs):
    """A packed row and where its loss is. All values are tensors, or lists of numbers, which accelerate can move.

    `labels` comes first because the number of its lines is what transformers takes for the size of the batch.
    transformers also counts the labelled tokens of all accumulated batches in it, to divide the loss by their number.
    """

    labels: torch.Tensor  # (rows, tokens of the longest row): as TRL's own collator gives them
    places: torch.Tensor  # (targets,): places in the packed row after whose token a target comes
    targets: torch.Tensor  # (targets,): token ids


class PackingCollator:
    """Packs the rows of a batch, for SharedPrefixTrainer: what rows share appears once, and nothing is padding."""

    def __call__(self, examples: list[dict[str, Any]]) -> PackedBatch:
        """A batch of tokenised rows, each with `input_ids` and, unless all tokens are learned, `labels`."""
        rows = [example["input_ids"] for example in examples]
        labels = [example.get("labels", example["input_ids"]) for example in examples]
        packed = pack_sequences(rows)
        places, targets = find_targets(packed.find_paths(), labels)
        padded_labels = pad_sequence(
            [torch.tensor(row_labels) for row_labels in labels], batch_first=True, padding_value=IGNORED
        )
        return {
            "labels": padded_labels,
            "places": torch.tensor(places, dtype=torch.long),
            "targets": torch.tensor(targets, dtype=torch.long),
            **packed.to_inputs(),
        }


def find_targets(paths: Sequence[list[int]], labels: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """(places, targets) of all rows: the token at a place predicts the next token of its row, if that is labelled.

    Rows that have a place in common may have different targets there, so a place can occur several times.
    """
    places: list[int] = []
    targets: list[int] = []
    for path, row_labels in zip(paths, labels, strict=True):
        for place, label in zip(path[:-1], row_labels[1:], strict=True):
            if label != IGNORED:
                places.append(place)
                targets.append(label)
    return places, targets
