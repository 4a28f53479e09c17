"""``training/recipes/*.sh``: which commands they give, without running them."""

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
RECIPES = ROOT / "training" / "recipes"
SIZES = ("ultra-tiny", "tiny", "original")

# In the place of the interpreter: writes down what it is called with, lists of molecules, labels of rounds.
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
elif "runs/argyrodite-tiny" in sys.argv:
    for name in ("01", "02"):
        folder = Path("runs/argyrodite-tiny/rounds") / name
        folder.mkdir(parents=True)
        (folder / "labelled.xyz").touch()
"""


def called(folder, script, size):
    recorder = folder / "python"
    recorder.write_text(RECORDER.format(python=sys.executable))
    recorder.chmod(0o755)
    environment = {"PYTHON": str(recorder), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", RECIPES / script, size], cwd=folder, env=environment, check=True)
    lines = (folder / "called.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def distilled(calls):
    """The options of each ``compactff distill``."""
    return [words[words.index("distill") :] for words in calls if "compactff_md" in words]


def configurations(calls, monkeypatch):
    """What the command line makes of each of them, with its folder."""
    made = []
    monkeypatch.setattr(command, "run", lambda config, out, progress: made.append((config, str(out))))
    monkeypatch.setattr(command, "label", lambda config, out, progress: made.append((config, str(out))))
    monkeypatch.setattr(command, "say_run", lambda result: None)
    monkeypatch.setattr(command, "leads", lambda: False)
    for words in distilled(calls):
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["organic", "argyrodite"])
def test_every_command_is_one_that_the_command_line_takes(tmp_path, monkeypatch, family, size):
    made = configurations(called(tmp_path, f"{family}.sh", size), monkeypatch)
    folders = [out for _, out in made]
    for index, (config, _) in enumerate(made):
        needed = [*config.labelled, config.labels_from, config.start_from]
        assert {"/".join(str(path).split("/")[:2]) for path in needed if path} <= set(folders[:index])
    last, out = made[-1]
    assert out == f"runs/{family}-{size}" and last.size == size
    assert (last.start_from is not None) == (family == "organic" or size == "original")


def test_argyrodites_learn_from_all_rounds_of_the_first_and_more(tmp_path, monkeypatch):
    made = configurations(called(tmp_path, "argyrodite.sh", "original"), monkeypatch)
    rounds = tuple(f"runs/argyrodite-tiny/rounds/{name}/labelled.xyz" for name in ("01", "02"))
    learned = {out: config.labelled for config, out in made}
    assert learned["runs/argyrodite-original-first"] == rounds
    assert learned["runs/argyrodite-original"] == (*rounds, "runs/argyrodite-more/train.xyz")
    assert [config.rounds.most for config, _ in made] == [3, 0, 0, 0]
    assert [config.steps for config, _ in made] == [20000, 2, 9000, 3500]


def test_all_lists_are_apart_from_the_test(tmp_path):
    lists = [
        words
        for words in called(tmp_path, "organic.sh", "original")
        if "compactff_md.training.molecules" in words
    ]
    learned = [words for words in lists if words[words.index("--out") + 1] != "runs/molecules"]
    assert len(lists) == len(learned) + 1 == 8
    for words in learned:
        others = tmp_path / words[words.index("--apart-from") + 1]
        assert "# molecules\n" in others.read_text() and read_smiles(others)


@pytest.mark.parametrize("script", ["organic.sh", "argyrodite.sh"])
def test_a_size_that_there_is_not_is_told(script):
    found = subprocess.run(["bash", RECIPES / script, "huge"], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "expected ultra-tiny, tiny or original" in found.stderr
