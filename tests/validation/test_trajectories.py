"""Trajectories that were run before, against those of a reference."""

import ase.build
import ase.io
import numpy as np
import pytest
from ase import Atoms

from compactff_md.errors import CompactFFError
from compactff_md.validation.thresholds import Thresholds
from compactff_md.validation.trajectories import analyse, read_trajectory
from validation_builders import SETTINGS, campaign, subject


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("trajectories")
    bench = campaign(tmp_path / "runs", subject(), replica_ps=2.0)
    long = campaign(tmp_path / "long", subject("", length=1.05), replica_ps=2.0)
    for name, runs in (("own", long.student_replicas()), ("theirs", bench.student_replicas())):
        for k, run in enumerate(runs):
            frames = [Atoms(run.numbers, x) for x in run.positions_A]
            ase.io.write(tmp_path / f"{name}-{k}.xyz", frames, format="xyz")
    return tmp_path


class TestTrajectories:
    @pytest.fixture(autouse=True)
    def _mdanalysis(self):
        pytest.importorskip("MDAnalysis")

    def test_compared(self, files):
        own, theirs = ([files / f"{name}-{k}.xyz" for k in range(2)] for name in ("own", "theirs"))
        options = {"settings": SETTINGS, "thresholds": Thresholds()}
        report = analyse(own, own[0], files / "report", references=theirs, **options)
        found = {finding.name: finding.verdict for finding in report.findings}
        assert found["stability.survived"] == "pass" and found["structure.distances"] == "fail"
        same = analyse(theirs, own[0], files / "same", references=theirs[::-1], **options)
        assert "fail" not in {finding.verdict for finding in same.findings}
        alone = analyse(own, own[0], files / "alone", **options)
        assert list(alone.sections) == ["stability"]

    def test_files_without_times_have_frames_of_the_settings(self, files):
        run = read_trajectory(files / "own-0.xyz", files / "own-0.xyz", SETTINGS)
        assert run.time_ps[:3] == pytest.approx(np.arange(3) * SETTINGS.frame_fs / 1e3)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "no such file"),
            ("3\n\nC 0 0 0\nC 0 0 1\nO 0 1 0\n" * 3, "cannot be read with the topology"),
            ("4\n\nC 0 0 0\nC 0 0 1\nO 0 1 0\nO 1 0 0\n", "has 1 frames; expected at least 2"),
        ],
    )
    def test_bad_files(self, files, tmp_path, content, words):
        path = tmp_path / "bad.xyz"
        if content is not None:
            path.write_text(content)
        with pytest.raises(CompactFFError, match=words):
            analyse([path], files / "own-0.xyz", tmp_path / "out", settings=SETTINGS, thresholds=Thresholds())

    def test_atoms_without_elements(self, tmp_path):
        path = tmp_path / "beads.xyz"
        path.write_text("2\n\nW1 0 0 0\nQQ 0 0 1\n" * 3)
        with pytest.raises(CompactFFError, match="does not tell the elements"):
            analyse([path], path, tmp_path / "out", settings=SETTINGS, thresholds=Thresholds())
