"""Work for a teacher as plain data, so that it can be sent to another process; and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase

from compactff_md.training.chains import Chain
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import Labeller
from compactff_md.training.sampling import ChainSpec, relax

Task = dict[str, Any]


def encode_atoms(atoms: ase.Atoms) -> dict[str, Any]:
    """Numbers, positions, cell and pbc in types that JSON has."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def decode_atoms(content: dict[str, Any]) -> ase.Atoms:
    """Inverse of :func:`encode_atoms`."""
    return ase.Atoms(**content)


def relax_task(atoms: ase.Atoms, steps: int, name: str) -> Task:
    """Relax one structure; the result is ``{"atoms": ...}``."""
    return {"kind": "relax", "atoms": encode_atoms(atoms), "steps": steps, "name": name}


def chain_task(
    spec: ChainSpec, structures: dict[int, ase.Atoms], folder: Path, config: SamplingConfig
) -> Task:
    """Make one chain's frames in its folder; the result is its counts."""
    return {
        "kind": "chain",
        "spec": spec.model_dump(mode="json"),
        "structures": {str(member): encode_atoms(structures[member]) for member in spec.members},
        "folder": str(folder),
        "config": config.model_dump(mode="json"),
    }


def perform(task: Task, labeller: Labeller, report: Callable[[int], None]) -> dict[str, Any]:
    """Do one task; ``report`` gets the number of frames made so far."""
    if task["kind"] == "relax":
        relaxed = relax(decode_atoms(task["atoms"]), labeller, task["steps"], task["name"])
        return {"atoms": encode_atoms(relaxed)}
    structures = {int(member): decode_atoms(atoms) for member, atoms in task["structures"].items()}
    config = SamplingConfig(**task["config"])
    chain = Chain(ChainSpec(**task["spec"]), structures, Path(task["folder"]), config, labeller)
    counts = chain.run(report, task.get("time_limit_s"))
    return {
        "calls": counts.calls,
        "attempts": counts.attempts,
        "failures": counts.failures,
        "rejected": counts.rejected,
    }
