"""Rows of numbers from every rank to every other, by the MPI that LAMMPS brought along.

LAMMPS' plain build offers its Python no communication, so that it is asked of MPI, which is in the
process anyway. Everything travels as bytes, in three functions whose names and arguments all
implementations share; what differs is how they name a communicator and the type of a byte.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MPICH_BYTE = 0x4C00010D  # MPICH and all that share its ABI: Intel MPI, MVAPICH, Cray MPICH
MPI_SUCCESS = 0


class Messages:
    """All-to-all messages among the ranks of a simulation.

    Every method is collective: all ranks call it, also those that have nothing to say.

    Parameters
    ----------
    library
        What exports MPI's functions.
    fortran_communicator
        As LAMMPS' library interface gives it.
    rank, size
        Of this process, and how many there are.
    """

    def __init__(self, library: ctypes.CDLL, fortran_communicator: int, rank: int, size: int) -> None:
        self.library = library
        self.rank = rank
        self.size = size
        if hasattr(library, "ompi_mpi_byte"):  # Open MPI: addresses
            library.MPI_Comm_f2c.argtypes = [ctypes.c_int]
            library.MPI_Comm_f2c.restype = ctypes.c_void_p
            self.communicator = ctypes.c_void_p(library.MPI_Comm_f2c(fortran_communicator))
            self.byte = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "ompi_mpi_byte")))
        else:  # numbers, the same as Fortran's
            self.communicator = ctypes.c_int(fortran_communicator)  # type: ignore[assignment]
            self.byte = ctypes.c_int(MPICH_BYTE)  # type: ignore[assignment]

    def counts(self, to_each: np.ndarray) -> np.ndarray:
        """Tell every rank a number, shape (R,), and hear one of each, shape (R,), int64."""
        to_each = np.ascontiguousarray(to_each, dtype=np.int64)
        heard = np.empty(self.size, dtype=np.int64)
        width = ctypes.c_int(heard.itemsize)
        self._check(
            self.library.MPI_Alltoall(
                _address(to_each), width, self.byte, _address(heard), width, self.byte, self.communicator
            )
        )
        return heard

    def exchange(self, rows: Tensor, sent: np.ndarray, received: np.ndarray) -> Tensor:
        """Send rows to ranks and return those that come.

        Parameters
        ----------
        rows
            Shape (S, F), contiguous, on the CPU, in the order of the ranks that they go to.
        sent, received
            How many rows go to and come from each rank, shape (R,).

        Returns
        -------
        Tensor
            Rows in the order of the ranks that they come from, shape (sum of ``received``, F).
        """
        width = rows.element_size() * (rows.shape[1] if rows.dim() > 1 else 1)
        arrived = rows.new_empty((int(received.sum()), *rows.shape[1:]))
        to_each, from_each = _blocks(sent, width), _blocks(received, width)
        self._check(
            self.library.MPI_Alltoallv(
                ctypes.c_void_p(rows.data_ptr()),
                _address(to_each[0]),
                _address(to_each[1]),
                self.byte,
                ctypes.c_void_p(arrived.data_ptr()),
                _address(from_each[0]),
                _address(from_each[1]),
                self.byte,
                self.communicator,
            )
        )
        return arrived

    def gather(self, value: int) -> np.ndarray:
        """Numbers of all ranks, shape (R,)."""
        return self.counts(np.full(self.size, value))

    def send_lists(self, values: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Send each value, shape (V,), to the rank beside it in ``owners``, shape (V,).

        Returns
        -------
        arrived
            What the others sent here, in the order of their ranks.
        sent, received
            How many went to and came from each rank, shape (R,).
        """
        sent = np.bincount(owners, minlength=self.size)
        received = self.counts(sent)
        ordered = torch.from_numpy(values[np.argsort(owners, kind="stable")].astype(np.int64))
        return self.exchange(ordered, sent, received).numpy(), sent, received

    def abort(self) -> None:
        """End all ranks; they would wait for this one forever."""
        self.library.MPI_Abort(self.communicator, ctypes.c_int(1))

    def _check(self, code: int) -> None:
        if code != MPI_SUCCESS:
            raise RuntimeError(f"MPI failed with code {code}")


def find_messages(fortran_communicator: int, rank: int, size: int) -> Messages | None:
    """Messages by the MPI in this process; None where it is not one that is known here."""
    library = ctypes.CDLL(None)
    maps = Path("/proc/self/maps")
    # The ABI of MPI 5 has numbers of its own for the same names.
    if not hasattr(library, "MPI_Alltoallv") or (maps.exists() and "libmpi_abi" in maps.read_text()):
        return None
    return Messages(library, fortran_communicator, rank, size)


def _blocks(counts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and places in bytes, int32 as MPI wants them."""
    sizes = np.asarray(counts, dtype=np.int64) * width
    places = np.cumsum(sizes) - sizes
    if len(sizes) and int(sizes.sum()) > np.iinfo(np.int32).max:
        raise RuntimeError(f"{int(sizes.sum())} bytes for one message; MPI takes 2^31: use more ranks")
    return sizes.astype(np.int32), places.astype(np.int32)


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
