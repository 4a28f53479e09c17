"""``compactff distill``: from structures and a teacher to a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
from compactff_md.cli.report import say_labels, say_run
from compactff_md.teachers import available
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill as run
from compactff_md.training.distill import label
from compactff_md.training.generate import Labels
from compactff_md.training.recipe_files import config_values, make_config, read_config

EXAMPLE = (
    "Example: compactff distill aspirin.xyz --teacher gfn2-xtb --size ultra-tiny --minutes 5 --out aspirin"
)

Structures = Annotated[
    Path | None, typer.Argument(help="Structures to start from, in any format of ASE; may be in the recipe.")
]
TeacherName = Annotated[
    str | None,
    typer.Option("--teacher", help=f"One of {', '.join(available())}, or module:callable. Default gfn2-xtb."),
]
TeacherArgument = Annotated[
    list[str] | None,
    typer.Option("--teacher-arg", metavar="NAME=VALUE", help="For the teacher, such as charge=-1."),
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        help="To label, train on and validate with. Default 1,600; 4,800 where a student moves the atoms.",
    ),
]
Temperatures = Annotated[
    list[float] | None,
    typer.Option("--temperature", help="In K, of the sampling; may be repeated. Default 300, 600, 1000."),
]

Dask = Annotated[
    str | None,
    typer.Option("--dask", help="Label on a cluster: address of a dask scheduler, or local for one here."),
]
LabelsOnly = Annotated[
    bool,
    typer.Option(
        "--labels-only",
        help="End when the labels are there, without a student. The same command without it then trains, "
        "also on another machine with the out folder; rounds and labelled files need the teacher there.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLE)(distill)


def distill(
    out: Out,
    structures: Structures = None,
    teacher: TeacherName = None,
    size: Size = None,
    start_from: StartFrom = None,
    minutes: Minutes = None,
    frames: Frames = None,
    temperature: Temperatures = None,
    teacher_arg: TeacherArgument = None,
    seed: Seed = None,
    device: Device = None,
    recipe: Recipe = None,
    dask: Dask = None,
    labels_only: LabelsOnly = False,
    set_: Set = None,
) -> None:
    """Distil a teacher into a student: sample, label, train, test.

    A run that was interrupted goes on with the same command, one with --labels-only without that.
    """
    options = given(
        structures=str(structures) if structures else None,
        teacher=teacher,
        size=size or size_of_start(start_from, recipe),
        start_from=start_from,
        minutes=minutes,
        seed=seed,
        device=device,
        teacher_arguments=assignments(teacher_arg, "--teacher-arg"),
        sampling=given(frames=frames, temperatures_K=temperature, dask=dask),
    )
    config = resolve(recipe, merged(options, nested(assignments(set_, "--set"))))
    with resumable(), reporter() as progress:
        made = label(config, out, progress) if labels_only else run(config, out, progress)
    if leads():
        say_labels(made) if isinstance(made, Labels) else say_run(made)


def resolve(recipe: Path | None, options: dict[str, Any]) -> DistillConfig:
    """Recipe and options together; options win, field by field."""
    if recipe is None:
        return make_config(DistillConfig, options, "the options")
    top = {name: value for name, value in options.items() if not isinstance(value, dict)}
    base = config_values(read_config(DistillConfig, recipe, **top))
    beside = recipe.parent / Path(base["structures"] or "").name
    if "structures" not in options and beside.is_file() and not Path(base["structures"]).is_file():
        base["structures"] = str(beside)  # the recipe was moved with its structures, as into an installation
    return make_config(DistillConfig, merged(base, options), "recipe and options")
