"""What LAMMPS costs beside the student: ``python -m compactff_md.training.bench lammps``.

LAMMPS' own loop time an atom and step, of NVE of water at 300 K on one thread a rank, against the bare
student: positions and a table of neighbours that is known in, energy and forces out. It is called again by
itself at every step of LAMMPS, and so is its network alone, which starts from vectors in the table and ends
at their gradients. Beside these, two ranks against one, and against two runs at once that know nothing of
each other, which tells what the two cores have to give; once by the loop time and once by the fastest step,
which is what the code does while nobody else takes a core from it. And the teacher SevenNet 7net-0 through
ASE, where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from torch import Tensor

from compactff_md.artifact import describe
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_installation import Lammps, find_lammps
from compactff_md.engines.lammps_run import command_of, read_plan
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.gradients import forces_from_edges
from compactff_md.mliap.adapter import MLIAPStudent
from compactff_md.students import SIZES, create
from compactff_md.teachers import create_teacher
from compactff_md.training.bench_systems import water_box

ELEMENTS = ["H", "O"]
# Forces of an untrained student are made small, so that the box stays as it is.
SCALE_EV = 0.02
REPEATS = {1536: 8, 12288: 16}
STEPS = {1536: 40, 12288: 10}
ROUNDS = 3
# Of one rank, two ranks and two runs in turn, of each of which the fastest counts: what else the machine does
# can only slow them, and two busy cores more than one.
RANK_ROUNDS = 5
TIMES = "calls, students, networks, seconds: "


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
    network = create(size, ELEMENTS, seed=1).eval()
    network.energy_scale_eV.fill_(SCALE_EV)
    settings = DeckSettings(ensemble="nve", steps=STEPS[atoms], thermo_interval=STEPS[atoms])
    deck = write_deck(_water(atoms), network, describe(network), settings, folder / "deck").deck
    stepwise = settings.model_copy(update={"thermo_interval": 1})
    told = write_deck(_water(atoms), network, describe(network), stepwise, folder / "told").deck
    told.write_text(re.sub(r"(thermo_style +custom) .*", r"\1 step cpu", told.read_text()))
    times = [_beside_bare_us(found, deck) for _ in range(ROUNDS)]
    bare, network_alone, with_lammps = np.array(times).T  # (ROUNDS,) each
    ranks = [
        (_lammps_us(found, told, 1), _lammps_us(found, told, 2), _two_at_once_us(found, told))
        for _ in range(RANK_ROUNDS if found.has_mpi and found.mpiexec else 0)
    ]
    # (runs, 2): the loop and its fastest step.
    single, double, apart = np.min(ranks, axis=0) if ranks else np.ones((3, 2))
    return {
        "network_us_per_atom": round(float(np.median(network_alone)), 1),
        "bare_us_per_atom": round(float(np.median(bare)), 1),
        "lammps_us_per_atom": round(float(np.median(with_lammps)), 1),
        "overhead_percent": _more_percent(with_lammps, bare),
        "more_than_network_percent": _more_percent(with_lammps, network_alone),
        "two_ranks_us_per_atom": round(float(double[0]), 1) if ranks else "-",
        "two_ranks_faster": round(float(single[0] / double[0]), 2) if ranks else "-",
        "two_runs_at_once_faster": round(float(2.0 * single[0] / apart[0]), 2) if ranks else "-",
        "fastest_step_one_rank_us_per_atom": round(float(single[1]), 1) if ranks else "-",
        "fastest_step_two_ranks_us_per_atom": round(float(double[1]), 1) if ranks else "-",
        "fastest_step_faster": round(float(single[1] / double[1]), 2) if ranks else "-",
    }


def _more_percent(times: np.ndarray, others: np.ndarray) -> float:
    """How much longer the times are than others of the same runs, the median of these."""
    return round(100.0 * float(np.median(times / others) - 1.0), 1)


def _beside_bare_us(found: Lammps, deck: Path) -> tuple[float, float, float]:
    """The bare student, its network alone, and LAMMPS with it, in us an atom and step, of one run."""
    environment = {**found.environment(1), "OMP_NUM_THREADS": "1"}
    libraries = [str(found.executable.resolve().parents[1] / "lib"), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    command = [sys.executable, "-m", "compactff_md.training.bench_lammps", deck.name]
    output = _output(command, deck, environment)
    seconds, steps, atoms = _loop(output)
    lines = [line.split()[-3:] for line in output.splitlines() if line.startswith(TIMES)]
    # The first are those of setups, before the loop.
    calls_s, students_s, networks_s = np.array(lines[-steps:], dtype=float).T.sum(axis=1)
    return tuple((1e6 / steps / atoms * np.array([students_s, networks_s, seconds - calls_s])).tolist())


def _lammps_us(found: Lammps, deck: Path, ranks: int) -> tuple[float, float]:
    """LAMMPS' loop time and its fastest step, in us an atom and step; the deck tells the time at each."""
    environment = {**found.environment(ranks), "OMP_NUM_THREADS": "1"}
    output = _output(command_of(found, read_plan(deck, {}), ranks=ranks), deck, environment)
    seconds, steps, atoms = _loop(output)
    clock = [float(line[2]) for line in re.finditer(r"^ +(\d+) +([\d.e+-]+) *$", output, re.MULTILINE)]
    assert len(clock) > steps, output[-500:]
    return 1e6 * seconds / steps / atoms, 1e6 * float(np.diff(clock[-steps - 1 :]).min()) / atoms


