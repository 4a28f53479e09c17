from itertools import pairwise

import numpy as np
import pytest
import torch
from ase.build import molecule

from compactff_md import students
from compactff_md.structure import Structure
from compactff_md.training.batches import FrameStore
from compactff_md.training.config import TrainConfig
from compactff_md.training.dataset import read_labelled
from compactff_md.training.frames import Frame
from compactff_md.training.loss import batch_loss, energy_weight, learning_rate, penalty, predict_batch
from compactff_md.training.recipe_files import make_config


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
    fields = {"loss": "squared", "forces_weight": 2.0, "energy_weight": 3.0, "stress_weight": 5.0}
    fields["large_force_eV_per_A"] = 1e9
    loss, square = batch_loss(
        network.energies_and_gradients, batch, make_config(TrainConfig, fields), 0.0, True
    )
    found = predict_batch(network.energies_and_gradients, batch, True)
    energies, forces, virials = found.energies_eV, found.forces_eV_per_A, found.virials_eV
    expected = 2.0 * (forces - batch.forces_eV_per_A).square().mean()
    expected = expected + 3.0 * ((energies - batch.energies_eV) / 4).square().mean()
    expected = expected + 5.0 * ((virials - batch.virials_eV) / 4).square().mean()
    assert loss.item() == pytest.approx(expected.item())
    assert square.item() == pytest.approx((forces - batch.forces_eV_per_A).square().mean().item())
    loss.backward()
    assert all(p.grad is not None for p in network.parameters() if p.numel())


def test_errors_count_less_where_forces_are_large(copper_frames):
    frames = read_labelled(copper_frames).frames
    network = students.create("ultra-tiny", ["Cu"]).double().train()
    batch = FrameStore(frames, network, torch.device("cpu"), torch.float64).batch(np.arange(4))
    found = predict_batch(network.energies_and_gradients, batch, True)
    sizes = np.linalg.norm(batch.forces_eV_per_A.numpy(), axis=1)
    large = float(np.median(sizes))
    wrong = (found.forces_eV_per_A - batch.forces_eV_per_A).detach().numpy()
    of_errors = (1.0 + (np.linalg.norm(wrong, axis=1) / large) ** 2) ** -0.5
    of_atoms = of_errors / (1.0 + (sizes / large) ** 2)
    of_frames = np.array([of_atoms[batch.frame_of_atom == k].min() for k in range(4)])
    assert of_frames.min() < 0.4 < of_atoms.max()
    energies = ((found.energies_eV - batch.energies_eV) / batch.sizes).detach().numpy()
    virials = (found.virials_eV - batch.virials_eV).detach().numpy() / batch.sizes.numpy()[:, None, None]
    parts = {
        "forces_weight": ((wrong**2).mean(1) * of_atoms).mean(),
        "energy_weight": (energies**2 * of_frames).mean(),
        "stress_weight": ((virials**2).mean((1, 2)) * of_frames).mean(),
    }
    for name, expected in parts.items():
        fields = {"loss": "squared", **dict.fromkeys(parts, 0.0), "energy_weight_end": 0.0, name: 1.0}
        config = make_config(TrainConfig, {**fields, "large_force_eV_per_A": large})
        loss, _ = batch_loss(network.energies_and_gradients, batch, config, 0.0, True)
        assert loss.item() == pytest.approx(expected)


def test_energies_of_atoms_count_in_the_first_half():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=3), None]
    frames = tuple(
        Frame(
            Structure.from_ase(molecule("H2O")),
            -10.0 if own is None else float(own.sum()),
            rng.normal(size=(3, 3)),
            atom_energies_eV=own,
        )
        for own in parts
    )
    network = students.create("ultra-tiny", ["H", "O"]).double().train()
    batch = FrameStore(frames, network, torch.device("cpu"), torch.float64).batch(np.arange(2))
    fields = {"loss": "squared", "forces_weight": 0, "energy_weight": 0, "energy_weight_end": 0}
    config = make_config(TrainConfig, {**fields, "atom_energies_weight": 4.0})
    of_atoms = network.energies_and_gradients(batch.vectors, batch.neighbours, batch.species)[0][:3]
    error = of_atoms - torch.from_numpy(parts[0])
    for progress, weight in ((0.0, 4.0), (0.25, 2.0), (0.5, 0.0), (1.0, 0.0)):
        loss, _ = batch_loss(network.energies_and_gradients, batch, config, progress, False)
        assert loss.item() == pytest.approx(weight * error.square().sum().item() / 6)


def test_the_rate_rises_shortly_and_falls_to_zero():
    config = make_config(TrainConfig, {"learning_rate": 1e-2, "warmup": 0.1})
    rates = [learning_rate(config, p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1e-2, rel=0.03)
    assert np.argmax(rates) == 10
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_the_rate_rises_after_what_compiling_took():
    config = make_config(TrainConfig, {"learning_rate": 1e-2, "warmup": 0.1})
    assert learning_rate(config, 0.2, 0.2) < 1e-4 < learning_rate(config, 0.21, 0.2) < 2e-3
    assert learning_rate(config, 0.3, 0.2) == pytest.approx(learning_rate(config, 0.3))


def test_the_energy_weight_rises_near_the_end():
    config = make_config(TrainConfig, {"energy_weight": 0.1, "energy_weight_end": 10.0})
    assert energy_weight(config, 0.0) == energy_weight(config, 0.6) == pytest.approx(0.1)
    assert energy_weight(config, 0.75) == pytest.approx(1.0)
    assert energy_weight(config, 0.9) == energy_weight(config, 1.0) == pytest.approx(10.0)
    off = make_config(TrainConfig, {"energy_weight": 0.0, "energy_weight_end": 1.0})
    assert energy_weight(off, 0.75) == pytest.approx(0.5)
