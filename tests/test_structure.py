import ase
import ase.io
import numpy as np
import pytest

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, read_structures

CELL = np.diag([4.0, 5.0, 6.0])
WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


def test_there_and_back_through_ase():
    atoms = ase.Atoms("OHH", positions=WATER + 40.0, cell=CELL, pbc=[True, False, True])
    structure = Structure.from_ase(atoms)
    assert len(structure) == 3
    assert structure.symbols == ["O", "H", "H"]
    assert structure.positions_A.dtype == np.float64
    assert structure.volume_A3 == pytest.approx(120.0)
    assert structure.to_ase() == atoms


def test_fields_cannot_be_replaced():
    structure = Structure(WATER, [8, 1, 1])
    with pytest.raises(AttributeError):
        structure.positions_A = WATER


def test_a_partly_periodic_cell_needs_only_its_periodic_vectors():
    cell = np.diag([4.0, 5.0, 0.0])
    assert len(Structure(WATER, [8, 1, 1], cell, [True, True, False])) == 3
    with pytest.raises(CompactFFError, match="singular"):
        Structure(WATER, [8, 1, 1], cell, [True, True, True])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 3)), []), "no atoms"),
        ((WATER[:, :2], [8, 1, 1]), r"shape \(3, 2\) for 3 atomic numbers; expected \(3, 3\)"),
        ((WATER[:2], [8, 1, 1]), r"expected \(3, 3\)"),
        ((WATER + np.array([[0], [np.nan], [0]]), [8, 1, 1]), r"atoms \[1\] are NaN"),
        ((WATER + np.array([[0], [0], [np.inf]]), [8, 1, 1]), r"atoms \[2\] are NaN or infinite"),
        ((WATER, [8, 0, 1]), r"\[0\]; allowed are 1 to 86"),
        ((WATER, [8, 1, 87]), r"\[87\]; allowed are 1 to 86"),
        ((WATER, [8, 1, 1], np.eye(2), [True] * 3), r"expected \(3, 3\) and \(3,\)"),
        ((WATER, [8, 1, 1], CELL, [True] * 2), r"expected \(3, 3\) and \(3,\)"),
        ((WATER, [8, 1, 1], CELL * np.nan, [True] * 3), "non-finite"),
        ((WATER, [8, 1, 1], np.zeros((3, 3)), [True] * 3), "singular"),
        ((WATER, [8, 1, 1], CELL[[0, 1, 1]], [True] * 3), "singular"),
        ((WATER, [8, 1, 1], CELL[[1, 0, 2]], [True] * 3), "left-handed"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(CompactFFError, match=message):
        Structure(*arguments)


@pytest.mark.parametrize("suffix", ["extxyz", "xyz", "pdb", "cif", "vasp"])
def test_reads_what_ase_writes(tmp_path, suffix):
    atoms = ase.Atoms("OHH", positions=WATER + 1.0, cell=CELL, pbc=True)
    ase.io.write(tmp_path / f"water.{suffix}", atoms)
    (frame,) = read_structures(tmp_path / f"water.{suffix}")
    assert sorted(frame.symbols) == ["H", "H", "O"]


def test_reads_every_frame_or_the_one_asked_for(tmp_path):
    frames = [ase.Atoms("OHH", positions=WATER + shift) for shift in range(4)]
    ase.io.write(tmp_path / "water.extxyz", frames)
    assert len(read_structures(tmp_path / "water.extxyz")) == 4
    (last,) = read_structures(str(tmp_path / "water.extxyz"), index="-1")
    assert last.positions[0, 0] == 3.0


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CompactFFError, match=r"no such structure file: .*nothing\.xyz"):
        read_structures(tmp_path / "nothing.xyz")


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\x02 not atoms", b"0\n\n", b"3\nonly one of three\nO 0 0 0\n"]
)
def test_unreadable_or_empty_files_are_refused(tmp_path, content):
    path = tmp_path / "broken.xyz"
    path.write_bytes(content)
    with pytest.raises(CompactFFError, match=r"broken\.xyz"):
        read_structures(path)
