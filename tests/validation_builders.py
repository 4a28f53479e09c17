"""An analytic potential with every fault that the suite should catch, and campaigns of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.stress import full_3x3_to_voigt_6_stress

from compactff_md.neighbours import pair_list
from compactff_md.structure import Structure
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.run import Run
from compactff_md.validation.settings import SuiteSettings
from compactff_md.validation.stages import Stages
from compactff_md.validation.subject import Subject
from compactff_md.validation.thresholds import Thresholds

CUTOFF_A = 5.0
DEPTH_EV, STEEPNESS_PER_A = 2.0, 1.5


class PairPotential(Calculator):
    """Morse pairs between all atoms, taken smoothly to zero (twice differentiable) from 3.5 to 5 A.

    ``fault`` names what is wrong with it; empty for nothing.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, fault: str = "", depth: float = 1.0, length: float = 1.0) -> None:
        super().__init__()
        self.fault, self.depth_eV, self.length = fault, depth * DEPTH_EV, length

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        s = Structure.from_ase(self.atoms)
        numbers = np.where(s.numbers == 8, 6, 8) if self.fault == "swapped" else s.numbers
        i, j, r, shifts = pair_list(s, CUTOFF_A)
        best = self.length * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
        value, slope = self._pairs(r, best)
        vectors = s.positions_A[j] - s.positions_A[i] + shifts @ s.cell_A
        along = (slope / r)[:, None] * vectors  # half of dE/d r_ij, as every pair comes twice
        forces = np.zeros_like(s.positions_A)
        np.add.at(forces, i, along)
        np.add.at(forces, j, -along)
        stress = (vectors.T @ along) / s.volume_A3 if s.pbc.all() else np.zeros((3, 3))
        energy, forces = self._spoilt(float(value.sum()), 1.0 * forces, s)
        stress = -stress if self.fault == "virial sign" else stress
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if s.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def _pairs(self, r: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half of the energy of each pair, and its derivative."""
        e = np.exp(-STEEPNESS_PER_A * (r - best))
        value = self.depth_eV * ((1 - e) ** 2 - 1)
        slope = 2 * self.depth_eV * STEEPNESS_PER_A * (1 - e) * e
        if self.fault == "hole":
            value, slope = value - 4e3 * np.maximum(0.8 - r, 0) ** 2, slope + 8e3 * np.maximum(0.8 - r, 0)
        if self.fault == "cutoff":
            inside = r < CUTOFF_A - 0.5
            return 0.5 * value * inside, 0.5 * slope * inside
        x = np.clip((r - 3.5) / (CUTOFF_A - 3.5), 0, 1)
        if self.fault == "kink":  # continuous, with a step in the force
            keep, fall = 1 - x, np.where((x > 0) & (x < 1), -1 / (CUTOFF_A - 3.5), 0.0)
        else:
            keep = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
            fall = -30 * x**2 * (1 - x) ** 2 / (CUTOFF_A - 3.5)
        return 0.5 * value * keep, 0.5 * (slope * keep + value * fall)

    def _spoilt(self, energy: float, forces: np.ndarray, s: Structure) -> tuple[float, np.ndarray]:
        if self.fault == "units":  # of the forces, 0.1 %
            forces = 1.001 * forces
        elif self.fault == "not the gradient":
            forces = forces + 0.02 * np.roll(forces, 1, axis=1)
        elif self.fault == "float16":
            forces = forces.astype(np.float16).astype(float)
        elif self.fault == "orientation":
            x = s.positions_A[:, 2] - s.positions_A[:, 2].mean()
            energy += 0.05 * float((x**2).sum())
            forces[:, 2] -= 0.1 * x
        elif self.fault == "order":
            forces[0] *= 1.01
        elif self.fault == "place":
            energy += 1e-3 * float(s.positions_A[:, 0].sum())
            forces[:, 0] -= 1e-3
        elif self.fault == "handed":
            d = s.positions_A - s.positions_A.mean(0)
            forces += 0.01 * np.cross(np.roll(d, 1, axis=0), d)
        elif self.fault == "size":
            energy += 0.1 * len(s) ** 2
        return energy, forces


class Teacher:
    name = "pairs"

    def calculator(self) -> PairPotential:
        return PairPotential()


def molecule() -> Structure:
    """Two carbons and two oxygens near the corners of a tetrahedron: every pair is bonded."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.5
    return Structure(corners, [6, 6, 8, 8])


def crystal() -> Structure:
    atoms = bulk("Cu", "fcc", a=3.40, cubic=True)
    return Structure.from_ase(atoms)


SETTINGS = SuiteSettings(
    replicas=2,
    replica_ps=2.0,
    equilibration_ps=0.2,
    friction_per_ps=20.0,
    labelled_frames=16,
    conservation_ps=3.0,
    law_ps=0.5,
    stability_runs=1,
    stability_ps=0.5,
    agreement_steps=100,
)


def subject(fault: str = "", **changes: float) -> Subject:
    return Subject(fault or "correct", lambda dtype: PairPotential(fault, **changes), CUTOFF_A)


def campaign(folder: Path, student: Subject, structure: Structure | None = None, **changes) -> Campaign:
    settings = SETTINGS.model_copy(update=changes)
    stages = Stages(folder, {"student": student.name})
    structure = structure or molecule()
    return Campaign("system", student, Teacher(), [structure], settings, Thresholds(), stages)


def verdicts(section) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in section.findings}


def with_settings(base: Campaign, **changes) -> Campaign:
    return replace(base, settings=base.settings.model_copy(update=changes), _kept={})


def gas(seed: int, frames: int = 40, count: int = 24, side_A: float = 12.0) -> Run:
    """Random walks of two kinds of atoms in a box."""
    rng = np.random.default_rng(seed)
    start = rng.random((count, 3)) * side_A
    positions = start + np.cumsum(rng.normal(scale=0.2, size=(frames, count, 3)), axis=0)
    return Run(
        time_ps=0.1 * np.arange(frames),
        potential_eV=np.zeros(frames),
        kinetic_eV=np.zeros(frames),
        positions_A=positions,
        velocities_A_per_fs=np.zeros_like(positions),
        numbers=np.repeat([8, 18], count // 2),
        cell_A=np.repeat(side_A * np.eye(3)[None], frames, axis=0),
        pbc=np.ones(3, dtype=bool),
        masses_Da=np.repeat([15.999, 39.95], count // 2),
        timestep_fs=1.0,
        temperature_K=300.0,
        dof=3 * count - 3,
        engine="by hand",
    )
