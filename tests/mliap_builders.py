"""Stand-ins for the data objects of LAMMPS' two builds, and ranks that exchange ghosts in threads.

Attributes, dtypes and what may be written are those of ``mliap_unified_couple.pyx`` and
``mliap_unified_couple_kokkos.pyx``: arrays are views of LAMMPS' memory, asking for an empty one fails as
Cython's views of length zero do, forces are taken by their address with no check of what is there.
"""

import threading
from itertools import product

import numpy as np
import torch

from compactff_md.structure import Structure

TIMEOUT_S = 60.0


class Rank:
    """Atoms of one rank: owned ones, then ghosts, which are images of atoms of any rank."""

    def __init__(self, structure, owned, sub_low, sub_high, reach_A):
        self.owned = np.asarray(owned, dtype=np.int64)
        cell, positions = structure.cell_A, structure.positions_A
        spans = [range(-3, 4) if p else (0,) for p in structure.pbc]
        ghosts, owners = [], []
        for shift in product(*spans):
            moved = positions + np.array(shift) @ cell
            near = np.all((moved > sub_low - reach_A) & (moved < sub_high + reach_A), axis=1)
            if shift == (0, 0, 0):
                near[self.owned] = False
            ghosts.append(moved[near])
            owners.append(np.flatnonzero(near))
        self.positions = np.concatenate([positions[self.owned], *ghosts])
        self.tags = np.concatenate([self.owned, *owners]) + 1
        self.numbers = structure.numbers[self.tags - 1]


def ranks_of(structure, grid, cutoff_A, skin_A=0.5, interactions=1):
    """Ranks on a grid over an upright box (or the box around free atoms)."""
    low = np.where(structure.pbc, 0.0, structure.positions_A.min(0) - 0.1)
    high = np.where(structure.pbc, np.diag(structure.cell_A), structure.positions_A.max(0) + 0.1)
    place = np.floor((structure.positions_A - low) / (high - low) * grid).astype(int)
    place = np.clip(place, 0, np.array(grid) - 1)
    ranks = []
    for cell in np.ndindex(*grid):
        owned = np.flatnonzero(np.all(place == cell, axis=1))
        size = (high - low) / grid
        start = low + size * np.array(cell)
        ranks.append(Rank(structure, owned, start, start + size, interactions * cutoff_A + skin_A))
    return ranks


def wrapped(structure):
    inside = structure.positions_A @ np.linalg.inv(structure.cell_A) % 1.0 @ structure.cell_A
    return Structure(inside, structure.numbers, structure.cell_A, structure.pbc)


class PlainData:
    """The plain build's data of a step; with the neighbours of ghosts if the deck says so."""

    def __init__(self, rank, elements, cutoff_A, ghost_neighbours=False, listed=None, null=()):
        owned = len(rank.owned)
        listed = np.arange(owned) if listed is None else np.asarray(listed, dtype=np.int64)
        centres = np.concatenate([listed, np.arange(owned, len(rank.tags))]) if ghost_neighbours else listed
        distance = np.linalg.norm(rank.positions[centres][:, None] - rank.positions[None], axis=-1)
        first, second = np.nonzero(distance < cutoff_A)
        first = centres[first]
        keep = first != second
        first, second = first[keep], second[keep]
        symbols = np.array([elements.index(s) for s in rank_symbols(rank)], dtype=np.int32)
        symbols[list(null)] = -1
        self._arrays = {
            "iatoms": centres.astype(np.int32),
            "elems": symbols,
            "pair_i": first.astype(np.int32),
            "jatoms": second.astype(np.int32),
            "rij": rank.positions[second] - rank.positions[first],
        }
        self.ntotal, self.nlistatoms, self.natomneigh = len(rank.tags), len(listed), len(centres)
        self.nlocal, self.npairs = owned, len(first)
        self.f = np.zeros((self.ntotal, 3))
        self.virial = np.zeros((3, 3))
        self._energy, self._eatoms = None, np.full(self.nlistatoms, np.nan)

    def __getattr__(self, name):
        arrays = self.__dict__.get("_arrays", {})
        if name not in arrays:
            raise AttributeError(name)
        if not len(arrays[name]):
            raise ValueError("Invalid shape in axis 0: 0.")
        return arrays[name]

    def _write_energy(self, value):
        assert isinstance(value, float)
        self._energy = value

    def _write_eatoms(self, value):
        if not self.nlistatoms:
            raise ValueError("attempt to set NULL eatoms")
        assert memoryview(value).format == "d" and value.shape == (self.nlistatoms,)
        self._eatoms[:] = value

    energy = property(None, _write_energy)
    eatoms = property(None, _write_eatoms)

    def update_pair_forces(self, fij):
        assert len(fij), "the address of the first of none"
        view = memoryview(fij)
        assert view.format == "d" and view.c_contiguous and fij.shape == (self.npairs, 3)
        arrays = self._arrays
        np.add.at(self.f, arrays["pair_i"], fij)
        np.subtract.at(self.f, arrays["jatoms"], fij)
        self.virial += arrays["rij"].T @ fij


