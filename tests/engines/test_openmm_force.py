import copy

import ase
import numpy as np
import pytest

from builders import assert_same, rotation
from compactff_md import load
from compactff_md.engines import openmm_force as module_under_test
from compactff_md.engines.openmm_force import FORCES, openmm_force
from compactff_md.engines.openmm_import import INSTALL, Missing, app, openmm, unit
from compactff_md.engines.openmm_system import atoms_of, openmm_frame, prepare
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from openmm_builders import SLANTED, box, context, energy_and_forces, ethanol, expected, student

PLATFORMS = ("Reference", "CPU")
STRUCTURES = {
    "molecule": ethanol,
    "upright box": lambda: box(np.diag([6.0, 6.5, 5.8])),
    "slanted box": box,
    "box below the cutoff": lambda: box(0.62 * SLANTED, count=4),
}
CASES = [(name, force, platform) for name in STRUCTURES for force in FORCES for platform in PLATFORMS]


@pytest.fixture(scope="module")
def network():
    return student()


@pytest.mark.parametrize(("name", "force", "platform"), CASES)
def test_energy_and_forces_are_those_of_a_direct_evaluation(network, name, force, platform):
    ready = prepare(STRUCTURES[name](), network, force=force)
    energy, forces = energy_and_forces(context(ready.system, ready.structure.positions_A, platform))
    energy_expected, forces_expected = expected(network, ready.structure)
    assert abs(energy - energy_expected) < 1e-5
    assert np.abs(forces - forces_expected).max() < 1e-4
    assert np.abs(forces_expected).max() > 0.05  # 500 times the tolerance


@pytest.mark.parametrize("force", FORCES)
@pytest.mark.parametrize("name", ["molecule", "slanted box"])
def test_forces_are_finite_differences_of_the_energy(network, name, force):
    ready = prepare(STRUCTURES[name](), network, force=force, dtype="float64")
    made = context(ready.system, ready.structure.positions_A)
    _, forces = energy_and_forces(made)
    step_A = 1e-4
    for atom, axis in [(0, 0), (3, 1), (7, 2)]:
        energies = []
        for sign in (1, -1):
            positions = ready.structure.positions_A.copy()
            positions[atom, axis] += sign * step_A
            made.setPositions(positions / 10.0)
            energies.append(energy_and_forces(made)[0])
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step_A), abs=1e-5)


@pytest.mark.parametrize("force", FORCES)
def test_the_energy_follows_the_box(network, force):
    ready = prepare(box(), network, force=force)
    made = context(ready.system, ready.structure.positions_A)
    before = energy_and_forces(made)[0]
    for stretch in (1.003, 0.97, 1.2):
        wider = Structure(
            ready.structure.positions_A * stretch,
            ready.structure.numbers,
            ready.structure.cell_A * stretch,
            ready.structure.pbc,
        )
        made.setPeriodicBoxVectors(*(wider.cell_A / 10.0))
        made.setPositions(wider.positions_A / 10.0)
        energy, forces = energy_and_forces(made)
        energy_expected, forces_expected = expected(network, wider)
        assert abs(energy - energy_expected) < 1e-5 < abs(energy - before)
        assert np.abs(forces - forces_expected).max() < 1e-4


@pytest.mark.parametrize("force", FORCES)
def test_whole_box_lengths_and_wrapping_change_nothing(network, force):
    ready = prepare(box(), network, force=force)
    made = context(ready.system, ready.structure.positions_A)
    energy, forces = energy_and_forces(made)
    turns = np.random.default_rng(0).integers(-3, 4, size=(len(ready.structure), 3))
    made.setPositions((ready.structure.positions_A + turns @ ready.structure.cell_A) / 10.0)
    for wrapped in (False, True):
        state = made.getState(positions=True, enforcePeriodicBox=wrapped)
        made.setPositions(state.getPositions())
        energy_there, forces_there = energy_and_forces(made)
        assert abs(energy_there - energy) < 1e-5
        assert np.abs(forces_there - forces).max() < 1e-4


@pytest.mark.parametrize("force", FORCES)
def test_a_subset_of_particles_feels_the_force_and_no_other(network, force):
    molecule = ethanol()
    particles = [11, 2, 4, 5, 7, 8, 9, 10, 3]
    system = openmm.System()
    for _ in range(13):
        system.addParticle(12.0)
    system.addForce(
        openmm_force(network, molecule.numbers, pbc=False, force=force, particles=particles, force_group=3)
    )
    positions = np.random.default_rng(0).normal(size=(13, 3))  # the rest lies right among them
    positions[particles] = molecule.positions_A
    energy, forces = energy_and_forces(context(system, positions))
    energy_expected, forces_expected = expected(network, molecule)
    assert abs(energy - energy_expected) < 1e-5
    assert np.abs(forces[particles] - forces_expected).max() < 1e-4
    assert not np.delete(forces, particles, axis=0).any()
    assert system.getForce(0).getForceGroup() == 3


@pytest.mark.parametrize("force", FORCES)
def test_two_contexts_of_one_system_do_not_disturb_each_other(network, force):
    ready = prepare(ethanol(), network, force=force)
    one = context(ready.system, ready.structure.positions_A)
    moved = ready.structure.positions_A * 1.1
    two = context(ready.system, moved)
    first, second = energy_and_forces(one), energy_and_forces(two)
    for _ in range(3):
        for made, (energy, forces) in ((one, first), (two, second)):
            made.setPositions(made.getState(positions=True).getPositions())
            energy_again, forces_again = energy_and_forces(made)
            assert_same(energy_again, energy)
            assert_same(forces_again, forces)
    assert abs(first[0] - second[0]) > 1e-3


