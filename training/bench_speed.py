"""Speed of the exported students beside the predecessor's PaiNN, in one run.

``python -m compactff_md.training.bench speed`` prints the tables of the README. All on one thread, in
float32, energies and forces of the exported TorchScript module, its neighbour list included, along a
thermal motion of 0.5 fs steps; rivals take turns and the medians are compared.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule

from compactff_md.export.torchscript import scripted_module
from compactff_md.gradients import forces_from_edges
from compactff_md.memory import keep_memory
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import SIZES, StudentNetwork, create
from compactff_md.training.bench_systems import thermal_motion, water_box
from compactff_md.units import NM_TO_A

ELEMENTS = ["H", "C", "O"]
# us/atom of the predecessor's PaiNN that the project's targets were set from, on the same kind of machine.
REFERENCE_US = {"water": {"original": 3968, "tiny": 791, "ultra-tiny": 273}}
REFERENCE_US["benzene"] = {"original": 383, "tiny": 142, "ultra-tiny": 108}
FLIGHT = 40

Step = Callable[[], Any]


def exported_step(network: StudentNetwork, structure: Structure) -> Step:
    """One call of the exported module, the atoms having moved by 0.5 fs since the last."""
    periodic = bool(structure.pbc.any())
    module = scripted_module(network, structure.numbers, bool(periodic))
    flight = [torch.from_numpy(x / NM_TO_A).float() for x in thermal_motion(structure, FLIGHT)]
    box = torch.from_numpy(structure.cell_A / NM_TO_A).float() if periodic else None
    count = 0

    def step() -> Any:
        nonlocal count
        count += 1
        return module(flight[count % FLIGHT], box)

    return step


def eager_step(network: StudentNetwork, structure: Structure, compiled: bool = False) -> Step:
    """Energies and forces by the student in Python on a table that stays."""
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    vectors = table.vectors(torch.from_numpy(structure.positions_A)).float()
    evaluate = torch.compile(network.energies_and_gradients) if compiled else network.energies_and_gradients

    def step() -> Any:
        with torch.no_grad():
            energies, gradients = evaluate(vectors, table.neighbours, species)
            return energies.sum(), forces_from_edges(gradients, table.neighbours)

    return step


def interleaved_us(steps: dict[str, Step], rounds: int, atoms: int) -> dict[str, float]:
    """Median time of each in us/atom; they take turns, so that the machine's moods hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(4):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * float(np.median(values)) / atoms for name, values in times.items()}


def against_painn(system: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table: time of the student, of a PaiNN within the same budget, and their ratio."""
    keep_memory()  # as in OpenMM and LAMMPS
    structure = water_box((8, 8, 8)) if system == "water" else Structure.from_ase(molecule("C6H6"))
    rows = []
    for size in reversed(SIZES):
        student = create(size, ELEMENTS).eval()
        steps = {
            "student": exported_step(student, structure),
            "painn": exported_step(create(size, ELEMENTS, architecture="painn").eval(), structure),
        }
        if system == "benzene":
            steps["eager"] = eager_step(student, structure)
            steps["compiled"] = eager_step(student, structure, compiled=True)
        us = interleaved_us(steps, rounds, len(structure))
        reference = REFERENCE_US[system][size]
        rows.append(
            {
                "system": system,
                "size": size,
                "parameters": student.num_parameters,
                **{f"{name}_us_per_atom": round(value, 1) for name, value in us.items()},
                "faster_than_painn": round(us["painn"] / us["student"], 1),
                "faster_than_reference": round(reference / us["student"], 1),
            }
        )
    return rows


def scaling() -> list[dict[str, Any]]:
    """Time an atom and peak memory at 1,536 and 12,288 atoms, each in a process of its own."""
    rows = []
    for size in reversed(SIZES):
        parts = {}
        for repeats in (8, 16):
            command = [sys.executable, "-m", "compactff_md.training.bench_speed", size, str(repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            parts[repeats] = [float(value) for value in done.stdout.split()]
        small, large = parts[8], parts[16]
        rows.append(
            {
                "size": size,
                "us_per_atom_1536": round(small[0], 1),
                "us_per_atom_12288": round(large[0], 1),
                "ratio": round(large[0] / small[0], 2),
                "peak_GB_12288": round(large[1], 2),
            }
        )
    return rows


def measure_box(size: str, repeats: int) -> tuple[float, float]:
    """Time in us/atom and peak memory of this process in GB, for a box of ``3 * repeats**3`` atoms."""
    keep_memory()  # as in OpenMM and LAMMPS
    structure = water_box((repeats, repeats, repeats))
    step = exported_step(create(size, ELEMENTS).eval(), structure)
    us = interleaved_us({"student": step}, 40 if repeats == 8 else 20, len(structure))["student"]
    return us, peak_GB()


def peak_GB() -> float:
    """Peak memory of this process; that of ``resource`` counts the parent's before it started this one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024**2


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*measure_box(sys.argv[1], int(sys.argv[2])))
