"""The force error to expect of an atom, from its environment as the student sees it.

It grows with the distance from the training data: an atom's last features are whitened by their pooled
covariance within clusters, and the distance to the nearest of its element's cluster centres is a Mahalanobis
distance to the nearest Gaussian of a mixture (Lee et al., NeurIPS 2018, arXiv:1807.03888, with clusters in
the place of classes). Beside that, its logarithm is linear in the features, for each element in its own way:
some environments are harder than others, however often they were seen. Both are fitted to errors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from compactff_md.errors import CompactFFError

NO_LIMIT = 1e3  # of a logarithm; files hold no infinities
LATER = ("weights", "lowest", "highest")  # not in files before version 4


class OnAtoms(NamedTuple):
    """Rows of an uncertainty's tables for N atoms.

    Attributes
    ----------
    species
        Shape (N, 1).
    centres
        Shape (N, Q, D).
    lowest, highest
        Shape (N,).
    """

    species: Tensor
    centres: Tensor
    lowest: Tensor
    highest: Tensor


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
    weights, log_scale
        Shapes (H, S) and (S,): the error, in eV/A for each Cartesian component, is
        ``exp(log_scale + features @ weights) * distance ^ exponent``,
    lowest, highest
        Shape (S,): with the argument of ``exp`` within these.
    exponent
        Shape ().
    usual_eV_per_A
        Shape (): what 99% of the held-out atoms are below.
    """

    def __init__(self, elements: int, centres: int, dimensions: int, features: int) -> None:
        super().__init__()
        self.projection: Tensor
        self.centres: Tensor
        self.weights: Tensor
        self.log_scale: Tensor
        self.lowest: Tensor
        self.highest: Tensor
        self.exponent: Tensor
        self.usual_eV_per_A: Tensor
        self.register_buffer("projection", torch.zeros(features, dimensions))
        self.register_buffer("centres", torch.zeros(elements, centres, dimensions))
        self.register_buffer("weights", torch.zeros(features, elements))
        self.register_buffer("log_scale", torch.zeros(elements))
        self.register_buffer("lowest", torch.full((elements,), -NO_LIMIT))
        self.register_buffer("highest", torch.full((elements,), NO_LIMIT))
        self.register_buffer("exponent", torch.ones(()))
        self.register_buffer("usual_eV_per_A", torch.ones(()))
        self.float()  # whatever PyTorch's default is

    def on_atoms(self, species: Tensor) -> OnAtoms:
        """What depends on the elements of atoms (N,) alone: for dynamics once, not at every step."""
        return OnAtoms(
            species.unsqueeze(1),
            self.centres.index_select(0, species),
            self.lowest.index_select(0, species),
            self.highest.index_select(0, species),
        )

    def distance(self, features: Tensor, species: Tensor) -> Tensor:
        """Distance of features (N, H) from the training data in standard deviations, shape (N,)."""
        return self._to_nearest(features, self.centres.index_select(0, species))

    def _to_nearest(self, features: Tensor, centres: Tensor) -> Tensor:
        place = torch.mm(features, self.projection).unsqueeze(1)  # (N, 1, D)
        # Not by a product of matrices, which loses digits where the distance is small.
        apart = torch.cdist(place, centres, compute_mode="donot_use_mm_for_euclid_dist")  # (N, 1, Q)
        return apart.amin((1, 2)).clamp(min=1e-4)

    def errors(self, features: Tensor, atoms: OnAtoms) -> Tensor:
        """Root mean square error to expect of each atom's force components in eV/A, shape (N,)."""
        logarithm = torch.addmm(self.log_scale, features, self.weights).gather(1, atoms.species).squeeze(1)
        logarithm = torch.clamp(logarithm, atoms.lowest, atoms.highest)
        distance = self._to_nearest(features, atoms.centres)
        return torch.exp(torch.addcmul(logarithm, distance.log(), self.exponent))

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """As :meth:`errors`, of atoms of these elements, shape (N,)."""
        return self.errors(features, self.on_atoms(species))


def uncertainty_from(tensors: dict[str, Tensor], elements: int) -> Uncertainty:
    """Rebuild one from its tensors; files before version 4 have neither weights nor limits.

    Raises
    ------
    CompactFFError
        If a tensor is missing, too many, or of another shape.
    """
    try:
        features, dimensions = tensors["projection"].shape
        made = Uncertainty(elements, tensors["centres"].shape[1], dimensions, features)
        missing = LATER if "weights" not in tensors else ()
        kept = {name: value for name, value in made.state_dict().items() if name in missing}
        made.load_state_dict({**kept, **tensors})
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise CompactFFError(f"the tensors of the uncertainty do not fit: {error}") from error
    return made.eval()
