"""Forces, energies and stress against the teacher: on its own frames and, what counts, on the student's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.units import EV_PER_A3_TO_GPA
from compactff_md.validation import pictures
from compactff_md.validation.campaign import HOTTER, Campaign, Labels
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.statistics import bootstrap_interval

# Fewer frames than this carry no interval.
FEWEST_FRAMES = 8


def rmse(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Over all components, in meV/A."""
    return 1e3 * float(np.sqrt(((predicted - reference) ** 2).mean()))


def mae(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Over all components, in meV/A."""
    return 1e3 * float(np.abs(predicted - reference).mean())


def r2(reference: np.ndarray, predicted: np.ndarray) -> float:
    """One minus squared error over variance, of all components."""
    variance = float(((reference - reference.mean()) ** 2).mean())
    return 1.0 - float(((predicted - reference) ** 2).mean()) / variance if variance > 0 else float("nan")


def cosine(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Mean cosine between forces of shape (..., 3), each weighted by the teacher's magnitude."""
    a, b = reference.reshape(-1, 3), predicted.reshape(-1, 3)
    length, other = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    both = (length > 0) & (other > 0)
    if not both.any():
        return float("nan")
    cosines = (a * b).sum(1)[both] / (length * other)[both]
    return float(np.average(cosines, weights=length[both]))


def angle_deg(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Median angle between forces of shape (..., 3) in degrees."""
    a, b = reference.reshape(-1, 3), predicted.reshape(-1, 3)
    across = np.linalg.norm(np.cross(a, b), axis=1)  # the arc cosine of near 1 would lose half the digits
    return float(np.degrees(np.median(np.arctan2(across, (a * b).sum(1)))))


def magnitude_ratio(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Slope of the magnitudes through the origin: 1.001 where all forces are 0.1 % too large."""
    a, b = np.linalg.norm(reference, axis=-1).ravel(), np.linalg.norm(predicted, axis=-1).ravel()
    return float(a @ b / (a @ a)) if a.any() else float("nan")


Measure = Callable[[np.ndarray, np.ndarray], float]
MEASURES: dict[str, tuple[Measure, str]] = {
    "rmse": (rmse, "meV/Å"),
    "mae": (mae, "meV/Å"),
    "r2": (r2, ""),
    "cosine": (cosine, ""),
    "angle": (angle_deg, "°"),
    "magnitude": (magnitude_ratio, ""),
}


def run(campaign: Campaign) -> Section:
    """The section."""
    sets = {"teacher_frames": _teacher_frames(campaign)}
    s = campaign.settings
    kelvins = {f"{factor * s.temperature_K:g} K": factor for factor in (1.0, HOTTER)}
    findings: list[Finding] = []
    for subject, factor in kelvins.items():
        sets[f"own_frames {subject}"], labelled = _own_frames(campaign, factor, subject)
        findings.append(labelled)
    for name, (structures, teacher, student) in sets.items():
        key, _, subject = name.partition(" ")
        findings += _force_findings(campaign, f"forces.{key}", subject, teacher, student)
        findings += _energy_findings(campaign, f"energies.{key}", subject, structures, teacher, student)
        if key == "own_frames":  # the teacher's dynamics keep no stress
            findings += _stress_findings(campaign, f"stress.{key}", subject, teacher, student)
    findings.append(_leaves_home(campaign, findings, next(iter(kelvins))))
    own = sets[f"own_frames {next(iter(kelvins))}"]
    return Section(tuple(findings), _details(sets), _pictures(campaign, sets, own))


def _teacher_frames(campaign: Campaign) -> tuple[list[Structure], Labels, Labels]:
    """Frames of the teacher's replicas, with the forces that moved it."""
    runs = campaign.teacher_frames()
    share = max(2, campaign.settings.labelled_frames // len(runs))
    structures, energies, forces = [], [], []
    for run_ in runs:
        chosen = np.unique(np.linspace(0, len(run_) - 1, min(share, len(run_))).astype(int))
        assert run_.forces_eV_per_A is not None
        structures += [run_.structure(int(k)) for k in chosen]
        energies.append(run_.potential_eV[chosen])
        forces.append(run_.forces_eV_per_A[chosen])
    nothing = np.full((len(structures), 3, 3), np.nan)
    teacher = Labels(np.concatenate(energies), np.concatenate(forces), nothing)
    return (
        structures,
        teacher,
        campaign.labels("frames-of-teacher-student", structures, campaign.calculator()),
    )


def _own_frames(
    campaign: Campaign, factor: float, subject: str
) -> tuple[tuple[list[Structure], Labels, Labels], Finding]:
    """Frames of the student's own dynamics that both have labels of, and how many these are."""
    runs = campaign.hot_runs(factor)
    share = max(2, campaign.settings.labelled_frames // len(runs))
    structures = [structure for run_ in runs for structure in run_.structures(share)]
    name = f"own-frames-{factor:g}T"
    teacher = campaign.labels(f"{name}-teacher", structures, campaign.teacher_engine().calculator)
    student = campaign.labels(f"{name}-student", structures, campaign.calculator())
    sound = _sound(structures, teacher, student)
    return sound, _labelled(campaign, len(sound[0]), len(structures), subject)


def _sound(
    structures: list[Structure], teacher: Labels, student: Labels
) -> tuple[list[Structure], Labels, Labels]:
    """Frames on which both have numbers: a run that exploded may end where neither has.

    Raises
    ------
    CompactFFError
        If there is none.
    """
    good = np.isfinite(teacher.energies_eV) & np.isfinite(student.energies_eV)
    if not good.any():
        raise CompactFFError("no frame of the student's dynamics has energies of both teacher and student")
    parts = [
        Labels(x.energies_eV[good], x.forces_eV_per_A[good], x.stresses_eV_per_A3[good])
        for x in (teacher, student)
    ]
    return [s for s, kept in zip(structures, good, strict=True) if kept], parts[0], parts[1]


def _labelled(campaign: Campaign, found: int, asked: int, subject: str) -> Finding:
    """Frames without labels are left out of all errors, and are likely to have had the largest."""
    note = f"{asked - found} of {asked} frames have no energy and are left out" if found < asked else ""
    key, share = "forces.own_frames.labelled", found / asked
    return campaign.judge(key, share, "", note=note, subject=subject, undecided=found < asked)


def _force_findings(
    campaign: Campaign, key: str, subject: str, teacher: Labels, student: Labels
) -> list[Finding]:
    a, b = teacher.forces_eV_per_A, student.forces_eV_per_A
    both = np.stack([a, b], axis=1)  # (F, 2, N, 3)
    found = []
    for name, (measure, unit) in MEASURES.items():
        interval = None
        if len(a) >= FEWEST_FRAMES:
            seed = campaign.seed("forces")
            interval = bootstrap_interval(both, _of_pairs(measure), seed, 200)
        note = "" if interval else f"{len(a)} frames are too few for an interval"
        value = measure(a, b)
        found.append(
            campaign.judge(f"{key}.{name}", value, unit, interval=interval, note=note, subject=subject)
        )
    return found


def _of_pairs(measure: Measure) -> Callable[[np.ndarray], float]:
    """A measure of teacher and student, as one of both stacked along the second axis."""
    return lambda x: measure(x[:, 0], x[:, 1])


def _energy_findings(
    campaign: Campaign, key: str, subject: str, structures: list[Structure], teacher: Labels, student: Labels
) -> list[Finding]:
    """Energies per atom, up to the one constant that all frames of the same atoms share."""
    error = 1e3 * (student.energies_eV - teacher.energies_eV) / len(structures[0])
    interval = None
    if len(error) >= FEWEST_FRAMES:
        interval = bootstrap_interval(error, lambda x: float(x.std()), campaign.seed("energies"))
    note = f"the constant is {error.mean():.4g} meV/atom"
    value = float(error.std())
    return [campaign.judge(f"{key}.rmse", value, "meV/atom", interval=interval, note=note, subject=subject)]


def _stress_findings(
    campaign: Campaign, key: str, subject: str, teacher: Labels, student: Labels
) -> list[Finding]:
    a, b = teacher.stresses_eV_per_A3, student.stresses_eV_per_A3
    if not np.isfinite(b).any():
        return []  # no cell
    untold = int(np.isnan(a).any(axis=(1, 2)).sum())
    if untold:
        note = f"the teacher has no stress of {untold} of {len(a)} frames"
        return [campaign.judge(f"{key}.rmse", None, "GPa", note=note, subject=subject)]
    error = EV_PER_A3_TO_GPA * (b - a)
    interval = None
    if len(error) >= FEWEST_FRAMES:
        interval = bootstrap_interval(error, lambda x: float(np.sqrt((x**2).mean())), campaign.seed("stress"))
    value = float(np.sqrt((error**2).mean()))
    return [campaign.judge(f"{key}.rmse", value, "GPa", interval=interval, subject=subject)]


def _leaves_home(campaign: Campaign, findings: list[Finding], subject: str) -> Finding:
    """How much worse the forces are where the student goes than where the teacher goes."""
    by_name = {finding.name: finding for finding in findings}
    home = by_name["forces.teacher_frames.rmse"].value
    own = by_name[f"forces.own_frames.rmse [{subject}]"].value
    ratio = own / home if own is not None and home else None
    return campaign.judge("forces.own_frames.ratio", ratio, "")


def _details(sets: dict[str, tuple[list[Structure], Labels, Labels]]) -> dict[str, Any]:
    """Errors by element, of each set."""
    table: dict[str, Any] = {}
    for name, (structures, teacher, student) in sets.items():
        numbers = structures[0].numbers
        table[name] = {
            chemical_symbols[z]: {
                measure: function(
                    teacher.forces_eV_per_A[:, numbers == z], student.forces_eV_per_A[:, numbers == z]
                )
                for measure, (function, _) in MEASURES.items()
            }
            for z in np.unique(numbers)
        } | {"frames": len(structures)}
    return {"forces by element": table}


def _pictures(
    campaign: Campaign,
    sets: dict[str, tuple[list[Structure], Labels, Labels]],
    own: tuple[list[Structure], Labels, Labels],
) -> dict[str, str]:
    pairs = {name: (a.forces_eV_per_A, b.forces_eV_per_A) for name, (_, a, b) in sets.items()}
    structures, teacher, student = own
    error = 1e3 * np.linalg.norm(student.forces_eV_per_A - teacher.forces_eV_per_A, axis=2)  # (F, N)
    atoms = pictures.errors_on_structure(structures[0], error.mean(0))
    time = pictures.errors_over_time(np.sqrt((error**2).mean(1) / 3), len(campaign.hot_runs(1.0)))
    return {
        "parity of forces": campaign.picture("forces-parity", pictures.parity(pairs)),
        "error of each atom on the student's own frames": campaign.picture("forces-atoms", atoms),
        "error along the student's own runs": campaign.picture("forces-time", time),
    }
