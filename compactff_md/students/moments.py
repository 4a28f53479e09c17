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
from torch.nn.functional import pad

from compactff_md.errors import CompactFFError
from compactff_md.students.base import StudentNetwork, gather, owned_rows
from compactff_md.students.directions import Directions
from compactff_md.students.moment_layer import MomentLayer, MomentsConfig, OffDiagonal
from compactff_md.students.prior import SWITCH_FRACTION

ALIGNED_A = 1.5  # where bonds of all pairs of elements lie: those of carbon stay where they are


class MomentsStudent(StudentNetwork):
    """Strictly local with one interaction; two cutoffs wide with two."""

    architecture = "moments"
    needs_autograd = False

    def __init__(self, elements: list[str], cutoff_A: float, config: MomentsConfig) -> None:
        super().__init__(elements, cutoff_A, vars(config))
        if not 0 <= config.directed <= config.channels or (config.core and config.floor >= config.core):
            raise CompactFFError(
                f"directed is {config.directed}, floor {config.floor}; expected at most the "
                f"{config.channels} channels, and a floor below the core of {config.core}"
            )
        self.num_interactions = config.interactions
        # The core's radius over r_s of the prior; without a core, as good as nothing.
        self.core = 0.01 * config.core / SWITCH_FRACTION if config.core else 1e-6
        self.floor = 0.01 * config.floor / SWITCH_FRACTION if config.core else 0.0
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
        self.directed = config.directed if config.interactions > 1 else 0
        self.groups = config.channels // self.directed if self.directed else 0
        # One an interaction; the first has nothing to send.
        sent = [self.directed if k else 0 for k in range(config.interactions)]
        self.directions = nn.ModuleList(
            [Directions(k * config.channels, hidden, directed) for k, directed in enumerate(sent)]
        )
        layers = [MomentLayer(config, species, k) for k in range(config.interactions)]
        self.layers = nn.ModuleList(layers)

    def seen_distance(self, distance: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Bend distances (N, K) inside the core, r_c; return them and the slope.

        With a floor at r_f the slope is ``t^3 (10 - 15 t + 6 t^2)`` of ``t = (d - r_f) / (r_c - r_f)``, zero
        inside r_f and one beyond r_c: what is seen ends halfway between the two, where there still are data.
        Without one the seen distance is ``d + 0.58 r_c (1 - d^2/r_c^2)^3``, and with more than 0.58 it would
        not be monotonic. ``parameters`` are those of the prior.
        """
        # addcmul here and elsewhere: fewer operations, and none with a number, which becomes a tensor first.
        _, inverse, reach = parameters.split([8, 1, 1])
        if self.floor > 0.0:
            width = self.core - self.floor
            scaled = distance / reach.squeeze(0)  # `inverse` is rounded on its own, to float32
            t = torch.clamp((scaled - self.floor) / width, min=0.0, max=1.0)
            square = t * t
            slope = square * t * (10.0 - 15.0 * t + 6.0 * square)
            lift = width * (0.5 - t + square * square * (2.5 - 3.0 * t + square))
            lift = lift + torch.clamp(self.floor - scaled, min=0.0)
            return torch.addcmul(distance, lift, reach.squeeze(0)), slope
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

    def told_by(self, k: int, feature: Tensor, sent: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """What each atom tells its neighbours in interaction k: how much it counts, (M, C), and directions.

        These are the rows ``sent`` (N, 9 D or 0), brought to all who have the atom as a neighbour, (M, 9 D).
        """
        codes = self.codes[k].index_select(0, species)  # (M, C)
        if k == 0:
            return codes, sent
        own = torch.mm(feature, self.sources[k - 1])  # (N, C)
        width = sent.shape[1]
        if width > 0:
            own = torch.cat([own, sent], dim=1)
        scalars, directed = self.exchange(own, species.shape[0]).split([self.channels, width], dim=1)
        return codes + scalars, directed

    def moments_of(
        self, components: Tensor, part: Tensor, scalars: Tensor, sent: Tensor, neighbours: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moments (N, 10, C), and what was heard: weights (N, K, C) and directions (N, K, 9 D).

        Each of the first G = C // D radial parts takes each of the D channels of a direction along.
        """
        weight = gather(scalars, neighbours)
        moments = torch.bmm(components, part * weight)
        if sent.shape[1] == 0:
            return moments, weight, weight[:, :, :0]
        pointer = gather(sent, neighbours)
        radial = part.split([self.groups, self.channels - self.groups], dim=2)[0]
        carried = torch.bmm(radial.transpose(1, 2), pointer).unflatten(2, (9, self.directed))  # (N, G, 9, D)
        unused = self.channels - self.groups * self.directed
        return moments + pad(carried.transpose(1, 2).flatten(2), [0, unused, 1, 0]), weight, pointer

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
        pointers: list[Tensor] = []
        directions: list[list[Tensor]] = []
        feature = distance[:, :0]
        energy = torch.zeros_like(distance[:, 0])
        moments = components[:, :, :0]  # (N, 10, 0): of all interactions so far
        for k, (layer, direction) in enumerate(zip(self.layers, self.directions)):  # noqa: B905
            sent = feature[:, :0]
            if k > 0 and self.directed > 0:
                directed, told = direction(moments, feature)
                sent = directed.flatten(1)
                directions.append(told)
            scalars, sent = self.told_by(k, feature, sent, species)
            fresh, weight, pointer = self.moments_of(components, parts[k], scalars, sent, neighbours)
            moments = torch.cat([moments, fresh], dim=2)
            share, feature, state = layer(moments, feature, central)
            energy = energy + share
            weights.append(weight)
            pointers.append(pointer)
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
            components, parts, weights, pointers, directions, saved, neighbours, species.shape[0]
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
        pointers: list[Tensor],
        directions: list[list[Tensor]],
        saved: list[list[Tensor]],
        neighbours: Tensor,
        num_atoms: int,
    ) -> tuple[Tensor, Tensor]:
        """Derivative by the components (N, 10, K) and by the radial functions (N, K, C * T)."""
        component_slopes: list[Tensor] = []
        radial_slopes: list[Tensor] = []
        feature_slope = torch.zeros_like(saved[-1][3])  # (N, H)
        later = torch.zeros_like(components[:, :1, :1])  # what later interactions add for the moments before
        for layer, direction in zip(self.layers[::-1], self.directions[::-1]):  # noqa: B905
            k = len(saved) - 1
            weight, pointer, part = weights.pop(), pointers.pop(), parts[k]
            all_slope, feature_slope = layer.trace_back(saved.pop(), feature_slope)
            later, moment_slope = (all_slope + later).split([k * self.channels, self.channels], dim=2)
            edge_slope = torch.bmm(components.transpose(1, 2), moment_slope)  # (N, K, C)
            component_slopes.append(torch.bmm(moment_slope, (part * weight).transpose(1, 2)))
            radial_slope = edge_slope * weight
            if k > 0:
                collected = self.collected(edge_slope * part, neighbours, num_atoms)
                if self.directed > 0:
                    drawn, shares = self.carried_back(pointer, part, moment_slope)
                    radial_slope = radial_slope + drawn
                    collected = torch.cat([collected, self.collected(shares, neighbours, num_atoms)], dim=1)
                    folded = self.halo.fold(collected)  # (N, C + 9 D)
                    width = folded.shape[1] - self.channels
                    source_slope, sent_slope = folded.split([self.channels, width], dim=1)
                    sent_slope = sent_slope.unflatten(1, (-1, self.directed))
                    by_moments, by_features = direction.trace_back(sent_slope, directions.pop())
                    later, feature_slope = later + by_moments, feature_slope + by_features
                else:
                    source_slope = self.halo.fold(collected)  # (N, C)
                feature_slope = feature_slope + torch.mm(source_slope, self.sources[k - 1].t())
            radial_slopes.insert(0, radial_slope)
        component_slope = component_slopes[0]
        for slope in component_slopes[1:]:
            component_slope = component_slope + slope
        return component_slope, torch.cat(radial_slopes, dim=-1)

    def collected(self, shares: Tensor, neighbours: Tensor, num_atoms: int) -> Tensor:
        """Sum what edges (N, K, F) say of their neighbours, (num_atoms, F)."""
        shares = shares.flatten(0, 1)
        return shares.new_zeros((num_atoms, shares.shape[1])).index_add(0, neighbours.flatten(), shares)

    def carried_back(self, pointer: Tensor, part: Tensor, moment_slope: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative by moments (N, 10, C) -> by radial parts (N, K, C) and directions (N, K, 9 D)."""
        used = self.groups * self.directed
        slope = moment_slope.split([1, 9], dim=1)[1].split([used, self.channels - used], dim=2)[0]
        slope = slope.unflatten(2, (self.groups, self.directed)).transpose(1, 2).flatten(2)  # (N, G, 9 D)
        radial = part.split([self.groups, self.channels - self.groups], dim=2)[0]
        by_part = torch.bmm(pointer, slope.transpose(1, 2))  # (N, K, G)
        return pad(by_part, [0, self.channels - self.groups]), torch.bmm(radial, slope)

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
    @torch.no_grad()
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
        for k, (layer, direction) in enumerate(zip(self.layers, self.directions)):  # noqa: B905
            sent = feature[:, :0]
            if k > 0 and self.directed > 0:
                direction.scale_to(moments)
                sent = direction(moments, feature)[0].flatten(1)
            scalars, sent = self.told_by(k, feature, sent, species)
            fresh = self.moments_of(components, parts[k], scalars, sent, neighbours)[0]
            moments = torch.cat([moments, fresh], dim=2)
            layer.scale_to(moments)
            feature = layer(moments, feature, central)[1]
