"""Long runs, restarts and ensembles in LAMMPS."""

import subprocess
import threading
import time
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import molecule

from builders import random_structure
from compactff_md.artifact import describe
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_installation import Lammps
from compactff_md.engines.lammps_run import command_of, read_plan, run_deck
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.units import EV_TO_KCAL_PER_MOL
from lammps_builders import export, lammps, network, run_input, system_text, tables_of

ELEMENTS = ["H", "O"]


def box(seed=2, count=24):
    cell = np.diag([8.0, 7.0, 9.0])
    made = random_structure(seed, ELEMENTS, count, cell_A=cell, pbc=(True,) * 3, closest_A=1.4)
    return ase.Atoms(made.numbers, made.positions_A, cell=cell, pbc=True)


def deck(folder, atoms=None, **settings):
    made = network(ELEMENTS, scale_eV=0.1)
    chosen = {"steps": 60, "thermo_interval": 10, "trajectory_interval": 10, "dtype": "float64", **settings}
    return write_deck(atoms or box(), made, describe(made), DeckSettings(**chosen), folder)


def go(path, ranks=1, **variables):
    found: Lammps = lammps()
    plan = read_plan(path, variables)
    lines: list[str] = []
    steps: list[int] = []
    words = command_of(found, plan, ranks=ranks, variables=variables)
    code = run_deck(found, plan, words, ranks, lines.append, steps.append)
    assert code == 0, "\n".join(lines[-20:])
    return tables_of("\n".join(lines) + "\n"), steps


def frames(path: Path):
    """Steps and positions of a trajectory, shape (F, N, 3)."""
    texts = path.read_text().split("ITEM: TIMESTEP\n")[1:]
    bodies = [text.split("ITEM: ATOMS")[1].splitlines()[1:] for text in texts]
    rows = [[line.split()[3:6] for line in body] for body in bodies]
    return [int(text.split()[0]) for text in texts], np.array(rows, dtype=float)


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["nve", "npt"])
def test_a_continued_run_is_the_run_that_was_not_interrupted(tmp_path, ensemble):
    whole = deck(tmp_path / "whole", ensemble=ensemble, units="real")
    parts = deck(tmp_path / "parts", ensemble=ensemble, units="real")
    tables, steps = go(whole.deck)
    first, _ = go(parts.deck, steps="30")
    second, _ = go(parts.continuation, steps="30")
    assert steps == [0, *range(0, 61, 10)] and read_plan(whole.deck, {}).total_steps == 60
    want_steps, want = frames(whole.folder / "trajectory.lammpstrj")
    got_steps, got = frames(parts.folder / "trajectory.2.lammpstrj")
    assert want_steps[3:] == got_steps == [30, 40, 50, 60]
    np.testing.assert_allclose(got, want[3:], atol=2e-5)  # what a dump prints
    for name in ("PotEng", "TotEng", "Press"):
        np.testing.assert_allclose(second[-1][name][1:], tables[-1][name][4:], rtol=1e-5)
    assert len(first[-1]) == 4


@pytest.mark.slow
def test_metal_and_real_units_are_the_same_dynamics(tmp_path):
    atoms = box()
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.5)
    atoms.set_cell(np.array([[8.0, 0, 0], [3.5, 7.0, 0], [-1.0, 4.0, 9.0]]) @ np.roll(np.eye(3), 1, 0))
    tables = {}
    for units in ("metal", "real"):
        made = deck(tmp_path / units, atoms, ensemble="nve", units=units)
        tables[units] = go(made.deck)[0][-1]
    metal, real = tables["metal"], tables["real"]
    np.testing.assert_allclose(real["Temp"], metal["Temp"], rtol=1e-5)
    np.testing.assert_allclose(real["PotEng"] / EV_TO_KCAL_PER_MOL, metal["PotEng"], rtol=1e-6)
    np.testing.assert_allclose(real["Press"] * 1.01325, metal["Press"], rtol=2e-5)
    kelvin = atoms.get_temperature() * len(atoms) / (len(atoms) - 1)  # LAMMPS takes the centre's motion off
    assert metal["Temp"][0] == pytest.approx(kelvin, rel=1e-5)


@pytest.mark.slow
def test_20000_steps_neither_grow_nor_heat(tmp_path):
    """NVE, then Langevin, of a molecule; resident memory of the process is sampled from outside."""
    made = network(ELEMENTS, scale_eV=0.1)
    export(made, tmp_path / "s.pt", "float32")
    atoms = molecule("H2O2")
    run = """timestep 0.0005
velocity all create 200 7 mom yes rot yes
thermo 100
thermo_modify flush yes format float %.12g
fix 1 all nve
run 20000
reset_timestep 0
fix 2 all langevin 200 200 0.1 11
run 20000"""
    (tmp_path / "in.test").write_text(system_text("a", atoms, "s.pt", ELEMENTS, tmp_path, run=run))
    found = lammps()
    environment = {**found.environment(), "OMP_NUM_THREADS": "1"}
    words = [str(found.executable), "-in", "in.test", "-nocite"]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    samples: list[int] = []
    stop = threading.Event()

    def watch():
        while not stop.wait(0.25):
            status = Path(f"/proc/{process.pid}/status")
            found = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
            samples.extend(int(line.split()[1]) for line in found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out = process.communicate()[0]
    stop.set()
    watcher.join()
    assert process.returncode == 0, out[-2000:]
    tail = len(samples) // 10
    early, late = np.median(samples[2 * tail : 3 * tail]), np.median(samples[-tail:])
    assert late < 1.02 * early, (early, late)
    nve, langevin = tables_of(out)
    picoseconds = nve["Step"] * 0.0005
    slope = np.polyfit(picoseconds, nve["TotEng"], 1)[0] * 1000.0 / len(atoms)
    assert abs(slope) < 0.01, f"{slope} meV/atom/ps"
    # Equipartition of what a Langevin thermostat does not conserve: all degrees of freedom of four atoms.
    kinetic = langevin["TotEng"] - langevin["PotEng"]
    assert kinetic[20:].mean() == pytest.approx(1.5 * 8.617e-5 * 200.0 * len(atoms), rel=0.25)


def test_nothing_is_slower_for_a_deck_that_is_read(tmp_path):
    """Reading a plan does not run it."""
    made = deck(tmp_path / "a", minimise=True)
    start = time.perf_counter()
    assert read_plan(made.folder, {"steps": "7"}).total_steps == 7
    assert time.perf_counter() - start < 1.0


def test_pair_style_hybrid_gives_a_group_to_the_student(tmp_path):
    """A student for one part, another potential for the other: types of no element, lists of some atoms."""
    made = network(ELEMENTS)
    export(made, tmp_path / "s.pt")
    part = box(count=20)
    wall = ase.Atoms("Ar8", box(7, 8).positions, cell=part.cell, pbc=True)
    whole = wall + part
    text = system_text("a", whole, "s.pt", ["Ar", "H", "O"], tmp_path)
    both = "pair_style hybrid/overlay mliap unified s.pt 0 zero 3.0"
    text = text.replace("pair_style mliap unified s.pt 0", both)
    text = text.replace("pair_coeff * * Ar H O", "pair_coeff * * mliap NULL H O\npair_coeff * * zero")
    alone = system_text("b", part, "s.pt", ELEMENTS, tmp_path)
    for ranks in (1, 2):
        run_input(text + alone, tmp_path, ranks)
        rows, want = (np.loadtxt(tmp_path / f"{name}.dump", skiprows=9)[:, 1:] for name in "ab")
        np.testing.assert_allclose(rows[8:], want, atol=1e-8)
        assert not rows[:8].any()
