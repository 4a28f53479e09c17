"""Dynamics of a student in LAMMPS, through ML-IAP."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import ase
import numpy as np
import torch
from ase import units

from compactff_md.engines.lammps_deck import (
    DATA,
    DECK,
    STUDENT,
    data_text,
    deck_facts,
    lammps_frame,
    lammps_rotation,
)
from compactff_md.engines.lammps_installation import find_lammps
from compactff_md.engines.lammps_run import command_of, read_plan, run_deck
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.engines.lammps_text import student_text, system_text
from compactff_md.engines.md_velocities import degrees_of_freedom, maxwell_boltzmann, runaway_temperature_K
from compactff_md.errors import CompactFFError
from compactff_md.export.mliap import export_mliap
from compactff_md.structure import Structure
from compactff_md.student import Student
from compactff_md.units import NM_TO_A
from compactff_md.validation.engine_ase import EQUILIBRATION_FRICTION_PER_PS, NM_PER_PS
from compactff_md.validation.run import Run
from compactff_md.validation.task import State, Task, Tick

DUMP, LOG = "frames.dump", "log.lammps"
HEADER_LINES = 9  # of a frame in a dump
COLUMNS = ("step", "pe", "ke", "pxx", "pyy", "pzz", "pyz", "pxz", "pxy", "vol")
# Of the barostat, in ps.
PRESSURE_DAMPING_PS = 0.5
METAL_PS_PER_FS = 1e-3


class LAMMPSEngine:
    """Runs a student in LAMMPS, each run a process of one rank, on a GPU where LAMMPS and PyTorch have one.

    Results are in the frame of the structure.

    Parameters
    ----------
    student
        It is exported for each run.
    dtype
        ``float32`` or ``float64`` of the network.

    Raises
    ------
    CompactFFError
        Where no LAMMPS is found, it has no ML-IAP, or it fails on a single point; a run that fails says so
        in its ``failure``.
    """

    name = "lammps"

    def __init__(self, student: Student, dtype: str = "float32") -> None:
        self.student, self.dtype = student, dtype

    def single_point(self, structure: Structure) -> tuple[float, np.ndarray]:
        """Energy in eV and forces in eV/A, shape (N, 3)."""
        energy, forces, _ = self._still(structure)
        return energy, forces

    def virial(self, structure: Structure) -> np.ndarray:
        """Virial ``-dE/d(strain)`` in eV, shape (3, 3), in the frame of ``structure``."""
        return self._still(structure)[2]

    def run(
        self, structure: Structure, task: Task, start: State | None = None, tick: Tick | None = None
    ) -> Run:
        """Run a task; see :class:`compactff_md.validation.task.Engine`."""
        atoms = structure.to_ase()
        masses = atoms.get_masses()
        nm, free = atoms.positions / NM_TO_A, not atoms.pbc.any()
        if start is None:
            drawn = maxwell_boltzmann(masses, nm, task.temperature_K, task.seed, stop_rotation=free)
            start = State(atoms.positions, drawn * NM_PER_PS)
            equilibration = task.equilibration_steps
        else:
            equilibration = 0
        atoms.positions[:] = start.positions_A
        atoms.set_velocities(start.velocities_A_per_fs / units.fs)
        moving = degrees_of_freedom(nm, stop_rotation=free)
        text = _dynamics(task, equilibration, 3 * len(atoms) - moving, free)
        with tempfile.TemporaryDirectory() as folder:
            failure = self._execute(Path(folder), atoms, text, tick)
            frames, rows = _read_frames(Path(folder) / DUMP, len(atoms)), _read_rows(Path(folder) / LOG)
        dof = moving if task.ensemble == "nve" else 3 * len(atoms)
        return _run(structure, atoms, task, frames, rows, dof, failure, self.name)

    def _still(self, structure: Structure) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, forces and virial of atoms at rest, in the structure's frame."""
        atoms = structure.to_ase()
        rotation = lammps_rotation(atoms)
        text = "\n".join([*_output(1), "run 0"])
        with tempfile.TemporaryDirectory() as folder:
            failure = self._execute(Path(folder), atoms, text, None)
            frames, rows = _read_frames(Path(folder) / DUMP, len(atoms)), _read_rows(Path(folder) / LOG)
        if failure or not len(frames):
            raise CompactFFError(f"LAMMPS failed: {failure or 'no frame was written'}")
        pressure = rows[0, [3, 8, 7, 8, 4, 6, 7, 6, 5]].reshape(3, 3) * units.bar
        volume = lammps_frame(atoms).get_volume() if atoms.pbc.all() else 0.0
        virial = rotation @ (pressure * volume) @ rotation.T
        return float(rows[0, 1]), frames[0, :, 6:] @ rotation.T, virial

    def _execute(self, folder: Path, atoms: ase.Atoms, text: str, tick: Tick | None) -> str:
        """Run an input in a folder; return what LAMMPS said of an error, or nothing."""
        settings = DeckSettings(ensemble="nve", steps=1, dtype=self.dtype)
        network = self.student.network
        facts = deck_facts(atoms, network, settings)
        lammps = find_lammps()
        if lammps.lacks:
            raise CompactFFError(f"{lammps.executable} has no {', '.join(lammps.lacks)}: compactff doctor")
        (folder / DATA).write_text(data_text(atoms, facts["elements"], settings.units), encoding="utf-8")
        export_mliap(network, self.student.metadata, folder / STUDENT, dtype=self.dtype)
        parts = [system_text(settings, facts), student_text(settings, facts), text]
        (folder / DECK).write_text("\n".join(parts) + "\n", encoding="utf-8")
        plan = read_plan(folder / DECK, {})
        kokkos = lammps.has_gpu and torch.cuda.is_available()
        said: list[str] = []
        code = run_deck(
            lammps,
            plan,
            command_of(lammps, plan, kokkos=kokkos, extra=("-log", LOG)),
            1,
            said.append,
            lambda step: tick(step) if tick is not None else None,
        )
        if code == 0:
            return ""
        errors = [line for line in said if "ERROR" in line or "Error" in line]
        return (errors or said or [f"exit code {code}"])[-1].strip()