@pytest.mark.parametrize("name", ["molecule", "slanted box"])
def test_a_python_force_survives_serialisation(network, name):
    ready = prepare(STRUCTURES[name](), network, force="python")
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(ready.system))
    energy, forces = energy_and_forces(context(ready.system, ready.structure.positions_A))
    energy_copied, forces_copied = energy_and_forces(context(copied, ready.structure.positions_A))
    assert_same(energy_copied, energy)
    assert_same(forces_copied, forces)


def test_the_force_is_periodic_where_the_box_is(network):
    for force in FORCES:
        for structure, periodic in ((ethanol(), False), (box(), True)):
            made = openmm_force(network, structure.numbers, pbc=structure.pbc, force=force)
            assert made.usesPeriodicBoundaryConditions() is periodic


def test_the_network_given_is_left_as_it_was(network):
    before = copy.deepcopy(network.state_dict())
    openmm_force(network, [6, 1], pbc=False, force="python", dtype="float64")
    assert all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"force": "torch"}, "unknown force 'torch'; allowed are torchforce, python"),
        ({"device": "cuda:0"}, "the device of OpenMM's platform"),
        ({"pbc": (True, True, False)}, "all three directions or in none"),
        ({"numbers": [6, 7]}, "does not know N"),
        ({"numbers": [], "particles": []}, "particles is empty; expected at least one index"),
        ({"particles": [0]}, "1 particles .* came with 2 atomic numbers"),
        ({"particles": [1, 1]}, "1 different"),
        ({"particles": [-1, 1]}, "none negative"),
        ({"dtype": "float16"}, "allowed are float32, float64"),
        ({"force": "python", "device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_bad_arguments_are_refused(network, arguments, message):
    numbers = arguments.pop("numbers", [6, 1])
    with pytest.raises(CompactFFError, match=message):
        openmm_force(network, numbers, **{"pbc": False, **arguments})


def test_what_is_not_a_student_is_refused():
    with pytest.raises(CompactFFError, match="student came as str"):
        openmm_force("student.safetensors", [6], pbc=False, force="python")


def test_missing_packages_say_what_to_install(network, monkeypatch):
    monkeypatch.setattr(module_under_test, "openmmtorch", Missing("openmm-torch", INSTALL, "no such file"))
    with pytest.raises(CompactFFError, match=r"no such file.*pip install"):
        openmm_force(network, [6, 1], pbc=False)
    assert openmm_force(network, [6, 1], pbc=False, force="python")


def test_every_way_to_give_atoms_gives_the_same_elements():
    for structure in (ethanol(), box()):
        topology = prepare(structure, student(), force="python").topology
        for source in (structure, structure.to_ase(), topology):
            numbers, periodic = atoms_of(source)
            np.testing.assert_array_equal(numbers, structure.numbers)
            assert periodic == structure.pbc.all()
            np.testing.assert_array_equal(atoms_of(source, [3, 0])[0], structure.numbers[[3, 0]])
            for wrong in (-1, len(structure)):
                with pytest.raises(CompactFFError, match=f"no particle {wrong} among {len(structure)} atoms"):
                    atoms_of(source, [0, wrong])
    with pytest.raises(CompactFFError, match="atoms came as list"):
        atoms_of([6, 1])
    with pytest.raises(CompactFFError, match="all three directions or in none"):
        atoms_of(ase.Atoms("C", cell=[3, 3, 9], pbc=(True, True, False)))


def test_atoms_without_an_element_are_refused_by_name():
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    topology.addAtom("O", app.element.oxygen, residue)
    topology.addAtom("EP", None, residue)
    with pytest.raises(CompactFFError, match=r"no element .*: EP of HOH 1"):
        atoms_of(topology)
    assert atoms_of(topology, [0])[0].tolist() == [8]


def test_any_box_is_turned_into_openmms_form():
    turn = rotation(4)
    skewed = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ SLANTED @ turn
    structure = box()
    given = Structure(structure.positions_A @ turn, structure.numbers, skewed, structure.pbc)
    turned = openmm_frame(given)
    a, b, c = turned.cell_A
    assert a[1] == a[2] == b[2] == 0.0
    assert a[0] >= 2 * abs(b[0]) - 1e-9 and a[0] >= 2 * abs(c[0]) - 1e-9 and b[1] >= 2 * abs(c[1]) - 1e-9
    assert turned.volume_A3 == pytest.approx(given.volume_A3)
    network = student()
    energy, forces = expected(network, given)
    energy_turned, forces_turned = expected(network, turned)
    assert abs(energy - energy_turned) < 1e-5
    np.testing.assert_allclose(
        np.linalg.norm(forces, axis=1), np.linalg.norm(forces_turned, axis=1), atol=1e-4
    )
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(turned.cell_A / 10.0 * unit.nanometer))  # raises where it is not


def test_particles_may_come_from_a_generator_and_masks_are_refused():
    known, atoms = load("organic-ultra-tiny"), ethanol()
    made = known.openmm_force(atoms, "python", particles=(k for k in (2, 5, 0)))
    assert list(made.getParticles()) == [2, 5, 0]
    mask = np.arange(9) < 3
    for wrong in (mask, mask.tolist(), [0.5], ["0"]):
        with pytest.raises(CompactFFError, match=r"expected indices such as \[0, 1, 2\]: np.flatnonzero"):
            known.openmm_force(atoms, "python", particles=wrong)
    made = known.openmm_force(atoms, "python", particles=np.array([1, 2]))
    assert list(made.getParticles()) == [1, 2]
