"""What LAMMPS costs beside the student: ``python -m compactff_md.training.bench lammps``.

LAMMPS' own loop time an atom and step, of NVE of water at 300 K on one thread a rank, against calls of the
bare student on the same configuration, its neighbours known; in one run, taking turns. Beside these, two
ranks against one, and the teacher SevenNet 7net-0 through ASE, where it is installed.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from compactff_md.artifact import describe, load_student, save_student
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_installation import Lammps, find_lammps
from compactff_md.engines.lammps_run import command_of, read_plan
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.memory import keep_memory
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import SIZES, create
from compactff_md.teachers import create_teacher
from compactff_md.training.bench_systems import water_box

ELEMENTS = ["H", "O"]
# Forces of an untrained student are made small, so that the box stays as it is.
SCALE_EV = 0.02
REPEATS = {1536: 8, 12288: 16}
STEPS = {1536: 40, 12288: 10}
ROUNDS = 3


def against_bare(
    sizes: Sequence[str] = SIZES, told: Callable[[dict[str, Any]], None] = lambda row: None
) -> list[dict[str, Any]]:
    """Rows of the table: bare student, LAMMPS on one rank and on two, and what the adapter adds.

    ``told`` gets each row when it is measured.
    """
    found = find_lammps()
    rows = []
    for size in reversed(sizes):
        for atoms in REPEATS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"size": size, "atoms": atoms, **_measure(found, size, atoms, Path(folder))})
                told(rows[-1])
    return rows


def against_teacher(size: str = "ultra-tiny", atoms: int = 1536) -> list[dict[str, Any]]:
    """One row: LAMMPS with the student, and 7net-0 through ASE, on the same box and one thread."""
    if importlib.util.find_spec("sevenn") is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        ours = _measure(find_lammps(), size, atoms, Path(folder))["lammps_us_per_atom"]
    box = _water(atoms)
    box.calc = create_teacher("sevennet-0").calculator()
    box.get_forces()
    times = []
    for _ in range(2):
        box.rattle(1e-3)
        start = time.perf_counter()
        box.get_forces()
        times.append(time.perf_counter() - start)
    theirs = round(1e6 * min(times) / len(box), 1)
    return [
        {
            "atoms": len(box),
            "size": size,
            "lammps_us_per_atom": ours,
            "sevennet_0_us_per_atom": theirs,
            "faster": round(theirs / ours, 1),
        }
    ]


def _measure(found: Lammps, size: str, atoms: int, folder: Path) -> dict[str, Any]:
    network = create(size, ELEMENTS, seed=1)
    network.energy_scale_eV.fill_(SCALE_EV)
    save_student(folder / "student.safetensors", network.eval(), describe(network))
    settings = DeckSettings(ensemble="nve", steps=STEPS[atoms], thermo_interval=STEPS[atoms])
    deck = write_deck(_water(atoms), network, describe(network), settings, folder / "deck")
    bare, one, two = [], [], []
    for _ in range(ROUNDS):
        bare.append(_bare_us(folder / "student.safetensors", atoms))
        one.append(_lammps_us(found, deck.deck, 1))
        if found.has_mpi and found.mpiexec:
            two.append(_lammps_us(found, deck.deck, 2))
    alone, single = float(np.median(bare)), float(np.median(one))
    return {
        "bare_us_per_atom": round(alone, 1),
        "lammps_us_per_atom": round(single, 1),
        "overhead_percent": round(100.0 * (single / alone - 1.0), 1),
        "two_ranks_us_per_atom": round(float(np.median(two)), 1) if two else "-",
        "two_ranks_faster": round(single / float(np.median(two)), 2) if two else "-",
    }


def _lammps_us(found: Lammps, deck: Path, ranks: int) -> float:
    """LAMMPS' loop time in us an atom and step."""
    plan = read_plan(deck, {})
    environment = {**found.environment(ranks), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command_of(found, plan, ranks=ranks),
        cwd=deck.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    loop = re.search(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", done.stdout)
    assert loop is not None, done.stdout[-500:]
    return 1e6 * float(loop[1]) / int(loop[2]) / int(loop[3])


def _bare_us(student: Path, atoms: int) -> float:
    """Time of the bare student, in a process of its own, as LAMMPS is."""
    command = [sys.executable, "-m", "compactff_md.training.bench_lammps", str(student), str(atoms)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _water(atoms: int) -> ase.Atoms:
    box = water_box((REPEATS[atoms],) * 3)
    return ase.Atoms(box.numbers, box.positions_A, cell=box.cell_A, pbc=True)


def bare(student: Path, atoms: int) -> float:
    """Mean time in us an atom of energies and gradients on the table of the box.

    The mean, since LAMMPS' loop time is one too: now and then a step takes longer, on both sides.
    """
    keep_memory()  # as in LAMMPS
    network, _ = load_student(student)
    structure = Structure.from_ase(_water(atoms))
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    vectors = table.vectors(torch.from_numpy(structure.positions_A)).float()
    times = []
    with torch.no_grad():
        for _ in range(STEPS[atoms] + 2):
            start = time.perf_counter()
            network.requires_grad_(False).energies_and_gradients(vectors, table.neighbours, species)
            times.append(time.perf_counter() - start)
    return 1e6 * float(np.mean(times[2:])) / atoms


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(bare(Path(sys.argv[1]), int(sys.argv[2])))
