import json
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from compactff_md.errors import CompactFFError
from compactff_md.teachers import create_teacher
from compactff_md.training.config import DistillConfig, SamplingConfig
from compactff_md.training.generate import Labels, driver_versions, flocks, generate_labels, start_structures
from compactff_md.training.labelling import write_frames
from compactff_md.training.planning import ChainSpec, PlannedChain
from compactff_md.training.progress import Reporter
from compactff_md.training.recipe_files import make_config
from compactff_md.training.splitting import drop_copies, held_out
from reporters import Notes

EMT = "ase.calculators.emt:EMT"


def test_copies_go_from_the_training_before_the_test():
    water, other = molecule("H2O"), molecule("H2O")
    other.positions[0, 0] += 0.1
    frames = {"train": [water.copy(), other.copy(), other.copy()], "valid": [], "test_300K": [water.copy()]}
    drop_copies(frames)
    assert [len(frames[name]) for name in ("train", "valid", "test_300K")] == [1, 0, 1]
    assert frames["train"][0].positions[0, 0] == other.positions[0, 0]


def spec_of(index: int, walk: str = "md") -> ChainSpec:
    return ChainSpec(
        name=f"c{index}", purpose="train", members=(index,), frames=9, seed=(0, index), walk=walk
    )


def test_the_end_of_a_trajectory_is_held_out():
    assert held_out([(spec_of(0), 40), (spec_of(1), 60)], 0.05, 0) == [{38, 39}, {57, 58, 59}]
    (given,) = held_out([(spec_of(0, "given"), 40)], 0.1, 0)
    assert len(given) == 4 and [given] == held_out([(spec_of(0, "given"), 40)], 0.1, 0)


def test_of_few_short_chains_each_gives_its_last_frame():
    assert held_out([(spec_of(0), 5), (spec_of(1), 3), (spec_of(2), 0)], 0.05, 0) == [{4}, set(), set()]
    assert sorted(map(len, held_out([(spec_of(k), 3) for k in range(4)], 0.05, 0))) == [0, 0, 0, 3]
    assert held_out([(spec_of(0), 3)], 0.05, 0) == [set()]


def test_of_many_short_chains_some_are_held_out_whole():
    found = held_out([(spec_of(k), 4) for k in range(2000)], 0.05, 0)
    assert {frozenset(held) for held in found} == {frozenset(), frozenset({0, 1, 2, 3})}
    assert sum(bool(held) for held in found) == 100


def test_drivers_are_known_before_the_run_starts():
    step = {"kind": "md", "frames": 4, "driver": "student:organic-tiny"}
    config = make_config(DistillConfig, {"structures": "x", "sampling": {"steps": [step]}})
    assert "organic-tiny" in driver_versions(config)["driver_student:organic-tiny"]
    step["driver"] = "student:nobody"
    with pytest.raises(CompactFFError, match="nobody"):
        driver_versions(make_config(DistillConfig, {"structures": "x", "sampling": {"steps": [step]}}))


def planned(driver, member):
    spec = ChainSpec(name="x", purpose="train", members=(member,), frames=3, seed=(0,), driver=driver)
    return PlannedChain(spec, SamplingConfig())


@pytest.mark.parametrize(
    ("chains", "workers", "expected"),
    [
        ([(None, 9), (None, 9)], 2, [1, 1]),
        ([("a", 9)] * 6, 2, [3, 3]),
        ([("a", 9)] * 6, 1, [6]),
        ([("a", 400)] * 7, 1, [3, 3, 1]),
        ([("a", 9)] * 3, 8, [1, 1, 1]),
        ([(None, 9), ("a", 9), ("a", 9), ("b", 9), ("a", 9)], 1, [1, 2, 1, 1]),
    ],
)
def test_chains_with_the_same_driver_go_together_and_keep_every_worker_busy(chains, workers, expected):
    plan = [planned(driver, k) for k, (driver, _) in enumerate(chains)]
    structures = {k: Atoms(f"H{atoms}") for k, (_, atoms) in enumerate(chains)}
    made = flocks(plan, structures, workers)
    assert [len(flock) for flock in made] == expected
    assert [chain for flock in made for chain in flock] == plan


class Wide:
    """A pool of three that has the work done by nobody."""

    size = 3

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def run(self, tasks, on_frames, time_left=None):
        self.tasks = tasks
        raise KeyboardInterrupt


def test_chains_with_a_driver_are_shared_between_all_of_a_cluster(tmp_path, monkeypatch):
    pool = Wide()
    monkeypatch.setattr("compactff_md.training.generate.open_pool", lambda *arguments: pool)
    sampling = {"driver": EMT, "relax_steps": 0, "n_workers": 1, "test_temperatures_K": [300]}
    config = make_config(DistillConfig, {"structures": "x", "sampling": {**sampling, "dask": "tcp://x:1"}})
    with pytest.raises(KeyboardInterrupt):
        generate_labels(config, [molecule("CH3OH")], create_teacher(EMT), tmp_path, Reporter())
    assert [len(task.get("chains", [task])) for task in pool.tasks] == [1, 2, 2, 2]
    drivers = [chain["driver_version"] for task in pool.tasks for chain in task.get("chains", [task])]
    assert drivers == [None, *[create_teacher(EMT).version] * 6]


