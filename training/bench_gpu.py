"""Speed of dynamics on a GPU: ``python -m compactff_md.training.bench gpu``.

Milliseconds a step and nanoseconds a day at 0.5 fs, in float32, of each size: with shipped students for
aspirin and for a crystal of lithium argyrodite, with students of random weights, whose forces are made
small, for boxes of water. In OpenMM (Langevin) on its CUDA platform, by TorchForce and by PythonForce, and on
one core of the CPU; in LAMMPS with Kokkos where one for GPUs is found (NVE, loop time). It wants a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import torch

from compactff_md.artifact import describe
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_installation import Lammps, find_lammps
from compactff_md.engines.lammps_run import command_of, read_plan
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.engines.openmm_import import openmm
from compactff_md.engines.openmm_platforms import make_context
from compactff_md.engines.openmm_system import prepare
from compactff_md.errors import CompactFFError
from compactff_md.structure import read_structures
from compactff_md.student import Student, load
from compactff_md.students import SIZES, create
from compactff_md.training.bench_systems import of_the_repository, water_box

TIMESTEP_FS = 0.5
WATER = {1536: 8, 12288: 16, 98304: 32}  # molecules along an edge
SCALE_EV = 0.02  # of untrained students, so that the box stays as it is
SECONDS = 2.0  # of each measurement
WARM_UP_STEPS = 20
# Columns: force and platform. One core of the CPU, for comparison.
OPENMM = (
    ("openmm_torchforce", "torchforce", "CUDA"),
    ("openmm_python", "python", "CUDA"),
    ("openmm_cpu", "torchforce", "Reference"),
)


def dynamics(
    sizes: Sequence[str] = SIZES,
    systems: Sequence[str] = (),
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Rows of the table: a system and a size each, for all systems or those named.

    ``told`` gets each row when it is measured.

    Raises
    ------
    CompactFFError
        Where PyTorch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise CompactFFError("PyTorch finds no GPU here; bench gpu measures one")
    lammps = _lammps_for_gpus()
    rows = []
    for name, atoms, (called, student) in _systems(sizes, systems):
        row: dict[str, Any] = {"system": name, "atoms": len(atoms), "student": called}
        quickest_ms = 1e9
        for column, force, platform in OPENMM:
            ms = _openmm_ms(atoms, student, force, platform)
            row |= _figures(column, ms)
            quickest_ms = min(ms, quickest_ms)
        if lammps is not None:
            row |= _figures("lammps_kokkos", _lammps_ms(lammps, atoms, student, quickest_ms))
        told(row)
        rows.append(row)
    return rows


def _lammps_for_gpus() -> Lammps | None:
    try:
        found = find_lammps()
    except CompactFFError:  # there is none
        return None
    return found if found.has_gpu else None


def _systems(
    sizes: Sequence[str], wanted: Sequence[str]
) -> Iterator[tuple[str, ase.Atoms, tuple[str, Student]]]:
    """Name, structure, and the student with what it is called."""
    files = {"aspirin": ("openmm/aspirin.xyz", "organic")}
    files["argyrodite"] = ("validation/reports/argyrodite_416.xyz", "argyrodite")
    for name, (path, kind) in files.items():
        for size in sizes if name in wanted or not wanted else ():
            atoms = read_structures(of_the_repository(Path(path)))[0]
            yield name, atoms, (f"{kind}-{size}", load(f"{kind}-{size}"))
    for count, edge in WATER.items():
        if f"water-{count}" in wanted or not wanted:
            box = water_box((edge, edge, edge))
            atoms = ase.Atoms(box.numbers, box.positions_A, cell=box.cell_A, pbc=True)
            for size in sizes:
                yield "water", atoms, (size, _untrained(size))


def _untrained(size: str) -> Student:
    network = create(size, ["H", "O"], seed=1).eval()
    network.energy_scale_eV.fill_(SCALE_EV)
    return Student(network, describe(network))


def _figures(name: str, ms: float) -> dict[str, float]:
    per_day = 1e-6 * TIMESTEP_FS * 86_400e3 / ms
    return {f"{name}_ms_per_step": float(f"{ms:.3g}"), f"{name}_ns_per_day": float(f"{per_day:.3g}")}


def _openmm_ms(atoms: ase.Atoms, student: Student, force: str, platform: str) -> float:
    prepared = prepare(atoms, student, force=force)
    unit = openmm.unit
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, TIMESTEP_FS * unit.femtosecond
    )
    context = make_context(prepared.system, integrator, platform)
    context.setPositions(prepared.positions_nm)
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)

    def run(steps: int) -> float:
        start = time.perf_counter()
        integrator.step(steps)
        context.getState(energy=True)
        return time.perf_counter() - start

    return _ms_a_step(run)


def _lammps_ms(lammps: Lammps, atoms: ase.Atoms, student: Student, guess_ms: float) -> float:
    """Loop time of so many steps that they take some seconds at a guess, after the deck's own few."""
    settings = DeckSettings(
        ensemble="nve", steps=WARM_UP_STEPS, thermo_interval=1_000_000, temperature_K=300.0, kokkos=True
    )
    steps = max(WARM_UP_STEPS, round(1e3 * SECONDS / guess_ms))
    with tempfile.TemporaryDirectory() as folder:
        deck = write_deck(atoms, student.network, student.metadata, settings, Path(folder) / "deck").deck
        deck.write_text(f"{deck.read_text()}\nrun {steps}\n")
        done = subprocess.run(
            command_of(lammps, read_plan(deck, {}), kokkos=True),
            cwd=deck.parent,
            env=lammps.environment(1),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise CompactFFError(f"LAMMPS failed: {(done.stdout + done.stderr)[-500:]}")
    return 1e3 * float(re.findall(r"Loop time of (\S+) on", done.stdout)[-1]) / steps


def _ms_a_step(run: Callable[[int], float]) -> float:
    """Of so many steps that they take some seconds, after a few that do not count."""
    run(WARM_UP_STEPS)
    once = run(WARM_UP_STEPS) / WARM_UP_STEPS
    steps = max(WARM_UP_STEPS, round(SECONDS / once))
    return 1e3 * run(steps) / steps
