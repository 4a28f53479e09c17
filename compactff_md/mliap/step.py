"""What LAMMPS hands over at a step, as tensors, in either of its builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compactff_md.errors import CompactFFError
from compactff_md.mliap.halo import synchronise


@dataclass(frozen=True)
class Step:
    """Atoms and pairs of one step on one rank.

    LAMMPS' atoms are the M that the rank sees. A student's columns are the same in another order: the N
    of LAMMPS' list, whose energies are asked for; then those ghosts that need rows too; then the others.

    Attributes
    ----------
    num_owned, num_rows, num_atoms
        How many atoms are in the list, have rows, and there are.
    order
        LAMMPS' index of each column, shape (M,); None where both are the same.
    columns
        Column of each of LAMMPS' atoms, shape (M,); None likewise.
    species
        Of the columns, shape (M,), int64; zero for atoms of no element, which no pair has.
    absent
        Rows of atoms of no element, shape (A,).
    rows, neighbours
        Row and column of the atoms of each pair that counts, shape (Q,), int32 or int64.
    vectors_A
        ``r_j - r_i`` of those, shape (Q, 3), float64.
    used
        Which of LAMMPS' pairs these are, shape (Q,); None for all.
    num_pairs
        How many pairs LAMMPS has.
    has_others
        Whether the rank sees atoms of no element, which belong to another pair style.
    """

    num_owned: int
    num_rows: int
    num_atoms: int
    order: Tensor | None
    columns: Tensor | None
    species: Tensor
    absent: Tensor
    rows: Tensor
    neighbours: Tensor
    vectors_A: Tensor
    used: Tensor | None
    num_pairs: int
    has_others: bool

    def of_all_pairs(self, values: Tensor) -> Tensor:
        """Values of the pairs that count, shape (Q, 3), among zeros for the others, shape (P, 3)."""
        if self.used is None:
            return values
        return values.new_zeros(self.num_pairs, 3).index_copy_(0, self.used, values)


def is_kokkos(data: Any) -> bool:
    """Whether the data object is of LAMMPS' Kokkos build."""
    return "kokkos" in type(data).__module__.lower()


def has_gpu_arrays(data: Any) -> bool:
    """Whether the data object's arrays are of a GPU, which NumPy's are not."""
    return not isinstance(data.elems, np.ndarray)


def has_ghost_neighbours(data: Any) -> bool:
    """Whether the list has the neighbours of ghosts as well: ``pair_style mliap unified FILE 1``."""
    return int(data.natomneigh) > int(data.nlistatoms)


def read_step(data: Any, elements: list[str], num_known: int, shells: int) -> Step:
    """Read atoms and pairs.

    Parameters
    ----------
    data
        LAMMPS' data object. Its arrays are not touched where it says that they are empty: it would take
        the address of their first element.
    elements
        Names of the elements that LAMMPS counts by.
    num_known
        How many of them the student knows, from the first.
    shells
        How often neighbours of rows are given rows too, where LAMMPS lists theirs.

    Raises
    ------
    CompactFFError
        If there are atoms of an element that the student does not know.
    """
    owned, atoms, pairs = int(data.nlistatoms), int(data.ntotal), int(data.npairs)
    kinds = on_device(data.elems) if atoms else torch.zeros(0, dtype=torch.int32)
    listed = on_device(data.iatoms)[:owned] if owned else kinds.new_zeros(0)
    # int32 as LAMMPS has them: there are many.
    first = on_device(data.pair_i) if pairs else kinds.new_zeros(0)
    second = on_device(data.jatoms) if pairs else kinds.new_zeros(0)
    vectors = on_device(data.rij) if pairs else kinds.new_zeros((0, 3), dtype=torch.float64)
    synchronise(kinds)  # before anything reads them
    kinds, listed = kinds.long(), listed.long()
    has_null = check_elements(kinds, elements, num_known)
    chosen = kinds.new_zeros(atoms, dtype=torch.bool)
    chosen[listed] = True
    if has_null or has_ghost_neighbours(data):
        first, second = first.long(), second.long()
    if has_ghost_neighbours(data):
        for _ in range(shells):
            chosen[second[chosen[first] & (kinds[second] >= 0)]] = True
    order = _order(listed, chosen)
    used = None
    if has_null or (pairs and has_ghost_neighbours(data)):
        keep = chosen[first] & (kinds[first] >= 0) & (kinds[second] >= 0)
        if not bool(keep.all()):
            used = keep.nonzero().squeeze(1)
            first, second, vectors = first[used], second[used], vectors[used]
    columns = None
    if order is not None:
        columns = torch.empty_like(order).index_copy_(0, order, torch.arange(atoms, device=order.device))
        first, second = columns.index_select(0, first), columns.index_select(0, second)
        kinds = kinds[order]
    rows = int(chosen.sum()) if has_ghost_neighbours(data) else owned
    absent = (kinds[:owned] < 0).nonzero().squeeze(1) if has_null else kinds.new_zeros(0)
    species = kinds.clamp(min=0)
    table = first, second, vectors
    return Step(owned, rows, atoms, order, columns, species, absent, *table, used, pairs, has_null)


def write_step(data: Any, energies: Tensor, total: float, pair_gradients: Tensor) -> None:
    """Give LAMMPS energies of the listed atoms, shape (N,), their sum, and dE/d(r_ij), shape (P, 3).

    Everything is float64, contiguous and finished on its device.
    """
    data.energy = total
    if len(energies):
        if is_kokkos(data):
            on_device(data.eatoms).copy_(energies)  # write-only in the plain build
        else:
            data.eatoms = energies.numpy()
    synchronise(pair_gradients)
    if len(pair_gradients):
        data.update_pair_forces(pair_gradients if pair_gradients.is_cuda else pair_gradients.numpy())


def on_device(array: Any) -> Tensor:
    """Tensor on the same memory as a numpy or cupy array; a cupy array's device is where it stays."""
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array)
    return torch.as_tensor(array, device=f"cuda:{array.device.id}")


def check_elements(kinds: Tensor, elements: list[str], num_known: int) -> bool:
    """Whether there are atoms of no element; those of a strange one are an error."""
    if not len(kinds):
        return False
    lowest, highest = (int(value) for value in torch.stack(torch.aminmax(kinds)).tolist())
    if highest >= num_known:
        strange = torch.unique(kinds[kinds >= num_known]).tolist()
        raise CompactFFError(
            f"pair_coeff has {', '.join(elements[k] for k in strange)}, which the student does not know; "
            f"it knows {' '.join(elements[:num_known])}. After pair_coeff * * goes one of these, or NULL "
            "under pair_style hybrid, for each atom type"
        )
    return lowest < 0


def _order(listed: Tensor, chosen: Tensor) -> Tensor | None:
    """LAMMPS' index of each column: the listed atoms, others that have rows, and the rest."""
    in_list = torch.zeros_like(chosen)
    in_list[listed] = True
    further = (chosen & ~in_list).nonzero().squeeze(1)
    order = torch.cat([listed, further, (~chosen).nonzero().squeeze(1)])
    return None if torch.equal(order, torch.arange(len(chosen), device=order.device)) else order
