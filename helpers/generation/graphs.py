"""CUDA graphs: the kernels of a step are recorded once and then started together.

Python takes 5 to 10 microseconds to start a kernel, and a pass over one token has thousands, most of which
run for less. A replayed graph starts all of them in one call. This is the only module of the room that needs
CUDA; a recorder is a parameter of those that use it. Source:
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

Outputs = TypeVar("Outputs")

WARM_UPS = 3  # what PyTorch's notes recommend: kernels are chosen and workspaces allocated by then


@cache
def get_side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all recordings on a device: cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device)


class GraphRecorder:
    """Records graphs on one device, which share a pool of memory.

    Each graph may overwrite what another one computed: outputs must be read before the next replay.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = get_side_stream(device)

    def record(self, compute: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """A function that replays `compute`, and returns its outputs, tensors which are the same each time.

        `compute` runs several times, on the inputs as they are now, so it must not count its calls. It may
        not wait for the device, nor move its inputs. Raises RuntimeError if it cannot be recorded; the device
        can be used afterwards.
        """
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(before)
        try:
            with torch.cuda.stream(self.stream):  # comes back to `before`, even from a failed recording
                for _ in range(WARM_UPS):
                    compute()
                # "thread_local": other threads may use the device meanwhile, to prepare their requests.
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    outputs = compute()
            before.wait_stream(self.stream)
        except Exception:
            get_side_stream.cache_clear()  # a stream whose recording failed is not used again
            raise
        finally:
            torch.cuda.synchronize(self.device)

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay
