"""Students over two ranks, each knowing its own atoms: the sums must be those of one process."""

import numpy as np
import pytest
import torch
from torch import nn

from builders import PERIODIC, TRICLINIC, random_structure
from compactff_md.neighbours import neighbour_table
from compactff_md.students import SIZES, VARIANTS, create, rebuild

ELEMENTS = ["H", "C", "O"]
STRUCTURE = random_structure(3, ELEMENTS, 14, cell_A=TRICLINIC, pbc=PERIODIC)


class Ranks:
    """Rows of all ranks, exchanged by rerunning every rank until what it needs is there.

    A halo that stops a rank at an exchange whose answer is missing; the ranks are run again and again,
    each one exchange farther than before, as if they waited for one another.
    """

    def __init__(self, owners: list[torch.Tensor]) -> None:
        self.owners = owners
        self.sent: list[list[torch.Tensor]] = [[] for _ in owners]

    def everyone_has(self, index: int) -> bool:
        return all(len(sent) > index for sent in self.sent)


class Waiting(Exception):  # noqa: N818
    """A rank has to wait for the others."""


class RankHalo(nn.Module):
    """Halo of one rank whose local order is its own atoms, then all others in the order of their index."""

    def __init__(self, ranks: Ranks, rank: int, order: torch.Tensor) -> None:
        super().__init__()
        self.ranks, self.rank, self.order = ranks, rank, order
        self.calls = 0

    def _swap(self, rows: torch.Tensor) -> list[torch.Tensor]:
        sent = self.ranks.sent[self.rank]
        if len(sent) == self.calls:
            sent.append(rows.detach().clone())
        index, self.calls = self.calls, self.calls + 1
        if not self.ranks.everyone_has(index):
            raise Waiting
        return [s[index] for s in self.ranks.sent]

    def forward(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        whole = torch.zeros(count, rows.shape[1], dtype=rows.dtype)
        for owned, sent in zip(self.ranks.owners, self._swap(rows), strict=True):
            whole[owned] = sent
        return whole[self.order]

    def fold(self, rows: torch.Tensor) -> torch.Tensor:
        whole = torch.zeros_like(rows)
        whole[self.order] = rows  # by the index of the whole system
        return sum(self._swap(whole))[self.ranks.owners[self.rank]]


def run_ranks(network, vectors, neighbours, species, owners):
    """Energies and gradients of the whole system, each rank having computed its own rows."""
    count = len(species)
    ranks = Ranks(owners)
    parts: list = [None] * len(owners)
    for _ in range(50):
        for rank, owned in enumerate(owners):
            others = torch.tensor(
                [i for i in range(count) if i not in set(owned.tolist())], dtype=torch.int64
            )
            order = torch.cat([owned, others])
            place = torch.argsort(order)
            network.halo = RankHalo(ranks, rank, order)
            try:
                parts[rank] = network.energies_and_gradients(
                    vectors[owned], place[neighbours[owned]], species[order]
                )
            except Waiting:
                continue
        if all(part is not None for part in parts):
            break
    energies, gradients = torch.zeros(count, dtype=torch.float64), torch.zeros_like(vectors)
    for owned, part in zip(owners, parts, strict=True):
        energies[owned], gradients[owned] = part
    return energies, gradients, [len(sent) for sent in ranks.sent]


@pytest.fixture(params=[f"{v}-{s}" for v in VARIANTS for s in SIZES])
def network(request):
    size = next(s for s in ("ultra-tiny", "tiny", "original") if request.param.endswith(f"-{s}"))
    return create(size, ELEMENTS, architecture=request.param.removesuffix(f"-{size}"), seed=2).double().eval()


@pytest.fixture
def case(network):
    table = neighbour_table(STRUCTURE, network.cutoff_A)
    vectors = table.vectors(torch.from_numpy(STRUCTURE.positions_A))
    species = network.species_of(torch.from_numpy(STRUCTURE.numbers))
    network.initialise_from_data(vectors, table.neighbours, species)
    return vectors, table.neighbours, species


@pytest.mark.parametrize("split", [(7, 7), (13, 1), (14, 0), (4, 5, 5)], ids=str)
def test_ranks_together_say_what_one_process_says(network, case, split):
    expected = network.energies_and_gradients(*case)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(14))
    energies, gradients, calls = run_ranks(network, *case, owners=list(shuffled.split(list(split))))
    assert torch.allclose(energies, expected[0], rtol=0, atol=1e-10)
    assert torch.allclose(gradients, expected[1], rtol=0, atol=1e-10)
    assert len(set(calls)) == 1  # also a rank without atoms takes part in every exchange


def test_only_owned_rows_count(network, case):
    vectors, neighbours, species = case
    leaf = vectors.clone().requires_grad_(True)
    every = network(leaf, neighbours, species)
    (gradient,) = torch.autograd.grad(every[:5].sum(), leaf)
    energies, gradients = network.energies_and_gradients(*case, num_owned=5)
    assert torch.allclose(energies[:5], every[:5].detach(), rtol=0, atol=1e-10)
    assert energies[5:].eq(0).all()
    assert torch.allclose(gradients, gradient, rtol=0, atol=1e-9)
    if network.num_interactions > 1:
        assert gradients[5:].abs().max() > 0


def test_the_halo_is_no_part_of_what_is_saved(network):
    assert not any("halo" in name for name in network.state_dict())
    twin = rebuild(network.architecture, network.hyperparameters, network.elements, network.cutoff_A)
    twin.load_state_dict(network.state_dict())
