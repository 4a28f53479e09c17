"""Frames as tensors on the device, and batches out of them without a search for neighbours.

Training never moves an atom, so the vectors to neighbours are found once. They are kept as one long list
of pairs; a batch gathers its atoms' rows and fills them up to its own widest. A handful of operations
make a batch of any molecules, and nothing is copied from the host but the indices of the atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compactff_md.neighbours import PADDING_A, pair_list
from compactff_md.students import StudentNetwork
from compactff_md.training.frames import Frame


@dataclass(frozen=True)
class Batch:
    """Some frames' atoms behind each other: A atoms, K neighbours a row, F frames.

    ``virials_eV`` is volume times stress, zero for the frames without; ``has_stress`` is 1 or 0. So it is
    with the teacher's energies of atoms.
    """

    vectors: Tensor  # (A, K, 3)
    neighbours: Tensor  # (A, K)
    species: Tensor  # (A,)
    frame_of_atom: Tensor  # (A,)
    sizes: Tensor  # (F,)
    energies_eV: Tensor  # (F,) float64
    forces_eV_per_A: Tensor  # (A, 3)
    virials_eV: Tensor  # (F, 3, 3)
    has_stress: Tensor  # (F,)
    atom_energies_eV: Tensor  # (A,) float64
    has_atom_energies: Tensor  # (A,)


class FrameStore:
    """Every frame's labels and pairs on one device.

    Parameters
    ----------
    frames
        At least one.
    network
        Its elements and cutoff decide species and pairs.
    device, dtype
        Of the vectors, forces and virials; energies are float64.
    """

    def __init__(
        self, frames: tuple[Frame, ...], network: StudentNetwork, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.device, self.dtype = device, dtype
        self.sizes = np.array([len(frame) for frame in frames])
        self.first_atom = np.concatenate([[0], np.cumsum(self.sizes)])
        self.with_stress = any(frame.stress_eV_per_A3 is not None for frame in frames)
        numbers = torch.from_numpy(np.concatenate([frame.structure.numbers for frame in frames]))
        self.species = network.species_of(numbers.to(network.atomic_numbers.device)).to(device)
        self._keep_labels(frames)
        self._keep_pairs(frames, network.cutoff_A)

    def __len__(self) -> int:
        return len(self.sizes)

    def _keep_labels(self, frames: tuple[Frame, ...]) -> None:
        forces = np.concatenate([frame.forces_eV_per_A for frame in frames])
        virials = np.stack([_virial(frame) for frame in frames])
        has = np.array([float(frame.stress_eV_per_A3 is not None) for frame in frames])
        self.energies = torch.tensor(
            [frame.energy_eV for frame in frames], dtype=torch.float64, device=self.device
        )
        self.forces = torch.from_numpy(forces).to(self.device, self.dtype)
        self.virials = torch.from_numpy(virials).to(self.device, self.dtype)
        self.has_stress = torch.from_numpy(has).to(self.device, self.dtype)
        parts = [frame.atom_energies_eV for frame in frames]
        given = np.array([part is not None for part in parts])
        whole = [np.zeros(n) if part is None else part for n, part in zip(self.sizes, parts, strict=True)]
        self.atom_energies = torch.from_numpy(np.concatenate(whole)).to(self.device)
        self.has_atom_energies = torch.from_numpy(np.repeat(given, self.sizes)).to(self.device, self.dtype)

    def _keep_pairs(self, frames: tuple[Frame, ...], cutoff_A: float) -> None:
        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        parts = [_pairs(frame, cutoff_A, dtype) for frame in frames]
        counts = np.concatenate([part[0] for part in parts])
        self.widths = np.array([max(1, int(part[0].max())) for part in parts])
        end = int(counts.sum())
        vectors, steps = np.empty((end + 1, 3), dtype), np.empty(end + 1, np.int32)
        # One more pair stands for every empty place: far away, and the atom itself.
        vectors[end], steps[end] = (PADDING_A, 0.0, 0.0), 0
        while parts:  # each is freed as soon as it is in its place
            _, own_vectors, own_steps = parts.pop()
            start = end - len(own_steps)
            vectors[start:end], steps[start:end] = own_vectors, own_steps
            end = start
        self.pair_vectors = torch.from_numpy(vectors).to(self.device)  # (P + 1, 3)
        self.pair_steps = torch.from_numpy(steps).to(self.device)  # (P + 1,)
        self.counts = torch.from_numpy(counts).to(self.device)  # (all atoms,)
        self.starts = torch.from_numpy(np.cumsum(counts) - counts).to(self.device)

    def batch(self, chosen: np.ndarray) -> Batch:
        """Put frames together; ``chosen`` holds their indices, shape (F,)."""
        sizes = self.sizes[chosen]
        rows = np.arange(sizes.sum())
        shift = self.first_atom[chosen] - (np.cumsum(sizes) - sizes)
        host = np.stack([rows + np.repeat(shift, sizes), np.repeat(np.arange(len(chosen)), sizes)])
        atoms, frame_of_atom = torch.from_numpy(host).to(self.device)
        vectors, neighbours = self._rows(atoms, int(self.widths[chosen].max()))
        frames = torch.from_numpy(chosen).to(self.device)
        return Batch(
            vectors,
            neighbours,
            self.species.index_select(0, atoms),
            frame_of_atom,
            torch.from_numpy(sizes).to(self.device),
            self.energies.index_select(0, frames),
            self.forces.index_select(0, atoms),
            self.virials.index_select(0, frames),
            self.has_stress.index_select(0, frames),
            self.atom_energies.index_select(0, atoms),
            self.has_atom_energies.index_select(0, atoms),
        )

    def _rows(self, atoms: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Vectors (A, K, 3) and neighbours (A, K), padded."""
        column = torch.arange(width, device=self.device)
        inside = column < self.counts.index_select(0, atoms).unsqueeze(1)  # (A, K)
        pair = self.starts.index_select(0, atoms).unsqueeze(1) + column
        pair = torch.where(inside, pair, self.pair_steps.shape[0] - 1).flatten()
        own = torch.arange(len(atoms), device=self.device).unsqueeze(1)
        shape = (len(atoms), width)
        neighbours = self.pair_steps.index_select(0, pair).view(shape) + own
        return self.pair_vectors.index_select(0, pair).view(*shape, 3), neighbours

    def in_order(self, batch_atoms: int) -> list[np.ndarray]:
        """Indices of all frames in batches of at most that many atoms."""
        return _fill(np.arange(len(self)), self.sizes, len(self), batch_atoms)


