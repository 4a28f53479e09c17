"""Every architecture at every size holds the same promises."""

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from torch import Tensor

from builders import rotation
from compactff_md.errors import CompactFFError
from compactff_md.gradients import forces_from_edges
from compactff_md.neighbours import PADDING_A, neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import BUDGETS, SIZES, StudentNetwork, create
from student_builders import (
    CRYSTAL,
    MOLECULE,
    TINY_CELL,
    doubled,
    evaluate,
    every_structure,
    moved,
    species_of,
)


class TestEnergies:
    @every_structure
    def test_they_are_of_atoms_finite_and_in_float64(self, trained, structure):
        energies, forces, virial = evaluate(trained, structure)
        assert energies.shape == (len(structure),)
        assert energies.dtype == torch.float64
        assert forces.shape == (len(structure), 3)
        assert virial.shape == (3, 3)
        assert all(bool(torch.isfinite(x).all()) for x in (energies, forces, virial))

    def test_two_far_copies_have_twice_the_energy(self, student):
        positions = np.vstack([MOLECULE.positions_A, MOLECULE.positions_A + [0.0, 60.0, 0.0]])
        two = Structure(positions, np.tile(MOLECULE.numbers, 2))
        once, twice = evaluate(student, MOLECULE), evaluate(student, two)
        torch.testing.assert_close(twice[0], once[0].repeat(2), rtol=0, atol=1e-9)
        torch.testing.assert_close(twice[1], once[1].repeat(2, 1), rtol=0, atol=1e-9)
        torch.testing.assert_close(twice[2], 2 * once[2], rtol=1e-9, atol=1e-9)

    def test_a_supercell_repeats_the_cell(self, student):
        double_cell = np.diag([2.0, 1.0, 1.0]) @ TINY_CELL.cell_A
        positions = np.vstack([TINY_CELL.positions_A, TINY_CELL.positions_A + TINY_CELL.cell_A[0]])
        double = Structure(positions, np.tile(TINY_CELL.numbers, 2), double_cell, TINY_CELL.pbc)
        once, twice = evaluate(student, TINY_CELL), evaluate(student, double)
        torch.testing.assert_close(twice[0], once[0].repeat(2), rtol=0, atol=1e-8)
        torch.testing.assert_close(twice[1], once[1].repeat(2, 1), rtol=1e-9, atol=1e-8)

    def test_isolated_atoms_have_their_shift_and_a_constant(self, student):
        apart = Structure(np.arange(9).reshape(-1, 1) * [40.0, 0.0, 0.0], [1, 6, 8] * 3)
        energies, forces, virial = evaluate(student, apart)
        torch.testing.assert_close(energies, energies[:3].repeat(3), rtol=0, atol=1e-12)
        assert bool((forces == 0.0).all())
        assert bool((virial == 0.0).all())
        learned = (energies[:3] - student.energy_shift_eV) / student.energy_scale_eV
        torch.testing.assert_close(learned, student.isolated_energies(), rtol=1e-9, atol=1e-9)
        assert float(learned.abs().max()) < 1000.0

    def test_an_anchored_student_gives_isolated_atoms_their_own_energies(self, trained):
        twin = doubled(trained)
        twin.anchored = True
        twin.eval()
        apart = Structure(np.eye(3) * 40.0, [1, 6, 8])
        torch.testing.assert_close(evaluate(twin, apart)[0], twin.energy_shift_eV, rtol=0, atol=1e-9)

    def test_an_unknown_element_is_named(self, trained):
        with pytest.raises(CompactFFError, match="does not know N, Pt; it knows H, C, O"):
            trained.species_of(torch.tensor([1, 78, 6, 7]))

    @pytest.mark.parametrize("size", SIZES)
    def test_any_set_of_elements_up_to_radon(self, size):
        network = create(size, chemical_symbols[1:87]).eval()
        assert network.num_parameters <= BUDGETS[size]
        line = Structure(np.arange(86).reshape(-1, 1) * [1.7, 0.4, 0.0], np.arange(1, 87))
        energies, forces, _ = evaluate(network, line)
        assert bool(torch.isfinite(energies).all())
        assert bool(torch.isfinite(forces).all())


