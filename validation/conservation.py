"""Whether the total energy is conserved: its drift, its fluctuation, and the law of the square timestep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compactff_md.units import KB_EV_PER_K
from compactff_md.validation import pictures
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Finding, Section, failed
from compactff_md.validation.run import Run
from compactff_md.validation.statistics import (
    Slope,
    equilibrated_from,
    has_trend,
    independent_blocks,
    robust_slope,
)
from compactff_md.validation.task import Task

# A run of which less than this is stationary carries no verdict.
LEAST_STATIONARY = 0.5
FEWEST_FRAMES = 40
# Energy that a run gains shows in the kinetic energy, about half of it: that is no equilibration. In one
# the kinetic energy changes by far more than the total.
EXPLAINED = 0.5
# Frames of the short runs are this far apart: the fluctuation is that of the fastest bonds.
LAW_FRAME_FS = 1.0


@dataclass(frozen=True)
class Conservation:
    """What a run at constant energy shows.

    Attributes
    ----------
    drift_meV_per_atom_ps
        Of the total energy, with its interval.
    drift_kT_per_ns_dof
        The same over kT and the degrees of freedom, per ns.
    fluctuation_meV_per_atom
        Standard deviation of the total energy about its drift.
    ratio
        Of that to the standard deviation of the kinetic energy.
    stationary
        False where the kinetic energy drifts by more than the total energy explains: the run is not
        equilibrated, and its drift no drift.
    start
        Index of the first frame that was used.
    """

    drift_meV_per_atom_ps: Slope
    drift_kT_per_ns_dof: float
    fluctuation_meV_per_atom: float
    ratio: float
    stationary: bool
    start: int


def analyse(run: Run) -> Conservation:
    """Fit the total energy of a run from where its kinetic energy is stationary."""
    start = min(equilibrated_from(run.kinetic_eV), int(LEAST_STATIONARY * len(run)))
    kinetic, total, time_ps = run.kinetic_eV[start:], run.total_eV[start:], run.time_ps[start:]
    n = len(run.numbers)
    blocks = max(8, min(40, independent_blocks(total - np.polyval(np.polyfit(time_ps, total, 1), time_ps))))
    slope = robust_slope(time_ps, 1e3 * total / n, blocks)
    rest = total - slope.value * 1e-3 * n * time_ps
    per_dof = slope.value * n / max(run.dof, 1)  # meV/ps, which is eV/ns
    spread = float(kinetic.std())
    return Conservation(
        slope,
        per_dof / (KB_EV_PER_K * run.temperature_K),
        1e3 * float(rest.std()) / n,
        float(rest.std()) / spread if spread > 0 else float("nan"),
        not has_trend(kinetic) or _explains(slope, robust_slope(time_ps, 1e3 * kinetic / n, blocks)),
        start,
    )


def _explains(total: Slope, kinetic: Slope) -> bool:
    return abs(total.value) > EXPLAINED * abs(kinetic.value)


def exponent(timesteps_fs: np.ndarray, fluctuations: np.ndarray) -> float:
    """Power of the timestep with which the fluctuation grows: 2 where forces are derivatives."""
    return float(np.polyfit(np.log(timesteps_fs), np.log(np.maximum(fluctuations, 1e-12)), 1)[0])


def run(campaign: Campaign) -> Section:
    """The section, for each dtype of the settings."""
    findings: list[Finding] = []
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    pictures_of: dict[str, str] = {}
    for dtype in campaign.settings.dtypes:
        long = _nve(campaign, dtype, campaign.settings.conservation_ps, campaign.settings.timestep_fs)
        findings += drift_findings(campaign, long, dtype)
        shown[f"{long.engine}, {dtype}"] = (long.time_ps, 1e3 * long.total_eV / len(long.numbers))
        law, figure = _law(campaign, dtype)
        findings.append(law)
        if figure is not None:
            pictures_of[f"square law, {dtype}"] = campaign.picture(f"conservation-law-{dtype}", figure)
    energies = campaign.picture("conservation-energy", pictures.energies(shown))
    return Section(tuple(findings), {}, {"total energy at constant energy": energies, **pictures_of})


def drift_findings(campaign: Campaign, run_: Run, subject: str) -> list[Finding]:
    """Drift in both units, fluctuation and stationarity of one run."""
    if len(run_) < FEWEST_FRAMES or run_.failure:
        short = f"{len(run_)} frames; {FEWEST_FRAMES} are needed"
        finding = campaign.judge("conservation.drift", None, "meV/atom/ps", note=short, subject=subject)
        return [failed(finding, run_.failure) if run_.failure else finding]
    found = analyse(run_)
    note = f"frames from {run_.time_ps[found.start]:.2f} ps on"
    if not found.stationary:
        note = "the kinetic energy still drifts: the run is not equilibrated"
    drift = found.drift_meV_per_atom_ps
    return [
        campaign.judge(
            "conservation.drift",
            drift.value,
            "meV/atom/ps",
            interval=(drift.low, drift.high),
            note=note,
            subject=subject,
            undecided=not found.stationary,
        ),
        campaign.judge("conservation.drift_kT", found.drift_kT_per_ns_dof, "kT/ns/dof", subject=subject),
        campaign.judge(
            "conservation.fluctuation", found.fluctuation_meV_per_atom, "meV/atom", subject=subject
        ),
        campaign.judge("conservation.ratio", found.ratio, "", subject=subject),
    ]


def _law(campaign: Campaign, dtype: str) -> tuple[Finding, pictures.Figure | None]:
    """Fluctuations at several timesteps from the same start, over the same time."""
    s = campaign.settings
    runs = [_nve(campaign, dtype, s.law_ps, dt, "law") for dt in s.law_timesteps_fs]
    if any(run_.failure for run_ in runs) or len(runs) < 2:
        reason = next((run_.failure for run_ in runs if run_.failure), "one timestep only")
        return campaign.judge("conservation.exponent", None, "", note=reason, subject=dtype), None
    steps = np.array([run_.timestep_fs for run_ in runs])
    fluctuations = np.array([_fluctuation(run_) for run_ in runs])
    power = exponent(steps, fluctuations)
    figure = pictures.power_law(steps, fluctuations, power)
    return campaign.judge("conservation.exponent", power, "", subject=dtype), figure


def _fluctuation(run_: Run) -> float:
    """In meV/atom, about a straight line: over a short time that is no drift yet."""
    line = np.polyval(np.polyfit(run_.time_ps, run_.total_eV, 1), run_.time_ps)
    return 1e3 * float((run_.total_eV - line).std()) / len(run_.numbers)


def _nve(campaign: Campaign, dtype: str, time_ps: float, timestep_fs: float, name: str = "nve") -> Run:
    s = campaign.settings
    every = max(1, round(LAW_FRAME_FS / timestep_fs)) if name == "law" else s.every(timestep_fs)
    task = Task(
        "nve", s.temperature_K, timestep_fs, s.steps(time_ps, timestep_fs), every, campaign.seed("nve")
    )
    engine = campaign.student_engine(dtype)
    return campaign.run(f"{name}-{dtype}-{timestep_fs:g}fs", engine, task, campaign.start_of_nve())
