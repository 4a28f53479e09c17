"""Which parts of a distillation earn their place, at equal label cost: ``bench ablation``.

Every run may spend the same number of teacher calls on what it learns from, and the same steps of training;
the test is dynamics of the teacher that none of them saw. ``python -m compactff_md.training.bench ablation``;
what is in the out folder is not done again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from compactff_md.training.bench_jobs import rows_of
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill
from compactff_md.training.recipe_files import make_config

SPACING_STEPS = 10
KELVIN = (300.0, 600.0, 1000.0)
DRIVER = "student:organic-ultra-tiny"
USUAL = "dynamics, one rattled copy each"


def variants(calls: int) -> dict[str, dict[str, Any]]:
    """Fields of the recipe of each, by what the table calls it; ``calls`` is what the labels may cost."""

    def dynamics(rattles: int, share: float = 1.0) -> dict[str, Any]:
        cost = (SPACING_STEPS + rattles) / (1 + rattles)
        frames = round(share * calls / cost)
        return {
            "kind": "md",
            "frames": frames,
            "temperatures_K": KELVIN,
            "spacing_steps": SPACING_STEPS,
            "rattles": rattles,
            "trajectories": 2,
        }

    def sampled(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {"sampling": {"steps": steps}, **fields}

    def driven(rattles: int, share: float = 1.0, apart: int = 2) -> dict[str, Any]:
        """A shipped student moves the atoms: a frame costs one call, and may be further from the last one."""
        frames, spacing = round(share * calls), apart * SPACING_STEPS
        return {**dynamics(rattles), "driver": DRIVER, "frames": frames, "spacing_steps": spacing}

    usual = sampled(dynamics(1))
    beside = {
        "torsions": {"kind": "torsions", "count": calls // 5, "frames": calls // 10},
        "contacts": {"kind": "contacts", "count": calls // 5, "frames": calls // 10},
    }
    a_round = {"most": 1, "labels": calls // 4, "training_share": 0.25}
    made = {f"and a tenth of {name}": sampled(dynamics(1, 0.9), step) for name, step in beside.items()}
    return {
        USUAL: usual,
        "dynamics alone": sampled(dynamics(0)),
        "three rattled copies each": sampled(dynamics(3)),
        "dynamics of organic-ultra-tiny, one rattled copy each": sampled(driven(1)),
        "dynamics of organic-ultra-tiny alone": sampled(driven(0)),
        "rattle walks alone": sampled({"kind": "rattle", "frames": calls}),
        "normal modes alone": sampled({"kind": "modes", "frames": calls, "temperatures_K": KELVIN}),
        **made,
        "and a quarter in a round of the student's": sampled(dynamics(1, 0.75), rounds=a_round),
        "and energies of atoms, weight 1": {**usual, "atom_energies_weight": 1.0},
        "and energies of atoms, weight 0.1": {**usual, "atom_energies_weight": 0.1},
        "by one interaction (moments-local)": {**usual, "architecture": "moments-local"},
        "by PaiNN": {**usual, "architecture": "painn"},
        "dynamics of organic-ultra-tiny and a quarter in a round": sampled(driven(0, 0.75), rounds=a_round),
        "dynamics of organic-ultra-tiny alone, three times as far apart": sampled(driven(0, apart=6)),
        "the first with another seed": {**usual, "seed": 1},
        "dynamics of organic-ultra-tiny alone, with another seed": {**sampled(driven(0)), "seed": 1},
    }


def run_one(name: str, structure: str, calls: int, steps: int, out: str) -> dict[str, Any]:
    """Distil one variant and return its row."""
    fields = {"structures": structure, "size": "tiny", "steps": steps, "threads": 1, **variants(calls)[name]}
    result = distill(make_config(DistillConfig, fields, name), Path(out))
    row: dict[str, Any] = {"what": name, "frames": result.metrics["labels"]["frames"]["train"]}
    row["calls_with_test"] = result.metrics["labels"]["calls"]
    for test in ("test_300K", "test_600K"):
        row[f"{test}_rmse_meV_per_A"] = round(result.metrics["errors"][test]["forces"]["rmse_meV_per_A"], 1)
    return row


def ablation(structure: Path, calls: int, steps: int, out: Path, jobs: int = 1) -> list[dict[str, Any]]:
    """Rows of all variants, ``jobs`` at a time, each in a process of its own."""
    names = list(variants(calls))
    runs = [(name, structure, calls, steps, out / f"{k:02d}") for k, name in enumerate(names)]
    return rows_of("compactff_md.training.bench_ablation", runs, jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_one(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])))
