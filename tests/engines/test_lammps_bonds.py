"""Decks with bonds, whose neighbours LAMMPS may leave out of the list: all are there, or the run stops."""

import re

import numpy as np
import pytest
from ase.build import molecule
from ase.neighborlist import build_neighbor_list

from lammps_builders import export, forces_of, network, reference, run_input, system_text

ELEMENTS = ["H", "C", "O"]
ATOMS = molecule("CH3CH2OH")
ATOMS.set_cell([14.0, 13.0, 12.0])
ATOMS.center()
ATOMS.pbc = True


def bonded(name, folder, more="", bonds=True):
    """A part of an input like those of ``system_text``, with bonds between the atoms that touch."""
    text = system_text(name, ATOMS, "s.pt", ELEMENTS, folder, more=more)
    path = folder / f"{name}.data"
    matrix = build_neighbor_list(ATOMS, self_interaction=False).get_connectivity_matrix().toarray()
    pairs = np.argwhere(np.triu(matrix + matrix.T))
    assert len(pairs) == 8
    data = re.sub(
        r"^(\s*\d+)(\s+\d+)(\s+\S+\s+\S+\s+\S+)$", r"\1 1\2 0.0\3", path.read_text(), flags=re.MULTILINE
    )
    if bonds:
        data = re.sub(r"(\d+ +atom types)", r"\1\n8 bonds\n1 bond types", data)
        data += (
            "\nBonds\n\n" + "\n".join(f"{k} 1 {i + 1} {j + 1}" for k, (i, j) in enumerate(pairs, 1)) + "\n"
        )
    path.write_text(data)
    return text.replace("atom_style atomic", "atom_style full").replace(
        "pair_style", "bond_style zero\nbond_coeff *\npair_style" if bonds else "pair_style"
    )


@pytest.fixture
def made(tmp_path):
    student = network(ELEMENTS)
    export(student, tmp_path / "s.pt")
    return student


def test_weights_that_keep_bonded_neighbours_give_the_forces_of_the_ase_calculator(tmp_path, made):
    """Neighbours with a weight carry it in their index; a topology without bonds has none."""
    weights = {"ones": "1 1 1", "parts": "0.3 0.5 0.7", "mixed": "1 1e-50 0.5"}
    text = "".join(bonded(name, tmp_path, f"special_bonds lj/coul {w}") for name, w in weights.items())
    text += bonded("coul", tmp_path, "special_bonds lj 0 0 0 coul 1 1 1")
    text += bonded("none", tmp_path, bonds=False)
    run_input(text, tmp_path)
    energies, forces, _ = reference(ATOMS, made)
    for name in (*weights, "coul", "none"):
        got, got_energies = forces_of(tmp_path / f"{name}.dump")
        np.testing.assert_allclose(got_energies, energies, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(got, forces, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("more", "ranks"), [("", 2), ("special_bonds lj/coul 1 1 0", 1)])
def test_weights_that_leave_them_out_stop_the_run(tmp_path, made, more, ranks):
    ran = run_input(bonded("a", tmp_path, more), tmp_path, ranks, check=False)
    assert ran.code != 0 and "Traceback" not in ran.out + ran.err
    assert ran.err.count("special_bonds lj/coul 1 1 1") == 1, ran.err
    assert not (tmp_path / "a.dump").exists()
