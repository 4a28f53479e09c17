"""``compactff train``: from labelled frames to a student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from ase import Atoms

from compactff_md.cli.group import resumable
from compactff_md.cli.options import (
    Device,
    Minutes,
    Out,
    Recipe,
    Seed,
    Set,
    Size,
    StartFrom,
    assignments,
    given,
    leads,
    merged,
    nested,
    reporter,
    size_of_start,
)
from compactff_md.cli.report import say_run
from compactff_md.training.config import TrainConfig
from compactff_md.training.distill import train_from_files
from compactff_md.training.recipe_files import config_values, make_config, read_config

EXAMPLE = "Example: compactff train --train train.xyz --valid valid.xyz --size tiny --minutes 30 --out run"

Train = Annotated[
    list[Path],
    typer.Option("--train", help="Labelled frames (extxyz or any format of ASE); may be repeated."),
]
Test = Annotated[
    list[Path] | None, typer.Option("--test", help="Further frames, evaluated at the end; may be repeated.")
]
Valid = Annotated[
    Path | None,
    typer.Option("--valid", help="Held-out frames; without it 5% of the others, drawn with the seed."),
]
EnergyKey = Annotated[
    str | None, typer.Option("--energy-key", help="Name of the energies; found if not given.")
]
ForcesKey = Annotated[str | None, typer.Option("--forces-key", help="Name of the forces.")]
StressKey = Annotated[str | None, typer.Option("--stress-key", help="Name of the stresses (not virials).")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(train)


def train(
    train: Train,
    out: Out,
    valid: Valid = None,
    test: Test = None,
    size: Size = None,
    start_from: StartFrom = None,
    minutes: Minutes = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    seed: Seed = None,
    device: Device = None,
    recipe: Recipe = None,
    set_: Set = None,
) -> None:
    """Train a student on labelled frames: energies in eV, forces in eV/A, stresses in eV/A^3.

    Names of ASE and of MACE (REF_energy ...) are found by themselves, and energies of isolated atoms are
    kept. Frames whose config_weight is 0 are left out; other weights are not used. A run that was interrupted
    goes on with the same command.
    """
    options = given(
        size=size or size_of_start(start_from, recipe),
        start_from=start_from,
        minutes=minutes,
        seed=seed,
        device=device,
        keys=given(energy=energy_key, forces=forces_key, stress=stress_key),
    )
    options = merged(options, nested(assignments(set_, "--set")))
    base = config_values(read_config(TrainConfig, recipe)) if recipe else {}
    config = make_config(
        TrainConfig, merged(base, options), "recipe and options" if recipe else "the options"
    )
    with resumable(), reporter() as progress:
        result = train_from_files(config, train, out, valid, _by_name(test), progress)
    if leads():
        say_run(result)


def _by_name(files: list[Path] | None) -> dict[str, str | Path | Sequence[Atoms]]:
    """Test files by their names without the suffix, or by their paths where those are not unique."""
    stems = [path.stem for path in files or []]
    unique = len(set(stems)) == len(stems) and not {"train", "valid"} & set(stems)
    return {path.stem if unique else str(path): path for path in files or []}
