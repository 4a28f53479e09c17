"""``compactff export``: a student for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from compactff_md.cli.console import say_files
from compactff_md.cli.options import given
from compactff_md.contacts import check_contacts
from compactff_md.errors import CompactFFError
from compactff_md.export import FORMATS
from compactff_md.structure import Structure, read_structures
from compactff_md.student import Student, load

EXAMPLE = "Example: compactff export aspirin --format torchscript --structure aspirin.xyz --out aspirin.pt"
# What `distill` leaves beside the student, and how many of its frames the export is checked on.
TRAINING_FRAMES = "train.xyz"
CHECKED_FRAMES = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(export)


def export(
    student: Annotated[str, typer.Argument(help="Student file, or the folder that made it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "torchscript",
    structure: Annotated[
        Path | None,
        typer.Option("--structure", help="Fix atoms and periodicity, as OpenMM's TorchForce needs them."),
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32 (default) or float64.")] = None,
    skin: Annotated[float | None, typer.Option("--skin", help="Of the neighbour list, in A.")] = None,
) -> None:
    """Write a student for another program, checked against the student itself."""
    loaded = load(student)
    options = given(dtype=dtype, skin_A=skin)
    if format == "torchscript":
        options.update(_for_torchscript(loaded, structure))
    elif format in FORMATS and (structure is not None or skin is not None):
        raise CompactFFError(f"--structure and --skin are for torchscript; LAMMPS tells a file for {format}")
    path = loaded.export(out, format, **options)
    say_files({format: path})


def _for_torchscript(student: Student, structure: Path | None) -> dict[str, Any]:
    """What the file is made for, and what it is checked on."""
    checked = training_frames(student)
    if structure is None:
        return {"check_structures": checked}
    atoms = _read(structure)
    return {"numbers": atoms.numbers, "pbc": atoms.pbc, "check_structures": [*checked, atoms]}


def training_frames(student: Student) -> list[Any]:
    """A few of the frames that the student was trained on, where they lie beside its file."""
    path = student.path.with_name(TRAINING_FRAMES) if student.path else None
    if path is None or not path.is_file():
        return []
    frames = read_structures(path)
    return frames[:: max(1, len(frames) // CHECKED_FRAMES)][:CHECKED_FRAMES]


def _read(path: Path) -> Structure:
    """The last structure of a file, without overlapping atoms."""
    structure = Structure.from_ase(read_structures(path, "-1")[0])
    check_contacts(structure, str(path))
    return structure
