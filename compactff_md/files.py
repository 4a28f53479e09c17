"""Write files whole or not at all: a killed process or a full disk leaves the old file as it was."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from compactff_md.errors import CompactFFError, WriteError

# "No room" in the words of the operating system: full disk, exhausted quota, limit of the file's size.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG})


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    The temporary file lies in the same folder, starts with a dot and keeps the suffix, for writers that
    choose their format by it. It is flushed to the disk before it takes the name, and removed when the
    block fails. Links are followed.

    Raises
    ------
    CompactFFError
        If the folder does not exist or ``path`` is something other than a file; :class:`WriteError` where
        the disk is full or writing is not permitted; the old file is then untouched. Errors of other kinds
        pass unchanged.
    """
    target = _target(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except (OSError, RuntimeError) as error:
        raise _explained(error, target) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes atomically; errors as in :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write text as UTF-8 atomically; errors as in :func:`atomic_write`."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically: numpy numbers and arrays as lists, paths as text, NaN and infinity as null.

    Raises
    ------
    CompactFFError
        If something in ``content`` has no JSON form, or as in :func:`atomic_write`.
    """
    write_text(path, json.dumps(plain(content), indent=2) + "\n")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read an npz file whole.

    Raises
    ------
    CompactFFError
        If it is missing or damaged, which asks to delete it.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: Exception) -> CompactFFError:
    """What is said of a file of our own that is damaged; to be raised."""
    return CompactFFError(f"{path} cannot be read: {error}; delete it and run again")


def plain(content: Any) -> Any:
    """Return ``content`` in the types that JSON has; see :func:`write_json`."""
    if isinstance(content, dict):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [plain(value) for value in content]
    if isinstance(content, np.ndarray | np.generic):
        return plain(content.tolist())
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if content is None or isinstance(content, str | int):
        return content
    if isinstance(content, Path):
        return str(content)
    raise CompactFFError(
        f"a {type(content).__name__} cannot be written as JSON; "
        "allowed are dicts, lists, numbers, text, paths and numpy arrays"
    )


def _target(path: str | Path) -> Path:
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise CompactFFError(f"cannot write {path}: the folder {target.parent} does not exist")
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise CompactFFError(f"cannot write {path}: it is {kind}; expected the name of a file")
    return target


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a crash of the machine, where the file system offers that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explained(error: OSError | RuntimeError, target: Path) -> Exception:
    if isinstance(error, RuntimeError):
        # PyTorch's writer hides the reason of the operating system, which is nearly always that one.
        hidden = any(mark in str(error) for mark in ("PytorchStreamWriter", "inline_container"))
        return _full(target, "PyTorch could not write it all") if hidden else error
    if error.errno in NO_SPACE:
        return _full(target, str(error.strerror))
    if error.errno in NO_ACCESS:
        return WriteError(f"cannot write {target}: {error.strerror}; nothing was changed")
    return error


def _full(target: Path, reason: str) -> WriteError:
    return WriteError(
        f"cannot write {target}: no space left ({reason}); nothing was changed, "
        "free some space and run the same command again"
    )
