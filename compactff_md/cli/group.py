"""How the command line ends: every error as one red message, and an exit code for each kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from compactff_md.cli.console import complain
from compactff_md.errors import CompactFFError
from compactff_md.files import NO_SPACE

EXIT_STOPPED = 1  # a simulation that ended early, with everything written kept
EXIT_INPUT = 2  # what was given is wrong, or something is missing here
EXIT_INTERNAL = 3  # a mistake of this package
EXIT_INTERRUPTED = 130  # what shells give for Ctrl-C
DEBUG = "--debug"


class StoppedError(CompactFFError):
    """Raised by a command whose simulation ended early."""


class Commands(TyperGroup):
    """The group of all commands; without ``--debug`` no exception leaves it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` from anywhere in the line."""
        if DEBUG in args:
            args = [DEBUG, *(arg for arg in args if arg != DEBUG)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen."""
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Exception) as error:
            if type(error).__module__.partition(".")[0] in ("typer", "click"):
                raise  # usage errors and exits, which typer itself turns into messages and codes
            message, code = verdict(error)
        complain(message)
        raise typer.Exit(code)


@contextmanager
def resumable() -> Iterator[None]:
    """Of a command that goes on where it was when it is given again: Ctrl-C says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; the same command goes on where it was") from error


def verdict(error: BaseException) -> tuple[str, int]:
    """Message and exit code for an exception."""
    if isinstance(error, StoppedError):
        return str(error), EXIT_STOPPED
    if isinstance(error, CompactFFError):
        return str(error), EXIT_INPUT
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", EXIT_INTERRUPTED
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"no space left on the disk ({error}); free some and run the same command again", EXIT_INPUT
    if isinstance(error, OSError):
        return str(error), EXIT_INPUT
    name = type(error).__name__
    return f"this should not happen ({name}: {error}); {DEBUG} shows where, please report it", EXIT_INTERNAL
