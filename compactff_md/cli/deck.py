"""``compactff deck``: a folder that LAMMPS runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import ase
import typer

from compactff_md.cli.console import say, say_files
from compactff_md.cli.dynamics import (
    Ensemble,
    Minimise,
    Pressure,
    Start,
    Steps,
    StudentFile,
    Temperature,
    Time,
    Timestep,
    VelocitySeed,
    picoseconds,
)
from compactff_md.cli.options import Set, assignments, given
from compactff_md.contacts import check_contacts
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, read_structures
from compactff_md.student import load

Thermostat = Annotated[
    str | None, typer.Option("--thermostat", help="Of nvt: nose-hoover (default) or langevin.")
]
Units = Annotated[str | None, typer.Option("--units", help="LAMMPS' metal (default) or real.")]
Ranks = Annotated[int | None, typer.Option("--ranks", help="MPI processes of the command line; default 1.")]
Repeat = Annotated[
    tuple[int, int, int] | None, typer.Option("--repeat", help="Cells in each direction, such as 2 2 2.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: compactff deck crystal.cif --student run --ensemble npt --temperature 300 "
        "--time 100ps --out npt; compactff lammps npt --ranks 4"
    )(deck)


def deck(
    structure: Start,
    student: StudentFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the deck.")],
    ensemble: Ensemble = None,
    temperature: Temperature = None,
    pressure: Pressure = None,
    timestep: Timestep = None,
    steps: Steps = None,
    time: Time = None,
    thermostat: Thermostat = None,
    units: Units = None,
    ranks: Ranks = None,
    kokkos: Annotated[bool, typer.Option("--kokkos", help="For a GPU, through LAMMPS' Kokkos.")] = False,
    ghost_neighbours: Annotated[
        bool, typer.Option("--ghost-neighbours", help="Compute ghosts too instead of asking other ranks.")
    ] = False,
    repeat: Repeat = None,
    minimise: Minimise = False,
    seed: VelocitySeed = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a deck in --out, and remove what its runs left.")
    ] = False,
    set_: Set = None,
) -> None:
    """Write a folder that LAMMPS runs as it is: atoms, student, a deck, and one that goes on."""
    options = given(
        ensemble=ensemble,
        temperature_K=temperature,
        pressure_bar=pressure,
        timestep_fs=timestep,
        steps=steps,
        time_ps=picoseconds(time, "--time"),
        thermostat=thermostat,
        units=units,
        ranks=ranks,
        kokkos=kokkos or None,
        ghost_neighbours=ghost_neighbours or None,
        minimise=minimise or None,
        seed=seed,
    )
    settings = DeckSettings(**{**options, **assignments(set_, "--set")})
    atoms = read_structures(structure, "-1")[0]
    check_contacts(Structure.from_ase(atoms), str(structure))
    loaded = load(student)
    if repeat is not None:
        atoms = _repeated(atoms, repeat)
    written = write_deck(atoms, loaded.network, loaded.metadata, settings, out, overwrite=overwrite)
    names = ("deck", "continuation", "data", "student")
    say_files({name: getattr(written, name) for name in names})
    ranks_text = f" --ranks {settings.ranks}" if settings.ranks > 1 else ""
    say(f"run it:    compactff lammps {out}{ranks_text}{' --kokkos' if settings.kokkos else ''}")
    say(f"or there:  {written.command}")


def _repeated(atoms: ase.Atoms, repeat: tuple[int, int, int]) -> ase.Atoms:
    lengths_A = atoms.cell.lengths()
    missing = [
        name for name, count, side in zip("abc", repeat, lengths_A, strict=True) if count > 1 and not side
    ]
    if missing or min(repeat) < 1:
        lacks = (
            f"the structure has no cell vector {', '.join(missing)}: 1 there" if missing else "1 or more each"
        )
        raise CompactFFError(f"--repeat is {' '.join(map(str, repeat))}: {lacks}")
    return atoms.repeat(repeat)
