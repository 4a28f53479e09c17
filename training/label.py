"""What a teacher says of one structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Label:
    """What the teacher says of one structure.

    Forces have shape (N, 3), stress (3, 3) or None; energies of atoms (N,), which add up to the energy, or
    None. ``unsureness`` is the largest uncertainty of an atom over what is usual, 0 where none is told.
    """

    energy_eV: float
    forces_eV_per_A: np.ndarray
    stress_eV_per_A3: np.ndarray | None
    atom_energies_eV: np.ndarray | None = None
    unsureness: float = 0.0

    @property
    def max_force_eV_per_A(self) -> float:
        """Largest norm of an atom's force."""
        return float(np.linalg.norm(self.forces_eV_per_A, axis=1).max())

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are finite."""
        stress = np.zeros(1) if self.stress_eV_per_A3 is None else self.stress_eV_per_A3
        parts = np.zeros(1) if self.atom_energies_eV is None else self.atom_energies_eV
        return bool(np.isfinite(self.energy_eV + self.forces_eV_per_A.sum() + stress.sum() + parts.sum()))
