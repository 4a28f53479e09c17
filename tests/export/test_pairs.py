import numpy as np
import pytest
import torch

from builders import SMALL, TRICLINIC
from compactff_md.export import pairs

PERIODICITIES = [(x, y, z) for x in (False, True) for y in (False, True) for z in (False, True)]
CELLS = {"cubic": np.eye(3) * 9.0, "triclinic": TRICLINIC, "smaller than the cutoff": SMALL}


@pytest.fixture(scope="module")
def find_pairs():
    return torch.jit.script(pairs.find_pairs)


def brute_force(positions, cell, pbc, radius):
    """Every pair by trying all lattice vectors that could matter, in unwrapped coordinates."""
    height = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    spread = np.ptp(positions @ np.linalg.inv(cell), axis=0)
    count = [int(radius / h + s) + 1 if p else 0 for h, s, p in zip(height, spread, pbc, strict=True)]
    ranges = [np.arange(-c, c + 1) for c in count]
    shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    vectors = positions[None, :, None] - positions[:, None, None] + shifts @ cell  # (N, N, S, 3)
    distance = np.linalg.norm(vectors, axis=-1)
    i, j, s = np.nonzero(distance <= radius)
    real = (i != j) | np.any(shifts[s] != 0, axis=1)
    return as_set(i[real], j[real], shifts[s][real])


def as_set(i, j, shifts):
    return sorted(zip(i.tolist(), j.tolist(), map(tuple, shifts.astype(int).tolist()), strict=True))


def run(find_pairs, positions, cell, pbc, radius, trials):
    i, j, shifts = find_pairs(torch.tensor(positions), torch.tensor(cell), list(pbc), radius, trials)
    assert bool((i[1:] >= i[:-1]).all())
    return as_set(i.numpy(), j.numpy(), shifts.numpy())


@pytest.mark.parametrize("trials", [0, 1 << 30], ids=["columns", "all pairs"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_pairs_of_brute_force(find_pairs, cell, pbc, trials):
    rng = np.random.default_rng(1)
    for radius, count in ((2.7, 11), (5.4, 8), (1.0, 1)):
        positions = rng.uniform(-1.2, 1.9, (count, 3)) @ cell  # far outside of the cell too
        expected = brute_force(positions, cell, pbc, radius)
        assert run(find_pairs, positions, cell, pbc, radius, trials) == expected


@pytest.mark.parametrize("trials", [0, 1 << 30], ids=["columns", "all pairs"])
def test_rows_of_the_cell_along_open_directions_do_not_matter(find_pairs, trials):
    positions = np.random.default_rng(2).uniform(0, 9, (20, 3))
    pbc = (True, False, True)
    other = TRICLINIC.copy()
    other[1] = [np.inf, 0.0, np.nan]
    expected = brute_force(positions, TRICLINIC, pbc, 4.0)
    assert run(find_pairs, positions, other, pbc, 4.0, trials) == expected


def test_columns_find_what_all_pairs_find_in_many_chunks(find_pairs):
    rng = np.random.default_rng(3)
    cell = np.diag([30.0, 28.0, 26.0]) + rng.normal(size=(3, 3))
    positions = rng.uniform(-0.5, 1.5, (2200, 3)) @ cell
    assert len(positions) > 2 * pairs.CHUNK_ATOMS
    expected = run(find_pairs, positions, cell, (True, True, False), 5.4, 1 << 40)
    assert run(find_pairs, positions, cell, (True, True, False), 5.4, 0) == expected


def test_work_per_atom_does_not_grow(monkeypatch):
    candidates = []
    within = pairs.within

    def counting(images, i, g, radius):
        candidates.append(len(i))
        return within(images, i, g, radius)

    monkeypatch.setattr(pairs, "within", counting)
    per_atom = []
    for count in (1536, 12288):
        side = (count / 0.1) ** (1.0 / 3.0)
        positions = torch.rand(count, 3, dtype=torch.float64) * side
        candidates.clear()
        pairs.find_pairs(positions, torch.eye(3, dtype=torch.float64) * side, [True] * 3, 5.4)
        per_atom.append(sum(candidates) / count)
    assert per_atom[1] < 1.05 * per_atom[0] < 200


def test_atoms_that_flew_away_cost_nothing(find_pairs):
    rng = np.random.default_rng(4)
    positions = rng.uniform(0, 20, (800, 3))
    positions[0] = [3e4, -2e4, 1e4]
    positions[1] = positions[0] + [1.0, 0.0, 0.0]
    i, j, _ = find_pairs(torch.tensor(positions), torch.zeros(3, 3, dtype=torch.float64), [False] * 3, 5.0, 0)
    assert j[i == 0].tolist() == [1]
    positions[0] = 1e12
    with pytest.raises(torch.jit.Error, match="too far apart"):
        find_pairs(torch.tensor(positions), torch.zeros(3, 3, dtype=torch.float64), [False] * 3, 5.0, 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, c: p.fill_(torch.nan), "NaN or infinite"),
        (lambda p, c: c.fill_(0.0), "singular"),
        (lambda p, c: c[1].copy_(2 * c[0]), "singular"),
        (lambda p, c: c.mul_(0.01), "thinner than 0.5 A"),
    ],
)
def test_impossible_input_is_refused(find_pairs, spoil, message):
    positions, cell = torch.rand(4, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 9
    spoil(positions, cell)
    with pytest.raises(torch.jit.Error, match=message):
        find_pairs(positions, cell, [True, True, True], 5.0)


@pytest.mark.parametrize("pbc", PERIODICITIES)
def test_completed_cell_is_regular_and_keeps_periodic_rows(pbc):
    cell = torch.tensor(TRICLINIC)
    full = pairs.completed_cell(cell, list(pbc))
    open_rows = torch.tensor([not p for p in pbc])
    assert torch.equal(full[~open_rows], cell[~open_rows])
    overlap = full @ full.T - torch.eye(3, dtype=full.dtype)
    assert float(overlap[open_rows].abs().sum()) < 1e-12
