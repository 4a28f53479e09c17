import copy
import pickle
from unittest.mock import Mock

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator

from builders import PERIODIC, SMALL, TRICLINIC, random_structure
from compactff_md import students
from compactff_md.engines.ase import StudentCalculator, choose_device
from compactff_md.errors import CompactFFError
from compactff_md.gradients import predict
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students.uncertainty import Uncertainty

ELEMENTS = ["H", "C", "O"]
CASES = {
    "molecule": random_structure(1, ELEMENTS, 9),
    "atom": Structure(np.zeros((1, 3)), np.array([8])),
    "triclinic": random_structure(2, ELEMENTS, 10, cell_A=TRICLINIC, pbc=PERIODIC),
    "small": random_structure(3, ELEMENTS, 3, cell_A=SMALL, pbc=PERIODIC),
    "slab": random_structure(4, ELEMENTS, 8, cell_A=TRICLINIC, pbc=(True, True, False)),
    "wire": random_structure(5, ELEMENTS, 6, cell_A=TRICLINIC, pbc=(False, False, True)),
}


@pytest.fixture(scope="module", params=["moments", "painn"])
def network(request):
    net = students.create("ultra-tiny", ELEMENTS, architecture=request.param, seed=2)
    net.energy_shift_eV.copy_(torch.tensor([-13.6, -1029.5, -2041.8]))
    net.energy_scale_eV.fill_(0.5)
    return net.eval()


def attached(network, structure, **options):
    atoms = structure.to_ase()
    atoms.calc = StudentCalculator(network, device="cpu", **options)
    return atoms


@pytest.mark.parametrize("case", CASES)
def test_forces_are_minus_the_slope_of_the_energy(network, case):
    atoms = attached(network, CASES[case], dtype="float64")
    forces, step = atoms.get_forces().copy(), 2e-5
    for i in range(min(len(atoms), 4)):
        for k in range(3):
            energies = []
            for sign in (1, -1):
                atoms.positions[i, k] += sign * step
                energies.append(atoms.get_potential_energy())
                atoms.positions[i, k] -= sign * step
            slope = (energies[0] - energies[1]) / (2 * step)
            assert forces[i, k] == pytest.approx(-slope, abs=1e-6)


@pytest.mark.parametrize("case", ["triclinic", "small", "slab", "wire"])
def test_stress_is_the_slope_by_strain(network, case):
    atoms = attached(network, CASES[case], dtype="float64")
    stress, cell, step = atoms.get_stress(voigt=False).copy(), atoms.cell.array.copy(), 1e-5
    for a, b in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            atoms.set_cell(cell @ strain, scale_atoms=True)
            energies.append(atoms.get_potential_energy())
            atoms.set_cell(cell, scale_atoms=True)
        slope = (energies[0] - energies[1]) / (2 * step) / CASES[case].volume_A3
        assert stress[a, b] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_single_precision_is_near_double(network, case):
    single, double = (attached(network, CASES[case], dtype=d) for d in ("float32", "float64"))
    assert single.get_potential_energy() == pytest.approx(double.get_potential_energy(), abs=2e-4)
    assert single.get_forces() == pytest.approx(double.get_forces(), abs=2e-3)
    assert single.get_forces().dtype == np.float64


