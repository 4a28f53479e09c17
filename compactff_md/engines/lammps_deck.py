"""Write a folder that LAMMPS runs as it is: data, student, deck and the deck that goes on."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.units
import numpy as np
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data

from compactff_md.artifact import StudentMetadata
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.engines.lammps_text import deck_text
from compactff_md.engines.md_velocities import degrees_of_freedom, runaway_rise_eV, runaway_temperature_K
from compactff_md.errors import CompactFFError
from compactff_md.export.mliap import export_mliap
from compactff_md.files import write_json, write_text
from compactff_md.students.base import StudentNetwork
from compactff_md.units import NM_TO_A

DECK, CONTINUATION, DATA, STUDENT = "in.lammps", "continue.lammps", "system.data", "student.mliap.pt"
SETTINGS = "deck.json"
# What deck.json was called before, as runs in OpenMM have it.
OLD_SETTINGS = "settings.json"
RESTARTS = ("final.restart", "restart.a", "restart.b")
OF_A_RUN = re.compile(r"log(\.\d+)?\.lammps|trajectory(\.\d+)?\.lammpstrj|final\.restart|restart\.[ab]")
# Around free atoms: LAMMPS wants no box much smaller than the cutoff.
MARGIN_A = 5.0
# How far masses of one element may be apart: other tables of standard weights, and no isotopes.
SAME_MASS = 1e-3


@dataclass(frozen=True)
class Deck:
    """Where the files of a deck are, and what runs it.

    ``command`` is LAMMPS' own line, with ``lmp`` and ``mpirun`` for what the machine calls them.
    """

    folder: Path
    deck: Path
    continuation: Path
    data: Path
    student: Path
    command: str


def write_deck(
    atoms: ase.Atoms,
    network: StudentNetwork,
    metadata: StudentMetadata,
    settings: DeckSettings,
    folder: str | Path,
    *,
    overwrite: bool = False,
) -> Deck:
    """Write a deck for a structure and a student.

    Parameters
    ----------
    atoms
        Structure; its momenta, if it has any, are where the dynamics begin.
    network, metadata
        The student, of which an ML-IAP file is put beside the deck.
    settings
        What is run.
    folder
        Made if it is not there.
    overwrite
        Replace a deck that is there, and remove what its runs left: restart files, logs, trajectories.

    Raises
    ------
    CompactFFError
        If the structure has elements that the student does not know, a cell that the ensemble cannot have,
        several masses of one element or constraints, the folder holds files that a deck or its runs
        write, or as in :func:`compactff_md.export.mliap.export_mliap`.
    """
    facts = deck_facts(atoms, network, settings)
    _check_cell(atoms, settings)
    _check_atoms(atoms)
    folder = Path(folder)
    there = _in_the_way(folder)
    if there and not overwrite:
        what = "a deck" if folder / DECK in there else "files of the names that a deck and its runs have"
        raise CompactFFError(
            f"{folder} holds {what} already ({', '.join(path.name for path in there)}); take another folder, "
            "or allow --overwrite, which removes them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in there:  # what is cut off here must not leave parts of two decks that run
        path.unlink(missing_ok=True)
    write_text(folder / DATA, data_text(atoms, facts["elements"], settings.units))
    export_mliap(network, metadata, folder / STUDENT, dtype=settings.dtype)
    write_json(folder / SETTINGS, settings.model_dump())
    for name, goes_on in ((CONTINUATION, True), (DECK, False)):
        write_text(folder / name, deck_text(settings, facts, goes_on))
    return Deck(
        folder,
        folder / DECK,
        folder / CONTINUATION,
        folder / DATA,
        folder / STUDENT,
        " ".join(lammps_words(DECK, settings.ranks, settings.kokkos, "lmp", "mpirun")),
    )


def left_by_a_run(folder: Path) -> list[Path]:
    """Logs, trajectories and restart files in the folder of a deck, of all parts of its run."""
    return sorted(path for path in folder.glob("*") if OF_A_RUN.fullmatch(path.name))


def deck_facts(atoms: ase.Atoms, network: StudentNetwork, settings: DeckSettings) -> dict[str, Any]:
    """What the text of a deck takes from structure and student.

    Raises
    ------
    CompactFFError
        For a structure without atoms or with elements that the student does not know.
    """
    elements, is_turning = _elements(atoms, network), _is_turning(atoms, settings)
    moving = degrees_of_freedom(atoms.positions / NM_TO_A, stop_rotation=not is_turning)
    warmest_K = settings.temperature_K
    if _has_velocities(atoms):
        warmest_K = max(warmest_K, 2.0 * atoms.get_kinetic_energy() / (max(moving, 1) * ase.units.kB))
    return {
        "elements": elements,
        "boundary": _boundary(atoms),
        "is_tilted": _is_tilted(atoms),
        "has_velocities": _has_velocities(atoms),
        "is_turning": is_turning,
        "stopped": 3 * len(atoms) - moving,
        "highest_K": runaway_temperature_K(warmest_K, moving),
        "highest_rise_eV": runaway_rise_eV(warmest_K, moving),
        "reach_A": network.receptive_field_A + settings.skin_A,
        "student": STUDENT,
        "data": DATA,
    }


def lammps_words(
    deck: str, ranks: int, kokkos: bool, executable: str, launcher: str | None, gpus: int = 1
) -> list[str]:
    """LAMMPS' command line for a deck, word by word."""
    words = [executable, "-in", deck]
    if kokkos:
        # Forces on ghosts are sent home, as ML-IAP has it; Kokkos would compute pairs twice instead.
        words += ["-k", "on", "g", str(gpus), "-sf", "kk", "-pk", "kokkos", "newton", "on", "neigh", "half"]
    if ranks > 1:
        if launcher is None:
            raise CompactFFError(f"{ranks} ranks need mpiexec of the MPI that LAMMPS was built with")
        words = [launcher, "-n", str(ranks), *words]
    return words


