"""What a run writes, and when: log, frames and restart files."""

from __future__ import annotations

import time
from contextlib import suppress

import ase
import ase.io
import numpy as np

from compactff_md.engines.md_log import Log
from compactff_md.engines.openmm_folder import RunFolder
from compactff_md.engines.openmm_simulation import Simulation
from compactff_md.engines.openmm_sound import Unsound
from compactff_md.engines.openmm_trajectory import TRAJECTORIES
from compactff_md.units import NM_TO_A

RESTART_S = 60.0
# A run is looked at in this many steps at least, however seldom it writes.
CHECK_INTERVAL = 100


class Recorder:
    """Writes the files of a run while it goes on.

    Parameters
    ----------
    folder, simulation
        Of the run.
    last_step
        None for a new run; else the step of the restart file, and what was written later is cut off.

    Attributes
    ----------
    row
        What the run was like when it was looked at last; not each is in the log.

    Raises
    ------
    Unsound
        If the simulation makes no sense from the start.
    """

    def __init__(self, folder: RunFolder, simulation: Simulation, last_step: int | None) -> None:
        settings = simulation.settings
        self.folder, self.simulation, self.settings = folder, simulation, settings
        self._sound = simulation.state()
        self.row = simulation.row(self._sound)  # no file is touched where this makes no sense
        self.log = Log(folder.log, simulation.periodic, last_step)
        self.trajectory = TRAJECTORIES[settings.trajectory_format](
            folder.trajectory,
            simulation.prepared.topology,
            settings.timestep_ps,
            settings.trajectory_interval,
            last_step,
        )
        self._intervals = (
            settings.report_interval,
            settings.trajectory_interval,
            settings.restart_interval,
            CHECK_INTERVAL,
        )
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._is_new = last_step is None

    def begin(self) -> None:
        """Write the first row and the first restart file of a new run; errors as in :meth:`record`."""
        if self._is_new:
            self.log.write(self.row)
            self.save()

    def steps_to_next(self, step: int) -> int:
        """How many steps may be done before something is due."""
        return min(interval - step % interval for interval in self._intervals)

    def record(self, step: int) -> None:
        """Look whether the run makes sense, where that is due, and write what is due at a step.

        Raises
        ------
        Unsound
            If the run or what would be written makes no sense; OSError where the disk is full.
        """
        is_reported = step % self.settings.report_interval == 0
        if is_reported or step % CHECK_INTERVAL == 0:
            state = self.simulation.state()
            self.row = self.simulation.row(state)
            self._sound = state
        if is_reported:
            self.log.write(self.row)
        if step % self.settings.trajectory_interval == 0:
            self._write_frame()
        late = time.monotonic() - self._saved_at > RESTART_S
        if step % self.settings.restart_interval == 0 or late:
            self.save(step)

    def save(self, step: int | None = None) -> None:
        """Write a restart file, after everything before it is on the disk."""
        if step is not None and step != self._sound.getStepCount():
            state = self.simulation.state()
            self.simulation.row(state)  # only sound states are kept
            self._sound = state
        if self._sound.getStepCount() == self._saved_step:
            return
        self.log.sync()
        self.trajectory.sync()
        self.folder.save_restart(self._sound)
        self._saved_step, self._saved_at = self._sound.getStepCount(), time.monotonic()

    def save_failed(self) -> None:
        """Write the atoms as they are now, sound or not."""
        structure = self.simulation.prepared.structure
        box = self.simulation.box_A()
        atoms = ase.Atoms(
            numbers=structure.numbers,
            positions=self.simulation.positions_A(),
            cell=np.zeros((3, 3)) if box is None else box,
            pbc=structure.pbc,
        )
        atoms.info["step"] = self.simulation.step
        ase.io.write(self.folder.failed, atoms, format="extxyz")

    @property
    def sound_step(self) -> int:
        """Step of the last state that made sense."""
        return self._sound.getStepCount()

    def close(self) -> None:
        """Close the files.

        What a full disk does not take now was not promised: restart files come after what they go with.
        """
        for file in (self.log, self.trajectory):
            with suppress(OSError):
                file.close()

    def _write_frame(self) -> None:
        positions_A = self.simulation.positions_A()
        bad = np.flatnonzero(~np.isfinite(positions_A).all(axis=1))
        if len(bad):
            raise Unsound(f"positions of atoms {bad[:10].tolist()} are not finite")
        box_A = self.simulation.box_A()
        self.trajectory.write(positions_A / NM_TO_A, None if box_A is None else box_A / NM_TO_A)
