"""A batch for GPUs: its answers are computed at fixed places in memory, so that a step can be a CUDA graph.

It is a Batch whose keys and values are in slots (`slot_cache`). The running answers have the first slots;
when one leaves, the last one moves into its place. A step computes a "bucket" of 1, 2, 4, 8 or 16 rows in
256, 512, 1024, ... columns, and each pair of them is recorded once (`graphs`). Without a recorder the same
steps run one kernel at a time, on a CPU too, which the tests use.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import DynamicCache, PreTrainedModel

from helpers.common.machine import Choice, measure_memory
from helpers.generation.batching import Batch, PendingAnswer, extend_all
from helpers.generation.chunks import find_obstacle
from helpers.generation.graphs import GraphRecorder
from helpers.generation.slot_cache import SlotCache
from helpers.loading.model import list_places
from helpers.weights.engine_sizes import round_up_columns, round_up_rows

KEPT_SHARE = 0.05  # of the device's memory: a batch without answers keeps slots up to this size

Weights = tuple[list[int], list[dict[str, float]]]  # see locate_weights
Outputs = tuple[torch.Tensor, torch.Tensor]  # logits (rows, vocabulary) and the likeliest tokens (rows,)


class Recorder(Protocol):
    """What records a step, such as GraphRecorder."""

    def record(self, compute: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """A function that repeats what `compute` does and returns the same tensors, with new content."""
        ...


MakeRecorder = Callable[[torch.device], Recorder]


def choose_slots(model: Any, context: int) -> Choice[bool]:
    """Whether answers are computed in slots, with CUDA graphs, and why."""
    places = list_places(model)
    if model.device.type != "cuda":
        return Choice(False, "a CPU starts its kernels itself, so CUDA graphs save nothing")
    if len(places) > 1:
        return Choice(False, f"the model is on several devices ({', '.join(places)})")
    if obstacle := find_obstacle(model.config, context):
        return Choice(False, obstacle)
    return Choice(True, "one CUDA device: a CUDA graph starts all kernels of a step together")


class SlotSteps:
    """The slots of a batch and the steps over them, which are recorded when they first come."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        context: int,
        make_recorder: MakeRecorder | None,
    ):
        self.model = model
        self.context = context
        self.make_recorder = make_recorder  # None computes one kernel at a time
        self.release()

    def release(self) -> None:
        """Gives back the memory of the slots, and forgets what was recorded on them."""
        self.cache = SlotCache()
        self.inputs = torch.zeros(0)  # of a step: (token ids and positions, rows)
        self._forget()

    def _forget(self) -> None:
        self.recorder: Recorder | None = None  # its pool lives as long as the steps recorded with it
        self.recorded: dict[tuple[int, int], Callable[[], Outputs]] = {}  # by rows and columns

    def reserve(self, rows: int, length: int, like: DynamicCache | None = None) -> None:
        """Sees to it that there are so many slots, for so many tokens; `like` as in SlotCache.reserve."""
        if self.cache.rows >= rows and self.cache.columns >= length:
            return
        self._forget()  # first, for their memory: they read the places that are given up
        rows = round_up_rows(rows)
        self.cache.reserve(rows, round_up_columns(length, self.context), like)
        if self.inputs.shape[-1] != self.cache.rows:
            self.inputs = torch.zeros(2, self.cache.rows, dtype=torch.long, device=self.model.device)

    def run(self, newest: list[int], positions: list[int]) -> Outputs:
        """Computes the newest tokens of the first slots, which belong at these positions.

        The outputs have a row for each of them, and are overwritten by the next run.
        """
        count = len(newest)
        rows = round_up_rows(count)
        # Rows of the bucket without an answer compute token 0 in column 0 of a free slot, for nothing.
        free = [0] * (rows - count)
        self.inputs[:, :rows].copy_(torch.tensor([newest + free, positions + free]))
        columns = round_up_columns(max(positions) + 1, self.context)
        logits, likeliest = self._find_step(rows, columns)()
        return logits[:count], likeliest[:count]

    def _find_step(self, rows: int, columns: int) -> Callable[[], Outputs]:
        """The step for so many rows and columns: recorded now or earlier, or else computed as it is."""
        if (rows, columns) not in self.recorded:
            self.recorded[rows, columns] = self._record(self._prepare(rows, columns))
        return self.recorded[rows, columns]

    def _record(self, compute: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """The recorded step. After the first failure nothing is recorded any more."""
        if self.make_recorder is None:
            return compute
        try:
            if self.recorder is None:
                self.recorder = self.make_recorder(self.model.device)
            # A recording computes several times. It writes the same keys and values at the same places.
            return self.recorder.record(compute)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            warnings.warn(
                f"The steps of this model cannot be recorded as CUDA graphs ({reason}). "
                "It answers without them, which is slower.",
                stacklevel=2,
            )
            self.make_recorder = None
            return compute

    def _prepare(self, rows: int, columns: int) -> Callable[[], Outputs]:
        """The step over the first rows and columns, as a function of what is in `inputs`."""
        ids, positions = self.inputs[:, :rows]
        cache = self.cache.view(rows, columns, positions)
        numbers = torch.arange(columns, device=positions.device)
        visible = torch.zeros(1, columns, dtype=self.cache.layers[0][0].dtype, device=positions.device)

        def compute() -> Outputs:
            # Added to attention scores, (rows, 1, 1, columns): transformers takes it as it is.
            mask = visible.masked_fill(numbers > positions[:, None], -math.inf)[:, None, None]
            logits = self.model(
                input_ids=ids[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            return logits, logits.argmax(-1)

        return compute


class SlotBatch(Batch):
    """The answers of one adapter, in slots: answer i has slot i.

    Slots and recorded steps stay when the last answer has left, unless they are large, so that the next
    conversation finds them. They are made again after a LoRA was attached, detached, or turned up or down.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        context: int,
        make_recorder: MakeRecorder | None = GraphRecorder,
        kept_bytes: int | None = None,
        chunk: int | None = None,
    ):
        super().__init__(model, chunk)
        self.steps = SlotSteps(model, context, make_recorder)
        total = measure_memory(model.device.type).value[1]
        self.kept_bytes = int(KEPT_SHARE * total) if kept_bytes is None else kept_bytes
        self._weights: Weights = ([], [])  # with which the steps were recorded

    def _compute_next(self) -> None:
        longest = max(answer.length for answer in self.answers)
        self.steps.reserve(len(self.answers), longest)
        newest = [answer.tokens[-1] for answer in self.answers]
        logits, likeliest = self.steps.run(newest, [answer.length - 1 for answer in self.answers])
        extend_all(self.answers, logits, likeliest)
        self._drop_finished()

    def _join(self, new: list[PendingAnswer], logits: torch.Tensor, cache: DynamicCache) -> None:
        if not self.answers:
            self._renew()  # after a pass: some GPTQ kernels repack their weights in the first one
        rows = len(self.answers)
        longest = max(answer.length for answer in self.answers + new)
        self.steps.reserve(rows + len(new), longest + 1, cache)
        for number, answer in enumerate(new):
            self.steps.cache.write(rows + number, cache, number, len(answer.prompt))
        self.answers = self.answers + new
        extend_all(new, logits, logits.argmax(-1))
        self._drop_finished()

    def _renew(self) -> None:
        """Gives up what was recorded with other weights: their places are part of a graph."""
        weights = locate_weights(self.model)
        if weights != self._weights:
            self._weights = weights
            self.steps.release()

    def _drop_finished(self) -> None:
        """Removes finished answers, and fills each gap with the last answer."""
        for row in reversed(range(len(self.answers))):
            if self.answers[row].job.done():
                last = self.answers.pop()
                if row < len(self.answers):
                    self.answers[row] = last
                    self.steps.cache.move(len(self.answers), row)
        if not self.answers and self.steps.cache.bytes > self.kept_bytes:
            self.steps.release()

    def clear(self) -> None:
        """Forgets the answers, the slots and what was recorded on them."""
        super().clear()
        self.steps.release()


def locate_weights(model: Any) -> Weights:
    """The addresses of a model's tensors, and by how much each LoRA counts in each layer."""
    places = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return places, [dict(layer.scaling) for layer in layers]