def test_a_driver_of_another_version_than_the_run_began_with_is_refused(tmp_path):
    sampling = {"driver": EMT, "relax_steps": 0, "n_workers": 1, "test_temperatures_K": [300]}
    config = make_config(DistillConfig, {"structures": "x", "sampling": sampling})
    identity = {"teacher_version": "x", f"driver_{EMT}": "another"}
    (tmp_path / "run.json").write_text(json.dumps({"identity": identity, "finished": False}))
    with pytest.raises(CompactFFError, match="wanted is another"):
        generate_labels(config, [molecule("CH3OH")], create_teacher(EMT), tmp_path, Reporter())


def test_frames_that_are_all_rejected_end_the_labelling_and_are_told(tmp_path):
    sampling = {
        "steps": [{"kind": "rattle", "frames": 20, "length": 3}],
        "test_temperatures_K": [300],
        "test_frames": 1,
        "equilibration_steps": 0,
        "relax_steps": 0,
        "n_workers": 1,
        "max_force_eV_per_A": 1e-3,
    }
    config = make_config(DistillConfig, {"structures": "x", "sampling": sampling})
    reporter = Notes()
    with pytest.raises(CompactFFError, match="0 frames for training"):
        generate_labels(config, [molecule("CH3OH")], create_teacher(EMT), tmp_path, reporter)
    assert len(reporter.notes) == 1
    assert re.match(r"(2\d\d) of \1 frames were left out: forces", reporter.notes[0])


def test_once_the_time_is_over_chains_are_left_out_but_for_what_training_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("compactff_md.training.pool.LEAST_TIME_S", 0.0)
    sampling = {
        "driver": "teacher",
        "frames": 400,
        "spacing_steps": 1,
        "trajectories": 5,
        "test_temperatures_K": [300],
        "relax_steps": 0,
        "n_workers": 1,
    }
    config = make_config(DistillConfig, {"structures": "x", "minutes": 1e-9, "sampling": sampling})
    reporter = Notes()
    labels = generate_labels(config, [molecule("CH3OH")], create_teacher(EMT), tmp_path, reporter)
    assert "the time for labels is over" in reporter.notes[0]
    assert labels.counts["frames"] == {"train": 18, "valid": 2}
    assert labels.counts["calls"] == 1 + 10 * 3


def labelled(atoms, member, push, **info):
    """A frame whose largest force is ``push`` in eV/A."""
    atoms = atoms.copy()
    forces = np.zeros((len(atoms), 3))
    forces[0, 0] = push
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    atoms.info.update(structure=member, **info)
    return atoms


def test_a_student_runs_from_all_that_was_given_or_moved_and_one_of_each_other_composition(tmp_path):
    trans, branched = molecule("trans-butane"), molecule("isobutane")
    hot, water = trans.copy(), molecule("H2O")
    hot.rattle(0.5, seed=1)
    write(tmp_path / "given.xyz", [trans, branched, hot])
    frames = [
        labelled(trans, 0, 2.0, name="hot"),
        labelled(trans, 0, 1.0, name="trans"),
        labelled(branched, 1, 2.5, name="branched"),
        labelled(hot, 2, 40.0, name="far from calm"),
        labelled(trans, 3, 0.1, name="made by a step"),
        labelled(branched, 4, 2.8, name="moved", source="md"),
        labelled(water, 5, 8.0, name="unlike"),
        labelled(water, 6, 6.0, name="water"),
    ]
    write_frames(tmp_path / "train.xyz", frames)
    labels = Labels(tmp_path / "train.xyz", tmp_path / "valid.xyz", {}, {})
    found = start_structures(labels, tmp_path / "given.xyz")
    assert [atoms.info["name"] for atoms in found] == ["trans", "branched", "moved", "water"]
    assert [atoms.info["name"] for atoms in start_structures(labels, None)] == ["moved", "water"]
    fewer = start_structures(labels, tmp_path / "given.xyz", most=2)
    assert [atoms.info["name"] for atoms in fewer] == ["trans", "moved"]


@pytest.mark.parametrize(
    ("pushes", "kept"), [([2.0, 3.9, 4.4, 4.8, 5.6, 40.0], [0, 1, 2, 3, 4]), ([40.0, 1.0], [1])]
)
def test_starts_that_were_sampled_hot_are_kept_where_others_of_their_composition_were(tmp_path, pushes, kept):
    """Of many given structures dynamics take each to one temperature."""
    frames = [labelled(molecule("trans-butane"), k, push, source="md") for k, push in enumerate(pushes)]
    write_frames(tmp_path / "train.xyz", frames)
    found = start_structures(Labels(tmp_path / "train.xyz", tmp_path / "valid.xyz", {}, {}), None)
    assert [atoms.info["structure"] for atoms in found] == kept
