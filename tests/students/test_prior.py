import ase
import numpy as np
import pytest
import torch
from ase.data import atomic_numbers, covalent_radii

from compactff_md.students.prior import SWITCH_FRACTION, ZBLRepulsion, zbl_energy_eV
from compactff_md.units import COULOMB_EV_A

PAIRS = [("H", "H"), ("H", "O"), ("C", "C"), ("C", "O"), ("Si", "O"), ("Au", "Au"), ("H", "Rn")]


def textbook_zbl_eV(z_i: int, z_j: int, r_A: float) -> float:
    """Universal potential with the rounded constants most often printed (SRIM's manual), numpy alone."""
    a_A = 0.8854 * 0.529177 / (z_i**0.23 + z_j**0.23)
    x = r_A / a_A
    phi = 0.1818 * np.exp(-3.2 * x) + 0.5099 * np.exp(-0.9423 * x)
    phi += 0.2802 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.2016 * x)
    return 14.39964 * z_i * z_j / r_A * phi


def prior_and_pair(symbols: tuple[str, str]) -> tuple[ZBLRepulsion, torch.Tensor, float]:
    """The prior in float64, the species of the two atoms and the distance (A) where it ends."""
    numbers = sorted({atomic_numbers[symbol] for symbol in symbols})
    species = torch.tensor([numbers.index(atomic_numbers[symbol]) for symbol in symbols])
    end = SWITCH_FRACTION * sum(covalent_radii[atomic_numbers[symbol]] for symbol in symbols)
    return ZBLRepulsion(numbers).double(), species, float(end)


def pair_energies(symbols: tuple[str, str], distances_A: torch.Tensor) -> torch.Tensor:
    """What the prior gives each of two atoms at each distance, shape (D, 2)."""
    prior, species, _ = prior_and_pair(symbols)
    partner = torch.tensor([[1], [0]])
    direction = torch.tensor([[[0.36, 0.48, 0.8]], [[-0.36, -0.48, -0.8]]], dtype=torch.float64)
    return torch.stack([prior(r * direction, partner, species) for r in distances_A])


@pytest.mark.parametrize("symbols", PAIRS)
def test_the_unswitched_potential_is_that_of_the_literature(symbols):
    z_i, z_j = (atomic_numbers[symbol] for symbol in symbols)
    for r in (0.1, 0.3, 0.7, 1.2, 2.0):
        zbl = zbl_energy_eV(torch.tensor(z_i), torch.tensor(z_j), torch.tensor(r, dtype=torch.float64))
        assert float(zbl) == pytest.approx(textbook_zbl_eV(z_i, z_j, r), rel=1e-3)


def test_against_a_published_value():
    # Nine atoms, H to F, all pairs, no cutoff: 99.5888 kJ/mol with 1/(4 pi eps0) = 138.935 kJ/mol nm, from
    # the tests of openmm/mlipops, computed there with TorchMD-Net. That code uses the constants rounded as
    # in the textbook, which moves the sum by a few parts in 1e4.
    positions_nm = np.array(
        [
            [0.7713206433, 0.02075194936, 0.6336482349],
            [0.7488038825, 0.4985070123, 0.2247966455],
            [0.1980628648, 0.7605307122, 0.1691108366],
            [0.08833981417, 0.6853598184, 0.9533933462],
            [0.003948266328, 0.5121922634, 0.8126209617],
            [0.6125260668, 0.7217553174, 0.2918760682],
            [0.9177741225, 0.7145757834, 0.542544368],
            [0.1421700476, 0.3733407601, 0.6741336151],
            [0.4418331744, 0.4340139933, 0.6177669785],
        ]
    )
    i, j = np.triu_indices(9, k=1)
    distances = torch.from_numpy(10.0 * np.linalg.norm(positions_nm[i] - positions_nm[j], axis=1))
    energy = zbl_energy_eV(torch.from_numpy(i + 1.0), torch.from_numpy(j + 1.0), distances).sum()
    coulomb = COULOMB_EV_A / 10.0  # eV nm, as many of which as 138.935 kJ/mol nm
    assert float(energy) / coulomb * 138.935 == pytest.approx(99.5888, rel=1e-3)


@pytest.mark.parametrize("symbols", PAIRS)
def test_a_pair_has_the_potential_times_the_switch_shared_equally(symbols):
    _, _, end = prior_and_pair(symbols)
    z_i, z_j = (atomic_numbers[symbol] for symbol in symbols)
    distances = torch.tensor([0.15, 0.3, 0.5, 0.7, 0.95]) * end
    energies = pair_energies(symbols, distances.double())
    for r, pair in zip(distances.tolist(), energies.tolist(), strict=True):
        switch = (1.0 - (r / end) ** 2) ** 3
        assert sum(pair) == pytest.approx(textbook_zbl_eV(z_i, z_j, r) * switch, rel=2e-3)
        assert pair[0] == pytest.approx(pair[1], rel=1e-12)


