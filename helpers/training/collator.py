"""A data collator that packs: the token lists of a batch become one packed row with its targets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from helpers.training.packing import PackedInputs, pack_sequences

IGNORED = -100  # the label of a token that the loss leaves out, in transformers as in torch


class PackedBatch(PackedInputs):
    """A packed row and its targets, as tensors and lists of numbers, which accelerate and Trainer can handle.

    `labels` is only for transformers' Trainer. It takes the first tensor's length for the number of rows,
    and it counts the labels of all accumulated batches to divide their losses by that number.
    """

    labels: torch.Tensor  # (rows, tokens of the longest row), as TRL's own collator gives them
    places: torch.Tensor  # (targets,): where in the packed row the token is that predicts a target
    targets: torch.Tensor  # (targets,): token ids


class PackingCollator:
    """Packs the rows of a batch, for SharedPrefixTrainer: what rows share appears once, without padding."""

    def __call__(self, examples: list[dict[str, Any]]) -> PackedBatch:
        """Makes a batch of tokenised rows: `input_ids`, and `labels` unless all tokens are learned."""
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
    """(places, targets) of all rows: each labelled token is a target, and the token before it has the place.

    Rows may share a place but not its target, so a place can occur several times.
    """
    places: list[int] = []
    targets: list[int] = []
    for path, row_labels in zip(paths, labels, strict=True):
        for place, label in zip(path[:-1], row_labels[1:], strict=True):
            if label != IGNORED:
                places.append(place)
                targets.append(label)
    return places, targets
