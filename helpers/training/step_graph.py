"""Training steps replayed as CUDA graphs: a GPU starts thousands of kernels by itself.

A step of a small batch is thousands of short kernels, and starting them one by one from Python takes longer
than computing them. A CUDA graph records them once, for tensors of given shapes at given addresses, and
starts all of them with one call. It has the forward and the backward pass; the optimizer's step stays
outside. Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

MAX_GRAPHS = 24  # different shapes; further ones are computed as usual
Step = Callable[[dict[str, Any], torch.Tensor], torch.Tensor]  # (batch, labels in all batches) to the loss


class StepGraphs:
    """Computes the steps of one training: each shape the first time as usual, then as a graph.

    Gradients are added to `grad` of the parameters, as backward passes do it.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]):
        self.parameters = parameters
        # Where graphs add gradients: parts of one tensor, which is set to zero at once.
        one = parameters[0]
        count = sum(parameter.numel() for parameter in parameters)
        self.gradients = torch.zeros(count, dtype=one.dtype, device=one.device)
        parts = self.gradients.split([parameter.numel() for parameter in parameters])
        self.buffers = [part.view_as(weight) for part, weight in zip(parts, parameters, strict=True)]
        self.seen: Counter[tuple] = Counter()
        self.graphs: dict[tuple, StepGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()  # graphs never run at the same time and share their memory
        self.stream = torch.cuda.Stream()
        self.failed = False

    def run(self, step: Step, batch: dict[str, Any], items: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, as `step(batch, items)` gives it."""
        shapes = tuple((key, value.shape) for key, value in batch.items())
        self.seen[shapes] += 1
        if shapes not in self.graphs and not self.is_worth_recording(shapes):
            return step(batch, items)
        if shapes not in self.graphs:
            recorded = self.record(step, batch, items)
            if recorded is None:
                return step(batch, items)
            self.graphs[shapes] = recorded
        self.use_buffers()
        return self.graphs[shapes].replay(batch, items)

    def is_worth_recording(self, shapes: tuple) -> bool:
        """Whether these shapes have come before: the first step with them prepares what kernels need."""
        return not self.failed and self.seen[shapes] > 1 and len(self.graphs) < MAX_GRAPHS

    def record(self, step: Step, batch: dict[str, Any], items: torch.Tensor) -> "StepGraph | None":
        """The graph of a step, which recording does not compute; None, with a warning, if it fails."""
        self.use_buffers()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what earlier steps used cannot be used by the graph
        try:
            return StepGraph(step, batch, items, self.pool, self.stream)
        except RuntimeError as error:  # out of memory is one too
            self.failed = True
            self.stream = torch.cuda.Stream()
            torch.cuda.synchronize()
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"Steps are not recorded as CUDA graphs: {reason}", stacklevel=2)
            return None

    def use_buffers(self) -> None:
        """Makes `grad` of the parameters the buffers that graphs add to, with the values it has."""
        if all(parameter.grad is None for parameter in self.parameters):  # the optimizer took a step
            self.gradients.zero_()
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            if parameter.grad is not None and parameter.grad is not buffer:
                buffer.copy_(parameter.grad)
            parameter.grad = buffer


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
