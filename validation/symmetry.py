"""What every potential must obey: symmetries, and forces and stress that are derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from compactff_md.engines.ase import StudentCalculator
from compactff_md.structure import Structure
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Section

# Central differences in double precision: truncation falls with the square, rounding rises with 1/h.
DISPLACEMENT_A = 1e-4
STRAIN = 1e-5
DIRECTIONS = 12
FAR_A = 60.0
# In a crystal at rest there is no typical force.
SMALL_FORCE_EV_PER_A = 0.05


def run(campaign: Campaign) -> Section:
    """The section, on the first structure and the last frame of the student's dynamics."""
    calculator = campaign.calculator("float64")
    frames = campaign.sample(2)
    seed = campaign.seed("symmetry")
    found = {}
    for name, check in CHECKS.items():
        values = [value for frame in frames if (value := check(calculator, frame, seed)) is not None]
        if values:
            found[name] = max(values)
    units = {"symmetry.extensivity": "meV/atom"}
    findings = [campaign.judge(key, value, units.get(key, _unit(key))) for key, value in found.items()]
    return Section(tuple(findings))


def _unit(key: str) -> str:
    return "" if key.startswith("derivative") else "meV/Å"


def evaluate(calculator: BaseCalculator, structure: Structure) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A."""
    atoms = structure.to_ase()
    atoms.calc = calculator
    return float(atoms.get_potential_energy()), np.array(atoms.get_forces())


def evaluate_all(
    calculator: BaseCalculator, structures: Sequence[Structure]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies in eV, shape (S,), and forces in eV/A of each; students are asked for many at a time."""
    # Its own type alone: what is made of it may compute something else.
    if type(calculator) is StudentCalculator:
        return calculator.energies_and_forces(structures)
    found = [evaluate(calculator, structure) for structure in structures]
    return np.array([energy for energy, _ in found]), [forces for _, forces in found]


