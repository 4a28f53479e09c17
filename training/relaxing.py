"""The start of a sampling: time for labels, and relaxed structures, each kept as soon as it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.files import write_json
from compactff_md.training.packing import decode_atoms
from compactff_md.training.pool import Pool
from compactff_md.training.progress import Reporter
from compactff_md.training.tasks import relax_task

CLOCK_SECONDS = 5.0
RELAXING_SHARE = 0.5  # of the time for labels, at most
ALL_IN_ONE_FILE = "relaxed.json"  # of runs that an earlier version began


class Clock:
    """Time spent on labelling, over interruptions."""

    def __init__(self, path: Path, minutes: float | None) -> None:
        self.path = path
        self.limit_s = float("inf") if minutes is None else 60.0 * minutes
        before = json.loads(path.read_text())["seconds"] if path.is_file() else 0.0
        self.started = self.saved = time.monotonic()
        self.started -= before

    def elapsed(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.started

    def left(self, share: float = 1.0) -> float:
        """Seconds that are left of a share of the time; infinite where there is no limit."""
        return share * self.limit_s - self.elapsed()

    def save_now_and_then(self) -> None:
        """Write the seconds down where that was not done lately."""
        if time.monotonic() - self.saved > CLOCK_SECONDS:
            write_json(self.path, {"seconds": self.elapsed()})
            self.saved = time.monotonic()


def relax_all(
    structures: Sequence[ase.Atoms],
    members: Sequence[int],
    max_steps: int,
    pool: Pool,
    folder: Path,
    reporter: Reporter,
    clock: Clock,
) -> dict[int, ase.Atoms]:
    """Relax the structures that ``members`` names, but those that are there already.

    Those whose time was over go on where there is time now.

    Raises
    ------
    CompactFFError
        If the teacher fails on a structure as it is given.
    """
    known = _of_an_earlier_version(folder)
    paths = {member: folder / f"relaxed-{member:05d}.json" for member in members}
    begun = {m: _read(path) for m, path in paths.items() if m not in known and path.is_file()}
    ended = {
        m for m, result in begun.items() if not (result["out_of_time"] and clock.left(RELAXING_SHARE) > 0)
    }
    missing = [member for member in members if member not in known and member not in ended]
    if missing:
        reporter.start("relaxing structures", len(members))
        done: set[int] = set()

        def on_frames(index: int, frames: int) -> None:
            if frames:
                done.add(index)
            clock.save_now_and_then()
            reporter.update(len(members) - len(missing) + len(done))

        tasks = []
        for m in missing:
            start, calls = structures[m], 0
            if m in begun:
                start, calls = decode_atoms(begun[m]["atoms"]), begun[m]["calls"]
            tasks.append(relax_task(start, max_steps, f"structure {m}", paths[m], calls))
        results = pool.run(tasks, on_frames, lambda: max(0.0, clock.left(RELAXING_SHARE)))
        reporter.finish()
        _report_failures(dict(zip(missing, results, strict=True)), reporter)
    known |= {member: _read(paths[member])["atoms"] for member in members if member not in known}
    return {member: decode_atoms(known[member]) for member in members}


def relaxation_calls(folder: Path) -> int:
    """Teacher calls that the relaxations in a folder took."""
    return sum(_read(path)["calls"] for path in folder.glob("relaxed-*.json"))


def _report_failures(results: dict[int, dict[str, Any]], reporter: Reporter) -> None:
    failed = {member: result["failure"] for member, result in results.items() if result["failure"]}
    if failed:
        first = min(failed)
        reporter.note(
            f"the relaxation of {len(failed)} of {len(results)} structures ended early, where the teacher "
            f"failed; of structure {first}: {failed[first]}"
        )


def _of_an_earlier_version(folder: Path) -> dict[int, Any]:
    """Structures of such a run, but those that its teacher lost in NaN."""
    path = folder / ALL_IN_ONE_FILE
    found = _read(path) if path.is_file() else {}
    return {
        int(member): content
        for member, content in found.items()
        if np.isfinite(np.array(content["positions"], dtype=float)).all()
    }


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
