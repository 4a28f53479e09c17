"""A student as an ``openmm.Force``: one function for both ways, TorchForce and PythonForce.

Both run the same exported TorchScript module, which keeps its own neighbour list, so they give the same
numbers. TorchForce stays inside OpenMM's C++ (and on its GPU); it needs the openmm-torch plugin.
PythonForce needs nothing beside OpenMM, works with any PyTorch, and survives ``XmlSerializer``: so far
reading or copying a TorchForce, as ``copy.deepcopy`` of a system and a ``CustomCVForce`` do, crashes OpenMM
8.6 with the openmm-torch 1.10 wheels, which were built against the ``SerializationNode`` of OpenMM 8.5.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactff_md.engines.ase import choose_device
from compactff_md.engines.openmm_import import openmm, openmmtorch, unit
from compactff_md.engines.openmm_recorded import RecordedModule
from compactff_md.errors import CompactFFError
from compactff_md.export.torchscript import scripted_module
from compactff_md.memory import keep_memory
from compactff_md.students.base import StudentNetwork

FORCES = ("torchforce", "python")
# From here on tensors are so large that the C library asks the system for each anew.
MANY_ATOMS = 256


def openmm_force(
    student: Any,
    numbers: Sequence[int] | np.ndarray,
    *,
    pbc: bool | Sequence[bool] | np.ndarray,
    force: str = "torchforce",
    particles: Iterable[int] | None = None,
    force_group: int = 0,
    device: str = "auto",
    **export_options: Any,
) -> Any:
    """Make the force of a student on the particles of an ``openmm.System``.

    Parameters
    ----------
    student
        A ``Student`` or its network.
    numbers
        Atomic numbers of the particles that the student works on, in their order.
    pbc
        Whether the box is periodic; in all directions or in none, as OpenMM knows no other.
    force
        ``"torchforce"``, or ``"python"``, which systems need that are copied, read from XML, or scaled in a
        ``CustomCVForce``.
    particles
        Indices of these particles in the system, as many as there are numbers; None means that the
        system has no others. The rest feels nothing of the force.
    force_group
        OpenMM's group, from 0 to 31.
    device
        Where a PythonForce computes: ``auto`` (a GPU where PyTorch finds one), ``cpu``, ``cuda``, ``cuda:1``.
        A TorchForce follows OpenMM's platform, and takes no device.
    export_options
        Of :func:`compactff_md.export.torchscript.scripted_module`: dtype, skin_A.

    Returns
    -------
    openmm.Force
        To be added to a system. Energies and forces in kJ/mol and kJ/mol/nm.

    Raises
    ------
    CompactFFError
        If openmm or openmm-torch is missing, ``force`` or ``device`` is unknown, an element is unknown to
        the student, ``particles`` are none, no indices, or do not match ``numbers``, or the box is periodic
        in part only.
    """
    if force not in FORCES:
        raise CompactFFError(f"unknown force {force!r}; allowed are {', '.join(FORCES)}")
    if force == "torchforce" and device != "auto":
        raise CompactFFError(
            "a TorchForce runs on the device of OpenMM's platform; device is for force='python'"
        )
    numbers = np.asarray(numbers, dtype=np.int64)
    periodic = periodicity(pbc)
    indices = _checked_particles(particles, len(numbers))
    make = openmm.PythonForce if force == "python" else openmmtorch.TorchForce  # says what to install
    inside = indices if force == "torchforce" else None  # a PythonForce is given its particles only
    module = scripted_module(network_of(student), numbers, periodic, particles=inside, **export_options)
    if force == "python":
        result = make(PythonStudent(module, periodic, choose_device(device)))
        if indices is not None:
            result.setParticles(indices)
    else:
        result = make(module)
        result.setOutputsForces(True)
    if len(numbers) >= MANY_ATOMS:
        keep_memory()
    result.setUsesPeriodicBoundaryConditions(periodic)
    result.setForceGroup(force_group)
    result.setName("compactff-md student")
    return result


def network_of(student: Any) -> StudentNetwork:
    """Return the network of a ``Student``, or the network itself."""
    network = getattr(student, "network", student)
    if not isinstance(network, StudentNetwork):
        raise CompactFFError(
            f"student came as {type(student).__name__}; expected a Student, as compactff_md.load gives, "
            "or its network"
        )
    return network


def periodicity(pbc: bool | Sequence[bool] | np.ndarray) -> bool:
    """Return True for a box, False for free atoms; refuse what is periodic in one or two directions."""
    flags = np.atleast_1d(np.asarray(pbc, dtype=bool))
    if flags.any() != flags.all():
        raise CompactFFError(
            f"pbc is {flags.tolist()}, but OpenMM's boxes are periodic in all three directions or in none; "
            "give a slab a box with vacuum and make it periodic in all three"
        )
    return bool(flags.all())


class PythonStudent:
    """What a PythonForce calls: OpenMM state -> energy in kJ/mol, forces in kJ/mol/nm.

    It pickles to the bytes of its TorchScript module, so that ``XmlSerializer`` writes systems that need
    no other file. Contexts made of one system share it: right for any number of them, but each call that
    finds another context's atoms builds the neighbour list anew.
    """

    def __init__(self, module: torch.jit.ScriptModule, periodic: bool, device: torch.device) -> None:
        self.module = module.to(device)
        self.periodic = periodic
        self.device = device
        # Recorded it is several times as fast on a GPU, where autograd's threads would not be recorded.
        records = device.type == "cuda" and not module.student.needs_autograd
        self._recorded = RecordedModule(self.module) if records else None
        self._lock = threading.Lock()

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Energy, and forces of shape (N, 3)."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        box = None
        if self.periodic:
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        with self._lock:  # the neighbour list is kept between calls, and TorchScript lets other threads run
            if self._recorded is not None:
                return self._recorded(positions, box)
            energy, forces = self.module(self._tensor(positions), None if box is None else self._tensor(box))
        return float(energy), forces.detach().to("cpu", torch.float64).numpy()

    def _tensor(self, lengths_nm: np.ndarray) -> Tensor:
        return torch.from_numpy(lengths_nm).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        stream = io.BytesIO()
        torch.jit.save(self.module, stream)
        return {"torchscript": stream.getvalue(), "periodic": self.periodic, "device": str(self.device)}

    def __setstate__(self, content: dict[str, Any]) -> None:
        try:
            device = choose_device(content["device"])
        except CompactFFError:  # written on a machine with other GPUs
            device = choose_device("auto")
        module = torch.jit.load(io.BytesIO(content["torchscript"]), map_location=device)
        self.__init__(module, content["periodic"], device)  # type: ignore[misc]


def indices_of(particles: Iterable[int]) -> list[int]:
    """Indices of particles as integers.

    Raises
    ------
    CompactFFError
        For a mask, and for anything that is not whole numbers.
    """
    try:
        given = list(particles)
    except TypeError:
        given = [particles]  # type: ignore[list-item]
    wrong = [p for p in given if isinstance(p, bool | np.bool_) or not hasattr(p, "__index__")]
    if wrong:
        raise CompactFFError(
            f"particles has {wrong[0]!r} ({type(wrong[0]).__name__}); expected indices such as [0, 1, 2]: "
            "np.flatnonzero(mask) makes them of a mask, [atom.index for atom in ...] of atoms"
        )
    return [index(p) for p in given]


def _checked_particles(particles: Iterable[int] | None, count: int) -> list[int] | None:
    if particles is None:
        return None
    indices = indices_of(particles)
    if not indices:
        raise CompactFFError("particles is empty; expected at least one index, or None for all")
    if len(indices) != count or len(set(indices)) != count or min(indices) < 0:
        raise CompactFFError(
            f"{len(indices)} particles ({len(set(indices))} different) came with {count} atomic numbers; "
            "expected as many, each index once, none negative"
        )
    return indices
