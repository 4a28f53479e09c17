import torch

from compactff_md import students
from compactff_md.training.ema import WeightAverage


def test_the_average_follows_the_weights():
    network = students.create("ultra-tiny", ["H", "O"]).train()
    average = WeightAverage(network, 0.9)
    start = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    average.update(step=100)
    for value, first in zip(average.values, start, strict=True):
        assert torch.allclose(value, first + 0.1, atol=1e-6)
    averaged = average.network()
    assert not averaged.training and network.training
    assert torch.equal(next(averaged.parameters()), average.values[0])


def test_the_first_weights_are_soon_forgotten():
    network = students.create("ultra-tiny", ["H", "O"])
    average = WeightAverage(network, 0.999)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(2.0)
    for step in range(30):
        average.update(step)
    assert all(torch.allclose(v, torch.full_like(v, 2.0), atol=0.05) for v in average.values)


def test_a_loaded_average_is_the_saved_one():
    network = students.create("ultra-tiny", ["H", "O"])
    average = WeightAverage(network, 0.9)
    saved = [torch.full_like(v, 3.0) for v in average.values]
    average.load(saved)
    assert all(torch.equal(a, b) for a, b in zip(average.values, saved, strict=True))
