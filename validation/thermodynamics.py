"""Weights of the student's frames, compression and strain of crystals, and rotation about bonds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.eos import EquationOfState
from ase.stress import full_3x3_to_voigt_6_stress
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from compactff_md.engines.molecules import Molecules
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.units import EV_PER_A3_TO_GPA, KB_EV_PER_K
from compactff_md.validation import pictures
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.forces import FEWEST_FRAMES
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.statistics import bootstrap_interval
from compactff_md.validation.symmetry import evaluate
from compactff_md.validation.task import Tick

VOLUMES = np.linspace(0.94, 1.06, 7)
STRAIN = 0.005
TORSION_STEP_DEG = 15
# 20 kT at 300 K: beyond it no simulation goes, and a rigid rotation pushes atoms into each other.
HIGHEST_EV = 0.5
# The weight of a frame falls exponentially with the number of atoms: beyond these it says nothing.
MOST_REWEIGHTED_ATOMS = 50
# Of N frames no share is below 1/N: where fewer frames than this carry the weight, the share is too high.
FEWEST_EFFECTIVE = 20
MOST_LOST = 0.1  # of the frames, which the teacher cannot label: they are the worst
Curve = tuple[np.ndarray, np.ndarray]
Chain = tuple[int, int, int, int]
Arrays = dict[str, np.ndarray]
Part = Callable[[Campaign, dict[str, BaseCalculator]], Section]


def _nobody(done: float) -> None:
    """Is told how far a calculation is, and does nothing."""


def run(campaign: Campaign) -> Section:
    """The section."""
    findings: list[Finding] = [reweighting(campaign)]
    shown: dict[str, str] = {}
    calculators = {"teacher": campaign.teacher_engine().calculator, "student": campaign.calculator()}
    parts: list[tuple[str, str, Part]] = [("torsion.profile", "meV", _torsions)]
    if campaign.structure.pbc.all():
        parts = [("volume.energy", "meV/atom", _compression), ("volume.elastic", "%", _elastic), *parts]
    for key, unit, part in parts:
        try:
            found = part(campaign, calculators)
        except (CompactFFError, NotImplementedError) as error:  # that of one has nothing to do with the next
            found = Section((campaign.judge(key, None, unit, note=str(error)),))
        findings += found.findings
        shown |= found.pictures
    return Section(tuple(findings), {}, shown)


def effective_share(differences_eV: np.ndarray, temperature_K: float) -> float:
    """Kish's effective sample size over the number of frames, of weights exp(-difference/kT), shape (F,)."""
    exponents = -differences_eV / (KB_EV_PER_K * temperature_K)
    weights = np.exp(exponents - exponents.max())
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def gaussian_share(differences_eV: np.ndarray, temperature_K: float) -> float:
    """What :func:`effective_share` tends to with many frames of normal differences: exp(-var/(kT)^2)."""
    return float(np.exp(-differences_eV.var(ddof=1) / (KB_EV_PER_K * temperature_K) ** 2))


