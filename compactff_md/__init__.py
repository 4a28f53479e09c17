"""compactff-md: fast students of slow potentials, for production molecular dynamics.

``load`` gives a :class:`Student` from a file; its methods make ASE calculators, OpenMM forces and exports.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from compactff_md.errors import CompactFFError

if TYPE_CHECKING:
    from compactff_md.student import Student, load

try:
    __version__ = version("compactff-md")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["CompactFFError", "Student", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch at its first use.

    openmm-ml imports this package by its entry point in every program that uses any of its potentials;
    those shall not wait for PyTorch.
    """
    if name in ("Student", "load"):
        return getattr(import_module("compactff_md.student"), name)
    raise AttributeError(f"module 'compactff_md' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
