import subprocess
import sys

import numpy as np
import pytest
import torch

from builders import SMALL, TRICLINIC
from compactff_md.export.verlet import SMALL_MOLECULE, VerletTable, current_table, empty_table, vectors_of
from compactff_md.neighbours import pair_list
from compactff_md.structure import Structure

CUTOFF_A = 4.0
ZERO = np.zeros((3, 3))


class VerletList(torch.nn.Module):
    """Keeps its table from call to call, as the exported module does."""

    table: VerletTable

    def __init__(self, cutoff_A: float, skin_A: float):
        super().__init__()
        self.cutoff_A, self.skin_A = cutoff_A, skin_A
        self.table = empty_table()
        self.num_builds = 0

    def forward(self, positions: torch.Tensor, cell: torch.Tensor, pbc: list[bool]):
        table = current_table(self.table, positions, cell, pbc, self.cutoff_A, self.skin_A)
        self.table = table
        self.num_builds = table.num_builds
        return vectors_of(table, positions), table.neighbours


@pytest.fixture
def verlet():
    return torch.jit.script(VerletList(CUTOFF_A, 0.5))


def table_within(verlet, positions, cell, pbc):
    """Pairs of the table within the cutoff: atom, neighbour, vector; and the padding checked."""
    vectors, neighbours = verlet(torch.tensor(positions), torch.tensor(cell), [bool(p) for p in pbc])
    distance = vectors.norm(dim=-1)
    padded = distance > 500
    own = torch.arange(len(positions)).unsqueeze(1).expand_as(neighbours)
    assert torch.equal(neighbours[padded], own[padded])
    i, k = np.nonzero(distance.numpy() <= CUTOFF_A)
    return np.column_stack([i, neighbours.numpy()[i, k], vectors.numpy()[i, k]])


def by_vesin(positions, cell, pbc):
    structure = Structure(positions, np.ones(len(positions), dtype=int), cell, np.array(pbc))
    i, j, _, shifts = pair_list(structure, CUTOFF_A)
    return np.column_stack([i, j, positions[j] - positions[i] + shifts @ cell])


def check(verlet, positions, cell, pbc):
    got, expected = table_within(verlet, positions, cell, pbc), by_vesin(positions, cell, pbc)
    assert got.shape == expected.shape
    for rows in (got, expected):
        rows[:, 2:] = rows[:, 2:].round(7) + 0.0
    order = [np.lexsort(rows.T[::-1]) for rows in (got, expected)]
    np.testing.assert_allclose(got[order[0]], expected[order[1]], atol=2e-7)


WALKS = {
    "free": (60, ZERO, (False, False, False)),
    "small molecule": (20, ZERO, (False, False, False)),
    "one atom": (1, ZERO, (False, False, False)),
    "one atom in a small cell": (1, SMALL, (True, True, True)),
    "small cell": (3, SMALL, (True, True, True)),
    "triclinic": (40, TRICLINIC, (True, True, True)),
    "slab": (30, TRICLINIC, (True, True, False)),
    "wire": (30, TRICLINIC, (False, True, False)),
    "large": (700, np.eye(3) * 19.0, (True, True, True)),
}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_complete_at_every_step_of_a_walk_with_a_breathing_cell(verlet, walk):
    count, cell, pbc = walk
    rng = np.random.default_rng(5)
    positions = rng.uniform(-1.0, 2.0, (count, 3)) @ (cell if any(pbc) else np.eye(3) * 8.0)
    flow = rng.normal(size=(count, 3)) * 0.02  # carries atoms through the faces of the cell
    steps = 12 if count > 100 else 60
    for step in range(steps):
        positions = positions + flow + rng.normal(size=(count, 3)) * 0.01
        if any(pbc) and step % 4 == 1:  # a trial move of a barostat, with shear, not always taken back
            strain = np.eye(3) + rng.normal(size=(3, 3)) * 0.002
            check(verlet, positions @ strain, cell @ strain, pbc)
            if step % 8 == 1:
                positions, cell = positions @ strain, cell @ strain
        check(verlet, positions, cell, pbc)
    assert verlet.num_builds < 0.6 * steps


def test_pure_strain_is_followed_until_the_skin_is_used_up(verlet):
    # No atom moves against the lattice: everything hangs on the term of the strain.
    rng = np.random.default_rng(6)
    cell, pbc = TRICLINIC, (True, True, True)
    fractional = rng.random((30, 3))
    for step in range(80):
        squeezed = cell * (1.0 - 0.003 * step)
        check(verlet, fractional @ squeezed, squeezed, pbc)
    assert 1 < verlet.num_builds < 20


def test_skin_is_shared_by_the_two_fastest_atoms(verlet):
    pbc, cell = [False] * 3, torch.zeros(3, 3, dtype=torch.float64)
    start = torch.rand(60, 3, dtype=torch.float64) * 12
    for moves, builds in (((0.24, 0.24), 1), ((0.45, 0.04), 1), ((0.27, 0.25), 2)):
        verlet(start, cell, pbc)
        before = verlet.num_builds
        moved = start.clone()
        moved[3, 0] += moves[0]
        moved[7, 1] -= moves[1]
        verlet(moved, cell, pbc)
        assert verlet.num_builds - before == builds - 1


