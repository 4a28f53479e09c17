import json
from dataclasses import replace
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators import emt
from ase.io import read, write

from compactff_md.student import load
from compactff_md.teachers import create_teacher
from compactff_md.training import distill as distill_module
from compactff_md.training.config import DistillConfig
from compactff_md.training.dataset import read_labelled
from compactff_md.training.distill import distill
from compactff_md.training.distributed import Team
from compactff_md.training.explore import Visited
from compactff_md.training.generate import Labels
from compactff_md.training.loop import train
from compactff_md.training.pool import TeacherPool
from compactff_md.training.progress import Reporter
from compactff_md.training.recipe_files import make_config
from compactff_md.training.relaxing import Clock
from compactff_md.training.rounds import ROUND_FILE, Round, drawn_starts, label_visited, run_round
from compactff_md.training.runs import RunFolder
from reporters import Notes

EMT = "ase.calculators.emt:EMT"


class KilledError(Exception):
    pass


class KillIn(Reporter):
    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    def start(self, stage: str, total: float) -> None:
        if self.wanted in stage:
            raise KilledError


def config(tmp_path, **fields) -> DistillConfig:
    write(tmp_path / "methanol.xyz", molecule("CH3OH"))
    values = {
        "structures": str(tmp_path / "methanol.xyz"),
        "teacher": EMT,
        "steps": 100,
        "threads": 1,
        "sampling": {
            "test_temperatures_K": [300],
            "test_frames": 5,
            "equilibration_steps": 10,
            "relax_steps": 0,
            "n_workers": 1,
            "shard_seconds": 0,
            "steps": [
                {"kind": "md", "frames": 40, "spacing_steps": 5, "temperatures_K": [300, 600]},
                {"kind": "rattle", "frames": 10},
                {"kind": "modes", "frames": 10},
                {"kind": "torsions", "count": 4},
                {"kind": "contacts", "count": 4, "closeness": [0.9, 0.95]},
            ],
        },
        "rounds": {"most": 1, "labels": 12, "trajectories": 2, "steps": 40, "spacing_steps": 5},
    }
    return make_config(DistillConfig, {**values, **fields})


def test_a_recipe_with_a_round_ends_the_same_whether_killed_or_not(tmp_path):
    settings = config(tmp_path)
    whole = distill(settings, tmp_path / "whole")
    for stage in ("labelling", "student runs", "round 1: labelling"):
        with pytest.raises(KilledError):
            distill(settings, tmp_path / "parts", KillIn(stage))
    parts = distill(settings, tmp_path / "parts")
    for name in ("train.xyz", "rounds/01/labelled.xyz"):
        one, two = (read(tmp_path / run / name, ":") for run in ("whole", "parts"))
        assert len(one) == len(two)
        assert all(np.allclose(a.positions, b.positions, atol=1e-5) for a, b in zip(one, two, strict=True))
    first, second = (r.metrics["errors"]["test_300K"]["forces"]["rmse_meV_per_A"] for r in (whole, parts))
    assert first == pytest.approx(second, rel=1e-2)

    metrics = json.loads(whole.metrics_file.read_text())
    stages = metrics["stages"]
    assert [stage["stage"] for stage in stages] == ["labels", "round 1", "training"]
    assert 0 < stages[1]["labels"] <= 12 and stages[1]["ratio"] > 0
    assert metrics["teacher"]["ok"] is True
    assert set(metrics["uncertainty"]) == {"valid", "test_300K"}
    student = load(whole.folder)
    atoms = molecule("CH3OH")
    atoms.calc = student.ase_calculator(device="cpu")
    atoms.get_forces()
    assert (atoms.calc.results["uncertainties"] > 0).all()
    added = read(tmp_path / "whole" / "rounds" / "01" / "labelled.xyz", ":")
    assert student.metadata.data["train"] == len(read(tmp_path / "whole" / "train.xyz", ":")) + len(added)


def test_the_seconds_of_a_round_count_what_was_before_a_restart(tmp_path, ethanol_sets, monkeypatch):
    def trained_for_a_day(*arguments):
        return replace(train(*arguments), elapsed_s=86_400.0)

    monkeypatch.setattr("compactff_md.training.rounds.train", trained_for_a_day)
    settings = config(tmp_path, rounds={"most": 1, "trajectories": 1, "steps": 10, "spacing_steps": 5})
    starts, teacher = [molecule("CH3CH2OH")], create_teacher(EMT)
    part = settings.training.model_copy(update={"steps": 2, "size": "ultra-tiny"})
    arguments = (0, settings, part, ethanol_sets, {}, starts, teacher, tmp_path / "round", 2, inf)
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "clock.json").write_text('{"seconds": 1000.0}')
    assert run_round(*arguments, TeacherPool, True, Reporter()).report["seconds"] > 87_400.0