class TestSymmetry:
    @every_structure
    @pytest.mark.parametrize("kind", ["rotation", "reflection", "inversion"])
    def test_rotations_and_reflections(self, student, structure, kind):
        mirror = rotation(5) @ np.diag([1.0, -1.0, 1.0])
        q = {"rotation": rotation(4), "reflection": mirror, "inversion": -np.eye(3)}[kind]
        cell = structure.cell_A @ q
        if kind != "rotation" and structure.pbc.all():
            cell = -cell  # the same lattice, right-handed
        energies, forces, virial = evaluate(student, structure)
        turned = evaluate(student, moved(structure, structure.positions_A @ q, cell))
        turn = torch.from_numpy(q)
        same(turned, (energies, forces @ turn, turn.T @ virial @ turn))

    @every_structure
    def test_translations(self, student, structure):
        shifted = moved(structure, structure.positions_A + [13.7, -4.2, 0.9])
        same(evaluate(student, shifted), evaluate(student, structure))

    @every_structure
    def test_permutations(self, student, structure):
        order = np.random.default_rng(3).permutation(len(structure))
        energies, forces, virial = evaluate(student, structure)
        mixed = Structure(
            structure.positions_A[order], structure.numbers[order], structure.cell_A, structure.pbc
        )
        same(evaluate(student, mixed), (energies[order], forces[order], virial))

    def test_wrapping_changes_nothing(self, student):
        shifts = np.random.default_rng(6).integers(-3, 4, size=(len(CRYSTAL), 3))
        unwrapped = moved(CRYSTAL, CRYSTAL.positions_A + shifts @ CRYSTAL.cell_A)
        same(evaluate(student, unwrapped), evaluate(student, CRYSTAL))

    def test_a_mirror_image_is_another_structure_with_the_same_energy(self, student):
        """Four-body chirality must cancel: invariants are even under reflection."""
        hand = Structure([[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0.2, 0.3, 1.3]], [6, 1, 8, 6])
        mirror = moved(hand, hand.positions_A * [1, 1, -1])
        torch.testing.assert_close(
            evaluate(student, hand)[0], evaluate(student, mirror)[0], rtol=0, atol=1e-9
        )


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    """Energies, forces and virial equal to rounding, relative to the largest: tiny cells have large ones."""
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(1.0, float(b.abs().max())))


