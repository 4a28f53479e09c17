import itertools
from types import SimpleNamespace

import numpy as np
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from compactff_md.errors import NotFiniteError
from compactff_md.structure import Structure
from compactff_md.teachers import create_teacher
from compactff_md.training.asking import answered
from compactff_md.training.config import SamplingConfig
from compactff_md.training.explore import Visited, decode_visited, explore
from compactff_md.training.frames import Frame, LabelledSet
from compactff_md.training.labelling import Labeller
from compactff_md.training.packing import decode_atoms
from compactff_md.training.rounds import choose, sensible
from compactff_md.training.tasks import explore_task, perform


class Unsure(EMT):
    """Says that it is as unsure as an atom has moved; fails after some calls."""

    fails_after = 10_000
    uncertainty = SimpleNamespace(usual_eV_per_A=1.0)

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > self.fails_after:
            raise NotFiniteError("the student's energy or forces are not finite")
        self.results["uncertainties"] = np.full(len(atoms), 0.5)


class Exploding(Unsure):
    fails_after = 62


def visited(calculator, steps=100, **fields):
    labeller = Labeller(SimpleNamespace(name="student", settings={}, calculator=calculator))
    config = SamplingConfig(**fields)
    rng = np.random.default_rng(0)
    return answered(explore(molecule("CH3OH"), 300.0, steps, 20, config, rng), labeller)


def test_a_calm_run_gives_frames_at_its_spacing():
    frames = visited(Unsure)
    assert len(frames) == 5 and not any(frame.exploding for frame in frames)
    assert {frame.score for frame in frames} == {0.5}
    again = decode_visited(frames[-1].encoded())
    assert np.allclose(again.atoms.positions, frames[-1].atoms.positions) and again.score == 0.5
    assert decode_atoms(frames[0].encoded()["atoms"]) == frames[0].atoms


def test_a_run_that_explodes_is_sampled_just_before():
    frames = visited(Exploding)
    assert [frame.exploding for frame in frames] == [False, False, True, True, True]
    apart = [np.abs(a.atoms.positions - b.atoms.positions).max() for a, b in itertools.pairwise(frames[2:])]
    assert max(apart) < 0.5


def test_forces_beyond_sense_end_a_run_too():
    assert len(visited(Unsure, max_force_eV_per_A=1e-3)) == 0


def test_runs_whose_time_is_over_end_with_what_they_have():
    labeller = Labeller(SimpleNamespace(name="student", settings={}, calculator=Unsure))
    task = explore_task([(molecule("CH3OH"), 300.0, (7, 0))], 100, 5, SamplingConfig())
    [run] = perform({**task, "time_limit_s": 0.0}, labeller, print)["visited"]
    assert [frame["exploding"] for frame in run] == [False]


def test_the_probe_is_random_and_the_rest_is_where_it_pays():
    def frame(k, score, exploding=False):
        atoms = molecule("CH3OH")
        atoms.positions += np.random.default_rng(k).normal(0, 0.05, atoms.positions.shape)
        return Visited(atoms, score, exploding)

    runs = [[frame(k, 0.1 * k) for k in range(20)], [frame(50, 0.2, True), frame(51, 0.3, True)]]
    probe, chosen = choose(runs, 10, 0.3, (1, 2))
    assert len(probe) == 3 and len(chosen) == 7
    assert not any(v.exploding for v in probe)
    assert not {id(v) for v in probe} & {id(v) for v in chosen}
    assert all(v.exploding or v.score > 1.0 for v in chosen)
    probe, chosen = choose([[frame(1, 0.1), frame(2, 0.2)]], 10, 0.3, (1, 2))
    assert len(probe) + len(chosen) == 2


def test_frames_far_above_the_known_energies_are_left_out():
    known = LabelledSet((Frame(Structure.from_ase(molecule("CH3OH")), 0.0, np.zeros((6, 3))),))
    frames = []
    for energy in (1.0, 20.0):
        atoms = molecule("CH3OH")
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        frames.append(atoms)
    assert sensible(frames, known, 0.5) == frames[:1]
    assert len(sensible(frames, LabelledSet(()), 0.5)) == 2


def test_runs_side_by_side_are_the_same_as_alone():
    student = create_teacher("student:organic-ultra-tiny")
    config = SamplingConfig()
    runs = [(molecule(name), 300.0 * (k + 1), (7, k)) for k, name in enumerate(("CH3OH", "H2O", "CH3CHO"))]
    ended: list[int] = []
    together = perform(explore_task(runs, 40, 20, config), Labeller(student), ended.append)["visited"]
    assert ended == [1, 2, 3]
    for run, visited_together in zip(runs, together, strict=True):
        [alone] = perform(explore_task([run], 40, 20, config), Labeller(student), print)["visited"]
        assert len(alone) == len(visited_together) == 2
        for one, other in zip(map(decode_visited, alone), map(decode_visited, visited_together), strict=True):
            assert np.allclose(one.atoms.positions, other.atoms.positions, atol=1e-5)
            assert one.score > 0 and np.isclose(one.score, other.score, rtol=1e-3)
