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

from compactff_md.students.base import StudentNetwork, gather, owned_rows
from compactff_md.students.prior import SWITCH_FRACTION

# One scalar, three of a vector, and of a symmetric tensor xx, yy, zz, xy, xz, yz, of which the last three
# count twice in a product of two tensors.
RANK_OF_COMPONENT = (0, 1, 1, 1, 2, 2, 2, 2, 2, 2)
NUM_COMPONENTS = len(RANK_OF_COMPONENT)
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
    name it, 2 in every preset. Inside ``core`` percent of the sum of covalent radii, where no data reaches,
    the network sees a distance that hardly changes, so that it cannot outdo the repulsion: 0, for none, in
    files that do not name it, 90 in every preset.
    """

    radial: int = 8
    channels: int = 24
    mixed: int = 24
    triples: int = 16
    hidden: int = 64
    interactions: int = 1
    decay: int = 0
    core: int = 0


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
        turned = diagonal * vector + self.beside.times(beside, vector)  # (3, N, t)
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
        linear = torch.cat([scalar.unsqueeze(0), torch.zeros_like(left[1:])])  # the scalars count themselves
        vector = triple.split([1, 3, 6])[1]
        scaled = vector * triples
        beside = 2.0 * self.beside(vector, scaled)
        triple_slope = torch.cat(
            [torch.zeros_like(scaled[:1]), 2.0 * turned * triples, vector * scaled, beside]
        )
        mixed_slope = torch.cat([products * right + linear, products * left, triple_slope], dim=2)
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
    return value, gate + value * (1.0 - gate)


class MomentsStudent(StudentNetwork):
    """Strictly local with one interaction; two cutoffs wide with two."""

    architecture = "moments"
    needs_autograd = False

    def __init__(self, elements: list[str], cutoff_A: float, config: MomentsConfig) -> None:
        super().__init__(elements, cutoff_A, vars(config))
        self.num_interactions = config.interactions
        # Times 1 / r_s of the prior: the inverse of the core's radius; without a core beyond all distances.
        self.inverse_core = 100.0 * SWITCH_FRACTION / config.core if config.core else 1e6
        self.channels = config.channels
        species, hidden = len(self.elements), config.hidden
        self.frequencies = nn.Parameter(math.pi / self.cutoff_A * torch.arange(1, config.radial + 1))
        width = config.channels * config.interactions
        self.radial = nn.Parameter(torch.randn(config.radial, width))
        self.beside = OffDiagonal(1)
        self.amplitudes: Tensor
        amplitudes = torch.arange(1, config.radial + 1).float() ** -config.decay
        self.register_buffer("amplitudes", amplitudes.unsqueeze(1), persistent=False)  # (R, 1)
        self.codes = nn.Parameter(torch.randn(config.interactions, species, config.channels))
        sources = torch.randn(config.interactions - 1, hidden, config.channels) / math.sqrt(hidden)
        self.sources = nn.Parameter(sources)
        layers = [MomentLayer(config, species, k) for k in range(config.interactions)]
        self.layers = nn.ModuleList(layers)

    def seen_distance(self, distance: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Bend distances (N, K) inside the core, r_c, to ``d + 0.58 r_c (1 - d^2/r_c^2)^3``; and the slope.

        ``parameters`` are those of the prior. The bend and its first two derivatives vanish at r_c; with more
        than 0.58 the seen distance would not be monotonic.
        """
        inverse = parameters[8] * self.inverse_core  # (N, K)
        scaled = distance * inverse
        inside = torch.clamp(1.0 - scaled * scaled, min=0.0)
        square = inside * inside
        seen = distance + 0.58 * square * inside / inverse
        return seen, 1.0 - 3.48 * square * scaled

    def radial_functions(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``sin(w d) (1 - d^2/rc^2)^3`` and its derivative by d, both (N, K, R).

        They are bounded and vanish for nuclei on top of each other, where the repulsion speaks alone.
        """
        scaled = distance * (1.0 / (self.cutoff_A * self.cutoff_A))
        inside = torch.clamp(1.0 - distance * scaled, min=0.0)
        square = inside * inside
        envelope = (square * inside).unsqueeze(-1)  # (N, K, 1)
        envelope_slope = (-6.0 * square * scaled).unsqueeze(-1)
        phase = distance.unsqueeze(-1) * self.frequencies
        sine = torch.sin(phase)
        slopes = torch.cos(phase) * (self.frequencies * envelope) + sine * envelope_slope
        return sine * envelope, slopes

    def components(self, unit: Tensor) -> Tensor:
        """Return 1, u and u (x) u of the unit vectors (N, 3, K), (N, 10, K).

        Neighbours are the last dimension, so that what is done with each component is done in one sweep.
        """
        ones = torch.ones_like(unit[:, :1])
        return torch.cat([ones, unit, unit * unit, self.beside(unit, unit)], dim=1)

    def along_vectors(self, component_slope: Tensor, unit: Tensor) -> Tensor:
        """Derivative by the components (N, 10, K) -> by the unit vectors (N, 3, K)."""
        _, vector, diagonal, beside = component_slope.split([1, 3, 3, 3], dim=1)
        return vector + 2.0 * diagonal * unit + self.beside.times(beside, unit)

    def neighbour_weights(self, k: int, feature: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Weight of each neighbour in interaction k by its element and features, (N, K, C)."""
        source = self.codes[k].index_select(0, species)  # (M, C)
        if k > 0:
            own = torch.mm(feature, self.sources[k - 1])  # (N, C)
            source = source + self.exchange(own, species.shape[0])
        return gather(source, neighbours)

    def evaluate(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, with_gradients: bool, num_owned: int = -1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies of the network, gradients of energies, features, and energies of the prior.

        Returns
        -------
        energies
            Dimensionless, shape (N,).
        gradients_eV_per_A
            Of the energies of network and prior together, of the first ``num_owned`` rows or of all, shape
            (N, K, 3); empty where none are asked for.
        features
            The last ones of the atoms, shape (N, H).
        repulsion_eV
            Shape (N,); empty where no gradients are asked for.
        """
        central = species[: vectors.shape[0]]
        across = vectors.transpose(1, 2).contiguous()  # (N, 3, K)
        distance = torch.linalg.vector_norm(across, dim=1)  # (N, K)
        unit = across / distance.unsqueeze(1)
        parameters = self.prior.pair_parameters(neighbours, species)  # (9, N, K)
        seen, bend = self.seen_distance(distance, parameters)
        values, slopes = self.radial_functions(seen)
        radial = self.radial * self.amplitudes  # (R, C * T)
        parts = torch.matmul(values, radial).split(self.channels, dim=-1)  # T of (N, K, C)
        components = self.components(unit)  # (N, 10, K)
        weights: list[Tensor] = []
        saved: list[list[Tensor]] = []
        feature = distance[:, :0]
        energy = torch.zeros_like(distance[:, 0])
        moments = components[:, :, :0]  # (N, 10, 0): of all interactions so far
        for k, layer in enumerate(self.layers):
            weight = self.neighbour_weights(k, feature, neighbours, species)
            edge = parts[k] * weight
            moments = torch.cat([moments, torch.bmm(components, edge)], dim=2)
            share, feature, state = layer(moments, feature, central)
            energy = energy + share
            weights.append(weight)
            saved.append(state)
        if not with_gradients:
            return energy, energy[:0], feature, energy[:0]
        repulsion, repulsion_slope = self.prior.energy_and_slope(distance, parameters)
        if num_owned >= 0:
            owned = owned_rows(distance, num_owned).unsqueeze(1)
            repulsion_slope = repulsion_slope * owned
            for state in saved:
                state[-1] = state[-1] * owned
        component_slope, radial_slope = self.pull_back(
            components, parts, weights, saved, neighbours, species.shape[0]
        )
        scale = self.energy_scale_eV.to(distance.dtype)
        distance_slope = (torch.matmul(radial_slope, radial.t()) * slopes).sum(-1) * (bend * scale)
        unit_slope = self.along_vectors(component_slope, unit) * (scale / distance).unsqueeze(1)
        along = (distance_slope + repulsion_slope).unsqueeze(1) - (unit_slope * unit).sum(1, keepdim=True)
        gradients = unit_slope + along * unit
        return energy, gradients.transpose(1, 2).contiguous(), feature, repulsion.sum(dim=1)

    def pull_back(
        self,
        components: Tensor,
        parts: list[Tensor],
        weights: list[Tensor],
        saved: list[list[Tensor]],
        neighbours: Tensor,
        num_atoms: int,
    ) -> tuple[Tensor, Tensor]:
        """Derivative by the components (N, 10, K) and by the radial functions (N, K, C * T)."""
        component_slopes: list[Tensor] = []
        radial_slopes: list[Tensor] = []
        feature_slope = torch.zeros_like(saved[-1][3])  # (N, H)
        later = torch.zeros_like(components[:, :1, :1])  # what later interactions add for the moments before
        for layer in self.layers[::-1]:
            k = len(saved) - 1
            weight, part = weights.pop(), parts[k]
            all_slope, feature_slope = layer.trace_back(saved.pop(), feature_slope)
            later, moment_slope = (all_slope + later).split([k * self.channels, self.channels], dim=2)
            edge_slope = torch.bmm(components.transpose(1, 2), moment_slope)  # (N, K, C)
            component_slopes.append(torch.bmm(moment_slope, (part * weight).transpose(1, 2)))
            radial_slopes.insert(0, edge_slope * weight)
            if k > 0:
                shares = (edge_slope * part).flatten(0, 1)  # (N * K, C)
                collected = shares.new_zeros((num_atoms, self.channels)).index_add(
                    0, neighbours.flatten(), shares
                )
                source_slope = self.halo.fold(collected)  # (N, C)
                feature_slope = feature_slope + torch.mm(source_slope, self.sources[k - 1].t())
        component_slope = component_slopes[0]
        for slope in component_slopes[1:]:
            component_slope = component_slope + slope
        return component_slope, torch.cat(radial_slopes, dim=-1)

    @torch.jit.export
    def energies_and_gradients(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, num_owned: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Energies (N,) in eV, float64, and their analytic gradients by the vectors, (N, K, 3)."""
        energies, gradients, _ = self.energies_gradients_features(vectors, neighbours, species, num_owned)
        return energies, gradients

    def energies_gradients_features(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, num_owned: int = -1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`energies_and_gradients`, and the atoms' last features (N, H), which cost nothing more."""
        energies, gradients, feature, repulsion = self.evaluate(vectors, neighbours, species, True, num_owned)
        shift = self.offsets_eV().index_select(0, species[: vectors.shape[0]])
        total = shift + energies.to(torch.float64) * self.energy_scale_eV + repulsion.to(torch.float64)
        if num_owned >= 0:
            total = total * owned_rows(total, num_owned)
        return total, gradients, feature

    def features(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Last features of the atoms, shape (N, H)."""
        return self.evaluate(vectors, neighbours, species, False)[2]

    def network_energies(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Dimensionless energies of the learned part, shape (N,)."""
        return self.evaluate(vectors, neighbours, species, False)[0]

    @torch.jit.unused
    def initialise_from_data(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> None:
        """Centre and scale every layer's invariants on a sample of the data."""
        distance = torch.linalg.vector_norm(vectors, dim=-1)
        seen, _ = self.seen_distance(distance, self.prior.pair_parameters(neighbours, species))
        radial = self.radial * self.amplitudes
        parts = torch.matmul(self.radial_functions(seen)[0], radial).split(self.channels, dim=-1)
        components = self.components((vectors / distance.unsqueeze(-1)).transpose(1, 2))
        feature = distance[:, :0]
        moments = components[:, :, :0]
        with torch.no_grad():
            for k, layer in enumerate(self.layers):
                edge = parts[k] * self.neighbour_weights(k, feature, neighbours, species)
                moments = torch.cat([moments, torch.bmm(components, edge)], dim=2)
                layer.scale_to(moments)
                feature = layer(moments, feature, species[: vectors.shape[0]])[1]
