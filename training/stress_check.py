"""Whether stresses have the sign and unit that energies of near frames in different cells ask for."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from compactff_md.errors import CompactFFError
from compactff_md.training.frames import Frame
from compactff_md.units import EV_PER_A3_TO_GPA

# What the energies say of a stress, over the stress, where that is not in eV/A^3 with ASE's sign.
WRONG_RATIOS = {
    "in eV/A^3 with the other sign; multiply them by -1": -1.0,
    "in GPa; divide them by 160.218": 1 / EV_PER_A3_TO_GPA,
    "in GPa with the other sign; divide them by -160.218": -1 / EV_PER_A3_TO_GPA,
    "in kbar; divide them by 1602.18": 0.1 / EV_PER_A3_TO_GPA,
    "in kbar with the other sign, as VASP prints them; divide them by -1602.18": -0.1 / EV_PER_A3_TO_GPA,
}
NEAR = 1.6  # a factor, either way; frames are not infinitely near
FEWEST_PAIRS, MOST_PAIRS = 10, 200
MOST_FRAMES = 1000  # of the same atoms
LEAST_CORRELATION = 0.9
NEIGHBOURS = 2  # of each frame
SAME_CELL_A = 1e-4
# What a student leaves of the variance of the stress: that much at least, and so many times what it leaves of
# the forces'. Students of right labels leave a few hundredths.
MUCH_LEFT, FAR_WORSE = 0.2, 5.0
CONVENTION = "in eV/A^3, positive where the solid is stretched (virials: in eV, of the other sign)"


def check_stress(frames: tuple[Frame, ...]) -> None:
    """Refuse stresses that the energies say to have another sign or unit.

    Raises
    ------
    CompactFFError
        Naming what the stresses are likely in.
    """
    ratio = stress_ratio(frames)
    if likely := likely_unit(ratio):
        raise CompactFFError(
            f"energies differ by {ratio:.4g} times the work of the stress between near frames of "
            f"different cells; expected 1 for stresses {CONVENTION}. They are likely {likely}, or set "
            "checks.units to false"
        )


def likely_unit(ratio: float) -> str:
    """What stresses are in whose work is that much smaller than energies say; empty if right or unclear."""
    near = [words for words, wrong in WRONG_RATIOS.items() if 1 / NEAR < ratio / wrong < NEAR]
    return near[0] if near else ""


def is_doubtful(errors: dict[str, Any]) -> bool:
    """Whether the stress is far worse than the forces, as where its labels have another sign, unit or origin.

    ``errors`` is one :func:`compactff_md.training.metrics.summary`, in which an R2 may be None.
    """
    forces, stress = errors["forces"]["r2"], errors.get("stress", {}).get("r2")
    return None not in (forces, stress) and 1 - stress > max(MUCH_LEFT, FAR_WORSE * (1 - forces))


def stress_ratio(frames: tuple[Frame, ...]) -> float:
    """Energy differences without the work of the forces over the work of the stress; NaN where unclear.

    Over a short way ``E_b - E_a`` is the mean of ``-F dx``, with ``dx`` at a fixed cell, and of ``volume *
    stress * strain`` at both ends. The median over pairs of near frames of the same atoms counts where the
    ranks of both sides agree: in molecular dynamics at constant pressure, say, forces leave more than that.
    """
    kinds = defaultdict(list)
    for frame in frames:
        if frame.stress_eV_per_A3 is not None:
            kinds[frame.structure.numbers.tobytes()].append(frame)
    found = [_strained_pairs(kind[:MOST_FRAMES]) for kind in kinds.values() if len(kind) > 1]
    if not found:
        return float("nan")
    distances, differences, works = np.concatenate(found, axis=1)
    nearest = [pair for pair in np.argsort(distances, kind="stable") if works[pair] != 0][:MOST_PAIRS]
    if len(nearest) < FEWEST_PAIRS:
        return float("nan")
    differences, works = differences[nearest], works[nearest]
    ranks = [values.argsort().argsort() for values in (differences, works)]
    clear = abs(np.corrcoef(ranks)[0, 1]) >= LEAST_CORRELATION
    return float(np.median(differences / works)) if clear else float("nan")


def _strained_pairs(frames: list[Frame]) -> np.ndarray:
    """Distance, energy difference without the work of the forces, and work of the stress; shape (3, P).

    A pair is a frame and one of the nearest with another cell, by positions in the mean cell and by cells.
    """
    cells = np.array([frame.structure.cell_A for frame in frames])  # (F, 3, 3)
    scaled = np.array([frame.structure.positions_A for frame in frames]) @ np.linalg.inv(cells)
    positions = _nearest_image(scaled - scaled[0]) @ cells.mean(0)
    apart = _squared_distances(cells)
    squares = _squared_distances(positions) / len(frames[0]) + apart
    squares[apart < SAME_CELL_A**2] = np.inf
    nearest = squares.argsort(1)[:, :NEIGHBOURS]
    pairs = {(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist()) for j in row if i != j}
    i, j = np.array(sorted(pairs)).T
    i, j = np.stack([i, j])[:, np.isfinite(squares[i, j])]

    energies = np.array([frame.energy_eV for frame in frames])
    forces = np.array([frame.forces_eV_per_A for frame in frames])
    virials = np.array([_virial(frame) for frame in frames])
    middle = 0.5 * (cells[i] + cells[j])
    strain = np.linalg.inv(middle) @ (cells[j] - cells[i])
    steps = _nearest_image(scaled[j] - scaled[i]) @ middle
    of_forces = -0.5 * ((forces[i] + forces[j]) * steps).sum((1, 2))
    of_stress = 0.5 * ((virials[i] + virials[j]) * strain).sum((1, 2))
    return np.stack([squares[i, j], energies[j] - energies[i] - of_forces, of_stress])


def _virial(frame: Frame) -> np.ndarray:
    assert frame.stress_eV_per_A3 is not None
    return frame.stress_eV_per_A3 * frame.structure.volume_A3


def _nearest_image(scaled: np.ndarray) -> np.ndarray:
    return scaled - np.round(scaled)


def _squared_distances(values: np.ndarray) -> np.ndarray:
    """Between all pairs of F arrays, shape (F, F)."""
    flat = values.reshape(len(values), -1)
    centred = flat - flat.mean(0)
    squares = (centred**2).sum(1)
    return squares[:, None] + squares - 2 * centred @ centred.T
