"""What the commands print, and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compactff_md.files import plain

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def complain(message: str) -> None:
    """Print an error in red on the standard error, unwrapped, so that it can be searched and copied."""
    Console(stderr=True).print(Text(f"error: {message}", style="bold red"), soft_wrap=True)


def say(message: str) -> None:
    """Print a line for the reader on the standard output."""
    Console().print(Text(message), soft_wrap=True)


def print_json(content: Any) -> None:
    """Print JSON for a program on the standard output."""
    sys.stdout.write(json.dumps(plain(content), indent=2) + "\n")


def say_files(files: dict[str, Path | str]) -> None:
    """Tell where the files of a command are: what -> path."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, path in files.items():
        table.add_row(what, Text(str(path)))
    console = Console()
    console.print("Files:")
    console.print(table, soft_wrap=True)
