"""The folder of a validation: whose it is, and what is finished in it, so that a killed run goes on."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from compactff_md.errors import CompactFFError
from compactff_md.files import atomic_write, plain, read_arrays, unreadable, write_json
from compactff_md.locks import lock
from compactff_md.validation.outcome import Section, from_plain, to_plain
from compactff_md.validation.run import Run, load_run, save_run

DOTS_PER_INCH = 110
# What depends on the teacher alone has a name that begins so.
TEACHERS = "teacher-"
# Of an identity: systems by name, beside which others may come later.
SYSTEMS = "structures"


class Stages:
    """Claims a folder for one validation; a context manager that holds its lock.

    Parameters
    ----------
    path
        Made where it is missing.
    identity
        Student, teacher, structures, settings: what is finished is kept only for the same, and for more
        systems than before.
    shared
        Folder of what depends on the teacher alone, for validations that differ in the student; several
        processes may use it at a time, and wait for what another one makes. None: ``path``.

    Raises
    ------
    CompactFFError
        If the folder holds the validation of something else, or is in use.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any], shared: str | Path | None = None) -> None:
        self.path = Path(path)
        self.shared = None if shared is None else Path(shared)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise CompactFFError(f"cannot use the folder {self.path}: {error.strerror}") from error
        if not lock(self._lock):
            self._lock.close()
            raise CompactFFError(f"another process is validating in {self.path}; wait for it")
        weakref.finalize(self, self._lock.close)
        try:
            self._claim(plain(identity))
        except BaseException:  # also an interrupt: the lock must not stay
            self._lock.close()
            raise

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def run(self, name: str, make: Callable[[Path], Run]) -> Run:
        """A run of molecular dynamics: read where it is finished, else made and kept.

        ``make`` gets the path of a file for what is not finished, if it wants to write one.
        """
        with self._missing("runs", name) as (path, missing):
            if missing:
                unfinished = path.with_suffix(".unfinished.npz")
                save_run(path, make(unfinished))
                unfinished.unlink(missing_ok=True)
        return load_run(path)

    def is_made_elsewhere(self, name: str) -> bool:
        """Whether another process is making a run of the teacher's."""
        root = self._root(name)
        path = self._file("runs", name, ".npz", root)
        if root is None or path.is_file() or not path.with_suffix(".lock").is_file():
            return False
        with path.with_suffix(".lock").open("w") as file:
            return not lock(file)

    def arrays(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Arrays by name, kept like runs."""
        with self._missing("data", name) as (path, missing):
            if missing:
                made: dict[str, Any] = {**make()}
                with atomic_write(path) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, **made)
        return read_arrays(path)

    def section(self, name: str, make: Callable[[], Section]) -> Section:
        """What a test found, kept like runs."""
        path = self._file("sections", name, ".json")
        if not path.is_file():
            write_json(path, to_plain(make()))
        try:
            return from_plain(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise unreadable(path, error) from error

    def finished(self, name: str) -> bool:
        """Whether a section is there."""
        return self._file("sections", name, ".json").is_file()

    def picture(self, name: str, figure: Figure) -> str:
        """Keep a picture as PNG; return its path in the folder."""
        path = self._file("pictures", name, ".png")
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
        return str(path.relative_to(self.path))

    def file(self, name: str) -> Path:
        """Path of any other file of the folder."""
        return self.path / name

    @contextmanager
    def _missing(self, kind: str, name: str) -> Iterator[tuple[Path, bool]]:
        """Where arrays are kept, and whether they are to be made: what is the teacher's, by one process."""
        root = self._root(name)
        path = self._file(kind, name, ".npz", root)
        if root is None or path.is_file():
            yield path, not path.is_file()
            return
        with path.with_suffix(".lock").open("w") as file:
            lock(file, wait=True)
            yield path, not path.is_file()

    def _root(self, name: str) -> Path | None:
        """Where what is the teacher's lies, if it is shared."""
        return self.shared if name.rpartition("/")[2].startswith(TEACHERS) else None

    def _file(self, kind: str, name: str, suffix: str, root: Path | None = None) -> Path:
        path = (root or self.path) / kind / (re.sub(r"[^\w./+-]", "_", name) + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _claim(self, identity: dict[str, Any]) -> None:
        path = self.path / "identity.json"
        if not path.is_file():
            if any(entry.name != ".lock" for entry in self.path.iterdir()):
                raise CompactFFError(
                    f"{self.path} holds files and no validation; choose an empty or a new folder"
                )
            write_json(path, identity)
            return
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise CompactFFError(f"{path} cannot be read: {error}; choose another folder") from error
        systems = _together(before.get(SYSTEMS), identity.get(SYSTEMS))
        if systems is not None:
            before[SYSTEMS] = identity[SYSTEMS] = systems
        different = [key for key in sorted({*identity, *before}) if identity.get(key) != before.get(key)]
        if different:
            raise CompactFFError(
                f"{self.path} holds the validation of another {', '.join(different)}; "
                "resume it with what it was started with, or choose another folder"
            )
        if systems is not None:
            write_json(path, identity)


def _together(before: Any, now: Any) -> dict[str, Any] | None:
    """Systems of either; None where those of one name differ, or these are no systems by name."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None
    return before | now if all(before[name] == now[name] for name in before.keys() & now.keys()) else None
