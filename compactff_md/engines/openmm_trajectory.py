"""Trajectories in XTC and DCD that survive a kill: cut back to whole frames, and checked as they grow."""

from __future__ import annotations

import errno
import os
import struct
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from compactff_md.engines.openmm_import import app, openmm, unit
from compactff_md.errors import CompactFFError


class Trajectory(ABC):
    """Frames of a run, one every ``interval`` steps; step 0 has none.

    Parameters
    ----------
    path
        The file.
    topology
        ``openmm.app.Topology``; frames have a box where it has one.
    timestep_ps, interval
        For the times in the file.
    last_step
        None starts a new file; a step keeps the frames of an existing file up to it.

    Raises
    ------
    CompactFFError
        If the existing file has fewer frames than the run had written at ``last_step``.
    """

    def __init__(
        self, path: Path, topology: Any, timestep_ps: float, interval: int, last_step: int | None = None
    ) -> None:
        self.path = path
        self.num_atoms = topology.getNumAtoms()
        self.periodic = topology.getPeriodicBoxVectors() is not None
        frames = 0 if last_step is None else last_step // interval
        if frames:
            self._cut(frames, interval)
        self._open(topology, timestep_ps, interval, append=frames > 0)

    @abstractmethod
    def write(self, positions_nm: np.ndarray, box_nm: np.ndarray | None) -> None:
        """Append a frame: positions (N, 3) and box vectors (3, 3); OSError where the disk is full."""

    @abstractmethod
    def _cut(self, frames: int, interval: int) -> None:
        """Keep the first frames of the existing file."""

    @abstractmethod
    def _open(self, topology: Any, timestep_ps: float, interval: int, append: bool) -> None:
        """Start a new file, or go on after the last frame."""

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())

    def close(self) -> None:  # noqa: B027  (XTC is closed after every frame)
        """Close the file."""

    def _check_size(self, expected: int, frames: int) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < expected:
            raise CompactFFError(
                f"{self.path} holds fewer than the {frames} frames that the run had written at its restart; "
                "put the file back, or start again in a new folder"
            )


class XtcTrajectory(Trajectory):
    """GROMACS' compressed format: positions to 0.001 nm."""

    def write(self, positions_nm: np.ndarray, box_nm: np.ndarray | None) -> None:
        """Append a frame, and look whether all of it reached the file: OpenMM's writer does not."""
        before = self.path.stat().st_size
        self._file.writeModel(positions_nm, periodicBoxVectors=_vectors(box_nm))
        if xtc_frame_end(self.path, before) is None:
            os.truncate(self.path, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _cut(self, frames: int, interval: int) -> None:
        end: int | None = 0
        for _ in range(frames):
            end = xtc_frame_end(self.path, end) if end is not None and self.path.exists() else None
        self._check_size(2**62 if end is None else end, frames)
        os.truncate(self.path, end or 0)

    def _open(self, topology: Any, timestep_ps: float, interval: int, append: bool) -> None:
        if not append:
            self.path.write_bytes(b"")
        self._file = app.XTCFile(str(self.path), topology, timestep_ps, interval, interval, append)


class DcdTrajectory(Trajectory):
    """CHARMM's format: positions in float32."""

    HEADER_BYTES = 276

    def write(self, positions_nm: np.ndarray, box_nm: np.ndarray | None) -> None:
        """Append a frame."""
        self._file.writeModel(positions_nm, periodicBoxVectors=_vectors(box_nm))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _cut(self, frames: int, interval: int) -> None:
        frame_bytes = (56 if self.periodic else 0) + 3 * (8 + 4 * self.num_atoms)
        end = self.HEADER_BYTES + frames * frame_bytes
        self._check_size(end, frames)
        with self.path.open("r+b") as stream:
            stream.truncate(end)
            stream.seek(8)
            stream.write(struct.pack("<i", frames))
            stream.seek(16)  # steps a frame: `interval`, or 1 where OpenMM's writer met more than 2^31 steps
            (steps,) = struct.unpack("<i", stream.read(4))
            stream.write(struct.pack("<i", frames * steps))

    def _open(self, topology: Any, timestep_ps: float, interval: int, append: bool) -> None:
        self._stream = self.path.open("r+b" if append else "wb")
        self._file = app.DCDFile(self._stream, topology, timestep_ps, interval, interval, append)


TRAJECTORIES: dict[str, type[Trajectory]] = {"xtc": XtcTrajectory, "dcd": DcdTrajectory}


def xtc_frame_end(path: Path, start: int) -> int | None:
    """Offset behind the frame that begins at ``start``; None where the file ends before it does.

    A frame (XDR, big-endian) is: magic number 1995, atoms, step, time, 9 of the box, atoms; then 3 floats
    an atom for up to 9 atoms, else precision, 6 bounds, an index, the number of bytes, and these bytes
    padded to 4 (xdrfile_xtc.c of GROMACS).
    """
    with path.open("rb") as stream:
        stream.seek(start)
        head = stream.read(92)
    if len(head) < 56:
        return None
    magic, atoms = struct.unpack(">2i", head[:8])
    if magic != 1995:
        raise CompactFFError(f"{path} is damaged: no XTC frame begins at byte {start}")
    if atoms <= 9:
        end = start + 56 + 12 * atoms
    elif len(head) == 92:
        end = start + 92 + (struct.unpack(">i", head[88:])[0] + 3) // 4 * 4
    else:
        return None
    return end if end <= path.stat().st_size else None


def _vectors(box_nm: np.ndarray | None) -> Any:
    return None if box_nm is None else [openmm.Vec3(*row) for row in box_nm.tolist()] * unit.nanometer
