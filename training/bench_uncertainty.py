"""What the uncertainty of the shipped students costs: ``python -m compactff_md.training.bench uncertainty``.

The ASE calculator with it and without, each molecule or crystal moved a little before every call, one after
the other in turn: medians of the times, and of the ratios of neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.structure import read_structures
from compactff_md.student import load
from compactff_md.students import SIZES
from compactff_md.training.bench_systems import of_the_repository

SYSTEMS = {"organic": "openmm/aspirin.xyz", "argyrodite": "validation/reports/argyrodite_416.xyz"}
SECONDS = 6.0  # of each row
WARM_UP = 5
STEP_A = 0.002


def uncertainty_costs(sizes: Sequence[str] = SIZES) -> list[dict[str, Any]]:
    """Rows of the table: a shipped student each, on one thread if the caller has set one."""
    rows = []
    for kind, path in SYSTEMS.items():
        atoms = read_structures(of_the_repository(Path(path)))[0]
        for size in sizes:
            rows.append({"student": f"{kind}-{size}", "atoms": len(atoms), **_row(f"{kind}-{size}", atoms)})
    return rows


def _row(name: str, atoms: ase.Atoms) -> dict[str, Any]:
    student = load(name)
    both = (student.ase_calculator(uncertainty=None), student.ase_calculator())
    rng = np.random.default_rng(0)
    start, spent = atoms.positions.copy(), 0.0
    times: list[list[float]] = []
    while spent < SECONDS or len(times) < 2 * WARM_UP:
        positions = start + rng.normal(0.0, STEP_A, start.shape)
        pair = [_seconds(calculator, atoms, positions) for calculator in both]
        spent += sum(pair)
        times.append(pair)
    plain, asked = np.array(times[WARM_UP:]).T
    return {
        "plain_ms": float(f"{1e3 * np.median(plain):.3g}"),
        "with_uncertainty_ms": float(f"{1e3 * np.median(asked):.3g}"),
        "more_percent": round(100.0 * (float(np.median(asked / plain)) - 1.0), 1),
        "pairs": len(plain),
    }


def _seconds(calculator: Any, atoms: ase.Atoms, positions: np.ndarray) -> float:
    moved = atoms.copy()
    moved.positions = positions
    begun = time.perf_counter()
    calculator.calculate(moved)
    return time.perf_counter() - begun
