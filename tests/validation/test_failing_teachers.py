"""Teachers that fail, or cannot do everything: a report all the same, which says what they did."""

import json
import subprocess

import ase.build
import pytest

from compactff_md.structure import Structure
from compactff_md.validation import dynamics, suite, thermodynamics
from compactff_md.validation.suite import Assignment, validate
from validation_builders import SETTINGS, PairPotential, Teacher, campaign, crystal, molecule, subject

SHORT = SETTINGS.model_copy(
    update={"replicas": 1, "replica_ps": 0.04, "stability_ps": 0.1, "equilibration_ps": 0.02}
)
PEROXIDE = Structure.from_ase(ase.build.molecule("H2O2"))


class NoStress(PairPotential):
    implemented_properties = ("energy", "forces")

    def calculate(self, *args, **options) -> None:
        super().calculate(*args, **options)
        self.results.pop("stress", None)


class Failing(PairPotential):
    """Fails as programs do, on structures that it cannot do."""

    def __init__(self, error: BaseException, is_hard) -> None:
        super().__init__()
        self.error, self.is_hard = error, is_hard

    def calculate(self, atoms=None, properties=None, system_changes=None) -> None:
        if self.is_hard(atoms):
            raise self.error
        super().calculate(atoms, properties, system_changes)


class TeacherOf(Teacher):
    def __init__(self, make) -> None:
        self.calculator = make


def report_of(folder, make, structure, *sections, **changes):
    settings = SHORT.model_copy(update={"sections": sections, **changes})
    job = Assignment(subject(), TeacherOf(make), [structure], settings, engine="ase")
    report = validate(job, folder)
    assert json.loads((folder / "report.json").read_text())["verdict"] == report.verdict
    return {finding.name: finding for finding in report.findings}


def failing(error, is_hard=lambda atoms: True):
    return lambda: Failing(error, is_hard)


def strained(atoms) -> bool:
    return abs(atoms.get_volume() / crystal().volume_A3 - 1) > 0.05


def near(atoms) -> bool:
    """The hydrogens of the peroxide on the same side."""
    return abs((atoms.get_dihedral(2, 0, 1, 3) + 180) % 360 - 180) < 40


class TestTeachersThatFail:
    @pytest.mark.parametrize(
        "error", [ValueError("no SCF"), subprocess.CalledProcessError(1, "dft"), FileNotFoundError("no dft")]
    )
    def test_always(self, tmp_path, error):
        found = report_of(tmp_path, failing(error), molecule(), "forces", "dynamics", "symmetry")
        for section in ("forces", "dynamics"):
            finding = found[f"suite.ran [{section}]"]
            assert finding.verdict == "undecided"
            assert type(error).__name__ in finding.note and str(error) in finding.note
        assert found["derivative.forces"].verdict == "pass"

    def test_in_frequencies(self, tmp_path):
        bench = campaign(tmp_path, subject())
        bench.teacher = TeacherOf(failing(ValueError("no SCF")))
        ((finding,), _) = dynamics._harmonic(bench)
        assert finding.verdict == "undecided" and "ValueError: no SCF" in finding.note

    def test_at_some_volumes(self, tmp_path):
        make = failing(ValueError("no SCF"), strained)
        found = report_of(tmp_path, make, crystal(), "thermodynamics")
        assert found["volume.energy"].verdict == "undecided" and "no SCF" in found["volume.energy"].note
        assert found["volume.elastic"].verdict == found["reweighting.share"].verdict == "pass"

    @pytest.mark.parametrize(
        ("is_hard", "failures", "verdict"), [(near, 5, "pass"), (lambda atoms: True, 24, "undecided")]
    )
    def test_at_angles(self, tmp_path, is_hard, failures, verdict):
        bench = campaign(tmp_path, subject(), PEROXIDE, replica_ps=0.02)
        bench.teacher = TeacherOf(failing(ValueError("no SCF"), is_hard))
        section = thermodynamics.run(bench)
        (finding,) = [finding for finding in section.findings if finding.key == "torsion.profile"]
        assert finding.verdict == verdict
        assert f"the teacher fails at {failures} of 24 angles" in finding.note
        assert len(section.pictures) == (verdict == "pass")

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
    def test_what_is_no_failure_of_the_teacher_is_seen(self, tmp_path, monkeypatch, error):
        if isinstance(error, KeyboardInterrupt):
            make = failing(error)
        else:
            make = PairPotential

            def broken(campaign):
                raise error

            monkeypatch.setitem(suite.TESTS, "forces", broken)
        with pytest.raises(type(error)):
            report_of(tmp_path, make, molecule(), "forces")


class TestTeachersWithoutStress:
    def test_forces(self, tmp_path):
        found = report_of(tmp_path, NoStress, crystal(), "forces")
        assert found["forces.own_frames.rmse [300 K]"].verdict == "pass"
        stress = found["stress.own_frames.rmse [300 K]"]
        assert stress.verdict == "undecided" and "no stress" in stress.note

    def test_strain(self, tmp_path):
        found = report_of(tmp_path, NoStress, crystal(), "thermodynamics")
        assert found["volume.elastic"].verdict == "undecided" and "stress" in found["volume.elastic"].note
        assert found["volume.energy"].verdict == found["volume.bulk_modulus"].verdict == "pass"

    def test_constant_pressure(self, tmp_path):
        found = report_of(tmp_path, NoStress, crystal(), "structure", pressure_bar=1.0)
        finding = found["suite.ran [structure at constant pressure]"]
        assert finding.verdict == "undecided" and "stress" in finding.note
        assert "structure.distances" in found
