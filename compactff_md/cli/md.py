"""``compactff md``: molecular dynamics by a student in OpenMM."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import ase
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compactff_md.cli.console import err, say, say_files
from compactff_md.cli.dynamics import (
    Ensemble,
    Minimise,
    Pressure,
    Start,
    Steps,
    StudentFile,
    Temperature,
    Time,
    Timestep,
    VelocitySeed,
    picoseconds,
)
from compactff_md.cli.group import StoppedError
from compactff_md.cli.options import Set, assignments, given
from compactff_md.engines.md_settings import MDSettings
from compactff_md.errors import CompactFFError
from compactff_md.structure import read_structures
from compactff_md.student import load

Platform = Annotated[
    str | None, typer.Option("--platform", help="OpenMM's: Reference, CPU, CUDA ...; default: the fastest.")
]
Force = Annotated[str | None, typer.Option("--force", help="torchforce (default) or python.")]
Equilibration = Annotated[
    str | None, typer.Option("--equilibration", help="Time with the thermostat before step 0, such as 1ps.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: compactff md aspirin.xyz --student aspirin --ensemble nve --temperature 300 "
        "--timestep 0.5 --time 10ps --out nve"
    )(md)


def md(
    structure: Start,
    student: StudentFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    ensemble: Ensemble = None,
    temperature: Temperature = None,
    pressure: Pressure = None,
    timestep: Timestep = None,
    steps: Steps = None,
    time: Time = None,
    platform: Platform = None,
    force: Force = None,
    minimise: Minimise = False,
    equilibration: Equilibration = None,
    seed: VelocitySeed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    set_: Set = None,
) -> None:
    """Run molecular dynamics of a molecule or a periodic box in OpenMM.

    Writes a trajectory with its topology, a CSV log and restart files, and stops with everything kept when
    energy or forces are not finite, or temperature or potential energy run away. Masses in the file are
    obeyed, constraints refused; velocities are drawn.
    """
    options = given(
        ensemble=ensemble,
        temperature_K=temperature,
        pressure_bar=pressure,
        timestep_fs=timestep,
        steps=steps,
        time_ps=picoseconds(time, "--time"),
        platform=platform,
        force=force,
        minimise=minimise or None,
        equilibration_ps=picoseconds(equilibration, "--equilibration"),
        seed=seed,
    )
    settings = MDSettings(**{**options, **assignments(set_, "--set")})
    atoms = read_structures(structure, "-1")[0]
    _say_result(_run(atoms, load(student), settings, out, resume), settings)


def _run(atoms: ase.Atoms, student: Any, settings: MDSettings, out: Path, resume: bool) -> Any:
    # Here and not above: a plugin that does not fit PyTorch may end the process when it is imported, and
    # the other commands, of which one is to tell so, shall live.
    from compactff_md.engines.openmm_md import MDStopped, run_md

    # Narrow enough for 80 columns.
    columns = (BarColumn(16), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
    with Progress(TextColumn("{task.description}"), *columns, console=err) as bars:
        bar = bars.add_task("dynamics", total=settings.total_steps, state="")

        def show(now: Any) -> None:
            state = f"{now.time_ps:.3f} ps  {now.temperature_K:.0f} K  {now.ns_per_day:.3g} ns/day"
            bars.update(bar, completed=now.step, state=state)

        try:
            return run_md(atoms, student, settings, out, resume=resume, progress=show)
        except MDStopped as error:
            raise StoppedError(str(error)) from error
        except KeyboardInterrupt as error:
            begun = (out / "settings.json").is_file()
            how = "; go on with the same command and --resume" if begun else ""
            raise KeyboardInterrupt(f"interrupted{how}") from error
        except Exception as error:
            raise (_explained(error) if type(error).__name__ == "OpenMMException" else error) from error


def _explained(error: Exception) -> CompactFFError:
    """What OpenMM raises where a platform or a plugin fails, without PyTorch's stack."""
    return CompactFFError(
        f"OpenMM failed: {str(error).splitlines()[0]}; compactff doctor tries each of its parts, and "
        "--force python needs no plugin"
    )


def _say_result(result: Any, settings: MDSettings) -> None:
    speed = f", {result.ns_per_day:.3g} ns/day" if result.ns_per_day else ""
    has_rows = not math.isnan(result.temperature_K)
    temperature = f", mean temperature {result.temperature_K:.0f} K" if has_rows else ""
    say(f"{result.time_ps:g} ps ({result.steps} steps) on {result.platform}{speed}{temperature}")
    if not has_rows:
        say(f"no row of the log fell into the run: report_interval is {settings.report_interval}")
    if not result.frames:
        say(f"no frame fell into the run: trajectory_interval is {settings.trajectory_interval}")
    if settings.ensemble == "nve" and result.drift is not None:  # thermostats change the energy
        slope, error = result.drift.slope_meV_per_atom_ps, result.drift.slope_error_meV_per_atom_ps
        say(
            f"total energy: drift {slope:.2g} +- {error:.1g} meV/atom/ps, "
            f"standard deviation {result.drift.std_meV_per_atom:.3g} meV/atom"
        )
    files = {name: getattr(result, name) for name in ("topology", "trajectory", "log", "restart")}
    say_files({name: path for name, path in files.items() if Path(path).exists()})
    if not result.completed:
        say(f"ended early by signal {result.signal}; go on with the same command and --resume")
        raise typer.Exit(128 + result.signal)
