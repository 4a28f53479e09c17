"""One interaction of a Cartesian-moment student: moments of an atom's neighbours -> features and energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# One scalar, three of a vector, and of a symmetric tensor xx, yy, zz, xy, xz, yz, of which the last three
# count twice in a product of two tensors.
RANK_OF_COMPONENT = (0, 1, 1, 1, 2, 2, 2, 2, 2, 2)
# What is smooth is given more room than what is not, so that it is learned first: the n-th radial function
# has the amplitude n^-decay, and invariants of three and four bodies have less variance than those of two.
# With 950 frames a network fits labels far better than it predicts others (docs/bakeoff.md): this prior took
# the error on unseen frames of ethanol from 17.7 to 12.5 meV/A after 12,000 steps.
PAIR_DEVIATION = 0.5
TRIPLE_DEVIATION = 0.25


@dataclass(frozen=True)
class MomentsConfig:
    """Sizes of a Cartesian-moment student.

    ``radial`` functions of the distance are mixed to ``channels`` an edge; ``mixed`` pairs of moments of
    each rank and ``triples`` of vector-tensor-vector make the invariants; ``hidden`` is the width of the
    network at the atoms. The n-th radial function has the amplitude n^-``decay``: 0 in files that do not
    name it, 1 in every preset. Inside ``core`` percent of the sum of covalent radii, where no data reaches,
    the network sees a distance that hardly changes, so that it cannot outdo the repulsion: 0, for none, in
    files that do not name it, 90 in every preset. Inside ``floor`` percent it does not change at all, so that
    the repulsion is alone there: 0, where it changes a little down to nothing, in files that do not name it
    and the presets, 45 in ``moments-directed``. ``aligned`` percent of the sum of covalent radii are taken
    off the distances whose sines are the radial functions, so that bonds of all pairs of elements lie at the
    same place: 0 in files that do not name it, 100 in every preset. In further interactions an atom sends
    vectors and tensors of ``directed`` channels, at most ``channels``, which ``channels // directed`` radial
    functions take along: 0 in files that do not name it and the presets.
    """

    radial: int = 8
    channels: int = 24
    mixed: int = 24
    triples: int = 16
    hidden: int = 64
    interactions: int = 1
    decay: int = 0
    core: int = 0
    floor: int = 0
    aligned: int = 0
    directed: int = 0


class MomentLayer(nn.Module):
    """Moments of one interaction -> invariants -> features and energy, and the way back."""

    def __init__(self, config: MomentsConfig, num_species: int, index: int) -> None:
        super().__init__()
        self.m = config.mixed
        self.t = config.triples
        self.num_invariants = 4 * config.mixed + config.triples
        inputs = self.num_invariants + (config.hidden if index else 0)
        channels, hidden = config.channels * (index + 1), config.hidden
        # Columns: m left factors, m right factors, t for triples.
        columns = 2 * config.mixed + config.triples
        # Untrained invariants of a dense system are then about one; `scale_to` sets them from the data.
        self.mixing = nn.Parameter(0.3 * torch.randn(3, channels, columns) / math.sqrt(channels))
        self.inner = nn.Parameter(torch.randn(inputs, hidden) / math.sqrt(inputs))
        self.inner_bias = nn.Parameter(0.3 * torch.randn(num_species, hidden))
        self.outer = nn.Parameter(torch.randn(hidden, hidden) / math.sqrt(hidden))
        self.outer_bias = nn.Parameter(torch.zeros(hidden))
        # Small, so that an untrained student has forces of the size that trained ones have.
        self.readout = nn.Parameter(0.1 * torch.randn(hidden).repeat(num_species, 1) / math.sqrt(hidden))
        self.rank: Tensor
        self.spread: Tensor
        self.beside = OffDiagonal(0)
        rank = torch.tensor(RANK_OF_COMPONENT)
        self.register_buffer("rank", rank, persistent=False)  # (10,)
        spread = torch.nn.functional.one_hot(rank, 3).float()
        spread[-3:] *= 2.0
        self.register_buffer("spread", spread, persistent=False)  # (10, 3)

    def contract(self, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments (N, 10, C) -> mixed moments (10, N, 2m+t), tensor times vector (3, N, t), invariants."""
        # Slices are taken by `split`: its derivative is one `cat`, that of indexing fills zeros for each.
        m, n = self.m, moments.shape[0]
        mixed = torch.bmm(moments.transpose(0, 1), self.mixing.index_select(0, self.rank))  # (10, N, 2m+t)
        left, right, triple = mixed.split([m, m, self.t], dim=2)
        by_rank = torch.mm(self.spread.t(), (left * right).view(10, n * m)).view(3, n, m)
        _, vector, diagonal, beside = triple.split([1, 3, 3, 3])
        turned = torch.addcmul(self.beside.times(beside, vector), diagonal, vector)  # (3, N, t)
        triples = (turned * vector).sum(0)  # (N, t)
        scalar = left.split([1, 9])[0].squeeze(0)
        invariants = torch.cat([scalar, by_rank.transpose(0, 1).reshape(n, 3 * m), triples], dim=1)
        return mixed, turned, invariants

    def contract_backward(self, mixed: Tensor, turned: Tensor, slope: Tensor) -> Tensor:
        """Derivative by the invariants (N, I) -> derivative by the moments (N, 10, C)."""
        m, n = self.m, mixed.shape[1]
        scalar, by_rank, triples = slope.split([m, 3 * m, self.t], dim=1)
        left, right, triple = mixed.split([m, m, self.t], dim=2)
        by_rank = by_rank.reshape(n, 3, m).transpose(0, 1).reshape(3, n * m)
        products = torch.mm(self.spread, by_rank).view(10, n, m)
        linear = torch.nn.functional.pad(scalar.unsqueeze(0), [0, 0, 0, 0, 0, 9])  # scalars count themselves
        vector = triple.split([1, 3, 6])[1]
        twice = triples + triples
        scaled = vector * twice
        beside = self.beside(vector, scaled)
        nothing = torch.zeros_like(scaled[:1])
        triple_slope = torch.cat([nothing, turned * twice, vector * (vector * triples), beside])
        mixed_slope = torch.cat(
            [torch.addcmul(linear, products, right), products * left, triple_slope], dim=2
        )
        mixing = self.mixing.index_select(0, self.rank).transpose(1, 2)
        return torch.bmm(mixed_slope, mixing).transpose(0, 1)

    def forward(
        self, moments: Tensor, previous: Tensor, central: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Moments (N, 10, C), features (N, H or 0) -> energies (N,), features (N, H), saved."""
        mixed, turned, inputs = self.contract(moments)
        inputs = torch.cat([inputs, previous], dim=1)
        inner = self.inner_bias.index_select(0, central) + torch.mm(inputs, self.inner)
        first, inner_slope = silu_and_slope(inner)
        feature, outer_slope = silu_and_slope(torch.addmm(self.outer_bias, first, self.outer))
        readout = self.readout.index_select(0, central)
        return (feature * readout).sum(1), feature, [mixed, turned, inner_slope, outer_slope, readout]

    @torch.jit.export
    def trace_back(self, saved: list[Tensor], feature_slope: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative by the moments (N, 10, C) and by the previous features (N, H or 0).

        ``feature_slope`` is what later interactions add to the derivative by this one's features.
        """
        slope = (saved[4] + feature_slope) * saved[3]
        slope = torch.mm(slope, self.outer.t()) * saved[2]
        slope = torch.mm(slope, self.inner.t())
        own, previous = slope.split([self.num_invariants, slope.shape[1] - self.num_invariants], dim=1)
        return self.contract_backward(saved[0], saved[1], own), previous

    @torch.jit.unused
    def scale_to(self, moments: Tensor) -> None:
        """Centre the invariants over these atoms, and give each kind its deviation.

        Within a kind the invariants keep the ratios that they have: to bring each to the same would raise
        the noise among them.
        """
        m = self.m
        with torch.no_grad():
            first = self.contract(moments)[2]
            self.mixing[0, :, :m] /= deviation_of(first[:, :m])
            product = deviation_of(self.contract(moments)[2][:, m : 2 * m])
            self.mixing[0, :, m : 2 * m] *= PAIR_DEVIATION / product
            for rank in (1, 2):
                share = deviation_of(first[:, (rank + 1) * m : (rank + 2) * m])
                self.mixing[rank, :, : 2 * m] *= math.sqrt(PAIR_DEVIATION / share)
            share = deviation_of(first[:, 4 * m :])
            self.mixing[1:, :, 2 * m :] *= math.pow(TRIPLE_DEVIATION / share, 1.0 / 3.0)
            mean = self.contract(moments)[2].mean(0)
            self.inner_bias.sub_(mean @ self.inner[: self.num_invariants])


class OffDiagonal(nn.Module):
    """The xy, xz and yz of symmetric tensors along a dimension, in few operations for small molecules."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.first: Tensor
        self.second: Tensor
        self.tensors: Tensor
        self.vectors: Tensor
        # What is multiplied for x y', x z', y z'; and of xy, xz, yz with x, y, z for x, y, z, in two terms.
        for name, index in (
            ("first", (0, 0, 1)),
            ("second", (1, 2, 2)),
            ("tensors", (0, 0, 1, 1, 2, 2)),
            ("vectors", (1, 0, 0, 2, 2, 1)),
        ):
            self.register_buffer(name, torch.tensor(index), persistent=False)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """``x y'``, ``x z'`` and ``y z'`` of two vectors."""
        one, other = left.index_select(self.dim, self.first), right.index_select(self.dim, self.second)
        return one * other

    @torch.jit.export
    def times(self, beside: Tensor, vector: Tensor) -> Tensor:
        """Symmetric tensor of xy, xz, yz and no diagonal, times a vector."""
        one, other = beside.index_select(self.dim, self.tensors), vector.index_select(self.dim, self.vectors)
        return (one * other).unflatten(self.dim, (2, 3)).sum(self.dim)


def deviation_of(values: Tensor) -> float:
    """Root mean square of the columns' standard deviations, never zero."""
    return max(float(values.var(0, unbiased=False).mean().sqrt()), 1e-3)


def silu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x sigmoid(x)`` and its derivative."""
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.addcmul(gate, gate, x - value)