@pytest.mark.parametrize("case", ["molecule", "slab"])
def test_stress_needs_a_volume(network, case):
    atoms = attached(network, CASES[case])
    atoms.cell[2] = 0.0
    atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_energies_are_extensive(network):
    atoms = attached(network, CASES["triclinic"], dtype="float64")
    energy, energies = atoms.get_potential_energy(), atoms.get_potential_energies()
    assert energies.sum() == pytest.approx(energy, abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == energy
    many = attached(network, Structure.from_ase(atoms * (2, 1, 3)), dtype="float64")
    assert many.get_potential_energies() == pytest.approx(np.tile(energies, 6), abs=1e-8)
    assert many.get_stress() == pytest.approx(atoms.get_stress(), abs=1e-9)

    one = CASES["molecule"]
    far = Structure(
        np.concatenate([one.positions_A, one.positions_A + 50.0]), np.concatenate([one.numbers] * 2)
    )
    alone = attached(network, one, dtype="float64").get_potential_energy()
    assert attached(network, far, dtype="float64").get_potential_energy() == pytest.approx(
        2 * alone, abs=1e-9
    )


def test_wrapping_and_order_do_not_matter(network):
    structure = CASES["triclinic"]
    atoms = attached(network, structure, dtype="float64")
    shifts = np.random.default_rng(0).integers(-3, 4, size=(len(atoms), 3))
    order = np.random.default_rng(1).permutation(len(atoms))
    moved = Structure(
        (structure.positions_A + shifts @ structure.cell_A)[order],
        structure.numbers[order],
        structure.cell_A,
        structure.pbc,
    )
    other = attached(network, moved, dtype="float64")
    assert other.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    assert other.get_forces() == pytest.approx(atoms.get_forces()[order], abs=1e-8)


@pytest.mark.parametrize("case", ["molecule", "triclinic", "slab"])
def test_skin_list_is_right_along_a_walk(network, case):
    """Results with a reused list equal those of a new list at every step, and reuse happens."""
    atoms = attached(network, CASES[case], dtype="float64", skin_A=0.6)
    net = atoms.calc.network
    rng = np.random.default_rng(0)
    drift = rng.normal(size=(len(atoms), 3)) * 0.02
    for step in range(60):
        atoms.positions += drift + rng.normal(size=drift.shape) * 0.01
        if step % 25 == 24:
            atoms.wrap()
        structure = Structure.from_ase(atoms)
        table = neighbour_table(structure, net.cutoff_A)
        species = net.species_of(torch.from_numpy(structure.numbers))
        energies, forces, _ = predict(net, torch.from_numpy(structure.positions_A), table, species)
        assert atoms.get_potential_energy() == pytest.approx(float(energies.sum()), rel=1e-12, abs=1e-8)
        assert atoms.get_forces() == pytest.approx(forces.numpy(), rel=1e-8, abs=1e-8)
    assert 3 < atoms.calc._tables.builds < 30


def test_list_is_renewed_when_anything_else_changes(network):
    atoms = attached(network, CASES["triclinic"], dtype="float64")
    changes = [
        lambda a: a.set_cell(a.cell.array * 1.001),
        lambda a: a.set_pbc((True, False, True)),
        lambda a: a.set_atomic_numbers(a.numbers[::-1]),
        lambda a: a.pop(),
    ]
    for change in changes:
        atoms.get_potential_energy()
        change(atoms)
        fresh = attached(network, Structure.from_ase(atoms), dtype="float64")
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-9)


@pytest.mark.parametrize("at_once", [4096, 12])
def test_many_structures_at_once_are_each_by_itself(network, monkeypatch, at_once):
    monkeypatch.setattr("compactff_md.engines.ase.ROWS_AT_ONCE", at_once)
    frames = list(CASES.values())
    many = StudentCalculator(network, device="cpu", dtype="float64")
    energies, forces = many.energies_and_forces(frames)
    for structure, energy, force in zip(frames, energies, forces, strict=True):
        alone = attached(network, structure, dtype="float64")
        assert energy == pytest.approx(alone.get_potential_energy(), rel=1e-13, abs=1e-9)
        assert force == pytest.approx(alone.get_forces(), abs=1e-9)
    assert len(many.energies_and_forces([])[0]) == 0


def test_network_of_the_caller_is_untouched(network):
    before = copy.deepcopy(network.state_dict())
    attached(network, CASES["molecule"], dtype="float64").get_forces()
    for key, value in network.state_dict().items():
        assert value.dtype == before[key].dtype and torch.equal(value, before[key])
    assert next(network.parameters()).requires_grad


def test_energies_of_elements_keep_all_digits(network):
    twin = copy.deepcopy(network).double()
    twin.energy_shift_eV.fill_(-2041.840123456789)
    atom = attached(twin, CASES["atom"], dtype="float32")
    other = attached(twin, CASES["atom"], dtype="float64")
    assert atom.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-6)