def data_text(atoms: ase.Atoms, elements: list[str], units: str) -> str:
    """LAMMPS' data file, its types in the order of ``elements``, in the frame of :func:`lammps_frame`."""
    atoms = lammps_frame(atoms)
    stream = io.StringIO()
    write_lammps_data(
        stream,
        atoms,
        specorder=elements,
        masses=True,
        units=units,
        velocities=_has_velocities(atoms),
        atom_style="atomic",
    )
    return stream.getvalue()


def lammps_frame(atoms: ase.Atoms) -> ase.Atoms:
    """A copy as LAMMPS has it: the cell turned below the diagonal, and room in free directions."""
    has_side = atoms.cell.lengths() * atoms.pbc.any() > 0.0
    atoms = atoms.copy()
    atoms.set_cell(_upright(atoms))
    _turn(atoms)
    for axis in np.flatnonzero(~atoms.pbc):
        _give_side(atoms, int(axis), atoms.cell[axis, axis] if has_side[axis] else 0.0)
    return atoms


def lammps_rotation(atoms: ase.Atoms) -> np.ndarray:
    """What turns rows of vectors into the frame of :func:`lammps_frame`, shape (3, 3)."""
    return np.array(Prism(_upright(atoms), atoms.pbc).rot_mat)


def _in_the_way(folder: Path) -> list[Path]:
    """Files that a deck would replace, or with which its run would be mixed; the deck itself first."""
    names = (DECK, CONTINUATION, DATA, STUDENT, SETTINGS)
    own = [path for name in names if (path := folder / name).exists()]
    old = folder / OLD_SETTINGS
    return [*own, *([old] if _is_of_a_deck(old) else []), *left_by_a_run(folder)]


