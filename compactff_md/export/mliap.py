"""Files for LAMMPS: ``pair_style mliap unified student.mliap.pt 0``.

LAMMPS unpickles what it is given. Pickled is a shim only: the name of a class of this package, and the
bytes of the student's own file with their checksum. Whoever loads it needs this package, and runs its code
and no other.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from compactff_md.artifact import StudentMetadata, student_bytes
from compactff_md.errors import CompactFFError
from compactff_md.files import write_bytes
from compactff_md.mliap.adapter import MLIAPStudent
from compactff_md.students import DTYPES, StudentNetwork

# LAMMPS reads these by torch.load, and every other file by pickle.
SUFFIXES = (".pt", ".pth")


def export_mliap(
    network: StudentNetwork,
    metadata: StudentMetadata,
    path: str | Path,
    *,
    dtype: str = "float32",
) -> Path:
    """Write a student for ``pair_style mliap unified``.

    Parameters
    ----------
    network, metadata
        The student and what is known about it.
    path
        Of the file, which ends in ``.pt``; it appears whole and checked, or not at all.
    dtype
        ``float32`` or ``float64`` of the computation; energies are summed in float64 either way.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    CompactFFError
        For another suffix or dtype, or as in :func:`compactff_md.artifact.student_bytes` and
        :func:`compactff_md.files.atomic_write`.
    """
    if Path(path).suffix not in SUFFIXES:
        raise CompactFFError(
            f"{path}: LAMMPS reads ML-IAP files that end in {' or '.join(SUFFIXES)}; "
            f"expected a name such as {Path(path).stem or 'student'}.mliap.pt"
        )
    if dtype not in DTYPES:
        raise CompactFFError(f"dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    content = student_bytes(network, metadata)
    buffer = io.BytesIO()
    torch.save(MLIAPStudent(content, dtype), buffer)
    buffer.seek(0)
    if torch.load(buffer, weights_only=False).content != content:
        raise CompactFFError(f"{path} was not written: what would be read of it is not the student")
    write_bytes(path, buffer.getvalue())
    return Path(path)
