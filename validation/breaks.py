"""Bonds that break in long dynamics, told from those that are stretched for a moment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.data import chemical_symbols
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from compactff_md.engines.molecules import find_molecules
from compactff_md.structure import Structure
from compactff_md.validation.engine_ase import ASEEngine
from compactff_md.validation.run import Run
from compactff_md.validation.stability import BROKEN_A, NONMETALS
from compactff_md.validation.task import State, Task
from compactff_md.validation.teacher_calculator import TeacherCalculator

# Frames that the teacher starts before the one that shows the broken bond, and how far it goes.
FRAMES_BEFORE = 2
TEACHER_FS = 300.0
HOT_K = 1e5  # a stretched bond that comes back is hot: no reason to end the run


@dataclass(frozen=True)
class Break:
    """The first bond of a molecule that broke, or was stretched as far where none stayed broken.

    ``back`` tells whether all bonds of the molecule were whole again at the end (None in older files): soft
    bonds are long at times. ``teacher`` tells whether one breaks with the teacher, too (None where nobody
    asked, or it failed).
    """

    molecule: int
    formula: str
    bond: str
    time_ps: float
    teacher: bool | None = None
    back: bool | None = None


class Watch:
    """Looks at the parts of one long run, one after the other.

    Parameters
    ----------
    structure
        Whose bonds and lengths are the whole ones.
    teacher
        Goes on from a moment before a bond breaks that is still broken at the end of its part; None leaves
        open what it does.
    """

    def __init__(self, structure: Structure, teacher: BaseCalculator | None) -> None:
        self._bonds, self._teacher = watched_bonds(structure), teacher
        self._groups = _groups(len(structure), self._bonds)
        self._initial_A = _lengths(structure, self._bonds)
        self._found: dict[int, Break] = {}

    @property
    def molecules(self) -> int:
        """How many have bonds that are watched."""
        return len(np.unique(self._groups[self._bonds[:, 0]]))

    @property
    def breaks(self) -> tuple[Break, ...]:
        """One for each molecule that has any."""
        return tuple(self._found.values())

    def look(self, run: Run, before_ps: float) -> list[Break]:
        """What is new in the next part, which begins at ``before_ps``."""
        broken = _broken(run, self._bonds, self._initial_A)
        new = {}
        for bond, frame in sorted(_moments(broken).items(), key=lambda item: item[1]):
            group, lasts = int(self._groups[self._bonds[bond, 0]]), bool(broken[-1, bond])
            known = self._found.get(group)
            if known is None or (lasts and known.back):
                one = self._break(run, frame, bond, before_ps, lasts)
                self._found[group] = new[group] = one
        strayed = self._groups[self._bonds[broken[-1], 0]]
        self._found = {k: replace(one, back=k not in strayed) for k, one in self._found.items()}
        return list(new.values())

    def _break(self, run: Run, frame: int, bond: int, before_ps: float, lasts: bool) -> Break:
        i, j = (int(k) for k in self._bonds[bond])
        members = np.flatnonzero(self._groups == self._groups[i])
        formula = ase.Atoms(run.numbers[members]).get_chemical_formula()
        name = f"{chemical_symbols[run.numbers[i]]}{i}-{chemical_symbols[run.numbers[j]]}{j}"
        asked = None
        if lasts and self._teacher is not None:
            asked = _breaks_with(self._teacher, run, frame, members, self._bonds, self._initial_A)
        return Break(
            int(self._groups[i]), formula, name, before_ps + float(run.time_ps[frame]), asked, not lasts
        )


def watched_bonds(structure: Structure) -> np.ndarray:
    """Bonds between nonmetals, shape (B, 2): those of an ion to its neighbours come and go."""
    known = np.isin(structure.numbers, NONMETALS)
    bonds = find_molecules(structure).bonds
    return bonds[known[bonds].all(axis=1)]


def breaks_of(run: Run, bonds: np.ndarray, initial_A: np.ndarray) -> dict[int, int]:
    """When bonds that differ by more than 0.5 A from their length at the start do so: a frame of each.

    It is the first from which on one stays so to the end of the run, and of a bond that comes back the first
    of all.
    """
    return _moments(_broken(run, bonds, initial_A))


def _broken(run: Run, bonds: np.ndarray, initial_A: np.ndarray) -> np.ndarray:
    """Which bonds are broken in which frame, shape (F, B)."""
    lengths = np.array([_lengths(run.structure(frame), bonds) for frame in range(len(run))])
    return np.abs(lengths - initial_A) > BROKEN_A


def _moments(broken: np.ndarray) -> dict[int, int]:
    found = {}
    for bond in np.flatnonzero(broken.any(axis=0)):
        whole = np.flatnonzero(~broken[:, bond])
        lasts = broken[-1, bond]
        found[int(bond)] = (
            int(whole[-1] + 1 if len(whole) else 0) if lasts else int(np.argmax(broken[:, bond]))
        )
    return found


def _lengths(structure: Structure, bonds: np.ndarray) -> np.ndarray:
    vectors = structure.positions_A[bonds[:, 1]] - structure.positions_A[bonds[:, 0]]
    if not structure.pbc.any():
        return np.linalg.norm(vectors, axis=1)
    return find_mic(vectors, structure.cell_A, structure.pbc)[1]


def _groups(count: int, bonds: np.ndarray) -> np.ndarray:
    """Which molecule an atom belongs to by the watched bonds alone, shape (N,)."""
    graph = coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _breaks_with(
    teacher: BaseCalculator,
    run: Run,
    frame: int,
    members: np.ndarray,
    bonds: np.ndarray,
    initial_A: np.ndarray,
) -> bool | None:
    """Whether a bond breaks for good where the teacher goes on from a moment before.

    None where it fails, where its run ends early, and where no bond was whole at that moment's frames.
    """
    inside = np.isin(bonds, members).all(axis=1)
    before = _broken(run, bonds[inside], initial_A[inside])[: max(1, frame - FRAMES_BEFORE + 1)].any(axis=1)
    if before.all():
        return None
    start = int(np.flatnonzero(~before)[-1])
    kept = np.arange(len(run.numbers)) if run.pbc.any() else members
    place = {int(atom): k for k, atom in enumerate(kept)}
    own = np.array([[place[int(i)], place[int(j)]] for i, j in bonds[inside]])
    structure = Structure(run.positions_A[start][kept], run.numbers[kept], run.cell_A[start], run.pbc)
    state = State(structure.positions_A, run.velocities_A_per_fs[start][kept])
    steps = round(TEACHER_FS / run.timestep_fs)
    task = Task("nve", HOT_K, run.timestep_fs, steps, max(1, steps // 60), seed=1)
    asked = TeacherCalculator(teacher)
    result = ASEEngine(asked, "teacher").run(structure, task, state)
    if asked.failed or result.failure:
        return None
    return bool(_broken(result, own, initial_A[inside])[-1].any())
