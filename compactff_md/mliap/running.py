"""The LAMMPS that called: units, ranks, atom ids and the reach of its communication.

ML-IAP hands its data over without saying whose they are: not in which units, nor which ghost is whose
image. LAMMPS' own library interface tells, to who has the address of the running instance. That address
lies in every C++ object of LAMMPS, in front of references to the instance's first members: a pattern that
nothing else has, so that it is looked for and not assumed. Memory is read through ``/proc/self/mem``,
which refuses a wrong address where a pointer would crash. Where there is no such file, or no such pattern,
there is no :class:`RunningLammps`: units have to be told, and ghosts to have rows of their own.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

GPU_APIS = (b"cuda", b"hip", b"sycl")
WORD = struct.calcsize("P")
MEMORY = Path("/proc/self/mem")
# LAMMPS' base class Pointers holds the instance and references to its members, in the order of these.
MEMBERS = 8
COMM_MEMBER = 7
SEARCHED_BYTES = 1024
# A method without a C interface; the name is that of every C++ compiler on Linux and macOS.
COMM_CUTOFF = "_ZN9LAMMPS_NS4Comm15get_comm_cutoffEv"


class RunningLammps:
    """Questions to the running LAMMPS, by the functions of its C library interface.

    Parameters
    ----------
    handle
        Address of the instance.
    library
        What exports LAMMPS' C functions.
    """

    def __init__(self, handle: int, library: ctypes.CDLL) -> None:
        self.handle = ctypes.c_void_p(handle)
        self.library = library
        library.lammps_extract_setting.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.lammps_extract_global.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.lammps_extract_global.restype = ctypes.c_void_p
        library.lammps_extract_atom.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.lammps_extract_atom.restype = ctypes.c_void_p
        library.lammps_get_mpi_comm.argtypes = [ctypes.c_void_p]
        library.lammps_config_accelerator.argtypes = [ctypes.c_char_p] * 3

    def setting(self, name: str) -> int:
        """A number such as ``world_rank``; -1 where this LAMMPS does not know it."""
        return int(self.library.lammps_extract_setting(self.handle, name.encode()))

    @property
    def units(self) -> str:
        """The word after ``units`` in the deck."""
        address = self._global("units")
        return ctypes.cast(address, ctypes.c_char_p).value.decode() if address else "unknown"  # type: ignore[union-attr]

    @property
    def rank(self) -> int:
        """Of this process among those of the simulation."""
        return self.setting("world_rank")

    @property
    def size(self) -> int:
        """How many processes the simulation has."""
        return self.setting("world_size")

    @property
    def fortran_communicator(self) -> int:
        """The simulation's MPI communicator, as Fortran counts them."""
        return int(self.library.lammps_get_mpi_comm(self.handle))

    @property
    def step(self) -> int:
        """Number of the step."""
        return self._count("ntimestep")

    @property
    def lists_are_new(self) -> bool:
        """Whether neighbours and ghosts may differ from those of the last call; the same on every rank."""
        return self.setting("neigh_ago") <= 0

    @property
    def has_gpu(self) -> bool:
        """Whether Kokkos, if it is in this LAMMPS, was built for GPUs, where it then runs by itself."""
        ask = self.library.lammps_config_accelerator
        return any(ask(b"KOKKOS", b"api", name) for name in GPU_APIS)

    @property
    def leaves_bonded_out(self) -> bool:
        """Whether neighbours by up to three bonds are not listed: ``special_bonds`` has weights of 0."""
        names = ("special_lj", "special_coul")
        lj, coulomb = ((ctypes.c_double * 4).from_address(self._global(name)) for name in names)
        return self._count("nbonds") > 0 and any(lj[k] == coulomb[k] == 0.0 for k in (1, 2, 3))

    @property
    def skin_A(self) -> float:
        """How far neighbours are listed beyond the cutoff."""
        address = self._global("neigh_skin")
        return float(ctypes.c_double.from_address(address).value) if address else 0.0

    @property
    def has_one_reach(self) -> bool:
        """False with ``comm_modify mode multi``."""
        return self.setting("comm_mode") != 1

    @property
    def communication_cutoff_A(self) -> float | None:
        """How far beyond its own part of the box a rank sees atoms; None where that cannot be asked."""
        method = getattr(self.library, COMM_CUTOFF, None)
        if method is None or self.handle.value is None:
            return None
        comm = ctypes.c_void_p.from_address(self.handle.value + COMM_MEMBER * WORD)
        method.argtypes, method.restype = [ctypes.c_void_p], ctypes.c_double
        return float(method(comm))

    def ids(self, count: int) -> np.ndarray | None:
        """IDs of the first ``count`` atoms, ghosts too, shape (count,); None with ``atom_modify id no``."""
        if not count:
            return np.zeros(0, dtype=np.int64)
        address = self.library.lammps_extract_atom(self.handle, b"id")
        if not address:
            return None
        kind = ctypes.c_int64 if self.setting("tagint") == 8 else ctypes.c_int32
        ids = np.ctypeslib.as_array((kind * count).from_address(address)).astype(np.int64)
        return ids if ids.min() > 0 else None  # atoms without ids have zeros

    def types(self, count: int) -> np.ndarray:
        """Types of the first ``count`` atoms, ghosts too, shape (count,); from 1."""
        address = self.library.lammps_extract_atom(self.handle, b"type") if count else None
        if not address:
            return np.zeros(0, dtype=np.int64)
        return np.ctypeslib.as_array((ctypes.c_int32 * count).from_address(address)).astype(np.int64)

    def masses_Da(self) -> list[float]:
        """Masses of the types 1, 2, ...; none where every atom has its own."""
        address, count = self.library.lammps_extract_atom(self.handle, b"mass"), self.setting("ntypes")
        if not address or count < 1:
            return []
        return list((ctypes.c_double * (count + 1)).from_address(address))[1:]

    def _count(self, name: str) -> int:
        kind = ctypes.c_int64 if self.setting("bigint") == 8 else ctypes.c_int32
        return int(kind.from_address(self._global(name)).value)

    def _global(self, name: str) -> int:
        return self.library.lammps_extract_global(self.handle, name.encode()) or 0


def find_running(interface: Any, owner: Any) -> RunningLammps | None:
    """Find the LAMMPS behind the object that it sets as ``interface`` of ``owner``.

    ``interface`` is of a Cython class with three fields: two pointers to C++ objects, and ``owner``.

    Returns
    -------
    RunningLammps or None
        None outside of LAMMPS, in one whose functions are not exported, or where memory cannot be read.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "lammps_extract_setting") or not MEMORY.exists():
        return None
    words = _words(id(interface), 16 * WORD)
    if id(owner) not in words[2:]:
        return None
    place = words.index(id(owner))
    for address in words[place - 2 : place]:
        handle = _instance(_words(address, SEARCHED_BYTES))
        if handle:
            return RunningLammps(handle, library)
    return None


def _instance(words: list[int]) -> int:
    """An address that is followed by references to the first members behind it; 0 if there is none."""
    for k in range(len(words) - MEMBERS):
        first = words[k]
        if first and all(words[k + 1 + m] == first + m * WORD for m in range(MEMBERS)):
            return first
    return 0


def _words(address: int, length: int) -> list[int]:
    """Words of this process' memory from an address; few or none where it ends."""
    descriptor = os.open(MEMORY, os.O_RDONLY)
    try:
        content = os.pread(descriptor, length, address)
    except (OSError, OverflowError):
        return []
    finally:
        os.close(descriptor)
    return list(struct.unpack(f"{len(content) // WORD}P", content[: len(content) // WORD * WORD]))
