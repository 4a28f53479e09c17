"""Constant pressure where our own code moves the atoms: the volume by stochastic cell rescaling."""

from __future__ import annotations

import numpy as np
from ase import units

RELAXATION_FS = 200.0
# 3e-6 per bar, of a soft crystal; it sets the speed alone: a liquid follows ten times slower.
COMPRESSIBILITY_A3_PER_EV = 5.0
LARGEST_STEP = 0.02


def log_volume_step(
    volume_A3: float,
    stress_eV_per_A3: np.ndarray,
    num_atoms: int,
    temperature_K: float,
    pressure_bar: float,
    timestep_fs: float,
    rng: np.random.Generator,
) -> float:
    """Change of the logarithm of the volume in one step.

    Bernetti and Bussi, J. Chem. Phys. 153, 114107 (2020), eq. 7, with the mean of the kinetic energy in
    the place of its value: ``d ln V = (b/t) (P_in - P) dt + sqrt(2 kT b / (V t)) dW``, which samples
    V^N exp(-(U + PV)/kT) at any compressibility b and time t.

    Parameters
    ----------
    stress_eV_per_A3
        Of the potential, shape (3, 3), positive where stretched.
    """
    kT = units.kB * temperature_K
    inside = num_atoms * kT / volume_A3 - np.trace(stress_eV_per_A3) / 3.0
    rate = COMPRESSIBILITY_A3_PER_EV * timestep_fs / RELAXATION_FS
    drift = rate * (inside - pressure_bar * units.bar)
    change = drift + np.sqrt(2.0 * kT * rate / volume_A3) * rng.standard_normal()
    return float(np.clip(change, -LARGEST_STEP, LARGEST_STEP))
