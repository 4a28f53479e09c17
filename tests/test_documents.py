"""What the documents say exists."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import compactff_md
from compactff_md.artifact import StudentMetadata
from compactff_md.cli import app
from compactff_md.students import BUDGETS
from compactff_md.teachers import TEACHERS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = get_command(app).commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_are_those_of_the_command_line(document):
    for line in re.findall(
        r"^(?:torchrun .*-m )?compactff(?:_md)? ([a-z].*)$", document.read_text(), re.MULTILINE
    ):
        name, *words = line.split("#")[0].split()
        assert name in COMMANDS, line
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
        used = [word for word in words if word.startswith("-")]
        assert set(used) <= known, line


def test_every_command_is_in_the_readme():
    for name in COMMANDS:
        assert f"compactff {name}" in README, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name):
    command = COMMANDS[name]
    assert f"compactff {name}" in (command.epilog or "") + (command.help or "")


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", document.read_text(), re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), f"{document.name}: {target}"


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_extras_sizes_teachers_and_names_are_as_told():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(f"`{extra}`" in README for extra in extras)
    for size, budget in BUDGETS.items():
        assert re.search(rf"`{size}` \| .*{budget:,}", README), size
    assert all(f"`{name}" in README for name in TEACHERS)
    for name in re.findall(r"student\.([a-z_A]+)", README):
        assert hasattr(compactff_md.Student, name) or name in ("metadata", "safetensors", "mliap"), name


def test_every_field_of_the_student_file_is_documented():
    text = (ROOT / "docs" / "file-format.md").read_text()
    assert all(f"| `{field}` |" in text for field in StudentMetadata.model_fields)
