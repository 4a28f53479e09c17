"""How far the atoms of a periodic system go: mean squared displacements and diffusion of each element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from compactff_md.validation import pictures
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.run import Run

BLUNT = "the runs are too short to tell half of it"
FEWEST_REPLICAS = 4
# Half of the teacher's diffusion coefficient is not less than this, in cm²/s: 1 A in 17 ps.
SLOWEST_CM2_PER_S = 1e-7
# The lag of the displacement that is judged, as a part of the run: four runs tell it to some ten percent.
JUDGED_LAG = 0.25
SHOWN_LAG = 0.5


def compare_transport(campaign: Campaign, teacher: Sequence[Run], student: Sequence[Run]) -> Section:
    """Displacements and diffusion coefficients of each element, by the teacher and by the student."""
    findings: list[Finding] = []
    shown = {}
    frames = min(len(run) for run in (*teacher, *student))
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


def too_blunt(teacher_cm2_per_s: float, error_cm2_per_s: float) -> bool:
    """Whether half of the teacher's coefficient, or the least, would be lost in the error of a difference."""
    return 3 * error_cm2_per_s > max(0.5 * abs(teacher_cm2_per_s), SLOWEST_CM2_PER_S)


def standard_error(a: np.ndarray, b: np.ndarray) -> float:
    """Of the difference of two means over replicas, shapes (R,) and (S,); infinite where one has only one."""
    if min(len(a), len(b)) < 2:
        return np.inf
    return float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))


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
    blunt = 3 * standard_error(a, b) > 0.5
    return _judged(campaign, "dynamics.msd", a, b, blunt, note, subject)


def _diffusion(campaign: Campaign, teacher: np.ndarray, student: np.ndarray, subject: str) -> Finding:
    error = standard_error(teacher, student)
    told = f", error {error:.2g}" if np.isfinite(error) else ""
    note = f"student {student.mean():.3g}, teacher {teacher.mean():.3g}{told} cm²/s"
    blunt = too_blunt(float(teacher.mean()), error)
    return _judged(campaign, "dynamics.diffusion", teacher, student, blunt, note, subject)


def _judged(
    campaign: Campaign,
    key: str,
    a: np.ndarray,
    b: np.ndarray,
    blunt: bool,
    note: str,
    subject: str,
) -> Finding:
    """A difference of means over replicas, shapes (R,) and (S,), in units of its standard error.

    That of a normal distribution with the significance of Welch's t: few replicas tell their error badly.
    What passes must be told apart from half of the teacher's value, or is ``blunt``.
    """
    if min(len(a), len(b)) < FEWEST_REPLICAS:
        note += f"; fewer than {FEWEST_REPLICAS} replicas"
        return campaign.judge(key, None, "", note=note, subject=subject)
    value = float(stats.norm.isf(stats.ttest_ind(a, b, equal_var=False).pvalue / 2))
    limit = campaign.thresholds.get(key)
    undecided = blunt and limit is not None and limit.allows(value)
    if undecided:
        note += f"; {BLUNT}"
    return campaign.judge(key, value, "errors", note=note, subject=subject, undecided=undecided)
