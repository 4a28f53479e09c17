"""``training/recipes/organic.sh``: which commands it gives, without running them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import compactff_md.cli.distill as command
from compactff_md.cli import app
from compactff_md.training.molecules import read_smiles

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training" / "recipes" / "organic.sh"

# In the place of the interpreter: writes down what it is called with, and the lists of molecules.
RECORDER = """#!{python}
import json, sys
from pathlib import Path
with open("called.jsonl", "a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
if "compactff_md.training.molecules" in sys.argv:
    folder = Path(sys.argv[sys.argv.index("--out") + 1])
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        (folder / (name + ".smi")).write_text("# " + folder.name + "\\nC\\n")
"""


def called(folder, size):
    recorder = folder / "python"
    recorder.write_text(RECORDER.format(python=sys.executable))
    recorder.chmod(0o755)
    subprocess.run(
        ["bash", SCRIPT, size], cwd=folder, env={"PYTHON": str(recorder), "PATH": "/usr/bin:/bin"}, check=True
    )
    lines = (folder / "called.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def distilled(calls):
    """The options of each ``compactff distill``."""
    return [words[words.index("distill") :] for words in calls if "compactff_md" in words]


@pytest.mark.parametrize("size", ["ultra-tiny", "tiny", "original"])
def test_every_command_is_one_that_the_command_line_takes(tmp_path, monkeypatch, size):
    made = []
    monkeypatch.setattr(command, "run", lambda config, out, progress: made.append((config, out)))
    monkeypatch.setattr(command, "label", lambda config, out, progress: made.append((config, out)))
    monkeypatch.setattr(command, "say_run", lambda result: None)
    monkeypatch.setattr(command, "leads", lambda: False)
    calls = called(tmp_path, size)
    for words in distilled(calls):
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    written = {str(out) for _, out in made}
    for config, _ in made:
        needed = [*config.labelled, config.labels_from, config.start_from]
        folders = {str(path).split("/")[0] + "/" + str(path).split("/")[1] for path in needed if path}
        assert folders <= written
    last, out = made[-1]
    assert str(out) == f"runs/organic-{size}"
    assert last.size == size and last.start_from is not None


def test_all_lists_are_apart_from_the_test(tmp_path):
    lists = [words for words in called(tmp_path, "original") if "compactff_md.training.molecules" in words]
    learned = [words for words in lists if words[words.index("--out") + 1] != "runs/molecules"]
    assert len(lists) == len(learned) + 1 == 8
    for words in learned:
        others = tmp_path / words[words.index("--apart-from") + 1]
        assert "# molecules\n" in others.read_text() and read_smiles(others)


def test_a_size_that_there_is_not_is_told():
    found = subprocess.run(["bash", SCRIPT, "huge"], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "expected ultra-tiny, tiny or original" in found.stderr
