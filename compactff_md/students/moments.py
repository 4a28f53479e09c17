"""Cartesian-moment students: few operations an edge, the network's weight at the atoms.

For each atom the neighbours' density is projected on radial functions times Cartesian moments of rank
0, 1 and 2 in one batched matrix product. Channels are mixed after the sum over neighbours (the density
trick), contracted to invariants of two to four bodies, and read by a small network. In a further
interaction the same projection is done with each neighbour weighted by features of its own first layer.

The derivative by the vectors is written out beside the energy: it costs half of what autograd does,
needs no graph in production, and makes training a single backward pass. The tests hold it to autograd
in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compactff_md.students.base import StudentNetwork

NUM_COMPONENTS = 13  # 1 scalar, 3 of a vector, 9 of a symmetric tensor
RANK_OF_COMPONENT = (0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2)


@dataclass(frozen=True)
class MomentsConfig:
    """Sizes of a Cartesian-moment student.

    ``radial`` functions of the distance are mixed to ``channels`` an edge; ``mixed`` pairs of moments of
    each rank and ``triples`` of vector-tensor-vector make the invariants; ``hidden`` is the width of the
    network at the atoms.
    """

    radial: int = 8
    channels: int = 24
    mixed: int = 24
    triples: int = 16
    hidden: int = 64
    interactions: int = 1


class MomentLayer(nn.Module):
    """Moments of one interaction -> invariants -> features, and the way back."""

    def __init__(self, config: MomentsConfig, num_species: int, previous: int) -> None:
        super().__init__()
        self.m = config.mixed
        self.t = config.triples
        self.num_invariants = 4 * config.mixed + config.triples
        inputs, hidden = self.num_invariants + previous, config.hidden
        # Columns: m left factors, m right factors, t for triples.
        columns = 2 * config.mixed + config.triples
        self.mixing = nn.Parameter(torch.randn(3, config.channels, columns) / math.sqrt(config.channels))
        self.inner = nn.Parameter(torch.randn(inputs, hidden) / math.sqrt(inputs))
        self.inner_bias = nn.Parameter(0.3 * torch.randn(num_species, hidden))
        self.outer = nn.Parameter(torch.randn(hidden, hidden) / math.sqrt(hidden))
        self.outer_bias = nn.Parameter(torch.zeros(hidden))
        self.readout = nn.Parameter(torch.randn(hidden).repeat(num_species, 1) / math.sqrt(hidden))
        rank = torch.tensor(RANK_OF_COMPONENT)
        self.register_buffer("rank", rank, persistent=False)  # (13,)
        spread = torch.nn.functional.one_hot(rank, 3).float()
        self.register_buffer("spread", spread, persistent=False)  # (13, 3)

    def contract(self, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments (N, 13, C) -> mixed moments (13, N, 2m+t), tensor times vector (3, N, t), invariants."""
        m = self.m
        mixed = torch.bmm(moments.transpose(0, 1), self.mixing[self.rank])  # (13, N, 2m+t)
        n = mixed.shape[1]
        products = (mixed[:, :, :m] * mixed[:, :, m : 2 * m]).view(13, n * m)
        by_rank = torch.mm(self.spread.t(), products).view(3, n, m)
        vector = mixed[1:4, :, 2 * m :]  # (3, N, t)
        tensor = mixed[4:13, :, 2 * m :].view(3, 3, n, self.t)
        turned = (tensor * vector).sum(1)  # (3, N, t)
        triples = (turned * vector).sum(0)  # (N, t)
        invariants = torch.cat([mixed[0, :, :m], by_rank[0], by_rank[1], by_rank[2], triples], dim=1)
        return mixed, turned, invariants

    def contract_backward(self, mixed: Tensor, turned: Tensor, slope: Tensor) -> Tensor:
        """Derivative by the invariants (N, I) -> derivative by the moments (N, 13, C)."""
        m, n = self.m, mixed.shape[1]
        by_rank = slope[:, m : 4 * m].reshape(n, 3, m).transpose(0, 1).reshape(3, n * m)
        products = torch.mm(self.spread, by_rank).view(13, n, m)
        left = products * mixed[:, :, m : 2 * m]
        right = products * mixed[:, :, :m]
        first = left[:1] + slope[:, :m].unsqueeze(0)
        vector = mixed[1:4, :, 2 * m :]
        triples = slope[:, 4 * m :]  # (N, t)
        weighted = vector * triples
        outer = (weighted.unsqueeze(1) * vector).view(9, n, self.t)
        triple = torch.cat([torch.zeros_like(outer[:1]), 2.0 * turned * triples, outer])
        mixed_slope = torch.cat([torch.cat([first, left[1:]]), right, triple], dim=2)  # (13, N, 2m+t)
        return torch.bmm(mixed_slope, self.mixing[self.rank].transpose(1, 2)).transpose(0, 1)


def silu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x sigmoid(x)`` and its derivative."""
    gate = torch.sigmoid(x)
    value = x * gate
    return value, gate + value * (1.0 - gate)


class MomentsStudent(StudentNetwork):
    """Strictly local for one interaction; two cutoffs wide for two."""

    def __init__(self, elements: list[str], cutoff_A: float, config: MomentsConfig) -> None:
        super().__init__(elements, cutoff_A)
        self.config_dict = dict(vars(config))
        self.num_interactions = config.interactions
        self.channels = config.channels
        species, hidden = len(self.elements), config.hidden
        frequencies = math.pi / self.cutoff_A * torch.arange(1, config.radial + 1)
        self.frequencies = nn.Parameter(frequencies)
        width = config.channels * config.interactions
        self.radial = nn.Parameter(torch.randn(config.radial, width) / math.sqrt(config.radial))
        self.codes = nn.Parameter(torch.randn(config.interactions, species, config.channels))
        self.sources = nn.Parameter(
            torch.randn(config.interactions - 1, hidden, config.channels) / math.sqrt(hidden)
        )
        layers = [MomentLayer(config, species, 0 if k == 0 else hidden) for k in range(config.interactions)]
        self.layers = nn.ModuleList(layers)
