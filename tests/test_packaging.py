"""What an installation and a source distribution have beside the modules."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from texts import DOCUMENTS, ROOT, SCRIPTS, paths

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
MANIFEST = (ROOT / "MANIFEST.in").read_text().splitlines()
GRAFTED = [ROOT / line.split()[1] for line in MANIFEST if line.startswith("graft ")]


def files(folder: Path) -> list[Path]:
    """Regular files below, without what tools leave there; not through links."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".pyo")
    ]


def grafted(path: Path) -> bool:
    """Whether a file is in a folder that the source distribution has as a whole."""
    return any(folder in path.parents for folder in GRAFTED)


def installed(path: Path) -> bool:
    """Whether the globs of the package data, or the list of packages, have a file."""
    globs = [
        FOLDERS[package] / glob for package, found in SETUPTOOLS["package-data"].items() for glob in found
    ]
    if any(path.parent == glob.parent and fnmatch(path.name, glob.name) for glob in globs):
        return True
    packages = map(package_folder, SETUPTOOLS["packages"])
    return path.suffix == ".py" and path.parent in packages


def package_folder(package: str) -> Path:
    """Where a package's modules lie."""
    longest = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return FOLDERS[longest].joinpath(*package.removeprefix(longest).strip(".").split("."))


@pytest.mark.parametrize("folder", ["compactff_md", "training", "validation"])
def test_every_file_of_the_package_is_installed_or_in_the_source_distribution(folder):
    for path in files(ROOT / folder):
        assert installed(path) or grafted(path), path


def test_cards_recipes_and_what_they_start_from_are_installed():
    for folder in ("compactff_md/shipped", "training/recipes", "training/data"):
        assert files(ROOT / folder) and all(map(installed, files(ROOT / folder))), folder
    assert not installed(ROOT / "validation" / "reports" / "organic-tiny.json")
    assert not installed(ROOT / "training" / "recipes" / "deeper" / "a.yaml")


def test_what_texts_name_is_in_the_source_distribution():
    for document in [*DOCUMENTS, *SCRIPTS]:
        for name in paths(document):
            for path in ROOT.glob(name.rstrip("/")):
                named = files(path.resolve()) if path.is_dir() else [path.resolve()]
                lacking = [p for p in named if not installed(p) and not grafted(p)]
                assert not lacking, f"{document.name}: {lacking}"
