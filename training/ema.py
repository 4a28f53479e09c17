"""Running mean of the weights: what is validated and shipped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from compactff_md.students import StudentNetwork


class WeightAverage:
    """Exponential moving average of a network's parameters.

    Early on the mean reaches less far back, ``(1 + n) / (10 + n)`` after n steps, so that the first
    weights are soon forgotten.
    """

    def __init__(self, network: StudentNetwork, decay: float) -> None:
        self.decay = decay
        self.sources = list(network.parameters())
        self.values: list[Tensor] = [p.detach().clone() for p in self.sources]
        self.averaged = copy.deepcopy(network)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Mix in the present weights; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.sources], 1.0 - decay)

    @torch.no_grad()
    def load(self, values: list[Tensor]) -> None:
        """Take the mean from a checkpoint."""
        for own, value in zip(self.values, values, strict=True):
            own.copy_(value)

    @torch.no_grad()
    def network(self) -> StudentNetwork:
        """Return the network with the averaged weights, in evaluation mode; always the same object."""
        for parameter, value in zip(self.averaged.parameters(), self.values, strict=True):
            parameter.copy_(value)
        return self.averaged.eval()
