"""``compactff info``: what a student's file tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from compactff_md.artifact import StudentMetadata, read_metadata
from compactff_md.cli.console import out, print_json
from compactff_md.cli.report import error_table
from compactff_md.student import student_file


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: compactff info aspirin/student.safetensors --json")(info)


def info(
    student: Annotated[str, typer.Argument(help="Student file, or the folder that made it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a student is, from its file alone."""
    path = student_file(student)
    facts = facts_of(path, read_metadata(path))
    if as_json:
        print_json(facts)
        return
    errors = facts.pop("metrics")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(_readable(value)))
    out.print(table)
    _print_errors(errors)


def facts_of(path: Path, metadata: StudentMetadata) -> dict[str, Any]:
    """Metadata with what follows from them and the file's size."""
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        **metadata.model_dump(),
        "receptive_field_A": metadata.cutoff_A * metadata.num_interactions,
    }


def _print_errors(errors: dict[str, Any]) -> None:
    """The table of a training where they have its form, else every number."""
    try:
        table = error_table(errors)
    except (KeyError, TypeError, AttributeError):  # a student that was described by hand
        out.print(Text(f"metrics: {_readable(errors)}"), soft_wrap=True)
        return
    if errors:
        out.print()
        out.print(table)


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_readable(leaf)}" for name, leaf in _leaves(value)) or "none"
    if isinstance(value, list):
        return ", ".join(_readable(part) for part in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "not known" if value is None else str(value)


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested entries as dotted names."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
