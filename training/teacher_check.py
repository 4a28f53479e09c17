"""Whether a teacher is what it says: forces and stress of its energy, labels that are its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.errors import CompactFFError
from compactff_md.files import write_json
from compactff_md.teachers import Teacher
from compactff_md.training.chemistry import formal_charge
from compactff_md.training.config import DistillConfig
from compactff_md.training.frames import Frame
from compactff_md.training.journal import Journal
from compactff_md.training.labelling import Labeller, TeacherFailure
from compactff_md.training.molecules import read_smiles
from compactff_md.training.progress import Reporter
from compactff_md.training.sampling import separation_A
from compactff_md.training.steps import ConformersStep
from compactff_md.training.stress_check import CONVENTION, likely_unit
from compactff_md.training.teacher_stress import check_strains, stress_warning

CHECK_FILE = "teacher.json"
STEP_A = 0.01
DIRECTIONS = 3
RATTLE_A = 0.05
# Beyond both a student cannot fit energies and forces at once: 5 meV/A is what tight SCF still leaves.
ABSOLUTE_EV_PER_A = 5e-3
RELATIVE = 0.02
SAME_ENERGY_EV_PER_ATOM = 2e-3
SAME_FORCE_EV_PER_A = 2e-2


def examine(
    config: DistillConfig, teacher: Teacher, structures: Sequence[ase.Atoms], out: Path, reporter: Reporter
) -> None:
    """Warn of what the teacher is not good for, once for a run; nothing where there is no structure yet.

    Raises
    ------
    CompactFFError
        If its stress has another sign or unit, unless ``config.checks.units`` is False.
    """
    if (out / CHECK_FILE).is_file() or not structures:
        return
    journal = Journal((out / CHECK_FILE).with_suffix(".journal"))
    first = next((atoms for atoms in structures if atoms.pbc.all()), structures[0])  # it has a stress
    found = check_gradient(teacher, first, journal=journal)
    stress = found.get("stress", {"ok": True})
    if config.checks.units and not stress["ok"]:
        _check_unit(teacher, stress, journal)
    files = [step.smiles for step in config.sampling.steps if isinstance(step, ConformersStep)]
    for warning in (
        gradient_warning(teacher, found),
        stress_warning(teacher, stress),
        open_shell_warning(teacher, structures),
        *(charge_warning(teacher, path) for path in files),
        teacher.caution(structures),
    ):
        if warning:
            reporter.note(warning)
    write_json(out / CHECK_FILE, found)
    journal.clear()


def _check_unit(teacher: Teacher, stress: dict[str, Any], journal: Journal) -> None:
    ratio = stress.get("ratio") or math.nan
    if likely := likely_unit(ratio):
        journal.clear()  # who is put right is asked again
        raise CompactFFError(
            f"the energy of {teacher.name} differs by {ratio:.4g} times the work of its stress between cells "
            f"that are strained a little; expected 1 for stresses {CONVENTION}. They are likely {likely}, or "
            "set checks.units to false"
        )


def check_gradient(
    teacher: Teacher, atoms: ase.Atoms, seed: int = 0, journal: Journal | None = None
) -> dict[str, Any]:
    """Compare forces with central differences of the energy along random directions; the stress, too.

    Labels that a ``journal`` has are not asked for again.

    Returns
    -------
    dict
        ``worst_eV_per_A``: the largest difference along a direction, ``ok``, ``calls``; ``failure`` where
        the teacher fails on the structure; ``stress`` where there is one, as
        :func:`compactff_md.training.teacher_stress.check_strains` has it.
    """
    labeller = Labeller(teacher, journal=journal)
    rng = np.random.default_rng([seed, 70])
    start = atoms.copy()
    start.positions += rng.normal(0, RATTLE_A, start.positions.shape)
    if separation_A(start) < 0.5 * separation_A(atoms):
        start = atoms.copy()
    worst, ok = 0.0, True
    try:
        label = labeller.label(start)
        forces = label.forces_eV_per_A
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(forces.shape)
            direction /= np.linalg.norm(direction)
            energies = [_moved(labeller, start, sign * STEP_A * direction) for sign in (1, -1)]
            slope = -(energies[0] - energies[1]) / (2 * STEP_A)
            along = float((forces * direction).sum())
            off = abs(slope - along)
            worst = max(worst, off)
            ok &= off <= ABSOLUTE_EV_PER_A + RELATIVE * max(abs(along), abs(slope))
    except TeacherFailure as failure:
        return {"ok": False, "calls": labeller.counts.calls, "failure": str(failure)}
    found = {} if label.stress_eV_per_A3 is None else {"stress": check_strains(labeller, start, label, rng)}
    return {"ok": bool(ok), "worst_eV_per_A": worst, "calls": labeller.counts.calls, **found}


def _moved(labeller: Labeller, atoms: ase.Atoms, displacement: np.ndarray) -> float:
    moved = atoms.copy()
    moved.positions += displacement
    return labeller.label(moved).energy_eV


def gradient_warning(teacher: Teacher, found: dict[str, Any]) -> str:
    """Say what is wrong; empty where nothing is."""
    if found["ok"]:
        return ""
    if "failure" in found:
        return f"warning: the teacher {teacher.name} fails on one of the structures: {found['failure']}"
    return (
        f"warning: the forces of {teacher.name} are not the gradient of its energy: finite differences are "
        f"{1e3 * found['worst_eV_per_A']:.1f} meV/A off. A student conserves its energy all the same, but "
        "cannot fit both; prefer a conservative model, or tighter convergence"
    )


def open_shell_warning(teacher: Teacher, structures: Sequence[ase.Atoms]) -> str:
    """Say which structures have an odd number of electrons for an xTB teacher of closed shells."""
    if not teacher.name.endswith("-xtb") or teacher.settings.get("multiplicity", 1) not in (None, 1):
        return ""
    charge = _charge_of(teacher)
    odd = [k for k, atoms in enumerate(structures) if (int(atoms.numbers.sum()) - charge) % 2]
    if not odd:
        return ""
    return (
        f"warning: {len(odd)} of {len(structures)} structures, the first is {odd[0]}, have an odd number of "
        f"electrons at charge {charge}: a radical, a missing hydrogen, or a charge that was not given "
        "(--teacher-arg charge=1, multiplicity=2)"
    )


def charge_warning(teacher: Teacher, path: str | Path) -> str:
    """Say which molecules of a file of SMILES have another charge than the teacher gives all of them."""
    charge, every, other = _charge_of(teacher), read_smiles(path), []
    for smiles in every:
        with suppress(CompactFFError):  # whoever makes conformers of it says so
            if formal_charge(smiles) != charge:
                other.append(smiles)
    if not other:
        return ""
    return (
        f"warning: {len(other)} of {len(every)} molecules in {Path(path).name}, the first is {other[0]}, are "
        f"not of charge {charge}, which the teacher {teacher.name} gives every structure: their labels are "
        "those of radicals or other ions"
    )


def _charge_of(teacher: Teacher) -> int:
    return round(float(teacher.settings.get("charge") or 0))


def check_labels_are_its_own(
    teacher: Teacher, frames: Sequence[Frame], most: int = 3, journal: Journal | None = None
) -> None:
    """Ask the teacher again about a few labelled frames; there may be none beside isolated atoms.

    Those that a ``journal`` has are not asked again.

    Raises
    ------
    CompactFFError
        If energies or forces are another teacher's, or the teacher fails on all that it is asked about.
    """
    labeller, failures = Labeller(teacher, journal=journal), 0
    most = min(most, len(frames))
    for index in np.unique(np.linspace(0, len(frames) - 1, most).astype(int)).tolist():
        frame = frames[index]
        try:
            again = labeller.label(frame.structure.to_ase())
        except TeacherFailure as failure:
            failures += 1
            if failures == most:
                raise CompactFFError(
                    f"the labels of {frame.name} cannot be compared with {teacher.name}, which fails on "
                    f"all {most} frames that it was asked about: {failure}"
                ) from failure
            continue
        energy = abs(again.energy_eV - frame.energy_eV) / len(frame)
        force = float(np.abs(again.forces_eV_per_A - frame.forces_eV_per_A).max())
        if energy > SAME_ENERGY_EV_PER_ATOM or force > SAME_FORCE_EV_PER_A:
            raise CompactFFError(
                f"{frame.name} was labelled by another teacher than {teacher.name} {teacher.version}: it "
                f"differs by {1e3 * energy:.3g} meV/atom and {1e3 * force:.3g} meV/A; allowed are "
                f"{1e3 * SAME_ENERGY_EV_PER_ATOM:g} and {1e3 * SAME_FORCE_EV_PER_A:g}"
            )
