"""Students for openmm-ml: ``MLPotential("compactff", student=...)``.

Registered by the entry point ``openmmml.potentials``, so openmm-ml imports this module in every program
that uses any of its potentials: PyTorch and everything that needs it is imported when a potential is made.

No class here inherits from openmm-ml's, whose module is half-way through its own import by then; it asks
for these methods only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import compactff_md
from compactff_md.errors import CompactFFError

OPTIONS = ("force", "device", "dtype", "skin_A")
# What other potentials of openmm-ml are told, and all that a student can take it to be.
NEUTRAL = {"charge": 0, "multiplicity": 1}


class CompactFFPotentialFactory:
    """Makes :class:`CompactFFPotential`; called by openmm-ml."""

    def createImpl(self, name: str, student: Any = None, **options: Any) -> CompactFFPotential:
        """Make a potential.

        Parameters
        ----------
        name
            ``compactff``.
        student
            A student's file, the folder that training wrote, or a ``Student``.
        options
            force (``python`` unless told, or ``torchforce``), device, dtype, skin_A; see ``openmm_force``.

        Raises
        ------
        CompactFFError
            If the student is missing or cannot be loaded, or an option is unknown.
        """
        if student is None:
            raise CompactFFError(
                f'MLPotential({name!r}) needs a student: MLPotential({name!r}, student="FILE")'
            )
        if isinstance(student, str | Path):
            student = compactff_md.load(student)
        return CompactFFPotential(student, options)


class CompactFFPotential:
    """A student as openmm-ml asks for it.

    PythonForce is the default: openmm-ml copies its forces where it interpolates between a student and a
    force field, and the copy of a TorchForce crashes OpenMM 8.6 with the wheels of openmm-torch 1.10. So a
    TorchForce is refused there.
    """

    def __init__(self, student: Any, options: dict[str, Any]) -> None:
        self.student = student
        self.options = {"force": "python", **_own(options, others_too=False)}

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **options: Any,
    ) -> None:
        """Add the student's force to a system, and to a periodic one what its molecules are.

        Parameters
        ----------
        topology, system
            Of OpenMM.
        atoms
            Indices of the student's atoms; None means all.
        forceGroup
            Of the force.
        options
            As in :meth:`CompactFFPotentialFactory.createImpl`; in a mixed system others, which openmm-ml
            passes on to its embeddings, are left alone.

        Raises
        ------
        CompactFFError
            If an atom has no element or one that the student does not know, there are no atoms, an option
            is unknown, or charge or multiplicity are not 0 and 1: a student knows neither.
        """
        from compactff_md.engines.openmm_force import indices_of, openmm_force
        from compactff_md.engines.openmm_system import atoms_of, bonds_of, molecule_marks

        particles = None if atoms is None else indices_of(atoms)
        numbers, boxed = atoms_of(topology, particles)
        own = _own(options, others_too=atoms is not None)
        force = openmm_force(
            self.student,
            numbers,
            pbc=boxed or system.usesPeriodicBoundaryConditions(),
            particles=particles,
            force_group=forceGroup,
            **(self.options | own),
        )
        # Where it interpolates, openmm-ml collects forces in a system of no particles and copies them there.
        is_collection = system.getNumParticles() == 0
        if (self.options | own)["force"] == "torchforce" and is_collection:
            raise CompactFFError("OpenMM crashes on copies of a TorchForce; interpolate with force='python'")
        system.addForce(force)
        if force.usesPeriodicBoundaryConditions() and not is_collection:
            marks = molecule_marks(bonds_of(topology, particles))
            marks.setForceGroup(forceGroup)
            system.addForce(marks)

    def getMLLongRange(self) -> bool:
        """Return False: a student sees nothing beyond its cutoff."""
        return False

    def getSupportedEmbeddings(self) -> list[str]:
        """Return none beside openmm-ml's own."""
        return []


def _own(options: dict[str, Any], *, others_too: bool) -> dict[str, Any]:
    """A student's options of those given; others are refused, unless they may be an embedding's."""
    for name, neutral in NEUTRAL.items():
        if (value := options.get(name, neutral)) != neutral:
            raise CompactFFError(
                f"{name} is {value}, but a student knows neither charges nor spins; leave it out"
            )
    unknown = [name for name in options if name not in OPTIONS and name not in NEUTRAL]
    if unknown and not others_too:
        raise CompactFFError(f"unknown options {', '.join(unknown)}; allowed are {', '.join(OPTIONS)}")
    return {name: options[name] for name in OPTIONS if name in options}
