"""Energies to forces and virial, in one place for every student and engine.

A student's energy depends on positions and cell only through the vectors ``d_ij = r_j - r_i``. With
``g_ij = dE/d d_ij`` for every ordered pair the rest is bookkeeping:

- force on atom i: ``sum_j g_ij - sum_{(m, i)} g_mi``
- virial dE/d(strain): ``sum_ij d_ij (x) g_ij``; the stress is virial / volume.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compactff_md.neighbours import NeighbourTable
from compactff_md.students.base import StudentNetwork


def forces_from_edges(edge_gradients: Tensor, neighbours: Tensor) -> Tensor:
    """Forces in eV/A, shape (N, 3), from the derivatives by vectors, shape (N, K, 3)."""
    forces = edge_gradients.sum(dim=1)  # (N, 3)
    # Not with alpha=-1: on the CPU any alpha but 1 adds row by row, 20 times slower (torch 2.12).
    return forces.index_add(0, neighbours.flatten(), -edge_gradients.flatten(0, 1))


def virial_from_edges(vectors: Tensor, edge_gradients: Tensor) -> Tensor:
    """dE/d(strain) in eV, shape (3, 3), symmetric; padding contributes nothing."""
    virial = torch.einsum("nka,nkb->ab", vectors, edge_gradients)
    return 0.5 * (virial + virial.T)


def predict_with_features(
    student: StudentNetwork, positions_A: Tensor, table: NeighbourTable, species: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`predict`, with the atoms' last features, shape (N, H)."""
    vectors = table.vectors(positions_A).to(student.dtype_like().dtype)
    energies, gradients, features = student.energies_gradients_features(vectors, table.neighbours, species)
    forces = forces_from_edges(gradients, table.neighbours)
    virial = virial_from_edges(vectors, gradients).detach()
    return energies.detach(), forces.detach(), virial, features.detach()


def predict(
    student: StudentNetwork, positions_A: Tensor, table: NeighbourTable, species: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Energies, forces and virial of one structure.

    Parameters
    ----------
    student
        In evaluation mode; its weights' dtype and device are those of the computation.
    positions_A
        Shape (N, 3), in float64 where the box is large; the subtraction is done in its dtype.
    table
        Neighbours within at least the student's cutoff.
    species
        From ``student.species_of``, shape (N,).

    Returns
    -------
    energies_eV
        Shape (N,), float64.
    forces_eV_per_A
        Shape (N, 3), in the dtype of the weights.
    virial_eV
        dE/d(strain), shape (3, 3), in the dtype of the weights.
    """
    vectors = table.vectors(positions_A).to(student.dtype_like().dtype)
    energies, gradients = student.energies_and_gradients(vectors, table.neighbours, species)
    forces = forces_from_edges(gradients, table.neighbours)
    return energies.detach(), forces.detach(), virial_from_edges(vectors, gradients).detach()
