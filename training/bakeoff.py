"""Which architecture fills a size best: the same data, budget of parameters and training time for each.

``python -m compactff_md.training.bench bakeoff`` trains every candidate at every size and prints the table
of docs/bakeoff.md. Runs that were done are not done again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from compactff_md.students import SIZES, create
from compactff_md.training.bench_jobs import rows_of
from compactff_md.training.config import TrainConfig
from compactff_md.training.distill import train_from_files

# With the default optimiser; not tuned for each size.
LEARNING_RATES = {"moments-local": 1e-2, "moments-second": 1e-2, "painn": 5e-3}
CANDIDATES = tuple(LEARNING_RATES)


def run_one(architecture: str, size: str, train: str, test: str, minutes: float, out: str) -> dict[str, Any]:
    """Train one candidate and return its row of the table."""
    config = TrainConfig(
        size=size,
        architecture=architecture,
        minutes=minutes,
        learning_rate=LEARNING_RATES[architecture],
        batch_size=10,
        threads=1,
    )
    result = train_from_files(config, [train], out, tests={"test": test})
    errors, training = result.metrics["errors"]["test"], result.metrics["training"]
    return {
        "size": size,
        "architecture": architecture,
        "parameters": training["num_parameters"],
        "steps": training["steps"],
        "force_rmse_meV_per_A": round(errors["forces"]["rmse_meV_per_A"], 1),
        "force_r2": round(errors["forces"]["r2"], 5),
        "energy_rmse_meV_per_atom": round(errors["energy"]["rmse_meV_per_atom"], 2),
    }


def bakeoff(train: Path, test: Path, minutes: float, out: Path, jobs: int = 1) -> list[dict[str, Any]]:
    """Every candidate at every size, ``jobs`` at a time, each on one thread in a process of its own."""
    tasks = [(a, size) for size in reversed(SIZES) for a in CANDIDATES if not _same_as_before(a, size)]
    runs = [(a, size, train, test, minutes, out / f"{size}-{a}") for a, size in tasks]
    return rows_of("compactff_md.training.bakeoff", runs, jobs)


def _same_as_before(architecture: str, size: str) -> bool:
    """Whether an earlier candidate has the same network at this size."""
    networks = [create(size, ["H", "C", "O"], architecture=a) for a in CANDIDATES]
    index = CANDIDATES.index(architecture)
    made = [(n.architecture, n.hyperparameters) for n in networks]
    return made[index] in made[:index]


if __name__ == "__main__":
    name, preset, train_file, test_file, budget, folder = sys.argv[1:]
    print(json.dumps(run_one(name, preset, train_file, test_file, float(budget), folder)))
