import copy
import re
import shutil
from types import SimpleNamespace

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.io import read

from compactff_md.errors import CompactFFError
from compactff_md.student import student_file
from compactff_md.teachers import create_teacher
from compactff_md.training.checks import check_labels
from compactff_md.training.config import CheckConfig
from compactff_md.training.dataset import read_labelled
from compactff_md.training.labelling import (
    LabelCounts,
    Labeller,
    TeacherFailure,
    labelled_atoms,
    labeller_here,
    write_frames,
)


class Failing(EMT):
    """Fails on every structure whose first atom is right of x = 1, gives NaN left of x = -1."""

    def calculate(self, atoms=None, properties=None, system_changes=None):
        if atoms.positions[0, 0] > 1:
            raise RuntimeError("SCF not\nconverged")
        super().calculate(atoms, properties, system_changes)
        if atoms.positions[0, 0] < -1:
            self.results["forces"] = np.full((len(atoms), 3), np.nan)


def teacher(calculator=EMT) -> SimpleNamespace:
    return SimpleNamespace(name="test", settings={}, calculator=calculator)


def test_labels_are_those_of_the_calculator_from_one_call():
    labeller = Labeller(teacher())
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0] += [0.1, 0.0, 0.05]
    label = labeller.label(atoms)
    reference = atoms.copy()
    reference.calc = EMT()
    assert label.energy_eV == pytest.approx(reference.get_potential_energy())
    assert np.allclose(label.forces_eV_per_A, reference.get_forces())
    assert np.allclose(label.stress_eV_per_A3, reference.get_stress(voigt=False))
    assert labeller.counts.calls == 1
    assert labeller.label(molecule("H2O")).stress_eV_per_A3 is None
    assert np.allclose(label.atom_energies_eV, reference.get_potential_energies())


def test_energies_of_atoms_that_are_not_parts_of_the_energy_are_left_out():
    class Elsewhere(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.results["energies"] = self.results["energies"] + 0.01

    atoms = bulk("Cu", cubic=True)
    assert Labeller(teacher(Elsewhere)).label(atoms).atom_energies_eV is None


def test_failures_are_counted_and_the_next_call_works():
    labeller = Labeller(teacher(Failing))
    atoms = molecule("H2O")
    for shift in (3.0, -3.0):
        moved = atoms.copy()
        moved.positions[:, 0] += shift
        with pytest.raises(TeacherFailure):
            labeller.label(moved)
    assert labeller.counts.last_failure == "energy, forces or stress are not finite"
    assert np.isfinite(labeller.label(atoms).energy_eV)
    assert labeller.counts.calls == 3


def test_a_teacher_here_is_of_the_version_that_is_asked_for(tmp_path):
    name = f"student:{tmp_path / 'model.safetensors'}"
    energies, versions = [], []
    for student in ("organic-ultra-tiny", "organic-tiny"):
        shutil.copy(student_file(student), tmp_path / "model.safetensors")
        versions.append(create_teacher(name).version)
        labeller = labeller_here(name, {}, versions[-1])
        assert labeller_here(name, {}, versions[-1]) is labeller
        energies.append(labeller.label(molecule("H2O")).energy_eV)
    assert abs(energies[0] - energies[1]) > 1e-4
    with pytest.raises(CompactFFError, match=f"wanted is {re.escape(versions[0])}"):
        labeller_here(name, {"device": "cpu"}, versions[0])


def test_copies_share_a_calculator_that_was_made_anew():
    """Each chain has a copy; they began with one that was lost, and lost a frame to it."""
    made = []

    class Mortal(EMT):
        """Only the first one dies."""

        def calculate(self, *arguments, **options):
            if made[0] is self:
                raise RuntimeError("broken pipe")
            super().calculate(*arguments, **options)

    def make():
        made.append(Mortal())
        return made[-1]

    labeller = Labeller(teacher(make))
    with pytest.raises(TeacherFailure):
        copy.copy(labeller).label(molecule("H2O"))
    copy.copy(labeller).label(molecule("H2O"))
    assert len(made) == 2


def test_the_free_energy_is_taken_where_there_is_one():
    class Smeared(Calculator):
        implemented_properties = ("energy", "free_energy", "forces")

        def calculate(self, atoms=None, properties=None, system_changes=None):
            self.results = {"energy": 1.0, "free_energy": 0.9, "forces": np.zeros((len(atoms), 3))}

    assert Labeller(teacher(Smeared)).label(molecule("H2")).energy_eV == 0.9


def test_too_many_failures_stop_the_run():
    LabelCounts(attempts=100, failures=20).check(0.2)
    LabelCounts(attempts=4, failures=4).check(0.2)
    with pytest.raises(
        CompactFFError, match=r"failed on 21 of 100 frames, allowed are 20%; the last failure: why"
    ):
        LabelCounts(attempts=100, failures=21, last_failure="why").check(0.2)


def test_written_frames_are_read_back(tmp_path):
    atoms = bulk("Cu", cubic=True)
    label = Labeller(teacher()).label(atoms)
    frame = labelled_atoms(atoms, label, temperature_K=300.0, source=None)
    write_frames(tmp_path / "all.xyz", [frame, frame, frame])
    frames = read(tmp_path / "all.xyz", ":")
    assert len(frames) == 3
    assert isinstance(frames[0], ase.Atoms)
    assert frames[2].info == {"temperature_K": 300.0}
    assert frames[2].get_potential_energy() == pytest.approx(label.energy_eV)
    assert np.allclose(frames[2].get_stress(voigt=False), label.stress_eV_per_A3)
    read_again = read_labelled(frames).frames[2]
    assert np.allclose(read_again.atom_energies_eV, label.atom_energies_eV, atol=1e-7)
    check_labels(read_labelled(frames), CheckConfig(duplicates="keep"))
