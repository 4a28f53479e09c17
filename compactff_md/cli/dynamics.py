"""Options that the commands for molecular dynamics share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from compactff_md.errors import CompactFFError

PS_PER_UNIT = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6}

Start = Annotated[Path, typer.Argument(help="Any format of ASE; of several frames the last is taken.")]
StudentFile = Annotated[str, typer.Option("--student", help="Student file, or the folder that made it.")]
Ensemble = Annotated[str | None, typer.Option("--ensemble", help="nve, nvt (default) or npt.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="In K; default 300.")]
Pressure = Annotated[float | None, typer.Option("--pressure", help="In bar, for npt; default 1.")]
Timestep = Annotated[float | None, typer.Option("--timestep", help="In fs; default 0.5.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Length of the run in steps.")]
Time = Annotated[
    str | None,
    typer.Option("--time", help="Length of the run, such as 500fs, 10ps or 1ns; a bare number is in ps."),
]
Minimise = Annotated[bool, typer.Option("--minimise", help="Relax the structure first.")]
VelocitySeed = Annotated[int | None, typer.Option("--seed", help="Of velocities and thermostat.")]


def picoseconds(text: str | None, option: str) -> float | None:
    """Read a time such as ``10ps``; a bare number is in ps.

    Raises
    ------
    CompactFFError
        If it is anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(fs|ps|ns|us)?\s*", text)
    try:
        return float(match[1]) * PS_PER_UNIT[match[2] or "ps"]  # type: ignore[index]
    except (TypeError, ValueError):
        raise CompactFFError(
            f"{option} is {text!r}; expected a time such as 500fs, 10ps or 1ns (a bare number is in ps)"
        ) from None
