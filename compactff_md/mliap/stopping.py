"""How a student in LAMMPS says that it cannot go on: one message, and no rank left waiting."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import traceback
from typing import Any

from compactff_md.errors import CompactFFError
from compactff_md.mliap.messages import Messages

# Where process managers tell a rank its number, before LAMMPS can be asked.
RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "MV2_COMM_WORLD_RANK")
# And how many ranks there are; not what a whole batch job may have.
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "MV2_COMM_WORLD_SIZE")

# Process managers pass on what ranks print when they come to it, and at an abort not always what was left.
PASSED_ON_S = 1.0


class StoppedError(CompactFFError):
    """Bad input that every rank sees at the same moment, so that LAMMPS ends as usual."""


def stopped(message: str, rank: int | None = None) -> StoppedError:
    """Make an exception that LAMMPS prints as one line, on the first rank only.

    LAMMPS gives exceptions to ``sys.excepthook``, which prints a traceback; then it ends with its own
    error, that Python failed. The hook is put back as soon as it has been used. ``rank`` is that of
    :func:`first_rank`.
    """
    usual = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        sys.excepthook = usual
        if not isinstance(error, StoppedError):
            usual(kind, error, trace)
        elif first_rank(rank):
            say(str(error))

    sys.excepthook = show
    return StoppedError(message)


def end_all_ranks(error: Exception, messages: Messages | None) -> None:
    """End the simulation from one rank: LAMMPS' own way of ending would wait for the others.

    What LAMMPS has written so far is brought to the disk. Does not return.
    """
    if isinstance(error, CompactFFError):
        say(str(error))
    else:
        traceback.print_exc()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    if messages is not None:
        time.sleep(PASSED_ON_S)
        messages.abort()
    os._exit(1)


def say(message: str) -> None:
    """Print a line on the standard error."""
    sys.stderr.write(f"compactff: {message}\n")
    sys.stderr.flush()


def first_rank(rank: int | None = None) -> bool:
    """Whether this process is the first of a simulation, or alone.

    By ``rank``, its number in the simulation, where LAMMPS told it; process managers count those of other
    partitions and simulations as well.
    """
    if rank is not None:
        return rank == 0
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def is_alone() -> bool:
    """Whether no process manager tells of other ranks, where LAMMPS cannot be asked; PMIx tells no size."""
    sizes = [os.environ[name] for name in SIZE_VARIABLES if name in os.environ]
    return all(size == "1" for size in sizes) and (bool(sizes) or "PMIX_RANK" not in os.environ)
