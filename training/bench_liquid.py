"""What students make of a liquid at constant pressure, and how right they are there.

``python -m compactff_md.training.bench liquid``: each student moves a periodic box from where it is given,
and round pieces of the frames at the end are labelled by the teacher, free: the only way to ask a teacher
that is not right with periodic boundaries (:meth:`compactff_md.teachers.Teacher.caution`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase import units

from compactff_md.engines.molecules import Molecules, find_molecules
from compactff_md.structure import Structure, read_structures
from compactff_md.teachers import create_teacher
from compactff_md.training.asking import answered
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import Labeller, TeacherFailure
from compactff_md.training.liquids import cut_piece
from compactff_md.training.progress import Reporter, RichReporter
from compactff_md.training.sampling import Phase, langevin, sampling_masses, thermal_velocities

CONFIG = SamplingConfig(timestep_fs=1.0, minimum_mass_u=4.0)
STRETCH_STEPS = 500
G_PER_CM3 = 1.66053907  # of u/A^3
BAR = units.bar


def liquid(
    students: list[str],
    structure: Path,
    teacher: str,
    pressure_bar: float,
    time_ps: float,
    piece_atoms: int,
    pieces: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of a table, one for each student.

    A row has the density over the last half of the run in g/cm3, whether the run came to its end, and of the
    pieces of its last half: the error of the forces in meV/A, and of the pressure in bar with its standard
    error. The pressure of a piece is the virial of its molecules, the sum of their forces times their
    centres, over three times its share of the volume; what it lacks at the surface it lacks with both.
    """
    box = read_structures(structure)[0]
    teaching = Labeller(create_teacher(teacher))
    return [_row(name, box, teaching, pressure_bar, time_ps, piece_atoms, pieces, seed) for name in students]


def _row(
    name: str,
    box: ase.Atoms,
    teaching: Labeller,
    pressure_bar: float,
    time_ps: float,
    piece_atoms: int,
    pieces: int,
    seed: int,
) -> dict[str, Any]:
    student = Labeller(create_teacher(f"student:{name}"))
    rng = np.random.default_rng([seed, 80])
    stretches = max(2, round(1000.0 * time_ps / (CONFIG.timestep_fs * STRETCH_STEPS)))
    with RichReporter() as reporter:
        reporter.start(name, stretches)
        frames = _frames(student, box, pressure_bar, stretches, rng, reporter)
        reporter.finish()
    last = frames[len(frames) // 2 :]
    molecules = find_molecules(Structure.from_ase(box))
    chosen = [last[k] for k in np.linspace(0, len(last) - 1, pieces).round().astype(int)]
    force_errors, pressure_errors = [], []
    for frame in chosen:
        piece = cut_piece(frame, molecules, piece_atoms, rng)
        volume_A3 = frame.get_volume() * piece.get_masses().sum() / frame.get_masses().sum()
        found, true = (of.label(piece.copy()).forces_eV_per_A for of in (student, teaching))
        force_errors.append(found - true)
        parts = find_molecules(Structure.from_ase(piece))
        pressure_errors.append(molecular_virial_eV(piece, parts, found - true) / (3.0 * volume_A3 * BAR))
    densities = [frame.get_masses().sum() / frame.get_volume() * G_PER_CM3 for frame in last]
    return {
        "student": name,
        "ps": round(1e-3 * CONFIG.timestep_fs * STRETCH_STEPS * len(frames), 1),
        "ended well": "yes" if len(frames) == stretches else "no",
        "density_g_per_cm3": round(float(np.mean(densities)), 3),
        "at_the_end": round(densities[-1], 3),
        "force_rmse_meV_per_A": round(1e3 * float(np.sqrt(np.mean(np.concatenate(force_errors) ** 2))), 1),
        "pressure_error_bar": round(float(np.mean(pressure_errors))),
        "standard_error_bar": round(float(np.std(pressure_errors, ddof=1) / np.sqrt(len(pressure_errors)))),
    }


def _frames(
    student: Labeller,
    box: ase.Atoms,
    pressure_bar: float,
    stretches: int,
    rng: np.random.Generator,
    reporter: Reporter,
) -> list[ase.Atoms]:
    """Frames after every stretch; fewer where the student runs away."""
    temperature_K = 300.0
    atoms = box.copy()
    velocities = thermal_velocities(sampling_masses(atoms, CONFIG), temperature_K, rng)
    phase = Phase(atoms.positions.copy(), velocities, student.label(atoms), atoms.cell.array.copy())
    frames: list[ase.Atoms] = []
    for _ in range(stretches):
        try:
            work = langevin(atoms, phase, temperature_K, STRETCH_STEPS, CONFIG, rng, pressure_bar)
            phase = answered(work, student)
        except TeacherFailure:
            break
        frames.append(ase.Atoms(box.numbers, phase.positions_A, cell=phase.cell_A, pbc=True))
        reporter.update(len(frames))
    return frames


def molecular_virial_eV(atoms: ase.Atoms, molecules: Molecules, forces_eV_per_A: np.ndarray) -> float:
    """Sum over molecules of the force on one times where it is; of free molecules."""
    count = int(molecules.labels.max()) + 1
    sizes = np.bincount(molecules.labels, minlength=count).reshape(-1, 1)
    total, centre = (
        np.stack([np.bincount(molecules.labels, weights=x, minlength=count) for x in values.T], 1)
        for values in (forces_eV_per_A, atoms.positions)
    )
    return float((total * (centre / sizes - atoms.positions.mean(0))).sum())
