"""Asking the teacher: energies, forces and stress from one call, failures counted, frames written whole."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator

from compactff_md.errors import CompactFFError, NotFiniteError
from compactff_md.files import atomic_write
from compactff_md.structure import Structure
from compactff_md.teachers import Teacher, check_version, create_teacher
from compactff_md.training.frames import PARTS_TOLERANCE_EV
from compactff_md.training.journal import Journal
from compactff_md.training.label import Label

FEWEST_FAILURES = 5  # before that many a fraction says nothing
_labellers = threading.local()


class TeacherFailure(Exception):  # noqa: N818 - it is an outcome, counted and left behind
    """The teacher gave no usable label for a structure."""


class TooManyFailuresError(CompactFFError):
    """The teacher fails on more frames than is allowed."""


@dataclass
class LabelCounts:
    """Teacher calls, frames asked for, those it failed on, and those dropped for forces or contacts."""

    calls: int = 0
    attempts: int = 0
    failures: int = 0
    rejected: int = 0
    last_failure: str = ""

    def check(self, most: float, fewest: int = FEWEST_FAILURES) -> None:
        """Stop where the teacher fails on more than the fraction ``most`` of the frames.

        Raises
        ------
        TooManyFailuresError
            With the counts and the last failure, from ``fewest`` failures on.
        """
        if self.failures >= fewest and self.failures > most * self.attempts:
            raise TooManyFailuresError(
                f"the teacher failed on {self.failures} of {self.attempts} frames, allowed are {most:.0%}; "
                f"the last failure: {self.last_failure}. Check charge and multiplicity, lower the "
                "temperatures, or raise sampling.max_failures, with which this folder goes on"
            )

    def add(self, other: LabelCounts) -> None:
        """Count what another counted."""
        for name in ("calls", "attempts", "failures", "rejected"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_failure = other.last_failure or self.last_failure


@dataclass
class Labeller:
    """A teacher's calculator that survives failures; every call is counted.

    ``counts`` are those of the chain at work, ``totals`` of those before it in this run and process. What is
    in the ``journal`` is not asked again, but counted: it was paid for after the last count that was kept.
    Copies have counts and a journal of their own, and the calculator together, also when it is made anew.
    """

    teacher: Teacher
    counts: LabelCounts = field(default_factory=LabelCounts)
    totals: LabelCounts = field(default_factory=LabelCounts)
    journal: Journal | None = None

    def __post_init__(self) -> None:
        self._shared = [self.teacher.calculator()]

    @property
    def calculator(self) -> BaseCalculator:
        """The calculator at work."""
        return self._shared[0]

    def label(self, atoms: ase.Atoms) -> Label:
        """Label one structure; the stress only where it is periodic in all directions.

        Raises
        ------
        TeacherFailure
            If the calculation fails or is not finite. The next call gets a fresh calculator.
        CompactFFError
            If that would be of another version of the teacher.
        """
        self.counts.calls += 1
        if self.journal is not None and (known := self.journal.find(atoms)):
            results = {"energy": known.energy_eV, "forces": known.forces_eV_per_A}
            atoms.calc = SinglePointCalculator(atoms, **results)  # for an optimiser
            return known
        try:
            if not np.isfinite(atoms.positions).all():
                raise NotFiniteError("positions are not finite: the dynamics ran away")
            label = self._ask(atoms)
        except NotFiniteError as error:
            self._failed(str(error))
            raise TeacherFailure(self.counts.last_failure) from error
        except CompactFFError:
            raise
        except Exception as error:  # whatever a third-party calculator raises
            self._failed(f"{type(error).__name__}: {error}")
            raise TeacherFailure(self.counts.last_failure) from error
        if not label.is_finite:
            self._failed("energy, forces or stress are not finite")
            raise TeacherFailure(self.counts.last_failure)
        if self.journal is not None:
            self.journal.add(atoms, label)
        return label

    def label_all(self, structures: Sequence[ase.Atoms]) -> list[Label | TeacherFailure]:
        """Label several structures, by a student in one evaluation; failures stand in their places.

        Labels that a student makes of several have no stress: periodic ones it makes one by one.
        """
        at_once = getattr(self.calculator, "evaluate_all", None)
        if at_once is None or len(structures) < 2 or any(atoms.pbc.all() for atoms in structures):
            return [self._label_or_failure(atoms) for atoms in structures]
        try:
            found = at_once([Structure.from_ase(atoms) for atoms in structures])
        except CompactFFError:  # whose it is shows one by one
            return [self._label_or_failure(atoms) for atoms in structures]
        self.counts.calls += len(structures)
        return [
            Label(energy, forces, None, unsureness=self._unsureness(errors))
            for energy, forces, errors in found
        ]

    def _label_or_failure(self, atoms: ase.Atoms) -> Label | TeacherFailure:
        try:
            return self.label(atoms)
        except TeacherFailure as failure:
            return failure

    def _ask(self, atoms: ase.Atoms) -> Label:
        atoms.calc = self.calculator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of third-party packages
            forces = np.array(atoms.get_forces(apply_constraint=False))
            energy = float(atoms.get_potential_energy())
            # Forces are the derivative of the free energy where electrons are smeared.
            energy = float(self.calculator.results.get("free_energy", energy))
            stress = None
            if atoms.pbc.all() and "stress" in self.calculator.implemented_properties:
                stress = np.array(atoms.get_stress(voigt=False))
        results = self.calculator.results
        unsureness = self._unsureness(results.get("uncertainties"))
        return Label(energy, forces, stress, _parts_of(energy, results.get("energies")), unsureness)

    def _unsureness(self, errors_eV_per_A: Any) -> float:
        measure = getattr(self.calculator, "uncertainty", None)
        if errors_eV_per_A is None or measure is None:
            return 0.0
        return float(np.max(errors_eV_per_A) / float(measure.usual_eV_per_A))

    def _failed(self, reason: str) -> None:
        self.counts.last_failure = " ".join(reason.split())[:300]
        self._shared[0] = self.teacher.calculator()


def labeller_here(name: str, settings: dict[str, Any], version: str | None = None) -> Labeller:
    """A teacher by its name, made once in each thread: a calculator does one structure at a time.

    Any ``version`` is right where none is given.

    Raises
    ------
    CompactFFError
        As :func:`compactff_md.teachers.create_teacher`, and where the teacher here is of another version.
    """
    made = vars(_labellers)
    key = json.dumps([name, settings, version], sort_keys=True)
    if key not in made:
        teacher = create_teacher(name, **settings)
        check_version(name, teacher.version, version or teacher.version)
        made[key] = Labeller(teacher)
    return made[key]


def _parts_of(energy_eV: float, energies_eV: Any) -> np.ndarray | None:
    """Energies of atoms, shape (N,), where the calculator gives some that add up to the energy."""
    if energies_eV is None:
        return None
    parts = np.array(energies_eV, dtype=np.float64).reshape(-1)
    return parts if abs(parts.sum() - energy_eV) <= PARTS_TOLERANCE_EV * len(parts) else None


def labelled_atoms(atoms: ase.Atoms, label: Label, **info: object) -> ase.Atoms:
    """Copy of the structure that carries the label as ASE's own results, and ``info``."""
    frame = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info.update({key: value for key, value in info.items() if value is not None})
    results: dict[str, Any] = {"energy": label.energy_eV, "forces": label.forces_eV_per_A}
    if label.stress_eV_per_A3 is not None:
        results["stress"] = label.stress_eV_per_A3
    if label.atom_energies_eV is not None:
        results["energies"] = label.atom_energies_eV
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def write_frames(path: Path, frames: list[ase.Atoms]) -> None:
    """Write labelled frames as extxyz, atomically; the suffix is .xyz."""
    with atomic_write(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")
