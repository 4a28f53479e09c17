from types import SimpleNamespace

import pytest

from compactff_md.training import bench_aspirin


def test_dynamics_that_have_begun_are_resumed(tmp_path, monkeypatch):
    """Also where they were interrupted before their first restart file."""
    asked = []

    def run_md(*_, resume, **__):
        asked.append(resume)
        return SimpleNamespace(completed=False, time_ps=0.0)

    monkeypatch.setattr(bench_aspirin, "distill", lambda *_: SimpleNamespace(student=None))
    monkeypatch.setattr(bench_aspirin, "load_student", lambda _: (None, None))
    monkeypatch.setattr(bench_aspirin, "read_structures", lambda *_: [None])
    monkeypatch.setattr(bench_aspirin, "run_md", run_md)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="run it again to go on"):
            bench_aspirin.run_one("tiny", "aspirin.xyz", 1.0, 1.0, str(tmp_path))
        (tmp_path / "nve").mkdir(exist_ok=True)
        (tmp_path / "nve" / "settings.json").write_text("{}")
    assert asked == [False, True]
