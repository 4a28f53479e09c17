"""Each fault is caught by the test named for it, and a correct student passes."""

from dataclasses import replace

import numpy as np
import pytest

from compactff_md.validation import (
    agreement,
    conservation,
    dynamics,
    forces,
    smoothness,
    stability,
    structure,
    symmetry,
    thermodynamics,
)
from compactff_md.validation.engine_ase import ASEEngine
from compactff_md.validation.outcome import Section
from validation_builders import PairPotential, campaign, crystal, molecule, subject, verdicts

# What is wrong -> the test that must fail, and where that needs a cell.
SYMMETRY = {
    "units": ("derivative.forces", False),
    "not the gradient": ("derivative.forces", False),
    "float16": ("derivative.forces", False),
    "virial sign": ("derivative.stress", True),
    "orientation": ("symmetry.rotation", False),
    "handed": ("symmetry.reflection", False),
    "order": ("symmetry.permutation", False),
    "place": ("symmetry.force_sum", False),
    "size": ("symmetry.extensivity", False),
}
SMOOTHNESS = {
    "cutoff": "smoothness.energy",
    "kink": "smoothness.force",
    "hole": "short_range.repulsion",
}


class Distorted(ASEEngine):
    """An engine with a fault of its own."""

    def __init__(self, fault: str) -> None:
        super().__init__(PairPotential("float16" if fault == "float16" else ""), fault)
        self.fault = fault

    def single_point(self, frame):
        energy, force = super().single_point(frame)
        return (1.001 * energy, 1.001 * force) if self.fault == "units" else (energy, force)

    def run(self, frame, task, start=None, tick=None, **options):
        run = super().run(frame, task, start, tick, **options)
        if self.fault == "masses":
            return replace(run, masses_Da=run.masses_Da * np.where(run.numbers == 6, 13.0 / 12.0, 1.0))
        if self.fault == "drift":
            return _heated(run, 1e-3)
        return run


def _heated(run, eV_per_ps):
    """As of forces that are no derivatives: what the run gains is shared by both energies."""
    gained_eV = 0.5 * eV_per_ps * run.time_ps
    return replace(run, potential_eV=run.potential_eV + gained_eV, kinetic_eV=run.kinetic_eV + gained_eV)


class Unequilibrated(ASEEngine):
    """Turns its kinetic energy into potential energy while it runs."""

    def run(self, frame, task, start=None, tick=None, **options):
        run = super().run(frame, task, start, tick, **options)
        kinetic_eV = run.kinetic_eV * np.exp(-run.time_ps / run.time_ps[-1])
        return replace(run, kinetic_eV=kinetic_eV, potential_eV=run.total_eV - kinetic_eV)


def frame_of(periodic: bool):
    return crystal() if periodic else molecule()


class TestSymmetry:
    @pytest.mark.parametrize("periodic", [False, True])
    def test_a_correct_student_passes(self, tmp_path, periodic):
        found = symmetry.run(campaign(tmp_path, subject(), frame_of(periodic), replica_ps=0.02, replicas=1))
        assert set(verdicts(found).values()) == {"pass"}, found
        assert ("derivative.stress" in verdicts(found)) == periodic

    @pytest.mark.parametrize("fault", SYMMETRY)
    def test_faults(self, tmp_path, fault):
        test, periodic = SYMMETRY[fault]
        student = subject(fault)
        found = symmetry.run(campaign(tmp_path, student, frame_of(periodic), replica_ps=0.02, replicas=1))
        assert verdicts(found)[test] == "fail", found


class TestSmoothness:
    def test_a_correct_student_passes(self, tmp_path):
        found = smoothness.run(campaign(tmp_path, subject()))
        assert set(verdicts(found).values()) == {"pass"}, found
        assert len(found.pictures) == 2

    @pytest.mark.parametrize("fault", SMOOTHNESS)
    def test_faults(self, tmp_path, fault):
        found = verdicts(smoothness.run(campaign(tmp_path, subject(fault))))
        assert found[SMOOTHNESS[fault]] == "fail", found


class TestForces:
    def test_a_correct_student_passes(self, tmp_path):
        found = verdicts(forces.run(campaign(tmp_path, subject(), replica_ps=0.2, stability_ps=0.2)))
        assert set(found.values()) <= {"pass", "info", "undecided"}, found
        assert found["forces.own_frames.rmse [450 K]"] == "pass"

    @pytest.mark.parametrize(
        ("fault", "depth", "test"),
        [("swapped", 1.0, "r2"), ("swapped", 1.0, "rmse"), ("", 0.9, "magnitude")],
    )
    def test_faults(self, tmp_path, fault, depth, test):
        student = subject(fault, depth=depth)
        section = forces.run(campaign(tmp_path, student, replica_ps=0.2, stability_ps=0.2))
        assert verdicts(section)[f"forces.own_frames.{test} [300 K]"] == "fail", section

    def test_stress_of_a_crystal_with_the_wrong_sign(self, tmp_path):
        student = campaign(tmp_path, subject("virial sign"), crystal(), replica_ps=0.02, stability_ps=0.1)
        assert verdicts(forces.run(student))["stress.own_frames.rmse [300 K]"] == "fail"