class Near(emt.EMT):
    """Fails on what flew apart."""

    def calculate(self, atoms=None, *arguments, **options):
        if np.ptp(atoms.positions) > 100.0:
            raise RuntimeError("SCF not converged")
        super().calculate(atoms, *arguments, **options)


@pytest.mark.parametrize(("apart", "frames"), [(26, 4), (30, 0)])
def test_labels_of_rounds_go_on_whatever_the_teacher_fails_on(tmp_path, water_frames, apart, frames):
    def visited(exploding: bool) -> Visited:
        atoms = molecule("H2O")
        atoms.positions[0] += 200.0 * exploding
        return Visited(atoms, 1.0, exploding)

    chosen = [visited(k < apart) for k in range(30)]
    teacher = SimpleNamespace(name="near", settings={}, calculator=Near)
    checks = {"max_energy_deviation_eV_per_atom": 100.0}
    settings = make_config(DistillConfig, {"structures": "x", "sampling": {"n_workers": 1}, "checks": checks})
    known = read_labelled(water_frames)
    clock = Clock(tmp_path / "clock.json", None)
    counts = label_visited(
        0, settings, known, chosen[:1], chosen[1:], teacher, tmp_path, TeacherPool, Reporter(), clock
    )
    assert counts == {"calls": 30, "frames": frames}


def test_rounds_whose_time_is_over_label_less_and_pay_for_nothing_twice(tmp_path, water_frames):
    asked: list[float] = []
    clock = Clock(tmp_path / "clock.json", 60.0)

    class Slow(emt.EMT):
        def calculate(self, atoms=None, *arguments, **options):
            asked.append(atoms.positions[0, 0])
            clock.limit_s = 0.0  # which is over from the first call on
            super().calculate(atoms, *arguments, **options)

    def visited(k: int) -> Visited:
        atoms = molecule("H2O")
        atoms.positions[0, 0] += 0.001 * k
        return Visited(atoms, 1.0)

    chosen = [visited(k) for k in range(30)]
    teacher = SimpleNamespace(name="slow", settings={}, calculator=Slow)
    checks = {"max_energy_deviation_eV_per_atom": 100.0}
    settings = make_config(DistillConfig, {"structures": "x", "sampling": {"n_workers": 1}, "checks": checks})
    arguments = (0, settings, read_labelled(water_frames), chosen[:1], chosen[1:], teacher, tmp_path)
    notes = Notes()
    counts = label_visited(*arguments, TeacherPool, notes, clock)
    assert counts == {"calls": 15, "frames": 15} and len(asked) == 15  # one of two chains
    assert notes.notes == ["the time for round 1 is over: there may be fewer labels than planned"]
    unlimited = Clock(tmp_path / "clock.json", None)
    assert label_visited(*arguments, TeacherPool, notes, unlimited) == {"calls": 30, "frames": 30}
    assert len(asked) == len(set(asked)) == 30


@pytest.mark.parametrize(("finished", "rounds"), [([], 2), ([3], 3)])
def test_rounds_end_where_the_training_has_to_begin(tmp_path, monkeypatch, finished, rounds):
    left: list[float] = []

    def round_of_100_s(*arguments) -> Round:
        left.append(arguments[9])
        return Round(tmp_path / "none.xyz", {"seconds": 100.0, "labels": 1, "exploded": 0})

    monkeypatch.setattr(distill_module, "run_round", round_of_100_s)
    monkeypatch.setattr(distill_module, "start_structures", lambda *arguments: [])
    monkeypatch.setattr(distill_module, "_own_sets", lambda *arguments: ((), {}))
    for index in finished:  # by an earlier version
        (tmp_path / "rounds" / f"{index:02d}").mkdir(parents=True)
        (tmp_path / "rounds" / f"{index:02d}" / ROUND_FILE).write_text("{}")
    settings = make_config(DistillConfig, {"structures": "x", "minutes": 10, "rounds": {"most": 3}})
    labels = Labels(tmp_path, tmp_path, {}, {"seconds": 210.0})
    run, team, notes = RunFolder(tmp_path, False, False), Team(0, 1, torch.device("cpu")), Notes()
    done = distill_module._rounds(settings, labels, create_teacher(EMT), run, team, notes)
    assert len(done) == rounds and left[::2] == [240.0, 140.0, 40.0][:rounds]
    assert len(notes.notes) == 3 - rounds


@pytest.mark.parametrize("count", [1, 5, 12, 13, 100])
def test_over_the_rounds_every_start_comes_before_any_comes_again(count):
    rounds = [drawn_starts(count, 12, index, 3) for index in range(9)]
    assert all(len(drawn) == 12 for drawn in rounds)
    times = np.bincount(np.concatenate(rounds), minlength=count)
    assert times.max() - times.min() <= 1
    assert [drawn_starts(count, 12, index, 3) for index in range(9)] == rounds


def test_a_first_round_with_few_starts_is_that_of_earlier_versions():
    assert drawn_starts(3, 4, 0, 3) == [1, 0, 2, 0]
