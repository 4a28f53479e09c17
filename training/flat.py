"""A network's parameters as one vector, so that a step of the optimiser is one operation and not dozens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatWeights:
    """All parameters of a network behind each other; the network's own become views of it.

    Gradients gather in ``gradient`` when ``backward`` runs, and stay there until it is zeroed. The
    network must not be moved to another device or dtype any more.

    Attributes
    ----------
    vector
        The parameters, shape (P,); what the optimiser gets.
    gradient
        Its gradient, shape (P,).
    """

    def __init__(self, network: nn.Module) -> None:
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient
        sizes = [p.numel() for p in parameters]
        parts = zip(parameters, self.vector.detach().split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, weights, gradient in parts:
            parameter.data = weights.view_as(parameter)
            parameter.grad = gradient.view_as(parameter)

    def clip(self, largest: float) -> None:
        """Scale the gradient down where its norm is above ``largest``."""
        factor = (largest / (self.gradient.norm() + 1e-6)).clamp_(max=1.0)
        self.gradient.mul_(factor)


class WeightAverage:
    """Exponential moving average of the weights: what is validated and shipped.

    Early on the mean reaches less far back, ``(1 + n) / (10 + n)`` after n steps, so that the first
    weights are soon forgotten.
    """

    def __init__(self, weights: FlatWeights, decay: float) -> None:
        self.source, self.decay = weights.vector, decay
        self.vector: Tensor = weights.vector.detach().clone()  # (P,)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Mix in the present weights; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        self.vector.lerp_(self.source, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Write the average into a network of the same architecture."""
        parameters = [p for p in network.parameters() if p.requires_grad]
        for parameter, part in zip(
            parameters, self.vector.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.copy_(part.view_as(parameter))
