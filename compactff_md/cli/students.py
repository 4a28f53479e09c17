"""``compactff students``: what comes with the package."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from compactff_md.artifact import read_metadata
from compactff_md.cli.console import out, print_json, say
from compactff_md.student import SHIPPED
from compactff_md.training.distill import ALL_TESTS

TITLES = ("name", "parameters", "elements", "teacher", "meV/A", "R2")
NUMBERS = ("parameters", "meV/A", "R2")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: compactff students; compactff info organic-tiny")(students)


def students(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the students that come with the package; each is loaded by its name."""
    rows = [_row(name) for name in SHIPPED]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in TITLES:
        table.add_column(title, no_wrap=True, justify="right" if title in NUMBERS else "left")
    for row in rows:
        tests = row["forces"]
        found = tests[ALL_TESTS] if ALL_TESTS in tests else next(iter(tests.values()), None)
        errors = (f"{found['rmse_meV_per_A']:.0f}", f"{found['r2']:.4f}") if found else ("", "")
        table.add_row(row["name"], f"{row['parameters']:,}", row["elements"], row["teacher"], *errors)
    out.print(table)
    say("Force RMSE in meV/A and R2: unseen frames at all temperatures together. More, and what each is for")
    say("and what not, is in its card: compactff students --json names them.")


def _row(name: str) -> dict[str, Any]:
    path = SHIPPED[name]
    metadata = read_metadata(path)
    tests = {key: found["forces"] for key, found in metadata.metrics.items() if key.startswith("test")}
    return {
        "name": name,
        "parameters": metadata.num_parameters,
        "elements": " ".join(metadata.elements),
        "teacher": (metadata.teacher or {}).get("name", "unknown"),
        "forces": tests,
        "file": str(path),
        "card": str(path.with_suffix(".md")),
    }
