"""Aspirin from GFN2-xTB to 100 ps of NVE, at each size: what the table of the README shows.

``python -m compactff_md.training.bench aspirin --minutes M``; everything lands in the out folder, and what
is there is not done again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from compactff_md.artifact import load_student
from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.openmm_md import run_md
from compactff_md.structure import read_structures
from compactff_md.students import SIZES
from compactff_md.training.bench_jobs import rows_of
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill


def run_one(size: str, structure: str, minutes: float, time_ps: float, out: str) -> dict[str, Any]:
    """Distil one size, run its dynamics, and return the row of the table."""
    folder = Path(out)
    result = distill(DistillConfig(structures=structure, size=size, minutes=minutes), folder / "student")
    network, metadata = load_student(result.student)
    settings = MDSettings(
        ensemble="nve",
        temperature_K=300.0,
        timestep_fs=0.5,
        time_ps=time_ps,
        minimise=True,
        equilibration_ps=5.0,
    )
    there = (folder / "nve" / "settings.json").is_file()
    dynamics = run_md(read_structures(structure, "-1")[0], network, settings, folder / "nve", resume=there)
    if not dynamics.completed:
        raise RuntimeError(f"{size}: the dynamics stopped at {dynamics.time_ps:g} ps; run it again to go on")
    errors, drift = result.metrics["errors"], dynamics.drift
    assert drift is not None
    row: dict[str, Any] = {"size": size, "parameters": metadata.num_parameters}
    for name in ("test_300K", "test_600K"):
        forces = errors[name]["forces"]
        row[f"{name}_rmse_meV_per_A"] = round(forces["rmse_meV_per_A"], 1)
        row[f"{name}_r2"] = round(forces["r2"], 5)
    row["drift_meV_per_atom_ps"] = round(drift.slope_meV_per_atom_ps, 5)
    row["drift_error"] = round(drift.slope_error_meV_per_atom_ps, 5)
    row["std_meV_per_atom"] = round(drift.std_meV_per_atom, 4)
    row["ns_per_day"] = round(dynamics.ns_per_day, 2)
    return row


def aspirin(
    structure: Path, minutes: float, time_ps: float, out: Path, jobs: int = 1
) -> list[dict[str, Any]]:
    """Rows of all sizes, ``jobs`` at a time, each in a process of its own."""
    runs = [(size, structure, minutes, time_ps, out / size) for size in SIZES]
    return rows_of("compactff_md.training.bench_aspirin", runs, jobs)[::-1]  # the longest first


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_one(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5])))
