"""OpenMM and its TorchForce plugin: optional, and imported here only.

By ``import_module``, so that type checkers do not take the scripts' folder of this name for the package.
At run time the package comes first; where it is missing, ``openmm.app`` is, too, and not just empty.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from compactff_md.errors import CompactFFError

INSTALL = 'pip install "compactff-md[openmm]"'
# The plugin's wrapper imports OpenMM under its old name, which warns of that through the root logger.
_KNOWN_NOISE = "importing 'simtk.openmm' is deprecated"


class Missing:
    """Stands for a package that cannot be imported; using it says what to install."""

    def __init__(self, package: str, install: str, reason: str) -> None:
        self._message = f"{package} cannot be imported ({reason}); install it with: {install}"

    def __getattr__(self, name: str) -> Any:
        # Dunder look-ups belong to Python's own protocols (copy, pickle, inspect), not to a user.
        if name.startswith("__"):
            raise AttributeError(name)
        raise CompactFFError(self._message)


def _import_torch_plugin() -> Any:
    root = logging.getLogger()
    root.addFilter(_is_news)
    try:
        return import_module("openmmtorch")
    finally:
        root.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return _KNOWN_NOISE not in record.getMessage()


try:
    app: Any = import_module("openmm.app")
    unit: Any = import_module("openmm.unit")
    openmm: Any = import_module("openmm")
except ImportError as error:
    openmm = app = unit = Missing("openmm", INSTALL, str(error))

if isinstance(openmm, Missing):
    openmmtorch: Any = openmm
else:
    try:
        openmmtorch = _import_torch_plugin()
    except (ImportError, OSError) as error:  # OSError: a shared library of torch or CUDA is missing
        openmmtorch = Missing("openmm-torch (TorchForce)", INSTALL, str(error))


def why_missing(module: Any) -> str | None:
    """Return the message of a package that is missing, None where it is there."""
    return module._message if isinstance(module, Missing) else None


__all__ = ["INSTALL", "Missing", "app", "openmm", "openmmtorch", "unit", "why_missing"]
