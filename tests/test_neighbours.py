from itertools import product

import numpy as np
import pytest
import torch

from builders import FREE, PERIODIC, SMALL, TRICLINIC, random_structure
from compactff_md.errors import NotFiniteError
from compactff_md.neighbours import PADDING_A, neighbour_table, pair_list
from compactff_md.structure import Structure

CUTOFF_A = 4.0


def brute_force(structure: Structure, cutoff_A: float) -> dict[tuple[int, int, int, int, int], float]:
    """Every ordered pair and image within the cutoff, by trying all: i, j, shifts -> distance."""
    periodic = np.flatnonzero(structure.pbc)
    vectors = structure.cell_A[periodic]
    # |n_k| <= |column k of the pseudo-inverse| (cutoff + |d|) for any shift n with |n vectors + d| < cutoff.
    columns = np.linalg.norm(np.linalg.pinv(vectors), axis=0) if len(periodic) else np.zeros(0)
    pairs = {}
    for i, j in product(range(len(structure)), repeat=2):
        d = structure.positions_A[j] - structure.positions_A[i]
        reach = np.ceil(columns * (cutoff_A + np.linalg.norm(d))).astype(int)
        for shift in product(*[range(-m, m + 1) for m in reach]):
            full = np.zeros(3, dtype=int)
            full[periodic] = shift
            if i == j and not full.any():
                continue
            distance = np.linalg.norm(d + full @ structure.cell_A)
            if distance < cutoff_A:
                pairs[i, j, *full.tolist()] = distance
    return pairs


def found(structure: Structure, cutoff_A: float) -> dict[tuple[int, int, int, int, int], float]:
    i, j, distance, shifts = pair_list(structure, cutoff_A)
    keys = [tuple(row) for row in np.column_stack([i, j, shifts]).tolist()]
    assert len(set(keys)) == len(keys), "a pair is listed twice"
    return dict(zip(keys, distance, strict=True))


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    np.testing.assert_allclose([a[key] for key in b], list(b.values()), rtol=1e-12)


PARTLY = list(product([True, False], repeat=3))


@pytest.mark.parametrize("pbc", PARTLY)
@pytest.mark.parametrize(
    "cell", [TRICLINIC, np.diag([5.0, 6.5, 7.0]), SMALL], ids=["triclinic", "box", "small"]
)
def test_pairs_equal_brute_force(pbc, cell):
    count = 3 if cell is SMALL else 14
    structure = random_structure(len(cell) + sum(pbc), ["C"], count, cell_A=cell, pbc=pbc, closest_A=0.7)
    same(found(structure, CUTOFF_A), brute_force(structure, CUTOFF_A))


@pytest.mark.parametrize("pbc", [PERIODIC, (True, False, True), (False, False, True)])
def test_unwrapped_coordinates(pbc):
    wrapped = random_structure(3, ["C"], 8, cell_A=TRICLINIC, pbc=pbc)
    rng = np.random.default_rng(4)
    shifts = rng.integers(-4, 5, size=(8, 3)) * np.array(pbc)
    moved = Structure(wrapped.positions_A + shifts @ TRICLINIC, wrapped.numbers, TRICLINIC, wrapped.pbc)
    same(found(moved, CUTOFF_A), brute_force(moved, CUTOFF_A))
    assert len(found(moved, CUTOFF_A)) == len(found(wrapped, CUTOFF_A))


@pytest.mark.parametrize("pbc", [(True, False, False), (True, True, False), (False, True, True)])
def test_directions_without_a_lattice_vector(pbc):
    cell = np.diag([4.0, 4.5, 5.0]) * np.array(pbc)[:, None]
    placed = random_structure(5, ["C"], 9, side_A=4.0)
    structure = Structure(placed.positions_A, placed.numbers, cell, np.array(pbc))
    same(found(structure, CUTOFF_A), brute_force(structure, CUTOFF_A))


def test_a_single_atom_sees_its_images():
    structure = Structure(np.zeros((1, 3)), [6], np.eye(3) * 2.0, np.ones(3, dtype=bool))
    pairs = found(structure, 2.1)
    assert len(pairs) == 6
    assert set(pairs.values()) == {2.0}


@pytest.mark.parametrize("pbc", [FREE, (True, True, False), PERIODIC])
def test_table_holds_the_pairs_and_padding(pbc):
    structure = random_structure(6, ["C"], 10, cell_A=TRICLINIC, pbc=pbc)
    table = neighbour_table(structure, CUTOFF_A)
    positions = torch.from_numpy(structure.positions_A)
    lengths = table.vectors(positions).norm(dim=-1)
    real = lengths < PADDING_A / 2
    expected = brute_force(structure, CUTOFF_A)
    assert int(real.sum()) == len(expected)
    rows = torch.arange(len(structure)).unsqueeze(1).expand_as(table.neighbours)
    listed = sorted(
        zip(rows[real].tolist(), table.neighbours[real].tolist(), lengths[real].tolist(), strict=True)
    )
    wanted = sorted((i, j, distance) for (i, j, *_), distance in expected.items())
    np.testing.assert_allclose(listed, wanted, rtol=1e-12)
    assert torch.equal(table.neighbours[~real], rows[~real])
    assert lengths[~real].numel() == 0 or lengths[~real].min() >= PADDING_A
    assert bool(real.any(dim=0).all()), "no column is padding alone"


def test_isolated_atoms_have_one_column_of_padding():
    table = neighbour_table(Structure(np.eye(3) * 50.0, [1, 1, 1]), CUTOFF_A)
    assert table.neighbours.shape == (3, 1)
    assert table.offsets_A.shape == (3, 1, 3)
    assert table.vectors(torch.eye(3) * 50.0).dtype == torch.float32


@pytest.mark.parametrize("pbc", [(False,) * 3, (True, True, False)])
def test_atoms_that_have_flown_apart_are_an_error(pbc):
    """The search divides by the number of its cells, which overflows there, and ends the process."""
    apart = np.array([[0.0, 0, 0], [0, 0, 1e12]])
    with pytest.raises(NotFiniteError, match="1e\\+12 A apart where the structure is not periodic"):
        pair_list(Structure(apart, np.array([1, 1]), 20.0 * np.eye(3), pbc), 5.0)