class TestDerivatives:
    def test_forces_are_finite_differences(self, student):
        _, forces, _ = evaluate(student, MOLECULE)
        table = neighbour_table(MOLECULE, student.cutoff_A + 0.1)
        positions, species = torch.from_numpy(MOLECULE.positions_A), species_of(student, MOLECULE)
        h = 1e-4
        for atom, axis in np.ndindex(len(MOLECULE), 3):
            step = torch.zeros_like(positions)
            step[atom, axis] = h
            moved = [table.vectors(positions + s) for s in (step, -step)]
            plus, minus = (float(student(v, table.neighbours, species).sum().detach()) for v in moved)
            assert float(forces[atom, axis]) == pytest.approx(-(plus - minus) / (2 * h), abs=2e-5)

    @pytest.mark.parametrize("structure", [CRYSTAL, TINY_CELL], ids=["crystal", "tiny cell"])
    def test_the_virial_is_a_finite_difference(self, student, structure):
        _, _, virial = evaluate(student, structure)
        h = 1e-5
        for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)):
            strain = np.zeros((3, 3))
            strain[a, b] = h
            plus, minus = (
                evaluate(student, moved(structure, structure.positions_A @ s, structure.cell_A @ s))[0].sum()
                for s in (np.eye(3) + strain, np.eye(3) - strain)
            )
            assert float(virial[a, b]) == pytest.approx(float(plus - minus) / (2 * h), rel=1e-5, abs=1e-3)

    @every_structure
    def test_gradients_by_vectors_are_those_of_autograd(self, student, structure):
        table = neighbour_table(structure, student.cutoff_A)
        vectors = table.vectors(torch.from_numpy(structure.positions_A)).requires_grad_(True)
        species = species_of(student, structure)
        expected = student(vectors, table.neighbours, species)
        (slope,) = torch.autograd.grad(expected.sum(), vectors)
        energies, gradients = student.energies_and_gradients(vectors.detach(), table.neighbours, species)
        torch.testing.assert_close(energies, expected.detach(), rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(
            gradients, slope, rtol=1e-9, atol=1e-9 * max(1.0, float(slope.abs().max()))
        )

    def test_training_differentiates_forces_by_the_weights(self, trained):
        network = doubled(trained).train()
        table = neighbour_table(MOLECULE, network.cutoff_A)
        vectors = table.vectors(torch.from_numpy(MOLECULE.positions_A))
        species = species_of(network, MOLECULE)
        target = torch.from_numpy(np.random.default_rng(0).normal(size=(len(MOLECULE), 3)))
        weights = list(network.parameters())

        def loss(energies: Tensor, gradients: Tensor) -> Tensor:
            forces = forces_from_edges(gradients, table.neighbours)
            return ((forces - target) ** 2).mean() + 1e-3 * energies.sum()

        found = loss(*network.energies_and_gradients(vectors, table.neighbours, species))
        leaf = vectors.clone().requires_grad_(True)
        energies = network(leaf, table.neighbours, species)
        (slope,) = torch.autograd.grad(energies.sum(), leaf, create_graph=True)
        expected = loss(energies, slope)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        got = torch.autograd.grad(found, weights, allow_unused=True)
        wanted = torch.autograd.grad(expected, weights, allow_unused=True)
        for g, w in zip(got, wanted, strict=True):
            assert (g is None) == (w is None)
            if g is not None:
                torch.testing.assert_close(g, w, rtol=1e-7, atol=1e-8 * max(1.0, float(w.abs().max())))


class TestSmoothness:
    """A neighbour is moved through the cutoff of atom 0; all its other distances stay clear of it."""

    numbers = (6, 1, 8, 1, 6)

    def energy_and_force(self, student: StudentNetwork, beyond_A: float) -> tuple[float, float]:
        """What listing the pair (0, 4) adds to the network's energy, and to the force along the way."""
        fixed = [[0.0, 0.0, 0.0], [1.2, 0.5, 0.1], [2.4, -0.4, 0.3], [-1.1, 0.3, 0.2]]
        positions = torch.tensor([*fixed, [student.cutoff_A + beyond_A, 0.0, 0.0]], dtype=torch.float64)
        neighbours = torch.tensor([[j for j in range(5) if j != i] for i in range(5)])
        vectors = positions[neighbours] - positions.unsqueeze(1)
        without = vectors.clone()
        without[0, 3] = without[4, 0] = torch.tensor([PADDING_A, 0.0, 0.0])
        species = student.species_of(torch.tensor(self.numbers))
        energy, force = 0.0, 0.0
        for sign, table in ((1, vectors), (-1, without)):
            energy += sign * float(student.network_energies(table, neighbours, species).sum().detach())
            _, gradients = student.energies_and_gradients(table, neighbours, species)
            force += sign * float(forces_from_edges(gradients.detach(), neighbours)[4, 0])
        return energy, force

    def with_slope(self, student: StudentNetwork, beyond_A: float) -> tuple[float, float, float]:
        """The same with the force's own derivative."""
        h = 1e-5
        plus, minus = (self.energy_and_force(student, beyond_A + s)[1] for s in (h, -h))
        return *self.energy_and_force(student, beyond_A), (plus - minus) / (2 * h)

    def test_a_pair_beyond_the_cutoff_counts_nothing(self, student):
        for beyond in (1e-9, 1e-3, 0.3, 1.0):
            assert self.energy_and_force(student, beyond) == (0.0, 0.0)

    def test_energy_force_and_its_slope_vanish_at_the_cutoff(self, student):
        near, far = self.with_slope(student, -0.01), self.with_slope(student, -0.02)
        for order, a, b in zip((3, 2, 1), near, far, strict=True):
            assert b != 0.0, "the pair inside the cutoff must count, or this shows nothing"
            assert abs(a) < abs(b) / 2 ** (order - 0.4), (
                f"vanishes slower than the power {order} of the distance"
            )

    def test_it_is_smooth_where_a_neighbour_passes_straight_ahead(self, student):
        """Along an axis and through lines, where badly made angular functions have kinks."""
        forces = []
        for x in np.linspace(-2e-3, 2e-3, 9):
            structure = Structure([[0, 0, 0], [0, 0, 1.1], [1.2, 0, 0], [x, 0, -1.3]], [6, 1, 8, 1])
            forces.append(evaluate(student, structure)[1][3].numpy())
        bends = np.diff(forces, n=2, axis=0)
        assert np.abs(bends).max() < 1e-3 * max(1.0, np.abs(forces).max())


class TestReach:
    def test_influence_ends_at_the_receptive_field(self, student):
        """A chain of atoms 0.7 cutoffs apart: as many links as there are interactions carry influence."""
        chain = np.arange(student.num_interactions + 3).reshape(-1, 1) * [0.7 * student.cutoff_A, 0.0, 0.0]
        numbers = np.full(len(chain), 6)
        base = evaluate(student, Structure(chain, numbers))[0][0]
        for k in range(1, len(chain)):
            shifted = chain.copy()
            shifted[k, 1] += 0.8
            change = float((evaluate(student, Structure(shifted, numbers))[0][0] - base).abs())
            assert (change > 0.0) == (k <= student.num_interactions), f"link {k}"

    def test_padding_and_the_order_of_neighbours_do_not_matter(self, student):
        table = neighbour_table(CRYSTAL, student.cutoff_A + 0.7)  # a list with a skin
        vectors = table.vectors(torch.from_numpy(CRYSTAL.positions_A))
        order = torch.randperm(vectors.shape[1], generator=torch.Generator().manual_seed(0))
        own = torch.arange(len(CRYSTAL)).unsqueeze(1).expand(-1, 4)
        padding = torch.tensor([PADDING_A, 0.0, 0.0]).double().expand(len(CRYSTAL), 4, 3)
        wide = torch.cat([vectors[:, order], padding], dim=1)
        neighbours = torch.cat([table.neighbours[:, order], own], dim=1)
        species = species_of(student, CRYSTAL)
        energies, gradients = student.energies_and_gradients(wide, neighbours, species)
        expected = evaluate(student, CRYSTAL)
        torch.testing.assert_close(energies, expected[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(forces_from_edges(gradients, neighbours), expected[1], rtol=0, atol=1e-9)
        assert bool((gradients[:, -4:] == 0.0).all())

    def test_a_local_student_needs_no_rows_for_atoms_that_are_only_neighbours(self, student):
        if student.num_interactions > 1:
            pytest.skip("needs the neighbours' own features")
        table = neighbour_table(MOLECULE, student.cutoff_A)
        vectors, species = (
            table.vectors(torch.from_numpy(MOLECULE.positions_A)),
            species_of(student, MOLECULE),
        )
        whole = student.energies_and_gradients(vectors, table.neighbours, species)
        part = student.energies_and_gradients(vectors[:5], table.neighbours[:5], species)
        torch.testing.assert_close(part[0], whole[0][:5])
        torch.testing.assert_close(part[1], whole[1][:5])


class TestPrecision:
    @every_structure
    def test_float32_is_close_to_float64(self, trained, student, structure):
        single, double = evaluate(trained, structure), evaluate(student, structure)
        largest = max(1.0, float(double[1].abs().max()))
        torch.testing.assert_close(single[0], double[0], rtol=0, atol=1e-5 * largest)
        torch.testing.assert_close(single[1].double(), double[1], rtol=0, atol=1e-4 * largest)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_scripted_equals_eager(self, trained, dtype):
        network = trained if dtype == torch.float32 else doubled(trained)
        script = torch.jit.script(network)
        for structure in (MOLECULE, CRYSTAL, Structure(np.zeros((1, 3)), [8])):
            table = neighbour_table(structure, network.cutoff_A)
            vectors = table.vectors(torch.from_numpy(structure.positions_A)).to(dtype)
            arguments = vectors, table.neighbours, species_of(network, structure)
            close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-10}
            eager, gradients = network(*arguments).detach(), network.energies_and_gradients(*arguments)[1]
            for _ in range(3):  # the profiling executor rewrites the graph after the first runs
                torch.testing.assert_close(script(*arguments).detach(), eager, **close)
                found = script.energies_and_gradients(*arguments)
                torch.testing.assert_close(found[0], eager, **close)
                torch.testing.assert_close(found[1], gradients, **close)


class TestShortRange:
    @pytest.mark.parametrize("pair", [(1, 1), (1, 6), (1, 8), (6, 6), (6, 8), (8, 8)])
    def test_atoms_at_a_third_of_an_angstrom_repel(self, trained, pair):
        energies = []
        for r in (0.3, 0.31):
            energy, forces, _ = evaluate(trained, Structure([[0, 0, 0], [r, 0, 0]], pair))
            assert bool(torch.isfinite(forces).all())
            assert float(forces[0, 0]) < -1.0 < 1.0 < float(forces[1, 0])
            energies.append(float(energy.sum()))
        assert energies[0] > energies[1]
