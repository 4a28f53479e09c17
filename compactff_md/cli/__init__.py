"""The command ``compactff``: parse, call, print."""

from __future__ import annotations

from typing import Annotated

import typer

import compactff_md.cli.deck as deck
import compactff_md.cli.distill as distill
import compactff_md.cli.doctor as doctor
import compactff_md.cli.evaluate as evaluate
import compactff_md.cli.export as export
import compactff_md.cli.info as info
import compactff_md.cli.lammps as lammps
import compactff_md.cli.md as md
import compactff_md.cli.students as students
import compactff_md.cli.train as train
import compactff_md.cli.validate as validate
from compactff_md import __version__
from compactff_md.cli.group import Commands

app = typer.Typer(
    cls=Commands,
    help="Distil slow potentials into compact students, and run them in molecular dynamics.",
    epilog="Start with: compactff doctor; compactff distill aspirin.xyz --out aspirin",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (distill, train, evaluate, export, md, deck, lammps, validate, students, info, doctor):
    module.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compactff {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line; the entry point of the package."""
    app(prog_name="compactff")


__all__ = ["app", "main"]
