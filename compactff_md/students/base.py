"""What every student is: a sum of atomic energies over short-range neighbours."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from compactff_md.errors import CompactFFError
from compactff_md.students.prior import ZBLRepulsion
from compactff_md.structure import MAX_ATOMIC_NUMBER


class StudentNetwork(nn.Module, ABC):
    """Energies of atoms from the vectors to their neighbours.

    Subclasses implement :meth:`network_energies`, and may implement :meth:`network_gradients` where an
    analytic derivative is faster than autograd. All must be scriptable by ``torch.jit.script``.

    Parameters
    ----------
    elements
        Chemical symbols; their order is that of the species index.
    cutoff_A
        Neighbours farther than this have no influence.

    Attributes
    ----------
    energy_shift_eV
        Energy of each element's atom outside the network, shape (S,), float64.
    energy_scale_eV
        What the network's dimensionless output is multiplied with, shape (), float64.
    """

    num_interactions: int

    def __init__(self, elements: list[str], cutoff_A: float) -> None:
        super().__init__()
        self.elements = check_elements(elements)
        if not 1.0 <= cutoff_A <= 20.0:
            raise CompactFFError(f"cutoff is {cutoff_A} A; allowed are 1 to 20 A")
        self.cutoff_A = float(cutoff_A)
        numbers = [atomic_numbers[symbol] for symbol in self.elements]
        self.prior = ZBLRepulsion(numbers)
        self.register_buffer("atomic_numbers", torch.tensor(numbers))
        self.register_buffer("energy_shift_eV", torch.zeros(len(numbers), dtype=torch.float64))
        self.register_buffer("energy_scale_eV", torch.ones((), dtype=torch.float64))

    @abstractmethod
    def network_energies(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Dimensionless energies of the learned part, shape (N,); arguments as in :meth:`forward`."""

    def forward(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Energies of atoms.

        Parameters
        ----------
        vectors
            ``r_j - r_i`` in A, shape (N, K, 3), in the dtype of the weights; rows are filled up with
            vectors longer than the cutoff.
        neighbours
            Index j of each, shape (N, K), int64.
        species
            Index into ``elements`` of each atom, shape (N,), int64.

        Returns
        -------
        Tensor
            Energies in eV, shape (N,), float64.
        """
        energies = self.network_energies(vectors, neighbours, species).to(torch.float64)  # (N,)
        repulsion = self.prior(vectors, neighbours, species).to(torch.float64)  # (N,)
        return energies * self.energy_scale_eV + self.energy_shift_eV[species] + repulsion

    @property
    def receptive_field_A(self) -> float:
        """How far an atom's position can influence another's energy: cutoff times interactions."""
        return self.cutoff_A * self.num_interactions

    @property
    def num_parameters(self) -> int:
        """Everything that is learned, the energy of each element and the energy scale included."""
        weights = sum(p.numel() for p in self.parameters())
        return weights + self.energy_shift_eV.numel() + 1

    def species_of(self, numbers: Tensor) -> Tensor:
        """Map atomic numbers, shape (N,), to species indices, shape (N,).

        Raises
        ------
        CompactFFError
            If an element is unknown to the student; the message names it and the known ones.
        """
        match = numbers.unsqueeze(1) == self.atomic_numbers  # (N, S)
        unknown = torch.unique(numbers[~match.any(dim=1)]).tolist()
        if unknown:
            raise CompactFFError(
                f"the student does not know {', '.join(chemical_symbols[z] for z in unknown)}; "
                f"it knows {', '.join(self.elements)}"
            )
        return match.int().argmax(dim=1)


def check_elements(elements: list[str]) -> list[str]:
    """Return the symbols as a list, or say which is not an element from H to Rn or comes twice."""
    elements = list(elements)
    for symbol in elements:
        if atomic_numbers.get(symbol, 0) < 1 or atomic_numbers[symbol] > MAX_ATOMIC_NUMBER:
            raise CompactFFError(f"{symbol!r} is not an element from H to Rn")
    if len(elements) != len(set(elements)) or not elements:
        raise CompactFFError(f"elements are {elements}; expected at least one, each once")
    return elements
