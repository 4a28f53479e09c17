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

import torch
from torch import Tensor, nn

from compactff_md.students.base import StudentNetwork, gather, owned_rows
from compactff_md.students.moment_layer import MomentLayer, MomentsConfig, OffDiagonal
from compactff_md.students.prior import SWITCH_FRACTION

ALIGNED_A = 1.5  # where bonds of all pairs of elements lie: those of carbon stay where they are


class MomentsStudent(StudentNetwork):
    """Strictly local with one interaction; two cutoffs wide with two."""

    architecture = "moments"
    needs_autograd = False

    def __init__(self, elements: list[str], cutoff_A: float, config: MomentsConfig) -> None:
        super().__init__(elements, cutoff_A, vars(config))
        self.num_interactions = config.interactions
        # The core's radius over r_s of the prior; without a core, as good as nothing.
        self.core = 0.01 * config.core / SWITCH_FRACTION if config.core else 1e-6
        self.aligned = 0.01 * config.aligned / SWITCH_FRACTION  # of the prior's r_s
        self.aligned_A = 0.01 * config.aligned * ALIGNED_A
        self.channels = config.channels
        species, hidden = len(self.elements), config.hidden
        self.frequencies = nn.Parameter(math.pi / self.cutoff_A * torch.arange(1, config.radial + 1))
        width = config.channels * config.interactions
        self.radial = nn.Parameter(torch.randn(config.radial, width))
        self.beside = OffDiagonal(1)
        self.one: Tensor
        self.register_buffer("one", torch.ones(()), persistent=False)
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
        # addcmul here and elsewhere: fewer operations, and none with a number, which becomes a tensor first.
        _, inverse, reach = parameters.split([8, 1, 1])
        scaled = distance * inverse.squeeze(0)
        factor = 1.0 / self.core
        inside = torch.clamp(torch.addcmul(self.one, scaled, scaled, value=-factor * factor), min=0.0)
        square = inside * inside
        seen = torch.addcmul(distance, square * inside, reach.squeeze(0), value=0.58 * self.core)
        return seen, torch.addcmul(self.one, square, scaled, value=-3.48 * factor)

    def radial_functions(self, distance: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``sin(w (d - a)) (1 - d^2/rc^2)^3`` and its derivative by d, both (N, K, R).

        ``a`` is the aligned share of the sum of the pair's covalent radii, less that of ``ALIGNED_A``;
        ``parameters`` are those of the prior.
        """
        inverse = 1.0 / (self.cutoff_A * self.cutoff_A)
        inside = torch.clamp(torch.addcmul(self.one, distance, distance, value=-inverse), min=0.0)
        square = inside * inside
        envelope = (square * inside).unsqueeze(-1)  # (N, K, 1)
        envelope_slope = (square * distance).unsqueeze(-1)  # times -6 / rc^2
        reach = parameters.split([9, 1])[1].squeeze(0)
        phase = (distance - (self.aligned * reach - self.aligned_A)).unsqueeze(-1) * self.frequencies
        sine = torch.sin(phase)
        slopes = torch.cos(phase) * (self.frequencies * envelope)
        return sine * envelope, torch.addcmul(slopes, sine, envelope_slope, value=-6.0 * inverse)

    def components(self, unit: Tensor) -> Tensor:
        """Return 1, u and u (x) u of the unit vectors (N, 3, K), (N, 10, K).

        Neighbours are the last dimension, so that what is done with each component is done in one sweep.
        """
        ones = torch.ones_like(unit[:, :1])
        return torch.cat([ones, unit, unit * unit, self.beside(unit, unit)], dim=1)

    def along_vectors(self, component_slope: Tensor, unit: Tensor) -> Tensor:
        """Derivative by the components (N, 10, K) -> by the unit vectors (N, 3, K)."""
        _, vector, diagonal, beside = component_slope.split([1, 3, 3, 3], dim=1)
        return torch.addcmul(self.beside.times(beside, unit) + vector, diagonal, unit, value=2.0)

    def sources_of(self, k: int, feature: Tensor, species: Tensor) -> Tensor:
        """Weight of each atom as a neighbour in interaction k, by its element and features, (M, C)."""
        source = self.codes[k].index_select(0, species)  # (M, C)
        if k > 0:
            own = torch.mm(feature, self.sources[k - 1])  # (N, C)
            source = source + self.exchange(own, species.shape[0])
        return source

    def evaluate(
        self, vectors: Tensor, neighbours: Tensor, species: Tensor, with_gradients: bool, num_owned: int = -1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies of the network, gradients of energies, features, and energies of the prior.

        Returns
        -------
        energies
            Dimensionless, shape (N,); levelled off where gradients are asked for.
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
        distance = (across * across).sum(1).sqrt()  # (N, K); vector_norm takes ten times as long
        unit = across / distance.unsqueeze(1)
        parameters = self.prior.pair_parameters(neighbours, central, species)  # (10, N, K)
        seen, bend = self.seen_distance(distance, parameters)
        values, slopes = self.radial_functions(seen, parameters)
        radial = self.radial * self.amplitudes  # (R, C * T)
        parts = torch.matmul(values, radial).split(self.channels, dim=-1)  # T of (N, K, C)
        components = self.components(unit)  # (N, 10, K)
        weights: list[Tensor] = []
        saved: list[list[Tensor]] = []
        feature = distance[:, :0]
        energy = torch.zeros_like(distance[:, 0])
        moments = components[:, :, :0]  # (N, 10, 0): of all interactions so far
        for k, layer in enumerate(self.layers):
            weight = gather(self.sources_of(k, feature, species), neighbours)  # (N, K, C)
            edge = parts[k] * weight
            moments = torch.cat([moments, torch.bmm(components, edge)], dim=2)
            share, feature, state = layer(moments, feature, central)
            energy = energy + share
            weights.append(weight)
            saved.append(state)
        if not with_gradients:
            return energy, energy[:0], feature, energy[:0]
        repulsion, repulsion_slope = self.prior.energy_and_slope(distance, parameters)
        if self.bounded:
            energy, steepness = self.level(energy)
            for state in saved:
                state[-1] = state[-1] * steepness.unsqueeze(1)
        if num_owned >= 0:
            owned = owned_rows(distance, num_owned).unsqueeze(1)
            repulsion_slope = repulsion_slope * owned
            for state in saved:
                state[-1] = state[-1] * owned
        component_slope, radial_slope = self.pull_back(
            components, parts, weights, saved, neighbours, species.shape[0]
        )
        distance_slope = (torch.matmul(radial_slope, radial.t()) * slopes).sum(-1) * bend
        scale = self.energy_scale_eV.to(distance.dtype)
        unit_slope = self.along_vectors(component_slope, unit) * (scale / distance).unsqueeze(1)
        along = torch.addcmul(repulsion_slope, distance_slope, scale)
        rest = along.unsqueeze(1) - (unit_slope * unit).sum(1, keepdim=True)
        gradients = torch.addcmul(unit_slope, rest, unit).transpose(1, 2).contiguous()  # (N, K, 3)
        return energy, gradients, feature, repulsion.sum(dim=1)

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
        distance = (vectors * vectors).sum(-1).sqrt()
        central = species[: vectors.shape[0]]
        parameters = self.prior.pair_parameters(neighbours, central, species)
        seen, _ = self.seen_distance(distance, parameters)
        radial = self.radial * self.amplitudes
        values, _ = self.radial_functions(seen, parameters)
        parts = torch.matmul(values, radial).split(self.channels, dim=-1)
        components = self.components((vectors / distance.unsqueeze(-1)).transpose(1, 2))
        feature = distance[:, :0]
        moments = components[:, :, :0]
        with torch.no_grad():
            for k, layer in enumerate(self.layers):
                edge = parts[k] * gather(self.sources_of(k, feature, species), neighbours)
                moments = torch.cat([moments, torch.bmm(components, edge)], dim=2)
                layer.scale_to(moments)
                feature = layer(moments, feature, central)[1]
