"""Work for a teacher as plain data, so that it can be sent to another process; and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.training.chains import Chain
from compactff_md.training.config import SamplingConfig
from compactff_md.training.explore import explore
from compactff_md.training.labelling import FEWEST_FAILURES, LabelCounts, Labeller, TooManyFailuresError
from compactff_md.training.packing import decode_atoms, encode_atoms
from compactff_md.training.planning import ChainSpec
from compactff_md.training.sampling import relax

Task = dict[str, Any]
FAILED_CHAINS = 4  # that one process gives up before the run does


def relax_task(atoms: ase.Atoms, steps: int, name: str) -> Task:
    """Relax one structure; the result is ``{"atoms": ...}``."""
    return {"kind": "relax", "atoms": encode_atoms(atoms), "steps": steps, "name": name}


def chain_task(
    spec: ChainSpec,
    structures: dict[int, ase.Atoms],
    folder: Path,
    config: SamplingConfig,
    alone: bool = False,
) -> Task:
    """Make one chain's frames in its folder, ``alone`` or among others; the result is its counts."""
    return {
        "kind": "chain",
        "alone": alone,
        "spec": spec.model_dump(mode="json"),
        "structures": {str(member): encode_atoms(structures[member]) for member in spec.members},
        "folder": str(folder),
        "config": config.model_dump(mode="json"),
    }


def explore_task(
    atoms: ase.Atoms,
    temperature_K: float,
    steps: int,
    spacing_steps: int,
    config: SamplingConfig,
    seed: tuple[int, ...],
) -> Task:
    """Run a student from a structure; the result is ``{"visited": [...]}``."""
    return {
        "kind": "explore",
        "atoms": encode_atoms(atoms),
        "temperature_K": temperature_K,
        "steps": steps,
        "spacing_steps": spacing_steps,
        "config": config.model_dump(mode="json"),
        "seed": list(seed),
    }


def perform(task: Task, labeller: Labeller, report: Callable[[int], None]) -> dict[str, Any]:
    """Do one task; ``report`` gets the number of frames made so far."""
    if task["kind"] == "relax":
        relaxed = relax(decode_atoms(task["atoms"]), labeller, task["steps"], task["name"])
        return {"atoms": encode_atoms(relaxed)}
    if task["kind"] == "explore":
        return _explore(task, labeller, report)
    structures = {int(member): decode_atoms(atoms) for member, atoms in task["structures"].items()}
    config = SamplingConfig(**task["config"])
    chain = Chain(ChainSpec(**task["spec"]), structures, Path(task["folder"]), config, labeller)
    counts = _run(chain, task, labeller, report)
    return {
        "calls": counts.calls,
        "attempts": counts.attempts,
        "failures": counts.failures,
        "rejected": counts.rejected,
    }


def _run(chain: Chain, task: Task, labeller: Labeller, report: Callable[[int], None]) -> LabelCounts:
    """Run a chain; one of several that the teacher cannot do ends with what it has.

    Raises
    ------
    TooManyFailuresError
        If it is the only one, or the teacher fails on other chains as well.
    """
    most = chain.config.max_failures
    try:
        counts = chain.run(report, task.get("time_limit_s"))
    except TooManyFailuresError:
        counts = labeller.counts
        labeller.totals.add(counts)
        if task["alone"]:
            raise
        labeller.totals.check(most, FAILED_CHAINS * FEWEST_FAILURES)
        chain.give_up()
        return counts
    labeller.totals.add(counts)
    return counts


def _explore(task: Task, labeller: Labeller, report: Callable[[int], None]) -> dict[str, Any]:
    visited = explore(
        decode_atoms(task["atoms"]),
        labeller,
        task["temperature_K"],
        task["steps"],
        task["spacing_steps"],
        SamplingConfig(**task["config"]),
        np.random.default_rng(task["seed"]),
    )
    report(len(visited))
    return {"visited": [frame.encoded() for frame in visited]}
