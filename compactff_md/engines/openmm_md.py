"""Molecular dynamics by a student in OpenMM: from a structure to a folder with everything about the run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import torch

from compactff_md.artifact import package_versions
from compactff_md.engines.md_log import EnergyDrift, energy_drift, read_log
from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.openmm_folder import RunFolder, identity_of
from compactff_md.engines.openmm_force import network_of
from compactff_md.engines.openmm_import import app, openmm, unit
from compactff_md.engines.openmm_recorder import Recorder
from compactff_md.engines.openmm_simulation import Simulation
from compactff_md.engines.openmm_sound import Unsound
from compactff_md.engines.openmm_system import OpenMMSystem, own_masses_Da, prepare
from compactff_md.engines.stop_signals import StopSignals
from compactff_md.errors import CompactFFError, WriteError
from compactff_md.files import atomic_write
from compactff_md.structure import Structure

# Progress and signals are looked at about this often.
BREATH_S = 0.25
# Molecules up to this size run on one thread: they gain nothing from more.
FEW_ATOMS = 256
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class MDProgress:
    """Where a run stands; ``ns_per_day`` is 0 until something was measured."""

    step: int
    steps: int
    time_ps: float
    ns_per_day: float
    temperature_K: float
    total_eV: float


@dataclass(frozen=True)
class MDResult:
    """What a run made.

    Attributes
    ----------
    out, topology, trajectory, log, restart
        The folder and its files.
    steps, time_ps
        How far it is, earlier parts of a resumed run included.
    ns_per_day
        Speed of this part without its start; 0 where it had nothing to do.
    temperature_K
        Mean of the log without its row of step 0; nan where it has no other.
    frames
        Of the trajectory.
    drift
        None where the log has fewer than 3 rows.
    platform
        OpenMM's platform it ran on.
    signal
        Number of the signal that ended it early; None where it is complete.
    """

    out: Path
    topology: Path
    trajectory: Path
    log: Path
    restart: Path
    steps: int
    time_ps: float
    ns_per_day: float
    temperature_K: float
    frames: int
    drift: EnergyDrift | None
    platform: str
    signal: int | None

    @property
    def completed(self) -> bool:
        """False where a signal ended the run before its last step."""
        return self.signal is None


class MDStopped(CompactFFError):  # noqa: N818  (what happened, not what was wrong with the input)
    """A run that was stopped, its numbers making no sense or its disk full; what was written is kept."""


def run_md(
    structure: Structure | ase.Atoms,
    student: Any,
    settings: MDSettings,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[MDProgress], None] | None = None,
) -> MDResult:
    """Run molecular dynamics of a structure by a student.

    ``out`` gets settings.json, topology.pdb, trajectory.xtc (or .dcd), log.csv, restart.xml and, where the
    run fails, failed.xyz. SIGINT and SIGTERM end a run in order, with a restart file at the last step.

    Parameters
    ----------
    structure
        A molecule, or a box that is periodic in all three directions; see :func:`prepare` for masses and
        constraints of ``ase.Atoms``. Velocities are drawn.
    student
        A ``Student`` or its network.
    settings
        See :class:`MDSettings`.
    out
        The folder of the run.
    resume
        Go on with the run in ``out``, up to its number of steps or a larger one.
    progress
        Called a few times a second.

    Raises
    ------
    CompactFFError
        For bad input (see ``prepare``, :class:`RunFolder`); :class:`MDStopped` where energy or forces
        become non-finite, temperature or potential energy run away, or the disk is full.
    """
    plain = structure if isinstance(structure, Structure) else Structure.from_ase(structure)
    identity = identity_of(plain, network_of(student), own_masses_Da(structure))
    options: dict[str, Any] = {"force": settings.force, "device": settings.device, "dtype": settings.dtype}
    options |= {} if settings.skin_A is None else {"skin_A": settings.skin_A}
    prepared = prepare(structure, student, **options)
    with _threads(settings.threads or (1 if len(structure) <= FEW_ATOMS else None)):
        return simulate(prepared, settings, out, identity=identity, resume=resume, progress=progress)


def simulate(
    prepared: OpenMMSystem,
    settings: MDSettings,
    out: str | Path,
    *,
    identity: dict[str, Any] | None = None,
    resume: bool = False,
    progress: Callable[[MDProgress], None] | None = None,
) -> MDResult:
    """Run a system that is ready, whatever its forces; see :func:`run_md`.

    Parameters
    ----------
    prepared
        Fresh for each run: barostat and remover of drift are added to its system.
    identity
        What the run is of; a resumed run must be of the same. None: of the structure alone.

    Raises
    ------
    CompactFFError
        As in :func:`run_md`, and for particles without mass and constraints.
    """
    identity = identity if identity is not None else identity_of(prepared.structure, None)
    with RunFolder(out, settings, identity, resume) as folder, StopSignals() as stop:
        restart = folder.load_restart() if resume else None
        simulation = Simulation(prepared, settings, 0 if restart is None else restart.getStepCount())
        versions = {**package_versions(), "openmm": openmm.Platform.getOpenMMVersion()}
        folder.write_settings(settings, identity, platform=simulation.platform, versions=versions)
        try:
            if restart is not None:
                simulation.context.setState(restart)
            else:
                _write_topology(folder, prepared)
                simulation.begin(lambda: stop.signum is not None)
            if stop.signum is not None:
                raise MDStopped("interrupted before the first step; a resumed run begins anew")
            recorder = Recorder(folder, simulation, None if restart is None else simulation.step)
        except (Unsound, OSError, WriteError) as error:
            if not resume:
                folder.forget()
            if not isinstance(error, Unsound):
                raise
            advice = f"; {error.advice}" if error.advice else ""
            raise MDStopped(f"stopped before the first step: {error}{advice}") from error
        try:
            speed = _run(simulation, recorder, stop, progress)
        finally:
            recorder.close()
        return _result(folder, simulation, speed, stop)


def _run(
    simulation: Simulation,
    recorder: Recorder,
    stop: StopSignals,
    progress: Callable[[MDProgress], None] | None,
) -> float:
    """Go to the end, or to where it stops; return the speed in ns/day."""
    total, clock = simulation.settings.total_steps, _Clock(simulation)
    step = simulation.step
    try:
        recorder.begin()
        while step < total and stop.signum is None:
            simulation.advance(min(total - step, recorder.steps_to_next(step), clock.chunk))
            step = simulation.step
            recorder.record(step)
            clock.tick(step)
            if progress is not None and (clock.due() or step == total):
                progress(_progress(simulation, recorder, step, clock))
        recorder.save(step)
    except Unsound as error:
        raise _stopped(simulation, recorder, step, error) from error
    except (OSError, WriteError) as error:
        cause = error.__cause__ or error
        raise MDStopped(
            f"stopped at step {step}: {getattr(cause, 'strerror', None) or cause}; everything up to the last "
            f"restart file in {recorder.folder.path} is kept: make room and resume the run"
        ) from error
    return clock.ns_per_day


class _Clock:
    """Speed, and how many steps to do between two looks at signals and progress."""

    def __init__(self, simulation: Simulation) -> None:
        self.chunk = 2
        self.ns_per_day = 0.0
        self._timestep_ps = simulation.settings.timestep_ps
        self._first: tuple[float, int] | None = None
        self._told = 0.0

    def tick(self, step: int) -> None:
        """Note that ``step`` is done; the first chunk, in which TorchScript warms up, does not count."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, step)
            return
        seconds, steps = now - self._first[0], step - self._first[1]
        if seconds > 0:
            self.ns_per_day = steps * self._timestep_ps / 1000.0 / seconds * SECONDS_PER_DAY
            self.chunk = max(1, int(BREATH_S * steps / seconds))

    def due(self) -> bool:
        """Tell whether it is time for another word on the progress."""
        now = time.perf_counter()
        if now - self._told < BREATH_S:
            return False
        self._told = now
        return True


