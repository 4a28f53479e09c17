"""A shipped student at work, in about a minute: `make demo`, or `python openmm/demo.py`.

Takes `organic-tiny`, which comes with the package, runs 5 ps of aspirin in OpenMM through TorchForce, and
asks its teacher, GFN2-xTB, about frames of that trajectory. Everything lands in runs/demo; the same command
goes on where it was interrupted.
"""

import hashlib
import shutil
from pathlib import Path

import ase.io
import MDAnalysis
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, track
from rich.table import Table

from compactff_md import Student, load
from compactff_md.engines.md_log import read_log
from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.openmm_md import MDResult, MDStopped, run_md
from compactff_md.teachers import create_teacher
from compactff_md.training.metrics import force_errors
from compactff_md.training.plots import plot_demo

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "runs" / "demo"
STUDENT = "organic-tiny"
FRAMES = 20
DYNAMICS = MDSettings(
    ensemble="nve",
    temperature_K=300.0,
    timestep_fs=0.5,
    time_ps=5.0,
    force="torchforce",
    minimise=True,
    equilibration_ps=2.0,
    report_interval=20,
)

console = Console(stderr=True, highlight=False)


def simulate(atoms: ase.Atoms, student: Student, settings: MDSettings, out: Path) -> MDResult:
    """Run the dynamics, or go on with them, under a progress bar; end the program where they end early."""
    columns = BarColumn(30), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}")
    with Progress(TextColumn("{task.description:<22}"), *columns, console=console) as bars:
        bar = bars.add_task("NVE in OpenMM", total=settings.total_steps, now="")

        def show(state):
            now = f"{state.time_ps:.1f} ps  {state.temperature_K:.0f} K  {state.ns_per_day:.3g} ns/day"
            bars.update(bar, completed=state.step, now=now)

        there = (out / "settings.json").is_file()
        try:
            result = run_md(atoms, student, settings, out, resume=there, progress=show)
        except MDStopped as error:
            raise SystemExit(str(error)) from error
        bars.update(bar, completed=result.steps)
    if not result.completed:
        console.print("Interrupted; the same command goes on from here.")
        raise SystemExit(130)
    return result


def forget_other_student(student: Student) -> None:
    """Remove the run of an earlier version of the student: it cannot go on with this one."""
    mark, now = OUT / "student.sha256", hashlib.sha256(Path(student.path).read_bytes()).hexdigest()
    if not mark.is_file() or mark.read_text() != now:
        shutil.rmtree(OUT / "nve", ignore_errors=True)
        mark.write_text(now)


def forces_of_teacher(
    atoms: ase.Atoms, dynamics: MDResult, student: Student
) -> tuple[np.ndarray, np.ndarray]:
    """Forces of teacher and student on frames of the student's own trajectory, evenly spaced."""
    universe = MDAnalysis.Universe(str(dynamics.topology), str(dynamics.trajectory))
    picked = np.linspace(0, len(universe.trajectory) - 1, FRAMES).astype(int)
    teacher, own = create_teacher("gfn2-xtb").calculator(), student.ase_calculator()
    taught, said = [], []
    for frame in track(picked, f"{'GFN2-xTB on its frames':<22}", console=console):
        atoms.positions = universe.trajectory[frame].positions
        taught.append(teacher.get_forces(atoms))
        said.append(own.get_forces(atoms))
    return np.concatenate(taught), np.concatenate(said)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    atoms = ase.io.read(HERE / "aspirin.xyz")
    student = load(STUDENT)
    forget_other_student(student)
    exported = student.export(OUT / "organic-tiny.pt", format="torchscript")
    dynamics = simulate(atoms, student, DYNAMICS, OUT / "nve")
    pair = forces_of_teacher(atoms, dynamics, student)
    errors, drift = force_errors(*pair), dynamics.drift
    table = Table(title=f"aspirin by {STUDENT}, {student.num_parameters:,} parameters", show_header=False)
    length = f"{dynamics.time_ps:g} ps, {DYNAMICS.timestep_fs} fs a step, {dynamics.temperature_K:.0f} K"
    table.add_row(f"NVE, TorchForce, {dynamics.platform}", length)
    table.add_row(
        "drift of the energy",
        f"{drift.slope_meV_per_atom_ps:+.4f} +- {drift.slope_error_meV_per_atom_ps:.4f} meV/atom/ps",
    )
    if dynamics.ns_per_day:
        table.add_row("speed", f"{dynamics.ns_per_day:.2f} ns/day")
    table.add_row(
        f"forces against GFN2-xTB, {FRAMES} frames of this run",
        f"RMSE {errors['rmse_meV_per_A']:.0f} meV/A, R2 {errors['r2']:.4f}",
    )
    log, picture = read_log(dynamics.log), OUT / "demo.png"
    title = f"aspirin: {STUDENT}, which never saw it, beside GFN2-xTB"
    plot_demo(picture, {"300K, its own run": pair}, log["time_ps"], log["total_eV"], title)
    out = Console(highlight=False)
    out.print(table)
    for what, path in (("picture", picture), ("trajectory", dynamics.trajectory), ("TorchScript", exported)):
        out.print(f"{what}: {path}", soft_wrap=True)
    out.print("A student of your own, and how good it is: make demo-distill")


if __name__ == "__main__":
    main()
