"""Calls of an exported student that play what was recorded, against the module itself."""

import numpy as np
import pytest
import torch

from builders import random_structure
from compactff_md.engines import openmm_recorded
from compactff_md.engines.openmm_recorded import RecordedModule
from compactff_md.export.torchscript import scripted_module
from compactff_md.students import create
from compactff_md.units import NM_TO_A

ELEMENTS = ["H", "C", "O"]
BOX = np.array([[11.0, 0.0, 0.0], [2.0, 9.0, 0.0], [-1.0, 3.0, 8.0]])
SYSTEMS = {
    "small molecule": random_structure(1, ELEMENTS, 12),
    "large molecule": random_structure(2, ELEMENTS, 70),
    "liquid": random_structure(5, ELEMENTS, 60, cell_A=BOX, pbc=(True,) * 3, closest_A=1.0),
}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
every_system = pytest.mark.parametrize("structure", SYSTEMS.values(), ids=SYSTEMS)


def modules(structure, device="cpu", dtype="float64", count=2):
    network = create("ultra-tiny", ELEMENTS, seed=4)
    made = [
        scripted_module(network, structure.numbers, bool(structure.pbc.any()), dtype=dtype)
        for _ in range(count)
    ]
    return [module.to(device) for module in made]


def walk(structure, steps, amplitude_A=0.04, seed=0):
    """Positions and box in nm along a random walk in which the box breathes, too."""
    rng = np.random.default_rng(seed)
    positions, periodic = structure.positions_A.copy(), bool(structure.pbc.any())
    for k in range(steps):
        scale = 1.0 + 0.002 * (k % 5) if periodic else 1.0
        yield scale * positions / NM_TO_A, scale * structure.cell_A / NM_TO_A if periodic else None
        positions += amplitude_A * rng.normal(size=positions.shape)


def tensors(positions, box, device):
    return [None if x is None else torch.from_numpy(x).to(device) for x in (positions, box)]


@every_system
@pytest.mark.parametrize("device", DEVICES)
def test_results_are_those_of_the_module(structure, device):
    inner, plain = modules(structure, device)
    recorded = RecordedModule(inner)
    for positions, box in walk(structure, 25):
        energy, forces = recorded(positions, box)
        expected, expected_forces = plain(*tensors(positions, box, device))
        assert isinstance(energy, float)
        np.testing.assert_allclose(energy, float(expected), rtol=0, atol=1e-8)
        np.testing.assert_allclose(forces, expected_forces.cpu().numpy(), rtol=0, atol=1e-7)
        assert forces.dtype == np.float64


@pytest.mark.parametrize("device", DEVICES)
def test_a_list_is_made_only_when_the_last_does_not_hold(device):
    structure = SYSTEMS["liquid"]
    inner, plain = modules(structure, device)
    recorded = RecordedModule(inner)
    for positions, box in walk(structure, 30, amplitude_A=0.02):
        recorded(positions, box)
        plain(*tensors(positions, box, device))
    assert 1 < inner.table[-1] == plain.table[-1] < 20


def test_tensors_stay_where_they_are_while_the_table_has_room():
    structure = SYSTEMS["liquid"]
    recorded = RecordedModule(modules(structure, count=1)[0])
    works = set()
    for positions, box in walk(structure, 12, amplitude_A=0.08):
        recorded(positions, box)
        works.add(recorded._work)
    assert recorded.module.table[-1] > 3
    assert len(works) < 4


def test_other_structures_of_as_many_atoms_are_found_out():
    structure = SYSTEMS["liquid"]
    inner, plain = modules(structure)
    recorded = RecordedModule(inner)
    for seed in (7, 8, 7):
        other = random_structure(seed, ELEMENTS, 60, cell_A=BOX, pbc=(True,) * 3, closest_A=1.0)
        box = BOX / NM_TO_A
        energy, forces = recorded(other.positions_A / NM_TO_A, box)
        expected, expected_forces = plain(*tensors(other.positions_A / NM_TO_A, box, "cpu"))
        np.testing.assert_allclose(energy, float(expected), rtol=0, atol=1e-8)
        np.testing.assert_allclose(forces, expected_forces.numpy(), rtol=0, atol=1e-7)


def test_positions_that_are_not_finite_are_an_error():
    structure = SYSTEMS["liquid"]
    recorded = RecordedModule(modules(structure, count=1)[0])
    positions = structure.positions_A / NM_TO_A
    recorded(positions, BOX / NM_TO_A)
    positions[3, 1] = np.nan
    with pytest.raises(torch.jit.Error, match="finite"):
        recorded(positions, BOX / NM_TO_A)


def test_large_systems_are_not_recorded(monkeypatch):
    monkeypatch.setattr(openmm_recorded, "RECORDED_PAIRS", 100)
    structure = SYSTEMS["liquid"]
    inner, plain = modules(structure)
    recorded = RecordedModule(inner)
    for positions, box in walk(structure, 3):
        np.testing.assert_allclose(
            recorded(positions, box)[0], float(plain(*tensors(positions, box, "cpu"))[0]), rtol=0, atol=1e-8
        )
    assert recorded._work is None
    monkeypatch.setattr(openmm_recorded, "RECORDED_PAIRS", 1_000_000)
    for positions, box in walk(structure, 3, seed=1, amplitude_A=0.3):
        recorded(positions, box)
    assert recorded._work is not None  # they are again when they have become smaller