def random_rotation(seed: int) -> np.ndarray:
    """A proper rotation, shape (3, 3)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def rotation(calculator: BaseCalculator, structure: Structure, seed: int) -> float:
    """Largest difference between forces of the turned structure and turned forces, in meV/A."""
    return _equivariance(calculator, structure, random_rotation(seed))


def reflection(calculator: BaseCalculator, structure: Structure, seed: int) -> float | None:
    """The same for the mirror image; None in a box, which would become left-handed."""
    return None if structure.pbc.any() else _equivariance(calculator, structure, -random_rotation(seed))


def permutation(calculator: BaseCalculator, structure: Structure, seed: int) -> float:
    """The same for atoms in another order."""
    circle = np.random.default_rng(seed).permutation(len(structure))
    order = np.empty_like(circle)
    order[circle] = np.roll(circle, 1)  # one cycle through all: no atom stays
    mixed = Structure(structure.positions_A[order], structure.numbers[order], structure.cell_A, structure.pbc)
    _, forces = evaluate(calculator, structure)
    return _worst(evaluate(calculator, mixed)[1], forces[order])


def translation(calculator: BaseCalculator, structure: Structure, seed: int) -> float:
    """The same for the moved structure; in a box single atoms move by lattice vectors, too."""
    rng = np.random.default_rng(seed)
    positions = structure.positions_A + rng.normal(scale=3.0, size=3)
    images = rng.integers(-1, 2, (len(structure), 3)) * structure.pbc
    moved = Structure(
        positions + images @ structure.cell_A, structure.numbers, structure.cell_A, structure.pbc
    )
    return _worst(evaluate(calculator, moved)[1], evaluate(calculator, structure)[1])


def extensivity(calculator: BaseCalculator, structure: Structure, seed: int) -> float:
    """Energy of two far copies, or of a doubled cell, against twice that of one, in meV/atom."""
    n = len(structure)
    if structure.pbc.any():
        repeats = np.where(structure.pbc & (np.arange(3) == np.flatnonzero(structure.pbc)[0]), 2, 1)
        double = Structure.from_ase(structure.to_ase().repeat(tuple(int(k) for k in repeats)))
    else:
        positions = np.concatenate([structure.positions_A, structure.positions_A + [FAR_A, 0.0, 0.0]])
        span = np.ptp(structure.positions_A[:, 0])
        positions[n:, 0] += span
        double = Structure(positions, np.tile(structure.numbers, 2))
    difference = evaluate(calculator, double)[0] - 2 * evaluate(calculator, structure)[0]
    return 1e3 * abs(difference) / (2 * n)


def force_sum(calculator: BaseCalculator, structure: Structure, seed: int) -> float:
    """Length of the sum of all forces, in meV/A: momentum is conserved where it is zero."""
    return 1e3 * float(np.linalg.norm(evaluate(calculator, structure)[1].sum(0)))


def forces_are_derivatives(calculator: BaseCalculator, structure: Structure, seed: int) -> float:
    """Worst difference of ``-F.u`` from dE/du over random directions u, relative to their size."""
    rng = np.random.default_rng(seed)
    _, forces = evaluate(calculator, structure)
    directions = rng.normal(size=(DIRECTIONS, len(structure), 3))
    directions /= np.linalg.norm(directions, axis=(1, 2), keepdims=True)

    def energy(shift: np.ndarray) -> float:
        positions = structure.positions_A + shift
        return evaluate(calculator, Structure(positions, structure.numbers, structure.cell_A, structure.pbc))[
            0
        ]

    h = DISPLACEMENT_A
    slopes = np.array([(energy(h * u) - energy(-h * u)) / (2 * h) for u in directions])
    expected = -(directions * forces).sum((1, 2))
    typical = max(float(np.linalg.norm(forces) / np.sqrt(forces.size)), SMALL_FORCE_EV_PER_A)
    return float(np.abs(slopes - expected).max() / typical)


def stress_is_derivative(calculator: BaseCalculator, structure: Structure, seed: int) -> float | None:
    """Worst difference of the stress from dE/d(strain)/V, relative to the largest; None without a cell."""
    if not structure.pbc.all():
        return None
    atoms = structure.to_ase()
    atoms.calc = calculator
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    expected = np.zeros((3, 3))
    for a in range(3):
        for b in range(a + 1):
            strain = np.zeros((3, 3))
            strain[a, b] = strain[b, a] = STRAIN if a == b else 0.5 * STRAIN
            up, down = (evaluate(calculator, _strained(structure, sign * strain))[0] for sign in (1, -1))
            expected[a, b] = expected[b, a] = (up - down) / (2 * STRAIN) / structure.volume_A3
    return float(np.abs(stress - expected).max() / max(np.abs(expected).max(), 1e-5))


Check = Callable[[BaseCalculator, Structure, int], float | None]
CHECKS: dict[str, Check] = {
    "symmetry.rotation": rotation,
    "symmetry.reflection": reflection,
    "symmetry.permutation": permutation,
    "symmetry.translation": translation,
    "symmetry.extensivity": extensivity,
    "symmetry.force_sum": force_sum,
    "derivative.forces": forces_are_derivatives,
    "derivative.stress": stress_is_derivative,
}


def _equivariance(calculator: BaseCalculator, structure: Structure, turn: np.ndarray) -> float:
    cell = structure.cell_A @ turn
    turned = Structure(structure.positions_A @ turn, structure.numbers, cell, structure.pbc)
    return _worst(evaluate(calculator, turned)[1], evaluate(calculator, structure)[1] @ turn)


def _strained(structure: Structure, strain: np.ndarray) -> Structure:
    turn = np.eye(3) + strain
    return Structure(structure.positions_A @ turn, structure.numbers, structure.cell_A @ turn, structure.pbc)


def _worst(a: np.ndarray, b: np.ndarray) -> float:
    return 1e3 * float(np.abs(a - b).max())
