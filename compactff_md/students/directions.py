"""Vectors and tensors that an atom sends to those that have it as a neighbour.

What an atom tells of itself in a further interaction is not only how much it counts, but where its own
neighbours lie: moments of rank 1 and 2, mixed to a few channels and multiplied by zero to two, as its
features say. Whoever has it as a neighbour adds them to moments of his own. So the plane of a ring is known
to the next one. The factor has bounds for the sake of a training at its full rate. The moments have none:
with many more neighbours than in the training, what is sent is unlike all that was learned (docs/bakeoff.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# A vector and a symmetric tensor: the components of moments without the scalar.
RANK_OF_SENT = (0, 0, 0, 1, 1, 1, 1, 1, 1)


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
        self.register_buffer("rank", torch.tensor(RANK_OF_SENT), persistent=False)

    def scaled_mixing(self) -> Tensor:
        """One matrix for each component, shape (9, C, D)."""
        return (self.mixing * self.scale.view(2, 1, 1)).index_select(0, self.rank)

    def forward(self, moments: Tensor, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments (N, 10, C), features (N, H) -> sent (N, 9, D); the same ungated, and the gate (N, 1, D)."""
        directed = moments.split([1, 9], dim=1)[1].transpose(0, 1)  # (9, N, C)
        plain = torch.bmm(directed, self.scaled_mixing()).transpose(0, 1)
        gate = 2.0 * torch.sigmoid(torch.mm(feature, self.gate)).unsqueeze(1)
        return plain * gate, plain, gate

    @torch.jit.export
    def trace_back(self, slope: Tensor, plain: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative by what is sent (N, 9, D) -> by the moments (N, 10, C) and the features (N, H)."""
        gate_slope = gate * (1.0 - 0.5 * gate)  # of the sigmoid
        feature_slope = torch.mm((slope * plain).sum(1) * gate_slope.squeeze(1), self.gate.t())
        mixing = self.scaled_mixing().transpose(1, 2)
        moment_slope = torch.bmm((slope * gate).transpose(0, 1), mixing).transpose(0, 1)
        return torch.nn.functional.pad(moment_slope, [0, 0, 1, 0]), feature_slope

    @torch.jit.unused
    def scale_to(self, moments: Tensor) -> None:
        """Bring vectors and tensors of these atoms to a root mean square of a half each, before any gate."""
        with torch.no_grad():
            plain = self(moments, self.gate.new_zeros(len(moments), len(self.gate)))[1]
            for rank, part in enumerate(plain.split([3, 6], dim=1)):
                self.scale[rank] *= 0.5 / max(float(part.square().mean().sqrt()), 1e-3)
