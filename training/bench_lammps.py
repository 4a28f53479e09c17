"""What LAMMPS costs beside the student: ``python -m compactff_md.training.bench lammps``.

LAMMPS' own loop time an atom and step, of NVE of water at 300 K on one thread a rank, against the bare
student, which is called again by itself at every step of it. Beside these, two ranks against one, and the
teacher SevenNet 7net-0 through ASE, where it is installed.
"""

from __future__ import annotations

import importlib
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
from torch import Tensor

from compactff_md.artifact import describe
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_installation import Lammps, find_lammps
from compactff_md.engines.lammps_run import command_of, read_plan
from compactff_md.engines.lammps_settings import DeckSettings
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
BARE = "bare student, seconds: "


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
    bare, with_lammps, ranks = [], [], []
    for _ in range(ROUNDS):
        alone_us, together_us = _beside_bare_us(found, deck)
        bare.append(alone_us)
        with_lammps.append(together_us)
        if found.has_mpi and found.mpiexec:
            ranks.append([_lammps_us(found, deck, count) for count in (1, 2)])
    single, double = np.median(ranks, axis=0).tolist() if ranks else (0.0, 0.0)
    more = float(np.median(np.array(with_lammps) / np.array(bare))) - 1.0
    return {
        "bare_us_per_atom": round(float(np.median(bare)), 1),
        "lammps_us_per_atom": round(float(np.median(with_lammps)), 1),
        "overhead_percent": round(100.0 * more, 1),
        "two_ranks_us_per_atom": round(double, 1) if ranks else "-",
        "two_ranks_faster": round(single / double, 2) if ranks else "-",
    }


def _beside_bare_us(found: Lammps, deck: Path) -> tuple[float, float]:
    """The bare student, and LAMMPS with it, in us an atom and step, of one run that asks twice."""
    environment = {**found.environment(1), "OMP_NUM_THREADS": "1"}
    libraries = [str(found.executable.resolve().parents[1] / "lib"), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    command = [sys.executable, "-m", "compactff_md.training.bench_lammps", deck.name]
    output = _output(command, deck, environment)
    seconds, steps, atoms = _loop(output)
    times = [float(line.split()[-1]) for line in output.splitlines() if line.startswith(BARE)]
    bare = sum(times[1:])  # the first is that of the setup, before the loop
    return 1e6 * bare / steps / atoms, 1e6 * (seconds - bare) / steps / atoms


def _lammps_us(found: Lammps, deck: Path, ranks: int) -> float:
    """LAMMPS' loop time in us an atom and step."""
    environment = {**found.environment(ranks), "OMP_NUM_THREADS": "1"}
    seconds, steps, atoms = _loop(
        _output(command_of(found, read_plan(deck, {}), ranks=ranks), deck, environment)
    )
    return 1e6 * seconds / steps / atoms


def _output(command: list[str], deck: Path, environment: dict[str, str]) -> str:
    return subprocess.run(
        command, cwd=deck.parent, env=environment, capture_output=True, text=True, check=True
    ).stdout


def _loop(output: str) -> tuple[float, int, int]:
    """LAMMPS' loop time in s, its steps and atoms."""
    loop = re.search(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", output)
    assert loop is not None, output[-500:]
    return float(loop[1]), int(loop[2]), int(loop[3])


def _water(atoms: int) -> ase.Atoms:
    box = water_box((REPEATS[atoms],) * 3)
    return ase.Atoms(box.numbers, box.positions_A, cell=box.cell_A, pbc=True)


def ask_twice(deck: str) -> None:
    """Run a deck, and after every call of the student one more on the same table, whose time is printed.

    Both are of the same process and moment, so that what else the machine does cancels in their ratio.
    """
    times: list[float] = []
    loaded = MLIAPStudent.__setstate__

    def load(student: MLIAPStudent, state: dict[str, Any]) -> None:
        loaded(student, state)
        real = student.network.energies_and_gradients

        def twice(*arguments: Any) -> tuple[Tensor, Tensor]:
            found = real(*arguments)
            begun = time.perf_counter()
            real(*arguments)
            times.append(time.perf_counter() - begun)
            return found

        object.__setattr__(student.network, "energies_and_gradients", twice)

    MLIAPStudent.__setstate__ = load  # type: ignore[method-assign, assignment]
    simulation = importlib.import_module("lammps").lammps(cmdargs=["-nocite"])
    importlib.import_module("lammps.mliap").activate_mliappy(simulation)
    simulation.file(deck)
    simulation.close()
    print("\n".join(f"{BARE}{seconds}" for seconds in times))


if __name__ == "__main__":
    ask_twice(sys.argv[1])
