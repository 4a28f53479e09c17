"""What the defaults give on molecules drawn at random, at each size.

``python -m compactff_md.training.bench molecules``: drawn by a seed from those of 20 to 30 atoms in a file,
distilled from GFN2-xTB within ``--minutes`` each, labelling included, one thread each for the training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch

from compactff_md.files import atomic_write
from compactff_md.structure import read_structures
from compactff_md.students import SIZES
from compactff_md.training.bench_jobs import rows_of
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill

FEWEST_ATOMS, MOST_ATOMS = 20, 30
TESTS = ("test_300K", "test_600K")


def drawn(structures: Path, count: int, seed: int, out: Path) -> list[Path]:
    """Files of ``count`` molecules of the wanted size, drawn without looking."""
    fitting = [atoms for atoms in read_structures(structures) if FEWEST_ATOMS <= len(atoms) <= MOST_ATOMS]
    chosen = sorted(np.random.default_rng(seed).choice(len(fitting), count, replace=False).tolist())
    files = []
    for index in chosen:
        atoms = fitting[index]
        files.append(out / f"{atoms.get_chemical_formula()}.xyz")
        with atomic_write(files[-1]) as temporary:
            ase.io.write(temporary, atoms, format="extxyz")
    return files


def run_one(size: str, structure: str, minutes: float, out: str) -> dict[str, Any]:
    """Distil one molecule into one size, and return the row of the table."""
    result = distill(DistillConfig(structures=structure, size=size, minutes=minutes), Path(out))
    row: dict[str, Any] = {
        "molecule": Path(structure).stem,
        "size": size,
        "minutes": round(sum(stage["seconds"] for stage in result.metrics["stages"]) / 60, 1),
        "steps": result.metrics["training"]["steps"],
    }
    for name in TESTS:
        forces = result.metrics["errors"][name]["forces"]
        row[f"{name}_rmse_meV_per_A"] = round(forces["rmse_meV_per_A"], 1)
        row[f"{name}_r2"] = round(forces["r2"], 5)
    return row


def molecules(
    structures: Path, count: int, seed: int, minutes: float, out: Path, jobs: int
) -> list[dict[str, Any]]:
    """Rows of all molecules and sizes, ``jobs`` at a time, each in a process of its own."""
    out.mkdir(parents=True, exist_ok=True)
    files = drawn(structures, count, seed, out)
    runs = [(size, file, minutes, out / f"{file.stem}-{size}") for file in files for size in SIZES]
    return rows_of("compactff_md.training.bench_molecules", runs, jobs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_one(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])))
