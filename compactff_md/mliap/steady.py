"""Steps of one rank on a GPU, between two of LAMMPS' neighbour lists, with few waits and few launches.

A step of a small system on a GPU is mostly the launching of kernels. Where one rank has all atoms, every
ghost is an image of one of its rows: with these in the ghosts' places no features have to travel, and the
table of pairs keeps its shape from step to step. The student's work on it is then recorded once, as a CUDA
graph, and played again, unless the system is so large that kernels take longer than their launches.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from compactff_md.mliap.halo import synchronise
from compactff_md.mliap.step import Step, on_device
from compactff_md.neighbours import PADDING_A
from compactff_md.recorded import RECORDED_PAIRS, Recorded, rounded_width
from compactff_md.students import StudentNetwork
from compactff_md.students.halo import LocalHalo

MOST_RECORDINGS = 4  # of numbers of atoms and widths, each with memory of its own
MOST_ROOM = 1.25  # of a recording's width to the one that is needed; judged, not measured


class Recording:
    """A student's energies and gradients of N atoms with up to K neighbours; of few on a GPU, a CUDA graph.

    Attributes
    ----------
    entries
        Vectors in A, shape (N K, 3).
    columns
        Row of each neighbour, shape (N K,), int64.
    species
        Shape (N,), int64; to be filled by the caller.
    """

    def __init__(self, network: StudentNetwork, count: int, width: int) -> None:
        like = network.dtype_like()
        self.network, self.count, self.width = network, count, width
        self.entries = like.new_empty((count * width, 3))
        self.species = torch.zeros(count, dtype=torch.int64, device=like.device)
        self._own = torch.arange(count, device=like.device).repeat_interleave(width)
        self.columns = self._own.clone()
        # Nothing in it refers to this object: its memory goes when nobody has it any more.
        self._work = Recorded(
            partial(_of_entries, network, self.entries, self.columns, self.species), like.device
        )
        self._played = False

    def fill(self, places: Tensor, vectors_A: Tensor, columns: Tensor) -> None:
        """Put pairs in their places, shape (P,), and what is beyond any cutoff in all others."""
        self.entries.zero_()
        self.entries[:, 0].fill_(PADDING_A)
        self.entries.index_copy_(0, places, vectors_A.to(self.entries.dtype))
        self.columns.copy_(self._own)
        self.columns.index_copy_(0, places, columns)

    def play(self) -> tuple[Tensor, Tensor]:
        """Energies (N,) and gradients (N, K, 3) of what is filled in; the next call overwrites them.

        The first time they are computed: a recording costs several times that, and may be for one step only.
        """
        recorded = self._played and len(self.entries) <= RECORDED_PAIRS
        self._played = True
        energies, gradients = self._work() if recorded else self._work.function()
        return energies, gradients


def _of_entries(
    network: StudentNetwork, entries: Tensor, columns: Tensor, species: Tensor
) -> tuple[Tensor, Tensor]:
    count = len(species)
    network.halo = LocalHalo()
    with torch.no_grad():
        return network.energies_and_gradients(entries.view(count, -1, 3), columns.view(count, -1), species)


class SteadySteps:
    """What one rank needs again and again until LAMMPS' next lists.

    Parameters
    ----------
    network
        Of a student with an analytic derivative, on the GPU.
    recordings
        Of earlier lists, by the number of atoms and the width, the one last used at the end; new ones are
        added.
    data
        LAMMPS' data object of the step with the new lists.
    step
        What was read from it.
    """

    def __init__(
        self,
        network: StudentNetwork,
        recordings: dict[tuple[int, int], Recording],
        data: Any,
        step: Step,
    ) -> None:
        self.network, self.recordings = network, recordings
        self.count = step.num_owned
        self.listed = on_device(data.iatoms)[: self.count].long()
        # Each ghost gets the number of the row that it is an image of.
        numbers = torch.zeros(step.num_atoms, 1, dtype=torch.float64, device=self.listed.device)
        numbers[self.listed, 0] = torch.arange(self.count, dtype=torch.float64, device=self.listed.device)
        everywhere = torch.empty_like(numbers)
        synchronise(numbers)
        data.forward_exchange(numbers, everywhere, 1)
        synchronise(numbers)
        self.rows = everywhere.squeeze(1).long()
        most = int(torch.bincount(step.rows.long()).max()) if len(step.rows) else 1
        self.width = rounded_width(most)

    def compute(self, data: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Energies of the rows (N,) in eV, gradients (P, 3) in eV/A, and the elements' indices (M,).

        The first may be overwritten by the next call. Elements that a student does not know are taken for
        its last one, those of no element for its first: the caller looks at the indices.
        """
        kinds, pairs = on_device(data.elems), int(data.npairs)
        if pairs:
            first, second = on_device(data.pair_i), on_device(data.jatoms)
            vectors_A = on_device(data.rij)
        else:
            first = second = kinds.new_zeros(0)
            vectors_A = kinds.new_zeros((0, 3), dtype=torch.float64)
        synchronise(kinds)  # before anything reads them
        first, second = self.rows.index_select(0, first), self.rows.index_select(0, second)
        # Pairs of an atom stand together: a pair's place in its row is its distance from the first.
        counter = torch.arange(pairs, device=first.device)
        begin = counter.new_full((self.count,), pairs).scatter_reduce_(0, first, counter, "amin")
        slots = counter - begin.index_select(0, first)
        if pairs:
            self.width = max(self.width, rounded_width(int(slots.max()) + 1))
        recording = self._recording()
        places = first * recording.width + slots
        recording.fill(places, vectors_A, second)
        last = len(self.network.elements) - 1
        recording.species.copy_(kinds.index_select(0, self.listed).clamp(0, last))
        energies, gradients = recording.play()
        of_pairs = gradients.reshape(-1, 3).index_select(0, places).to(torch.float64)
        return energies, of_pairs, kinds

    def _recording(self) -> Recording:
        """The narrowest that has room, if not far too much; a new one in the place of the longest unused."""
        have = self.recordings
        widths = sorted(width for count, width in have if count == self.count and width >= self.width)
        if widths and widths[0] <= MOST_ROOM * self.width:
            key = self.count, widths[0]
            have[key] = have.pop(key)
            return have[key]
        if len(have) >= MOST_RECORDINGS:
            del have[next(iter(have))]
        key = self.count, self.width
        have[key] = Recording(self.network, *key)
        return have[key]
