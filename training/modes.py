"""Displacements along normal modes: thermal, classical, from second derivatives by the teacher."""

from __future__ import annotations

import ase
import numpy as np
from ase import units

from compactff_md.training.label import Label
from compactff_md.training.labelling import Labeller

STEP_A = 0.02
# Modes softer than this are moved as if they were this stiff: a harmonic sample of a free rotation would
# tear the molecule apart. Bonds have 30-50 eV/A^2, torsions about 0.1-1.
SOFTEST_EV_PER_A2 = 0.3


def hessian(atoms: ase.Atoms, labeller: Labeller) -> tuple[np.ndarray, list[tuple[ase.Atoms, Label]]]:
    """Second derivatives in eV/A^2, shape (3N, 3N), by forward differences of forces.

    Returns the displaced structures with their labels too: 3N + 1 teacher calls, none lost.

    Raises
    ------
    TeacherFailure
        If the teacher fails on one of them.
    """
    start = labeller.label(atoms)
    labelled = [(atoms.copy(), start)]
    matrix = np.empty((3 * len(atoms), 3 * len(atoms)))
    for k in range(3 * len(atoms)):
        moved = atoms.copy()
        moved.positions[k // 3, k % 3] += STEP_A
        label = labeller.label(moved)
        matrix[k] = (start.forces_eV_per_A - label.forces_eV_per_A).ravel() / STEP_A
        labelled.append((moved, label))
    return 0.5 * (matrix + matrix.T), labelled


def thermal_displacement(
    matrix: np.ndarray, temperature_K: float, free: bool, rng: np.random.Generator
) -> np.ndarray:
    """Displacements (N, 3) in A with the Boltzmann distribution of the harmonic energy.

    Translations, and rotations of free molecules, are the softest modes and are left out.
    """
    stiffness, modes = np.linalg.eigh(matrix)
    rigid = np.argsort(np.abs(stiffness))[: min(6 if free else 3, len(stiffness) - 1)]
    width = np.sqrt(units.kB * temperature_K / np.maximum(stiffness, SOFTEST_EV_PER_A2))
    width[rigid] = 0.0
    return (modes @ (width * rng.standard_normal(len(width)))).reshape(-1, 3)
