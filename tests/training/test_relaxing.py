import json

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from compactff_md.teachers import create_teacher
from compactff_md.training.packing import encode_atoms
from compactff_md.training.pool import TeacherPool
from compactff_md.training.progress import Reporter
from compactff_md.training.relaxing import Clock, relax_all, relaxation_calls
from reporters import Notes

NAMES = ("CH3OH", "H2O", "CH4")


class KilledError(Exception):
    pass


class KillAfter(Reporter):
    def __init__(self, done: int) -> None:
        self.most = done

    def update(self, done: float, **numbers: float) -> None:
        if done >= self.most:
            raise KilledError


def relaxed_in(folder, reporter=None, minutes=None, pool=None):
    structures = [molecule(name) for name in NAMES]
    for atoms in structures:
        atoms.positions += np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    clock = Clock(folder / "clock.json", minutes)
    with pool or TeacherPool(create_teacher("ase.calculators.emt:EMT"), 1, folder) as opened:
        return relax_all(structures, [0, 1, 2], 5, opened, folder, reporter or Reporter(), clock)


def test_a_pool_may_say_that_nothing_is_done_yet(tmp_path):
    """A cluster does, every few seconds, so that the clock is kept; the structure counted as relaxed."""

    class Ticking(TeacherPool):
        def run(self, tasks, on_frames, time_left=None):
            for index in range(len(tasks)):
                on_frames(index, 0)
            return super().run(tasks, on_frames, time_left)

    class Progress(Reporter):
        def update(self, done, **numbers):
            seen.append(done)

    seen: list[float] = []
    relaxed_in(tmp_path, Progress(), pool=Ticking(create_teacher("ase.calculators.emt:EMT"), 1, tmp_path))
    assert seen == [0, 0, 0, 1, 2, 3]


@pytest.fixture
def calls(monkeypatch):
    """Atoms of every structure that EMT was asked about."""
    seen: list[int] = []
    calculate = EMT.calculate

    def counted(self, atoms=None, *arguments, **options):
        seen.append(len(atoms))
        calculate(self, atoms, *arguments, **options)

    monkeypatch.setattr(EMT, "calculate", counted)
    return seen


def test_a_kill_loses_no_relaxation_that_is_done_and_every_call_is_counted(tmp_path, calls):
    for done in (1, 2):
        with pytest.raises(KilledError):
            relaxed_in(tmp_path, KillAfter(done))
    relaxed = relaxed_in(tmp_path)
    assert [len(relaxed[k]) for k in range(3)] == [6, 3, 5]
    assert relaxation_calls(tmp_path) == len(calls) <= 3 * 6
    assert calls == sorted(calls, key=[6, 3, 5].index)
    again = relaxed_in(tmp_path)
    assert relaxation_calls(tmp_path) == len(calls) and again == relaxed


def test_what_an_earlier_version_relaxed_is_kept_but_for_nan(tmp_path, calls):
    water, lost = encode_atoms(molecule("H2O")), encode_atoms(molecule("CH4"))
    lost["positions"][2][1] = None
    (tmp_path / "relaxed.json").write_text(json.dumps({"1": water, "2": lost}))
    relaxed = relaxed_in(tmp_path)
    assert relaxed[1] == molecule("H2O") and set(calls) == {6, 5}
    assert all(np.isfinite(atoms.positions).all() for atoms in relaxed.values())


def test_a_teacher_that_fails_on_the_way_is_told_once(tmp_path, monkeypatch, calls):
    counted = EMT.calculate

    def fail(self, atoms=None, *arguments, **options):
        if len(calls) % 2:
            calls.append(0)
            raise RuntimeError("SCF not converged")
        counted(self, atoms, *arguments, **options)

    monkeypatch.setattr(EMT, "calculate", fail)
    reporter = Notes()
    assert len(relaxed_in(tmp_path, reporter)) == 3
    assert reporter.notes == [
        "the relaxation of 3 of 3 structures ended early, where the teacher failed; "
        "of structure 0: RuntimeError: SCF not converged"
    ]


def test_relaxing_takes_at_most_half_of_the_time(tmp_path):
    class Asked(TeacherPool):
        def run(self, tasks, on_frames, time_left=None):
            self.left_s = time_left()
            return super().run(tasks, on_frames, time_left)

    (tmp_path / "clock.json").write_text('{"seconds": 12.0}')
    pool = Asked(create_teacher("ase.calculators.emt:EMT"), 1, tmp_path)
    relaxed_in(tmp_path, minutes=1.0, pool=pool)
    assert 0.0 < pool.left_s <= 18.0


def test_a_relaxation_whose_time_was_over_goes_on_with_more(tmp_path, calls, monkeypatch):
    monkeypatch.setattr("compactff_md.training.pool.LEAST_TIME_S", 0.0)
    short = relaxed_in(tmp_path, minutes=1e-9)
    assert len(calls) == 3 == relaxation_calls(tmp_path)
    assert relaxed_in(tmp_path, minutes=1e-9) == short and len(calls) == 3
    longer = relaxed_in(tmp_path, minutes=5.0)
    assert len(calls) > 6 and relaxation_calls(tmp_path) == len(calls)
    assert all(longer[k] != short[k] for k in range(3))
