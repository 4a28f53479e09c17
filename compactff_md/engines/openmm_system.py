"""Structures to what OpenMM wants: topologies, masses, boxes in its form, and the way to elements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np

from compactff_md.contacts import check_contacts
from compactff_md.engines.molecules import Molecules, find_molecules
from compactff_md.engines.openmm_force import indices_of, openmm_force, periodicity
from compactff_md.engines.openmm_import import app, openmm, unit
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, check_unconstrained
from compactff_md.units import NM_TO_A

WATER = Counter({"H": 2, "O": 1})


@dataclass(frozen=True)
class OpenMMSystem:
    """A structure as OpenMM simulates it.

    Attributes
    ----------
    structure
        Turned so that its cell has OpenMM's form, with molecules whole.
    topology
        ``openmm.app.Topology`` with elements, bonds, one residue a molecule and the box.
    system
        ``openmm.System`` with masses, box and the student's force.
    """

    structure: Structure
    topology: Any
    system: Any

    @property
    def positions_nm(self) -> np.ndarray:
        """Shape (N, 3)."""
        return self.structure.positions_A / NM_TO_A


def prepare(structure: Structure | ase.Atoms, student: Any, **force_options: Any) -> OpenMMSystem:
    """Make everything that a simulation of a structure by a student needs.

    Parameters
    ----------
    structure
        Periodic in all three directions or in none. Masses that ``ase.Atoms`` have of their own (isotopes,
        heavier hydrogens) are taken; momenta are not.
    student
        A ``Student`` or its network.
    force_options
        Of :func:`compactff_md.engines.openmm_force.openmm_force`: force, device, dtype, skin_A.

    Raises
    ------
    CompactFFError
        As in ``openmm_force``; for slabs and wires, for overlapping atoms, for atoms with constraints, and
        for own masses that are not positive.
    """
    masses_Da = own_masses_Da(structure)
    if isinstance(structure, ase.Atoms):
        check_unconstrained(structure)
        structure = Structure.from_ase(structure)
    periodicity(structure.pbc)
    check_contacts(structure)
    structure = openmm_frame(structure)
    molecules = find_molecules(structure)
    structure = Structure(
        molecules.whole_positions_A(structure), structure.numbers, structure.cell_A, structure.pbc
    )
    topology = _topology(structure, molecules)
    system = _bare_system(topology, student, **force_options)
    if masses_Da is not None:
        for particle, mass_Da in enumerate(masses_Da.tolist()):
            system.setParticleMass(particle, mass_Da)
    if structure.pbc.all():
        whole = ~molecules.endless[molecules.bonds[:, 0]]  # atoms of crystals move with the box one by one
        system.addForce(molecule_marks(molecules.bonds[whole].tolist()))
    return OpenMMSystem(structure, topology, system)


def create_system(topology: Any, student: Any, **force_options: Any) -> Any:
    """Make an ``openmm.System`` with the masses and box of a topology, and one student as its only force.

    The masses are those of the atoms' elements, of which ``openmm.app.element.deuterium`` is one. In a
    periodic box the topology's bonds tell OpenMM what a molecule is, see :func:`molecule_marks`.

    Parameters
    ----------
    topology
        ``openmm.app.Topology``; periodic where it has box vectors.
    student, force_options
        As in :func:`prepare`.
    """
    system = _bare_system(topology, student, **force_options)
    if topology.getPeriodicBoxVectors() is not None:
        system.addForce(molecule_marks(bonds_of(topology)))
    return system


def bonds_of(topology: Any, particles: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Pairs of atoms that a topology bonds; with ``particles`` only those that have both atoms there."""
    pairs = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    if particles is None:
        return pairs
    inside = set(particles)
    return [(i, j) for i, j in pairs if i in inside and j in inside]


def molecule_marks(bonds: Iterable[Sequence[int]]) -> Any:
    """Bonds without force for periodic systems, which tell OpenMM what a molecule is.

    A barostat moves molecules as a whole, which is accepted far more often than stretching every bond,
    and wrapped output keeps them in one piece.
    """
    marks = openmm.HarmonicBondForce()
    marks.setUsesPeriodicBoundaryConditions(True)
    marks.setName("molecules (no force)")
    for i, j in bonds:
        marks.addBond(i, j, 0.1, 0.0)
    return marks


def _bare_system(topology: Any, student: Any, **force_options: Any) -> Any:
    numbers, periodic = atoms_of(topology)
    force = openmm_force(student, numbers, pbc=periodic, **force_options)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    if periodic:
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    system.addForce(force)
    return system


def own_masses_Da(structure: Structure | ase.Atoms) -> np.ndarray | None:
    """Masses that ``ase.Atoms`` were given, shape (N,); None where they are those of the elements.

    Raises
    ------
    CompactFFError
        For masses that are not positive.
    """
    if isinstance(structure, Structure) or not structure.has("masses"):
        return None
    masses_Da = structure.get_masses()
    wrong = np.flatnonzero(~(np.isfinite(masses_Da) & (masses_Da > 0.0)))
    if len(wrong):
        raise CompactFFError(
            f"atoms {wrong[:10].tolist()} have masses {masses_Da[wrong[:10]].tolist()} Da; expected "
            "positive numbers, or no masses at all for those of the elements"
        )
    return masses_Da


