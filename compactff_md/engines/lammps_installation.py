"""Find a LAMMPS, learn what it can do, and set up the processes that it runs in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import compactff_md
from compactff_md.errors import CompactFFError

LAMMPS_VARIABLE = "COMPACTFF_LAMMPS"
CACHE_VARIABLE = "COMPACTFF_CACHE"
# Names of the executable on the search path, as distributions and LAMMPS' own builds call it.
NAMES = ("lmp", "lmp_mpi", "lmp_serial", "lammps")
NEEDED_PACKAGES = ("ML-IAP", "PYTHON")
# Releases before it cannot load a student's file with today's PyTorch, their Kokkos does not exchange, and
# older ones lose forces of pairs of ghosts.
OLDEST = "22 Jul 2025"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
GPU_APIS = ("CUDA", "HIP", "SYCL")
BUILD_IT = "build one with lammps/build of compactff-md's source (make lammps)"
TIMEOUT_S = 120.0
# Where the loader looks anyway.
SYSTEM_FOLDERS = ("/usr/lib", "/lib")


@dataclass(frozen=True)
class Lammps:
    """An executable, and what it says of itself.

    Attributes
    ----------
    executable
        Its path.
    version
        Its date, such as ``4 Jul 2026``.
    packages
        That it was built with.
    accelerators
        What its Kokkos runs on, such as ``CUDA`` or ``Serial``; empty without Kokkos.
    has_mpi
        False for a build with MPI stubs, which runs one rank.
    prefix
        Folder of ``lammps/build``, which knows its MPI and its Python module; None for any other.
    """

    executable: Path
    version: str
    packages: tuple[str, ...]
    accelerators: tuple[str, ...]
    has_mpi: bool
    prefix: Path | None = None

    @property
    def lacks(self) -> tuple[str, ...]:
        """Packages without which it runs no student."""
        return tuple(name for name in NEEDED_PACKAGES if name not in self.packages)

    @property
    def is_too_old(self) -> bool:
        """Whether it is of an earlier date than the first that runs students."""
        return _date(self.version) < _date(OLDEST)

    @property
    def has_gpu(self) -> bool:
        """Whether its Kokkos is for GPUs."""
        return any(name in GPU_APIS for name in self.accelerators)

    @property
    def mpiexec(self) -> Path | None:
        """What starts its ranks; None where there is nothing of the kind."""
        known = self.prefix / "mpiexec" if self.prefix else None
        if known is not None and known.is_file():
            return Path(known.read_text().strip())
        found = shutil.which(
            "mpiexec", path=f"{self.executable.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        )
        return Path(found) if found else None

    def environment(self, ranks: int = 1) -> dict[str, str]:
        """Variables of a process that runs students.

        The Python inside LAMMPS gets the modules of this one: it reads no virtual environment by itself.
        """
        folders = [Path(compactff_md.__file__).parents[1], *self._own_modules(), *_site_packages()]
        values = dict(os.environ)
        values["PYTHONPATH"] = _joined(folders, values.get("PYTHONPATH"))
        library = sysconfig.get_config_var("LIBDIR")
        libraries = [self.prefix / "lib"] if self.prefix else []  # for LAMMPS' own Python module
        # Not the system's folders: they would come before what LAMMPS' own libraries name as theirs.
        libraries += [Path(library)] if library and not library.startswith(SYSTEM_FOLDERS) else []
        if libraries:
            values["LD_LIBRARY_PATH"] = _joined(libraries, values.get("LD_LIBRARY_PATH"))
        if ranks > 1:
            values.setdefault("OMP_NUM_THREADS", "1")
        return values

    def _own_modules(self) -> list[Path]:
        """The folder of LAMMPS' Python module, beside the executable or in a source tree."""
        here = self.executable.resolve().parent
        places = [
            here.parent / "python",
            *here.parent.glob("lib*/python3*/site-packages"),
            here / "../python",
        ]
        return [place for place in places if (place / "lammps" / "mliap").is_dir()][:1]


