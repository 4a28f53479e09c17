"""``compactff lammps``: a deck, run by a LAMMPS that is found."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compactff_md.cli.console import complain, err, say
from compactff_md.cli.options import texts
from compactff_md.engines.lammps_deck import DECK
from compactff_md.engines.lammps_installation import Lammps, find_lammps
from compactff_md.engines.lammps_run import (
    DeckPlan,
    command_of,
    continuation,
    read_plan,
    run_deck,
    run_there,
)
from compactff_md.engines.lammps_text import GUARDS
from compactff_md.errors import CompactFFError

REMEDY = (
    "take a shorter timestep, minimise the structure first, or ask whether the student knows such structures"
)
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", metavar="NAME=VALUE", help="A variable of the deck, such as steps=1000."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: compactff lammps npt --ranks 4 --var steps=1000")(lammps)


def lammps(
    deck: Annotated[Path, typer.Argument(help="A deck, or the folder that compactff deck wrote.")],
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="MPI processes.")] = 1,
    kokkos: Annotated[bool, typer.Option("--kokkos", help="On a GPU, through LAMMPS' Kokkos.")] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="On this machine, with --kokkos.")] = 1,
    var: Variables = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where the folder holds a run, which is removed.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the command and its variables only.")] = False,
) -> None:
    """Run a deck with the LAMMPS that lammps/build made, or another; its exit code is passed on.

    A run of a folder that compactff deck wrote goes on by its continue.lammps.
    """
    variables = texts(var, "--var")
    plan = read_plan(deck, variables)
    for warning in plan.warnings:
        err.print(f"warning: {warning}", soft_wrap=True, markup=False)
    found = find_lammps()
    words = command_of(found, plan, ranks=ranks, kokkos=kokkos, gpus=gpus, variables=variables)
    if show:
        needed = ("PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
        values = found.environment(ranks)
        exports = [f"{name}={shlex.quote(values[name])}" for name in needed if name in values]
        say(f"cd {shlex.quote(str(plan.path.parent.resolve()))}")
        say(" ".join([*exports, shlex.join(words)]))
        return
    options = [*(["--ranks", str(ranks)] if ranks > 1 else []), *(["--kokkos"] if kokkos else [])]
    options += ["--gpus", str(gpus)] if gpus > 1 else []
    left = run_there(plan.path.parent) if plan.path.name == DECK else []
    if left and not overwrite:
        names = ", ".join(path.name for path in left)
        how = _going_on(plan, options) or "take another folder, as there is no restart file to go on from"
        raise CompactFFError(
            f"{plan.path.parent} holds a run ({names}), which {DECK} would begin anew; allow --overwrite, "
            f"or {how}"
        )
    for path in left:  # the new run would be mixed with them, and go on from their restart files
        path.unlink()
    try:
        code = _run(found, plan, words, ranks)
    except KeyboardInterrupt as error:
        how = _going_on(plan, options)
        if not how and run_there(plan.path.parent):
            how = "there is no restart file yet to go on from: --overwrite begins anew"
        raise KeyboardInterrupt(f"interrupted; {how}" if how else "interrupted") from error
    if code:
        raise typer.Exit(code)


def _going_on(plan: DeckPlan, options: list[str]) -> str:
    """How the run in a deck's folder goes on from its last restart file; empty where it cannot."""
    found = continuation(plan.path.parent)
    if found is None:
        return ""
    deck, variables = found
    pairs = [word for name, value in variables.items() for word in ("--var", f"{name}={value}")]
    words = shlex.join(["compactff", "lammps", str(deck), *options, *pairs])
    return f"go on with: {words} (and --var steps=N, for what is left)"


def _run(found: Lammps, plan: DeckPlan, words: list[str], ranks: int) -> int:
    """LAMMPS' lines go to the standard output, a bar to the standard error where that is a terminal."""
    columns = (BarColumn(16), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
    bars = Progress(TextColumn("{task.description}"), *columns, console=err, disable=not sys.stderr.isatty())
    with bars:
        bar = bars.add_task("dynamics", total=plan.total_steps, state="")
        first: list[int] = []
        blown_up: list[str] = []

        def line(text: str) -> None:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
            if any(f"fix-id {name} " in text for name in GUARDS):
                blown_up.append(text)

        def step(number: int) -> None:
            first.append(number)
            bars.update(bar, completed=number - first[0], state=f"step {number}")

        code = run_deck(found, plan, words, ranks, line, step)
    if blown_up:
        complain(f"the run blew up, and was ended; {REMEDY}")
    return code
