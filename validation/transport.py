"""How far the atoms of a periodic system go: mean squared displacements and diffusion of each element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from compactff_md.validation import pictures
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.run import Run

KEYS = ("dynamics.msd", "dynamics.diffusion")
LEVEL = 0.95
FEWEST_REPLICAS = 4
FEWEST_FRAMES = 20
# Differences of diffusion coefficients are parts of the teacher's, or of this where it is less: 1 A in 17 ps.
SLOWEST_CM2_PER_S = 1e-7
# The lag of the displacement that is judged, as a part of the run: four runs tell it to some ten percent.
JUDGED_LAG = 0.25
SHOWN_LAG = 0.5


def compare_transport(campaign: Campaign, teacher: Sequence[Run], student: Sequence[Run]) -> Section:
    """Displacements and diffusion coefficients of each element, by the teacher and by the student."""
    findings: list[Finding] = []
    shown = {}
    frames = min(len(run) for run in (*teacher, *student))
    if frames < FEWEST_FRAMES or len(campaign.structure) < 2:
        short = f"a run has {frames} frames; {FEWEST_FRAMES} are needed, and two atoms"
        return Section(tuple(campaign.judge(key, None, "", note=short) for key in KEYS))
    lags_ps = teacher[0].time_ps[:frames] - teacher[0].time_ps[0]
    judged, last = max(1, round(JUDGED_LAG * (frames - 1))), max(2, round(SHOWN_LAG * (frames - 1)) + 1)
    for z in np.unique(campaign.structure.numbers):
        atoms = campaign.structure.numbers == z
        subject = campaign.structure.symbols[int(np.argmax(atoms))]
        a, b = (np.array([displacements_A2(r, atoms)[:frames] for r in runs]) for runs in (teacher, student))
        findings.append(_displacement(campaign, a[:, judged], b[:, judged], float(lags_ps[judged]), subject))
        shown[subject] = (lags_ps[:last], a[:, :last], b[:, :last])
        a, b = (np.array([diffusion_cm2_per_s(r, atoms) for r in runs]) for runs in (teacher, student))
        findings.append(_diffusion(campaign, a, b, subject))
    figure = pictures.distributions(shown, "lag (ps)", ("teacher", "student"), "Å²")
    return Section(
        tuple(findings), {}, {"mean squared displacement": campaign.picture("dynamics-msd", figure)}
    )


def mean_squared_displacement(positions_A: np.ndarray) -> np.ndarray:
    """Of unwrapped positions (F, N, 3) over all origins and atoms, in A^2, shape (F,); by FFT.

    Calandrini et al., Collection SFN 12, 201 (2011), section 4.2.
    """
    frames = len(positions_A)
    squares = (positions_A**2).sum(2)  # (F, N)
    power = np.abs(np.fft.fft(positions_A, 2 * frames, axis=0)) ** 2
    correlation = np.fft.ifft(power, axis=0).real[:frames].sum(2)
    counts = (frames - np.arange(frames))[:, None]
    head = np.vstack([np.zeros((1, squares.shape[1])), np.cumsum(squares, 0)])
    lags = np.arange(frames)
    sums = (head[frames] - head[lags]) + head[frames - lags]
    return ((sums - 2 * correlation) / counts).mean(1)


def displacements_A2(run: Run, atoms: np.ndarray) -> np.ndarray:
    """Mean squared displacement of some atoms (a mask, shape (N,)) about the centre of mass, shape (F,)."""
    drift = np.average(run.positions_A, axis=1, weights=run.masses_Da)
    return mean_squared_displacement(run.positions_A[:, atoms] - drift[:, None])


def diffusion_cm2_per_s(run: Run, atoms: np.ndarray) -> float:
    """Einstein's slope of the mean squared displacement, between a tenth and a half of the run."""
    msd = displacements_A2(run, atoms)
    part = slice(max(1, len(msd) // 10), max(3, len(msd) // 2))
    slope = float(np.polyfit(run.time_ps[part], msd[part], 1)[0])
    return slope / 6.0 * 1e-4  # A^2/ps is 1e-4 cm^2/s


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean of ``b`` less that of ``a``, of replicas (R,) and (S,), and its 95 % interval by Welch's t.

    Without an end where one of them has fewer than two.
    """
    value = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return value, -np.inf, np.inf
    interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval(LEVEL)
    low, high = np.nan_to_num([interval.low, interval.high], nan=value)  # without any spread
    return value, float(low), float(high)


def scale_of(teacher_cm2_per_s: float) -> float:
    """What a difference of diffusion coefficients is a part of."""
    return max(abs(teacher_cm2_per_s), SLOWEST_CM2_PER_S)


def _displacement(
    campaign: Campaign, teacher: np.ndarray, student: np.ndarray, lag_ps: float, subject: str
) -> Finding:
    """How far an element comes in a quarter of a run; ``teacher`` and ``student`` in A^2, of each replica."""
    note = (
        f"student {student.mean():.3g}, teacher {teacher.mean():.3g} ({teacher.min():.3g} to "
        f"{teacher.max():.3g}) Å² in {lag_ps:.3g} ps"
    )
    # Their spread grows with them: that of their logarithms does not.
    a, b = (np.log(np.maximum(values, 1e-9)) for values in (teacher, student))
    ratio, *interval = np.exp(difference(a, b)).tolist()
    return _judged(campaign, KEYS[0], ratio, interval, min(len(a), len(b)), note, subject)


def _diffusion(campaign: Campaign, teacher: np.ndarray, student: np.ndarray, subject: str) -> Finding:
    note = f"student {student.mean():.3g}, teacher {teacher.mean():.3g} cm²/s"
    scale = scale_of(float(teacher.mean()))
    value, *interval = (x / scale for x in difference(teacher, student))
    return _judged(campaign, KEYS[1], value, interval, min(len(teacher), len(student)), note, subject)


def _judged(
    campaign: Campaign,
    key: str,
    value: float,
    interval: Sequence[float],
    replicas: int,
    note: str,
    subject: str,
) -> Finding:
    few = replicas < FEWEST_REPLICAS
    if few:
        note += f"; fewer than {FEWEST_REPLICAS} replicas"
    low, high = interval
    return campaign.judge(key, value, "", interval=(low, high), note=note, subject=subject, undecided=few)
