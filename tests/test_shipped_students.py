"""The students that come with the package, in dynamics: bonds hold, and ions move."""

from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.io import read
from ase.md.langevin import Langevin
from typer.testing import CliRunner

from compactff_md import load
from compactff_md.cli import app
from compactff_md.engines.lammps_run import command_of, read_plan, run_deck
from compactff_md.student import SHIPPED
from compactff_md.training.makers import bonds
from compactff_md.training.sampling import thermal_velocities
from lammps_builders import lammps

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {family: [n for n in SHIPPED if n.startswith(family)] for family in ("organic", "argyrodite")}


def test_every_student_is_of_a_family_that_is_tested():
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(SHIPPED)
    assert all(FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES["organic"])
def test_a_hot_molecule_keeps_its_bonds(name):
    atoms = read(ROOT / "openmm" / "aspirin.xyz")
    pairs = bonds(atoms)
    atoms.calc = load(name).ase_calculator(device="cpu")
    rng = np.random.default_rng(3)
    atoms.set_velocities(thermal_velocities(atoms.get_masses(), 600.0, rng))
    stretched = 0.0
    for _ in Langevin(
        atoms, 0.5 * units.fs, temperature_K=600.0, friction=0.02 / units.fs, rng=rng, fixcm=False
    ).irun(400):
        lengths = np.linalg.norm(atoms.positions[pairs[:, 0]] - atoms.positions[pairs[:, 1]], axis=1)
        stretched = max(stretched, float(lengths.max()))
    assert stretched < 2.0 and 200.0 < atoms.get_temperature() < 1200.0


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES["argyrodite"])
def test_thiophosphate_stays_whole_and_lithium_shakes_in_lammps(name, tmp_path):
    lammps()
    start = read(ROOT / "training" / "recipes" / "li6ps5cl.xyz", 0)
    start.write(tmp_path / "cell.xyz")
    words = ["--ensemble", "nvt", "--temperature", "600", "--timestep", "2", "--time", "0.6ps", "--seed", "5"]
    command = ["deck", tmp_path / "cell.xyz", "--student", name, *words, "--out", tmp_path / "run"]
    made = CliRunner().invoke(app, list(map(str, command)))
    assert made.exit_code == 0, made.output
    plan, lines = read_plan(tmp_path / "run" / "in.lammps", {}), []
    found = lammps()
    assert (
        run_deck(found, plan, command_of(found, plan, ranks=1, variables={}), 1, lines.append, lambda _: None)
        == 0
    )
    last = read(tmp_path / "run" / "trajectory.lammpstrj", -1, format="lammps-dump-text")
    assert last.get_chemical_symbols() == start.get_chemical_symbols()
    near = _to_sulfur(last)
    assert near[:, :4].min() > 1.7 and near[:, :4].max() < 2.6 and near[:, 4].min() > 3.0
    lithium = np.array(start.get_chemical_symbols()) == "Li"
    moved = np.linalg.norm(last.positions - start.positions, axis=1)
    assert moved[lithium].mean() > moved[~lithium].mean() > 0.0


def _to_sulfur(atoms: ase.Atoms) -> np.ndarray:
    """Distances in A from each phosphorus to its five nearest sulfurs."""
    symbols = np.array(atoms.get_chemical_symbols())
    atoms.pbc = True
    distances = atoms.get_all_distances(mic=True)[symbols == "P"][:, symbols == "S"]
    return np.sort(distances, axis=1)[:, :5]