def _two_at_once_us(found: Lammps, deck: Path) -> tuple[float, float]:
    """The same of two runs of one rank at once, their mean: what the two cores leave each other of memory."""
    other = deck.parent.with_name("other")
    shutil.copytree(deck.parent, other, dirs_exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        times = list(pool.map(lambda d: _lammps_us(found, d, 1), (deck, other / deck.name)))
    loop, fastest = np.mean(times, axis=0).tolist()
    return loop, fastest


def _output(command: list[str], deck: Path, environment: dict[str, str]) -> str:
    return subprocess.run(
        command, cwd=deck.parent, env=environment, capture_output=True, text=True, check=True
    ).stdout


def _loop(output: str) -> tuple[float, int, int]:
    """LAMMPS' loop time in s, its steps and atoms, of the last run: before it is one of no steps."""
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", output)
    assert loops, output[-500:]
    seconds, steps, atoms = loops[-1]
    return float(seconds), int(steps), int(atoms)


def _water(atoms: int) -> ase.Atoms:
    box = water_box((REPEATS[atoms],) * 3)
    return ase.Atoms(box.numbers, box.positions_A, cell=box.cell_A, pbc=True)


def ask_again(deck: str) -> None:
    """Run a deck, and after every call of the student one more on the same atoms, whose times are printed.

    Both are of the same process and moment, so that what else the machine does cancels in their ratio.
    """
    times: list[tuple[float, float, float]] = []
    loaded = MLIAPStudent.__setstate__

    def load(student: MLIAPStudent, state: dict[str, Any]) -> None:
        loaded(student, state)
        real = student.network.energies_and_gradients

        def twice(vectors: Tensor, neighbours: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
            found = real(vectors, neighbours, *others)
            begun = time.perf_counter()
            positions, offsets = _positions_for(vectors, neighbours)
            start = time.perf_counter()
            moved = positions.index_select(0, neighbours.flatten()).view_as(vectors)
            given = moved - positions.unsqueeze(1) + offsets
            entered = time.perf_counter()
            energies, gradients = real(given, neighbours, *others)
            left = time.perf_counter()
            float(energies.sum())
            forces_from_edges(gradients, neighbours)
            end = time.perf_counter()
            times.append((end - begun, end - start, left - entered))
            return found

        object.__setattr__(student.network, "energies_and_gradients", twice)

    MLIAPStudent.__setstate__ = load  # type: ignore[method-assign, assignment]
    simulation = importlib.import_module("lammps").lammps(cmdargs=["-nocite"])
    importlib.import_module("lammps.mliap").activate_mliappy(simulation)
    simulation.file(deck)
    simulation.close()
    print("\n".join(TIMES + " ".join(str(seconds) for seconds in row) for row in times))


def _positions_for(vectors: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (N, 3) and offsets (N, K, 3) that make these vectors; any positions do for a time."""
    positions = torch.rand(len(vectors), 3, dtype=vectors.dtype)
    return positions, vectors - positions[neighbours] + positions.unsqueeze(1)


if __name__ == "__main__":
    ask_again(sys.argv[1])