def _progress(simulation: Simulation, recorder: Recorder, step: int, clock: _Clock) -> MDProgress:
    settings, row = simulation.settings, recorder.row
    return MDProgress(
        step,
        settings.total_steps,
        step * settings.timestep_ps,
        clock.ns_per_day,
        row["temperature_K"],
        row["total_eV"],
    )


def _stopped(simulation: Simulation, recorder: Recorder, step: int, reason: Unsound) -> MDStopped:
    """Keep what helps to see what went wrong, and say where it is."""
    folder, kept = recorder.folder, []
    with suppress(Exception):  # a full disk or a lost GPU must not hide the reason
        recorder.save()
        kept.append(f"{folder.restart.name} has the last sound state (step {recorder.sound_step})")
    with suppress(Exception):
        recorder.save_failed()
        kept.append(f"{folder.failed.name} has the atoms as they are now")
    kept += [reason.advice] if reason.advice else []
    return MDStopped(
        f"stopped at step {step} ({step * simulation.settings.timestep_ps:.4f} ps): {reason}. "
        f"{'; '.join([f'Everything written before is kept in {folder.path}', *kept])}"
    )


def _result(folder: RunFolder, simulation: Simulation, ns_per_day: float, stop: StopSignals) -> MDResult:
    log, steps = read_log(folder.log), simulation.step
    num_atoms = len(simulation.prepared.structure)
    measured_K = log["temperature_K"][log["step"] > 0]
    return MDResult(
        out=folder.path,
        topology=folder.topology,
        trajectory=folder.trajectory,
        log=folder.log,
        restart=folder.restart,
        steps=steps,
        time_ps=steps * simulation.settings.timestep_ps,
        ns_per_day=ns_per_day,
        temperature_K=float(measured_K.mean()) if len(measured_K) else math.nan,
        frames=steps // simulation.settings.trajectory_interval,
        drift=energy_drift(log, num_atoms) if len(log["step"]) >= 3 else None,
        platform=simulation.platform,
        signal=stop.signum if steps < simulation.settings.total_steps else None,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Give PyTorch a number of threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_topology(folder: RunFolder, prepared: OpenMMSystem) -> None:
    with atomic_write(folder.topology) as temporary, temporary.open("w") as stream:
        app.PDBFile.writeFile(prepared.topology, prepared.positions_nm * unit.nanometer, stream)
