"""The object in a ``.mliap.pt`` file: what ``pair_style mliap unified`` loads and calls."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from compactff_md.artifact import student_from_bytes
from compactff_md.errors import CompactFFError
from compactff_md.memory import keep_memory
from compactff_md.mliap.halo import KokkosHalo, NoHalo, OwnerHalo
from compactff_md.mliap.masses import exchanged_types, foreign_types
from compactff_md.mliap.messages import Messages, find_messages
from compactff_md.mliap.pairs import pair_table
from compactff_md.mliap.running import RunningLammps, find_running
from compactff_md.mliap.steady import Recording, SteadySteps
from compactff_md.mliap.step import (
    Step,
    check_elements,
    has_ghost_neighbours,
    has_gpu_arrays,
    is_kokkos,
    read_step,
    write_step,
)
from compactff_md.mliap.stopping import StoppedError, end_all_ranks, first_rank, is_alone, say, stopped
from compactff_md.students import in_dtype
from compactff_md.units import EV_TO_KCAL_PER_MOL

# LAMMPS' units whose lengths are angstrom, and what an eV is in them.
ENERGY_UNITS = {"metal": 1.0, "real": EV_TO_KCAL_PER_MOL}
UNITS_VARIABLE = "COMPACTFF_LAMMPS_UNITS"


class MLIAPStudent:
    """A student that computes LAMMPS' pairs, on one rank or many, on the CPU or a GPU.

    It has the attributes and methods of ``lammps.mliap.mliap_unified_abc.MLIAPUnified`` without being one,
    so that files are made where there is no LAMMPS. Pickled are the bytes of the student's file, their
    checksum, the dtype and the Python that made it; the network is built from these when it is loaded.

    Parameters
    ----------
    content
        Of the student's file.
    dtype
        ``float32`` or ``float64`` of the network; energies are summed in float64 either way.

    Attributes
    ----------
    element_types
        What ``pair_coeff`` may name: first what the student knows, then every other element, which LAMMPS
        would otherwise refuse without a reason.
    rcutfac
        Half of the cutoff, in A.
    """

    ndescriptors = 1
    nparams = 1

    def __init__(self, content: bytes, dtype: str = "float32") -> None:
        self.__setstate__(
            {
                "content": content,
                "sha256": hashlib.sha256(content).hexdigest(),
                "dtype": dtype,
                "python": _python(),
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("content", "sha256", "dtype", "python")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.content, self.sha256 = bytes(state["content"]), str(state["sha256"])
        self.dtype, self.python = str(state["dtype"]), str(state["python"])
        self._interface: Any = None
        self.running: RunningLammps | None = None
        self.messages: Messages | None = None
        self.energy_unit = 1.0
        self.has_gpu = False  # whether LAMMPS says that its Kokkos works on a GPU
        try:
            self._check_origin()
            network, self.metadata = student_from_bytes(self.content, "the student in this file")
        except CompactFFError as error:
            raise stopped(str(error)) from None
        self.network = in_dtype(network, self.dtype)
        known = list(network.elements)
        self.num_known = len(known)
        self.element_types = known + [s for s in chemical_symbols[1:] if s not in known]
        self.rcutfac = 0.5 * network.cutoff_A
        # An interaction reads features of neighbours; the first of a student with an analytic derivative
        # reads their elements alone.
        self.shells = network.num_interactions - (0 if network.needs_autograd else 1)
        self._owners: OwnerHalo | None = None
        self._steady: SteadySteps | None = None
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._listed_ghosts = False
        self._told_bonds = self._knows_masses = False
        self._kept: Tensor | None = None

    @property
    def interface(self) -> Any:
        """LAMMPS' end of the connection, which it sets when it has loaded the file."""
        return self._interface

    @interface.setter
    def interface(self, value: Any) -> None:
        self._interface = value
        self.running = find_running(value, self)
        units = self.running.units if self.running else _told_units()
        if units not in ENERGY_UNITS:
            raise self._stopped(
                f"the deck has units {units}; students work in angstrom: write units metal (eV) or "
                "units real (kcal/mol) in its first line"
            )
        self.energy_unit = ENERGY_UNITS[units]
        self.has_gpu = self.running is not None and self.running.has_gpu
        keep_memory()
        if self.running is not None and self.running.size > 1:
            running = self.running
            self.messages = find_messages(running.fortran_communicator, running.rank, running.size)
            if "OMP_NUM_THREADS" not in os.environ:  # PyTorch's own choice is all cores for every rank
                torch.set_num_threads(1)

    def compute_descriptors(self, data: Any) -> None:
        """Nothing; LAMMPS calls it."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing; LAMMPS calls it."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS energies of atoms and forces of pairs; called at every step.

        Every rank takes part to the end, whatever atoms and pairs it has, since there may be exchanges.
        """
        try:
            self._compute(data)
        except StoppedError:
            raise
        except Exception as error:
            if not (self.running.size == 1 if self.running else is_alone()):
                end_all_ranks(error, self.messages)
            raise (self._stopped(str(error)) if isinstance(error, CompactFFError) else error) from None

    def _compute(self, data: Any) -> None:
        if self._steady is not None and self.running is not None and not self.running.lists_are_new:
            energies, pair_gradients, kinds = self._steady.compute(data)
            if not check_elements(kinds, self.element_types, self.num_known):
                self._write(data, energies, pair_gradients)
                return
        step = read_step(data, self.element_types, self.num_known, self.shells)
        if self.running is not None and self.running.lists_are_new:
            self._check_bonds(self.running, step)
            self._check_masses(self.running, data)
        if self.network.dtype_like().device != step.species.device:
            self.network = self.network.to(step.species.device)
        self._steady = self._steady_after(data, step)
        if self._steady is not None:
            energies, pair_gradients, _ = self._steady.compute(data)
        else:
            energies, pair_gradients = self._of_step(data, step)
        self._write(data, energies, pair_gradients)

    def _steady_after(self, data: Any, step: Step) -> SteadySteps | None:
        """The shorter way of the steps from these new lists on, where one rank has all atoms on its GPU."""
        alone = self.running is not None and self.running.size == 1 and self.has_gpu
        if not alone or step.has_others or step.num_owned != int(data.nlocal) or has_ghost_neighbours(data):
            return None
        has_exchange = hasattr(data, "forward_exchange") and has_gpu_arrays(data)
        if self.network.needs_autograd or not has_exchange or not step.num_owned:
            return None
        return SteadySteps(self.network, self._recordings, data, step)

    def _of_step(self, data: Any, step: Step) -> tuple[Tensor, Tensor]:
        """Energies of the listed atoms, shape (N,), in eV, and gradients of all pairs (P, 3), in eV/A."""
        network = self.network
        halo = network.halo = self._halo(data, step)
        neighbours, species = step.neighbours, step.species
        if isinstance(halo, OwnerHalo):
            neighbours = halo.merged.index_select(0, neighbours)
            species = species.index_select(0, halo.kept)
        table = pair_table(step.rows, neighbours, step.vectors_A, step.num_rows, network.dtype_like().dtype)
        with torch.no_grad():
            energies, gradients = network.energies_and_gradients(
                table.vectors, table.neighbours, species, step.num_owned
            )
        energies = energies[: step.num_owned].index_fill(0, step.absent, 0.0)
        return energies, step.of_all_pairs(table.of_pairs(gradients))

    def _write(self, data: Any, energies: Tensor, pair_gradients: Tensor) -> None:
        """Give LAMMPS energies and forces in its unit, if they are numbers."""
        energies = energies * self.energy_unit
        if self.energy_unit != 1.0:
            pair_gradients *= self.energy_unit
        total, probe = torch.stack([energies.sum(), pair_gradients.sum()]).tolist()
        if not (math.isfinite(total) and math.isfinite(probe)):
            raise CompactFFError(
                f"energy or forces are not finite{self._when()}: atoms overlap, or the simulation ran away. "
                "Minimise the structure first, or use a shorter timestep; a student is right only near "
                "what it was trained on"
            )
        write_step(data, energies, total, pair_gradients)
        # A kernel of LAMMPS may still read it when PyTorch would give its memory to the next tensor.
        self._kept = pair_gradients

    def _halo(self, data: Any, step: Step) -> torch.nn.Module:
        """How neighbours' features come here, if the student needs them."""
        if self.network.num_interactions == 1:
            return NoHalo(step.num_rows)
        # On the CPU, Kokkos' exchange writes beyond a buffer of LAMMPS (its issue 4814).
        if is_kokkos(data) and (self.has_gpu or (self.running is None and has_gpu_arrays(data))):
            if not hasattr(data, "forward_exchange"):
                raise self._stopped("exchanges on a GPU need a LAMMPS of 22 Jul 2025 or newer")
            return KokkosHalo(data, step.columns, step.num_rows)
        if self.running is None or (self.running.size > 1 and self.messages is None):
            return self._halo_without_messages(data, step)
        if self.running.lists_are_new or self._owners is None:
            self._plan(data, step, self.running)
        return NoHalo(step.num_rows) if self._listed_ghosts else self._owners  # type: ignore[return-value]

    def _plan(self, data: Any, step: Step, running: RunningLammps) -> None:
        """Find out who owns the ghosts, or that they have rows themselves; on all ranks at once."""
        self._listed_ghosts = self._on_any_rank(has_ghost_neighbours(data))
        if self._listed_ghosts:
            self._check_reach(running)
            return
        ids = running.ids(step.num_atoms)
        if self._on_any_rank(ids is None) or ids is None:  # one without atoms does not see it
            raise self._stopped(self._needs_ghosts("atoms have no ids"))
        order = step.order
        self._owners = OwnerHalo(ids if order is None else ids[order.numpy()], step.num_owned, self.messages)

    def _on_any_rank(self, fact: bool) -> bool:
        return bool(self._highest(int(fact)))

    def _halo_without_messages(self, data: Any, step: Step) -> torch.nn.Module:
        """Ghosts have rows themselves, or none is a neighbour; other ranks may see it otherwise."""
        if has_ghost_neighbours(data):
            if self.running is not None and self.running.lists_are_new:
                self._check_reach(self.running)
        elif bool((step.neighbours >= step.num_rows).any()):
            raise CompactFFError(
                self._needs_ghosts("LAMMPS or its MPI cannot be asked whose ghosts are whose")
            )
        return NoHalo(step.num_rows)

    def _needs_ghosts(self, reason: str) -> str:
        return (
            f"this student has {self.network.num_interactions} interactions, and {reason}: write "
            f"pair_style mliap unified FILE 1, and comm_modify cutoff {self._reach_A(2.0):g} or more"
        )

    def _check_bonds(self, running: RunningLammps, step: Step) -> None:
        """Bonded neighbours are in LAMMPS' lists; the bonds may be of other styles, where there are some."""
        if self._told_bonds or not running.leaves_bonded_out:
            return
        self._told_bonds = True
        message = (
            "atoms that bonds connect are missing among LAMMPS' neighbours: write "
            "special_bonds lj/coul 1 1 1. Where another pair style wants weights of 0, 1e-50 does as "
            "well and keeps them"
        )
        if not self._on_any_rank(step.has_others):
            raise self._stopped(message) if running.size == 1 or self.messages else CompactFFError(message)
        if first_rank(self._rank()):
            say(f"where the student's own atoms have bonds, {message}")

    def _check_masses(self, running: RunningLammps, data: Any) -> None:
        """Elements in an order that is not that of the types: LAMMPS and the student would not tell."""
        if self._knows_masses or is_kokkos(data):  # whose host may have the types of an earlier order
            return
        self._knows_masses = True
        masses_Da = running.masses_Da()
        types = running.types(int(data.ntotal)) if masses_Da else np.zeros(0)
        elements: dict[int, str] = {}
        for kind in range(1, len(masses_Da) + 1):
            here = np.flatnonzero(types == kind)[:1]
            element = self._highest(int(data.elems[here[0]]) if len(here) else -1)
            if element >= 0:
                elements[kind] = self.element_types[element]
        of_types = dict(enumerate(masses_Da, 1))
        if exchanged := exchanged_types(elements, of_types):
            raise (self._stopped if running.size == 1 or self.messages else CompactFFError)(
                f"the elements after pair_coeff * * are in another order than the atom types: {exchanged}"
            )
        foreign = foreign_types(elements, of_types, self.network.elements)
        if foreign and first_rank(self._rank()):
            say(f"is an element after pair_coeff * * wrong? {foreign}")

    def _highest(self, number: int) -> int:
        """Of all ranks."""
        return number if self.messages is None else int(self.messages.gather(number).max())

    def _check_reach(self, running: RunningLammps) -> None:
        # Without messages, a rank with no such list goes on: it has to be ended.
        refused = self._stopped if self.messages is not None else CompactFFError
        cutoff_A, needed_A = running.communication_cutoff_A, self._reach_A(running.skin_A)
        if not running.has_one_reach:
            raise refused("comm_modify mode multi hides neighbours of ghosts; write comm_modify mode single")
        if cutoff_A is not None and cutoff_A < needed_A - 1e-6:
            raise refused(
                f"the communication cutoff is {cutoff_A:g} A, too short for this student: with "
                f"pair_style mliap unified FILE 1 its {self.network.num_interactions} interactions of "
                f"{self.network.cutoff_A:g} A and the skin of {running.skin_A:g} A need "
                f"comm_modify cutoff {needed_A:g}. FILE 0 needs no comm_modify"
            )

    def _rank(self) -> int | None:
        return self.running.rank if self.running else None

    def _stopped(self, message: str) -> StoppedError:
        return stopped(message, self._rank())

    def _reach_A(self, skin_A: float) -> float:
        return self.network.receptive_field_A + skin_A

    def _when(self) -> str:
        return f" at step {self.running.step}" if self.running else ""

    def _check_origin(self) -> None:
        """The file is as it was exported, and so is the Python around it."""
        if hashlib.sha256(self.content).hexdigest() != self.sha256:
            raise CompactFFError(
                "this .mliap.pt file was changed after its export: the checksum of the student in it "
                "differs; export it again with compactff export --format mliap"
            )
        if self.python != _python():
            raise CompactFFError(
                f"this file was exported by Python {self.python}, and LAMMPS runs Python {_python()}: export "
                "it with the Python of LAMMPS, or build LAMMPS with the other (lammps/build)"
            )


def _told_units() -> str:
    """Units where LAMMPS cannot be asked: on other systems than Linux, and linked statically."""
    units = os.environ.get(UNITS_VARIABLE)
    if units is None:
        raise stopped(
            f"this LAMMPS cannot be asked for its units: set {UNITS_VARIABLE}=metal or real, whichever the "
            "deck has, or build LAMMPS with BUILD_SHARED_LIBS=on, on Linux"
        )
    return units


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