def atoms_of(source: Any, particles: Sequence[int] | None = None) -> tuple[np.ndarray, bool]:
    """Atomic numbers, shape (N,), and whether the box is periodic.

    Parameters
    ----------
    source
        ``openmm.app.Topology``, ``ase.Atoms`` or :class:`Structure`.
    particles
        Indices of the atoms that are wanted; None means all.

    Raises
    ------
    CompactFFError
        If a wanted atom is not there, or has no element (virtual sites, dummies): the message names it;
        for slabs and wires; for anything that is not one of the three.
    """
    if isinstance(source, ase.Atoms):
        source = Structure.from_ase(source)
    if isinstance(source, Structure):
        numbers, periodic = source.numbers, periodicity(source.pbc)
        return numbers[_indices(particles, len(source))], periodic
    if not hasattr(source, "getPeriodicBoxVectors"):
        raise CompactFFError(
            f"atoms came as {type(source).__name__}; expected ase.Atoms, an OpenMM Topology or a Structure"
        )
    atoms = list(source.atoms())
    wanted = [atoms[k] for k in _indices(particles, len(atoms))]
    without = [atom for atom in wanted if atom.element is None]
    if without:
        names = ", ".join(f"{a.name} of {a.residue.name} {a.residue.id}" for a in without[:10])
        raise CompactFFError(
            f"{len(without)} atoms of the topology have no element (virtual sites or dummies?): {names}; "
            "a student works on atoms with elements only: leave these out of its particles"
        )
    numbers = np.array([atom.element.atomic_number for atom in wanted], dtype=np.int64)
    return numbers, source.getPeriodicBoxVectors() is not None


def _indices(particles: Sequence[int] | None, count: int) -> list[int]:
    """Particles that are there, of so many; all of them for None."""
    if particles is None:
        return list(range(count))
    indices = indices_of(particles)
    wrong = [p for p in indices if not 0 <= p < count]
    if wrong:
        raise CompactFFError(f"no particle {wrong[0]} among {count} atoms; allowed are 0 to {count - 1}")
    return indices


def openmm_frame(structure: Structure) -> Structure:
    """Turn a periodic structure so that its box vectors have the form that OpenMM asks for.

    The first vector points along x, the second lies in the xy plane, and multiples of the earlier
    vectors are taken off the later ones until the box is as upright as it can be: the same crystal.
    Structures without a box come back as they are.
    """
    if not structure.pbc.all():
        return structure
    turn, lower = _lower_triangular(structure.cell_A)
    return Structure(structure.positions_A @ turn, structure.numbers, _reduced(lower), structure.pbc)


def to_openmm(structure: Structure | ase.Atoms) -> tuple[Any, Any]:
    """Topology and positions (a quantity, shape (N, 3)) of a structure, for scripts that go on with OpenMM.

    The masses, constraints and momenta of ``ase.Atoms`` are in neither.

    Raises
    ------
    CompactFFError
        For slabs and wires.
    """
    structure = structure if isinstance(structure, Structure) else Structure.from_ase(structure)
    periodicity(structure.pbc)
    structure = openmm_frame(structure)
    molecules = find_molecules(structure)
    positions_nm = molecules.whole_positions_A(structure) / NM_TO_A
    return _topology(structure, molecules), positions_nm * unit.nanometer


def _lower_triangular(cell_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation R and lower-triangular L with a positive diagonal, so that ``cell @ R = L``."""
    q, r = np.linalg.qr(cell_A.T)
    signs = np.sign(np.diag(r))
    return q * signs, np.tril((r * signs[:, None]).T)


def _reduced(lower: np.ndarray) -> np.ndarray:
    a, b, c = (row.copy() for row in lower)
    c -= b * np.round(c[1] / b[1])
    c -= a * np.round(c[0] / a[0])
    b -= a * np.round(b[0] / a[0])
    return np.stack([a, b, c])


def _topology(structure: Structure, molecules: Molecules) -> Any:
    """One chain; a residue a molecule, HOH for water and MOL for all else; atoms keep their order."""
    topology = app.Topology()
    chain = topology.addChain()
    atoms: list[Any] = []
    residue, label, names = None, None, Counter[str]()
    waters = _waters(structure, molecules)
    for symbol, number, own in zip(structure.symbols, structure.numbers, molecules.labels, strict=True):
        if own != label:
            label, names = own, Counter()
            residue = topology.addResidue("HOH" if own in waters else "MOL", chain)
        names[symbol] += 1
        atoms.append(
            topology.addAtom(_name(symbol, names), app.Element.getByAtomicNumber(int(number)), residue)
        )
    for i, j in molecules.bonds.tolist():
        topology.addBond(atoms[i], atoms[j])
    if structure.pbc.all():
        topology.setPeriodicBoxVectors(structure.cell_A / NM_TO_A * unit.nanometer)
    return topology


def _name(symbol: str, names: Counter[str]) -> str:
    """Element and a running number, where both fit into the four columns of a PDB file."""
    name = f"{symbol}{names[symbol]}"
    return name if len(name) <= 4 else symbol


def _waters(structure: Structure, molecules: Molecules) -> set[int]:
    """Labels of the water molecules whose three atoms follow each other."""
    found: dict[int, Counter[str]] = {}
    for symbol, label in zip(structure.symbols, molecules.labels.tolist(), strict=True):
        found.setdefault(label, Counter())[symbol] += 1
    together = molecules.labels[:-2] == molecules.labels[2:]
    return {label for label in molecules.labels[:-2][together].tolist() if found[label] == WATER}
