"""Inside the core the network sees a distance that hardly changes."""

import pytest
import torch
from ase.data import atomic_numbers, covalent_radii

from compactff_md.students import SIZES, create, rebuild

RADIUS_A = 0.9 * 2 * covalent_radii[atomic_numbers["C"]]


def seen(network, distance):
    reach = network.prior.table[:, :1].to(distance.dtype).unsqueeze(-1).expand(-1, *distance.shape)
    return network.seen_distance(distance, reach)


def with_floor(floor):
    """A student of carbon and hydrogen whose core ends there."""
    hyperparameters = {**create("tiny", ["C", "H"]).hyperparameters, "floor": floor}
    return rebuild("moments", hyperparameters, ["C", "H"], 5.0)


@pytest.mark.parametrize("floor", [0, 45])
def test_seen_distances_are_monotonic_smooth_and_true_beyond_the_core(floor):
    network = with_floor(floor)
    distance = torch.linspace(0.05, 3.0, 4000, dtype=torch.float64).view(1, -1)
    value, slope = (x.flatten() for x in seen(network, distance))
    d = distance.flatten()
    beyond = d > RADIUS_A + 1e-3
    assert torch.equal(value[beyond], d[beyond]) and bool((slope[beyond] == 1).all())
    assert bool((slope >= 0).all()) and float(value.min()) > (0.74 if floor else 0.55) * RADIUS_A
    numeric = torch.gradient(value, spacing=(d,))[0]
    assert torch.allclose(numeric[1:-1], slope[1:-1], atol=2e-5)
    second = torch.gradient(slope, spacing=(d,))[0]
    assert float(second.diff().abs().max()) < 0.02  # no step where the core ends


@pytest.mark.parametrize("floor", [0, 45])
def test_what_the_network_says_hardly_changes_inside(floor):
    network = with_floor(floor)
    inner = torch.tensor([[0.3, 0.6]]).double() * RADIUS_A
    value, _ = seen(network, inner)
    assert float(value.max() - value.min()) < 0.2 * float(inner.max() - inner.min())


def test_inside_the_floor_it_does_not_change():
    network = with_floor(45)
    value, slope = seen(network, torch.tensor([[0.0, 0.2, 0.49]]).double() * RADIUS_A)
    assert float(value.max() - value.min()) < 1e-6 and bool((slope == 0).all())


def test_students_without_a_core_see_the_distance():
    bent = create("tiny", ["C", "H"])
    plain = rebuild("moments", {**bent.hyperparameters, "core": 0}, ["C", "H"], 5.0)
    distance = torch.tensor([[0.01, 0.5, 2.0]])
    value, slope = seen(plain, distance)
    assert torch.equal(value, distance) and bool((slope == 1).all())


def test_every_preset_has_a_core_and_learns_what_is_smooth_first():
    for size in SIZES:
        for architecture in ("moments", "moments-local"):
            known = create(size, ["C", "H"], architecture=architecture).hyperparameters
            assert (known["decay"], known["core"], known["floor"]) == (1, 90, 0)
