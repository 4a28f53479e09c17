"""What atoms send beside scalars: the torsion about a bond whose far ends do not see each other."""

import numpy as np
import pytest
import torch

from compactff_md.errors import CompactFFError
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import SIZES, create, rebuild

ELEMENTS = ["C", "H"]
BOND = 0.6  # of the cutoff, with angles of 120 degrees: only bonded atoms are neighbours


def chain(torsion: float, cutoff_A: float) -> Structure:
    """Four carbon atoms with this torsion in radians."""
    height = np.sqrt(0.75)
    start = np.array([-0.5, height * np.cos(torsion), height * np.sin(torsion)])
    places = np.array([start, [0, 0, 0], [1, 0, 0], [1.5, height, 0]])
    return Structure(BOND * cutoff_A * places, np.full(4, 6))


def with_directions(directed: int, **more):
    hyperparameters = {**create("tiny", ELEMENTS).hyperparameters, "directed": directed, **more}
    torch.manual_seed(4)
    return rebuild("moments", hyperparameters, ELEMENTS, 5.0).double().eval()


def evaluate(network, structure: Structure):
    table = neighbour_table(structure, network.cutoff_A)
    vectors = table.vectors(torch.from_numpy(structure.positions_A))
    species = network.species_of(torch.from_numpy(structure.numbers))
    return network.energies_and_gradients(vectors, table.neighbours, species)


def energies(network):
    assert all(len(n) <= 2 for n in neighbour_table(chain(0.0, 5.0), 5.0).neighbours)
    return [evaluate(network, chain(t, 5.0))[0].detach().sum().item() for t in (0.0, 0.9, np.pi)]


def test_scalars_alone_do_not_tell_a_torsion_between_atoms_that_do_not_see_each_other():
    found = energies(with_directions(0))
    assert np.ptp(found) < 1e-12


def test_directions_tell_it():
    found = energies(with_directions(4))
    assert abs(found[0] - found[1]) > 1e-8
    assert abs(found[0] - found[2]) > 1e-8


@pytest.mark.parametrize("directed", [3, 5, 24])  # 24 channels: 8 radial functions, 4 and 4 unused, 1
def test_gradients_are_those_of_the_energy(directed):
    network = with_directions(directed, interactions=3)
    structure = chain(0.7, 3.0)  # all neighbours of all
    table = neighbour_table(structure, network.cutoff_A)
    leaf = table.vectors(torch.from_numpy(structure.positions_A)).requires_grad_(True)
    species = network.species_of(torch.from_numpy(structure.numbers))
    network.initialise_from_data(leaf.detach(), table.neighbours, species)
    energy = network(leaf, table.neighbours, species)
    (expected,) = torch.autograd.grad(energy.sum(), leaf)
    found, gradients = network.energies_and_gradients(leaf.detach(), table.neighbours, species)
    assert torch.allclose(found, energy.detach(), rtol=0, atol=1e-10)
    assert torch.allclose(gradients, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_what_is_sent_has_bounds_whatever_is_around_an_atom():
    network = with_directions(4)
    direction = network.directions[1]
    moments = 50.0 * torch.randn(40, 10, 24, generator=torch.Generator().manual_seed(0)).double()
    direction.scale_to(moments)
    for part in direction.mixed(moments).detach().split([3, 6]):
        assert float(part.square().mean().sqrt()) == pytest.approx(0.5, rel=1e-6)
    features = torch.randn(40, len(direction.gate), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        sent, _ = direction(1e4 * moments, 100.0 * features)
    vectors, diagonal, beside = sent.square().split([3, 3, 3], dim=1)
    lengths = vectors.sum(1).sqrt()
    norms = (diagonal.sum(1) + 2.0 * beside.sum(1)).sqrt()  # of the whole symmetric tensor: rotations keep it
    for sizes in (lengths, norms):
        assert 1.99 < float(sizes.max()) <= 2.0


@pytest.mark.parametrize("wrong", [{"directed": 25}, {"directed": -1}, {"directed": 4, "floor": 90}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(CompactFFError, match="expected at most the 24 channels"):
        with_directions(**{"directed": 0, **wrong})


def test_older_students_have_none():
    hyperparameters = create("tiny", ELEMENTS).hyperparameters
    del hyperparameters["directed"]
    older = rebuild("moments", hyperparameters, ELEMENTS, 5.0)
    assert not [name for name in older.state_dict() if "directions" in name]


def test_they_are_in_the_variant_that_is_named_after_them_alone():
    for size in SIZES:
        assert create(size, ELEMENTS, architecture="moments-directed").hyperparameters["directed"] > 0
        assert create(size, ELEMENTS).hyperparameters["directed"] == 0
