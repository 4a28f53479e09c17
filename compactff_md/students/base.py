"""What every student is: a sum of atomic energies over short-range neighbours."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from compactff_md.errors import CompactFFError
from compactff_md.structure import MAX_ATOMIC_NUMBER
from compactff_md.students.halo import LocalHalo, exchanged
from compactff_md.students.prior import ZBLRepulsion

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Sums and references that stay in float64 whatever the dtype of the weights.
PRECISE_BUFFERS = ("energy_shift_eV", "energy_scale_eV", "anchor")


class StudentNetwork(nn.Module, ABC):
    """Energies of atoms from the vectors to their neighbours.

    Subclasses implement :meth:`network_energies`, and may override :meth:`energies_and_gradients` where
    an analytic derivative is faster than autograd. All must be scriptable by ``torch.jit.script``.

    Parameters
    ----------
    elements
        Chemical symbols; their order is that of the species index.
    cutoff_A
        Neighbours farther than this have no influence.
    hyperparameters
        What, beside elements and cutoff, rebuilds the network.

    Attributes
    ----------
    energy_shift_eV
        Energy of each element's atom outside the network, shape (S,), float64.
    energy_scale_eV
        What the network's dimensionless output is multiplied with, shape (), float64.
    halo
        Brings features of neighbours from other ranks (:mod:`compactff_md.students.halo`).
    anchored
        True where ``energy_shift_eV`` are energies of isolated atoms, which the student then reproduces.
    energy_bounds, bounded
        Lowest and highest dimensionless energy of an atom up to which the network is taken at its word, and
        the room beyond, shape (3,); and whether there are such bounds (:meth:`bound_energies`).
    """

    # No annotations here: torch.jit cannot read those of a class body that are strings.
    architecture = ""
    num_interactions = 1
    needs_autograd = True
    __jit_unused_properties__ = ["receptive_field_A", "num_parameters"]  # noqa: RUF012

    def __init__(self, elements: list[str], cutoff_A: float, hyperparameters: dict[str, int]) -> None:
        super().__init__()
        self.elements = check_elements(elements)
        if not 1.0 <= cutoff_A <= 20.0:
            raise CompactFFError(f"cutoff is {cutoff_A} A; allowed are 1 to 20 A")
        self.cutoff_A = float(cutoff_A)
        self.hyperparameters = dict(hyperparameters)
        self.anchored = False
        self.bounded = False
        numbers = [atomic_numbers[symbol] for symbol in self.elements]
        self.prior = ZBLRepulsion(numbers)
        self.halo: nn.Module = LocalHalo()
        self.atomic_numbers: Tensor
        self.energy_shift_eV: Tensor
        self.energy_scale_eV: Tensor
        self.anchor: Tensor
        self.energy_bounds: Tensor
        self.register_buffer("energy_bounds", torch.tensor([-1.0, 1.0, 1.0]), persistent=False)
        self.register_buffer("atomic_numbers", torch.tensor(numbers))
        self.register_buffer("energy_shift_eV", torch.zeros(len(numbers), dtype=torch.float64))
        self.register_buffer("energy_scale_eV", torch.ones((), dtype=torch.float64))
        self.register_buffer("anchor", torch.zeros(len(numbers), dtype=torch.float64))

    @abstractmethod
    def network_energies(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Dimensionless energies of the learned part, shape (N,); arguments as in :meth:`forward`."""

    def initialise_from_data(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> None:
        """Scale the network's inner features on a sample of the data; called once, before training."""

    def forward(self, vectors: Tensor, neighbours: Tensor, species: Tensor, num_owned: int = -1) -> Tensor:
        """Energies of atoms.

        Parameters
        ----------
        vectors
            ``r_j - r_i`` in A, shape (N, K, 3), in the dtype of the weights; rows are filled up with
            vectors longer than the cutoff.
        neighbours
            Index j of each, shape (N, K), int64.
        species
            Index into ``elements`` of each atom, shape (M,), int64, M >= N: the rows of ``vectors`` are
            the first N atoms, and further ones are only neighbours. Of these a student with several
            interactions needs features, through ``halo``, or rows.
        num_owned
            Only this many of the N rows have an energy, the others, atoms of another rank, zero; negative
            for all.

        Returns
        -------
        Tensor
            Energies in eV, shape (N,), float64.
        """
        energies = self.network_energies(vectors, neighbours, species)  # (N,)
        if self.bounded:
            energies = self.level(energies)[0]
        energies = energies.to(torch.float64)
        repulsion = self.prior(vectors, neighbours, species).to(torch.float64)  # (N,)
        total = self.offsets_eV()[species[: vectors.shape[0]]] + energies * self.energy_scale_eV + repulsion
        return total if num_owned < 0 else total * owned_rows(total, num_owned)

    @torch.jit.unused
    def bound_energies(self, lowest: float, highest: float, room: float) -> None:
        """Let the network's energy of an atom level off beyond these dimensionless bounds, of trained ones.

        What a network says of atoms that are packed as no data are grows with a high power of the density,
        down as well as up: an optimiser that steps too far falls into it. Beyond the bounds the energy
        still rises by ``room``, or falls by a quarter of it, at most, with two continuous derivatives;
        within nothing changes.

        Raises
        ------
        CompactFFError
            If they are not finite, or not in this order, or there is no room.
        """
        if not (-math.inf < lowest < highest < math.inf and 0.0 < room < math.inf):
            raise CompactFFError(
                f"energy bounds are {lowest} and {highest}, room {room}; expected lowest < highest and room"
            )
        self.energy_bounds.copy_(torch.tensor([lowest, highest, room], dtype=torch.float64))
        self.bounded = True

    def level(self, energies: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N,) that level off beyond the bounds, and their derivative by those given."""
        # Not unbind: a list would keep freezing from making the bounds a constant (ExportedStudent).
        lowest, highest, above = self.energy_bounds[0], self.energy_bounds[1], self.energy_bounds[2]
        inside = torch.minimum(torch.maximum(energies, lowest), highest)
        room = torch.where(energies < lowest, 0.25 * above, above)  # numbers would be of the default dtype
        beyond = torch.tanh((energies - inside) / room)
        return torch.addcmul(inside, beyond, room), 1.0 - beyond * beyond

    @torch.jit.export
    def energies_and_gradients(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, num_owned: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Energies of atoms and the derivative of their sum by every vector.

        By autograd here, which wants gradients enabled where it is scripted (``needs_autograd``); a
        student may override it with its analytic derivative. In training mode both can be
        differentiated by the weights.

        Returns
        -------
        energies_eV
            Shape (N,), float64.
        edge_gradients_eV_per_A
            Shape (N, K, 3), in the dtype of ``vectors``.
        """
        if torch.jit.is_scripting():  # TorchScript has no enable_grad: its caller must not be under no_grad
            return self._differentiate(vectors, neighbours, species, num_owned)
        else:
            with torch.enable_grad():
                return self._differentiate(vectors, neighbours, species, num_owned)

    def features(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Last features of the atoms, shape (N, H), which tell an uncertainty; H is 0 without any."""
        return vectors.new_zeros((vectors.shape[0], 0))

    def energies_gradients_features(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, num_owned: int = -1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`energies_and_gradients`, with the atoms' :meth:`features`; a second pass forward here."""
        energies, gradients = self.energies_and_gradients(vectors, neighbours, species, num_owned)
        return energies, gradients, self.features(vectors, neighbours, species)

    def _differentiate(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, num_owned: int
    ) -> tuple[Tensor, Tensor]:
        leaf = vectors.detach().requires_grad_(True)
        energies = self.forward(leaf, neighbours, species, num_owned)
        gradient = torch.autograd.grad([energies.sum()], [leaf], create_graph=self.training)[0]
        assert gradient is not None
        return (energies if self.training else energies.detach()), gradient

    def exchange(self, rows: Tensor, count: int) -> Tensor:
        """Rows of the owned atoms (N, F) and, from other ranks, of the others: (count, F)."""
        if torch.jit.is_scripting():
            return self.halo(rows, count)
        else:
            return exchanged(self.halo, rows, count)

    def offsets_eV(self) -> Tensor:
        """Energy of each element's atom beside the network's, shape (S,), float64.

        Where the energies of isolated atoms are given (``anchored``), what the network says of an
        isolated atom is taken off, so that it has exactly the given energy.
        """
        if not self.anchored:
            return self.energy_shift_eV
        if self.training:
            return self.energy_shift_eV - self.energy_scale_eV * self.isolated_energies()
        return self.energy_shift_eV - self.energy_scale_eV * self.anchor

    def isolated_energies(self) -> Tensor:
        """Dimensionless network energies of one atom of each element alone, shape (S,), float64."""
        species = torch.arange(self.atomic_numbers.shape[0], device=self.atomic_numbers.device)
        weights = self.dtype_like()
        alone = torch.full((species.shape[0], 1, 3), 1000.0, dtype=weights.dtype, device=weights.device)
        return self.network_energies(alone, species.unsqueeze(1), species).to(torch.float64)

    def dtype_like(self) -> Tensor:
        """Return a tensor with the dtype and device of the weights."""
        return self.prior.table

    def refresh_anchor(self) -> None:
        """Store the isolated atoms' network energies for evaluation; after any change of the weights."""
        with torch.no_grad():
            self.anchor.copy_(self.isolated_energies())

    def train(self, mode: bool = True) -> StudentNetwork:
        """Switch to training or evaluation, where the anchor of isolated atoms is fixed."""
        super().train(mode)
        if not mode and self.anchored:
            self.refresh_anchor()
        return self

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


def in_dtype(network: StudentNetwork, dtype: str) -> StudentNetwork:
    """Copy a network into a dtype, in evaluation mode and without gradients of its weights.

    Energies of elements stay in float64: rounding those of isolated atoms, some 1e4 eV, to float32 would
    shift them by 1e-3 eV.

    Raises
    ------
    CompactFFError
        For a dtype other than ``float32`` and ``float64``.
    """
    if dtype not in DTYPES:
        raise CompactFFError(f"unknown dtype {dtype!r}; allowed are {', '.join(DTYPES)}")
    return cast(copy.deepcopy(network), DTYPES[dtype]).eval().requires_grad_(False)


def cast(network: StudentNetwork, dtype: torch.dtype) -> StudentNetwork:
    """Turn a network itself into a dtype, but for energies of elements, which stay in float64."""
    kept = {name: getattr(network, name) for name in PRECISE_BUFFERS}
    network.to(dtype)
    for name, buffer in kept.items():
        network.register_buffer(name, buffer.double())
    return network


def check_elements(elements: list[str]) -> list[str]:
    """Return the symbols as a list, or say which is not an element from H to Rn or comes twice."""
    elements = list(elements)
    for symbol in elements:
        if atomic_numbers.get(symbol, 0) < 1 or atomic_numbers[symbol] > MAX_ATOMIC_NUMBER:
            raise CompactFFError(f"{symbol!r} is not an element from H to Rn")
    if len(elements) != len(set(elements)) or not elements:
        raise CompactFFError(f"elements are {elements}; expected at least one, each once")
    return elements


def owned_rows(like: Tensor, num_owned: int) -> Tensor:
    """Ones for the first ``num_owned`` rows, zeros for the others, shape (N,), in the dtype of ``like``."""
    rows = torch.arange(like.shape[0], device=like.device)
    return (rows < num_owned).to(like.dtype)


def gather(rows: Tensor, neighbours: Tensor) -> Tensor:
    """Rows (M, C) of the neighbours (N, K), shape (N, K, C); its derivative is one ``index_add``.

    Plain indexing would be differentiated by ``index_put_`` with accumulation, which is several times slower.
    """
    return rows.index_select(0, neighbours.flatten()).unflatten(0, neighbours.shape)
