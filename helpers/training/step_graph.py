"""Training steps replayed as CUDA graphs: a GPU starts thousands of kernels by itself.

A step of a small batch is thousands of short kernels, and starting them one by one from Python takes longer
than computing them. A CUDA graph records them once, for tensors of given shapes at given addresses, and
starts all of them with one call. It has the forward and the backward pass; the optimizer's step stays
outside. Which steps are recorded is decided without CUDA, which only StepRecorder needs. Source:
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import torch

from helpers.common.arguments import state_reason
from helpers.common.machine import Choice

MAX_GRAPHS = 24  # different shapes; further ones are computed as usual
Step = Callable[[dict[str, Any], torch.Tensor], torch.Tensor]  # (batch, labels in all batches) to the loss


def choose_recording(device: str, checkpointing: bool, processes: int, places: int) -> Choice[bool]:
    """Whether steps are recorded as CUDA graphs, and why; `places` are the devices of a single process."""
    if device != "cuda":
        return Choice(False, "only a GPU of NVIDIA's has CUDA graphs")
    if checkpointing:
        words = "gradient checkpointing restores the state of the random generator, which a graph cannot do"
        return Choice(False, words)
    if processes > 1:
        return Choice(False, "several processes exchange gradients within a step")
    if places > 1:
        return Choice(False, "the model is on several devices")
    return Choice(True, "one GPU: a CUDA graph starts all kernels of a step together")


class Recorded(Protocol):
    """A recorded step of one shape of batch."""

    def replay(self, batch: dict[str, Any], items: torch.Tensor) -> torch.Tensor:
        """The loss of another batch of the same shape; its gradients are added to those that are there."""
        ...


class Recorder(Protocol):
    """What records steps, such as StepRecorder."""

    def record(self, step: Step, batch: dict[str, Any], items: torch.Tensor) -> Recorded:
        """The recorded step, which is not computed by that. Raises an error of any kind if that fails."""
        ...


class StepGraphs:
    """Computes the steps of one training: each shape the first time as usual, then as a graph.

    Gradients are added to `grad` of the parameters, as backward passes do it.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], recorder: Recorder | None = None):
        """`recorder` records the steps; None makes a StepRecorder, which needs CUDA."""
        self.parameters = parameters
        # Where graphs add gradients: parts of one tensor, which is set to zero at once.
        one = parameters[0]
        count = sum(parameter.numel() for parameter in parameters)
        self.gradients = torch.zeros(count, dtype=one.dtype, device=one.device)
        parts = self.gradients.split([parameter.numel() for parameter in parameters])
        self.buffers = [part.view_as(weight) for part, weight in zip(parts, parameters, strict=True)]
        self.seen: Counter[tuple] = Counter()
        self.graphs: dict[tuple, Recorded] = {}
        self.recorder = recorder or StepRecorder()
        self.failed = ""  # why recording failed, after which nothing is recorded any more

    def run(self, step: Step, batch: dict[str, Any], items: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, as `step(batch, items)` gives it."""
        self.use_buffers()  # for computed steps too: gradients of their own would take as much memory again
        shapes = tuple((key, value.shape) for key, value in batch.items())
        self.seen[shapes] += 1
        if shapes not in self.graphs and self.is_worth_recording(shapes):
            self.record(shapes, step, batch, items)
        if shapes not in self.graphs:
            return step(batch, items)
        return self.graphs[shapes].replay(batch, items)

    def is_worth_recording(self, shapes: tuple) -> bool:
        """Whether these shapes have come before: the first step with them prepares what kernels need."""
        return not self.failed and self.seen[shapes] > 1 and len(self.graphs) < MAX_GRAPHS

    def record(self, shapes: tuple, step: Step, batch: dict[str, Any], items: torch.Tensor) -> None:
        """Keeps the graph of a step. If that fails, it warns once, and steps are computed from then on."""
        try:
            self.graphs[shapes] = self.recorder.record(step, batch, items)
        except Exception as error:  # of any kind: out of memory, a compiler's, a driver's, a library's
            self.failed = state_reason(error)
            words = f"Steps are not recorded as CUDA graphs any more ({self.failed}), but computed."
            warnings.warn(words, stacklevel=2)

    def use_buffers(self) -> None:
        """Makes `grad` of the parameters the buffers that graphs add to, with the values it has."""
        if all(parameter.grad is None for parameter in self.parameters):  # the optimizer took a step
            self.gradients.zero_()
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            if parameter.grad is not None and parameter.grad is not buffer:
                buffer.copy_(parameter.grad)
            parameter.grad = buffer


class StepRecorder:
    """Records steps on the GPU, as graphs that share a pool of memory."""

    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()  # graphs never run at the same time
        self.stream = torch.cuda.Stream()

    def record(self, step: Step, batch: dict[str, Any], items: torch.Tensor) -> "StepGraph":
        """The graph of a step. After an error the GPU can be used on."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what earlier steps used cannot be used by the graph
        try:
            return StepGraph(step, batch, items, self.pool, self.stream)
        except Exception:
            self.stream = torch.cuda.Stream()  # one whose recording failed is not used again
            torch.cuda.synchronize()
            raise


class StepGraph:
    """The recorded step of one shape of batch."""

    def __init__(self, step: Step, batch: dict[str, Any], items: torch.Tensor, pool: Any, stream: Any):
        self.batch = {key: value.clone() for key, value in batch.items()}
        self.items = items.clone()
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may go on using CUDA while this one records.
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.loss = step(self.batch, self.items)

    def replay(self, batch: dict[str, Any], items: torch.Tensor) -> torch.Tensor:
        """The loss of another batch of the same shape; its gradients are added to the buffers."""
        for key, value in batch.items():
            self.batch[key].copy_(value, non_blocking=True)
        self.items.copy_(items)
        self.graph.replay()
        return self.loss.clone()
