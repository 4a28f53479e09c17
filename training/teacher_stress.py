"""Whether a teacher's stress is the derivative of its energy, in ASE's unit and with ASE's sign."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np

from compactff_md.teachers import Teacher
from compactff_md.training.label import Label
from compactff_md.training.labelling import Labeller, TeacherFailure
from compactff_md.units import EV_PER_A3_TO_GPA

STRAIN = 0.01
STRAINS = 2
# Integral of a parabola over the second of two steps, from its values at their ends (Adams and Moulton).
WEIGHTS = np.array([-1.0, 8.0, 5.0]) / 12.0
# Beyond all of them the stress is another energy's.
ABSOLUTE_GPA = 0.1
ABSOLUTE_EV = 1e-4
RELATIVE = 0.02
LEAST_CORRELATION = 0.95


def check_strains(
    labeller: Labeller, atoms: ase.Atoms, label: Label, rng: np.random.Generator
) -> dict[str, Any]:
    """Compare energies of strained copies with the work of the stress on the way to them.

    On the way the stress is a parabola through those of three structures: it need not vanish where that of
    the structure itself does. Each strain takes two calls.

    Parameters
    ----------
    label
        That of ``atoms``, with a stress.

    Returns
    -------
    dict
        ``ok``; ``worst_GPa``, the largest difference, as a stress; ``ratio`` of energies to works, None where
        they are noise or have little to do with each other. Or ``failure`` in the place of the last two.
    """
    differences, works = [], []
    try:
        for _ in range(STRAINS):
            strain = rng.standard_normal((3, 3))
            strain += strain.T
            strain *= STRAIN / np.linalg.norm(strain)
            path = [
                _strained(labeller, atoms, -strain, strain),
                (label.energy_eV, _slope(atoms, label, strain)),
                _strained(labeller, atoms, strain, strain),
            ]
            for sign, way in ((1, path), (-1, path[::-1])):
                differences.append(way[2][0] - way[1][0])
                works.append(sign * float(WEIGHTS @ [slope for _, slope in way]))
    except TeacherFailure as failure:
        return {"ok": False, "failure": str(failure)}
    return _compared(np.array(differences), np.array(works), STRAIN * atoms.get_volume())


def _compared(differences_eV: np.ndarray, works_eV: np.ndarray, volume_A3: float) -> dict[str, Any]:
    """``volume_A3`` is what turns a stress into a work."""
    off = np.abs(differences_eV - works_eV)
    larger = np.maximum(np.abs(differences_eV), np.abs(works_eV))
    allowed = ABSOLUTE_EV + ABSOLUTE_GPA / EV_PER_A3_TO_GPA * volume_A3 + RELATIVE * larger
    both, square = float(differences_eV @ works_eV), float(works_eV @ works_eV)
    clear = larger.max() > ABSOLUTE_EV and abs(both) > LEAST_CORRELATION * np.sqrt(
        square * float(differences_eV @ differences_eV)
    )
    return {
        "ok": bool((off <= allowed).all()),
        "worst_GPa": float(off.max() / volume_A3 * EV_PER_A3_TO_GPA),
        "ratio": both / square if clear else None,
    }


def _strained(
    labeller: Labeller, atoms: ase.Atoms, by: np.ndarray, strain: np.ndarray
) -> tuple[float, float]:
    """Energy of a copy that is strained ``by``, and how it changes along ``strain``, both in eV."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + by), scale_atoms=True, apply_constraint=False)
    label = labeller.label(copy)
    return label.energy_eV, _slope(copy, label, strain @ np.linalg.inv(np.eye(3) + by))


def _slope(atoms: ase.Atoms, label: Label, strain: np.ndarray) -> float:
    assert label.stress_eV_per_A3 is not None
    return float(atoms.get_volume() * (label.stress_eV_per_A3 * strain).sum())


def stress_warning(teacher: Teacher, found: dict[str, Any]) -> str:
    """Say what is wrong, from what :func:`check_strains` found; empty where nothing is."""
    if found["ok"]:
        return ""
    if "failure" in found:
        return f"warning: the teacher {teacher.name} fails on strained copies: {found['failure']}"
    return (
        f"warning: the stress of {teacher.name} is not the derivative of its energy: finite differences are "
        f"{found['worst_GPa']:.2g} GPa off. A student's stress is that of its energy, and cannot fit both; "
        "prefer a conservative model or a larger basis, or set stress_weight to 0"
    )
