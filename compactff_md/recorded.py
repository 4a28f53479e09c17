"""Work on a GPU that is the same at every step: recorded once as a CUDA graph, and played again."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # calls before one is recorded, in which libraries and compilers make what they keep

WIDTH_STEP = 4  # widths of tables are multiples, so that few shapes are recorded
# Tables with more entries are computed as they are: a graph keeps its memory, and large kernels hide their
# launches. Judged, not measured.
RECORDED_PAIRS = 500_000

_one_at_a_time = threading.Lock()  # PyTorch records one graph at a time in a process


def rounded_width(width: int) -> int:
    """The next multiple of ``WIDTH_STEP``."""
    return -(-width // WIDTH_STEP) * WIDTH_STEP


class Recorded:
    """A function of tensors that stay where they are, whose values the caller changes in place.

    A step of a small system is some 300 kernels of a few microseconds, and to launch each of them takes
    longer. Played from a graph they follow each other. The results are tensors that the next call overwrites.

    Parameters
    ----------
    function
        Without arguments and without waiting for the device: the shapes of all that it does are those of the
        first call. What refers back to this object keeps the graph's memory until Python looks for cycles.
    device
        Where its tensors are; on another than a GPU the function is called as it is, and so it is, after a
        warning, where the recording fails. What is recorded after a failure may fail as well.
    """

    def __init__(self, function: Callable[[], tuple[Tensor, ...]], device: torch.device) -> None:
        self.function, self.device = function, device
        self.records = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: tuple[Tensor, ...] = ()

    def __call__(self) -> tuple[Tensor, ...]:
        """Results for what the tensors hold now."""
        if self.records and self._graph is None:
            self._graph = self._tried()
        if self._graph is None:
            return self.function()
        self._graph.replay()
        return self._results

    def _tried(self) -> torch.cuda.CUDAGraph | None:
        try:
            # The stream is named because a recording that fails does not go back to it by itself.
            with _one_at_a_time, torch.cuda.device(self.device), torch.cuda.stream(_current(self.device)):
                return self._record()
        except RuntimeError as error:  # of CUDA, and of PyTorch where it must not be asked while it records
            self.records = False
            reason = error.__context__ or error  # the end of the recording fails in turn, and tells nothing
            first = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
            warnings.warn(f"no CUDA graph could be recorded, steps take longer: {first}", stacklevel=3)
            return None

    def _record(self) -> torch.cuda.CUDAGraph:
        side, current = torch.cuda.Stream(self.device), _current(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # On a stream of this GPU: PyTorch's own is of the first one that recorded; the graph would be empty.
        # Only this thread's mistakes end the recording: others may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            self._results = self.function()
        return graph


def _current(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.current_stream(device)
