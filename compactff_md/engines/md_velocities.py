"""Initial velocities, degrees of freedom and the temperature they define."""

from __future__ import annotations

import math

import numpy as np

from compactff_md.units import EV_TO_KJ_PER_MOL, KB_EV_PER_K

# kJ/mol is dalton nm^2/ps^2, OpenMM's own energy.
KB_KJ_PER_MOL_K = KB_EV_PER_K * EV_TO_KJ_PER_MOL


def maxwell_boltzmann(
    masses_Da: np.ndarray, positions_nm: np.ndarray, temperature_K: float, seed: int, *, stop_rotation: bool
) -> np.ndarray:
    """Draw velocities whose temperature is exactly the wanted one.

    The motion of the centre of mass is taken off and, for free molecules, the rotation; then all are
    scaled to the temperature over the remaining degrees of freedom.

    Parameters
    ----------
    masses_Da
        Shape (N,).
    positions_nm
        Shape (N, 3).
    temperature_K
        At least 0.
    seed
        Same seed, same velocities.
    stop_rotation
        True for free molecules, False in a periodic box, which does not conserve angular momentum.

    Returns
    -------
    np.ndarray
        nm/ps, shape (N, 3).
    """
    widths = np.sqrt(KB_KJ_PER_MOL_K * temperature_K / masses_Da)[:, None]
    velocities = np.random.default_rng(seed).normal(size=positions_nm.shape) * widths
    velocities = at_rest(velocities, masses_Da, positions_nm, stop_rotation=stop_rotation)
    dof = degrees_of_freedom(positions_nm, stop_rotation=stop_rotation)
    return at_temperature(velocities, masses_Da, temperature_K, dof)


def at_temperature(
    velocities: np.ndarray, masses_Da: np.ndarray, temperature_K: float, dof: int
) -> np.ndarray:
    """Scale velocities to a temperature; where nothing moves nothing changes."""
    now_K = temperature_of(kinetic_energy(velocities, masses_Da), dof)
    return velocities * math.sqrt(temperature_K / now_K) if now_K > 0 else velocities


def at_rest(
    velocities: np.ndarray, masses_Da: np.ndarray, positions_nm: np.ndarray, *, stop_rotation: bool
) -> np.ndarray:
    """Take the motion of the centre of mass off and, if wanted, the rotation about it."""
    mass = masses_Da[:, None]
    velocities = velocities - (mass * velocities).sum(0) / mass.sum()
    if not stop_rotation:
        return velocities
    arms = positions_nm - (mass * positions_nm).sum(0) / mass.sum()  # (N, 3)
    momentum = (mass * np.cross(arms, velocities)).sum(0)
    inertia = (mass * arms).T @ arms
    inertia = np.trace(inertia) * np.eye(3) - inertia
    # The pseudo-inverse leaves the axis of a linear molecule alone: nothing turns about it.
    return velocities - np.cross(np.linalg.pinv(inertia, rcond=1e-8) @ momentum, arms)


def degrees_of_freedom(positions_nm: np.ndarray, *, stop_rotation: bool) -> int:
    """3N less the centre of mass and, where it does not rotate, 3 (linear: 2, one atom: 0)."""
    turning = (
        int(np.linalg.matrix_rank(positions_nm - positions_nm.mean(0), tol=1e-5)) if stop_rotation else 0
    )
    return 3 * len(positions_nm) - 3 - min(3, (0, 2, 3, 3)[turning])


def kinetic_energy(velocities: np.ndarray, masses_Da: np.ndarray) -> float:
    """In kJ/mol, of velocities in nm/ps."""
    return 0.5 * float((masses_Da[:, None] * velocities**2).sum())


def temperature_of(kinetic_kJ_per_mol: float, dof: int) -> float:
    """Temperature in K; 0 where nothing can move."""
    return 2.0 * kinetic_kJ_per_mol / (dof * KB_KJ_PER_MOL_K) if dof > 0 else 0.0


def runaway_temperature_K(target_K: float, dof: int) -> float:
    """Temperature that a sound run does not reach, in K.

    The larger of 5 times the target, the target + 2000 K, and a bound on the fluctuations of a few
    atoms: kinetic energies follow a chi-squared distribution, whose tail above
    ``1 + 2 sqrt(t/dof) + 2t/dof`` times the mean weighs less than exp(-t) (Laurent and Massart,
    Ann. Stat. 28, 1302 (2000), lemma 1); t = 25, about 1e-11.
    """
    fluctuation = 1.0 + 2.0 * math.sqrt(25.0 / max(dof, 1)) + 50.0 / max(dof, 1)
    return max(5.0 * target_K, target_K + 2000.0, fluctuation * target_K)


def runaway_rise_eV(target_K: float, dof: int) -> float:
    """Potential energy an atom, above that of the start, that a sound run does not reach, in eV.

    Bonds, melting, boiling and reactions take up as much as the heat or a few times that, atoms that have
    flown apart some eV. It is ten times the mean thermal energy, or what harmonic atoms have at
    :func:`runaway_temperature_K` where that is more.
    """
    return 1.5 * KB_EV_PER_K * max(10.0 * target_K, runaway_temperature_K(target_K, dof))