def _is_of_a_deck(path: Path) -> bool:
    """Whether a settings.json is of a deck; else it is of a run in OpenMM, or of something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"thermo_interval", "ghost_neighbours"} <= content.keys()


def _upright(atoms: ase.Atoms) -> np.ndarray:
    """The cell with free vectors perpendicular to all others, shape (3, 3): none may be tilted."""
    if not atoms.pbc.any():
        return np.eye(3)
    cell = atoms.cell.array.copy()
    others = cell[atoms.pbc]
    for axis in np.flatnonzero(~atoms.pbc):
        for vector in (cell[axis], np.eye(3)[axis], *np.eye(3)):  # the first independent of the others
            vector = vector - others.T @ np.linalg.lstsq(others.T, vector)[0]
            if np.linalg.norm(vector) > 1e-3:
                break
        cell[axis] = vector
        others = np.vstack([others, vector])
    return cell


def _give_side(atoms: ase.Atoms, axis: int, side_A: float) -> None:
    """Let the side of a free direction be longer, and move the atoms, where they are not inside."""
    low, high = atoms.positions[:, axis].min(), atoms.positions[:, axis].max()
    if low >= 0.0 and high < side_A:
        return
    atoms.positions[:, axis] += MARGIN_A - low
    cell = atoms.cell.array.copy()
    cell[axis, axis] = max(high - low + 2.0 * MARGIN_A, side_A)
    atoms.set_cell(cell)


def _turn(atoms: ase.Atoms) -> None:
    """Turn everything as LAMMPS wants its cells: below the diagonal, and not more tilted than need be.

    ASE's writer does it too, but would wrap velocities with the positions into a reduced cell.
    """
    prism = Prism(atoms.cell.array, atoms.pbc)
    momenta = atoms.get_momenta() @ prism.rot_mat
    atoms.positions = atoms.positions @ prism.rot_mat
    atoms.set_cell(prism.lammps_cell)
    if _has_velocities(atoms):
        atoms.set_momenta(momenta)


def _elements(atoms: ase.Atoms, network: StudentNetwork) -> list[str]:
    """Elements of the structure in the student's order: LAMMPS' atom types 1, 2, ..."""
    if not len(atoms):
        raise CompactFFError("the structure has no atoms")
    present = set(atoms.get_chemical_symbols())
    unknown = sorted(present - set(network.elements))
    if unknown:
        raise CompactFFError(
            f"the student does not know {', '.join(unknown)}; it knows {', '.join(network.elements)}"
        )
    return [symbol for symbol in network.elements if symbol in present]


def _has_velocities(atoms: ase.Atoms) -> bool:
    return bool(atoms.has("momenta") and atoms.get_momenta().any())


def _is_turning(atoms: ase.Atoms, settings: DeckSettings) -> bool:
    """Whether angular momentum comes and goes, or is the structure's own; else a free molecule has none."""
    if atoms.pbc.any():
        return True
    own = settings.ensemble == "nve" and _has_velocities(atoms)
    return own or (settings.ensemble == "nvt" and settings.thermostat == "langevin")


def _check_cell(atoms: ase.Atoms, settings: DeckSettings) -> None:
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise CompactFFError(f"npt needs a structure that is periodic in all directions; pbc is {atoms.pbc}")
    if settings.ensemble == "npt" and settings.cell_changes == "anisotropic" and _is_tilted(atoms):
        raise CompactFFError("cell_changes anisotropic is for upright cells; use isotropic or flexible")


def _check_atoms(atoms: ase.Atoms) -> None:
    """Refuse what the data file would lose: it has one mass for each element, and no constraints."""
    masses = atoms.get_masses()
    for symbol, indices in atoms.symbols.indices().items():
        low, high = masses[indices].min(), masses[indices].max()
        if high - low > SAME_MASS * high:
            raise CompactFFError(
                f"atoms of {symbol} have masses from {low:g} to {high:g}, and a deck has one an element: "
                "give all of them the same, and isotopes types of their own in the deck (lammps/README.md)"
            )
    if atoms.constraints:
        names = ", ".join(sorted({type(constraint).__name__ for constraint in atoms.constraints}))
        raise CompactFFError(
            f"the structure has constraints ({names}), which a deck would lose: take them off, and hold the "
            "atoms in the deck by moving the others only (lammps/README.md)"
        )


def _boundary(atoms: ase.Atoms) -> str:
    return " ".join("p" if periodic else "m" for periodic in atoms.pbc)


def _is_tilted(atoms: ase.Atoms) -> bool:
    """Whether the cell's periodic part is anything but upright along the axes."""
    cell = atoms.cell.array[np.ix_(atoms.pbc, atoms.pbc)]
    return bool(np.abs(cell - np.diag(np.diag(cell))).max(initial=0.0) > 1e-8)
