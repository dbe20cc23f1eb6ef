"""The same training with shared prefixes computed once: a trainer that takes SFTTrainer's place.

Every prompt of a template begins with the same tokens, and some rows share more. Within one step the
weights do not change, so what rows share needs to go through the model once per batch, not once per row.
PackingCollator packs a batch into one row (helpers.training.packing), in which each shared part appears
once. Next to nothing is padding, so batches need not be sorted by length. Back-propagation adds up the
gradients of the rows. The language-model head is computed only where there is a label.

Loss and gradients equal SFTTrainer's up to rounding (tests/training/test_prefix_trainer.py compares them),
except that dropout on shared tokens is drawn once per batch.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from helpers.adapters._private import use_lean_layers
from helpers.common.errors import UnsupportedError
from helpers.common.machine import Choice
from helpers.loading.model import list_places
from helpers.training.attention import (
    IGNORED,
    judge_targets,
    score_targets,
    use_packed_attention,
    why_not_packable,
)
from helpers.training.packing import pack_sequences
from helpers.training.step_graph import StepGraphs, choose_recording
from helpers.training.watching import WatchingTrainer

# A packed row (PackedInputs) and its targets, as tensors and lists of numbers, which accelerate and Trainer
# can handle:
#
#     places   (targets,): where in the packed row the token is that predicts a target
#     targets  (targets,): token ids; IGNORED where there is none
#     labels   (rows, tokens of the longest row), as TRL's own collator gives them
#
# `labels` is only for transformers' Trainer. It takes the first tensor's length for the number of rows, and
# it counts the labels of all accumulated batches to divide their losses by that number.
PackedBatch = dict[str, Any]


class PackingCollator:
    """Packs the rows of a batch, for SharedPrefixTrainer: what rows share appears once.

    On a CPU nothing is padding. On a GPU (`device`, a torch device's type) a little is: see repeat_shapes.
    `longest` and `most_targets` are bounds of a row's tokens and targets in all batches; 0 if unknown.
    """

    def __init__(self, device: str = "cpu", longest: int = 0, most_targets: int = 0):
        self.device = device
        self.longest = longest
        self.most_targets = most_targets

    def __call__(self, examples: list[dict[str, Any]]) -> PackedBatch:
        """Makes a batch of tokenised rows: `input_ids`, and `labels` unless all tokens are learned."""
        rows = [example["input_ids"] for example in examples]
        labels = [example.get("labels", example["input_ids"]) for example in examples]
        packed = pack_sequences(rows)
        places, targets = find_targets(packed.find_paths(), labels)
        padded_labels = pad_sequence(
            [torch.tensor(row_labels) for row_labels in labels], batch_first=True, padding_value=IGNORED
        )
        batch = {
            "labels": padded_labels,
            "places": torch.tensor(places, dtype=torch.long),
            "targets": torch.tensor(targets, dtype=torch.long),
            **packed.to_inputs(self.device),
        }
        return batch if self.device == "cpu" else repeat_shapes(batch, self.longest, self.most_targets)


def repeat_shapes(batch: PackedBatch, longest_row: int = 0, most_targets: int = 0) -> PackedBatch:
    """The batch with its tensors made a little longer, so that few different shapes occur.

    A GPU has to prepare for each new shape (helpers.training.step_graph). What is added belongs to no path
    and has no target, so that neither loss nor gradients change. The last two arguments are PackingCollator's
    bounds: batches that come near them all get the same columns and targets, and differ in their lines only.
    """
    lines, targets = batch["input_ids"].shape[1], len(batch["targets"])
    sequences, longest = batch["paths"].shape
    # Columns cost attention only. A target costs a line of logits, so that a batch gets fewer in vain.
    columns = round_up_near(longest, longest_row, 2 * longest)
    wanted = round_up_near(targets, sequences * most_targets, max(targets * 5 // 4, lines // 8))
    more_lines, more_targets, more_columns = round_up(lines) - lines, wanted - targets, columns - longest
    owner_sequences, owner_columns = batch["owners"] // longest, batch["owners"] % longest
    owners = owner_sequences * (longest + more_columns) + owner_columns
    return batch | {
        "input_ids": pad(batch["input_ids"], (0, more_lines)),
        "positions": pad(batch["positions"], (0, more_lines)),
        "owners": pad(owners, (0, more_lines)),
        "paths": pad(batch["paths"], (0, more_columns)),
        "places": pad(batch["places"], (0, more_targets)),
        "targets": pad(batch["targets"], (0, more_targets), value=IGNORED),
    }


def round_up(count: int) -> int:
    """The next multiple of 64, or of a larger power of two that adds an eighth at most."""
    step = max(64, 1 << max(count.bit_length() - 4, 0))
    return -(-count // step) * step


def round_up_near(count: int, bound: int, limit: int) -> int:
    """The bound, rounded up, if it is within the limit and holds the count; or else the count, rounded up."""
    return round_up(bound) if count <= bound <= limit else round_up(count)


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


class SharedPrefixTrainer(WatchingTrainer):
    """An SFTTrainer that packs its batches. If it cannot, it warns once and computes as SFTTrainer does.

    With your own `data_collator`, batches are not packed.
    """

    def __init__(self, *args, peft_config: LoraConfig | None = None, **kwargs):
        lean_config = use_lean_layers(peft_config) if isinstance(peft_config, LoraConfig) else peft_config
        super().__init__(*args, peft_config=lean_config, **kwargs)
        self.remove_callback(PrinterCallback)  # without a bar, transformers prints the figures of every step
        longest = max(map(find_longest, (self.train_dataset, self.eval_dataset)))
        self.graphs: StepGraphs | None = None
        reason = why_not_packable(cast(PreTrainedModel, self.model), longest) or self.why_not_packed()
        if reason:
            words = f"The shared prefix is not used: {reason}. Training works as with SFTTrainer."
            warnings.warn(words, stacklevel=2)
        elif isinstance(self.data_collator, DataCollatorForLanguageModeling):
            device = self.args.device.type
            most = (
                0 if device == "cpu" else max(map(find_most_targets, (self.train_dataset, self.eval_dataset)))
            )
            self.data_collator = PackingCollator(device, longest, most)
            self.graphs = self.make_graphs()

    def make_graphs(self) -> StepGraphs | None:
        """What records steps as CUDA graphs; None where that is not possible, for the reason in `choices`."""
        self.choices["cuda_graphs"] = self.choose_graphs()
        if not self.choices["cuda_graphs"].value:
            return None
        model = cast(torch.nn.Module, self.model)
        return StepGraphs([weight for weight in model.parameters() if weight.requires_grad])

    def choose_graphs(self) -> Choice[bool]:
        """Whether steps are recorded as CUDA graphs, and why."""
        args = cast(SFTConfig, self.args)
        processes, places = self.accelerator.num_processes, max(args.n_gpu, len(list_places(self.model)))
        return choose_recording(args.device.type, args.gradient_checkpointing, processes, places)

    def why_not_packed(self) -> str | None:
        """The reason why the trainer's arguments do not allow packed batches, in words; None if they do."""
        args = cast(SFTConfig, self.args)
        if args.packing or args.padding_free:
            return "the arguments ask for TRL's own packing"
        if args.loss_type != "nll" or args.label_smoothing_factor:
            return "the arguments ask for another loss"
        if self.compute_metrics:
            return "compute_metrics needs the logits of every token"
        return None

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Loss and gradients of one batch; returns the loss.

        The model keeps its packed attention until the end, because the backward pass computes layers again if
        their activations were not kept (gradient checkpointing).
        """
        if not is_packed(inputs):
            return super().training_step(model, inputs, num_items_in_batch)
        step = partial(super().training_step, model)
        with use_packed_attention(cast(PreTrainedModel, self.model), cast(Any, inputs)):
            if self.graphs is None or num_items_in_batch is None:
                return step(inputs, num_items_in_batch)
            batch = {key: value for key, value in inputs.items() if key != "labels"}
            items = torch.as_tensor(num_items_in_batch, device=self.args.device)
            return self.graphs.run(step, batch, items)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The negative log-likelihood, in nats, of the labelled tokens, divided by `num_items_in_batch`.

        That is the number of labelled tokens in all accumulated batches of all processes. Without it the
        loss is the mean over this batch.
        """
        if not is_packed(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if return_outputs:
            raise UnsupportedError(
                "A packed batch gives a loss and no logits.",
                "Evaluate with helpers.evaluation, or give the trainer a data_collator of TRL's.",
            )
        batch = cast(Any, inputs)
        total = -score_targets(model, batch, batch["places"], batch["targets"]).sum()
        if num_items_in_batch is None:
            return total / (batch["targets"] != IGNORED).sum().clamp(min=1)
        # Trainer averages the gradients of the processes, but num_items_in_batch counts the tokens of all of
        # them, so their sum is needed.
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total / num_items_in_batch * processes

    def score_sequences(self, model, inputs):
        """(sequences, 2): the negative log-likelihood of each in nats, and 1 if all its targets are right."""
        if not is_packed(inputs):
            return super().score_sequences(model, inputs)
        batch = cast(Any, inputs)
        lengths = (batch["labels"][:, 1:] != IGNORED).sum(1).tolist()
        count = sum(lengths)  # beyond them there may be padding
        log_probabilities, right = judge_targets(
            cast(PreTrainedModel, model), batch, batch["places"][:count], batch["targets"][:count]
        )
        totals = [-part.sum() for part in log_probabilities.split(lengths)]
        all_right = [part.all().float() for part in right.split(lengths)]
        return torch.stack([torch.stack(totals), torch.stack(all_right)], dim=1)


def find_longest(examples: object) -> int:
    """The tokens of the longest sequence; 0 for anything but a Dataset."""
    return max(map(len, examples["input_ids"]), default=0) if isinstance(examples, Dataset) else 0


def find_most_targets(examples: object) -> int:
    """The most labelled tokens of a sequence; 0 for anything but a Dataset with labels."""
    if not isinstance(examples, Dataset) or "labels" not in examples.column_names:
        return 0
    return max((len(labels) - labels.count(IGNORED) for labels in examples["labels"]), default=0)


def is_packed(inputs: dict[str, Any]) -> bool:
    """Whether a batch was made by PackingCollator."""
    return "places" in inputs