def _virial(frame: Frame) -> np.ndarray:
    if frame.stress_eV_per_A3 is None:
        return np.zeros((3, 3))
    return frame.stress_eV_per_A3 * frame.structure.volume_A3


def _pairs(frame: Frame, cutoff_A: float, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours of each atom, vectors of the pairs, and how many rows ahead the neighbour is."""
    structure = frame.structure
    i, j, _, shifts = pair_list(structure, cutoff_A)
    vectors = structure.positions_A[j] - structure.positions_A[i] + shifts @ structure.cell_A
    return np.bincount(i, minlength=len(structure)), vectors.astype(dtype), (j - i).astype(np.int32)


def epoch_batches(
    sizes: np.ndarray,
    batch_size: int,
    batch_atoms: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    classes: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Shuffled batches of one epoch for one of ``world`` processes; the same for the same arguments.

    Batches lie round robin over the processes, so that all have equally many; with several processes
    the last few batches of an epoch may be left out. Frames of different ``classes`` (N,) never meet.
    """
    random = np.random.default_rng([seed, 2, epoch])
    order = random.permutation(len(sizes))
    if classes is None:
        batches = _fill(order, sizes, batch_size, batch_atoms)
    else:
        groups = [order[classes[order] == c] for c in np.unique(classes)]
        batches = [batch for group in groups for batch in _fill(group, sizes, batch_size, batch_atoms)]
        random.shuffle(batches)
    if len(batches) < world:
        batches = [batches[k % len(batches)] for k in range(world)]
    return batches[rank : len(batches) - len(batches) % world : world] if world > 1 else batches


def _fill(order: np.ndarray, sizes: np.ndarray, batch_size: int, batch_atoms: int) -> list[np.ndarray]:
    batches: list[list[int]] = [[]]
    atoms = 0
    for frame in order.tolist():
        if batches[-1] and (len(batches[-1]) == batch_size or atoms + sizes[frame] > batch_atoms):
            batches.append([])
            atoms = 0
        batches[-1].append(frame)
        atoms += sizes[frame]
    return [np.array(batch) for batch in batches]