def reweighting(campaign: Campaign) -> Finding:
    """How much of the student's ensemble is left when its frames are weighted to be the teacher's."""
    s = campaign.settings
    runs = campaign.student_replicas()[: s.labelled_frames // 2]  # more would be more calls of the teacher
    share = max(2, s.labelled_frames // len(runs))
    frames = [frame for run_ in runs for frame in run_.structures(share)]
    teacher = campaign.labels("replicas-teacher", frames, campaign.teacher_engine().calculator)
    student = campaign.labels("replicas-student", frames, campaign.calculator())
    difference = teacher.energies_eV - student.energies_eV
    difference = difference[np.isfinite(difference)]
    if len(difference) < FEWEST_FRAMES:
        note = f"{len(difference)} of {len(frames)} frames have an energy; expected at least {FEWEST_FRAMES}"
        return campaign.judge("reweighting.share", None, "", note=note)
    lost = len(frames) - len(difference)
    enough = effective_share(difference, s.temperature_K) * len(difference) >= FEWEST_EFFECTIVE
    share_of = effective_share if enough else gaussian_share
    value = share_of(difference, s.temperature_K)
    interval = bootstrap_interval(
        difference, lambda x: share_of(x, s.temperature_K), campaign.seed("reweighting")
    )
    spread = float(difference.std()) / (KB_EV_PER_K * s.temperature_K)
    note = f"{len(difference)} frames; the difference of the energies spreads by {spread:.2f} kT"
    note += "" if enough else "; too few frames carry the weight, so a normal distribution is assumed"
    large = len(campaign.structure) > MOST_REWEIGHTED_ATOMS
    note += f"; not judged beyond {MOST_REWEIGHTED_ATOMS} atoms" if large else ""
    note += f"; {lost} further frames have no energy" if lost else ""
    undecided = large or lost > MOST_LOST * len(frames)
    return campaign.judge("reweighting.share", value, "", interval=interval, note=note, undecided=undecided)


def energy_of_volume(structure: Structure, calculator: BaseCalculator, tick: Tick = _nobody) -> Curve:
    """Volumes in A^3 and energies in eV at seven isotropic compressions, atoms moved with the cell."""
    rows = []
    for done, factor in enumerate(VOLUMES):
        scale = factor ** (1 / 3)
        scaled = Structure(
            structure.positions_A * scale, structure.numbers, structure.cell_A * scale, structure.pbc
        )
        rows.append((scaled.volume_A3, evaluate(calculator, scaled)[0]))
        tick(done + 1)
    volumes, energies = np.array(rows).T
    return volumes, energies


def bulk_modulus_GPa(volumes_A3: np.ndarray, energies_eV: np.ndarray) -> tuple[float, float]:
    """Equilibrium volume in A^3 and bulk modulus by Birch and Murnaghan's equation of state.

    Raises
    ------
    ValueError
        If the energy has no minimum within the volumes.
    """
    volume, _, modulus = EquationOfState(volumes_A3, energies_eV, eos="birchmurnaghan").fit(warn=False)
    if not volumes_A3.min() < volume < volumes_A3.max():
        raise ValueError(f"it would be at {100 * volume / np.median(volumes_A3):.0f} %")
    return float(volume), float(modulus) * EV_PER_A3_TO_GPA


def elastic_constants_GPa(
    structure: Structure, calculator: BaseCalculator, tick: Tick = _nobody
) -> np.ndarray:
    """Clamped-ion elastic constants in Voigt's order, shape (6, 6), by differences of the stress."""
    constants = np.zeros((6, 6))
    atoms = structure.to_ase()
    atoms.calc = calculator
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        ends = []
        for sign in (1.0, -1.0):
            strain = np.zeros((3, 3))
            strain[a, b] = strain[b, a] = sign * STRAIN * (1.0 if a == b else 0.5)
            atoms.set_cell(structure.cell_A @ (np.eye(3) + strain))
            atoms.positions[:] = structure.positions_A @ (np.eye(3) + strain)
            ends.append(full_3x3_to_voigt_6_stress(atoms.get_stress(voigt=False)))
        constants[k] = (ends[0] - ends[1]) / (2 * STRAIN)
        tick(2 * (k + 1))
    return 0.5 * (constants + constants.T) * EV_PER_A3_TO_GPA


def rotatable(structure: Structure, molecules: Molecules) -> list[Chain]:
    """Chains of four atoms about bonds that no ring holds and that have heavy neighbours at both ends."""
    bonds = molecules.bonds[~molecules.endless[molecules.bonds[:, 0]]]
    near: dict[int, list[int]] = {}
    for i, j in bonds.tolist():
        near.setdefault(i, []).append(j)
        near.setdefault(j, []).append(i)
    found = []
    for j, k in bonds.tolist():
        first, last = _heaviest(structure, near[j], k), _heaviest(structure, near[k], j)
        if first is None or last is None or moved_atoms(len(structure), bonds, j, k) is None:
            continue
        heavy = int((structure.numbers[[first, last]] > 1).sum())
        found.append((-heavy, (first, j, k, last)))
    return [chain for _, chain in sorted(found)]


def moved_atoms(count: int, bonds: np.ndarray, j: int, k: int) -> np.ndarray | None:
    """Atoms on the side of k when the bond j-k is cut; None where a ring still connects them."""
    kept = bonds[~((bonds == (j, k)).all(1) | (bonds == (k, j)).all(1))]
    graph = coo_array((np.ones(len(kept)), (kept[:, 0], kept[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    return None if labels[j] == labels[k] else np.flatnonzero(labels == labels[k])


def torsion_profile(
    structure: Structure,
    calculator: BaseCalculator,
    chain: Chain,
    moved: np.ndarray,
    tick: Tick = _nobody,
) -> Curve:
    """Energies in eV of a rigid rotation over its angle in degrees; NaN where the calculator fails."""
    atoms = structure.to_ase()
    angles = np.arange(0, 360, TORSION_STEP_DEG)
    energies = []
    for angle in angles:
        turned = atoms.copy()
        turned.set_dihedral(*chain, angle, indices=moved)
        turned.calc = calculator
        try:
            energies.append(float(turned.get_potential_energy()))
        except CompactFFError:  # atoms may come so close that a teacher finds no solution
            energies.append(np.nan)
        tick(len(energies))
    return angles, np.array(energies)


def _compression(campaign: Campaign, calculators: dict[str, BaseCalculator]) -> Section:
    def make(calculator: BaseCalculator, tick: Tick) -> Arrays:
        volumes, energies = energy_of_volume(campaign.structure, calculator, tick)
        return {"volumes": volumes, "energies": energies}

    made = {
        name: campaign.arrays(f"{name}-volumes", len(VOLUMES), partial(make, c))
        for name, c in calculators.items()
    }
    curves = {name: (found["volumes"], found["energies"]) for name, found in made.items()}
    n = len(campaign.structure)
    relative = {name: 1e3 * (e - e.mean()) / n for name, (_, e) in curves.items()}
    error = float(np.sqrt(((relative["student"] - relative["teacher"]) ** 2).mean()))
    findings = [campaign.judge("volume.energy", error, "meV/atom")]
    try:
        fits = {name: bulk_modulus_GPa(*curve) for name, curve in curves.items()}
        ratio = 100 * (fits["student"][1] / fits["teacher"][1] - 1)
        note = f"teacher {fits['teacher'][1]:.3g}, student {fits['student'][1]:.3g} GPa"
        findings.append(campaign.judge("volume.bulk_modulus", abs(ratio), "%", note=note))
    except (ValueError, RuntimeError) as error_:  # no minimum within the volumes
        reason = f"no minimum between 94 and 106 % of the volume ({error_})"
        findings.append(campaign.judge("volume.bulk_modulus", None, "%", note=reason))
    lines = {name: (curves[name][0], relative[name]) for name in curves}
    figure = pictures.curves({"isotropic compression": lines}, "volume (Å³)", "energy (meV/atom)")
    shown = {"energy and volume": campaign.picture("thermodynamics-volume", figure)}
    return Section(tuple(findings), {}, shown)


def _elastic(campaign: Campaign, calculators: dict[str, BaseCalculator]) -> Section:
    def make(calculator: BaseCalculator, tick: Tick) -> Arrays:
        return {"constants": elastic_constants_GPa(campaign.structure, calculator, tick)}

    found = {
        name: campaign.arrays(f"{name}-elastic", 12, partial(make, c))["constants"]
        for name, c in calculators.items()
    }
    scale = float(np.abs(np.diag(found["teacher"])).mean())
    error = 100 * float(np.abs(found["student"] - found["teacher"]).max()) / max(scale, 1e-9)
    diagonal = {name: np.diag(c).round(1).tolist() for name, c in found.items()}
    note = f"C11 to C66 in GPa, clamped ions: {diagonal}"
    return Section((campaign.judge("volume.elastic", error, "%", note=note),))


def _torsions(campaign: Campaign, calculators: dict[str, BaseCalculator]) -> Section:
    findings, panels = [], {}
    structure, symbols = campaign.structure, campaign.structure.symbols
    for chain in rotatable(structure, campaign.molecules)[: campaign.settings.torsions]:
        moved = moved_atoms(len(structure), campaign.molecules.bonds, chain[1], chain[2])
        assert moved is not None  # rotatable() has looked
        name = "-".join(f"{symbols[k]}{k}" for k in chain)

        def make(c: BaseCalculator, tick: Tick, chain: Chain = chain, moved: np.ndarray = moved) -> Arrays:
            angles, energies = torsion_profile(structure, c, chain, moved, tick)
            return {"angles": angles, "energies": energies}

        made = {
            n: campaign.arrays(f"{n}-torsion-{name}", 360 // TORSION_STEP_DEG, partial(make, c))
            for n, c in calculators.items()
        }
        curves = {n: (found["angles"], found["energies"]) for n, found in made.items()}
        teacher, student = curves["teacher"][1], curves["student"][1]
        low = teacher - teacher[np.isfinite(teacher)].min(initial=np.inf) < HIGHEST_EV
        error = 1e3 * float((student[low] - teacher[low]).std()) if low.any() else None
        note = f"{int(low.sum())} of {len(low)} angles within {HIGHEST_EV:g} eV of the lowest"
        for name_, (_, energies) in curves.items():
            if failures := int(np.isnan(energies).sum()):
                note += f"; the {name_} fails at {failures} of {len(low)} angles"
        findings.append(
            campaign.judge(
                "torsion.profile", error, "meV", note=note, subject=name, undecided=int(low.sum()) < 4
            )
        )
        if low.any():
            panels[name] = {n: (x[low], 1e3 * (e[low] - e[low].mean())) for n, (x, e) in curves.items()}
    if not panels:
        return Section(tuple(findings))
    figure = pictures.curves(panels, "dihedral (°)", "energy (meV)", style="o-")
    shown = {"rotation about bonds": campaign.picture("thermodynamics-torsions", figure)}
    return Section(tuple(findings), {}, shown)


def _heaviest(structure: Structure, near: list[int], other: int) -> int | None:
    ends = [atom for atom in near if atom != other]
    return max(ends, key=lambda atom: (structure.numbers[atom], -atom)) if ends else None
