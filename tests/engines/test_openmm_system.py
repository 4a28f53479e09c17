import ase.build
import numpy as np
import pytest
from ase.constraints import FixAtoms

from compactff_md.engines.openmm_import import app, unit
from compactff_md.engines.openmm_system import create_system, prepare, to_openmm
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from openmm_builders import context, ethanol, student


def masses_Da(system) -> list[float]:
    count = range(system.getNumParticles())
    return [system.getParticleMass(k).value_in_unit(unit.dalton) for k in count]


def test_masses_are_those_of_the_elements_unless_the_atoms_have_their_own():
    network, atoms = student(), ethanol().to_ase()
    atoms.set_momenta(np.ones((len(atoms), 3)))
    plain = masses_Da(prepare(atoms, network, force="python").system)
    np.testing.assert_allclose(plain, atoms.get_masses(), rtol=2e-4)
    assert plain == masses_Da(prepare(ethanol(), network, force="python").system)
    heavy = np.where(atoms.numbers == 1, 3.024, atoms.get_masses())
    atoms.set_masses(heavy)
    assert masses_Da(prepare(atoms, network, force="python").system) == heavy.tolist()


def test_isotopes_of_a_topology_have_their_mass():
    topology = app.Topology()
    residue = topology.addResidue("HDO", topology.addChain())
    elements = [app.element.oxygen, app.element.hydrogen, app.element.deuterium]
    for element in elements:
        topology.addAtom(element.symbol, element, residue)
    made = create_system(topology, student(), force="python")
    assert masses_Da(made) == [element.mass.value_in_unit(unit.dalton) for element in elements]


@pytest.mark.parametrize("mass_Da", [0.0, -1.0, float("inf")])
def test_masses_that_nothing_can_have_are_refused(mass_Da):
    atoms = ase.build.molecule("H2O")
    atoms.set_masses([15.999, mass_Da, 1.008])
    with pytest.raises(CompactFFError, match=r"atoms \[1\] have masses .* expected positive numbers"):
        prepare(atoms, student(), force="python")


def test_constraints_are_refused():
    atoms = ase.build.molecule("H2O")
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(CompactFFError, match=r"constraints \(FixAtoms\).*set_constraint\(\)"):
        prepare(atoms, student(), force="python")
    assert prepare(Structure.from_ase(atoms), student(), force="python")


@pytest.mark.parametrize("side_A", [None, 20.0])
def test_a_periodic_system_knows_the_molecules_of_its_topology(side_A):
    atoms = ase.build.molecule("H2O")
    atoms += ase.Atoms("OH2", atoms.positions + 5.0)
    if side_A is not None:
        atoms.set_cell([side_A] * 3)
        atoms.set_pbc(True)
    topology, positions = to_openmm(atoms)
    made = create_system(topology, student(), force="python")
    assert made.usesPeriodicBoundaryConditions() == (side_A is not None)
    if side_A is not None:
        molecules = context(made, positions.value_in_unit(unit.angstrom)).getMolecules()
        assert [sorted(molecule) for molecule in molecules] == [[0, 1, 2], [3, 4, 5]]
