"""How long the student's dynamics last, at the temperature of production and above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.geometry import find_mic

from compactff_md.engines.molecules import Molecules
from compactff_md.structure import Structure
from compactff_md.validation import pictures
from compactff_md.validation.campaign import HOTTER, Campaign
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.run import Run
from compactff_md.validation.statistics import proportion_interval, rate_interval

# A bond that differs by more from its length at the start is broken (Fu et al., "Forces are not enough",
# Trans. Mach. Learn. Res. 2023, section 4).
BROKEN_A = 0.5
NONMETALS = [1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54]
# A run that fails at once is taken for one of a femtosecond.
SHORTEST_PS = 1e-3


@dataclass(frozen=True)
class Survival:
    """Of one run: how long it lasted in ps, and why it ended; ``reason`` is empty where it did not."""

    time_ps: float
    reason: str


def survival(run: Run, reference: Structure, molecules: Molecules) -> Survival:
    """Time to the first broken bond, or to where the engine gave up.

    Bonds of endless molecules are not watched: in a crystal nothing tells which distances are bonds.
    """
    last_ps = float(run.time_ps[-1])
    bonds = molecules.bonds[~molecules.endless[molecules.bonds[:, 0]]]
    if len(bonds):
        lengths = bond_lengths(run, bonds)
        initial = _lengths(reference.positions_A, bonds, reference.cell_A, reference.pbc)
        broken = np.abs(lengths - initial) > BROKEN_A  # (F, B)
        frames = np.flatnonzero(broken.any(axis=1))
        if len(frames):
            i, j = bonds[int(np.argmax(broken[frames[0]]))]
            names = [f"{reference.symbols[k]}{k}" for k in (i, j)]
            return Survival(float(run.time_ps[frames[0]]), f"bond {names[0]}-{names[1]} broke")
    return Survival(last_ps, run.failure)


def bond_lengths(run: Run, bonds: np.ndarray) -> np.ndarray:
    """Lengths in A, shape (F, B)."""
    frames = zip(run.positions_A, run.cell_A, strict=True)
    return np.array([_lengths(positions, bonds, cell, run.pbc) for positions, cell in frames])


def run(campaign: Campaign) -> Section:
    """The section."""
    findings: list[Finding] = []
    temperatures: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for factor in (1.0, HOTTER):
        runs = campaign.hot_runs(factor)
        subject = f"{factor * campaign.settings.temperature_K:g} K"
        found = [survival(run_, campaign.structure, campaign.molecules) for run_ in runs]
        findings += survival_findings(campaign, found, subject)
        temperatures[subject] = {
            f"run {k + 1}": (run_.time_ps, run_.kinetic_temperature_K) for k, run_ in enumerate(runs[:6])
        }
    figure = pictures.curves(temperatures, "time (ps)", "temperature (K)")
    return Section(tuple(findings), {}, {"temperature": campaign.picture("stability", figure)})


def survival_findings(campaign: Campaign, found: list[Survival], subject: str) -> list[Finding]:
    """Share of runs that lasted, and the rate of failures with its exact interval."""
    ended = [s for s in found if s.reason]
    exposure_ns = sum(max(s.time_ps, SHORTEST_PS) for s in found) / 1e3
    low, high = proportion_interval(len(found) - len(ended), len(found))
    note = "; ".join(f"after {s.time_ps:.3g} ps: {s.reason}" for s in ended[:3])
    share = f"{len(found)} runs, {1e3 * exposure_ns:.3g} ps together; 95 % interval {low:.2f} to {high:.2f}"
    rate = rate_interval(len(ended), exposure_ns)
    return [
        campaign.judge(
            "stability.survived",
            1.0 - len(ended) / len(found),
            "",
            note=f"{share}. {note}".strip(),
            subject=subject,
        ),
        campaign.judge(
            "stability.failure_rate",
            len(ended) / exposure_ns,
            "1/ns",
            interval=rate,
            note=f"{len(ended)} failures in {1e3 * exposure_ns:.3g} ps",
            subject=subject,
        ),
    ]


def _lengths(positions: np.ndarray, bonds: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    vectors = positions[bonds[:, 1]] - positions[bonds[:, 0]]
    if not pbc.any():
        return np.linalg.norm(vectors, axis=1)
    return find_mic(vectors, cell, pbc)[1]
