"""Errors of a finished student on frames that somebody labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from compactff_md.errors import CompactFFError
from compactff_md.student import Student
from compactff_md.teachers import unsupported
from compactff_md.training.checks import check_finite
from compactff_md.training.dataset import Source, read_labelled
from compactff_md.training.keys import LabelKeys
from compactff_md.training.metrics import compare, joined, summary

ALL = "all"


def evaluate(student: Student, files: Mapping[str, Source], keys: LabelKeys | None = None) -> dict[str, Any]:
    """Errors of forces, energies and stresses on each file, and on ``all`` of them where they are several.

    Parameters
    ----------
    files
        Labelled files by name, or lists of ``ase.Atoms``; isolated atoms in them are left out.
    keys
        Names of the labels; None, or None inside, takes those that the student was trained with, where it
        tells them and the frames have them, and finds others.

    Returns
    -------
    dict
        As in ``metrics.json``: :func:`compactff_md.training.metrics.summary` of each.

    Raises
    ------
    CompactFFError
        For a file without labelled frames, with labels that are not finite, or with elements that the
        student does not know.
    """
    if ALL in files and len(files) > 1:
        raise CompactFFError(f"one of the files is called {ALL!r}, as all of them together are; rename it")
    compared = {}
    for name, source in files.items():
        frames = tuple(read_labelled(source, keys, trained_keys(student)).frames)
        if not frames:
            raise CompactFFError(f"{name} holds no labelled frames, only isolated atoms")
        check_finite(frames)
        for frame in frames:
            unknown = unsupported(student.elements, frame.structure.to_ase().get_chemical_symbols())
            if unknown:
                known = ", ".join(student.elements)
                raise CompactFFError(f"{frame.name} holds {', '.join(unknown)}; the student knows {known}")
        compared[name] = compare(student.network, frames)
    errors = {name: summary(comparison) for name, comparison in compared.items()}
    if len(compared) > 1:
        errors[ALL] = summary(joined(list(compared.values())))
    return errors


def trained_keys(student: Student) -> LabelKeys | None:
    """Names of the labels that the student was trained with, where its metadata tell them."""
    try:
        return LabelKeys.model_validate(student.metadata.data.get("keys"))
    except ValidationError:  # of a file from before, of a teacher's labels, or of a later version
        return None
