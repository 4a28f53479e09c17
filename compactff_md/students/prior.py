"""Screened nuclear repulsion inside covalent distances, where no training data reaches."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from compactff_md.units import BOHR_TO_A, COULOMB_EV_A

# Ziegler, Biersack, Littmark, "The Stopping and Range of Ions in Solids" (1985).
ZBL_COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
ZBL_EXPONENTS = (3.1998, 0.94229, 0.4029, 0.20162)
ZBL_LENGTH_BOHR = 0.88534
ZBL_POWER = 0.23
# The repulsion ends at this fraction of the sum of covalent radii (Cordero et al. 2008, as in ASE):
# C-C 1.14 A, C-H 0.80 A, O-H 0.73 A, all shorter than what MD at 1000 K visits.
SWITCH_FRACTION = 0.75


def zbl_energy_eV(z_i: Tensor, z_j: Tensor, distance_A: Tensor) -> Tensor:
    """Universal ZBL potential of a pair without the switch, in eV; shapes broadcast."""
    length = ZBL_LENGTH_BOHR * BOHR_TO_A / (z_i**ZBL_POWER + z_j**ZBL_POWER)
    exponents = torch.tensor(ZBL_EXPONENTS, dtype=distance_A.dtype)
    coefficients = torch.tensor(ZBL_COEFFICIENTS, dtype=distance_A.dtype)
    screening = (coefficients * torch.exp(-exponents * (distance_A / length).unsqueeze(-1))).sum(-1)
    return COULOMB_EV_A * z_i * z_j / distance_A * screening


class ZBLRepulsion(nn.Module):
    """ZBL times ``(1 - (r/r_s)^2)^3``, r_s = 0.75 times the sum of covalent radii; nothing is learned.

    The switch and its first two derivatives vanish at r_s. Half of a pair's energy goes to each atom.
    """

    def __init__(self, numbers: list[int]) -> None:
        super().__init__()
        z = torch.tensor(numbers, dtype=torch.float64)
        radii = torch.tensor([covalent_radii[n] for n in numbers], dtype=torch.float64)
        inverse_length = (z**ZBL_POWER + z[:, None] ** ZBL_POWER) / (ZBL_LENGTH_BOHR * BOHR_TO_A)  # (S, S)
        exponents = inverse_length.unsqueeze(-1) * torch.tensor(ZBL_EXPONENTS, dtype=torch.float64)
        strength = 0.5 * COULOMB_EV_A * z * z[:, None]
        amplitudes = strength.unsqueeze(-1) * torch.tensor(ZBL_COEFFICIENTS, dtype=torch.float64)
        reach = SWITCH_FRACTION * (radii + radii[:, None])
        # One column a pair of species: four exponents, four amplitudes, 1 / r_s, r_s; in float32 or 64.
        ends = torch.stack([reach.reciprocal(), reach], dim=-1)
        table = torch.cat([-exponents, amplitudes, ends], dim=-1)  # (S, S, 10)
        self.num_species = len(numbers)
        self.one: Tensor
        self.table: Tensor
        self.register_buffer("one", torch.ones(()), persistent=False)
        self.register_buffer(
            "table", table.flatten(0, 1).t().contiguous().float(), persistent=False
        )  # (10, S * S)

    def pair_parameters(self, neighbours: Tensor, central: Tensor, species: Tensor) -> Tensor:
        """Columns of the table for every pair, shape (10, N, K); constant while the neighbours are.

        ``central`` are the species (N,) of the atoms whose neighbours these are, ``species`` those of all.
        """
        pair = central.unsqueeze(1) * self.num_species + species[neighbours]
        return self.table.index_select(1, pair.flatten()).unflatten(1, pair.shape)

    def energy_and_slope(self, distance_A: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Half pair energies and their derivatives by distance, both of shape (N, K), in eV and eV/A."""
        exponents, amplitudes, inverse_reach, _ = parameters.split([4, 4, 1, 1])
        inverse_reach = inverse_reach.squeeze(0)
        screened = torch.exp(exponents * distance_A) * amplitudes  # (4, N, K)
        inverse = distance_A.reciprocal()
        scaled = distance_A * inverse_reach
        switch = torch.clamp(torch.addcmul(self.one, scaled, scaled, value=-1.0), min=0.0)
        screening = screened.sum(0) * inverse
        decay = (screened * exponents).sum(0) * inverse
        square = switch * switch
        energy = screening * square * switch
        inner = switch * (decay - screening * inverse)
        slope = square * torch.addcmul(inner, screening * scaled, inverse_reach, value=-6.0)
        return energy, slope

    def forward(self, vectors: Tensor, neighbours: Tensor, species: Tensor) -> Tensor:
        """Energy of each atom in eV, shape (N,); arguments as in ``StudentNetwork.forward``."""
        distance = torch.linalg.vector_norm(vectors, dim=-1)  # (N, K)
        energy, _ = self.energy_and_slope(
            distance, self.pair_parameters(neighbours, species[: vectors.shape[0]], species)
        )
        return energy.sum(dim=1)
