"""What the documents say exists."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import compactff_md
from compactff_md.artifact import StudentMetadata
from compactff_md.cli import app
from compactff_md.engines.lammps_settings import DeckSettings
from compactff_md.engines.md_settings import MDSettings
from compactff_md.students import BUDGETS
from compactff_md.teachers import TEACHERS
from compactff_md.training import bench
from compactff_md.training.config import DistillConfig, TrainConfig
from compactff_md.validation.settings import SuiteSettings
from texts import CARDS, DOCUMENTS, ROOT, SCRIPTS, commands, lies_there, paths, settings

README = (ROOT / "README.md").read_text()
COMMANDS = get_command(app).commands
CONFIGURATIONS = {
    "distill": DistillConfig,
    "train": TrainConfig,
    "deck": DeckSettings,
    "md": MDSettings,
    "validate": SuiteSettings,
    "compare": SuiteSettings,
}


@pytest.mark.parametrize("document", [*DOCUMENTS, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
class TestWhatTextsName:
    def test_commands_and_options_are_those_of_the_command_line(self, document):
        for command in commands(document):
            if command.program != "compactff" or not command.words:
                continue
            name = command.words[0]
            assert name in COMMANDS or name.startswith("--"), command.text
            known = {"--help", "--version"}
            if name in COMMANDS:
                known |= {option for parameter in COMMANDS[name].params for option in parameter.opts}
            assert set(command.options) <= known, command.text

    def test_modules_that_python_runs_have_these_options(self, document):
        for command in commands(document):
            if command.program == "compactff":
                continue
            spec = importlib.util.find_spec(command.program)
            assert spec is not None and spec.origin is not None, command.text
            source = Path(spec.origin).read_text()
            assert 'if __name__ == "__main__":' in source, command.text
            assert all(f'"{option}"' in source for option in command.options), command.text
            if command.program == bench.__name__ and command.words:
                assert command.words[0] in bench.PARTS, command.text

    def test_fields_that_are_set_exist(self, document):
        for command in commands(document):
            for field in command.fields:
                assert has_field(CONFIGURATIONS[command.words[0]], field), command.text
        for field in settings(document):
            assert any(has_field(model, field) for model in CONFIGURATIONS.values()), field

    def test_paths_lead_somewhere(self, document):
        for name in paths(document):
            assert lies_there(name), name


def test_what_texts_name_is_found(tmp_path):
    text = tmp_path / "text.md"
    text.write_text(
        "`compactff md docs/a.xyz --out b`, `python -m compactff_md.training.bench gpu --x 1`, `lammps/b`.\n"
        "```bash\nCUDA=1 compactff train --set a.b=1 --yes  # as it is\n"
        "torchrun -n 4 -m compactff_md md c\n```\n"
        "`--set c_K=2`, `--set FIELD=VALUE`, and `runs/docs/x`.\n"
    )
    programs = ["compactff", "compactff", "compactff_md.training.bench", "compactff"]
    found = sorted(commands(text), key=lambda command: command.text)
    assert [command.program for command in found] == programs
    assert [command.words[0] for command in found] == ["train", "md", "gpu", "md"]
    assert found[0].options == ["--set", "--yes"] and found[0].fields == ["a.b"]
    assert settings(text) == ["a.b", "c_K"]
    assert paths(text) == {"docs/a.xyz", "lammps/b"}
    assert (
        not lies_there("docs/a.xyz")
        and lies_there("compactff_md/training/recipes")
        and lies_there("docs/*.md")
    )
    assert all(len(commands(card)) > 3 and len(paths(card)) > 3 for card in CARDS)


def has_field(model, field):
    """Whether a configuration has a field, such as ``sampling.driver``."""
    name, _, rest = field.partition(".")
    if name not in model.model_fields:
        return False
    return not rest or has_field(model.model_fields[name].annotation, rest)


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
