"""Structures, students and contexts for the tests of the OpenMM engine."""

import ase.build
import numpy as np
import torch

from builders import random_structure
from compactff_md import students
from compactff_md.engines.md_settings import MDSettings
from compactff_md.engines.openmm_import import openmm, unit
from compactff_md.engines.openmm_system import OpenMMSystem, to_openmm
from compactff_md.gradients import predict
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure

ELEMENTS = ["C", "H", "O"]
SLANTED = np.array([[6.1, 0.0, 0.0], [1.7, 5.6, 0.0], [-1.2, 2.1, 6.4]])

# 0.1 fs: an untrained student is a rough landscape.
GENTLE = {"timestep_fs": 0.1, "report_interval": 5, "trajectory_interval": 10}


def settings(**fields) -> MDSettings:
    return MDSettings(**{"ensemble": "nve", "steps": 40, **GENTLE, **fields})


def student(scale: float = 10.0):
    """An untrained student, its forces as large as those of a trained one; a small scale is gentle."""
    network = students.create("ultra-tiny", ELEMENTS, seed=1).eval()
    network.energy_scale_eV.fill_(scale)
    return network


def ethanol() -> Structure:
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    return Structure.from_ase(atoms)


def box(cell=SLANTED, count: int = 16, seed: int = 2) -> Structure:
    return random_structure(seed, ELEMENTS, count, cell_A=cell, pbc=(True, True, True))


def expected(network, structure: Structure) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/A by vesin's neighbours and the student itself."""
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    energies, forces, _ = predict(network, torch.from_numpy(structure.positions_A), table, species)
    return float(energies.sum()), forces.double().numpy()


def context(system, positions_A, platform="Reference", integrator=None):
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    made = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    made.setPositions(np.asarray(positions_A) / 10.0)
    return made


def energy_and_forces(made, groups=-1) -> tuple[float, np.ndarray]:
    """In eV and eV/A, by openmm.unit alone."""
    state = made.getState(energy=True, forces=True, groups=groups)
    energy = state.getPotentialEnergy() / unit.AVOGADRO_CONSTANT_NA
    forces = state.getForces(asNumpy=True) / unit.AVOGADRO_CONSTANT_NA
    eV = 1.602176634e-19 * unit.joule
    return energy / eV, forces.value_in_unit(unit.joule / unit.angstrom) / 1.602176634e-19


def springs(structure: Structure, strength: float = 5e4) -> OpenMMSystem:
    """A system without a student: every pair of atoms on a spring (in kJ/mol/nm^2), at rest now."""
    topology, positions = to_openmm(structure)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    force = openmm.HarmonicBondForce()
    x = positions.value_in_unit(unit.nanometer)
    for i in range(len(x)):
        for j in range(i):
            force.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), strength)
    system.addForce(force)
    return OpenMMSystem(structure, topology, system)


def gas(molecules: int, side_A: float) -> OpenMMSystem:
    """Water molecules that do not see each other, each held together by springs, in a slanted box."""
    rng = np.random.default_rng(0)
    cell = side_A * np.array([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [-0.2, 0.4, 1.0]])
    water = ase.build.molecule("H2O").positions
    positions = np.concatenate([water + rng.random(3) @ cell for _ in range(molecules)])
    structure = Structure(positions, [8, 1, 1] * molecules, cell, (True, True, True))
    topology, _ = to_openmm(structure)
    system = openmm.System()
    force = openmm.HarmonicBondForce()
    force.setUsesPeriodicBoundaryConditions(True)
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    for first in range(0, 3 * molecules, 3):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            length = np.linalg.norm(water[i] - water[j]) / 10.0
            force.addBond(first + i, first + j, float(length), 1e5)
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    system.addForce(force)
    return OpenMMSystem(structure, topology, system)
