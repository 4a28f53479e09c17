import ase.build
import numpy as np
import pytest

from builders import random_structure
from compactff_md.engines.molecules import find_molecules
from compactff_md.structure import Structure


def waters(count: int, seed: int, cell) -> Structure:
    """Molecules thrown into a slanted box and wrapped atom by atom, so that most are cut in pieces."""
    rng = np.random.default_rng(seed)
    water = ase.build.molecule("H2O").positions
    corners = (np.arange(count)[:, None] + 0.5) / count + np.array([0.0, 0.1, 0.2])
    positions = np.concatenate([water + corner @ cell + rng.integers(-3, 3, 3) @ cell for corner in corners])
    fractional = np.linalg.solve(np.transpose(cell), positions.T).T % 1.0
    return Structure(fractional @ cell, [8, 1, 1] * count, cell, (True, True, True))


def test_molecules_that_the_box_cuts_are_made_whole():
    cell = np.array([[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [-2.0, 3.0, 10.0]])
    structure = waters(4, 0, cell)
    molecules = find_molecules(structure)
    assert molecules.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert not molecules.endless.any()
    assert molecules.images.any()
    whole = molecules.whole_positions_A(structure).reshape(4, 3, 3)
    lengths = np.linalg.norm(whole[:, 1:] - whole[:, :1], axis=-1)
    np.testing.assert_allclose(lengths, 0.969, atol=0.01)


def test_crystals_and_polymers_are_endless():
    diamond = Structure.from_ase(ase.build.bulk("C", cubic=True))
    assert find_molecules(diamond).endless.all()
    primitive = Structure.from_ase(ase.build.bulk("C"))
    assert find_molecules(primitive).endless.all()
    chain = Structure([[0, 0, 0], [1.4, 0, 0]], [6, 6], np.diag([2.8, 15.0, 15.0]), (True, True, True))
    assert find_molecules(chain).endless.all()


def test_a_guest_in_a_crystal_is_not_endless():
    cage = ase.build.bulk("C", cubic=True).repeat(4)
    centre = cage.cell.array.sum(0) / 2
    cage = cage[np.linalg.norm(cage.positions - centre, axis=1) > 5.0]
    guest = ase.build.molecule("H2O")
    guest.positions += centre
    molecules = find_molecules(Structure.from_ase(cage + guest))
    assert not molecules.endless[-3:].any()
    assert molecules.endless[: len(cage)].mean() > 0.9


def test_free_molecules_and_atoms():
    two = ase.build.molecule("CH3CH2OH")
    other = ase.build.molecule("H2")
    other.positions += 10.0
    molecules = find_molecules(Structure.from_ase(two + other + ase.Atoms("He", [[30, 0, 0]])))
    assert molecules.labels.tolist() == [0] * 9 + [1, 1, 2]
    assert len(molecules.bonds) == 8 + 1
    assert not molecules.images.any()


@pytest.mark.parametrize("seed", range(3))
def test_whole_molecules_are_the_same_structure(seed):
    structure = random_structure(seed, ["C", "H", "O"], 10, cell_A=np.eye(3) * 6.0, pbc=(True, True, True))
    shift = (find_molecules(structure).whole_positions_A(structure) - structure.positions_A) / 6.0
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-12)
