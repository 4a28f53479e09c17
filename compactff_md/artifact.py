"""A student as one file: weights in safetensors, what is known about it as JSON in the same header.

Layout (https://huggingface.co/docs/safetensors): 8 bytes with the length of a JSON header, the header,
the tensors. The header's ``__metadata__`` holds ``compactff_md``, the JSON of :class:`StudentMetadata`,
and ``sha256``, the checksum of the tensors. Loading parses JSON and copies numbers: no pickle, and the
architecture's name is looked up in a fixed registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from compactff_md.errors import CompactFFError
from compactff_md.files import plain, write_bytes
from compactff_md.students import rebuild
from compactff_md.students.base import StudentNetwork
from compactff_md.students.uncertainty import Uncertainty, uncertainty_from

FORMAT_VERSION = 4  # the newest that is read
# A file without an uncertainty is written as version 3, and one without energy bounds, too, as version 1:
# older releases read these.
BOUNDED_VERSION = 3
PLAIN_VERSION = 1
UNCERTAINTY_PREFIX = "uncertainty."
KEY = "compactff_md"
CHECKSUM_KEY = "sha256"
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
DTYPES = ("float32", "float64")


class StudentMetadata(BaseModel):
    """What a student file tells about itself; everything can be read without its weights.

    ``anchored`` is True where isolated atoms have given energies; ``energy_bounds`` are those of
    :meth:`StudentNetwork.bound_energies`; ``units`` are those of the student's
    inputs and outputs; ``teacher`` has name, version and settings; ``data`` counts, seeds and sources of
    the training frames; ``metrics`` the errors on frames that the training did not see; ``versions`` the
    packages that made the file; ``created`` is an ISO date in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = PLAIN_VERSION
    architecture: str
    hyperparameters: dict[str, Any]
    elements: list[str]
    cutoff_A: float
    num_interactions: int
    num_parameters: int
    anchored: bool = False
    energy_bounds: tuple[float, float, float] | None = None
    dtype: str = "float32"
    units: dict[str, str] = Field(default_factory=lambda: {"length": "angstrom", "energy": "eV"})
    size: str | None = None
    teacher: dict[str, Any] | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    created: str = ""


def describe(network: StudentNetwork, **known: Any) -> StudentMetadata:
    """Metadata of a network: what it says of itself, versions, the date, and ``known`` on top.

    Parameters
    ----------
    network
        Any registered student.
    known
        Further fields of :class:`StudentMetadata`: size, teacher, data, metrics, seed.
    """
    own: dict[str, Any] = {
        **_identity(network),
        "versions": package_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return StudentMetadata(**own, **plain(known))


def package_versions() -> dict[str, str]:
    """Versions of what decides a student's numbers."""
    found = {"python": platform.python_version()}
    for name in ("compactff-md", "torch", "numpy", "ase"):
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name.replace("-", "_")] = "unknown"
    return found


def save_student(
    path: str | Path,
    network: StudentNetwork,
    metadata: StudentMetadata,
    uncertainty: Uncertainty | None = None,
) -> None:
    """Write the student file atomically, with its uncertainty where it has one.

    Raises
    ------
    CompactFFError
        If the metadata describe another network, a weight is NaN or infinite, or as in
        :func:`compactff_md.files.atomic_write`.
    """
    write_bytes(path, student_bytes(network, metadata, str(path), uncertainty))