@pytest.mark.slow
class TestConservation:
    def found(self, folder, engine=None, **changes) -> Section:
        bench = campaign(folder, subject(), **changes)
        if engine is not None:
            bench._kept[("engine", "ase", "float32")] = engine
        return conservation.run(bench)

    def test_a_correct_student_passes(self, tmp_path):
        assert set(verdicts(self.found(tmp_path)).values()) <= {"pass", "info"}, self.found(tmp_path)

    def test_drift(self, tmp_path):
        assert verdicts(self.found(tmp_path, Distorted("drift")))["conservation.drift [float32]"] == "fail"

    def test_noise_does_not_fall_with_the_timestep(self, tmp_path):
        section = self.found(tmp_path, Distorted("float16"), law_timesteps_fs=(0.05, 0.1, 0.2), law_ps=0.3)
        assert verdicts(section)["conservation.exponent [float32]"] == "fail", section

    def test_equilibration_is_no_drift(self, tmp_path):
        section = self.found(tmp_path, Unequilibrated(PairPotential()))
        drift = next(f for f in section.findings if f.key == "conservation.drift")
        assert drift.verdict == "undecided" and "not equilibrated" in drift.note

    def test_too_short_for_a_verdict(self, tmp_path):
        section = self.found(tmp_path, conservation_ps=0.05)
        drift = next(f for f in section.findings if f.key == "conservation.drift")
        assert drift.verdict == "undecided" and "frames" in drift.note


class TestStability:
    def test_a_correct_student_lasts_and_is_undecided_for_long_runs(self, tmp_path):
        found = verdicts(stability.run(campaign(tmp_path, subject())))
        assert found["stability.survived [300 K]"] == found["stability.survived [450 K]"] == "pass"
        assert found["stability.failure_rate [300 K]"] == "undecided"

    def test_a_student_that_falls_apart(self, tmp_path):
        found = verdicts(stability.run(campaign(tmp_path, subject("", depth=0.01), stability_ps=1.0)))
        assert found["stability.survived [450 K]"] == "fail"
        assert found["stability.failure_rate [450 K]"] == "fail"


@pytest.mark.slow
class TestDistributions:
    def test_a_correct_student_is_not_failed(self, tmp_path):
        found = verdicts(structure.run(campaign(tmp_path, subject(), replica_ps=4.0)))
        assert found.keys() >= {"structure.distances", "structure.angles"}
        assert "fail" not in found.values(), found

    def test_bonds_too_long(self, tmp_path):
        bench = campaign(tmp_path, subject("", length=1.04), replica_ps=4.0)
        assert verdicts(structure.run(bench))["structure.distances"] == "fail"


@pytest.mark.slow
class TestDynamics:
    def test_a_correct_student_is_not_failed(self, tmp_path):
        found = verdicts(dynamics.run(campaign(tmp_path, subject())))
        assert (
            found["dynamics.harmonic"] == found["dynamics.minimum"] == found["dynamics.imaginary"] == "pass"
        )
        assert found["dynamics.vdos"] != "fail"

    def test_too_soft(self, tmp_path):
        # Frequencies fall by 45 %; by 23 % (a depth of 0.6) the spectra, as wide as they are, differ by 0.04.
        found = verdicts(dynamics.run(campaign(tmp_path, subject("", depth=0.3))))
        assert found["dynamics.harmonic"] == "fail" and found["dynamics.vdos"] == "fail", found


class TestThermodynamics:
    def test_a_correct_student_passes(self, tmp_path):
        bench = campaign(tmp_path, subject(), crystal(), replica_ps=0.05)
        found = verdicts(thermodynamics.run(bench))
        assert set(found.values()) == {"pass"}, found

    def test_too_soft(self, tmp_path):
        bench = campaign(tmp_path, subject("", depth=0.7), crystal(), replica_ps=0.05)
        found = verdicts(thermodynamics.run(bench))
        assert found["volume.bulk_modulus"] == found["volume.elastic"] == found["volume.energy"] == "fail"


class TestEngines:
    def found(self, folder, fault: str) -> dict[str, str]:
        bench = campaign(folder, subject(), replica_ps=0.05, replicas=1)
        engine = Distorted(fault)
        findings = agreement.compare_points(bench, engine, fault) + agreement.compare_runs(
            bench, engine, fault
        )
        return {finding.key: finding.verdict for finding in findings}

    def test_a_correct_engine_passes(self, tmp_path):
        assert set(self.found(tmp_path, "").values()) == {"pass"}

    @pytest.mark.parametrize(
        ("fault", "test"),
        [("units", "engines.energy"), ("units", "engines.forces"), ("masses", "engines.masses")],
    )
    def test_faults(self, tmp_path, fault, test):
        assert self.found(tmp_path, fault)[test] == "fail"
