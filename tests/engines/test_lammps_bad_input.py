"""What a user of LAMMPS gets wrong: one message that says what to change, an exit code, readable output."""

import re

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from builders import random_structure
from compactff_md.artifact import describe, student_bytes
from lammps_builders import export, forces_of, network, run_input, system_text

ELEMENTS = ["H", "O"]
BOX = random_structure(2, ELEMENTS, 24, cell_A=np.diag([12.0, 8.0, 8.0]), pbc=(True,) * 3, closest_A=1.2)
ATOMS = ase.Atoms(BOX.numbers, BOX.positions_A, cell=BOX.cell_A, pbc=True)
LAMMPS_OWN = "Running mliappy unified"


def refused(text, folder, *words, ranks=1, **variables):
    """The run must end with words of ours or of LAMMPS, and without a traceback."""
    ran = run_input(text, folder, ranks, check=False, **variables)
    assert ran.code != 0, ran.out[-2000:]
    both = ran.out + ran.err
    assert "Traceback" not in both, both
    for word in words:
        assert word in both, both[-3000:]
    return ran


@pytest.fixture
def folder(tmp_path):
    export(network(ELEMENTS), tmp_path / "s.pt")
    return tmp_path


def text(folder, atoms=ATOMS, elements=ELEMENTS, name="a", **options):
    return system_text(name, atoms, "s.pt", elements, folder, **options)


def test_an_element_that_the_student_lacks(folder):
    ran = refused(text(folder).replace("* * H O", "* * H S"), folder, "S, which the student does not know")
    assert "it knows H O" in ran.err and ran.err.count("compactff: ") == 1


def test_an_element_that_it_lacks_in_the_second_partition(folder):
    """Each partition is a simulation with a first rank of its own."""
    several = text(folder).replace(
        "pair_coeff * * H O", 'variable el world "H O" "H S"\npair_coeff * * ${el}'
    )
    ran = run_input(several, folder, 2, "-partition", "2x1", check=False)
    assert ran.code != 0 and "S, which the student does not know" in ran.err, ran.err


@pytest.mark.parametrize("ranks", [1, 2])
def test_elements_in_another_order_than_the_types(folder, ranks):
    wrong = text(folder).replace("* * H O", "* * O H")
    ran = refused(wrong, folder, "another order than the atom types", "has the mass of H", ranks=ranks)
    assert ran.err.count("compactff: ") == 1 and not (folder / "a.dump").exists()


def test_an_element_in_the_place_of_another_is_told_and_heavy_hydrogen_is_not(folder):
    export(network(["H", "C", "O"]), folder / "s.pt")
    heavy = text(folder, name="a").replace("compute e", "mass 1 2.014\ncompute e")
    carbon = text(folder, name="b").replace("* * H O", "* * H C")
    ran = run_input(heavy + carbon, folder, 2)
    assert ran.err.count("compactff: ") == 1, ran.err
    assert "type 2 is C and has the mass of O (15.999)" in ran.err
    assert (folder / "a.dump").exists() and (folder / "b.dump").exists()


@pytest.mark.parametrize("elements", ["H", "H O H"])
def test_too_few_or_too_many_elements(folder, elements):
    given = len(elements.split())
    wrong = text(folder).replace("* * H O", f"* * {elements}")
    refused(wrong, folder, "each of the 2 atom types", f"got {given}")


def test_null_types_without_hybrid(folder):
    refused(text(folder).replace("* * H O", "* * H NULL"), folder, "All pair coeffs are not set")


def test_units_in_which_lengths_are_no_angstrom(folder):
    ran = refused(text(folder).replace("units metal", "units lj"), folder, "units lj", "units metal (eV)")
    assert ran.err.count("compactff: ") == 1


def test_newton_off(folder):
    refused(text(folder).replace("newton on", "newton off"), folder, "newton pair on")


def test_a_file_that_was_edited_after_its_export(folder):
    other = network(ELEMENTS, seed=9)
    made = torch.load(folder / "s.pt", weights_only=False)
    made.content = student_bytes(other, describe(other))
    torch.save(made, folder / "s.pt")
    refused(text(folder), folder, "changed after its export", LAMMPS_OWN)


def test_another_python(folder):
    made = torch.load(folder / "s.pt", weights_only=False)
    made.python = "3.7"
    torch.save(made, folder / "s.pt")
    refused(text(folder), folder, "exported by Python 3.7", "lammps/build")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_atoms_without_ids(folder, ranks):
    """Ghosts have no owners then; the second rank has no atoms that would tell."""
    atoms = molecule("H2O")
    atoms.positions += [3.0, 4.0, 4.0]
    atoms.set_cell([40.0, 4.0, 8.0])
    atoms.pbc = True
    wrong = text(folder, atoms).replace("atom_modify map yes", "atom_modify id no")
    data = folder / "a.data"
    data.write_text(re.sub(r"(?m)^ +[123]( +[12] +\S+ +\S+ +\S+)$", r"0 \1", data.read_text()))
    ran = refused(wrong, folder, "atoms have no ids", "mliap unified FILE 1", ranks=ranks)
    assert ran.err.count("compactff: ") == 1


@pytest.mark.slow
def test_a_communication_cutoff_that_is_too_short_and_many_ranks(folder):
    """The same message once, and all ranks end; a sufficient cutoff runs on."""
    short = text(folder, flag=1).replace("comm_modify cutoff 12.0", "comm_modify cutoff 10.5")
    ran = refused(short, folder, "comm_modify cutoff 11", "too short", ranks=2)
    assert ran.err.count("too short") == 1
    right = text(folder, flag=1).replace("comm_modify cutoff 12.0", "comm_modify cutoff 11.0")
    run_input(right + text(folder, name="b"), folder, ranks=2)
    np.testing.assert_allclose(forces_of(folder / "a.dump")[0], forces_of(folder / "b.dump")[0], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_forces_that_are_not_finite_stop_every_rank_and_leave_the_output(folder, ranks):
    """Two atoms of one rank end up on the same place after ten steps; another rank sees nothing of it."""
    atoms = molecule("H2O")
    atoms.positions += [3.0, 4.0, 4.0]
    atoms += ase.Atoms("O", [[30.0, 4.0, 4.0]])
    atoms.set_cell([40.0, 8.0, 8.0])
    atoms.pbc = True
    run = """timestep 0.0001
dump d all custom 5 steps.dump id x y z
dump_modify d flush yes
fix 1 all nve
thermo 5
thermo_modify flush yes
run 10
set atom 1 x 3.0 y 4.0 z 4.0
set atom 2 x 3.0 y 4.0 z 4.0
run 10"""
    words = ("not finite at step 10", "shorter timestep")
    ran = refused(text(folder, atoms, run=run), folder, *words, ranks=ranks)
    assert ran.err.count("not finite") == 1
    frames = (folder / "steps.dump").read_text().count("ITEM: TIMESTEP")
    assert frames == 3 and "Loop time" in (folder / "log.lammps").read_text()
