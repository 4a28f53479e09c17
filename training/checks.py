"""What is wrong with labelled data, found before an hour is spent on it; each message names the frame."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compactff_md.contacts import check_contacts
from compactff_md.errors import CompactFFError
from compactff_md.training.config import CheckConfig
from compactff_md.training.frames import (
    PARTS_TOLERANCE_EV,
    Frame,
    LabelledSet,
    composition,
    fit_energy_shifts,
)
from compactff_md.training.stress_check import check_stress
from compactff_md.units import BOHR_TO_A, HARTREE_TO_EV, KJ_PER_MOL_TO_EV

# Total energies of atoms in Hartree, H to Ar (Chakravorty et al., Phys. Rev. A 47, 3649 (1993)).
ATOMS_HARTREE = (
    0.5000, 2.9037, 7.4781, 14.6674, 24.6539, 37.8450, 54.5892, 75.0673, 99.7339, 128.9376,
    162.2546, 200.0530, 242.3460, 289.3590, 341.2590, 398.1100, 460.1480, 527.5400,
)  # fmt: skip
ISOLATED_LIMIT_EV_PER_ATOM = 20.0
SAME_ISOLATED_EV = 1e-3
USUAL_DEVIATIONS = 20.0
# What (energy difference) / (work of the forces) is where the units are not eV and eV/A.
WRONG_RATIOS = {
    "the energies are in Hartree and the forces in eV/A; multiply the energies by 27.2114": 1 / HARTREE_TO_EV,
    "the forces are in Hartree/bohr and the energies in eV; multiply the forces by 51.4221": (
        HARTREE_TO_EV / BOHR_TO_A
    ),
    "energies and forces are in Hartree and Hartree/bohr; multiply by 27.2114 and 51.4221": 1 / BOHR_TO_A,
    "the energies are in kcal/mol and the forces in eV/A; divide the energies by 23.0605": (
        1 / (4.184 * KJ_PER_MOL_TO_EV)
    ),
    "the energies are in kJ/mol and the forces in eV/A; divide the energies by 96.4853": 1 / KJ_PER_MOL_TO_EV,
    "the forces have the wrong sign (gradients?); multiply them by -1": -1.0,
}


def check_labels(data: LabelledSet, config: CheckConfig) -> LabelledSet:
    """Run every check; return the set, without duplicates where the configuration drops them.

    Raises
    ------
    CompactFFError
        On the first finding: non-finite labels, absurd forces, overlapping atoms or lengths in nm,
        duplicates, energies far from linear in composition, units that are not eV and A.
    """
    if not data.frames:
        raise CompactFFError("there is no frame to train on; expected at least one with more than one atom")
    check_finite(data.frames)
    check_parts(data.frames)
    check_forces(data.frames, config.max_force_eV_per_A)
    if config.contacts:
        for frame in data.frames:
            check_contacts(frame.structure, frame.name)
    frames = check_duplicates(data.frames, config.duplicates)
    if config.units:
        check_hartree(frames, data.isolated_eV, data.by_teacher)
        check_work(frames)
        check_stress(frames)
    check_isolated(frames, data.isolated_eV)
    check_linear(frames, data.elements, config.max_energy_deviation_eV_per_atom)
    return replace(data, frames=frames)


def check_finite(frames: tuple[Frame, ...]) -> None:
    """Refuse NaN and infinite labels."""
    for frame in frames:
        stress = frame.stress_eV_per_A3
        labels: dict[str, Any] = {
            "energy": frame.energy_eV,
            "forces": frame.forces_eV_per_A,
            "stress": stress,
            "energies of atoms": frame.atom_energies_eV,
        }
        for name, value in labels.items():
            if value is not None and not np.isfinite(value).all():
                raise CompactFFError(
                    f"{frame.name}: {name} is NaN or infinite; label it again or drop the frame"
                )


def check_parts(frames: tuple[Frame, ...]) -> None:
    """Refuse energies of atoms that do not add up to the energy."""
    for frame in frames:
        if frame.atom_energies_eV is None:
            continue
        missing = frame.energy_eV - float(frame.atom_energies_eV.sum())
        if abs(missing) > PARTS_TOLERANCE_EV * len(frame):
            raise CompactFFError(
                f"{frame.name}: its energies of atoms add up to {-missing:+.4g} eV from its energy; "
                f"allowed are {PARTS_TOLERANCE_EV:g} eV an atom. Give the name of those that do with "
                "keys.energies, or set atom_energies_weight to 0"
            )


def check_forces(frames: tuple[Frame, ...], limit_eV_per_A: float) -> None:
    """Refuse forces that no MD at sensible temperatures meets."""
    for frame in frames:
        norms = np.linalg.norm(frame.forces_eV_per_A, axis=1)
        if norms.max() > limit_eV_per_A:
            raise CompactFFError(
                f"{frame.name}: the force on atom {int(norms.argmax())} is {norms.max():.4g} eV/A; "
                f"allowed are {limit_eV_per_A:g}. Drop the frame if its calculation failed, check the unit "
                "of the forces, or raise checks.max_force_eV_per_A"
            )


def check_duplicates(frames: tuple[Frame, ...], policy: str) -> tuple[Frame, ...]:
    """Find structures that come twice (to 1e-4 A); error, drop or keep them."""
    if policy == "keep":
        return frames
    seen: dict[bytes, Frame] = {}
    for frame in frames:
        first = seen.setdefault(structure_key(frame), frame)
        if first is not frame and policy == "error":
            raise CompactFFError(
                f"{frame.name} is the same structure as {first.name}; remove one, or set "
                "checks.duplicates to 'drop' or 'keep'"
            )
    return tuple(seen.values())


def structure_key(frame: Frame) -> bytes:
    """Equal for structures whose positions agree to 1e-4 A."""
    structure = frame.structure
    rounded = (
        np.round(np.concatenate([structure.positions_A, structure.cell_A * structure.pbc[:, None]]), 4) + 0.0
    )
    return hashlib.sha256(structure.numbers.tobytes() + rounded.tobytes()).digest()


def check_disjoint(train: LabelledSet, other: LabelledSet, purpose: str) -> None:
    """Refuse validation or test frames that the training sees too."""
    seen = {structure_key(frame): frame for frame in train.frames}
    for frame in other.frames:
        match = seen.get(structure_key(frame))
        if match is not None:
            raise CompactFFError(
                f"{frame.name}, meant for {purpose}, is the same structure as {match.name} of the training; "
                "remove one of them"
            )


def check_hartree(frames: tuple[Frame, ...], isolated_eV: dict[str, float], by_teacher: bool = False) -> None:
    """Refuse energies that are those of atoms in Hartree, unless they are known to be in eV.

    Energies of valence electrons in eV may be the same number: hexanethiol has -632.2 eV by GFN2-xTB, its
    atoms -632.2 Hartree. Forces do not tell these apart, as theirs may be in Hartree/A.
    """
    advice = "multiply energies by 27.2114, or set checks.units to false if they are right"
    hydrogen = isolated_eV.get("H")
    if hydrogen is not None and abs(hydrogen + 0.5) < 0.02:
        raise CompactFFError(f"the isolated H has {hydrogen:.4f}: likely Hartree, expected eV; {advice}")
    if by_teacher or not are_like_hartree(frames):
        return
    sum_hartree = -sum(ATOMS_HARTREE[z - 1] for z in frames[0].structure.numbers)
    raise CompactFFError(
        f"the energies are likely in Hartree, expected eV: {frames[0].name} has {frames[0].energy_eV:.4f}, "
        f"the sum of its atoms' total energies is {sum_hartree:.4f} Hartree; {advice}"
    )


def are_like_hartree(frames: tuple[Frame, ...]) -> bool:
    """Whether every energy is the sum of its atoms' total energies in Hartree, to 2%."""
    for frame in frames:
        numbers = frame.structure.numbers
        if numbers.max() > len(ATOMS_HARTREE) or numbers.max() < 3:
            return False
        expected = -sum(ATOMS_HARTREE[z - 1] for z in numbers)
        if abs(frame.energy_eV / expected - 1) > 0.02:
            return False
    return True


