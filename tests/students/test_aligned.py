"""Radial functions count distances from where the bonds of a pair of elements are."""

import torch
from ase.data import atomic_numbers, covalent_radii

from compactff_md.students import SIZES, create, rebuild
from compactff_md.students.moments import ALIGNED_A

ELEMENTS = ["H", "C", "Cl"]


def radii_A():
    radii = torch.tensor([covalent_radii[atomic_numbers[symbol]] for symbol in ELEMENTS])
    return (radii + radii[:, None]).double()  # (3, 3)


def sines(network, distance):
    """Radial functions without their envelope of every pair of elements at these distances (3, 3)."""
    table = network.prior.table.double().unflatten(1, (3, 3))  # (10, 3, 3)
    values, _ = network.double().radial_functions(distance, table)
    return values / (1.0 - (distance / network.cutoff_A) ** 2).unsqueeze(-1) ** 3


def test_bonds_of_all_pairs_lie_at_the_same_place():
    network = create("tiny", ELEMENTS)
    for stretch_A in (0.0, 0.1, 0.7):
        found = sines(network, radii_A() + stretch_A)
        expected = torch.sin(network.frequencies * (ALIGNED_A + stretch_A))
        assert torch.allclose(found, expected.expand_as(found), atol=1e-5)


def test_half_aligned_goes_half_the_way():
    whole = create("tiny", ELEMENTS)
    half = rebuild("moments", {**whole.hyperparameters, "aligned": 50}, ELEMENTS, 5.0)
    found = sines(half, 0.5 * (radii_A() + ALIGNED_A))
    expected = torch.sin(half.frequencies * ALIGNED_A)
    assert torch.allclose(found, expected.expand_as(found), atol=1e-5)


def test_older_students_see_distances_as_they_are():
    hyperparameters = create("tiny", ELEMENTS).hyperparameters
    del hyperparameters["aligned"]
    older = rebuild("moments", hyperparameters, ELEMENTS, 5.0)
    distance = torch.full((3, 3), 1.7).double()
    expected = torch.sin(older.double().frequencies * 1.7)
    assert torch.allclose(sines(older, distance), expected.expand(3, 3, -1))


def test_every_preset_is_aligned():
    for size in SIZES:
        for architecture in ("moments", "moments-local"):
            assert create(size, ELEMENTS, architecture=architecture).hyperparameters["aligned"] == 100
