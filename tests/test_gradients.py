import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones

from builders import FREE, PERIODIC, TRICLINIC, random_structure
from compactff_md.gradients import forces_from_edges, predict, virial_from_edges
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import StudentNetwork, create

SIGMA_A, EPSILON_EV, CUTOFF_A = 2.5, 0.02, 6.0


class LennardJonesStudent(StudentNetwork):
    """Nothing learned: a potential that ASE has too, to hold forces and virial to another's code."""

    def __init__(self) -> None:
        super().__init__(["Ar"], CUTOFF_A, {})

    def network_energies(self, vectors, neighbours, species):
        power = (SIGMA_A / vectors.norm(dim=-1)) ** 6
        edge = (SIGMA_A / CUTOFF_A) ** 6
        energy = 4 * EPSILON_EV * ((power**2 - power) - (edge**2 - edge))
        return torch.where(power > edge, 0.5 * energy, 0.0).sum(dim=1)


def evaluate(student, structure: Structure):
    table = neighbour_table(structure, student.cutoff_A)
    species = student.species_of(torch.from_numpy(structure.numbers))
    energies, forces, virial = predict(student, torch.from_numpy(structure.positions_A), table, species)
    return float(energies.sum()), forces.numpy(), virial.numpy()


def strained(structure: Structure, strain: np.ndarray) -> Structure:
    deformation = np.eye(3) + strain
    return Structure(
        structure.positions_A @ deformation, structure.numbers, structure.cell_A @ deformation, structure.pbc
    )


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [(TRICLINIC, FREE), (TRICLINIC, (True, True, False)), (TRICLINIC, PERIODIC), (np.eye(3) * 3.3, PERIODIC)],
    ids=["free", "slab", "triclinic", "smaller than the cutoff"],
)
def test_energy_forces_and_stress_equal_those_of_ase(cell, pbc):
    count = 1 if cell[0, 0] == 3.3 else 6
    structure = random_structure(2, ["Ar"], count, cell_A=cell, pbc=pbc, closest_A=2.2)
    atoms = structure.to_ase()
    atoms.calc = LennardJones(sigma=SIGMA_A, epsilon=EPSILON_EV, rc=CUTOFF_A)
    energy, forces, virial = evaluate(LennardJonesStudent().double().eval(), structure)
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-9)
    if all(pbc):
        np.testing.assert_allclose(virial / structure.volume_A3, atoms.get_stress(voigt=False), atol=1e-9)


@pytest.fixture(scope="module")
def student():
    return create("ultra-tiny", ["H", "C", "O"], seed=3).double().eval()


@pytest.mark.parametrize("pbc", [FREE, (False, True, True), PERIODIC])
def test_forces_are_finite_differences_of_the_energy(student, pbc):
    structure = random_structure(5, ["H", "C", "O"], 9, cell_A=TRICLINIC, pbc=pbc)
    _, forces, _ = evaluate(student, structure)
    h = 1e-4
    for atom, axis in np.ndindex(9, 3):
        step = np.zeros((9, 3))
        step[atom, axis] = h
        plus, minus = (
            evaluate(
                student,
                Structure(structure.positions_A + s, structure.numbers, structure.cell_A, structure.pbc),
            )
            for s in (step, -step)
        )
        assert forces[atom, axis] == pytest.approx(-(plus[0] - minus[0]) / (2 * h), abs=2e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-10)


@pytest.mark.parametrize("pbc", [FREE, (True, False, True), PERIODIC])
def test_the_virial_is_the_strain_derivative(student, pbc):
    structure = random_structure(6, ["H", "C", "O"], 9, cell_A=TRICLINIC, pbc=pbc)
    _, _, virial = evaluate(student, structure)
    h = 1e-5
    for a, b in np.ndindex(3, 3):
        strain = np.zeros((3, 3))
        strain[a, b] = h
        plus, minus = (evaluate(student, strained(structure, s))[0] for s in (strain, -strain))
        assert virial[a, b] == pytest.approx((plus - minus) / (2 * h), abs=2e-5)


def test_the_pressure_is_minus_the_volume_derivative(student):
    structure = random_structure(7, ["H", "C", "O"], 9, cell_A=TRICLINIC, pbc=PERIODIC)
    _, _, virial = evaluate(student, structure)
    h = 1e-5
    plus, minus = (strained(structure, np.eye(3) * s) for s in (h, -h))
    slope = (evaluate(student, plus)[0] - evaluate(student, minus)[0]) / (plus.volume_A3 - minus.volume_A3)
    assert -np.trace(virial) / 3 / structure.volume_A3 == pytest.approx(-slope, rel=1e-6)


def test_padding_adds_nothing():
    vectors = torch.tensor([[[1.0, 0.0, 0.0], [1000.0, 0.0, 0.0]], [[-1.0, 0.0, 0.0], [1000.0, 0.0, 0.0]]])
    neighbours = torch.tensor([[1, 0], [0, 1]])
    gradients = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]], [[-0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert forces_from_edges(gradients, neighbours).tolist() == [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    assert virial_from_edges(vectors, gradients)[0, 0] == 1.0


def test_nothing_of_the_graph_is_kept(student):
    structure = random_structure(8, ["H", "C", "O"], 5)
    table = neighbour_table(structure, student.cutoff_A)
    species = student.species_of(torch.from_numpy(structure.numbers))
    results = predict(student, torch.from_numpy(structure.positions_A), table, species)
    assert not any(tensor.requires_grad for tensor in results)
