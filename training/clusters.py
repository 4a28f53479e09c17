"""Molecules packed beside each other, in contact and without overlap."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.build import molecule
from ase.data import covalent_radii, vdw_radii
from scipy.spatial.transform import Rotation

TRIES = 20
FIRST_STEP_A = 0.5
BISECTIONS = 12


def contact_radii(numbers: np.ndarray) -> np.ndarray:
    """Van der Waals radii in A, shape (N,); covalent radius + 0.8 A where none is known (Alvarez 2013)."""
    known = vdw_radii[numbers]
    return np.where(np.isfinite(known), known, covalent_radii[numbers] + 0.8)


def closeness(one: ase.Atoms, other: ase.Atoms) -> float:
    """Smallest distance between atoms of two molecules over the sum of their van der Waals radii."""
    distance = np.linalg.norm(one.positions[:, None] - other.positions, axis=-1)
    radii = contact_radii(one.numbers)[:, None] + contact_radii(other.numbers)
    return float((distance / radii).min())


def turned(atoms: ase.Atoms, rng: np.random.Generator) -> ase.Atoms:
    """Copy in a random orientation about its centre, which is put at the origin."""
    centred = atoms.positions - atoms.positions.mean(0)
    positions = Rotation.random(random_state=rng).apply(centred)
    return ase.Atoms(numbers=atoms.numbers, positions=positions)


def dock(
    cluster: ase.Atoms, newcomer: ase.Atoms, target: float, rng: np.random.Generator
) -> ase.Atoms | None:
    """Bring a molecule from a random direction until its closest contact is ``target``; None where stuck.

    The way in is found by bisection between far away and where the closeness first falls below.
    """
    guest = turned(newcomer, rng)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    # Aimed at an atom of the cluster, so that large ones are met everywhere.
    aim = cluster.positions[int(rng.integers(len(cluster)))]
    reach = (
        np.linalg.norm(cluster.positions - aim, axis=1).max() + np.linalg.norm(guest.positions, axis=1).max()
    )
    far = reach + 8.0
    near = far
    while near > 0 and closeness(cluster, _at(guest, aim + near * direction)) > target:
        far, near = near, near - FIRST_STEP_A
    if near <= 0 and closeness(cluster, _at(guest, aim)) > target:
        return None
    for _ in range(BISECTIONS):
        middle = 0.5 * (near + far)
        if closeness(cluster, _at(guest, aim + middle * direction)) > target:
            far = middle
        else:
            near = middle
    return cluster + _at(guest, aim + far * direction)


def _at(atoms: ase.Atoms, place: np.ndarray) -> ase.Atoms:
    return ase.Atoms(numbers=atoms.numbers, positions=atoms.positions + place)


def pack(
    molecules: Sequence[ase.Atoms],
    size: int,
    water_share: float,
    close: tuple[float, float],
    max_atoms: int,
    rng: np.random.Generator,
) -> ase.Atoms | None:
    """Build one cluster of ``size`` molecules; None where those drawn are too large together.

    Parameters
    ----------
    molecules
        Free ones; the first is drawn from them, each further one is water with ``water_share``.
    close
        Range of the closest contact of each newcomer, as in :func:`closeness`.
    max_atoms
        Of the cluster.
    """
    for _ in range(TRIES):
        drawn = [molecules[int(rng.integers(len(molecules)))]]
        while len(drawn) < size:
            wet = rng.random() < water_share
            drawn.append(molecule("H2O") if wet else molecules[int(rng.integers(len(molecules)))])
        if sum(map(len, drawn)) > max_atoms:
            continue
        cluster: ase.Atoms | None = turned(drawn[0], rng)
        for newcomer in drawn[1:]:
            cluster = None if cluster is None else dock(cluster, newcomer, rng.uniform(*close), rng)
        if cluster is not None:
            return cluster
    return None
