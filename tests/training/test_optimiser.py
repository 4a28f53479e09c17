import copy

import pytest
import torch

from compactff_md import students
from compactff_md.training.flat import FlatWeights
from compactff_md.training.optimiser import Optimiser, is_matrix, orthogonalised


def made(kind: str = "muon", seed: int = 0):
    network = students.create("ultra-tiny", ["H", "O"], seed=seed)
    weights = FlatWeights(network)
    return network, weights, Optimiser(network, weights, kind, 0.1)


def backward(network, weights) -> None:
    weights.gradient.zero_()
    sum((p**2).sum() for p in network.parameters()).backward()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (3, 12, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert 0.5 < values.min() and values.max() < 1.3


def test_singular_vectors_stay():
    u, _, v = torch.linalg.svd(torch.randn(12, 12, dtype=torch.float64))
    matrix = u @ torch.diag(torch.linspace(1.0, 2.0, 12, dtype=torch.float64)) @ v
    middle = u.T @ orthogonalised(matrix) @ v.T
    assert torch.allclose(middle, torch.diag(torch.diag(middle)), atol=1e-9)


def test_narrow_parameters_are_no_matrices():
    assert is_matrix(torch.zeros(3, 8, 9))
    assert not is_matrix(torch.zeros(3, 80))
    assert not is_matrix(torch.zeros(80))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_moves_towards_the_minimum(kind):
    network, weights, optimiser = made(kind)
    start = weights.vector.detach().clone()
    for step in range(200):
        backward(network, weights)
        optimiser.step(0.02 * (1 - step / 200))
    assert weights.vector.abs().mean() < 0.5 * start.abs().mean()
    assert bool(optimiser.matrices) == (kind == "muon")


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_loaded_state_goes_on_exactly(kind):
    network, weights, optimiser = made(kind)
    for _ in range(3):
        backward(network, weights)
        optimiser.step(0.01)
    state = copy.deepcopy(optimiser.state())
    other, other_weights, other_optimiser = made(kind, seed=1)
    other.load_state_dict(network.state_dict())
    other_optimiser.load(state)
    for pair in ((network, weights, optimiser), (other, other_weights, other_optimiser)):
        backward(*pair[:2])
        pair[2].step(0.01)
    assert torch.equal(weights.vector, other_weights.vector)
