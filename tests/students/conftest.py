"""Students of every architecture and size."""

import pytest
import torch

from builders import random_structure
from compactff_md.neighbours import neighbour_table
from compactff_md.students import StudentNetwork, create
from student_builders import CASES, ELEMENTS, doubled, species_of


@pytest.fixture(scope="module", params=CASES, ids=str)
def trained(request) -> StudentNetwork:
    """A float32 student with scales and shifts as after training; never changed by a test."""
    variant, size = CASES[request.param]
    network = create(size, ELEMENTS, architecture=variant, seed=1)
    structure = random_structure(0, ELEMENTS, 30, side_A=7.0)
    table = neighbour_table(structure, network.cutoff_A)
    vectors = table.vectors(torch.from_numpy(structure.positions_A)).float()
    network.initialise_from_data(vectors, table.neighbours, species_of(network, structure))
    network.energy_scale_eV.fill_(0.37)
    network.energy_shift_eV.copy_(torch.tensor([-13.6, -1030.0, -2041.0]))
    return network.eval()


@pytest.fixture(scope="module")
def student(trained) -> StudentNetwork:
    """The same student in float64."""
    return doubled(trained)