def test_unknown_element(network):
    atoms = molecule("CH3Cl")
    atoms.calc = StudentCalculator(network)
    with pytest.raises(CompactFFError, match="does not know Cl; it knows H, C, O"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (ase.Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "NaN"),
        (ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.0]]), "not finite"),
        (ase.Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True), "singular"),
        (ase.Atoms("H", cell=[[0, 5, 0], [5, 0, 0], [0, 0, 5]], pbc=True), "left-handed"),
        (ase.Atoms(), "no atoms"),
    ],
)
def test_impossible_structures(network, atoms, message):
    atoms.calc = StudentCalculator(network)
    with pytest.raises(CompactFFError, match=message):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "allowed are float32, float64"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"device": "cuda:99"}, "torch finds"),
        ({"device": "mps"}, "unknown device 'mps'; allowed are auto, cpu, cuda and cuda:N"),
        ({"device": "meta"}, "unknown device 'meta'"),
        ({"skin_A": -1.0}, "allowed are 0 to 5 A"),
        ({"default_dtype": "float64", "skin": 1.0}, "no option default_dtype, skin .* device, dtype, skin_A"),
    ],
)
def test_impossible_options(network, options, message):
    with pytest.raises(CompactFFError, match=message):
        StudentCalculator(network, **options)


def test_options_cannot_be_set_later(network):
    calculator = StudentCalculator(network, device="cpu")
    with pytest.raises(CompactFFError, match="no option dtype to be set"):
        calculator.set(dtype="float64")


def test_going_back_after_a_structure_that_failed(network, monkeypatch):
    """The neighbours and the elements that are kept are those of one structure."""
    atoms = attached(network, CASES["molecule"], dtype="float64")
    before, numbers = atoms.get_potential_energy(), atoms.numbers.copy()
    atoms.numbers[:] = numbers[::-1]
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("compactff_md.engines.ase.neighbour_table", Mock(side_effect=MemoryError))
        atoms.get_potential_energy()
    atoms.numbers[:] = numbers
    assert atoms.get_potential_energy() == before


def test_auto_device():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_uncertainties_are_those_of_the_features_and_leave_the_rest_alone(network):
    structure = CASES["molecule"]
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    vectors = table.vectors(torch.from_numpy(structure.positions_A)).float()
    features = network.features(vectors, table.neighbours, species).detach()
    torch.manual_seed(3)
    made = Uncertainty(len(ELEMENTS), 4, 3, features.shape[1])
    for buffer in made.buffers():
        buffer.copy_(torch.rand(buffer.shape))
    atoms, plain = attached(network, structure, uncertainty=made), attached(network, structure)
    assert atoms.get_forces() == pytest.approx(plain.get_forces(), abs=1e-6)
    told = atoms.calc.results["uncertainties"]
    assert told == pytest.approx(made(features, species).numpy(), rel=1e-3)
    assert told.shape == (len(structure),)
    assert "uncertainties" not in plain.calc.results
    other = structure.to_ase()
    other.numbers = structure.numbers[::-1]  # as many atoms, of other elements
    for asked in (other, atoms):
        asked.calc, fresh = atoms.calc, StudentCalculator(network, device="cpu", uncertainty=made)
        asked.get_forces()
        fresh.calculate(asked)
        assert np.array_equal(asked.calc.results["uncertainties"], fresh.results["uncertainties"])


def test_uncertainties_are_no_trouble_to_ase(network):
    table = neighbour_table(CASES["atom"], network.cutoff_A)
    vectors = table.vectors(torch.zeros(1, 3))
    features = network.features(vectors, table.neighbours, torch.zeros(1, dtype=torch.int64))
    made = Uncertainty(len(ELEMENTS), 4, 3, features.shape[1])
    atoms = attached(network, CASES["triclinic"], uncertainty=made)
    forces, results = atoms.get_forces(), atoms.calc.results
    assert "uncertainties" in results and results.get("uncertainties").shape == (len(atoms),)
    kept = SinglePointCalculator(atoms, **results)
    assert kept.results.keys() == {"energy", "free_energy", "energies", "forces", "stress"}
    assert atoms.get_properties(["energy", "forces"])["forces"] == pytest.approx(forces)
    assert set(atoms.calc.export_properties()) >= set(results)
    for copied in (copy.deepcopy(results), pickle.loads(pickle.dumps(results))):
        assert np.array_equal(copied["uncertainties"], results["uncertainties"])
    with pytest.raises(KeyError, match="charges"):
        results["charges"]
