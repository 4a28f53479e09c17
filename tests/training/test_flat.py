import copy

import pytest
import torch

from compactff_md import students
from compactff_md.training.flat import FlatWeights, WeightAverage


def test_the_vector_is_the_network():
    network = students.create("ultra-tiny", ["H", "O"])
    before = copy.deepcopy(network.state_dict())
    flat = FlatWeights(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with torch.no_grad():
        flat.vector.fill_(0.5)
    assert all((p == 0.5).all() for p in network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    assert torch.equal(flat.vector.grad, torch.ones_like(flat.vector))


def test_a_step_is_that_of_single_parameters():
    networks = [students.create("ultra-tiny", ["H", "O"]) for _ in range(2)]
    flat = FlatWeights(networks[0])
    single = torch.optim.AdamW(networks[1].parameters(), lr=1e-2, weight_decay=0.1)
    whole = torch.optim.AdamW([flat.vector], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        for network in networks:
            sum((p**2).sum() for p in network.parameters()).backward()
        flat.clip(0.5)
        torch.nn.utils.clip_grad_norm_(networks[1].parameters(), 0.5)
        single.step(), whole.step()
        single.zero_grad(), flat.gradient.zero_()
    for one, two in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_small_gradients_are_not_scaled():
    flat = FlatWeights(torch.nn.Linear(2, 2))
    flat.gradient.fill_(0.1)
    flat.clip(10.0)
    assert torch.equal(flat.gradient, torch.full((6,), 0.1))
    flat.clip(0.01)
    assert flat.gradient.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_average_follows_the_weights():
    network = students.create("ultra-tiny", ["H", "O"])
    flat = FlatWeights(network)
    average = WeightAverage(flat, 0.9)
    start = flat.vector.detach().clone()
    with torch.no_grad():
        flat.vector.add_(1.0)
    average.update(step=100)
    assert torch.allclose(average.vector, start + 0.1, atol=1e-6)
    other = students.create("ultra-tiny", ["H", "O"], seed=1)
    average.copy_to(other)
    assert torch.equal(torch.cat([p.detach().flatten() for p in other.parameters()]), average.vector)
    assert torch.allclose(flat.vector, start + 1.0, atol=1e-6)


def test_the_first_weights_are_soon_forgotten():
    flat = FlatWeights(students.create("ultra-tiny", ["H", "O"]))
    average = WeightAverage(flat, 0.999)
    with torch.no_grad():
        flat.vector.fill_(2.0)
    for step in range(30):
        average.update(step)
    assert torch.allclose(average.vector, torch.full_like(average.vector, 2.0), atol=0.05)
