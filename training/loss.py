"""Errors of a batch, and the one number that is made small."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compactff_md.gradients import forces_from_edges
from compactff_md.training.batches import Batch
from compactff_md.training.config import TrainConfig

# Where none is asked for. At 0.01 the wide layers of `original` run away on data as diverse as those of
# training/recipes/organic.yaml.
LEARNING_RATES = {"original": 4e-3, "tiny": 1e-2, "ultra-tiny": 1e-2}

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Between these parts of the run the weight of the energies rises to its final value.
ENERGY_RISE = (0.6, 0.9)
# After this part of it the energies of atoms, which the teacher divides as it does, count no more.
ATOM_ENERGIES_END = 0.5


@dataclass(frozen=True)
class Prediction:
    """What a network says of the F frames and A atoms of a batch.

    Attributes
    ----------
    energies_eV
        Of the frames, shape (F,), float64.
    forces_eV_per_A
        Shape (A, 3).
    virials_eV
        Shape (F, 3, 3); None where they were not asked for.
    atom_energies_eV
        Shape (A,), float64.
    """

    energies_eV: Tensor
    forces_eV_per_A: Tensor
    virials_eV: Tensor | None
    atom_energies_eV: Tensor


def predict_batch(evaluate: Evaluate, batch: Batch, with_virials: bool) -> Prediction:
    """Evaluate a batch.

    ``evaluate`` is the network's ``energies_and_gradients``, or the same compiled.
    """
    energies, gradients = evaluate(batch.vectors, batch.neighbours, batch.species)
    totals = torch.zeros_like(batch.energies_eV).index_add(0, batch.frame_of_atom, energies)
    forces = forces_from_edges(gradients, batch.neighbours)
    if not with_virials:
        return Prediction(totals, forces, None, energies)
    of_atoms = torch.einsum("nka,nkb->nab", batch.vectors, gradients)
    virials = torch.zeros_like(batch.virials_eV).index_add(0, batch.frame_of_atom, of_atoms)
    return Prediction(totals, forces, 0.5 * (virials + virials.transpose(1, 2)), energies)


def batch_loss(
    evaluate: Evaluate, batch: Batch, config: TrainConfig, progress: float, with_stress: bool
) -> tuple[Tensor, Tensor]:
    """Weighted loss, and the mean squared error of the forces in (eV/A)^2; both of shape ().

    Energies and virials count per atom of their frame; ``progress`` is the part of the run that is over.
    """
    found = predict_batch(evaluate, batch, with_stress)
    dtype = found.forces_eV_per_A.dtype
    sizes = batch.sizes.to(dtype)
    force_error = found.forces_eV_per_A - batch.forces_eV_per_A
    energy_error = (found.energies_eV - batch.energies_eV).to(dtype) / sizes
    of_atoms, of_frames = trust(batch, force_error.detach(), config.large_force_eV_per_A)
    loss = config.forces_weight * (penalty(force_error, config).mean(1) * of_atoms).mean()
    loss = loss + energy_weight(config, progress) * (penalty(energy_error, config) * of_frames).mean()
    if found.virials_eV is not None:
        error = (found.virials_eV - batch.virials_eV) * (batch.has_stress / sizes)[:, None, None]
        loss = loss + config.stress_weight * (penalty(error, config).mean((1, 2)) * of_frames).mean()
    weight = atom_energies_weight(config, progress)
    if weight > 0:
        error = (found.atom_energies_eV - batch.atom_energies_eV).to(dtype) * batch.has_atom_energies
        loss = loss + weight * penalty(error, config).mean()
    return loss, force_error.detach().square().mean()


def trust(batch: Batch, force_error: Tensor, large_force_eV_per_A: float) -> tuple[Tensor, Tensor]:
    """What errors count for atoms (A,) and for frames (F,), at most one: less where forces are large.

    A network changes its forces with its weights in proportion to their size, so that few atoms with forces
    a hundred times the usual ones, as the teacher has them or as the network still does, would decide alone
    where their batch leads.
    """
    scale = large_force_eV_per_A**2
    given, wrong = batch.forces_eV_per_A.square().sum(1), force_error.square().sum(1)  # (A,)
    of_atoms = scale / (scale + given) * torch.rsqrt(1.0 + wrong / scale)
    whole = torch.ones_like(of_atoms[: len(batch.sizes)])
    return of_atoms, whole.scatter_reduce(0, batch.frame_of_atom, of_atoms, "amin")


def penalty(error: Tensor, config: TrainConfig) -> Tensor:
    """Squared error, or Huber's times two: the square below ``huber_delta``, linear above."""
    if config.loss == "squared":
        return error.square()
    inside = error.abs().clamp(max=config.huber_delta)
    return inside * (2.0 * error.abs() - inside)


def full_rate(config: TrainConfig) -> float:
    """The largest rate of a run: what was asked for, else what suits the size."""
    return config.learning_rate or LEARNING_RATES[config.size]


def learning_rate(config: TrainConfig, progress: float, begun: float = 0.0) -> float:
    """Cosine from ``learning_rate`` to zero over the run (progress 0 to 1), after a linear warm-up.

    The warm-up starts at the progress ``begun``, at which compiling left the first step.
    """
    rise = min(1.0, (progress - begun) / config.warmup) if config.warmup > 0 else 1.0
    return full_rate(config) * max(rise, 1e-3) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def atom_energies_weight(config: TrainConfig, progress: float) -> float:
    """Weight of the teacher's energies of atoms: falls to zero, linearly, over the first half of the run."""
    return config.atom_energies_weight * max(0.0, 1.0 - progress / ATOM_ENERGIES_END)


def energy_weight(config: TrainConfig, progress: float) -> float:
    """Weight of the energies: geometric between its two values over 60% to 90% of the run."""
    first, last = config.energy_weight, config.energy_weight_end
    part = min(1.0, max(0.0, (progress - ENERGY_RISE[0]) / (ENERGY_RISE[1] - ENERGY_RISE[0])))
    if first <= 0 or last <= 0:
        return first + part * (last - first)
    return first * (last / first) ** part
