import numpy as np
import torch

from builders import TRICLINIC, random_structure
from compactff_md.mliap.pairs import pair_table
from compactff_md.neighbours import PADDING_A, neighbour_table, pair_list


def test_the_table_is_that_of_the_structure():
    structure = random_structure(3, ["H", "O"], 20, cell_A=TRICLINIC, pbc=(True,) * 3)
    i, j, _, shifts = pair_list(structure, 4.0)
    vectors = structure.positions_A[j] - structure.positions_A[i] + shifts @ structure.cell_A
    made = pair_table(*(torch.from_numpy(x) for x in (i, j, vectors)), 20, torch.float64)
    want = neighbour_table(structure, 4.0)
    assert torch.equal(made.neighbours, want.neighbours)
    near = want.offsets_A[..., 0] < PADDING_A / 2
    positions = torch.from_numpy(structure.positions_A)
    torch.testing.assert_close(made.vectors[near], want.vectors(positions)[near])
    assert (made.vectors[~near] == torch.tensor([PADDING_A, 0.0, 0.0], dtype=torch.float64)).all()


def test_atoms_in_any_order_some_without_pairs_and_the_way_back():
    rows = torch.tensor([3, 3, 0, 4, 4, 4])
    columns = torch.tensor([0, 9, 3, 1, 2, 3])
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3)))
    made = pair_table(rows, columns, vectors, 6, torch.float32)
    assert made.vectors.shape == (6, 3, 3) and made.vectors.dtype == torch.float32
    assert made.neighbours[3].tolist() == [0, 9, 3] and made.neighbours[1].tolist() == [1, 1, 1]
    back = made.of_pairs(made.vectors)
    assert back.dtype == torch.float64 and back.is_contiguous()
    torch.testing.assert_close(back, vectors, atol=1e-6, rtol=0)


def test_no_pairs_and_no_atoms():
    none, empty = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.float64)
    assert pair_table(none, none, empty, 2, torch.float32).vectors[:, :, 0].tolist() == [[PADDING_A]] * 2
    made = pair_table(none, none, empty, 0, torch.float32)
    assert made.vectors.shape == (0, 1, 3) and made.of_pairs(made.vectors).shape == (0, 3)
