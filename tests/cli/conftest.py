from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write
from typer.testing import CliRunner

from compactff_md import students
from compactff_md.artifact import describe, save_student
from compactff_md.cli import app


@pytest.fixture
def run() -> Callable:
    """Run the command line in this process; returns exit_code, stdout, stderr."""

    def invoke(*args: object):
        return CliRunner().invoke(app, [str(arg) for arg in args])

    return invoke


@pytest.fixture
def refused(run) -> Callable:
    """Run a command that must end with code 2, one message that holds ``words``, and no traceback."""

    def invoke(*args: object, words: list[str]) -> str:
        result = run(*args)
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.stderr.count("error: ") == 1
        assert "Traceback" not in result.output and "should not happen" not in result.output
        for word in words:
            assert word in result.stderr, result.stderr
        return result.stderr

    return invoke


def untrained(path: Path, elements: list[str], scale_eV: float) -> Path:
    network = students.create("ultra-tiny", elements, seed=1)
    network.energy_scale_eV.fill_(scale_eV)
    save_student(path, network.eval(), describe(network, size="ultra-tiny", teacher={"name": "none"}))
    return path


@pytest.fixture(scope="session")
def student_file(tmp_path_factory) -> Path:
    """A student of H, C and O that has learned nothing; its forces are small, so that MD is calm."""
    return untrained(tmp_path_factory.mktemp("calm") / "student.safetensors", ["H", "C", "O"], 0.02)


@pytest.fixture(scope="session")
def wild_student(tmp_path_factory) -> Path:
    """The same with forces that no timestep can follow."""
    return untrained(tmp_path_factory.mktemp("wild") / "student.safetensors", ["H", "C", "O"], 200.0)


def bad_structures(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """Name -> file, and what the message must say."""
    water = molecule("H2O")
    cases: dict[str, tuple[ase.Atoms | str, list[str]]] = {
        "empty.xyz": ("", ["empty.xyz"]),
        "garbage.xyz": ("what is this\n1 2 3\n", ["garbage.xyz", "cannot be read", "extxyz"]),
        "none.xyz": ("0\n\n", ["none.xyz"]),
        "binary.cif": ("\x00\x01\x02", ["binary.cif"]),
        "nan.xyz": ("3\nProperties=species:S:1:pos:R:3\nO 0 0 nan\nH 0 0 1\nH 0 1 0\n", ["[0]", "NaN"]),
    }
    overlapping = water.copy()
    overlapping.positions[2] = overlapping.positions[1] + 0.01
    cases["overlap.xyz"] = (overlapping, ["atoms 1 and 2 overlap", "at least 0.3 A"])
    in_nm = molecule("CH3CH2OH")
    in_nm.positions /= 10.0
    cases["nm.xyz"] = (in_nm, ["look like nm", "multiply by 10"])
    for name, cell, word in (
        ("singular.xyz", [[4, 0, 0], [8, 0, 0], [0, 0, 4]], "singular"),
        ("left.xyz", [[0, 4, 0], [4, 0, 0], [0, 0, 4]], "left-handed"),
    ):
        cases[name] = (ase.Atoms("OH2", water.positions, cell=np.array(cell, float), pbc=True), [word])
    for name, (content, _) in cases.items():
        if isinstance(content, str):
            (folder / name).write_text(content)
        else:
            write(folder / name, content, format="extxyz")
    return {name: (folder / name, words) for name, (_, words) in cases.items()} | {
        "missing.xyz": (folder / "missing.xyz", ["no such structure file", "missing.xyz"])
    }


BAD_STRUCTURES = (
    "empty.xyz",
    "garbage.xyz",
    "none.xyz",
    "binary.cif",
    "nan.xyz",
    "overlap.xyz",
    "nm.xyz",
    "singular.xyz",
    "left.xyz",
    "missing.xyz",
)


@pytest.fixture(params=BAD_STRUCTURES)
def bad_structure(request, tmp_path) -> tuple[Path, list[str]]:
    folder = tmp_path / "structures"
    folder.mkdir()
    return bad_structures(folder)[request.param]


@pytest.fixture
def water(tmp_path) -> Path:
    write(tmp_path / "water.xyz", molecule("H2O"))
    return tmp_path / "water.xyz"


@pytest.fixture
def copper(tmp_path) -> Path:
    write(tmp_path / "copper.xyz", bulk("Cu", cubic=True))
    return tmp_path / "copper.xyz"
