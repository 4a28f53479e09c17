"""Labels between the moment that they are paid for and the moment that they are in a file of their own.

A killed run does again what came after its last shard or relaxed structure: it asks the same questions, as
all random numbers have seeds, and finds the answers here. A file holds one record after the other, each
written at once and with a checksum, so that one that was cut off is known and left out.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import ase
import numpy as np

from compactff_md.training.label import Label

HEAD = struct.Struct("<4sII")  # how each begins, the length of what follows in bytes, and its CRC-32
BEGIN = b"\xc5lab"
KEY_BYTES = 16


class Journal:
    """Labels by the structure that they are of.

    Parameters
    ----------
    path
        What it holds already is read; the file is made with the first label.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._labels = dict(_read(path))

    def find(self, atoms: ase.Atoms) -> Label | None:
        """The label of exactly this structure, if there is one."""
        return self._labels.get(_key(atoms))

    def add(self, atoms: ase.Atoms, label: Label) -> None:
        """Keep a label."""
        record = _key(atoms) + _packed(label)
        with self.path.open("ab") as file:
            file.write(HEAD.pack(BEGIN, len(record), zlib.crc32(record)) + record)

    def clear(self) -> None:
        """Forget all: they are elsewhere now."""
        self._labels = {}
        self.path.unlink(missing_ok=True)


def _key(atoms: ase.Atoms) -> bytes:
    parts = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()[
        :KEY_BYTES
    ]


def _packed(label: Label) -> bytes:
    """Energy, unsureness, which of the last two there are, forces (N, 3), stress (3, 3), energies (N,)."""
    stress, parts = label.stress_eV_per_A3, label.atom_energies_eV
    head = [label.energy_eV, label.unsureness, stress is not None, parts is not None]
    arrays = [np.array(head), label.forces_eV_per_A, stress, parts]
    return b"".join(np.asarray(x, dtype="<f8").tobytes() for x in arrays if x is not None)


def _unpacked(content: bytes) -> Label:
    energy, unsureness, has_stress, has_parts, *_ = values = np.frombuffer(content, dtype="<f8")
    rest, stress, parts = values[4:], None, None
    count = (len(rest) - 9 * int(has_stress)) // (3 + int(has_parts))
    forces, rest = rest[: 3 * count].reshape(count, 3), rest[3 * count :]
    if has_stress:
        stress, rest = rest[:9].reshape(3, 3).copy(), rest[9:]
    if has_parts:
        parts = rest.copy()
    return Label(float(energy), forces.copy(), stress, parts, float(unsureness))


def _read(path: Path) -> list[tuple[bytes, Label]]:
    found: list[tuple[bytes, Label]] = []
    content = path.read_bytes() if path.is_file() else b""
    at = content.find(BEGIN)
    while 0 <= at <= len(content) - HEAD.size:
        _, length, checksum = HEAD.unpack_from(content, at)
        record = content[at + HEAD.size : at + HEAD.size + length]
        if len(record) == length and zlib.crc32(record) == checksum:
            found.append((record[:KEY_BYTES], _unpacked(record[KEY_BYTES:])))
            at += HEAD.size + length
        else:  # it was cut off; another may follow
            at += 1
        at = content.find(BEGIN, at)
    return found
