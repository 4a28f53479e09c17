"""Dynamics with a student, watched: where it is unsure, and the last frames before it explodes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Any

import ase
import numpy as np

from compactff_md.training.asking import Asking
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import TeacherFailure
from compactff_md.training.packing import decode_atoms, encode_atoms
from compactff_md.training.sampling import (
    Phase,
    langevin,
    sampling_masses,
    separation_A,
    thermal_velocities,
)

LOOK_STEPS = 5  # between two looks at forces and contacts
KEPT_LOOKS = 4  # that a frame before an explosion may be back: 20 steps, 40 fs
LOST_RATIO = 20.0  # times the usual uncertainty: nothing beyond is worth a label
HOT_FACTOR = 3.0  # of the force limit of labels


@dataclass(frozen=True)
class Visited:
    """A frame that a student came to.

    ``score`` is the largest uncertainty of an atom over what is usual, 0 where the student tells none;
    ``exploding`` marks the last frames before a run ended.
    """

    atoms: ase.Atoms
    score: float
    exploding: bool = False

    def encoded(self) -> dict[str, Any]:
        """Plain data; :func:`decode_visited` reads it back."""
        return {"atoms": encode_atoms(self.atoms), "score": self.score, "exploding": self.exploding}


def decode_visited(content: dict[str, Any]) -> Visited:
    """Inverse of :meth:`Visited.encoded`."""
    return Visited(decode_atoms(content["atoms"]), content["score"], content["exploding"])


def explore(
    atoms: ase.Atoms,
    temperature_K: float,
    steps: int,
    spacing_steps: int,
    config: SamplingConfig,
    rng: np.random.Generator,
    ends: float = inf,
) -> Asking[list[Visited]]:
    """Run a student, which answers, from a structure, to the end or until it explodes; see what it came to.

    Frames are ``spacing_steps`` apart; none comes after the moment ``ends`` of ``time.monotonic``.
    A run has exploded where energy or forces are not finite, a force is three times what labels may have,
    atoms are closer than ``config.min_separation_A``, or the uncertainty is 20 times the usual one; the
    three frames before, five steps apart, are then in the result.
    """
    atoms = atoms.copy()
    start = thermal_velocities(sampling_masses(atoms, config), 2 * temperature_K, rng)
    recent: deque[Visited] = deque(maxlen=KEPT_LOOKS)
    kept: list[Visited] = []
    try:
        origin = atoms.positions.copy()
        label = yield atoms
        phase = Phase(origin, start, label)
        for step in range(LOOK_STEPS, steps + 1, LOOK_STEPS):
            phase = yield from langevin(atoms, phase, temperature_K, LOOK_STEPS, config, rng)
            seen = Visited(_bare(atoms), phase.label.unsureness)
            if _exploded(seen, phase, config):
                break
            recent.append(seen)
            if step % spacing_steps < LOOK_STEPS:
                kept.append(seen)
            if time.monotonic() > ends:
                return kept
        else:
            return kept
    except TeacherFailure:  # not finite
        pass
    last = list(recent)[-3:]
    return [v for v in kept if not any(v is w for w in last)] + [
        Visited(v.atoms, v.score, exploding=True) for v in last
    ]


def _bare(atoms: ase.Atoms) -> ase.Atoms:
    return ase.Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _exploded(seen: Visited, phase: Phase, config: SamplingConfig) -> bool:
    return (
        phase.label.max_force_eV_per_A > HOT_FACTOR * config.max_force_eV_per_A
        or seen.score > LOST_RATIO
        or separation_A(seen.atoms) < config.min_separation_A
    )
