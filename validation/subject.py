"""The student under test: anything that gives calculators, with a network where there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ase.calculators.calculator import BaseCalculator

from compactff_md.engines.lammps_installation import find_lammps
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.student import Student
from compactff_md.students.base import StudentNetwork
from compactff_md.validation.engine_ase import ASEEngine
from compactff_md.validation.engine_lammps import LAMMPSEngine
from compactff_md.validation.task import Engine

ENGINES = ("openmm", "openmm-python", "lammps", "ase")


@dataclass(frozen=True)
class Subject:
    """What is validated.

    Attributes
    ----------
    name
        For reports.
    calculator
        ``calculator(dtype)`` makes an ASE calculator in ``float32`` or ``float64``.
    cutoff_A
        Beyond which two atoms have no direct influence on each other.
    student
        None where there are only calculators: it then runs in ASE and is not exported.
    """

    name: str
    calculator: Callable[[str], BaseCalculator]
    cutoff_A: float
    student: Student | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this student from others."""
        if self.student is None:
            return {"name": self.name}
        return {"name": self.name, "sha256": fingerprint(self.student.network), **self.facts}

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader wants to know of the student."""
        if self.student is None:
            return {}
        known = self.student.metadata.model_dump()
        keys = ("architecture", "size", "elements", "cutoff_A", "num_parameters", "teacher", "created")
        return {key: known[key] for key in keys}


def subject_of(student: Student, name: str | None = None, device: str = "cpu") -> Subject:
    """Make a trained student a subject."""
    return Subject(
        name or (str(student.path) if student.path else "student"),
        lambda dtype: student.ase_calculator(dtype=dtype, device=device, uncertainty=None),
        student.cutoff_A,
        student,
    )


def make_engine(name: str, subject: Subject, dtype: str = "float32") -> Engine:
    """An engine by its name.

    Raises
    ------
    CompactFFError
        For an unknown engine, or one that needs a student where there are only calculators.
    """
    if name not in ENGINES:
        raise CompactFFError(f"unknown engine {name!r}; allowed are {', '.join(ENGINES)}")
    if name == "ase":
        return ASEEngine(subject.calculator(dtype))
    if subject.student is None:
        raise CompactFFError(f"{subject.name} has calculators only; it runs in ase, not in {name}")
    if name == "lammps":
        return LAMMPSEngine(subject.student, dtype)
    # Here and not above: a plugin wheel that does not fit PyTorch may end the process when imported.
    from compactff_md.validation.engine_openmm import OpenMMEngine

    return OpenMMEngine(subject.student, dtype, "python" if name == "openmm-python" else None)


def check_engine(name: str) -> None:
    """Refuse an engine that is not here: nothing could be judged without what moves the atoms.

    Raises
    ------
    CompactFFError
        With what to install.
    """
    if name == "lammps":
        find_lammps()
    elif name != "ase":
        # As in make_engine.
        from compactff_md.engines.openmm_import import openmm, why_missing

        why = why_missing(openmm)
        if why:
            raise CompactFFError(why)


def canonical(structure: Structure, engine: str) -> Structure:
    """A structure in the frame of the engines: boxes lower triangular, so that all share positions.

    Slabs and wires stay as they are, and run in ASE only.
    """
    if not structure.pbc.all():
        return structure
    if engine in ("ase", "lammps"):
        return _turned(structure)
    # As in make_engine.
    from compactff_md.engines.openmm_system import openmm_frame

    return openmm_frame(structure)


def _turned(structure: Structure) -> Structure:
    atoms = structure.to_ase()
    cell, _ = atoms.cell.standard_form()
    atoms.set_cell(cell, scale_atoms=True)
    return Structure.from_ase(atoms)


def fingerprint(network: StudentNetwork) -> str:
    """A checksum of the weights: not of a file, in whose header entries may come in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
