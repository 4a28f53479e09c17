"""Every architecture at every size, structures for them, and what is asked of them."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import PERIODIC, SMALL, TRICLINIC, random_structure
from compactff_md.gradients import predict
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import SIZES, VARIANTS, StudentNetwork, create, rebuild

ELEMENTS = ["H", "C", "O"]


def _distinct() -> dict[str, tuple[str, str]]:
    """Every variant at every size, those left out that are another under a second name."""
    known: dict[str, tuple[str, str]] = {}
    for variant in VARIANTS:
        for size in SIZES:
            network = create(size, ELEMENTS, architecture=variant)
            key = json.dumps([network.architecture, network.hyperparameters], sort_keys=True)
            known.setdefault(key, (variant, size))
    return {f"{variant}-{size}": (variant, size) for variant, size in known.values()}


CASES = _distinct()


def doubled(network: StudentNetwork) -> StudentNetwork:
    twin = rebuild(network.architecture, network.hyperparameters, network.elements, network.cutoff_A)
    twin.load_state_dict(network.state_dict())
    return twin.double().eval()


def species_of(network: StudentNetwork, structure: Structure) -> Tensor:
    return network.species_of(torch.from_numpy(structure.numbers))


def evaluate(network: StudentNetwork, structure: Structure) -> tuple[Tensor, Tensor, Tensor]:
    table = neighbour_table(structure, network.cutoff_A)
    return predict(network, torch.from_numpy(structure.positions_A), table, species_of(network, structure))


def moved(structure: Structure, positions_A: np.ndarray, cell_A: np.ndarray | None = None) -> Structure:
    cell = structure.cell_A if cell_A is None else cell_A
    return Structure(positions_A, structure.numbers, cell, structure.pbc)


MOLECULE = random_structure(11, ELEMENTS, 12)
CRYSTAL = random_structure(12, ELEMENTS, 10, cell_A=TRICLINIC, pbc=PERIODIC)
TINY_CELL = random_structure(13, ELEMENTS, 3, cell_A=SMALL, pbc=PERIODIC)
SLAB = random_structure(14, ELEMENTS, 9, cell_A=TRICLINIC, pbc=(True, True, False))
STRUCTURES = {"molecule": MOLECULE, "crystal": CRYSTAL, "tiny cell": TINY_CELL, "slab": SLAB}
every_structure = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)


def biting(network, structure):
    """A copy beyond whose bounds are two thirds of a structure's atoms, and its raw energies."""
    bounded = copy.deepcopy(network)
    table = neighbour_table(structure, network.cutoff_A)
    vectors = table.vectors(torch.from_numpy(structure.positions_A))
    raw = network.network_energies(vectors, table.neighbours, species_of(network, structure)).detach()
    lowest, highest = (float(q) for q in torch.quantile(raw, torch.tensor([1 / 3, 2 / 3]).double()))
    bounded.bound_energies(lowest, highest, 2.0 * float(raw.max() - raw.min()))
    return bounded, raw
