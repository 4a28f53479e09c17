"""``compactff evaluate``: errors of a student on labelled frames."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from compactff_md.cli.console import out, print_json, say
from compactff_md.cli.options import given
from compactff_md.cli.report import error_table, stress_lines
from compactff_md.cli.train import EnergyKey, ForcesKey, StressKey
from compactff_md.errors import CompactFFError
from compactff_md.files import plain
from compactff_md.student import load
from compactff_md.training.evaluation import evaluate as run
from compactff_md.training.keys import LabelKeys
from compactff_md.training.recipe_files import make_config

EXAMPLE = "Example: compactff evaluate organic-tiny runs/my-molecule/test_300K.xyz"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(evaluate)


def evaluate(
    student: Annotated[str, typer.Argument(help="Name of a shipped student, a file or a run's folder.")],
    files: Annotated[list[Path], typer.Argument(help="Labelled frames (extxyz or any format of ASE).")],
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell a student's errors on frames with energies in eV, forces in eV/A, stresses in eV/A^3.

    Energies count per atom, up to a constant for each composition.
    """
    keys = given(energy=energy_key, forces=forces_key, stress=stress_key)
    twice = [name for name, count in Counter(path.stem for path in files).items() if count > 1]
    if twice:
        raise CompactFFError(f"two files are called {twice[0]}; give one of them another name")
    names = {path.stem: path for path in files}
    errors = plain(run(load(student), names, make_config(LabelKeys, keys, "the options")))
    if as_json:
        print_json(errors)
        return
    out.print(error_table(errors))
    for line in stress_lines(errors):
        say(line)
