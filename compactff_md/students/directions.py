"""Vectors and tensors that an atom sends to those that have it as a neighbour.

What an atom tells of itself in a further interaction is not only how much it counts, but where its own
neighbours lie: moments of rank 1 and 2, mixed to a few channels, brought to a length of at most one, and
multiplied by zero to two, as its features say. Whoever has it as a neighbour adds them to moments of his own.
So the plane of a ring is known to the next one. Without the bounds a liquid, where an atom has twice the
neighbours of one in a molecule, would hear of directions unlike all that was learned (docs/bakeoff.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# A vector and a symmetric tensor: the components of moments without the scalar.
RANK_OF_SENT = (0, 0, 0, 1, 1, 1, 1, 1, 1)
# How often a component is in the whole: off-diagonals twice.
TIMES = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0)


class Directions(nn.Module):
    """Moments and features -> what an atom sends beside its scalars, and the way back.

    Parameters
    ----------
    moments
        How many channels of moments there are so far.
    hidden
        Width of the features that weigh.
    directed
        How many channels are sent; with 0 there are no parameters, and nobody asks.
    """

    def __init__(self, moments: int, hidden: int, directed: int) -> None:
        super().__init__()
        self.mixing: Tensor
        self.gate: Tensor
        self.scale: Tensor
        self.rank: Tensor
        mixing = torch.randn(2, moments, directed) / math.sqrt(max(1, moments))
        gate = torch.randn(hidden, directed) / math.sqrt(hidden)
        if directed:
            self.mixing, self.gate = nn.Parameter(mixing), nn.Parameter(gate)
            self.register_buffer("scale", torch.ones(2))
        else:  # TorchScript wants to see them
            self.register_buffer("mixing", mixing, persistent=False)
            self.register_buffer("gate", gate, persistent=False)
            self.register_buffer("scale", torch.ones(2), persistent=False)
        self.metric: Tensor
        rank = torch.tensor(RANK_OF_SENT)
        self.register_buffer("rank", rank, persistent=False)
        same = rank.unsqueeze(0) == rank.unsqueeze(1)
        self.register_buffer("metric", same * torch.tensor(TIMES), persistent=False)  # (9, 9)

    def scaled_mixing(self) -> Tensor:
        """One matrix for each component, shape (9, C, D)."""
        return (self.mixing * self.scale.view(2, 1, 1)).index_select(0, self.rank)

    def mixed(self, moments: Tensor) -> Tensor:
        """Moments (N, 10, C) -> vectors and tensors of the channels that are sent, unbounded, (9, N, D)."""
        return torch.bmm(moments.split([1, 9], dim=1)[1].transpose(0, 1), self.scaled_mixing())

    def forward(self, moments: Tensor, feature: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Moments (N, 10, C), features (N, H) -> sent (N, 9, D), and a state for the way back.

        A vector or tensor V of the length (or Frobenius norm) v becomes ``V / sqrt(1 + v^2)``.
        """
        plain = self.mixed(moments)
        squares = torch.mm(self.metric, (plain * plain).flatten(1)).view_as(plain)
        shrink = torch.rsqrt(squares + 1.0)
        told = plain * shrink
        gate = 2.0 * torch.sigmoid(torch.mm(feature, self.gate))  # (N, D)
        return (told * gate).transpose(0, 1), [told, shrink, gate]

    @torch.jit.export
    def trace_back(self, slope: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Derivative by what is sent (N, 9, D) -> by the moments (N, 10, C) and the features (N, H)."""
        told, shrink, gate = state
        slope = slope.transpose(0, 1)  # (9, N, D)
        gate_slope = gate * (1.0 - 0.5 * gate)  # of the sigmoid
        along = slope * told
        feature_slope = torch.mm(along.sum(0) * gate_slope, self.gate.t())
        stretch = torch.mm(self.metric.t(), (along * gate).flatten(1)).view_as(told)
        plain_slope = shrink * (slope * gate - told * stretch)
        moment_slope = torch.bmm(plain_slope, self.scaled_mixing().transpose(1, 2)).transpose(0, 1)
        return torch.nn.functional.pad(moment_slope, [0, 0, 1, 0]), feature_slope

    @torch.jit.unused
    def scale_to(self, moments: Tensor) -> None:
        """Bring vectors and tensors of these atoms to a root mean square of a half each, before any bound."""
        with torch.no_grad():
            for rank, part in enumerate(self.mixed(moments).split([3, 6])):
                self.scale[rank] *= 0.5 / max(float(part.square().mean().sqrt()), 1e-3)
