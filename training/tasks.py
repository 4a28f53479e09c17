"""Work for a teacher as plain data, so that it can be sent to another process; and how it is done."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.files import write_json
from compactff_md.training.asking import Asking, answered_together
from compactff_md.training.chains import Chain
from compactff_md.training.config import SamplingConfig
from compactff_md.training.explore import Visited, explore
from compactff_md.training.journal import Journal
from compactff_md.training.labelling import FEWEST_FAILURES, LabelCounts, Labeller, TooManyFailuresError
from compactff_md.training.packing import decode_atoms, encode_atoms
from compactff_md.training.planning import ChainSpec
from compactff_md.training.sampling import relax

Task = dict[str, Any]
Run = tuple[ase.Atoms, float, tuple[int, ...]]
FAILED_CHAINS = 4  # that one process gives up before the run does


def relax_task(
    atoms: ase.Atoms, steps: int, name: str, path: Path | None = None, calls_before: int = 0
) -> Task:
    """Relax one structure; the result is ``{"atoms", "calls", "failure", "out_of_time"}``, in a file as well.

    ``calls`` has those before in it; ``failure`` says why the relaxation ended early, and is empty where
    nothing failed; ``out_of_time`` tells that its time was over.
    """
    return {
        "kind": "relax",
        "atoms": encode_atoms(atoms),
        "steps": steps,
        "name": name,
        "path": None if path is None else str(path),
        "calls_before": calls_before,
    }


def chain_task(
    spec: ChainSpec,
    structures: dict[int, ase.Atoms],
    folder: Path,
    config: SamplingConfig,
    alone: bool = False,
    driver_version: str | None = None,
) -> Task:
    """Make one chain's frames in its folder, ``alone`` or among others; the result is its counts.

    A driver of another version than ``driver_version`` is refused.
    """
    return {
        "kind": "chain",
        "alone": alone,
        "spec": spec.model_dump(mode="json"),
        "structures": {str(member): encode_atoms(structures[member]) for member in spec.members},
        "folder": str(folder),
        "config": config.model_dump(mode="json"),
        "driver_version": driver_version,
    }


def flock_task(chains: list[Task]) -> Task:
    """Make several chains with the same driver side by side; the result is the sum of their counts."""
    return {"kind": "flock", "chains": chains}


def explore_task(runs: list[Run], steps: int, spacing_steps: int, config: SamplingConfig) -> Task:
    """Let a student run from several structures side by side; a run is one, a temperature in K and a seed.

    The result is ``{"visited": [...]}`` with a list of frames for each run.
    """
    return {
        "kind": "explore",
        "runs": [
            {"atoms": encode_atoms(atoms), "temperature_K": kelvin, "seed": list(seed)}
            for atoms, kelvin, seed in runs
        ],
        "steps": steps,
        "spacing_steps": spacing_steps,
        "config": config.model_dump(mode="json"),
    }


def perform(task: Task, labeller: Labeller, report: Callable[[int], None]) -> dict[str, Any]:
    """Do one task; ``report`` gets the number of frames made so far."""
    if task["kind"] == "relax":
        return _relax(task, labeller, report)
    if task["kind"] == "explore":
        return _explore(task, labeller, report)
    chains = [(_chain(content, labeller), content["alone"]) for content in task.get("chains", [task])]
    made = [0] * len(chains)

    def running(k: int) -> Asking[LabelCounts]:
        def count(frames: int) -> None:
            made[k] = frames
            report(sum(made))

        return _running(*chains[k], labeller.totals, count, task.get("time_limit_s"))

    total = LabelCounts()
    for counts in answered_together([running(k) for k in range(len(chains))], chains[0][0].mover):
        total.add(counts)
    content = asdict(total)
    del content["last_failure"]
    return content


def _relax(task: Task, labeller: Labeller, report: Callable[[int], None]) -> dict[str, Any]:
    counts = labeller.counts = LabelCounts()
    path = Path(task["path"]) if task["path"] else None
    labeller.journal = None if path is None else Journal(path.with_suffix(".journal"))
    start, limit_s, begun = decode_atoms(task["atoms"]), task.get("time_limit_s"), time.monotonic()
    relaxed = relax(start, labeller, task["steps"], task["name"], limit_s)
    result = {
        "atoms": encode_atoms(relaxed),
        "calls": task["calls_before"] + counts.calls,
        "failure": counts.last_failure,
        "out_of_time": limit_s is not None and time.monotonic() - begun > limit_s,
    }
    if path is not None and labeller.journal is not None:
        write_json(path, result)
        labeller.journal.clear()
    labeller.journal = None
    report(1)
    return result


def _chain(task: Task, labeller: Labeller) -> Chain:
    """A chain whose failures are its own."""
    structures = {int(member): decode_atoms(atoms) for member, atoms in task["structures"].items()}
    spec, config, folder = ChainSpec(**task["spec"]), SamplingConfig(**task["config"]), Path(task["folder"])
    return Chain(spec, structures, folder, config, copy.copy(labeller), task["driver_version"])


def _running(
    chain: Chain,
    alone: bool,
    totals: LabelCounts,
    report: Callable[[int], None],
    time_limit_s: float | None,
) -> Asking[LabelCounts]:
    """Run a chain; one of several that the teacher cannot do ends with what it has.

    Raises
    ------
    TooManyFailuresError
        If it is the only one, or the teacher fails on other chains as well.
    """
    counts = chain.labeller.counts
    try:
        yield from chain.running(report, time_limit_s)
    except TooManyFailuresError:
        chain.give_up()
        totals.add(counts)
        if alone:
            raise
        totals.check(chain.config.max_failures, FAILED_CHAINS * FEWEST_FAILURES)
        return counts
    totals.add(counts)
    return counts


def _explore(task: Task, labeller: Labeller, report: Callable[[int], None]) -> dict[str, Any]:
    config, done = SamplingConfig(**task["config"]), 0
    ends = time.monotonic() + task.get("time_limit_s", inf)

    def exploring(run: dict[str, Any]) -> Asking[list[Visited]]:
        nonlocal done
        atoms, rng = decode_atoms(run["atoms"]), np.random.default_rng(run["seed"])
        steps = task["steps"], task["spacing_steps"]
        visited = yield from explore(atoms, run["temperature_K"], *steps, config, rng, ends)
        done += 1
        report(done)
        return visited

    runs = answered_together([exploring(run) for run in task["runs"]], labeller)
    return {"visited": [[frame.encoded() for frame in visited] for visited in runs]}
