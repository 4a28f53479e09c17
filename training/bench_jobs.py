"""Rows of a table that are each made by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def rows_of(module: str, runs: Sequence[Sequence[Any]], jobs: int) -> list[dict[str, Any]]:
    """Call ``python -m module`` with the arguments of each run, ``jobs`` at a time, one thread each.

    The last line that each prints is its row, as JSON.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def row(arguments: Sequence[Any]) -> dict[str, Any]:
        command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(row, runs))