def test_a_barostats_trial_does_not_build(verlet):
    cell = torch.eye(3, dtype=torch.float64) * 20
    positions = torch.rand(300, 3, dtype=torch.float64) * 60 - 20
    verlet(positions, cell, [True] * 3)
    for volume in (1.008, 0.992, 1.0):
        scale = volume ** (1.0 / 3.0)
        verlet(positions * scale, cell * scale, [True] * 3)
    assert verlet.num_builds == 1


def test_wrapping_by_the_engine_is_right(verlet):
    rng = np.random.default_rng(7)
    fractional = rng.uniform(-1, 2, (30, 3))
    pbc = (True, True, True)
    check(verlet, fractional @ TRICLINIC, TRICLINIC, pbc)
    check(verlet, (fractional % 1.0) @ TRICLINIC, TRICLINIC, pbc)


def test_any_order_of_structures(verlet):
    rng = np.random.default_rng(8)
    cases = [
        (rng.uniform(0, 9, (n, 3)), TRICLINIC if any(pbc) else ZERO, pbc)
        for n in (5, 5, 60)
        for pbc in ((True, True, True), (False, False, False), (True, False, False))
    ]
    for k in rng.integers(0, len(cases), 60):
        check(verlet, *cases[k])


def test_mirrored_cell_is_another_one(verlet):
    rng = np.random.default_rng(9)
    positions = rng.uniform(0, 6, (20, 3))
    check(verlet, positions, TRICLINIC, (True, True, True))
    swapped = TRICLINIC[[1, 0, 2]]
    vectors, _ = verlet(torch.tensor(positions), torch.tensor(swapped), [True] * 3)
    fresh, _ = VerletList(CUTOFF_A, 0.5)(torch.tensor(positions), torch.tensor(swapped), [True] * 3)
    lengths = [v.norm(dim=-1).flatten().sort()[0] for v in (vectors, fresh)]
    within = [v[v <= CUTOFF_A] for v in lengths]
    torch.testing.assert_close(within[0], within[1])


def test_atoms_moved_in_place_are_noticed(verlet):
    positions = torch.rand(60, 3, dtype=torch.float64) * 10
    cell = torch.eye(3, dtype=torch.float64) * 10
    verlet(positions, cell, [True] * 3)
    positions.copy_(torch.rand(60, 3, dtype=torch.float64) * 10)
    cell.mul_(1.3)
    check(verlet, positions.numpy(), cell.numpy(), (True, True, True))


def test_far_from_the_cell(verlet):
    positions = np.random.default_rng(10).uniform(0, 6, (20, 3))
    turns = np.random.default_rng(11).integers(-3000, 3000, (20, 3))
    check(verlet, positions + turns @ TRICLINIC, TRICLINIC, (True, True, True))


def test_width_is_that_of_the_longest_row(verlet):
    positions = np.random.default_rng(12).uniform(0, 12, (90, 3))
    _, neighbours = verlet(torch.tensor(positions), torch.tensor(ZERO), [False] * 3)
    structure = Structure(positions, np.ones(90, dtype=int))
    assert neighbours.shape == (90, np.bincount(pair_list(structure, CUTOFF_A + 0.5)[0]).max())


def test_small_molecule_lists_all_others_once(verlet):
    for count in (2, 7, SMALL_MOLECULE):
        positions = torch.rand(count, 3, dtype=torch.float64) * 30
        before = verlet.num_builds
        for _ in range(5):
            positions = positions + torch.randn_like(positions)
            vectors, neighbours = verlet(positions, torch.tensor(ZERO), [False] * 3)
            assert neighbours.sort(dim=1)[0].tolist() == [
                [j for j in range(count) if j != i] for i in range(count)
            ]
            torch.testing.assert_close(vectors, positions[neighbours] - positions[:, None])
        assert verlet.num_builds == before + 1


def test_without_skin(verlet):
    thin = torch.jit.script(VerletList(CUTOFF_A, 0.0))
    rng = np.random.default_rng(13)
    positions = rng.uniform(0, 6, (30, 3))
    for _ in range(3):
        check(thin, positions, TRICLINIC, (True, True, True))
        check(thin, positions, TRICLINIC, (True, True, True))
        positions = positions + rng.normal(size=positions.shape) * 0.05
    assert thin.num_builds == 3


def test_frozen_module_keeps_its_state():
    frozen = torch.jit.freeze(torch.jit.script(VerletList(CUTOFF_A, 0.5).eval()))
    positions = np.random.default_rng(14).uniform(0, 6, (30, 3))
    for _ in range(20):
        positions = positions + np.random.default_rng(15).normal(size=positions.shape) * 0.03
        check(frozen, positions, TRICLINIC, (True, True, True))


MEMORY = """
import resource, torch
from compactff_md.export.verlet import current_table, empty_table
torch.set_num_threads(1)
updated, table = torch.jit.script(current_table), empty_table()
def run(count):
    global table
    side = (count / 0.1) ** (1 / 3)
    cell = torch.eye(3, dtype=torch.float64) * side
    positions = torch.rand(count, 3, dtype=torch.float64) * side
    table = updated(table, positions, cell, [True] * 3, 5.0, 0.4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = run(300)
print(run(12288) - small)
"""


def test_peak_memory_of_12288_atoms():
    out = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 500  # MB
