from itertools import pairwise

import numpy as np
import pytest
import torch

from compactff_md import students
from compactff_md.training.batches import FrameStore
from compactff_md.training.config import TrainConfig, make_config
from compactff_md.training.dataset import read_labelled
from compactff_md.training.loss import batch_loss, energy_weight, learning_rate, penalty, predict_batch


def test_huber_is_the_square_inside_and_linear_outside():
    config = make_config(TrainConfig, {"huber_delta": 0.1})
    errors = torch.tensor([0.05, -0.05, 0.1, 0.3, -0.3])
    assert torch.allclose(penalty(errors, config), torch.tensor([0.0025, 0.0025, 0.01, 0.05, 0.05]))
    squared = make_config(TrainConfig, {"loss": "squared"})
    assert torch.allclose(penalty(errors, squared), errors.square())


def test_the_loss_is_the_weighted_sum_of_its_parts(copper_frames):
    frames = read_labelled(copper_frames).frames
    network = students.create("ultra-tiny", ["Cu"]).double().train()
    store = FrameStore(frames, network, torch.device("cpu"), torch.float64)
    batch = store.batch(np.arange(4))
    fields = {"loss": "squared", "forces_weight": 2.0, "stress_weight": 5.0}
    loss, square = batch_loss(
        network.energies_and_gradients, batch, make_config(TrainConfig, fields), 3.0, True
    )
    energies, forces, virials = predict_batch(network.energies_and_gradients, batch, True)
    expected = 2.0 * (forces - batch.forces_eV_per_A).square().mean()
    expected = expected + 3.0 * ((energies - batch.energies_eV) / 4).square().mean()
    expected = expected + 5.0 * ((virials - batch.virials_eV) / 4).square().mean()
    assert loss.item() == pytest.approx(expected.item())
    assert square.item() == pytest.approx((forces - batch.forces_eV_per_A).square().mean().item())
    loss.backward()
    assert all(p.grad is not None for p in network.parameters() if p.numel())


def test_the_rate_rises_shortly_and_falls_to_zero():
    config = make_config(TrainConfig, {"learning_rate": 1e-2, "warmup": 0.1})
    rates = [learning_rate(config, p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1e-2, rel=0.03)
    assert np.argmax(rates) == 10
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_the_energy_weight_rises_near_the_end():
    config = make_config(TrainConfig, {"energy_weight": 0.1, "energy_weight_end": 10.0})
    assert energy_weight(config, 0.0) == energy_weight(config, 0.6) == pytest.approx(0.1)
    assert energy_weight(config, 0.75) == pytest.approx(1.0)
    assert energy_weight(config, 0.9) == energy_weight(config, 1.0) == pytest.approx(10.0)
    off = make_config(TrainConfig, {"energy_weight": 0.0, "energy_weight_end": 1.0})
    assert energy_weight(off, 0.75) == pytest.approx(0.5)
