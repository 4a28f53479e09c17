"""Chains in which a driver moves the atoms, alone and side by side."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from chain_builders import KilledError, frames_of, run, sampling
from compactff_md.errors import CompactFFError
from compactff_md.teachers import create_teacher
from compactff_md.training.labelling import Labeller, TeacherFailure
from compactff_md.training.tasks import chain_task, flock_task, perform

DRIVER = "ase.calculators.emt:EMT"


def test_a_driver_moves_the_atoms_and_the_teacher_labels_what_is_kept(tmp_path, spec):
    """With the teacher as its own driver the trajectory is the same, and each frame costs one call."""
    driven = spec.model_copy(update={"driver": DRIVER})
    config, start = sampling(rattles=0), {0: molecule("CH3OH")}
    counts = run(tmp_path / "driven", driven, start, config)
    alone = run(tmp_path / "alone", spec, start, config)
    frames, same = frames_of(tmp_path / "driven"), frames_of(tmp_path / "alone")
    assert counts.calls == len(frames) == len(same) == 25 and alone.calls == 3 * 25 + 1
    for frame, other in zip(frames, same, strict=True):
        np.testing.assert_allclose(frame.positions, other.positions, atol=1e-10)
        np.testing.assert_allclose(frame.get_forces(), other.get_forces(), atol=1e-10)


def test_a_driver_that_leads_astray_is_told(tmp_path, spec):
    driven = spec.model_copy(update={"driver": DRIVER})
    config = sampling(rattles=0, max_force_eV_per_A=1e-3)
    with pytest.raises(CompactFFError, match=r"emt:EMT came to forces of \d+ eV/A, allowed are 0.001"):
        run(tmp_path, driven, {0: molecule("CH3OH")}, config)


def test_a_killed_chain_with_a_driver_goes_on(tmp_path, spec):
    driven = spec.model_copy(update={"driver": DRIVER})
    config, start = sampling(rattles=0, shard_seconds=0), {0: molecule("CH3OH")}
    run(tmp_path / "whole", driven, start, config)

    def kill(frames):
        if frames >= 10:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "parts", driven, start, config, report=kill)
    run(tmp_path / "parts", driven, start, config)
    for one, other in zip(frames_of(tmp_path / "whole"), frames_of(tmp_path / "parts"), strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-10)


def test_of_a_driven_box_only_free_pieces_are_labelled(tmp_path, spec):
    box = molecule("H2O", cell=[4.0] * 3, pbc=True) * (3, 3, 2)
    driven = spec.model_copy(
        update={"driver": DRIVER, "piece_atoms": 14, "pressure_bar": 1e5, "frames": 6, "temperature_K": 100.0}
    )
    counts = run(tmp_path, driven, {0: box}, sampling(rattles=1))
    frames = frames_of(tmp_path)
    assert len(frames) == 6 and counts.calls == 6
    for frame in frames:
        assert frame.get_chemical_symbols() == ["O", "H", "H"] * 4 and not frame.pbc.any()
        again = frame.copy()
        again.calc = EMT()
        np.testing.assert_allclose(frame.get_forces(), again.get_forces(), atol=1e-5)
    assert [frame.info["source"] for frame in frames[:2]] == ["md", "rattle"]


STUDENT = "student:organic-ultra-tiny"
FLOCK = ("CH3OH", "H2O", "CH3CH2OH")


def flock_of(tmp_path, spec, config, names=FLOCK):
    tmp_path.mkdir(exist_ok=True)
    return [
        chain_task(
            spec.model_copy(update={"name": name, "driver": STUDENT, "frames": 3 + k}),
            {0: molecule(name)},
            tmp_path / name,
            config,
        )
        for k, name in enumerate(names)
    ]


def test_chains_side_by_side_are_the_same_as_alone(tmp_path, spec):
    labeller = Labeller(SimpleNamespace(name="test", settings={}, calculator=EMT))
    config, seen = sampling(rattles=1), []
    together = perform(flock_task(flock_of(tmp_path / "flock", spec, config)), labeller, seen.append)
    alone = [perform(task, labeller, lambda n: None) for task in flock_of(tmp_path / "alone", spec, config)]
    assert together == {name: sum(counts[name] for counts in alone) for name in together}
    assert seen == sorted(seen) and seen[-1] == 3 + 4 + 5
    for name in FLOCK:
        for one, other in zip(
            frames_of(tmp_path / "flock" / name), frames_of(tmp_path / "alone" / name), strict=True
        ):
            np.testing.assert_allclose(one.positions, other.positions, atol=1e-5)
            np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-3)


def test_a_chain_that_fails_leaves_the_flock_alone(tmp_path, spec):
    class Fragile(EMT):
        def calculate(self, atoms=None, *arguments, **options):
            if len(atoms) == 3:
                raise RuntimeError("SCF not converged")
            super().calculate(atoms, *arguments, **options)

    labeller = Labeller(SimpleNamespace(name="test", settings={}, calculator=Fragile))
    flock = flock_of(tmp_path, spec, sampling(rattles=0))
    counts = perform(flock_task(flock), labeller, lambda n: None)
    assert counts["failures"] >= 5
    assert [len(frames_of(tmp_path / name)) for name in FLOCK] == [3, 0, 5]


def test_a_driver_without_finite_forces_is_a_failure_of_its_chain(tmp_path):
    labeller = Labeller(create_teacher(STUDENT))
    good, bad = molecule("CH3OH"), molecule("CH3OH")
    bad.positions[1] = bad.positions[0]
    answers = labeller.label_all([good, bad, good])
    assert isinstance(answers[1], TeacherFailure) and "not finite" in str(answers[1])
    np.testing.assert_allclose(answers[0].forces_eV_per_A, answers[2].forces_eV_per_A, atol=1e-6)
    assert labeller.counts.calls == 3
