import numpy as np
import pytest
import torch

from builders import random_structure
from compactff_md import students
from compactff_md.errors import CompactFFError
from compactff_md.neighbours import neighbour_table
from compactff_md.students.uncertainty import Uncertainty, uncertainty_from

ELEMENTS = ["H", "C", "O"]


def filled(features: int = 6) -> Uncertainty:
    made = Uncertainty(3, 4, 2, features)
    generator = torch.Generator().manual_seed(1)
    for buffer in made.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator))
    made.highest.add_(1.0)  # above the lowest
    return made


def test_the_distance_is_that_to_the_nearest_centre_of_the_element():
    made = filled()
    features = torch.randn(5, 6)
    species = torch.tensor([0, 1, 2, 1, 0])
    got = made.distance(features, species)
    told = made(features, species)
    for k in range(5):
        place = features[k] @ made.projection
        centres = made.centres[species[k]]
        expected = min(float(torch.linalg.norm(place - c)) for c in centres)
        assert float(got[k]) == pytest.approx(expected, rel=1e-5)
        s = species[k]
        logarithm = float(made.log_scale[s] + features[k] @ made.weights[:, s])
        scale = np.exp(min(max(logarithm, float(made.lowest[s])), float(made.highest[s])))
        assert float(told[k]) == pytest.approx(scale * expected ** float(made.exponent), rel=1e-5)


def test_one_of_an_older_file_has_no_weights():
    state = {k: v for k, v in filled().state_dict().items() if k not in ("weights", "lowest", "highest")}
    made = uncertainty_from(state, 3)
    features, species = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    expected = torch.exp(made.log_scale[species]) * made.distance(features, species) ** made.exponent
    assert torch.allclose(made(features, species), expected)


def test_it_scripts_and_costs_no_parameters():
    made = filled()
    inputs = torch.randn(4, 6), torch.tensor([0, 1, 2, 2])
    assert torch.allclose(torch.jit.script(made)(*inputs), made(*inputs))
    assert not list(made.parameters())


def test_tensors_that_do_not_fit_are_refused():
    state = dict(filled().state_dict())
    assert torch.equal(uncertainty_from(state, 3).centres, state["centres"])
    for wrong in (
        {k: v for k, v in state.items() if k != "exponent"},
        {k: v for k, v in state.items() if k != "lowest"},
        {**state, "extra": torch.zeros(1)},
        {**state, "projection": torch.zeros(3)},
        {**state, "centres": torch.zeros(2, 4, 2)},
    ):
        with pytest.raises(CompactFFError, match="tensors of the uncertainty do not fit"):
            uncertainty_from(wrong, 3)


@pytest.mark.parametrize("architecture", list(students.VARIANTS))
def test_features_come_with_the_gradients_and_change_with_what_is_around(architecture):
    network = students.create("ultra-tiny", ELEMENTS, architecture=architecture, seed=2).eval()
    structure = random_structure(4, ELEMENTS, 8)
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    vectors = table.vectors(torch.from_numpy(structure.positions_A)).float()
    energies, gradients, features = network.energies_gradients_features(vectors, table.neighbours, species)
    plain = network.energies_and_gradients(vectors, table.neighbours, species)
    assert torch.equal(energies, plain[0]) and torch.equal(gradients, plain[1])
    alone = network.features(vectors, table.neighbours, species)
    assert torch.allclose(features, alone, atol=1e-6) and features.shape[0] == 8 and features.shape[1] > 4
    nearer = network.features(0.97 * vectors, table.neighbours, species)
    assert float((nearer - features).detach().abs().max()) > 1e-4
