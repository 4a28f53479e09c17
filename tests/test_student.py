import subprocess
import sys

import numpy as np
import pytest
import torch

import compactff_md
from builders import random_structure
from compactff_md import CompactFFError, Student, load, students
from compactff_md.artifact import describe

CODE = """
import sys
import compactff_md
loaded = {"torch", "openmm", "openmmtorch", "tblite", "numpy"} & set(sys.modules)
assert not loaded, loaded
compactff_md.load
loaded = {"openmm", "openmmtorch", "tblite", "matplotlib", "typer"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.fixture
def student(tmp_path):
    network = students.create("ultra-tiny", ["H", "C", "O"], seed=4).eval()
    made = Student(network, describe(network, size="ultra-tiny"))
    made.save(tmp_path / "student.safetensors")
    return load(tmp_path / "student.safetensors")


def test_top_of_the_package():
    assert dir(compactff_md) == ["CompactFFError", "Student", "__version__", "load"]
    assert compactff_md.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        compactff_md.nothing  # noqa: B018


def test_importing_is_light():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_student_tells(student, tmp_path):
    assert student.path == tmp_path / "student.safetensors"
    assert student.elements == ["H", "C", "O"]
    assert student.num_parameters == student.metadata.num_parameters <= 21_459
    assert student.receptive_field_A == student.cutoff_A * student.network.num_interactions


def test_saved_and_loaded_again_it_says_the_same(student, tmp_path):
    again = load(student.save(tmp_path / "again"))
    atoms = random_structure(1, ["H", "C", "O"], 8).to_ase()
    results = []
    for one in (student, again):
        atoms.calc = one.ase_calculator(dtype="float64", device="cpu")
        results.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert results[0][0] == results[1][0]
    assert np.array_equal(results[0][1], results[1][1])


def test_a_folder_of_a_training_is_enough(student):
    assert load(student.path.parent).path == student.path


def test_nothing_to_load(tmp_path):
    with pytest.raises(
        CompactFFError, match=r"no student 'aspirin'.*come with the package are: .*organic-tiny"
    ):
        load("aspirin")
    with pytest.raises(CompactFFError, match=r"holds no student\.safetensors"):
        load(tmp_path)


def test_export(student, tmp_path):
    path = student.export(tmp_path / "student.pt", format="torchscript")
    module = torch.jit.load(path)
    structure = random_structure(2, ["H", "C", "O"], 8)
    atoms = structure.to_ase()
    atoms.calc = student.ase_calculator(device="cpu")
    energies, forces, _ = module.evaluate(
        torch.from_numpy(structure.positions_A),
        torch.from_numpy(structure.numbers),
        torch.from_numpy(structure.cell_A),
        torch.from_numpy(structure.pbc),
    )
    assert float(energies.sum()) == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert forces.numpy() == pytest.approx(atoms.get_forces(), abs=1e-4)
    with pytest.raises(CompactFFError, match="unknown export format 'lammps'; allowed are"):
        student.export(tmp_path / "x", format="lammps")
    own = load(student.save(tmp_path / "own.safetensors"))
    with pytest.raises(CompactFFError, match="is the student itself"):
        own.export(tmp_path / "own.safetensors")


@pytest.mark.parametrize("force", ["torchforce", "python"])
def test_openmm_force_of_atoms(student, force):
    openmm = pytest.importorskip("openmm")
    if force == "torchforce":
        pytest.importorskip("openmmtorch")
    atoms = random_structure(3, ["H", "C", "O"], 6).to_ase()
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(student.openmm_force(atoms, force))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)
    context.setPositions(atoms.positions / 10.0)
    atoms.calc = student.ase_calculator(device="cpu")
    energy = context.getState(getEnergy=True).getPotentialEnergy()
    expected_kJ_per_mol = atoms.get_potential_energy() * 96.48533212
    assert energy._value == pytest.approx(expected_kJ_per_mol, abs=1e-3)
