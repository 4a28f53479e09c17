"""What the commands print, and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
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
    """Tell where the files of a command are: what -> path; a line each, unwrapped, to be copied."""
    width = max(len(what) for what in files)
    for what, path in {
        "Files:": "",
        **{f"  {what:<{width}}  ": path for what, path in files.items()},
    }.items():
        say(f"{what}{path}")
