"""The engine of LAMMPS against that of ASE: the same points, and the same short dynamics."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from compactff_md import Student
from compactff_md.artifact import describe
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.students import create
from compactff_md.validation.engine_ase import ASEEngine, at_rest_at
from compactff_md.validation.engine_lammps import COLUMNS, LAMMPSEngine, _read_rows
from compactff_md.validation.subject import make_engine, subject_of
from compactff_md.validation.task import State, Task
from lammps_builders import lammps


@pytest.fixture(scope="module")
def student():
    lammps()
    network = create("ultra-tiny", ["H", "C", "O"], seed=4).eval()
    return Student(network, describe(network))


def ethanol():
    return Structure.from_ase(molecule("CH3CH2OH"))


def crystal():
    atoms = bulk("C", "diamond", a=3.7).repeat((2, 2, 1))
    atoms.rattle(0.05, seed=1)
    atoms.cell[2, 0] += 0.4
    return Structure.from_ase(atoms)


def turned():
    """The crystal in a frame that LAMMPS does not take."""
    atoms = crystal().to_ase()
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    return Structure.from_ase(atoms)


@pytest.mark.parametrize(
    "structure", [ethanol(), crystal(), turned()], ids=["molecule", "triclinic", "turned"]
)
def test_energy_forces_and_virial_are_those_of_ase_in_the_structures_frame(student, structure):
    engine = make_engine("lammps", subject_of(student), "float64")
    atoms = structure.to_ase()
    atoms.calc = student.ase_calculator(dtype="float64", device="cpu")
    energy, forces = engine.single_point(structure)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    assert forces == pytest.approx(atoms.get_forces(), abs=1e-7)
    if structure.pbc.all():
        expected = -atoms.get_stress(voigt=False) * atoms.get_volume()
        assert np.abs(expected).max() > 1.0
        assert engine.virial(structure) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("structure", [ethanol(), turned()], ids=["molecule", "turned"])
def test_dynamics_from_the_same_start_are_the_same(student, structure):
    rng = np.random.default_rng(0)
    velocities = at_rest_at(structure, rng.normal(size=(len(structure), 3)), 300.0)
    start = State(structure.positions_A + 0.1, velocities)
    task = Task("nve", 300.0, 0.5, 40, 10, 1)
    ticks = []
    run = LAMMPSEngine(student, "float64").run(structure, task, start, ticks.append)
    expected = ASEEngine(student.ase_calculator(dtype="float64", device="cpu")).run(structure, task, start)
    assert not run.failure and ticks[-1] == 40
    assert run.time_ps == pytest.approx(expected.time_ps)
    assert run.positions_A == pytest.approx(expected.positions_A, abs=1e-5)
    assert run.velocities_A_per_fs == pytest.approx(expected.velocities_A_per_fs, abs=1e-7)
    assert run.potential_eV == pytest.approx(expected.potential_eV, abs=1e-5)
    assert run.kinetic_eV == pytest.approx(expected.kinetic_eV, rel=1e-4)
    assert run.dof == expected.dof


def test_equilibration_ends_at_rest_and_at_the_temperature(student):
    task = Task("nve", 300.0, 0.5, 10, 5, 1, equilibration_steps=20)
    run = LAMMPSEngine(student, "float64").run(ethanol(), task)
    assert len(run.time_ps) == 3 and run.time_ps[0] == 0
    assert run.kinetic_temperature_K[0] == pytest.approx(300.0, rel=1e-3)
    momentum = (run.masses_Da[:, None] * run.velocities_A_per_fs[0]).sum(0)
    assert np.abs(momentum).max() < 1e-6
    again = LAMMPSEngine(student, "float64").run(ethanol(), task)
    assert np.array_equal(run.positions_A, again.positions_A)


def test_a_thermostat_heats(student):
    task = Task("nvt", 600.0, 0.5, 200, 50, 2, friction_per_ps=100.0)
    run = LAMMPSEngine(student).run(ethanol(), task)
    assert not run.failure
    assert np.ptp(run.potential_eV + run.kinetic_eV) > 0.01


def test_what_explodes_is_told_with_what_came_before(student):
    structure = ethanol()
    velocities = np.zeros((9, 3))
    velocities[8, 0] = 30.0
    task = Task("nve", 300.0, 0.5, 10, 1, 1)
    run = LAMMPSEngine(student).run(structure, task, State(structure.positions_A, velocities))
    assert run.failure and len(run.time_ps) < 11


def test_unknown_elements_are_refused(student):
    with pytest.raises(CompactFFError, match="does not know Au"):
        LAMMPSEngine(student).single_point(Structure([[0, 0, 0]], [79]))


def test_a_warning_between_two_rows_ends_no_table(tmp_path):
    row = " ".join(str(k) for k in range(len(COLUMNS)))
    table = [
        "   Step PotEng KinEng",
        *[row] * 3,
        "WARNING: Dump is slow (../dump.cpp:1)",
        *[row] * 2,
        "Loop time of 1",
    ]
    (tmp_path / "log").write_text("\n".join(["Step PotEng", row, "Loop time of 1", *table, row, "x y"]))
    assert _read_rows(tmp_path / "log").shape == (5, len(COLUMNS))