@pytest.mark.parametrize("symbols", PAIRS)
def test_nothing_is_left_beyond_the_switch(symbols):
    _, _, end = prior_and_pair(symbols)
    assert bool(
        (
            pair_energies(symbols, torch.tensor([1.0 + 1e-6, 1.01, 1.5, 3.0, 1000.0]).double() * end) == 0.0
        ).all()
    )


@pytest.mark.parametrize("symbols", PAIRS)
def test_the_switch_is_twice_continuously_differentiable(symbols):
    """Energy, slope and curvature vanish towards r_s as the third, second and first power of what is left."""
    _, _, end = prior_and_pair(symbols)
    gap, h = 1e-3 * end, 1e-4 * end
    for left in (gap, gap / 2):
        around = end - left + h * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        minus, middle, plus = pair_energies(symbols, around).sum(dim=1).tolist()
        scale = textbook_zbl_eV(*(atomic_numbers[symbol] for symbol in symbols), end)
        assert abs(middle) < 20 * scale * (left / end) ** 3
        assert abs(plus - minus) / (2 * h) < 60 * scale / end * (left / end) ** 2
        assert abs(plus - 2 * middle + minus) / h**2 < 120 * scale / end**2 * (left / end)


@pytest.mark.parametrize("symbols", PAIRS)
def test_it_repels_everywhere_inside(symbols):
    _, _, end = prior_and_pair(symbols)
    energies = pair_energies(symbols, torch.linspace(0.05, 0.999, 200).double() * end).sum(dim=1)
    assert bool((energies[1:] < energies[:-1]).all())
    assert bool(torch.isfinite(energies).all())


@pytest.mark.parametrize("symbols", PAIRS)
def test_slope_and_gradients_are_those_of_autograd(symbols):
    prior, species, end = prior_and_pair(symbols)
    partner = torch.tensor([[1, 0], [0, 1]])
    vectors = torch.randn(2, 2, 3, dtype=torch.float64)
    lengths = torch.tensor([[0.3, 0.8], [0.6, 1.4]], dtype=torch.float64) * end
    vectors = (vectors * (lengths / vectors.norm(dim=-1)).unsqueeze(-1)).requires_grad_(True)
    (expected,) = torch.autograd.grad(prior(vectors, partner, species).sum(), vectors)
    distance = vectors.detach().norm(dim=-1)
    energies, slopes = prior.energy_and_slope(distance, prior.pair_parameters(partner, species, species))
    torch.testing.assert_close((slopes / distance).unsqueeze(-1) * vectors.detach(), expected)
    torch.testing.assert_close(energies.sum(1), prior(vectors, partner, species).detach())


def test_ordinary_molecules_do_not_feel_it():
    # Shortest bonds that molecular dynamics at 1000 K visits, 11-17% below equilibrium.
    for symbols, shortest_A in ((("C", "C"), 1.15), (("C", "H"), 0.9), (("O", "H"), 0.8), (("C", "O"), 1.07)):
        assert bool((pair_energies(symbols, torch.tensor([shortest_A]).double()) == 0.0).all()), symbols


def test_float32_keeps_six_digits():
    prior, species, end = prior_and_pair(("C", "O"))
    vectors = torch.tensor([[[0.4, 0.2, 0.3]], [[-0.4, -0.2, -0.3]]], dtype=torch.float64) * end
    partner = torch.tensor([[1], [0]])
    single = ZBLRepulsion([6, 8])(vectors.float(), partner, species)
    torch.testing.assert_close(single.double(), prior(vectors, partner, species), rtol=1e-5, atol=0)


def test_every_pair_of_elements_up_to_radon():
    prior = ZBLRepulsion(list(range(1, 87))).double()
    species = torch.arange(86).repeat_interleave(86), torch.arange(86).repeat(86)
    both = torch.cat(species)
    count = 86 * 86
    partner = torch.cat([torch.arange(count) + count, torch.arange(count)]).unsqueeze(1)
    vectors = torch.zeros(2 * count, 1, 3, dtype=torch.float64)
    vectors[:, 0, 0] = 0.3
    energies = prior(vectors, partner, both)
    assert bool((energies > 0).all())
    assert bool(torch.isfinite(energies).all())
    assert ase.data.atomic_numbers["Rn"] == 86
