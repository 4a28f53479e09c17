from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from compactff_md.training.config import TrainConfig
from compactff_md.training.dataset import load_sets
from compactff_md.training.planning import ChainSpec
from compactff_md.training.recipe_files import make_config

DATA = Path(__file__).resolve().parents[1] / "data"


def labelled(atoms: ase.Atoms, **results) -> ase.Atoms:
    frame = atoms.copy()
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


@pytest.fixture
def ethanol_files() -> dict[str, Path]:
    return {name: DATA / f"ethanol_{name}.xyz" for name in ("train", "test", "isolated_atoms")}


@pytest.fixture(scope="session")
def ethanol_sets():
    """Ten frames to train on and five others, with isolated atoms."""
    from ase.io import read

    frames = read(DATA / "ethanol_train.xyz", ":15") + read(DATA / "ethanol_isolated_atoms.xyz", ":")
    return load_sets([frames[:10] + frames[15:]], frames[10:15], TrainConfig())


@pytest.fixture
def water_frames() -> list[ase.Atoms]:
    """Labelled by hand: energies and forces without meaning, but distinct and finite."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(8):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(0, 0.05, (3, 3))
        frames.append(labelled(atoms, energy=-14.0 + rng.normal(0, 0.05), forces=rng.normal(0, 1, (3, 3))))
    return frames


@pytest.fixture(scope="session")
def copper_frames() -> list[ase.Atoms]:
    """Strained and rattled copper with energies, forces and stress of EMT."""
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(12):
        atoms = bulk("Cu", cubic=True)
        strain = np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ (0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        frames.append(labelled(atoms, **results))
    return frames


@pytest.fixture
def quick_config():
    """A configuration for runs of a second or so."""

    def make(**fields) -> TrainConfig:
        values = {"size": "ultra-tiny", "steps": 20, "batch_size": 5, "threads": 1, "validate_seconds": 1e3}
        return make_config(TrainConfig, {**values, **fields})

    return make


@pytest.fixture
def spec() -> ChainSpec:
    return ChainSpec(
        name="train-0", purpose="train", members=(0,), frames=25, seed=(0, 2, 0, 0), temperature_K=300.0
    )
