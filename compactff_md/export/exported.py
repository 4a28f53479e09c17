"""The module that an exported file holds: a student, its neighbour list, units and species."""

# No `from __future__ import annotations`: torch.jit cannot read those of a class body that are strings.
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from compactff_md.export.verlet import DEFAULT_SKIN_A, VerletTable, current_table, empty_table, vectors_of
from compactff_md.gradients import forces_from_edges, virial_from_edges
from compactff_md.students.base import StudentNetwork
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, EV_TO_KJ_PER_MOL, NM_TO_A


class ExportedStudent(nn.Module):
    """A student with everything that an engine needs; made to be scripted.

    It keeps a neighbour list between calls, see :mod:`compactff_md.export.verlet`: results do not depend on
    earlier calls, but an instance is for one caller at a time. Engines that run several simulations copy
    the module for each (OpenMM's ``TorchForce`` does); threads need a copy each.

    For every error inside, TorchScript looks up the methods that it came through. Freezing, which OpenMM's
    plugin does, deletes those of every module that has an attribute which it cannot make a constant, but for
    :meth:`forward` itself, and an error that came through one of them ends the process. So :meth:`forward`
    calls nothing but functions and modules that are constant.

    What raises a ``RuntimeError`` here is a ``torch.jit.Error`` once scripted, with the same words in its
    last line. The first two or three calls are slow, while TorchScript optimises; a change of the list's
    width afterwards is not.

    Parameters
    ----------
    network
        In evaluation mode; its weights are taken out of differentiation, so give a copy.
    numbers
        Atomic numbers, shape (N,), of the atoms of :meth:`forward`; None for a file that only has
        :meth:`evaluate`.
    pbc
        Periodicity for :meth:`forward`; None: periodic in all directions where box vectors are given.
    particles
        Which of the particles given to :meth:`forward` these atoms are, shape (N,); None: all.
    skin_A
        Of the neighbour list.
    """

    species_by_number: Tensor
    numbers: Tensor
    species: Tensor
    particles: Tensor
    no_cell: Tensor
    table: VerletTable

    def __init__(
        self,
        network: StudentNetwork,
        numbers: Tensor | None = None,
        pbc: tuple[bool, bool, bool] | None = None,
        particles: Tensor | None = None,
        skin_A: float = DEFAULT_SKIN_A,
    ) -> None:
        super().__init__()
        # Neither weights nor inputs want gradients, so nothing builds a graph and there is no no_grad around
        # it all: TorchScript would not leave that state when an error is raised inside.
        self.student = StudentForces(network.requires_grad_(False))
        self.table = empty_table()
        self.cutoff_A = network.cutoff_A
        self.skin_A = float(skin_A)
        self.known = ", ".join(network.elements)
        self.follows_box = pbc is None
        self.pbc = [bool(p) for p in (pbc or (False, False, False))]
        self.energy_unit = EV_TO_KJ_PER_MOL
        self.force_unit = EV_PER_A_TO_KJ_PER_MOL_PER_NM
        none = torch.zeros(0, dtype=torch.int64)
        numbers = none if numbers is None else numbers
        self.register_buffer("species_by_number", species_by_number(network))  # (120,)
        self.register_buffer("numbers", numbers)
        self.register_buffer("species", network.species_of(numbers) if len(numbers) else none)
        self.register_buffer("particles", none if particles is None else particles)
        self.register_buffer("no_cell", torch.zeros(3, 3, dtype=torch.float64))

    def forward(self, positions_nm: Tensor, boxvectors_nm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy and forces in OpenMM's units, for a ``TorchForce`` with ``setOutputsForces(True)``.

        Parameters
        ----------
        positions_nm
            Positions of the system's particles, shape (P, 3), float32 or float64; never modified or kept.
        boxvectors_nm
            Box vectors as rows, shape (3, 3).

        Returns
        -------
        energy_kJ_per_mol
            Shape (), float64.
        forces_kJ_per_mol_per_nm
            Shape (P, 3), in the dtype and on the device of ``positions_nm``, contiguous; zero for
            particles that are not the student's.

        Raises
        ------
        RuntimeError
            If the file was exported without atoms, their number differs, a periodic one gets no box, or
            as in :func:`current_table`; small free molecules with NaN positions get a NaN energy instead.
        """
        if self.numbers.shape[0] == 0:
            raise RuntimeError(
                "this file was exported without atoms and does not know the elements: "
                "export it with a structure or topology, or call evaluate(positions_A, numbers, cell_A, pbc)"
            )
        system = in_angstrom(positions_nm, self.no_cell)
        positions = system
        if self.particles.shape[0] > 0:
            positions = system.index_select(0, self.particles)
        if positions.shape[0] != self.numbers.shape[0]:
            raise RuntimeError(
                f"this file was exported for {self.numbers.shape[0]} atoms; {positions.shape[0]} came"
            )
        cell, pbc = box(boxvectors_nm, self.pbc, self.follows_box, self.no_cell)
        table = current_table(self.table, positions, cell, pbc, self.cutoff_A, self.skin_A)
        self.table = table
        vectors = vectors_of(table, positions)
        energies, forces, _, _ = self.student(vectors, table.neighbours, self.species)
        energy = energies.sum() * self.energy_unit
        forces = (forces * self.force_unit).to(positions_nm.device, positions_nm.dtype)
        if self.particles.shape[0] > 0:
            rest = torch.zeros_like(system, dtype=positions_nm.dtype, device=positions_nm.device)
            forces = rest.index_copy(0, self.particles.to(positions_nm.device), forces)
        return energy.to(positions_nm.device), forces

    @torch.jit.export
    def evaluate(
        self, positions_A: Tensor, numbers: Tensor, cell_A: Tensor, pbc: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies of atoms, forces and virial of any structure.

        Parameters
        ----------
        positions_A
            Shape (N, 3), float32 or float64, may lie outside the cell.
        numbers
            Atomic numbers, shape (N,).
        cell_A
            Lattice vectors as rows, shape (3, 3); zeros for free atoms.
        pbc
            Whether each direction is periodic, shape (3,); best kept on the CPU.

        Returns
        -------
        energies_eV
            Shape (N,), float64.
        forces_eV_per_A
            Shape (N, 3), in the dtype of the weights.
        virial_eV
            dE/d(strain), shape (3, 3), in the dtype of the weights; the stress is virial / volume.

        Raises
        ------
        RuntimeError
            On elements that the student does not know, shapes that do not fit, non-finite positions and
            impossible cells.
        """
        number, device = positions_A.shape[0], self.species_by_number.device
        if number == 0 or positions_A.shape[1] != 3 or numbers.shape[0] != number:
            raise RuntimeError(
                f"positions have shape {positions_A.shape} and numbers {numbers.shape}; "
                "expected (N, 3) and (N), N at least 1"
            )
        species = self.species_by_number.index_select(0, numbers.to(device, torch.int64).clamp(0, 119))
        if bool((species < 0).any()):
            unknown: list[int] = torch.unique(numbers.to(device, torch.int64)[species < 0]).tolist()
            raise RuntimeError(f"the student does not know atomic numbers {unknown}; it knows {self.known}")
        periodic: list[bool] = pbc.to(torch.bool).tolist()
        positions = constant(positions_A, self.no_cell)
        cell = constant(cell_A, self.no_cell)
        table = current_table(self.table, positions, cell, periodic, self.cutoff_A, self.skin_A)
        self.table = table
        vectors = vectors_of(table, positions)
        energies, forces, vectors, gradients = self.student(vectors, table.neighbours, species)
        return energies, forces, virial_from_edges(vectors, gradients)


class StudentForces(nn.Module):
    """Energies and forces of a student from vectors; constant, see :class:`ExportedStudent`."""

    def __init__(self, network: StudentNetwork) -> None:
        super().__init__()
        self.network = network
        self.needs_autograd = network.needs_autograd

    def forward(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies (N,), forces (N, 3), vectors in the weights' dtype and their gradients (N, K, 3)."""
        vectors = vectors.to(self.network.dtype_like().dtype)
        before = torch.is_grad_enabled()
        if self.needs_autograd:
            torch.set_grad_enabled(True)
        energies, gradients = self.network.energies_and_gradients(vectors, neighbours, species)
        if self.needs_autograd:
            torch.set_grad_enabled(before)
            energies = constant(energies, energies)
        return energies, forces_from_edges(gradients, neighbours), vectors, gradients


def box(
    boxvectors_nm: Tensor | None, pbc: list[bool], follows_box: bool, no_cell: Tensor
) -> tuple[Tensor, list[bool]]:
    """Cell in A, shape (3, 3), float64, and periodicity, from what OpenMM gives."""
    if boxvectors_nm is None:
        if pbc[0] or pbc[1] or pbc[2]:
            raise RuntimeError(
                "this file was exported as periodic, but no box vectors came: "
                "call setUsesPeriodicBoundaryConditions(True) on the force, or export it with pbc=False"
            )
        return no_cell, pbc
    return in_angstrom(boxvectors_nm, no_cell), [True, True, True] if follows_box else pbc


def in_angstrom(lengths_nm: Tensor, like: Tensor, nm_to_A: float = NM_TO_A) -> Tensor:
    """Copy lengths as :func:`constant` does, in A."""
    return constant(lengths_nm, like) * nm_to_A


def constant(tensor: Tensor, like: Tensor) -> Tensor:
    """Copy a tensor out of differentiation, in the dtype and on the device of another.

    ``detach`` does not do: OpenMM's plugin freezes the module, which drops it, and then gives positions
    that want gradients.
    """
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    result = tensor.to(like.device, like.dtype, copy=True)
    torch.set_grad_enabled(before)
    return result


def species_by_number(network: StudentNetwork) -> Tensor:
    """Species index of each atomic number, -1 where unknown; one more entry than there are elements."""
    table = torch.full((len(chemical_symbols) + 1,), -1, dtype=torch.int64)
    for species, number in enumerate(network.atomic_numbers.tolist()):
        table[number] = species
    return table