def _output(every: int) -> list[str]:
    return [
        f"thermo {every}",
        f"thermo_style custom {' '.join(COLUMNS)}",
        "thermo_modify norm no flush yes format float %.16g",
        f"dump frames all custom {every} {DUMP} xu yu zu vx vy vz fx fy fz",
        "dump_modify frames sort id format float %.16g",
    ]


def _dynamics(task: Task, equilibration: int, stopped: int, free: bool) -> str:
    """The input after the student: equilibration, and the run with its frames."""
    kelvin = f"{task.temperature_K:g}"

    def bath(friction_per_ps: float, seed: int) -> str:
        return f"fix bath all langevin {kelvin} {kelvin} {1.0 / friction_per_ps:g} {seed % 900_000_000 + 1}"

    lines = [
        f"timestep {task.timestep_fs * METAL_PS_PER_FS:.10g}",
        f"compute_modify thermo_temp extra/dof {stopped}",
        _motion(task.pressure_bar),
    ]
    if equilibration:
        friction = EQUILIBRATION_FRICTION_PER_PS
        lines += [bath(friction, task.seed), "thermo 1000000", f"run {equilibration}", "unfix bath"]
        if task.ensemble == "nve":
            lines += ["velocity all zero linear", *(["velocity all zero angular"] if free else [])]
            lines += [f"velocity all scale {kelvin} temp thermo_temp"]
        lines += ["reset_timestep 0"]
    if task.ensemble != "nve":
        lines += [bath(task.friction_per_ps, task.seed + 1)]
    return "\n".join([*lines, *_output(task.every), f"run {task.steps}"])


