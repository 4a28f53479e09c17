"""Structures as plain data, for other processes and for files."""

from __future__ import annotations

from typing import Any

import ase


def encode_atoms(atoms: ase.Atoms) -> dict[str, Any]:
    """Numbers, positions, cell and pbc in types that JSON has."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def decode_atoms(content: dict[str, Any]) -> ase.Atoms:
    """Inverse of :func:`encode_atoms`."""
    return ase.Atoms(**content)