PlainData.__module__ = "mliap_unified_couple"


class KokkosData(PlainData):
    """The Kokkos build's on the host, one of several that exchange ghosts.

    Parameters
    ----------
    world
        All ranks' data by their number: filled before the first exchange.
    barrier
        Of as many threads as there are ranks; broken when one does not come.
    """

    def __init__(self, rank, elements, cutoff_A, world, barrier, **options):
        super().__init__(rank, elements, cutoff_A, **options)
        self.rank, self.world, self.barrier, self.exchanges = rank, world, barrier, []
        world.append(self)

    # Readable here, and to be written in place.
    @property
    def eatoms(self):
        if not self.nlistatoms:
            raise ValueError("attempt to set NULL eatoms")
        return self._eatoms

    def forward_exchange(self, copy_from, copy_to, vec_len):
        self._meet(copy_from, copy_to, vec_len, "forward")
        copy_to.copy_(copy_from)
        self.barrier.wait(TIMEOUT_S)
        owned = len(self.rank.owned)
        for k, tag in enumerate(self.rank.tags[owned:], owned):
            data, row = self._owner(tag)
            copy_to[k] = data.shared[row]
        self.barrier.wait(TIMEOUT_S)

    def reverse_exchange(self, copy_from, copy_to, vec_len):
        self._meet(copy_from, copy_to, vec_len, "reverse")
        copy_to.copy_(copy_from)
        self.barrier.wait(TIMEOUT_S)
        owned = len(self.rank.owned)
        for data in self.world:
            for k, tag in enumerate(data.rank.tags[len(data.rank.owned) :], len(data.rank.owned)):
                owner, row = self._owner(tag)
                if owner is self:
                    copy_to[row] += data.collected[k]
        copy_to[owned:] = 0.0
        self.barrier.wait(TIMEOUT_S)

    def _meet(self, copy_from, copy_to, vec_len, kind):
        for rows in (copy_from, copy_to):
            assert rows.shape == (self.ntotal, vec_len), (rows.shape, self.ntotal, vec_len)
            assert rows.is_contiguous(), rows.stride()
            assert rows.dtype in (torch.float32, torch.float64) and not rows.requires_grad
        assert copy_from.dtype == copy_to.dtype
        assert copy_from.data_ptr() != copy_to.data_ptr() or not len(copy_from)
        self.shared, self.collected = copy_to, copy_from
        self.exchanges.append((kind, vec_len))

    def _owner(self, tag):
        for data in self.world:
            found = np.flatnonzero(data.rank.owned == tag - 1)
            if len(found):
                return data, int(found[0])
        raise AssertionError(f"nobody owns atom {tag}")


KokkosData.__module__ = "mliap_unified_couple_kokkos"


def rank_symbols(rank):
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in rank.numbers]


def run_ranks(adapters, datas):
    """Compute all ranks' forces at once, each in a thread of its own; the first error is raised."""
    errors = []

    def work(adapter, data):
        try:
            adapter.compute_descriptors(data)
            adapter.compute_gradients(data)
            adapter.compute_forces(data)
        except Exception as error:
            errors.append(error)
            if hasattr(data, "barrier"):
                data.barrier.abort()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(adapters, datas, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])


def totals(datas, count):
    """Energies of atoms, forces and virial of all ranks together; energies are NaN where nobody gave one."""
    energies, forces, virial = np.full(count, np.nan), np.zeros((count, 3)), np.zeros((3, 3))
    for data in datas:
        rank = data.rank
        listed = data._arrays["iatoms"][: data.nlistatoms]
        energies[rank.tags[listed] - 1] = data._eatoms
        np.add.at(forces, rank.tags - 1, data.f)
        virial += data.virial
    return energies, forces, virial
