import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compactff_md import load, students
from compactff_md.artifact import describe, save_student
from compactff_md.engines.openmm_force import FORCES
from compactff_md.engines.openmm_import import app, openmm, unit
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from openmm_builders import context, energy_and_forces, expected

openmmml = pytest.importorskip("openmmml")
DIPEPTIDE = Path(__file__).parents[2] / "openmm" / "alanine_dipeptide.pdb"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = students.create("ultra-tiny", ["C", "H", "N", "O"], seed=2).eval()
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_student(path, network, describe(network))
    return path


@pytest.fixture(scope="module")
def solvated():
    """The dipeptide in water by OpenMM's own force field; the dipeptide is atoms 0 to 21."""
    force_field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    pdb = app.PDBFile(str(DIPEPTIDE))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(force_field, boxSize=openmm.Vec3(2.1, 2.1, 2.1) * unit.nanometer)
    system = force_field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=1.0 * unit.nanometer,
        constraints=app.HBonds,
        rigidWater=True,
    )
    return modeller.topology, modeller.positions, system


def dipeptide(topology, positions) -> Structure:
    box = topology.getPeriodicBoxVectors()
    cell = np.zeros((3, 3)) if box is None else np.array(box.value_in_unit(unit.angstrom))
    numbers = [atom.element.atomic_number for atom in topology.atoms()][:22]
    return Structure(positions.value_in_unit(unit.angstrom)[:22], numbers, cell, [box is not None] * 3)


def molecule_sizes(made) -> set[int]:
    return {len(molecule) for molecule in made.getMolecules()}


def test_importing_openmmml_does_not_import_torch():
    code = (
        "import sys, openmmml; assert 'compactff' in openmmml.MLPotential._implFactories; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


@pytest.mark.parametrize("force", FORCES)
def test_a_system_of_a_student(file, force):
    pdb = app.PDBFile(str(DIPEPTIDE))
    system = openmmml.MLPotential("compactff", student=str(file), force=force).createSystem(pdb.topology)
    energy, forces = energy_and_forces(context(system, pdb.positions.value_in_unit(unit.angstrom)))
    energy_expected, forces_expected = expected(load(file).network, dipeptide(pdb.topology, pdb.positions))
    assert abs(energy - energy_expected) < 1e-5
    assert np.abs(forces - forces_expected).max() < 1e-4


@pytest.mark.parametrize("force", FORCES)
def test_a_mixed_system(file, solvated, force):
    topology, positions, classical = solvated
    student = load(file)
    potential = openmmml.MLPotential("compactff", student=student)
    mixed = potential.createMixedSystem(topology, classical, range(22), forceGroup=5, force=force)
    assert mixed.getNumConstraints() < classical.getNumConstraints()
    x = np.array(positions.value_in_unit(unit.angstrom))
    made = context(mixed, x)
    energy, forces = energy_and_forces(made, groups={5})
    energy_expected, forces_expected = expected(student.network, dipeptide(topology, positions))
    assert abs(energy - energy_expected) < 1e-5
    assert np.abs(forces[:22] - forces_expected).max() < 1e-4
    assert not forces[22:].any()
    _, all_forces = energy_and_forces(made)
    assert np.abs(all_forces[22:]).max() > 0.1
    assert molecule_sizes(made) == molecule_sizes(context(classical, x)) == {3, 22}
    made.setVelocitiesToTemperature(300, 1)
    made.getIntegrator().step(20)
    assert np.isfinite(energy_and_forces(made)[0])


def test_a_box_of_a_student_knows_its_molecules(file):
    pdb = app.PDBFile(str(DIPEPTIDE))
    pdb.topology.setPeriodicBoxVectors(3.0 * np.eye(3) * unit.nanometer)
    system = openmmml.MLPotential("compactff", student=file).createSystem(pdb.topology)
    assert molecule_sizes(context(system, pdb.positions.value_in_unit(unit.angstrom))) == {22}


def test_interpolation_between_force_field_and_student(file, solvated):
    topology, positions, classical = solvated
    potential = openmmml.MLPotential("compactff", student=file)
    x = np.array(positions.value_in_unit(unit.angstrom))
    energies = {}
    for name, system in {
        "classical": classical,
        "mixed": potential.createMixedSystem(topology, classical, range(22)),
        "both": potential.createMixedSystem(topology, classical, range(22), interpolate=True),
    }.items():
        made = context(system, x)
        energies[name] = energy_and_forces(made)[0]
        if name == "both":
            for value in (0.0, 0.5, 1.0):
                made.setParameter("lambda_interpolate", value)
                energies[value] = energy_and_forces(made)[0]
    assert energies[1.0] == pytest.approx(energies["mixed"], abs=1e-3)
    assert energies[0.0] == pytest.approx(energies["classical"], abs=1e-3)
    assert energies[0.5] == pytest.approx((energies[0.0] + energies[1.0]) / 2, abs=1e-3)


def test_interpolation_with_a_torchforce_is_refused(file, solvated):
    topology, _, classical = solvated
    for own, given in (({"force": "torchforce"}, {}), ({}, {"force": "torchforce"})):
        potential = openmmml.MLPotential("compactff", student=file, **own)
        with pytest.raises(CompactFFError, match="interpolate with force='python'"):
            potential.createMixedSystem(topology, classical, range(22), interpolate=True, **given)


def test_what_cannot_be_a_potential_is_refused(file, solvated):
    with pytest.raises(CompactFFError, match="needs a student"):
        openmmml.MLPotential("compactff")
    with pytest.raises(CompactFFError, match="no student"):
        openmmml.MLPotential("compactff", student="nowhere.safetensors")
    topology, _, _ = solvated
    without_nitrogen = students.create("ultra-tiny", ["C", "H", "O"]).eval()
    with pytest.raises(CompactFFError, match="does not know N"):
        openmmml.MLPotential("compactff", student=without_nitrogen).createSystem(topology)
    with pytest.raises(CompactFFError, match="unknown force"):
        openmmml.MLPotential("compactff", student=file, force="torch").createSystem(topology)


def test_options_that_a_student_does_not_have_are_refused(file, solvated):
    topology, _, classical = solvated
    unknown = "unknown options dtpe; allowed are force, device, dtype, skin_A"
    with pytest.raises(CompactFFError, match=unknown):
        openmmml.MLPotential("compactff", student=file, dtpe="float64")
    potential = openmmml.MLPotential("compactff", student=file, charge=0)
    with pytest.raises(CompactFFError, match=unknown):
        potential.createSystem(topology, dtpe="float64")
    with pytest.raises(CompactFFError, match=r"charge is 1, .* neither charges nor spins"):
        potential.createSystem(topology, charge=1)
    with pytest.raises(CompactFFError, match="multiplicity is 2, "):
        potential.createMixedSystem(topology, classical, range(22), multiplicity=2)
    with pytest.raises(CompactFFError, match="particles is empty"):
        potential.createMixedSystem(topology, classical, [])
    assert potential.createMixedSystem(topology, classical, range(22), charge=0, linkAtomDistances=[])
