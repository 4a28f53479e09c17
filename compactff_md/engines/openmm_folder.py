"""The folder of a run: whose it is, its lock, and the restart files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.openmm_import import openmm
from compactff_md.errors import CompactFFError
from compactff_md.files import atomic_write, write_json
from compactff_md.locks import lock
from compactff_md.structure import Structure
from compactff_md.students.base import StudentNetwork

# What a run writes: none of these may lie in the folder of a new one.
LEFT_BY_A_RUN = (
    "settings.json",
    "log.csv",
    "trajectory.xtc",
    "trajectory.dcd",
    "restart.xml",
    "restart_previous.xml",
    "topology.pdb",
    "failed.xyz",
)


class RunFolder:
    """Claims a folder for one run; use as a context manager, which holds its lock.

    A run that ends before it wrote its settings leaves nothing, not even the folder if it made that.

    Parameters
    ----------
    path
        Made where it is missing.
    settings
        Of this run.
    identity
        What the run is of (student, structure, masses): a resumed run must be of the same. See
        :func:`identity_of`.
    resume
        Go on with the run in the folder.

    Raises
    ------
    CompactFFError
        If the folder holds another run or a file that this one would write, or is in use; on resume if it
        holds none, or if its settings, student, structure or masses differ: the message names them.
    """

    def __init__(
        self, path: str | Path, settings: MDSettings, identity: dict[str, Any], resume: bool
    ) -> None:
        self.path = Path(path)
        self.settings = self.path / "settings.json"
        self.topology = self.path / "topology.pdb"
        self.trajectory = self.path / f"trajectory.{settings.trajectory_format}"
        self.log = self.path / "log.csv"
        self.restart = self.path / "restart.xml"
        self.previous_restart = self.path / "restart_previous.xml"
        self.failed = self.path / "failed.xyz"
        self._check(settings, identity, resume)
        self._make()
        self._lock = (self.path / ".lock").open("w")
        if not lock(self._lock):
            self._lock.close()
            raise CompactFFError(f"another process is running in {self.path}; wait for it, or stop it")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.settings.exists():
            Path(self._lock.name).unlink(missing_ok=True)
            if self._new:
                with suppress(OSError):  # somebody else's files lie there by now
                    self.path.rmdir()
        self._lock.close()

    def write_settings(self, settings: MDSettings, identity: dict[str, Any], **facts: Any) -> None:
        """Write what was asked, of what, and ``facts`` on how it runs here."""
        write_json(self.settings, {"settings": settings.model_dump(), **identity, **facts})

    def forget(self) -> None:
        """Leave the folder free for another run: this one, which found none of these files, has not begun."""
        for path in (self.settings, self.topology, self.log, self.trajectory):
            path.unlink(missing_ok=True)

    def save_restart(self, state: Any) -> None:
        """Write a state with positions and velocities; the one before is kept as restart_previous.xml."""
        text = openmm.XmlSerializer.serialize(state)
        with atomic_write(self.restart) as temporary:
            temporary.write_text(text)
            if self.restart.exists():  # a second name for the old file: there is one at every moment
                self.previous_restart.unlink(missing_ok=True)
                try:
                    self.previous_restart.hardlink_to(self.restart)
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.restart, self.previous_restart)

    def load_restart(self) -> Any | None:
        """Return the latest readable state; None where the run was stopped before its first."""
        found = [path for path in (self.restart, self.previous_restart) if path.is_file()]
        for path in found:
            try:
                return openmm.XmlSerializer.deserialize(path.read_text())
            except Exception as error:  # OpenMM's parser raises plain exceptions of many kinds
                reason = error
        if found:
            raise CompactFFError(f"neither restart file of {self.path} can be read: {reason}")
        return None

    def _check(self, settings: MDSettings, identity: dict[str, Any], resume: bool) -> None:
        left = [name for name in LEFT_BY_A_RUN if (self.path / name).exists()]
        if not resume:
            if left and not self.settings.exists():
                raise CompactFFError(
                    f"{self.path} already holds {', '.join(left)}, which a run would write over; choose "
                    "another folder, or move what is there"
                )
            if left:
                raise CompactFFError(
                    f"{self.path} already holds a run ({', '.join(left)}); resume it, or choose another"
                )
            return
        if not self.settings.is_file():
            raise CompactFFError(f"no run to resume in {self.path}: it has no settings.json")
        try:
            found = json.loads(self.settings.read_text())
        except ValueError as error:
            raise CompactFFError(f"{self.settings} cannot be read: {error}") from error
        if not (isinstance(found, dict) and isinstance(found.get("settings"), dict)):
            raise CompactFFError(
                f"no run to resume in {self.path}: its settings.json is of a LAMMPS deck or another program"
            )
        before = MDSettings.saved(found["settings"])
        different = settings.differences(before) + [k for k in identity if found.get(k) != identity[k]]
        if different:
            raise CompactFFError(
                f"the run in {self.path} differs in {', '.join(different)}; resume it with what it was "
                "started with, or start another in a new folder"
            )

    def _make(self) -> None:
        self._new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CompactFFError(f"cannot make the folder {self.path}: {error.strerror}") from error
        if not os.access(self.path, os.W_OK):
            raise CompactFFError(f"cannot write into the folder {self.path}")


def identity_of(
    structure: Structure, network: StudentNetwork | None, masses_Da: np.ndarray | None = None
) -> dict[str, Any]:
    """What a run is of: checksums of structure, weights and own masses, and what a reader wants.

    Masses, shape (N,), are None where they are those of the elements.
    """
    digest = hashlib.sha256()
    for array in (structure.positions_A, structure.numbers, structure.cell_A, structure.pbc):
        digest.update(np.ascontiguousarray(array).tobytes())
    atoms = {"atoms": len(structure), "formula": structure.to_ase().get_chemical_formula()}
    found: dict[str, Any] = {"structure": {**atoms, "sha256": digest.hexdigest()}}
    if network is not None:
        found["student"] = {
            "architecture": network.architecture,
            "parameters": int(network.num_parameters),
            "sha256": _fingerprint(network),
        }
    found["masses"] = None
    if masses_Da is not None:
        sha256 = hashlib.sha256(np.ascontiguousarray(masses_Da).tobytes()).hexdigest()
        found["masses"] = {"sum_Da": float(masses_Da.sum()), "sha256": sha256}
    return found


def _fingerprint(network: StudentNetwork) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
