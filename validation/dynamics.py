"""How the atoms move: density of vibrational states, harmonic frequencies, diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import units
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_masses
from ase.optimize import BFGS

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.validation import pictures, transport
from compactff_md.validation.campaign import Campaign
from compactff_md.validation.distributions import compare
from compactff_md.validation.outcome import Finding, Section
from compactff_md.validation.run import Run
from compactff_md.validation.task import Tick

# 1/cm of a frequency of 1/fs: 1 / (c in cm/fs).
PER_CM_OF_PER_FS = 1.0 / 2.99792458e-5
BLOCK_FRAMES = 100
# For dynamics that somebody else ran; with a thermostat it is twice the inverse friction.
MEMORY_PS = 5.0
# Shorter pieces have no spectrum to speak of.
FEWEST_FRAMES = 40
# Above the stretching of the fastest bonds whose lightest atom is at most this: H, Ne, any.
FASTEST_PER_CM = {1: 4000.0, 10: 2500.0, 118: 1500.0}
MINIMUM_FMAX_EV_PER_A = 2e-3
MINIMUM_STEPS = 400
HESSIAN_STEP_A = 0.01
# A Hessian by differences needs 6 N evaluations of the teacher.
MOST_ATOMS = 60


def run(campaign: Campaign) -> Section:
    """The section."""
    teacher, student = campaign.teacher_replicas(), campaign.student_replicas()
    memory_ps = 2.0 / campaign.settings.friction_per_ps
    spectra = compare_spectra(campaign, teacher, student, ("teacher", "student"), memory_ps)
    findings, shown = list(spectra.findings), dict(spectra.pictures)
    if len(campaign.structure) <= MOST_ATOMS:
        found, picture = _harmonic(campaign)
        findings += found
        if picture is not None:
            shown["harmonic frequencies"] = campaign.picture("dynamics-harmonic", picture)
    else:
        reason = f"{len(campaign.structure)} atoms; up to {MOST_ATOMS} are done"
        findings.append(campaign.judge("dynamics.harmonic", None, "1/cm", note=reason))
    if campaign.structure.pbc.all():
        moved = transport.compare_transport(campaign, teacher, student)
        findings += moved.findings
        shown |= moved.pictures
    return Section(tuple(findings), {}, shown)


def compare_spectra(
    campaign: Campaign,
    reference: Sequence[Run],
    student: Sequence[Run],
    names: tuple[str, str],
    memory_ps: float = MEMORY_PS,
) -> Section:
    """The densities of vibrational states of two sets of runs; undecided where they cannot be compared.

    ``memory_ps`` is how long a vibration keeps the energy that it has by chance: what is nearer in one run
    is not independent.
    """
    runs = (*reference, *student)
    why = _incomparable(runs)
    if why:
        return Section((campaign.judge("dynamics.vdos", None, "", note=why),))
    length = min(BLOCK_FRAMES, *(len(run_) for run_ in runs))
    theirs, ours = spectra_of(reference, length), spectra_of(student, length)
    a, b = (independent_spectra(side, length, memory_ps)[:, None] for side in (reference, student))
    finding = compare(campaign, "dynamics.vdos", a, b)
    title = "vibrational density of states"
    figure = pictures.distributions(
        {title: (wavenumbers(runs[0], theirs.shape[1]), theirs, ours)}, "1/cm", names
    )
    return Section((finding,), {}, {title: campaign.picture("dynamics-vdos", figure)})


def _incomparable(runs: Sequence[Run]) -> str:
    """Why the spectra of runs cannot be compared; empty where they can."""
    shortest = min(len(run_) for run_ in runs)
    if shortest < FEWEST_FRAMES:
        return f"a run has {shortest} frames; a spectrum needs {FEWEST_FRAMES}"
    spacings = [frame_fs(run_) for run_ in runs]
    if max(spacings) > 1.01 * min(spacings):
        return f"frames are {min(spacings):.4g} fs apart in one run and {max(spacings):.4g} fs in another"
    # Lithium and beryllium are light, and bound as softly as heavy atoms.
    lightest = int(min([z for z in runs[0].numbers if z not in (2, 3, 4)], default=118))
    highest = wavenumbers(runs[0], 2)[-1]
    fastest = next(value for most, value in FASTEST_PER_CM.items() if lightest <= most)
    if highest < fastest:
        return (
            f"frames {spacings[0]:.4g} fs apart tell frequencies up to {highest:.0f} 1/cm, and show higher "
            f"ones, which reach {fastest:.0f}, in the wrong place; record more often"
        )
    return ""


def spectrum(velocities: np.ndarray, masses_Da: np.ndarray) -> np.ndarray:
    """Mass-weighted power spectrum of velocities (F, N, 3) under a Hann window, normalised, shape (X,).

    Without the motion of the whole, which some engines remove and others keep.
    """
    velocities = velocities - np.average(velocities, axis=1, weights=masses_Da)[:, None]
    window = np.hanning(len(velocities))[:, None, None]
    power = np.abs(np.fft.rfft((velocities - velocities.mean(0)) * window, axis=0)) ** 2
    total = (power.sum(2) * masses_Da).sum(1)
    return total / max(float(total.sum()), 1e-300)


def spectra_of(runs: Sequence[Run], length: int) -> np.ndarray:
    """Spectra of all blocks of ``length`` frames, shape (B, X)."""
    return np.array(
        [
            spectrum(run_.velocities_A_per_fs[k * length : (k + 1) * length], run_.masses_Da)
            for run_ in runs
            for k in range(len(run_) // length)
        ]
    )


def independent_spectra(runs: Sequence[Run], length: int, memory_ps: float) -> np.ndarray:
    """Means of successive blocks' spectra over at least ``memory_ps``, or over a whole run, shape (B, X)."""
    found: list[np.ndarray] = []
    for run_ in runs:
        own = spectra_of([run_], length)
        together = max(1, round(memory_ps / (1e-3 * frame_fs(run_) * length)))
        found += [part.mean(0) for part in np.array_split(own, max(1, len(own) // together))]
    return np.array(found)


def wavenumbers(run_: Run, count: int) -> np.ndarray:
    """Axis of a spectrum with ``count`` values, in 1/cm, shape (count,)."""
    return np.linspace(0.0, 0.5 / frame_fs(run_), count) * PER_CM_OF_PER_FS


def frame_fs(run_: Run) -> float:
    """Time between the first two frames."""
    return 1e3 * float(run_.time_ps[1] - run_.time_ps[0])


def minimum(structure: Structure, calculator: BaseCalculator, tick: Tick | None = None) -> Structure:
    """The nearest minimum in a fixed cell; ``tick`` is told how many steps are done.

    Raises
    ------
    CompactFFError
        If 400 steps do not reach it.
    """
    atoms = structure.to_ase()
    atoms.calc = calculator
    optimiser = BFGS(atoms, logfile=None)
    if tick is not None:
        optimiser.attach(lambda: tick(optimiser.nsteps))
    if not optimiser.run(fmax=MINIMUM_FMAX_EV_PER_A, steps=MINIMUM_STEPS):
        worst = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        raise CompactFFError(
            f"no minimum within {MINIMUM_STEPS} steps; the largest force is {worst:.3g} eV/A"
        )
    return Structure.from_ase(atoms)


def harmonic_frequencies(
    structure: Structure, calculator: BaseCalculator, tick: Tick | None = None
) -> np.ndarray:
    """Wavenumbers in 1/cm, sorted, shape (3N,); imaginary ones are negative.

    Of the mass-weighted Hessian by central differences of forces with 0.01 A; ``tick`` is told how many of
    the 6N evaluations are done.
    """
    n = len(structure)
    hessian = np.zeros((3 * n, 3 * n))
    atoms = structure.to_ase()
    atoms.calc = calculator
    for k in range(3 * n):
        ends = []
        for sign in (1, -1):
            atoms.positions[:] = structure.positions_A
            atoms.positions[k // 3, k % 3] += sign * HESSIAN_STEP_A
            ends.append(atoms.get_forces().ravel().copy())
        hessian[k] = (ends[1] - ends[0]) / (2 * HESSIAN_STEP_A)
        if tick is not None:
            tick(2.0 * (k + 1))
    root = np.sqrt(np.repeat(atomic_masses[structure.numbers], 3))
    eigenvalues = np.linalg.eigvalsh(0.5 * (hessian + hessian.T) / np.outer(root, root))
    energy_eV = units._hbar * 1e10 / np.sqrt(units._e * units._amu) * np.sqrt(np.abs(eigenvalues))
    return np.sign(eigenvalues) * energy_eV / units.invcm


def rigid_modes(structure: Structure) -> int:
    """Modes without a restoring force: moving and turning as a whole."""
    if structure.pbc.any():
        return 3
    centred = structure.positions_A - structure.positions_A.mean(0)
    return 3 + (0, 2, 3, 3)[int(np.linalg.matrix_rank(centred, tol=1e-3))]


def _harmonic(campaign: Campaign) -> tuple[list[Finding], pictures.Figure | None]:
    """Frequencies of both at a minimum: the student's is sought from the teacher's, to be of one basin."""
    least: dict[str, Structure] = {}
    found: dict[str, np.ndarray] = {}
    start = campaign.structure
    calculators = {"teacher": campaign.teacher_engine().calculator, "student": campaign.calculator()}
    try:
        for name, calculator in calculators.items():
            start = least[name] = _minimum_of(campaign, name, start, calculator)
            found[name] = _frequencies_of(campaign, name, start, calculator)
    except CompactFFError as error:
        return [campaign.judge("dynamics.harmonic", None, "1/cm", note=str(error))], None
    skipped = rigid_modes(campaign.structure)
    # The modes of the whole are the smallest in size, of whatever sign.
    kept = {name: np.sort(_without(values, skipped)) for name, values in found.items()}
    off = kept["student"] - kept["teacher"]
    moved = _aligned(least["teacher"].positions_A, least["student"].positions_A)
    shift = float(np.sqrt((moved**2).sum(1).mean()))
    imaginary = int((kept["student"] < -5.0).sum()) - int((kept["teacher"] < -5.0).sum())
    x = np.arange(len(off))
    lines = {name: (x, values) for name, values in kept.items()}
    figure = pictures.curves({"frequencies": lines, "difference": {"student": (x, off)}}, "mode", "1/cm")
    findings = [
        campaign.judge(
            "dynamics.harmonic",
            float(np.abs(off).mean()),
            "1/cm",
            note=f"largest {np.abs(off).max():.3g}",
        ),
        campaign.judge("dynamics.imaginary", float(imaginary), ""),
        campaign.judge("dynamics.minimum", shift, "Å"),
    ]
    return findings, figure


def _minimum_of(campaign: Campaign, name: str, start: Structure, calculator: BaseCalculator) -> Structure:
    def make(tick: Tick) -> dict[str, np.ndarray]:
        return {"positions": minimum(start, calculator, tick).positions_A}

    positions_A = campaign.arrays(f"{name}-minimum", MINIMUM_STEPS, make)["positions"]
    return Structure(positions_A, start.numbers, start.cell_A, start.pbc)


def _frequencies_of(
    campaign: Campaign, name: str, least: Structure, calculator: BaseCalculator
) -> np.ndarray:
    def make(tick: Tick) -> dict[str, np.ndarray]:
        return {"frequencies": harmonic_frequencies(least, calculator, tick)}

    return campaign.arrays(f"{name}-harmonic", 6 * len(least), make)["frequencies"]


def _without(frequencies: np.ndarray, count: int) -> np.ndarray:
    return frequencies[np.argsort(np.abs(frequencies))[count:]]


def _aligned(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Difference of two structures after the best move and rotation (Kabsch), shape (N, 3)."""
    a, b = a - a.mean(0), b - b.mean(0)
    u, _, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return b @ u @ flip @ vt - a
