"""A model of antifluorite Li2O whose lithium is mobile, as an ASE calculator: a teacher for a demonstration.

Charges behind a screening, Born-Mayer repulsion and a dispersion between oxygens; not a force field for
research, but a superionic conductor that labels a frame in milliseconds. For real electrolytes take a
foundation model: ``compactff distill Li6PS5Cl.cif --teacher sevennet-0``.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress

CUTOFF_A = 5.0
COULOMB_EV_A = 14.399645
SCREENING_A = 3.0
CHARGES = {"Li": 0.7, "O": -1.4}
# A in eV and rho in A of A exp(-r / rho), C in eV A^6 of -C / r^6.
REPULSION = {
    ("Li", "O"): (490.0, 0.27, 0.0),
    ("O", "O"): (22764.0, 0.149, 27.88),
    ("Li", "Li"): (0.0, 1.0, 0.0),
}


class LithiumOxide(Calculator):
    """Energy, forces and stress of Li and O, both going smoothly to zero at 5 A."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def calculate(self, atoms: Atoms | None = None, properties=None, system_changes=all_changes) -> None:
        """Compute everything at once; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        i, j, distance, vectors = neighbor_list("ijdD", atoms, CUTOFF_A)
        symbols = np.array(atoms.get_chemical_symbols())
        energies, slopes = np.zeros(len(i)), np.zeros(len(i))
        for pair in REPULSION:
            chosen = ((symbols[i] == pair[0]) & (symbols[j] == pair[1])) | (
                (symbols[i] == pair[1]) & (symbols[j] == pair[0])
            )
            value, slope = pair_energy(distance[chosen], *pair)
            edge, edge_slope = pair_energy(np.array([CUTOFF_A]), *pair)
            energies[chosen] = value - edge - (distance[chosen] - CUTOFF_A) * edge_slope
            slopes[chosen] = slope - edge_slope
        along = (0.5 * slopes / distance)[:, None] * vectors
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, along)
        np.subtract.at(forces, j, along)
        energy = 0.5 * float(energies.sum())
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.pbc.all():
            stress = vectors.T @ along / atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def pair_energy(distance: np.ndarray, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Energy in eV and its slope in eV/A of pairs at distances in A."""
    amplitude, rho, dispersion = REPULSION[(first, second)]
    charge = COULOMB_EV_A * CHARGES[first] * CHARGES[second]
    screened = charge * np.exp(-distance / SCREENING_A) / distance
    repulsion = amplitude * np.exp(-distance / rho)
    energy = screened + repulsion - dispersion / distance**6
    slope = (
        -screened * (1.0 / distance + 1.0 / SCREENING_A) - repulsion / rho + 6.0 * dispersion / distance**7
    )
    return energy, slope
