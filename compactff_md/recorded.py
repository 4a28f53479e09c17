"""Work on a GPU that is the same at every step: recorded once as a CUDA graph, and played again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # calls before one is recorded, in which libraries and compilers make what they keep


class Recorded:
    """A function of tensors that stay where they are, whose values the caller changes in place.

    A step of a small system is some 300 kernels of a few microseconds, and to launch each of them takes
    longer. Played from a graph they follow each other. The results are tensors that the next call overwrites.

    Parameters
    ----------
    function
        Without arguments and without waiting for the device: the shapes of all that it does are those of the
        first call.
    device
        Where its tensors are; on another than a GPU it is called as it is.
    """

    def __init__(self, function: Callable[[], tuple[Tensor, ...]], device: torch.device) -> None:
        self.function, self.device = function, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: tuple[Tensor, ...] = ()

    def __call__(self) -> tuple[Tensor, ...]:
        """Results for what the tensors hold now."""
        if self.device.type != "cuda":
            return self.function()
        if self._graph is None:
            with torch.cuda.device(self.device):
                self._graph = self._record()
        self._graph.replay()
        return self._results

    def _record(self) -> torch.cuda.CUDAGraph:
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's mistakes end the recording: others may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._results = self.function()
        return graph
