"""A whole validation: from student, teacher and structures to a folder with a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from compactff_md.artifact import package_versions
from compactff_md.contacts import check_contacts
from compactff_md.engines.molecules import find_molecules
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.validation import (
    agreement,
    conservation,
    dynamics,
    exported,
    forces,
    smoothness,
    stability,
    structure,
    symmetry,
    thermodynamics,
)
from compactff_md.validation.campaign import Campaign, Reference, Silent, digest_of, section_or_why
from compactff_md.validation.outcome import Section
from compactff_md.validation.report import Report, command_line, write_report
from compactff_md.validation.settings import SuiteSettings
from compactff_md.validation.stability import NONMETALS
from compactff_md.validation.stages import Stages
from compactff_md.validation.subject import Subject, canonical, check_engine
from compactff_md.validation.thresholds import Thresholds

TESTS: dict[str, Callable[[Campaign], Section]] = {
    "forces": forces.run,
    "symmetry": symmetry.run,
    "smoothness": smoothness.run,
    "export": exported.run,
    "conservation": conservation.run,
    "stability": stability.run,
    "structure": structure.run,
    "dynamics": dynamics.run,
    "thermodynamics": thermodynamics.run,
    "engines": agreement.run,
}


@dataclass(frozen=True)
class Assignment:
    """What is to be validated.

    Attributes
    ----------
    subject, teacher
        The student and what it was made of.
    structures
        Frames of one or more systems; those with the same atoms in the same order and the same bonds are
        one system.
    engine
        What moves the student's atoms.
    suite
        Name of the settings, for the report.
    """

    subject: Subject
    teacher: Reference
    structures: Sequence[Structure]
    settings: SuiteSettings
    thresholds: Thresholds = field(default_factory=Thresholds)
    engine: str = "openmm"
    suite: str = "quick"


def validate(
    assignment: Assignment, out: str | Path, progress: Any = None, shared: str | Path | None = None
) -> Report:
    """Run every test that is not finished in ``out``, and write the report.

    Parameters
    ----------
    progress
        Told of stages, as :class:`compactff_md.validation.campaign.Silent`; None: nobody is.
    shared
        See :class:`Stages`.

    Raises
    ------
    CompactFFError
        For bad input: elements that student or teacher do not know, overlapping atoms, a folder with the
        validation of something else.
    """
    progress = progress or Silent()
    systems = group(check(assignment))
    if hasattr(assignment.teacher, "caution"):
        caution = assignment.teacher.caution([frame.to_ase() for frame in assignment.structures])
        if caution:
            progress.note(caution)
    begun = time.monotonic()
    with Stages(out, identity_of(assignment), shared) as stages:
        sections: dict[str, Section] = {}
        for label, frames in systems.items():
            campaign = Campaign(
                label,
                assignment.subject,
                assignment.teacher,
                frames,
                assignment.settings,
                assignment.thresholds,
                stages,
                assignment.engine,
                progress,
            )
            for name in assignment.settings.sections:
                found = stages.section(f"{campaign.place}/{name}", _guarded(campaign, name))
                section = found if len(systems) == 1 else _of_system(found, label)
                sections[name] = _joined(sections.get(name), section)
        report = Report(
            title=f"{assignment.subject.name} against {assignment.teacher.name}",
            sections=sections,
            facts=facts_of(assignment, systems, time.monotonic() - begun),
        )
        write_report(stages.path, report)
    return report


def check(assignment: Assignment) -> list[Structure]:
    """Refuse what cannot be validated before anything is run; return the structures as engines see them.

    Raises
    ------
    CompactFFError
        See :func:`validate`.
    """
    if not assignment.structures:
        raise CompactFFError("there are no structures; expected at least one")
    check_engine(assignment.engine)
    checked = []
    for index, frame in enumerate(assignment.structures):
        name = f"structure {index}"
        check_contacts(frame, name)
        _check_elements(assignment.subject, frame, name)
        if assignment.settings.pressure_bar is not None and not frame.pbc.all():
            raise CompactFFError(
                f"{name} is not periodic in all directions, and has no density: leave out pressure_bar "
                f"(now {assignment.settings.pressure_bar:g})"
            )
        if hasattr(assignment.teacher, "check"):
            assignment.teacher.check(frame.to_ase(), name)
        checked.append(canonical(frame, assignment.engine))
    return checked


def group(structures: Sequence[Structure]) -> dict[str, list[Structure]]:
    """Systems by formula; those of one formula with other orders of atoms or other bonds get numbers.

    Bonds tell isomers of nonmetals apart; where there are metals or endless molecules, nothing tells which
    distances are bonds, and they come and go.
    """
    systems: dict[tuple[Any, ...], list[Structure]] = {}
    for frame in structures:
        found = find_molecules(frame)
        molecular = np.isin(frame.numbers, NONMETALS).all() and not found.endless.any()
        atoms = (tuple(frame.numbers.tolist()), tuple(frame.pbc.tolist()))
        systems.setdefault((*atoms, found.bonds.tobytes() if molecular else b""), []).append(frame)
    named: dict[str, list[Structure]] = {}
    for frames in systems.values():
        formula = frames[0].to_ase().get_chemical_formula()
        same = sum(name.split("-")[0] == formula for name in named)
        named[f"{formula}-{same + 1}" if same else formula] = frames
    return named


def identity_of(assignment: Assignment) -> dict[str, Any]:
    """What the folder of a validation is of."""
    describe = getattr(assignment.teacher, "describe", None)
    return {
        "student": assignment.subject.identity,
        "teacher": describe() if describe else {"name": assignment.teacher.name},
        "structures": {label: digest_of(frames) for label, frames in group(assignment.structures).items()},
        "engine": assignment.engine,
        "settings": assignment.settings.model_dump(),
        "thresholds": assignment.thresholds.sha256,
    }


def facts_of(assignment: Assignment, systems: dict[str, list[Structure]], seconds: float) -> dict[str, Any]:
    """What a reader of the report must know to make it again."""
    return {
        **identity_of(assignment),
        "suite": assignment.suite,
        "systems": {label: {"frames": len(f), "atoms": len(f[0])} for label, f in systems.items()},
        "seed": assignment.settings.seed,
        "versions": package_versions(),
        "command": command_line(),
        "seconds of this part": round(seconds, 1),
    }


def _guarded(campaign: Campaign, name: str) -> Callable[[], Section]:
    """A test whose failure to run is a finding, and not the end of the others."""
    return lambda: section_or_why(campaign, name, lambda: TESTS[name](campaign))


def _check_elements(subject: Subject, frame: Structure, name: str) -> None:
    if subject.student is None:
        return
    unknown = sorted(set(frame.symbols) - set(subject.student.elements))
    if unknown:
        raise CompactFFError(
            f"{name}: the student does not know {', '.join(unknown)}; "
            f"it knows {', '.join(subject.student.elements)}"
        )


def _of_system(section: Section, label: str) -> Section:
    findings = (replace(f, subject=f"{label}, {f.subject}" if f.subject else label) for f in section.findings)
    pictures = {f"{label}: {title}": path for title, path in section.pictures.items()}
    return Section(tuple(findings), {label: section.details}, pictures)


def _joined(before: Section | None, section: Section) -> Section:
    if before is None:
        return section
    return Section(
        before.findings + section.findings,
        {**before.details, **section.details},
        {**before.pictures, **section.pictures},
    )
