"""An exported file is the student, or is caught; OpenMM runs the student as ASE does."""

from dataclasses import replace

import ase.build
import pytest

from compactff_md import students
from compactff_md.artifact import describe
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.student import Student
from compactff_md.validation import agreement, exported
from compactff_md.validation.subject import canonical, make_engine, subject_of
from openmm_builders import SLANTED, box
from validation_builders import campaign, verdicts


def student(seed: int) -> Student:
    network = students.create("ultra-tiny", ["H", "C", "O"], seed=seed).eval()
    network.energy_scale_eV.fill_(1.0)  # forces far above what files may differ by
    return Student(network, describe(network))


@pytest.fixture
def bench(tmp_path):
    water = Structure.from_ase(ase.build.molecule("H2O"))
    return campaign(tmp_path / "out", subject_of(student(1), "one"), water, replicas=1, replica_ps=0.01)


class TestFiles:
    def test_own_files_pass(self, bench):
        found = verdicts(exported.run(bench))
        assert set(found.values()) == {"pass"} and "export.mliap.weights" in found, found

    def test_a_file_from_other_weights(self, bench, tmp_path):
        other = student(2)
        path = other.export(tmp_path / "other.pt", dtype="float64")
        found = exported.compare_file(bench, path, bench.calculator("float64"), [bench.structure], "")
        assert {f.key: f.verdict for f in found}["export.torchscript.forces"] == "fail"
        path = other.export(tmp_path / "other.mliap.pt", format="mliap")
        assert exported.same_weights(bench, path, bench.subject.student).verdict == "fail"

    def test_no_file_of_ours(self, bench, tmp_path):
        path = student(1).export(tmp_path / "one.pt")
        with pytest.raises(CompactFFError, match="no ML-IAP file"):
            exported.same_weights(bench, path, bench.subject.student)


class TestOpenMM:
    @pytest.fixture(autouse=True)
    def _openmm(self):
        pytest.importorskip("openmm")

    def test_engines_agree(self, bench):
        findings = agreement.run(replace(bench, _kept={})).findings
        assert {f.subject for f in findings} >= {"openmm-python"}
        assert "fail" not in {f.verdict for f in findings}, findings

    def test_a_slanted_box(self):
        frame = canonical(box(SLANTED[[1, 2, 0]]), "openmm")  # the same cell in an order that OpenMM refuses
        one = subject_of(student(1), "one")
        energy, forces = make_engine("openmm-python", one).single_point(frame)
        expected, expected_forces = make_engine("ase", one).single_point(frame)
        assert energy == pytest.approx(expected, abs=1e-4)
        assert forces == pytest.approx(expected_forces, abs=1e-3)
