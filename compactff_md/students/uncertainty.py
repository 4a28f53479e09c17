"""How far an atom's environment is from those of the training, and the force error to expect there.

An atom's last features are whitened by their pooled covariance within clusters. The distance to the nearest
of its element's cluster centres, found on the training data, is a Mahalanobis distance to the nearest
Gaussian of a mixture (Lee et al., NeurIPS 2018, arXiv:1807.03888, with clusters in the place of classes).
Held-out errors give the scale: the expected error is ``exp(a_s) distance^b``, a for each element.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compactff_md.errors import CompactFFError


class Uncertainty(nn.Module):
    """Expected error of an atom's force from its features; a few small products for all atoms together.

    Parameters
    ----------
    elements, centres, dimensions, features
        S, Q, D, H: elements of the student, cluster centres for each, whitened dimensions, last features.

    Attributes
    ----------
    projection
        Shape (H, D): what whitens the features.
    centres
        Shape (S, Q, D), whitened; elements with fewer clusters repeat them.
    log_scale
        Shape (S,): a of the calibration; the error is in eV/A for each Cartesian component.
    exponent
        Shape (): b of the calibration.
    usual_eV_per_A
        Shape (): what 99% of the held-out atoms are below.
    """

    def __init__(self, elements: int, centres: int, dimensions: int, features: int) -> None:
        super().__init__()
        self.projection: Tensor
        self.centres: Tensor
        self.log_scale: Tensor
        self.exponent: Tensor
        self.usual_eV_per_A: Tensor
        self.register_buffer("projection", torch.zeros(features, dimensions))
        self.register_buffer("centres", torch.zeros(elements, centres, dimensions))
        self.register_buffer("log_scale", torch.zeros(elements))
        self.register_buffer("exponent", torch.ones(()))
        self.register_buffer("usual_eV_per_A", torch.ones(()))

    def distance(self, features: Tensor, species: Tensor) -> Tensor:
        """Distance of features (N, H) from the training data in standard deviations, shape (N,)."""
        place = torch.mm(features, self.projection).unsqueeze(1)  # (N, 1, D)
        apart = place - self.centres.index_select(0, species)  # (N, Q, D)
        return (apart * apart).sum(-1).amin(1).clamp(min=1e-8).sqrt()

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """Root mean square error to expect of each atom's force components in eV/A, shape (N,)."""
        distance = self.distance(features, species)
        return torch.exp(self.log_scale.index_select(0, species)) * distance**self.exponent


def uncertainty_from(tensors: dict[str, Tensor], elements: int) -> Uncertainty:
    """Rebuild one from its tensors.

    Raises
    ------
    CompactFFError
        If a tensor is missing, too many, or of another shape.
    """
    try:
        features, dimensions = tensors["projection"].shape
        made = Uncertainty(elements, tensors["centres"].shape[1], dimensions, features)
        made.load_state_dict(tensors)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise CompactFFError(f"the tensors of the uncertainty do not fit: {error}") from error
    return made.eval()
