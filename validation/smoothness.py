"""Energy, force and its derivative through the cutoff, and what happens when atoms come close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.data import chemical_symbols, covalent_radii

from compactff_md.structure import Structure
from compactff_md.validation import pictures
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Section
from compactff_md.validation.symmetry import evaluate_all

STEP_A = 0.005
SHORTEST_A = 0.3
# Below this part of the sum of the covalent radii nuclei repel each other in every known molecule.
SURELY_REPELLED = 0.55
# Around this many of the worst places the scan is made again, each time with steps this many times as fine.
WORST, LEVELS, FINER = 6, 2, 8
# What a scan shows below this is not looked into.
SMALL_eV, SMALL_eV_per_A = 5e-6, 2e-4
# Where the scan through the cutoff begins, in cutoffs, and how far beyond it ends.
FROM, BEYOND_A = 0.6, 0.3


@dataclass(frozen=True)
class Scan:
    """Energies in eV and the force in eV/A along the motion, over a distance in A; shape (S,) each."""

    distance_A: np.ndarray
    energy_eV: np.ndarray
    force_eV_per_A: np.ndarray


@dataclass(frozen=True)
class Jumps:
    """The worst unsteadiness of a scan: energy in meV, force in meV/A, its derivative in eV/A^2."""

    energy_meV: float
    force_meV_per_A: float
    derivative_eV_per_A2: float


def run(campaign: Campaign) -> Section:
    """The section: a probe atom that leaves the molecule, and every pair of elements alone."""
    calculator, cutoff_A = campaign.calculator("float64"), campaign.subject.cutoff_A
    elements = [int(z) for z in np.unique(campaign.structure.numbers)]
    path = np.arange(FROM * cutoff_A, cutoff_A + BEYOND_A, STEP_A)
    scans = {
        f"{chemical_symbols[z]} leaves the structure": leaving(calculator, campaign.structure, z, path)
        for z in elements
    }
    worst = [
        confirmed(scan, partial(leaving, calculator, campaign.structure, z))
        for z, scan in zip(elements, scans.values(), strict=True)
    ]
    pairs = {
        f"{chemical_symbols[a]}-{chemical_symbols[b]}": dimer(calculator, a, b, cutoff_A)
        for a, b in combinations_with_replacement(np.unique(campaign.structure.numbers).tolist(), 2)
    }
    repulsion = min(weakest_repulsion(scan, *name.split("-")) for name, scan in pairs.items())
    findings = (
        campaign.judge("smoothness.energy", max(w.energy_meV for w in worst), "meV"),
        campaign.judge("smoothness.force", max(w.force_meV_per_A for w in worst), "meV/Å"),
        campaign.judge("smoothness.derivative", max(w.derivative_eV_per_A2 for w in worst), "eV/Å²"),
        campaign.judge("short_range.repulsion", repulsion, "eV/Å"),
    )
    figure = pictures.curves(
        {name: {"energy": (s.distance_A, s.energy_eV - s.energy_eV[-1])} for name, s in scans.items()},
        "distance (Å)",
        "energy (eV)",
    )
    close = {name: {"force": (s.distance_A, s.force_eV_per_A)} for name, s in list(pairs.items())[:9]}
    short = pictures.curves(close, "distance (Å)", "force apart (eV/Å)")
    for axes in short.axes:
        axes.set_yscale("symlog", linthresh=1.0)
        axes.axhline(0.0, color="0.6", linewidth=0.6)
    shown = {
        "an atom leaves the structure": campaign.picture("smoothness-cutoff", figure),
        "pairs of atoms alone": campaign.picture("smoothness-pairs", short),
    }
    return Section(findings, {}, shown)


def leaving(calculator: BaseCalculator, structure: Structure, number: int, distances_A: np.ndarray) -> Scan:
    """A further atom that goes away from the outermost atom, at ``distances_A``, shape (S,), from it.

    A box is opened: what a cutoff does needs no images.
    """
    positions = structure.positions_A - structure.positions_A.mean(0)
    outermost = int(np.argmax(np.linalg.norm(positions, axis=1)))
    along = positions[outermost] / max(float(np.linalg.norm(positions[outermost])), 1e-9)
    along = along if along.any() else np.array([1.0, 0.0, 0.0])
    numbers = np.append(structure.numbers, number)
    placed = [np.vstack([positions, positions[outermost] + distance * along]) for distance in distances_A]
    energies, forces = evaluate_all(calculator, [Structure(frame, numbers) for frame in placed])
    return Scan(distances_A, energies, np.array([force[-1] @ along for force in forces]))


def dimer(calculator: BaseCalculator, a: int, b: int, cutoff_A: float) -> Scan:
    """Two atoms alone, from 0.3 A to beyond the cutoff; the force is that which drives them apart."""
    near = np.arange(SHORTEST_A, 1.5, 0.02)
    distances = np.concatenate([near, np.arange(1.5, cutoff_A + BEYOND_A, 0.05)])
    ends, numbers = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([a, b])
    energies, forces = evaluate_all(
        calculator, [Structure(distance * ends, numbers) for distance in distances]
    )
    return Scan(distances, energies, np.array([force[1, 0] for force in forces]))


def jumps(scan: Scan) -> Jumps:
    """What a smooth curve would not have.

    Of a curve with two continuous derivatives the trapezoid rule misses the energy by order h^3, and
    second differences of the force are of order h^2: what is left is a jump, of the force or, divided by
    the step, of its derivative.
    """
    kink = float(kinks_eV_per_A(scan).max())
    energy = float(np.abs(missing_eV(scan)).max())
    return Jumps(1e3 * energy, 1e3 * kink, kink / float(np.diff(scan.distance_A).min()))


def missing_eV(scan: Scan) -> np.ndarray:
    """What the energy rises by beyond the work of the force, in each step: shape (S - 1,)."""
    h = np.diff(scan.distance_A)
    work = -0.5 * h * (scan.force_eV_per_A[1:] + scan.force_eV_per_A[:-1])
    return np.diff(scan.energy_eV) - work


def kinks_eV_per_A(scan: Scan) -> np.ndarray:
    """Second differences of the force beyond those nearby, shape (S - 8,), from the fifth distance."""
    second = np.abs(np.diff(scan.force_eV_per_A, 2))
    # A smooth force changes its second difference slowly; its neighbours' size is taken off.
    around = np.minimum(np.roll(second, 3), np.roll(second, -3))
    return np.maximum(second - around, 0.0)[3:-3]


def confirmed(scan: Scan, again: Callable[[np.ndarray], Scan]) -> Jumps:
    """The jumps of a scan that finer steps about its worst places show, too.

    What is only steep, such as a student's guess for atoms of which it knows nothing, gets smooth there:
    a jump does not. ``again`` makes a scan of other distances.
    """
    coarse = jumps(scan)
    found = [Jumps(0.0, 0.0, 0.0)]
    for measure in (np.pad(kinks_eV_per_A(scan), 4) / SMALL_eV_per_A, np.abs(missing_eV(scan)) / SMALL_eV):
        for _ in range(WORST):
            place = int(np.argmax(measure))
            if measure[place] < 1.0:
                break
            measure[max(0, place - 6) : place + 7] = 0.0
            found.append(_looked_at_closely(float(scan.distance_A[place]), again))
    return least([coarse, most(found)]) if len(found) > 1 else coarse


def _looked_at_closely(middle_A: float, again: Callable[[np.ndarray], Scan]) -> Jumps:
    """What is left of the unsteadiness at ``middle_A`` under ever finer steps."""
    seen, step_A = [], STEP_A
    for _ in range(LEVELS):
        # What is beyond the neighbours, which the differences need, reaches a coarse step to each side.
        scan = again(middle_A + step_A / FINER * np.arange(-FINER - 4, FINER + 5))
        seen.append(jumps(scan))
        middle_A = float(scan.distance_A[int(np.argmax(kinks_eV_per_A(scan))) + 4])
        step_A /= FINER
    return least(seen)


def least(of: list[Jumps]) -> Jumps:
    """The smallest of each measure."""
    return Jumps(*(min(values) for values in zip(*map(astuple, of), strict=True)))


def most(of: list[Jumps]) -> Jumps:
    """The largest of each measure."""
    return Jumps(*(max(values) for values in zip(*map(astuple, of), strict=True)))


def weakest_repulsion(scan: Scan, a: str, b: str) -> float:
    """The smallest force apart, in eV/A, where two nuclei are closer than any bond; negative: attraction."""
    radii = sum(covalent_radii[chemical_symbols.index(symbol)] for symbol in (a, b))
    close = scan.distance_A <= max(SURELY_REPELLED * radii, SHORTEST_A + 0.02)
    return float(scan.force_eV_per_A[close].min())
