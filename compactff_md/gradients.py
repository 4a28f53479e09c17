"""Energies to forces and virial, in one place for every student and engine.

A student's energy depends on positions and cell only through the vectors ``d_ij = r_j - r_i``. With
``g_ij = dE/d d_ij`` for every ordered pair the rest is bookkeeping:

- force on atom i: ``sum_j g_ij - sum_{(m, i)} g_mi``
- virial dE/d(strain): ``sum_ij d_ij (x) g_ij``; the stress is virial / volume.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compactff_md.students.base import StudentNetwork


def energies_and_edge_gradients(
    student: StudentNetwork, vectors: Tensor, neighbours: Tensor, species: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Energies of atoms and the derivative of their sum with respect to each vector.

    Parameters
    ----------
    student, vectors, neighbours, species
        As in :meth:`StudentNetwork.forward`.
    create_graph
        True in training, where the gradients are differentiated again with respect to the weights.

    Returns
    -------
    energies_eV
        Shape (N,), float64.
    edge_gradients_eV_per_A
        Shape (N, K, 3), in the dtype of ``vectors``.
    """
    vectors = vectors.detach().requires_grad_(True)
    with torch.enable_grad():
        energies = student(vectors, neighbours, species)  # (N,)
        (gradients,) = torch.autograd.grad([energies.sum()], [vectors], create_graph=create_graph)
    return energies, gradients


def forces_from_edges(edge_gradients: Tensor, neighbours: Tensor) -> Tensor:
    """Forces in eV/A, shape (N, 3), from the derivatives by vectors, shape (N, K, 3)."""
    forces = edge_gradients.sum(dim=1)  # (N, 3)
    return forces.index_add(0, neighbours.flatten(), edge_gradients.flatten(0, 1), alpha=-1.0)


def virial_from_edges(vectors: Tensor, edge_gradients: Tensor) -> Tensor:
    """dE/d(strain) in eV, shape (3, 3), symmetric; padding contributes nothing."""
    virial = torch.einsum("nka,nkb->ab", vectors, edge_gradients)
    return 0.5 * (virial + virial.T)