def student_bytes(
    network: StudentNetwork,
    metadata: StudentMetadata,
    name: str = "the student",
    uncertainty: Uncertainty | None = None,
) -> bytes:
    """Content of the student file, which messages call ``name``; errors as in :func:`save_student`."""
    for field, value in _identity(network).items():
        if getattr(metadata, field) != value:
            raise CompactFFError(
                f"metadata and network differ in {field}: {getattr(metadata, field)!r} and {value!r}"
            )
    state = dict(network.state_dict())
    if uncertainty is not None:
        state |= {UNCERTAINTY_PREFIX + key: value for key, value in uncertainty.state_dict().items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise CompactFFError(f"{name} was not written: {key} of the network is NaN or infinite")
    content = metadata.model_dump()
    if metadata.energy_bounds is None:
        del content["energy_bounds"]
    without = PLAIN_VERSION if metadata.energy_bounds is None else BOUNDED_VERSION
    content["format_version"] = without if uncertainty is None else FORMAT_VERSION
    header = {KEY: json.dumps(plain(content)), CHECKSUM_KEY: _checksum(tensors)}
    return safetensors.torch.save(tensors, header)


def read_metadata(path: str | Path) -> StudentMetadata:
    """Read what a student file tells about itself, without its weights.

    Raises
    ------
    CompactFFError
        If the file is missing, truncated, not a student, or written by a newer version.
    """
    with _opened(path) as stream:
        return _parse_metadata(_read_header(stream, str(path)), str(path))


def load_student(path: str | Path) -> tuple[StudentNetwork, StudentMetadata]:
    """Load a student on the CPU, in evaluation mode.

    Raises
    ------
    CompactFFError
        As in :func:`read_metadata`; also where the weights are damaged or do not fit the architecture.
    """
    with _opened(path) as stream:
        _read_header(stream, str(path))  # before the rest: a foreign file may be large
        stream.seek(0)
        return student_from_bytes(stream.read(), str(path))


def load_uncertainty(path: str | Path) -> Uncertainty | None:
    """Load the uncertainty in a student file; None where it holds none.

    Raises
    ------
    CompactFFError
        As in :func:`load_student`.
    """
    with _opened(path) as stream:
        metadata = _parse_metadata(_read_header(stream, str(path)), str(path))
        stream.seek(0)
        try:
            tensors = safetensors.torch.load(stream.read())
        except SafetensorError as error:
            raise CompactFFError(f"{path} is damaged: {error}") from error
    found = {
        key.removeprefix(UNCERTAINTY_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(UNCERTAINTY_PREFIX)
    }
    return uncertainty_from(found, len(metadata.elements)) if found else None


def student_from_bytes(content: bytes, name: str) -> tuple[StudentNetwork, StudentMetadata]:
    """Make a student of a file's content, which messages call ``name``; as :func:`load_student`."""
    header = _read_header(io.BytesIO(content), name)
    metadata = _parse_metadata(header, name)
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise CompactFFError(f"{name} is damaged: {error}") from error
    if _checksum(tensors) != header.get(CHECKSUM_KEY):
        raise CompactFFError(
            f"{name} is damaged: the checksum of its weights differs; copy or train it again"
        )
    try:
        network = rebuild(
            metadata.architecture, metadata.hyperparameters, metadata.elements, metadata.cutoff_A
        )
        network = network.double() if metadata.dtype == "float64" else network
        # What a file of an earlier release does not name stays unnamed when it is written again.
        network.hyperparameters = dict(metadata.hyperparameters)
        own = {key: value for key, value in tensors.items() if not key.startswith(UNCERTAINTY_PREFIX)}
        network.load_state_dict(own)
        network.anchored = metadata.anchored
        if metadata.energy_bounds is not None:
            network.bound_energies(*metadata.energy_bounds)
    except (RuntimeError, TypeError, KeyError) as error:
        raise CompactFFError(
            f"{name}: the weights do not fit its {metadata.architecture}: {error}"
        ) from error
    return network.eval(), metadata


def _identity(network: StudentNetwork) -> dict[str, Any]:
    dtype = next(network.parameters()).dtype
    return {
        "architecture": network.architecture,
        "hyperparameters": plain(network.hyperparameters),
        "elements": list(network.elements),
        "cutoff_A": float(network.cutoff_A),
        "num_interactions": int(network.num_interactions),
        "num_parameters": int(network.num_parameters),
        "anchored": bool(network.anchored),
        "energy_bounds": tuple(network.energy_bounds.tolist()) if network.bounded else None,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _opened(path: str | Path) -> BinaryIO:
    if not Path(path).is_file():
        raise CompactFFError(f"no such student file: {path}")
    return Path(path).open("rb")


def _read_header(stream: BinaryIO, name: str) -> dict[str, str]:
    """Return the header's metadata; check that the file is as long as the header says."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    foreign = f"{name} is not a student file; expected safetensors written by compactff train or distill"
    length = int.from_bytes(stream.read(8), "little")
    if size < 10 or not 2 <= length <= MAX_HEADER_BYTES:
        raise CompactFFError(foreign)
    start = stream.read(min(length, 1))
    if start != b"{":
        raise CompactFFError(foreign)
    if size < 8 + length:
        raise CompactFFError(f"{name} is truncated: it has {size} bytes, its header alone {8 + length}")
    raw = start + stream.read(length - 1)
    try:
        header = json.loads(raw)
        known = dict(header.pop("__metadata__"))
        end = max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CompactFFError(foreign) from error
    if KEY not in known:
        raise CompactFFError(foreign)
    if size != 8 + length + end:
        raise CompactFFError(f"{name} is truncated or damaged: {size} bytes, expected {8 + length + end}")
    return known


def _parse_metadata(header: dict[str, str], name: str) -> StudentMetadata:
    try:
        content = json.loads(header[KEY])
        format_version = content["format_version"]
        if not isinstance(format_version, int):
            raise TypeError("format_version is not a whole number")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CompactFFError(f"{name}: its metadata cannot be read ({error})") from error
    if format_version > FORMAT_VERSION:
        raise CompactFFError(
            f"{name} has format version {format_version}, this compactff-md reads up to {FORMAT_VERSION}; "
            "install a newer one"
        )
    try:
        # Fields that a later release of the same format adds are for information only.
        metadata = StudentMetadata(**{k: v for k, v in content.items() if k in StudentMetadata.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise CompactFFError(f"{name}: metadata field {first['loc'][0]!r}: {first['msg']}") from error
    if metadata.dtype not in DTYPES:
        raise CompactFFError(f"{name}: dtype is {metadata.dtype!r}; allowed are {', '.join(DTYPES)}")
    return metadata
