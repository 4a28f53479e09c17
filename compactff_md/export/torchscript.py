"""TorchScript files: a student that plain ``torch.jit.load`` runs, without this package.

The file has two entry points, described in :class:`compactff_md.export.exported.ExportedStudent`:
``forward`` for OpenMM's ``TorchForce``, for the atoms that the file was exported for, and ``evaluate``
for any structure of the student's elements. It is scripted, never traced, and not frozen: a frozen
module cannot be moved to another device.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from compactff_md.artifact import StudentMetadata, package_versions
from compactff_md.errors import CompactFFError
from compactff_md.export.check import check_export
from compactff_md.export.exported import ExportedStudent
from compactff_md.export.verlet import DEFAULT_SKIN_A
from compactff_md.files import atomic_write, plain
from compactff_md.structure import Structure
from compactff_md.students import DTYPES, StudentNetwork, in_dtype

METADATA_FILE = "compactff_md.json"
EXPORT_VERSION = 1


def export_torchscript(
    network: StudentNetwork,
    metadata: StudentMetadata,
    path: str | Path,
    *,
    numbers: Sequence[int] | np.ndarray | None = None,
    pbc: bool | Sequence[bool] | np.ndarray | None = None,
    particles: Sequence[int] | np.ndarray | None = None,
    dtype: str = "float32",
    skin_A: float = DEFAULT_SKIN_A,
    check_structures: Sequence[Structure | ase.Atoms] = (),
) -> Path:
    """Write a student as a TorchScript file, and check the file against the student.

    Parameters
    ----------
    network, metadata
        The student and what is known about it.
    path
        Of the file; it appears whole and checked, or not at all.
    numbers, pbc, particles, dtype, skin_A
        As in :func:`scripted_module`.
    check_structures
        Structures, such as those of the training, on which file and student are compared, beside random
        ones.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    CompactFFError
        If the file's results differ from the student's, or as in :func:`scripted_module` and
        :func:`compactff_md.files.atomic_write`.
    """
    module = scripted_module(network, numbers, pbc, particles=particles, dtype=dtype, skin_A=skin_A)
    content = {**metadata.model_dump(), "export": _export_facts(numbers, pbc, particles, dtype, skin_A)}
    buffer = io.BytesIO()
    torch.jit.save(module, buffer, _extra_files={METADATA_FILE: json.dumps(plain(content))})
    structures = [s if isinstance(s, Structure) else Structure.from_ase(s) for s in check_structures]
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        check_export(temporary, in_dtype(network, dtype).cpu(), structures)
    return Path(path)


def scripted_module(
    network: StudentNetwork,
    numbers: Sequence[int] | np.ndarray | None = None,
    pbc: bool | Sequence[bool] | np.ndarray | None = None,
    *,
    particles: Sequence[int] | np.ndarray | None = None,
    dtype: str = "float32",
    skin_A: float = DEFAULT_SKIN_A,
) -> torch.jit.ScriptModule:
    """Script a student with its neighbour list.

    Parameters
    ----------
    network
        Any registered student; it is copied.
    numbers
        Atomic numbers, shape (N,), of the atoms that ``forward`` works on; None: only ``evaluate`` works.
    pbc
        Periodicity for ``forward``; None: periodic in all directions where it is given box vectors.
    particles
        Indices, shape (N,), of these atoms among the particles that ``forward`` is given; None: all.
    dtype
        ``"float32"`` or ``"float64"``, of the weights and the computation; energies are always summed in
        float64, and vectors subtracted in it.
    skin_A
        How far the neighbour list reaches beyond the cutoff: wider means fewer builds and more pairs.

    Raises
    ------
    CompactFFError
        If an element is unknown to the student, an option is not allowed, or scripting fails.
    """
    if dtype not in DTYPES:
        raise CompactFFError(f"dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    if not 0.0 <= skin_A <= 5.0:
        raise CompactFFError(f"skin is {skin_A} A; allowed are 0 to 5 A")
    atoms = None if numbers is None else torch.as_tensor(np.asarray(numbers, dtype=np.int64))
    chosen = _checked_particles(particles, 0 if atoms is None else len(atoms))
    module = ExportedStudent(in_dtype(network, dtype).cpu(), atoms, _three(pbc), chosen, skin_A)
    try:
        return torch.jit.script(module.eval())
    except RuntimeError as error:  # what TorchScript raises on code that it does not know
        raise CompactFFError(f"the student {network.architecture!r} cannot be scripted: {error}") from error


def read_export_metadata(path: str | Path) -> dict[str, Any]:
    """Read what a TorchScript file tells about itself, without running anything in it.

    Returns
    -------
    dict
        The fields of :class:`compactff_md.artifact.StudentMetadata`, and ``export``: format, dtype,
        numbers, particles, pbc, skin, units and versions of the exported file.

    Raises
    ------
    CompactFFError
        If the file is missing, damaged, not one of this package or newer than it.
    """
    path = Path(path)
    if not path.is_file():
        raise CompactFFError(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(f"/extra/{METADATA_FILE}"))
            content = json.loads(archive.read(name))
        version = int(content["export"]["export_version"])
    except (zipfile.BadZipFile, StopIteration, ValueError, KeyError, TypeError) as error:
        raise CompactFFError(
            f"{path} is damaged or not a TorchScript file of compactff-md; expected one by compactff export"
        ) from error
    if version > EXPORT_VERSION:
        raise CompactFFError(
            f"{path} has export version {version}, this compactff-md reads up to {EXPORT_VERSION}; "
            "install a newer one"
        )
    return content


def _export_facts(numbers: Any, pbc: Any, particles: Any, dtype: str, skin_A: float) -> dict[str, Any]:
    return {
        "format": "torchscript",
        "export_version": EXPORT_VERSION,
        "dtype": dtype,
        "numbers": None if numbers is None else np.asarray(numbers),
        "particles": None if particles is None else np.asarray(particles),
        "pbc": _three(pbc),
        "skin_A": skin_A,
        "units": {
            "forward": "nm -> kJ/mol, kJ/mol/nm",
            "evaluate": "angstrom -> eV, eV/angstrom, eV (virial dE/dstrain)",
        },
        "versions": package_versions(),
    }


def _three(pbc: bool | Sequence[bool] | np.ndarray | None) -> tuple[bool, bool, bool] | None:
    """Return periodicity as three flags; one flag stands for all directions."""
    if pbc is None:
        return None
    flags = np.atleast_1d(np.asarray(pbc, dtype=bool))
    if flags.shape not in ((1,), (3,)):
        raise CompactFFError(f"pbc has shape {flags.shape}; expected one flag or three")
    x, y, z = (bool(flag) for flag in np.broadcast_to(flags, 3))
    return x, y, z


def _checked_particles(particles: Any, count: int) -> torch.Tensor | None:
    if particles is None:
        return None
    chosen = np.asarray(particles, dtype=np.int64)
    if chosen.shape != (count,) or len(np.unique(chosen)) != count or chosen.min(initial=0) < 0:
        raise CompactFFError(
            f"particles have shape {chosen.shape}, {len(np.unique(chosen))} of them different; "
            f"expected as many as there are numbers, {count}, each once, none negative"
        )
    return torch.from_numpy(chosen.copy())