def _motion(pressure_bar: float | None) -> str:
    """Integrator; the thermostat is a fix of its own."""
    if pressure_bar is None:
        return "fix motion all nve"
    return f"fix motion all nph iso {pressure_bar:g} {pressure_bar:g} {PRESSURE_DAMPING_PS:g}"


def _read_frames(path: Path, count: int) -> np.ndarray:
    """Complete frames of a dump, shape (F, N, 9): positions, velocities in A/ps and forces."""
    if not path.is_file():
        return np.zeros((0, count, 9))
    lines = path.read_text(encoding="ascii").splitlines()
    size = HEADER_LINES + count
    frames = [lines[k + HEADER_LINES : k + size] for k in range(0, len(lines) - size + 1, size)]
    return np.array([[row.split() for row in frame] for frame in frames], dtype=float).reshape(-1, count, 9)


def _read_rows(path: Path) -> np.ndarray:
    """The last run's table in a log, shape (F, 10)."""
    rows: list[list[float]] = []
    inside = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        words = line.split()
        if words[:2] == ["Step", "PotEng"]:
            inside, rows = True, []
        elif words[:2] == ["Loop", "time"]:
            inside = False
        elif inside and len(words) == len(COLUMNS):  # warnings may stand between two rows
            with suppress(ValueError):
                rows.append([float(word) for word in words])
    return np.array(rows).reshape(-1, len(COLUMNS))


def _cells(structure: Structure, volumes_A3: np.ndarray) -> np.ndarray:
    """The cell grown alike in all directions to each volume, shape (F, 3, 3)."""
    if not structure.pbc.all():
        return np.repeat(structure.cell_A[None], len(volumes_A3), axis=0)
    factors = np.nan_to_num(volumes_A3 / structure.volume_A3, nan=1.0) ** (1.0 / 3.0)
    return structure.cell_A[None] * factors[:, None, None]


def _run(
    structure: Structure,
    atoms: ase.Atoms,
    task: Task,
    frames: np.ndarray,
    rows: np.ndarray,
    dof: int,
    failure: str,
    engine: str,
) -> Run:
    """What was recorded until it made no sense; ``atoms`` are where LAMMPS was told to begin."""
    count = min(len(frames), len(rows))
    frames, rows = frames[:count], rows[:count]
    limit = runaway_temperature_K(task.temperature_K, max(dof, 1))
    temperature = 2 * rows[:, 2] / (max(dof, 1) * units.kB)
    sane = np.isfinite(rows[:, 1]) & np.isfinite(frames).all((1, 2)) & (temperature < limit)
    if not sane.all():
        count = int(np.argmin(sane))
        failure = failure or f"temperature is {temperature[count]:.0f} K, the limit {limit:.0f} K"
        frames, rows = frames[:count], rows[:count]
    elif not failure and count <= task.steps // task.every:
        failure = f"LAMMPS wrote {count} of {task.steps // task.every + 1} frames"
    if failure:
        failure = f"at step {max(0, count - 1) * task.every}: {failure}"
    if not count:
        frames, rows = np.zeros((1, len(structure), 9)), np.full((1, len(COLUMNS)), np.nan)
        frames[0, :, :3], count = lammps_frame(atoms).positions, 1
    rotation = lammps_rotation(atoms)
    origin = lammps_frame(atoms).positions[0] - atoms.positions[0] @ rotation
    return Run(
        time_ps=np.arange(count) * task.every * task.timestep_fs / 1000.0,
        potential_eV=rows[:, 1],
        kinetic_eV=rows[:, 2],
        positions_A=(frames[..., :3] - origin) @ rotation.T,
        velocities_A_per_fs=frames[..., 3:6] @ rotation.T / 1000.0,
        numbers=structure.numbers,
        cell_A=_cells(structure, rows[:, 9]),
        pbc=structure.pbc,
        masses_Da=atoms.get_masses(),
        timestep_fs=task.timestep_fs,
        temperature_K=task.temperature_K,
        dof=dof,
        engine=engine,
        failure=failure,
        forces_eV_per_A=frames[..., 6:] @ rotation.T,
    )
