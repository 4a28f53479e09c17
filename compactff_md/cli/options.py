"""Options that several commands share, and how text of the command line becomes values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from compactff_md.errors import CompactFFError
from compactff_md.student import load
from compactff_md.students import SIZES
from compactff_md.training.progress import Reporter, RichReporter

Size = Annotated[str | None, typer.Option("--size", help=f"Of the student: {', '.join(SIZES)}.")]
StartFrom = Annotated[
    str | None,
    typer.Option(
        "--start-from", help="Student to go on with: name of a shipped one, a file or a run's folder."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; the same command resumes it.")]
Minutes = Annotated[
    float | None, typer.Option("--minutes", help="Wall-clock limit; the training still anneals to its end.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of everything that is random.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Recipe = Annotated[
    Path | None, typer.Option("--recipe", help="YAML or TOML with the same fields; options here outrank it.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the recipe; may be repeated."),
]


def size_of_start(start_from: str | None, recipe: Path | None) -> str | None:
    """Size of the student to start from, where no recipe may say another."""
    return load(start_from).metadata.size if start_from is not None and recipe is None else None


def leads() -> bool:
    """Whether this process is the one that talks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def reporter() -> Reporter:
    """Progress bars in the leading process, silence in the others."""
    return RichReporter() if leads() else Reporter()


def assignments(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """``name=value`` pairs as a dict; values are read as YAML: numbers, true, lists in brackets.

    Raises
    ------
    CompactFFError
        For an entry without ``=`` or a value that is not YAML.
    """
    values: dict[str, Any] = {}
    for name, text in texts(pairs, option).items():
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            pair = f"{name}={text}"
            raise CompactFFError(f"{option} {pair!r}: the value cannot be read ({error})") from error
    return values


def texts(pairs: list[str] | None, option: str) -> dict[str, str]:
    """``name=value`` pairs as a dict, each value as it was given.

    Raises
    ------
    CompactFFError
        For an entry without ``=``.
    """
    values = {}
    for pair in pairs or []:
        name, sign, text = pair.partition("=")
        if not (name and sign):
            raise CompactFFError(f"{option} {pair!r}: expected NAME=VALUE, such as {option} seed=1")
        values[name] = text
    return values


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Turn ``{"sampling.frames": 10}`` into ``{"sampling": {"frames": 10}}``.

    Raises
    ------
    CompactFFError
        For a field that is given as a whole and in parts.
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        parts = name.split(".")
        for k in range(1, len(parts)):
            whole = ".".join(parts[:k])
            if whole in values:
                raise CompactFFError(
                    f"--set gives {whole} and {name}; give the field as a whole, or its parts"
                )
        place = tree
        for parent in parts[:-1]:
            place = place.setdefault(parent, {})
        place[parts[-1]] = value
    return tree


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the entries of ``over`` in place of its own, nested dicts entry by entry."""
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def given(**options: Any) -> dict[str, Any]:
    """Options that were given: those that are neither None nor empty."""
    return {name: value for name, value in options.items() if value not in (None, [], {}, ())}
