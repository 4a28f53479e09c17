"""Who moves the atoms while a teacher labels: a student of the package, where it agrees with the teacher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import ase
import numpy as np

from compactff_md.files import write_json
from compactff_md.student import load
from compactff_md.teachers import Teacher, create_teacher
from compactff_md.training.config import TEACHER, DistillConfig
from compactff_md.training.journal import Journal
from compactff_md.training.label import Label
from compactff_md.training.labelling import Labeller, TeacherFailure
from compactff_md.training.progress import Reporter
from compactff_md.training.sampling import separation_A

DRIVER_FILE = "driver.json"
# By what they were taught on: the smallest, which moves atoms as well as the others.
CANDIDATES = {"organic-ultra-tiny": "free", "argyrodite-ultra-tiny": "periodic"}
STUDENT_TEACHER = "student:"
MOST_STRUCTURES = 6
COPIES = 2
RATTLE_A = 0.05
LEAST_SEPARATION = 0.7  # of what it was before the rattling
# Of the teacher's own forces. Frames are labelled by the teacher, so that a driver only has to go where the
# teacher goes; semi-empirical methods differ from density functionals by a fifth or so.
MOST_RELATIVE_ERROR = 0.35


@dataclass(frozen=True)
class Driver:
    """What moves the atoms; ``name`` None is the teacher itself.

    ``relative_error`` is that of its forces on rattled structures, over the teacher's forces, None where
    nothing was compared; ``calls`` of the teacher were spent on that.
    """

    name: str | None
    relative_error: float | None = None
    calls: int = 0


def settled_driver(
    config: DistillConfig,
    structures: Sequence[ase.Atoms],
    teacher: Teacher,
    folder: Path,
    reporter: Reporter,
) -> Driver:
    """The driver of a sampling without steps: what the configuration names, or what is chosen.

    It is chosen once for a folder.
    """
    wanted = config.sampling.driver
    if config.sampling.steps or config.sampling.mode == "given" or wanted == TEACHER:
        return Driver(None)
    if wanted is not None:
        return Driver(wanted)
    path = folder / DRIVER_FILE
    if not path.is_file():
        journal = Journal(path.with_suffix(".journal"))
        write_json(path, asdict(choose_driver(structures, teacher, config.seed, journal)))
        journal.clear()
    found = Driver(**json.loads(path.read_text(encoding="utf-8")))
    if found.relative_error is not None:
        word = "differ" if found.name else "differ too much, by"
        what = f"{word} {100 * found.relative_error:.0f}% from the teacher's"
        then = "it moves the atoms, the teacher labels what is kept" if found.name else "the teacher moves"
        reporter.note(f"forces of a shipped student {what}: {then} (sampling.driver)")
    return found


def choose_driver(
    structures: Sequence[ase.Atoms], teacher: Teacher, seed: int = 0, journal: Journal | None = None
) -> Driver:
    """The shipped student that knows the elements and agrees with the teacher; else the teacher itself.

    Labels that a ``journal`` has are not asked for again.
    """
    if teacher.name.startswith(STUDENT_TEACHER):
        return Driver(None)
    kinds = {"periodic" if atoms.pbc.any() else "free" for atoms in structures}
    elements = {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}
    for name, kind in CANDIDATES.items():
        if kinds == {kind} and elements <= set(load(name).elements):
            return _compared(name, structures, Labeller(teacher, journal=journal), seed)
    return Driver(None)


def _compared(name: str, structures: Sequence[ase.Atoms], asked: Labeller, seed: int) -> Driver:
    """Ask both about rattled copies of a few of the structures."""
    driver = STUDENT_TEACHER + name
    student = Labeller(create_teacher(driver))
    rng = np.random.default_rng([seed, 80])
    wrong, whole = 0.0, 0.0
    chosen = np.unique(np.linspace(0, len(structures) - 1, MOST_STRUCTURES).astype(int)).tolist()
    for atoms in [structures[k] for k in chosen for _ in range(COPIES)]:
        moved = atoms.copy()
        moved.positions += rng.normal(0.0, RATTLE_A, moved.positions.shape)
        if separation_A(moved) < LEAST_SEPARATION * separation_A(atoms):
            continue
        both = _both(asked, student, moved)
        if both is not None:
            wrong += float(np.square(both[0].forces_eV_per_A - both[1].forces_eV_per_A).sum())
            whole += float(np.square(both[0].forces_eV_per_A).sum())
    if not whole:
        return Driver(None, None, asked.counts.calls)
    error = float(np.sqrt(wrong / whole))
    return Driver(driver if error <= MOST_RELATIVE_ERROR else None, error, asked.counts.calls)


def _both(asked: Labeller, student: Labeller, atoms: ase.Atoms) -> tuple[Label, Label] | None:
    try:
        return asked.label(atoms), student.label(atoms)
    except TeacherFailure:
        return None
