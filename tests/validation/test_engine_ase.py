"""Runs of the teachers' engine that are killed go on where they were."""

from dataclasses import fields

import numpy as np
import pytest

from compactff_md.errors import CompactFFError
from compactff_md.locks import lock
from compactff_md.structure import Structure
from compactff_md.validation import engine_ase
from compactff_md.validation.engine_ase import ASEEngine
from compactff_md.validation.task import Task
from validation_builders import PairPotential, campaign, crystal, molecule, subject


class Killed(BaseException):
    pass


class Mortal(PairPotential):
    """Ends the process after so many evaluations."""

    def __init__(self, left: int | None = None) -> None:
        super().__init__()
        self.left = left

    def calculate(self, *args, **options) -> None:
        if self.left == 0:
            raise Killed
        self.left = None if self.left is None else self.left - 1
        super().calculate(*args, **options)


@pytest.fixture(autouse=True)
def _saved_at_every_step(monkeypatch):
    monkeypatch.setattr(engine_ase, "SAVE_EVERY_S", 0.0)


def the_same(a, b):
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
@pytest.mark.parametrize("evaluations", [8, 21, 22, 40])
def test_killed_and_run_again(tmp_path, ensemble, evaluations):
    """In the equilibration of 20 steps, at its end, and after it."""
    pressure = 1e4 if ensemble == "npt" else None
    task = Task(ensemble, 300.0, 1.0, 40, 4, 7, equilibration_steps=20, pressure_bar=pressure)
    atoms = crystal() if ensemble == "npt" else molecule()
    whole = ASEEngine(PairPotential()).run(atoms, task)
    assert len(whole) == 11 and not whole.failure
    unfinished = tmp_path / "unfinished.npz"
    with pytest.raises(Killed):
        ASEEngine(Mortal(evaluations)).run(atoms, task, unfinished=unfinished)
    second = Mortal()
    counted = []
    second.calculate = lambda *a, **k: (counted.append(1), Mortal.calculate(second, *a, **k))
    assert the_same(ASEEngine(second).run(atoms, task, unfinished=unfinished), whole)
    # One more than the steps that are left, where the energy of the saved positions is asked for.
    assert len(counted) <= 60 - (evaluations - 1) + 1


def test_a_report_goes_on_in_the_middle_of_a_teachers_replica(tmp_path):
    whole = campaign(tmp_path / "whole", subject(), replica_ps=0.02).teacher_replicas()
    cut = campaign(tmp_path / "cut", subject(), replica_ps=0.02)
    cut._kept["teacher"] = ASEEngine(Mortal(420), "teacher")
    with pytest.raises(Killed):
        cut.teacher_replicas()
    left = list((tmp_path / "cut").rglob("*.unfinished.npz"))
    assert len(left) == 1
    again = campaign(tmp_path / "again", subject(), replica_ps=0.02)
    again.stages.path = tmp_path / "cut"
    assert all(the_same(a, b) for a, b in zip(again.teacher_replicas(), whole, strict=True))
    assert not left[0].exists()


def test_replicas_that_another_process_makes_are_waited_for_last(tmp_path):
    class Noting(ASEEngine):
        def run(self, structure, task, *args, **options):
            made.append(task.seed)
            held.close()  # the other has finished, or was killed
            return super().run(structure, task, *args, **options)

    expected = campaign(tmp_path / "alone", subject(), replica_ps=0.02).teacher_replicas()
    bench, made = campaign(tmp_path / "beside", subject(), replica_ps=0.02), []
    bench.stages.shared = tmp_path / "shared"
    bench._kept["teacher"] = Noting(PairPotential(), "teacher")
    path = tmp_path / "shared" / "runs" / bench.place / "teacher-replica-0.lock"
    path.parent.mkdir(parents=True)
    held = path.open("w")
    assert lock(held)
    runs = bench.teacher_replicas()
    assert made == [bench.seed("teacher", 1), bench.seed("teacher", 0)]
    assert all(the_same(a, b) for a, b in zip(runs, expected, strict=True))


def test_a_damaged_file_is_not_gone_on_from(tmp_path):
    path, task = tmp_path / "unfinished.npz", Task("nvt", 300.0, 1.0, 40, 4, 1)
    with pytest.raises(Killed):
        ASEEngine(Mortal(20)).run(molecule(), task, unfinished=path)
    for content in (b"half", path.read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(CompactFFError, match="delete it and run again"):
            ASEEngine(PairPotential()).run(molecule(), task, unfinished=path)


def test_the_thermostat_does_not_kick_along_the_velocities_that_were_drawn():
    """Free atoms, and a friction that leaves exp(-2) of their velocities after a step."""
    sites = 6.0 * np.stack(np.meshgrid(*[np.arange(9)] * 3), -1).reshape(-1, 3)
    run = ASEEngine(PairPotential()).run(
        Structure(sites, [6] * len(sites)), Task("nvt", 300.0, 1.0, 1, 1, 3, friction_per_ps=2000.0)
    )
    before, after = run.velocities_A_per_fs[:2]
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] == pytest.approx(np.exp(-2.0), abs=0.1)
