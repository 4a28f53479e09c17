"""Students as files that other engines read: one function, one format a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compactff_md.artifact import StudentMetadata
from compactff_md.errors import CompactFFError
from compactff_md.export.mliap import export_mliap
from compactff_md.export.torchscript import export_torchscript, read_export_metadata, scripted_module
from compactff_md.students.base import StudentNetwork

__all__ = ["FORMATS", "export_student", "read_export_metadata", "scripted_module"]

# An exporter writes one checked file atomically: (network, metadata, path, **options) -> path.
Exporter = Callable[..., Path]
FORMATS: dict[str, Exporter] = {"torchscript": export_torchscript, "mliap": export_mliap}


def export_student(
    network: StudentNetwork,
    metadata: StudentMetadata,
    path: str | Path,
    format: str = "torchscript",
    **options: Any,
) -> Path:
    """Write a student in the format of another engine.

    Parameters
    ----------
    network, metadata
        The student and what is known about it.
    path
        Of the file to write.
    format
        A name in ``FORMATS``.
    options
        Of the format: see :func:`compactff_md.export.torchscript.export_torchscript` and
        :func:`compactff_md.export.mliap.export_mliap`.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    CompactFFError
        If the format is unknown, or as its exporter says; no file is left then.
    """
    if format not in FORMATS:
        raise CompactFFError(f"unknown export format {format!r}; allowed are {', '.join(FORMATS)}")
    return FORMATS[format](network, metadata, path, **options)
