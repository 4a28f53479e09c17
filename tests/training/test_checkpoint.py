import pickle

import pytest
import torch

from compactff_md.errors import CompactFFError
from compactff_md.training.checkpoint import TrainState, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def test_what_is_saved_is_loaded(tmp_path):
    state = TrainState(step=7, epoch=2, position=3, elapsed_s=1.5, history=[{"step": 7.0}])
    save_checkpoint(tmp_path / "c.pt", state, {"w": torch.ones(2)}, torch.zeros(3), {"state": {}})
    again, content = load_checkpoint(tmp_path / "c.pt", CPU)
    assert again == state
    assert torch.equal(content["weights"]["w"], torch.ones(2))
    assert torch.equal(content["average"], torch.zeros(3))


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_is_executed(tmp_path, capsys):
    torch.save({"format_version": 1, "state": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(CompactFFError, match=r"is damaged, or no checkpoint.*remove"):
            load_checkpoint(tmp_path / name, CPU)
    assert "executed" not in capsys.readouterr().out


def test_another_version_is_refused(tmp_path):
    torch.save({"format_version": 2}, tmp_path / "c.pt")
    with pytest.raises(CompactFFError, match="has version 2, expected 1"):
        load_checkpoint(tmp_path / "c.pt", CPU)