def check_work(frames: tuple[Frame, ...]) -> None:
    """Refuse energy differences of near frames that other units would explain."""
    slope, pair = work_slope(frames)
    for message, ratio in WRONG_RATIOS.items():
        if _is_near(slope, ratio):
            raise CompactFFError(
                f"energies differ by {slope:.4g} times the work of the forces between near frames, such as "
                f"{pair[0].name} and {pair[1].name}; expected 1. Likely {message}, or set checks.units to "
                "false"
            )


def _is_near(slope: float, ratio: float) -> bool:
    return 0.85 < slope / ratio < 1.15


def work_slope(frames: tuple[Frame, ...]) -> tuple[float, tuple[Frame, Frame]]:
    """Energy differences of near frames over the work of their forces, NaN where none are near; and a pair.

    Over a short way ``E_b - E_a = -(F_a + F_b) (x_b - x_a) / 2``; the slope between both tells the units. In
    different cells the stress does work, too, so that pairs are of frames in the same cell.
    """
    differences, works, pair = _near_pairs(frames)
    if len(works) < 20 or not works.any():
        return float("nan"), pair
    slope = float(works @ differences / (works @ works))
    correlation = float(works @ differences / np.sqrt((works @ works) * (differences @ differences) + 1e-300))
    return slope if abs(correlation) >= 0.95 else float("nan"), pair


def _near_pairs(frames: tuple[Frame, ...]) -> tuple[np.ndarray, np.ndarray, tuple[Frame, Frame]]:
    """Energy differences and works between the nearest 200 pairs of one molecule, or one crystal's cells."""
    chosen, cell = _in_shared_cells(frames)
    if not chosen:
        return np.zeros(0), np.zeros(0), (frames[0], frames[0])
    x = np.array([frame.structure.positions_A.ravel() for frame in chosen])
    f = np.array([frame.forces_eV_per_A.ravel() for frame in chosen])
    e = np.array([frame.energy_eV for frame in chosen])
    centred = x - x.mean(0)
    square = (centred**2).sum(1)
    distance = square[:, None] + square - 2 * centred @ centred.T
    distance[cell[:, None] != cell] = np.inf
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    i = np.argsort(distance.min(1), kind="stable")[:200]
    i = i[np.isfinite(distance[i, nearest[i]])]
    j = nearest[i]
    works = -0.5 * ((f[i] + f[j]) * (x[j] - x[i])).sum(1)
    pair = (chosen[i[0]], chosen[j[0]]) if len(i) else (chosen[0], chosen[0])
    return e[j] - e[i], works, pair