def cache_folder() -> Path:
    """Where builds are kept, as ``lammps/build`` has it."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "compactff-md"


def find_lammps() -> Lammps:
    """Find a LAMMPS that runs students.

    In this order: ``COMPACTFF_LAMMPS``, an executable or the folder of a build; what ``lammps/build`` made
    for this Python; ``lmp`` and its other names on the search path.

    Raises
    ------
    CompactFFError
        If there is none; the message tells what was looked at, and what each lacks.
    """
    tried = []
    for path in candidates():
        try:
            found = inspect(path)
        except CompactFFError as error:
            tried.append(str(error))
            continue
        if found.lacks:
            tried.append(f"{path} was built without {' and '.join(found.lacks)}")
        elif found.is_too_old:
            tried.append(f"{path} is of {found.version}, and students need {OLDEST} or newer")
        else:
            return found
    looked = "; ".join(tried) or f"nothing in {cache_folder()} and on the search path"
    if given := os.environ.get(LAMMPS_VARIABLE):
        looked = "; ".join(tried) or f"no executable at {given}, nor a folder with one"
        looked += f"; {LAMMPS_VARIABLE} names it, and while that is set no other is looked for"
    raise CompactFFError(f"no LAMMPS that runs students was found ({looked}): {BUILD_IT}")


def candidates() -> Iterator[Path]:
    """Executables that may be a LAMMPS, in the order in which they are asked."""
    given = os.environ.get(LAMMPS_VARIABLE)
    if given:
        yield from _executables(Path(given))
        return
    yield from _executables(cache_folder() / "lammps" / f"py{sys.version_info[0]}.{sys.version_info[1]}")
    for name in NAMES:
        found = shutil.which(name)
        if found:
            yield Path(found)


@cache
def inspect(executable: Path) -> Lammps:
    """Ask an executable what it is.

    Raises
    ------
    CompactFFError
        If it does not start, or is no LAMMPS.
    """
    prefix = executable.parent.parent if (executable.parent.parent / "recipe").is_file() else None
    unknown = Lammps(executable, "", (), (), False, prefix)
    try:
        done = subprocess.run(
            [executable, "-h"], capture_output=True, text=True, timeout=TIMEOUT_S, env=unknown.environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompactFFError(f"{executable} does not start: {error}") from error
    version = re.search(r"Large-scale Atomic/Molecular Massively Parallel Simulator - ([^\n]*)", done.stdout)
    if version is None:
        reason = (done.stderr.strip().splitlines() or ["it says nothing of LAMMPS"])[0]
        raise CompactFFError(f"{executable} is no LAMMPS that starts: {reason}")
    listed = re.search(r"Installed packages:\s*\n\s*\n(.*?)\n\s*\n", done.stdout, re.DOTALL)
    kokkos = re.search(r"KOKKOS package API:([^\n]*)", done.stdout)
    return Lammps(
        executable,
        version[1].strip(),
        tuple(listed[1].split()) if listed else (),
        tuple(kokkos[1].split()) if kokkos else (),
        "MPI STUBS" not in done.stdout,
        prefix,
    )


def _date(version: str) -> tuple[int, int, int]:
    """Year, month and day that a version begins with; one without them is taken for new."""
    found = re.match(r"(\d+) (\w{3})\w* (\d{4})", version)
    if found is None or found[2] not in MONTHS:
        return (9999, 1, 1)
    return (int(found[3]), MONTHS.index(found[2]) + 1, int(found[1]))


def _executables(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for name in NAMES:
        if (path / "bin" / name).is_file():
            yield path / "bin" / name
        elif path.is_dir() and (path / name).is_file():
            yield path / name


def _site_packages() -> list[Path]:
    return [Path(p) for p in dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])]


def _joined(folders: list[Path], before: str | None) -> str:
    parts = [str(folder) for folder in folders] + ([before] if before else [])
    return os.pathsep.join(dict.fromkeys(parts))
