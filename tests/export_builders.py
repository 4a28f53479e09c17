"""Students and structures for the tests of exported files."""

import torch

from builders import SMALL, TRICLINIC, random_structure
from compactff_md import students
from compactff_md.gradients import predict
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure

ELEMENTS = ["H", "C", "O"]
FREE, PERIODIC, SLAB = (False,) * 3, (True,) * 3, (True, True, False)
STRUCTURES = {
    "molecule": random_structure(1, ELEMENTS, 12),
    "larger molecule": random_structure(2, ELEMENTS, 60, side_A=9.0),
    "one atom": Structure([[1.0, 2.0, 3.0]], [8]),
    "triclinic": random_structure(3, ELEMENTS, 20, cell_A=TRICLINIC, pbc=PERIODIC),
    "small cell": random_structure(4, ELEMENTS, 2, cell_A=SMALL, pbc=PERIODIC),
    "slab": random_structure(5, ELEMENTS, 20, cell_A=TRICLINIC, pbc=SLAB),
}


def student(architecture="moments", scale=2.0):
    network = students.create("ultra-tiny", ELEMENTS, architecture=architecture, seed=4)
    network.energy_shift_eV.copy_(torch.tensor([-13.6, -1029.1, -2041.8]))
    network.energy_scale_eV.fill_(scale)
    return network.eval()


def tensors(s):
    return (torch.from_numpy(x) for x in (s.positions_A, s.numbers, s.cell_A, s.pbc))


def expected(network, s):
    species = network.species_of(torch.from_numpy(s.numbers))
    return predict(network, torch.from_numpy(s.positions_A), neighbour_table(s, network.cutoff_A), species)


def moved(s, size, rng):
    return Structure(s.positions_A + rng.normal(size=(len(s), 3)) * size, s.numbers, s.cell_A, s.pbc)


def assert_same(got, want, energy=1e-5, forces=1e-4):
    assert abs(float(got[0].sum() - want[0].sum())) < energy
    torch.testing.assert_close(got[1].double(), want[1].double(), atol=forces, rtol=0)
    torch.testing.assert_close(got[2].double(), want[2].double(), atol=10 * forces, rtol=0)
