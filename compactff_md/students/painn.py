"""PaiNN (Schuett, Unke, Gastegger 2021, arXiv:2102.03150): the predecessor's family, for the bake-off.

Scalar and vector features pass along edges and are updated at the atoms. The filters act on every edge
with three times the width of the features, which is what makes it slow on dense systems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compactff_md.students.base import StudentNetwork, gather


@dataclass(frozen=True)
class PaiNNConfig:
    """Sizes of a PaiNN: features, interactions, radial functions, width of the update's network."""

    features: int = 32
    interactions: int = 2
    radial: int = 10
    update: int = 12


class PaiNNLayer(nn.Module):
    """One message and one update."""

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        f = config.features
        self.f = f
        self.source = nn.Sequential(nn.Linear(f, f), nn.SiLU(), nn.Linear(f, 3 * f))
        self.filter = nn.Linear(config.radial, 3 * f)
        self.mix = nn.Linear(f, 2 * f, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * f, config.update), nn.SiLU(), nn.Linear(config.update, 3 * f)
        )

    def forward(
        self,
        scalars: Tensor,
        features: Tensor,
        unit: Tensor,
        basis: Tensor,
        envelope: Tensor,
        neighbours: Tensor,
        sources: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Scalars (N, F) and vectors (N, 3, F) after the layer; ``sources`` (M, 4F): both, of all atoms."""
        f = self.f
        known, directed = sources.split([f, 3 * f], dim=1)
        weights = self.filter(basis) * envelope.unsqueeze(-1)  # (N, K, 3F)
        message = gather(self.source(known), neighbours) * weights  # (N, K, 3F)
        scalars = scalars + message[..., :f].sum(1)
        radial = torch.bmm(unit.transpose(1, 2), message[..., f : 2 * f])  # (N, 3, F)
        moved = gather(directed, neighbours).unflatten(-1, (3, f))  # (N, K, 3, F)
        carried = (message[..., 2 * f :].unsqueeze(2) * moved).sum(1)  # (N, 3, F)
        features = features + radial + carried
        left, right = self.mix(features).chunk(2, dim=-1)  # (N, 3, F) each
        length = torch.sqrt((right * right).sum(1) + 1e-8)
        gates = self.update(torch.cat([scalars, length], dim=1))  # (N, 3F)
        features = features + left * gates[:, :f].unsqueeze(1)
        scalars = scalars + gates[:, f : 2 * f] + gates[:, 2 * f :] * (left * right).sum(1)
        return scalars, features


class PaiNNStudent(StudentNetwork):
    """PaiNN with Bessel functions and a twice differentiable cutoff; forces by autograd."""

    architecture = "painn"

    def __init__(self, elements: list[str], cutoff_A: float, config: PaiNNConfig) -> None:
        super().__init__(elements, cutoff_A, vars(config))
        self.num_interactions = config.interactions
        f = config.features
        self.register_buffer(
            "frequencies", math.pi / self.cutoff_A * torch.arange(1, config.radial + 1), persistent=False
        )
        self.embedding = nn.Embedding(len(self.elements), f)
        self.layers = nn.ModuleList([PaiNNLayer(config) for _ in range(config.interactions)])
        self.readout = nn.Sequential(nn.Linear(f, f // 2), nn.SiLU(), nn.Linear(f // 2, 1))

    def network_energies(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Dimensionless energies of the learned part, shape (N,)."""
        return self.readout(self.features(vectors, neighbours, species)).squeeze(-1)

    def features(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Scalar features after the last interaction, shape (N, F)."""
        distance = torch.linalg.vector_norm(vectors, dim=-1)  # (N, K)
        unit = vectors / distance.unsqueeze(-1)
        basis = torch.sin(distance.unsqueeze(-1) * self.frequencies) / distance.unsqueeze(-1)
        inside = torch.clamp(1.0 - (distance / self.cutoff_A) ** 2, min=0.0)
        envelope = inside * inside * inside
        scalars = self.embedding(species[: vectors.shape[0]])
        features = torch.zeros_like(scalars).unsqueeze(1).expand(-1, 3, -1)
        for layer in self.layers:
            sources = torch.cat([scalars, features.flatten(1)], dim=1)  # (N, 4F)
            sources = self.exchange(sources, species.shape[0])
            scalars, features = layer(scalars, features, unit, basis, envelope, neighbours, sources)
        return scalars