def _in_shared_cells(frames: tuple[Frame, ...], most: int = 1000) -> tuple[list[Frame], np.ndarray]:
    """Frames of the most frequent molecule whose periodic cell (to 1e-4 A) others have, and its number."""
    cells = [_cell_of(frame) for frame in frames]
    often = Counter(cells)
    shared = [k for k, cell in enumerate(cells) if often[cell] > 1]
    kinds = Counter(cells[k][0] for k in shared)
    if not kinds:
        return [], np.zeros(0)
    kind = kinds.most_common(1)[0][0]
    chosen = [k for k in shared if cells[k][0] == kind][:most]
    number = {cell: place for place, cell in enumerate(often)}
    return [frames[k] for k in chosen], np.array([number[cells[k]] for k in chosen])


def _cell_of(frame: Frame) -> tuple[bytes, bytes]:
    """Equal for the same atoms in the same cell; directions without a period have none."""
    structure = frame.structure
    rounded = np.round(structure.cell_A * structure.pbc[:, None], 4) + 0.0
    return structure.numbers.tobytes(), rounded.tobytes()


def check_isolated_agree(parts: Sequence[LabelledSet], given_eV: Container[str] = ()) -> None:
    """Refuse isolated atoms of one element whose energies differ, and energies that are not finite.

    Raises
    ------
    CompactFFError
        Naming both frames; not for elements whose energies are given beside the frames.
    """
    first: dict[str, tuple[float, str]] = {}
    for symbol, energy, name in (told for part in parts for told in part.isolated_frames):
        if symbol in given_eV:
            continue
        if not np.isfinite(energy):
            raise CompactFFError(
                f"{name}: the energy of the isolated {symbol} is {energy}; label it again or drop the frame"
            )
        known, where = first.setdefault(symbol, (energy, name))
        if abs(energy - known) > SAME_ISOLATED_EV:
            raise CompactFFError(
                f"{name} has {energy:.4f} eV for the isolated {symbol}, {where} has {known:.4f}; allowed are "
                f"differences of {SAME_ISOLATED_EV:g} eV. Drop one, or give the right energy with "
                "isolated_energies_eV"
            )


def check_isolated(frames: tuple[Frame, ...], isolated_eV: dict[str, float]) -> None:
    """Refuse energies of isolated atoms on another scale than those of the frames.

    Raises
    ------
    CompactFFError
        If one is not finite, an element of the frames has none while others do, or the frames are more than
        20 eV an atom away from the sum of their isolated atoms.
    """
    if not isolated_eV:
        return
    for symbol, energy in isolated_eV.items():
        if not np.isfinite(energy):
            raise CompactFFError(f"the energy of the isolated {symbol} is {energy}; expected a number in eV")
    elements = LabelledSet(frames).elements
    missing = [symbol for symbol in elements if symbol not in isolated_eV]
    if missing:
        raise CompactFFError(
            f"isolated-atom energies are given for {', '.join(isolated_eV)}, not for {', '.join(missing)}; "
            "give one for every element of the data, or none"
        )
    counts = composition(frames, elements)
    sums = counts @ np.array([isolated_eV[symbol] for symbol in elements])
    binding = (np.array([frame.energy_eV for frame in frames]) - sums) / counts.sum(1)
    worst = int(np.abs(binding).argmax())
    if abs(binding[worst]) > ISOLATED_LIMIT_EV_PER_ATOM:
        raise CompactFFError(
            f"{frames[worst].name} is {binding[worst]:.4g} eV per atom away from its isolated atoms; "
            f"allowed are {ISOLATED_LIMIT_EV_PER_ATOM:g}. Are they in the same unit, by the same method?"
        )


def check_linear(frames: tuple[Frame, ...], elements: list[str], limit_eV_per_atom: float) -> None:
    """Refuse energies far from linear in composition: another method, unit, charge, or a failed run."""
    counts = composition(frames, elements)
    energies = np.array([frame.energy_eV for frame in frames])
    residual = (energies - counts @ fit_energy_shifts(frames, elements)) / counts.sum(1)
    deviation = np.abs(residual - np.median(residual))
    allowed = max(limit_eV_per_atom, USUAL_DEVIATIONS * 1.4826 * float(np.median(deviation)))
    worst = int(deviation.argmax())
    if deviation[worst] > allowed:
        raise CompactFFError(
            f"{frames[worst].name}: its energy {energies[worst]:.4f} eV is {deviation[worst]:.3g} eV per "
            f"atom away from what its composition says, allowed are {allowed:.3g}. Drop it if it is from "
            "another method or its calculation failed, or raise checks.max_energy_deviation_eV_per_atom"
        )
