"""Work that is recorded on a GPU, and called elsewhere."""

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
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    with pytest.warns(UserWarning, match="operation not permitted when stream is capturing$"):
        assert work()[0].tolist() == [0.0, 2.0, 4.0]
    values.fill_(1.0)
    assert work()[0].tolist() == [2.0] * 3
    assert len(tries) == 1 and len(calls) == 2


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
