"""Errors of a batch, and the one number that is made small."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from compactff_md.gradients import forces_from_edges
from compactff_md.training.batches import Batch
from compactff_md.training.config import TrainConfig

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Between these parts of the run the weight of the energies rises to its final value.
ENERGY_RISE = (0.6, 0.9)


def predict_batch(
    evaluate: Evaluate, batch: Batch, with_virials: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Energies (F,) in float64, forces (A, 3), and virials (F, 3, 3) or None, of the frames of a batch.

    ``evaluate`` is the network's ``energies_and_gradients``, or the same compiled.
    """
    energies, gradients = evaluate(batch.vectors, batch.neighbours, batch.species)
    totals = torch.zeros_like(batch.energies_eV).index_add(0, batch.frame_of_atom, energies)
    forces = forces_from_edges(gradients, batch.neighbours)
    if not with_virials:
        return totals, forces, None
    of_atoms = torch.einsum("nka,nkb->nab", batch.vectors, gradients)
    virials = torch.zeros_like(batch.virials_eV).index_add(0, batch.frame_of_atom, of_atoms)
    return totals, forces, 0.5 * (virials + virials.transpose(1, 2))


def batch_loss(
    evaluate: Evaluate, batch: Batch, config: TrainConfig, energy_weight: float, with_stress: bool
) -> tuple[Tensor, Tensor]:
    """Weighted loss, and the mean squared error of the forces in (eV/A)^2; both of shape ().

    Energies and virials count per atom of their frame.
    """
    energies, forces, virials = predict_batch(evaluate, batch, with_stress)
    sizes = batch.sizes.to(forces.dtype)
    force_error = forces - batch.forces_eV_per_A
    energy_error = (energies - batch.energies_eV).to(forces.dtype) / sizes
    loss = config.forces_weight * penalty(force_error, config).mean()
    loss = loss + energy_weight * penalty(energy_error, config).mean()
    if virials is not None:
        error = (virials - batch.virials_eV) * (batch.has_stress / sizes)[:, None, None]
        loss = loss + config.stress_weight * penalty(error, config).mean()
    return loss, force_error.detach().square().mean()


def penalty(error: Tensor, config: TrainConfig) -> Tensor:
    """Squared error, or Huber's times two: the square below ``huber_delta``, linear above."""
    if config.loss == "squared":
        return error.square()
    inside = error.abs().clamp(max=config.huber_delta)
    return inside * (2.0 * error.abs() - inside)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Cosine from ``learning_rate`` to zero over the run (progress 0 to 1), after a linear warm-up."""
    rise = min(1.0, progress / config.warmup) if config.warmup > 0 else 1.0
    return config.learning_rate * max(rise, 1e-3) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def energy_weight(config: TrainConfig, progress: float) -> float:
    """Weight of the energies: geometric between its two values over 60% to 90% of the run."""
    first, last = config.energy_weight, config.energy_weight_end
    part = min(1.0, max(0.0, (progress - ENERGY_RISE[0]) / (ENERGY_RISE[1] - ENERGY_RISE[0])))
    if first <= 0 or last <= 0:
        return first + part * (last - first)
    return first * (last / first) ** part
