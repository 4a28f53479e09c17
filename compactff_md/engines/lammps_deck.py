"""Write a folder that LAMMPS runs as it is: data, student, deck and the deck that goes on."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data

from compactff_md.artifact import StudentMetadata
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.engines.lammps_text import deck_text
from compactff_md.errors import CompactFFError
from compactff_md.export.mliap import export_mliap
from compactff_md.files import write_json, write_text
from compactff_md.students.base import StudentNetwork

DECK, CONTINUATION, DATA, STUDENT = "in.lammps", "continue.lammps", "system.data", "student.mliap.pt"
SETTINGS = "settings.json"
# Around free atoms: LAMMPS wants no box much smaller than the cutoff.
MARGIN_A = 5.0


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
        Replace a deck that is there.

    Raises
    ------
    CompactFFError
        If the structure has elements that the student does not know or a cell that LAMMPS cannot have,
        the folder holds a deck already, or as in :func:`compactff_md.export.mliap.export_mliap`.
    """
    _check_cell(atoms, settings)
    facts = deck_facts(atoms, network, settings)
    folder = Path(folder)
    if (folder / DECK).exists() and not overwrite:
        raise CompactFFError(f"{folder} holds a deck already; take another folder, or allow --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / DATA, data_text(atoms, facts["elements"], settings.units))
    export_mliap(network, metadata, folder / STUDENT, dtype=settings.dtype)
    for name, goes_on in ((DECK, False), (CONTINUATION, True)):
        write_text(folder / name, deck_text(settings, facts, goes_on))
    write_json(folder / SETTINGS, settings.model_dump())
    return Deck(
        folder,
        folder / DECK,
        folder / CONTINUATION,
        folder / DATA,
        folder / STUDENT,
        " ".join(lammps_words(DECK, settings.ranks, settings.kokkos, "lmp", "mpirun")),
    )


def deck_facts(atoms: ase.Atoms, network: StudentNetwork, settings: DeckSettings) -> dict[str, Any]:
    """What the text of a deck takes from structure and student.

    Raises
    ------
    CompactFFError
        For a structure without atoms or with elements that the student does not know.
    """
    return {
        "elements": _elements(atoms, network),
        "boundary": _boundary(atoms),
        "is_tilted": _is_tilted(atoms),
        "has_velocities": _has_velocities(atoms),
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
    """A copy as LAMMPS has it: the cell turned below the diagonal, and a box around free atoms."""
    atoms = _boxed(atoms)
    _turn(atoms)
    return atoms


def lammps_rotation(atoms: ase.Atoms) -> np.ndarray:
    """What turns rows of vectors into the frame of :func:`lammps_frame`, shape (3, 3)."""
    return np.array(Prism(_boxed(atoms).cell.array, atoms.pbc).rot_mat)


def _boxed(atoms: ase.Atoms) -> ase.Atoms:
    """A copy with a box around free atoms."""
    atoms = atoms.copy()
    for axis in np.flatnonzero(~atoms.pbc):
        if not atoms.cell.cellpar()[axis] or not atoms.pbc.any():
            _give_side(atoms, int(axis))
    return atoms


def _give_side(atoms: ase.Atoms, axis: int) -> None:
    """Give a free direction a side of the cell along its axis, and put the atoms inside."""
    low, high = atoms.positions[:, axis].min(), atoms.positions[:, axis].max()
    atoms.positions[:, axis] += MARGIN_A - low
    cell = atoms.cell.array.copy()
    cell[axis] = 0.0
    cell[axis, axis] = high - low + 2.0 * MARGIN_A
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


def _check_cell(atoms: ase.Atoms, settings: DeckSettings) -> None:
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise CompactFFError(f"npt needs a structure that is periodic in all directions; pbc is {atoms.pbc}")
    if settings.ensemble == "npt" and settings.cell_changes == "anisotropic" and _is_tilted(atoms):
        raise CompactFFError("cell_changes anisotropic is for upright cells; use isotropic or flexible")
    if atoms.pbc.any() and not atoms.pbc.all() and _is_tilted(atoms):
        raise CompactFFError(
            "LAMMPS has no box that is tilted and open: make the cell upright, or periodic in all directions "
            "with an empty layer"
        )


def _boundary(atoms: ase.Atoms) -> str:
    return " ".join("p" if periodic else "m" for periodic in atoms.pbc)


def _is_tilted(atoms: ase.Atoms) -> bool:
    """Whether the cell's periodic part is anything but upright along the axes."""
    cell = atoms.cell.array[np.ix_(atoms.pbc, atoms.pbc)]
    return bool(np.abs(cell - np.diag(np.diag(cell))).max(initial=0.0) > 1e-8)
