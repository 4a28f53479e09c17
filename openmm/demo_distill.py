"""The whole way, in about eight minutes on two cores: `make demo-distill`.

Distils GFN2-xTB into an ultra-tiny student of aspirin, exports it, runs 10 ps of NVE in OpenMM through
TorchForce, and tells how good it is. Everything lands in runs/demo-distill; the same command goes on where
it was interrupted, and shows the numbers again once it is done.
"""

import json
from pathlib import Path

import ase.io
import demo
import numpy as np
from rich.console import Console
from rich.table import Table

from compactff_md import Student, load
from compactff_md.engines.md_log import read_log
from compactff_md.engines.openmm_md import MDResult
from compactff_md.files import write_json
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import RunResult, distill
from compactff_md.training.plots import plot_demo
from compactff_md.training.progress import RichReporter

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "runs" / "demo-distill"
TESTS = ("test_300K", "test_600K")

DISTIL = DistillConfig(
    structures=str(HERE / "aspirin.xyz"),
    teacher="gfn2-xtb",
    size="ultra-tiny",
    minutes=6.0,
)
DYNAMICS = demo.DYNAMICS.model_copy(update={"time_ps": 10.0})

console = Console(stderr=True, highlight=False)


def speed_of(dynamics: MDResult) -> float:
    """In ns/day; kept in a file, because a run that is already complete has none."""
    path = OUT / "speed.json"
    if dynamics.ns_per_day > 0.0:
        write_json(path, {"ns_per_day": dynamics.ns_per_day})
    return json.loads(path.read_text())["ns_per_day"] if path.is_file() else float("nan")


def forces_on_unseen_frames(student: Student, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Teacher's and student's forces along trajectories of the teacher that the training never saw."""
    pairs = {}
    for name in TESTS:
        frames = ase.io.read(folder / f"{name}.xyz", ":")
        taught = [frame.get_forces() for frame in frames]
        calculator = student.ase_calculator()
        own = [calculator.get_forces(frame) for frame in frames]
        pairs[name.removeprefix("test_")] = (np.concatenate(taught), np.concatenate(own))
    return pairs


def print_results(distilled: RunResult, dynamics: MDResult, student: Student) -> None:
    table = Table(title=f"aspirin, GFN2-xTB, {student.num_parameters:,} parameters", show_header=False)
    for name in TESTS:
        errors = distilled.metrics["errors"][name]["forces"]
        said = f"RMSE {errors['rmse_meV_per_A']:.1f} meV/A, R2 {errors['r2']:.5f}"
        table.add_row(f"forces at {name.removeprefix('test_')}, unseen trajectory", said)
    drift = dynamics.drift
    length = f"{dynamics.time_ps:g} ps, {DYNAMICS.timestep_fs} fs a step, {dynamics.temperature_K:.0f} K"
    table.add_row(f"NVE, TorchForce, {dynamics.platform}", length)
    table.add_row(
        "drift of the energy",
        f"{drift.slope_meV_per_atom_ps:+.5f} +- {drift.slope_error_meV_per_atom_ps:.5f} meV/atom/ps",
    )
    table.add_row("its standard deviation", f"{drift.std_meV_per_atom:.4f} meV/atom")
    table.add_row("speed", f"{speed_of(dynamics):.2f} ns/day")
    Console(highlight=False).print(table)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    console.print(
        "Aspirin from GFN2-xTB to OpenMM: six minutes of labels and training, then dynamics.", soft_wrap=True
    )
    with RichReporter(console) as reporter:
        distilled = distill(DISTIL, OUT / "student", reporter)
    student = load(distilled.student)
    exported = student.export(OUT / "aspirin.pt", format="torchscript")
    dynamics = demo.simulate(ase.io.read(HERE / "aspirin.xyz"), student, DYNAMICS, OUT / "nve")
    log = read_log(dynamics.log)
    picture = OUT / "demo.png"
    pairs = forces_on_unseen_frames(student, distilled.folder)
    title = f"aspirin: ultra-tiny student of GFN2-xTB, {student.num_parameters:,} parameters"
    plot_demo(picture, pairs, log["time_ps"], log["total_eV"], title)
    print_results(distilled, dynamics, student)
    for what, path in (("picture", picture), ("student", distilled.student), ("TorchScript", exported)):
        Console(highlight=False).print(f"{what}: {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
