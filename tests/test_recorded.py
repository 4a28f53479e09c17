"""Work that is recorded on a GPU, and called elsewhere."""

import gc
import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from compactff_md.recorded import Recorded

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


def doubled(device):
    values = torch.arange(3.0, device=device)
    calls = []

    def work():
        calls.append(1)
        return (2.0 * values,)

    return values, calls, Recorded(work, torch.device(device))


class Stream:
    def __init__(self, device):
        self.device = device

    def wait_stream(self, other):
        assert other.device == self.device


def without_gpu(monkeypatch):
    """PyTorch's words for streams, on a machine that has no GPU."""
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)


def test_on_the_cpu_the_function_is_called():
    values, calls, work = doubled("cpu")
    for k in range(3):
        values.fill_(k)
        assert work()[0].tolist() == [2.0 * k] * 3
    assert len(calls) == 3


def test_what_cannot_be_recorded_is_called_after_a_warning(monkeypatch):
    values, calls, work = doubled("cpu")
    work.records = True
    tries = []

    def fail():
        tries.append(1)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(work, "_record", fail)
    without_gpu(monkeypatch)
    with pytest.warns(UserWarning, match="operation not permitted when stream is capturing$"):
        assert work()[0].tolist() == [0.0, 2.0, 4.0]
    values.fill_(1.0)
    assert work()[0].tolist() == [2.0] * 3
    assert len(tries) == 1 and len(calls) == 2


def test_the_reason_is_told_and_not_what_follows_from_it(monkeypatch):
    """PyTorch's end of a recording fails in turn where something in it has failed."""
    *_, work = doubled("cpu")
    work.records = True

    def fail():
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    without_gpu(monkeypatch)
    monkeypatch.setattr(work, "_record", fail)
    with pytest.warns(UserWarning, match="operation not permitted when stream is capturing$"):
        work()


def test_recorded_is_on_a_stream_of_its_own_gpu(monkeypatch):
    """PyTorch's own is of the first GPU that recorded: a second one's graph would be empty."""
    streams = []

    class Graph:
        def replay(self):
            pass

    def graph(graph, pool=None, stream=None, capture_error_mode="global"):
        streams.append(stream)
        return nullcontext()

    without_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    for device in (torch.device("cuda", 0), torch.device("cuda", 1)):
        Recorded(lambda: (torch.zeros(1),), device)()
        assert streams.pop().device == device


def test_nothing_is_left_when_nobody_has_it_any_more():
    """Without waiting for Python to look for cycles: a graph has much memory."""
    values = torch.arange(3.0)
    work = Recorded(partial(lambda x: (2.0 * x,), values), torch.device("cpu"))
    work()
    left = weakref.ref(work)
    gc.disable()
    try:
        del work
        assert left() is None
    finally:
        gc.enable()


@needs_gpu
def test_on_a_gpu_it_is_played_with_what_the_tensors_hold():
    values, calls, work = doubled("cuda")
    for k in range(5):
        values.fill_(k)
        assert work()[0].tolist() == [2.0 * k] * 3
    assert len(calls) == 4  # three to warm up, one to record


@needs_gpu
def test_on_a_gpu_what_waits_for_the_device_is_called():
    values = torch.arange(3.0, device="cuda")
    work = Recorded(lambda: (values * float(values.sum()),), torch.device("cuda"))
    with pytest.warns(UserWarning, match="no CUDA graph"):
        assert work()[0].tolist() == [0.0, 3.0, 6.0]
    values.fill_(1.0)
    assert work()[0].tolist() == [3.0] * 3
    values, _, other = doubled("cuda")
    values.fill_(2.0)
    assert other()[0].tolist() == [4.0] * 3  # the failure of the one before does not hinder it
