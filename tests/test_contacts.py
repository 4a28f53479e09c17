import ase.build
import numpy as np
import pytest

from compactff_md.contacts import MIN_CONTACT_A, check_contacts
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure


@pytest.fixture
def molecule() -> Structure:
    return Structure.from_ase(ase.build.molecule("CH3CH2OH"))


def test_ordinary_structures_pass(molecule):
    check_contacts(molecule)
    check_contacts(Structure.from_ase(ase.build.bulk("Cu", cubic=True)))
    check_contacts(Structure.from_ase(ase.build.molecule("H2")))
    check_contacts(Structure(np.zeros((1, 3)), [1]))


def test_overlapping_atoms_are_named(molecule):
    positions = molecule.positions_A.copy()
    positions[5] = positions[2] + [0.0, 0.05, 0.0]
    with pytest.raises(CompactFFError, match=r"frame 7: atoms 2 and 5 overlap, 0\.050 A apart"):
        check_contacts(Structure(positions, molecule.numbers), "frame 7")


def test_two_atoms_on_one_spot():
    with pytest.raises(CompactFFError, match=r"atoms 0 and 1 overlap, 0\.000 A apart"):
        check_contacts(Structure(np.zeros((2, 3)), [1, 1]))


def test_an_overlap_across_the_boundary_counts():
    positions = np.array(
        [[0.05, 1.0, 1.0], [9.95, 1.0, 1.0], [5.0, 5.0, 5.0], [2.0, 7.0, 3.0], [7.0, 2.0, 8.0]]
    )
    box = np.eye(3) * 10.0
    check_contacts(Structure(positions, [6] * 5, box, [False, True, True]))
    with pytest.raises(CompactFFError, match=r"overlap, 0\.100 A"):
        check_contacts(Structure(positions, [6] * 5, box, [True, True, True]))


def test_lengths_in_nm_are_recognised(molecule):
    with pytest.raises(CompactFFError, match=r"look like nm, expected A \(multiply by 10\)"):
        check_contacts(Structure(molecule.positions_A / 10.0, molecule.numbers))


def test_a_cell_that_stands_for_none_is_recognised(molecule):
    """CRYST1 1 1 1, as PDB files of other methods than crystallography have it."""
    dummy = Structure(molecule.positions_A, molecule.numbers, np.eye(3), [True] * 3)
    with pytest.raises(CompactFFError, match=r"images overlap: the cell is \[1, 1, 1\] A; give the"):
        check_contacts(dummy)
    in_nm = Structure(molecule.positions_A / 10.0, molecule.numbers, np.eye(3), [True] * 3)
    with pytest.raises(CompactFFError, match="look like nm"):
        check_contacts(in_nm)


def test_the_limit_is_where_it_says():
    for distance, allowed in ((MIN_CONTACT_A + 1e-6, True), (MIN_CONTACT_A - 1e-6, False)):
        structure = Structure([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], [1, 1])
        if allowed:
            check_contacts(structure)
        else:
            with pytest.raises(CompactFFError):
                check_contacts(structure)
