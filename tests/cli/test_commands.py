"""Every command as a user calls it, at the smallest size that still does everything."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ase.io import read

from compactff_md import load
from compactff_md.cli import group
from compactff_md.errors import CompactFFError
from reporters import flat

DATA = Path(__file__).resolve().parents[1] / "data"
COMMANDS = ("distill", "train", "evaluate", "export", "md", "deck", "lammps", "info", "doctor")
DISTILL = ("distill", "--teacher", "ase.calculators.emt:EMT", "--size", "ultra-tiny", "--temperature", "300")
FEW = ("--frames", "24", "--set", "sampling.test_frames=2", "--set", "sampling.equilibration_steps=1")


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_shows_an_example(self, run, command):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"Example: compactff {command} " in flat(result.stdout)

    def test_lists_the_commands(self, run):
        shown = flat(run("--help").stdout)
        assert all(command in shown for command in COMMANDS)
        assert run("--version").stdout.startswith("compactff 0")

    def test_unknown_command_and_option(self, run):
        assert run("distil").exit_code == 2
        assert run("info", "--jsn").exit_code == 2


class TestTrain:
    def test_writes_everything_and_does_it_once(self, run, tmp_path):
        args = ["train", "--size", "ultra-tiny", "--set", "steps=20", "--seed", 3]
        for option, name in (("--train", "train"), ("--train", "isolated_atoms"), ("--test", "test")):
            args += [option, DATA / f"ethanol_{name}.xyz"]
        result = run(*args, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        shown = flat(result.stdout)
        assert "ethanol_test 20 " in shown
        for name in ("student.safetensors", "metrics.json", "recipe.yaml", "report.png"):
            assert (tmp_path / "out" / name).is_file()
            assert name in shown
        assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["steps"] == 20
        assert load(tmp_path / "out").metadata.anchored  # by the isolated atoms
        again = run(*args, "--out", tmp_path / "out")
        assert again.exit_code == 0 and "nothing to do" in again.stderr

    def test_options_outrank_the_recipe(self, run, tmp_path):
        (tmp_path / "r.toml").write_text(
            'size = "tiny"\nsteps = 1\nlearning_rate = 0.001\n[checks]\nunits = false\n'
        )
        args = ("train", "--train", DATA / "ethanol_train.xyz", "--recipe", tmp_path / "r.toml")
        result = run(
            *args, "--size", "ultra-tiny", "--set", "checks.contacts=false", "--out", tmp_path / "out"
        )
        assert result.exit_code == 0, result.output
        found = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
        assert (found["size"], found["steps"], found["learning_rate"]) == ("ultra-tiny", 1, 0.001)
        assert (found["checks"]["units"], found["checks"]["contacts"]) == (False, False)


class TestDistill:
    def test_the_whole_way(self, run, tmp_path, copper):
        out = tmp_path / "out"
        result = run(*DISTILL, copper, *FEW, "--set", "steps=20", "--out", out)
        assert result.exit_code == 0, result.output
        assert "{test_300K,test_600K,train,valid}.xyz" in result.stdout
        assert len(read(out / "train.xyz", ":")) + len(read(out / "valid.xyz", ":")) == 24
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["errors"]["test_600K"]["forces"]["rmse_meV_per_A"] > 0
        student = load(out)
        assert student.metadata.teacher["name"] == "ase.calculators.emt:EMT"
        assert student.elements == ["Cu"]
        exported = run("export", out, "--structure", copper, "--out", tmp_path / "copper.pt")
        assert exported.exit_code == 0, exported.output
        assert str(tmp_path / "copper.pt") in exported.stdout.replace("\n", "")

    def test_a_recipe_alone(self, run, tmp_path, copper):
        recipe = {
            "structures": str(copper),
            "teacher": "ase.calculators.emt:EMT",
            "steps": 2,
            "sampling": {"frames": 24, "temperatures_K": [300], "test_frames": 1, "equilibration_steps": 1},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        result = run(
            "distill", "--recipe", tmp_path / "recipe.yaml", "--frames", 20, "--out", tmp_path / "out"
        )
        assert result.exit_code == 0, result.output
        found = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["sampling"]
        assert (found["frames"], found["temperatures_K"]) == (20, [300.0])

    def test_labels_first_and_the_student_later(self, run, tmp_path, copper):
        args = [*DISTILL, copper, *FEW, "--set", "steps=2", "--out", tmp_path / "out"]
        result = run(*args, "--labels-only")
        assert result.exit_code == 0, result.output
        assert "2 in test_600K, 22 in train, 2 in valid" in result.stdout
        assert not (tmp_path / "out" / "student.safetensors").exists()
        labels = (tmp_path / "out" / "train.xyz").stat().st_mtime_ns
        assert run(*args).exit_code == 0
        assert (tmp_path / "out" / "student.safetensors").exists()
        assert (tmp_path / "out" / "train.xyz").stat().st_mtime_ns == labels

    def test_killed_and_run_again(self, run, tmp_path, copper):
        """SIGKILL in the middle of the training; the same command ends it and keeps the labels."""
        out = tmp_path / "out"
        args = [*DISTILL, str(copper), *FEW, "--set", "steps=400", "--set", "checkpoint_seconds=0.1"]
        args += ["--out", str(out)]
        command = [sys.executable, "-m", "compactff_md", *args]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        checkpoint, deadline = out / "checkpoint.pt", time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert checkpoint.exists() and not (out / "student.safetensors").exists()
        labels = (out / "train.xyz").stat().st_mtime_ns
        assert run(*args).exit_code == 0
        assert (out / "train.xyz").stat().st_mtime_ns == labels
        assert json.loads((out / "metrics.json").read_text())["training"]["steps"] == 400


class TestExport:
    def test_file_runs_without_this_package(self, run, tmp_path, student_file, water):
        path = tmp_path / "water.pt"
        args = (
            "export",
            student_file,
            "--structure",
            water,
            "--dtype",
            "float64",
            "--skin",
            0.3,
            "--out",
            path,
        )
        assert run(*args).exit_code == 0
        code = f"""
import sys, torch
module = torch.jit.load({str(path)!r})
energy, forces = module(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]]))
assert forces.shape == (3, 3) and "compactff_md" not in sys.modules
print(float(energy))
"""
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestInfo:
    def test_json_of_the_file_alone(self, run, student_file):
        facts = json.loads(run("info", student_file, "--json").stdout)
        assert facts["elements"] == ["H", "C", "O"]
        assert facts["num_parameters"] == load(student_file).num_parameters
        assert facts["receptive_field_A"] == facts["cutoff_A"] * facts["num_interactions"]
        assert {"units", "dtype", "teacher", "data", "metrics", "versions", "bytes", "file"} <= facts.keys()

    def test_for_readers(self, run, student_file):
        shown = flat(run("info", student_file).stdout)
        assert "elements H, C, O" in shown and "name: none" in shown and "data none" in shown


class TestErrors:
    def test_debug_shows_the_traceback_wherever_it_stands(self, run, tmp_path):
        for args in (("--debug", "info", tmp_path / "x"), ("info", tmp_path / "x", "--debug")):
            result = run(*args)
            assert isinstance(result.exception, CompactFFError)

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (CompactFFError("wrong"), 2, "error: wrong"),
            (group.StoppedError("hot"), 1, "error: hot"),
            (KeyError("x"), 3, "this should not happen (KeyError: 'x'); --debug"),
            (OSError(28, "No space left on device"), 2, "no space left on the disk"),
            (PermissionError(13, "Permission denied"), 2, "Permission denied"),
            (KeyboardInterrupt(), 130, "error: interrupted\n"),
        ],
    )
    def test_kinds(self, run, monkeypatch, student_file, error, code, words):
        from compactff_md.cli import info

        monkeypatch.setattr(info, "read_metadata", lambda path: (_ for _ in ()).throw(error))
        result = run("info", student_file)
        assert result.exit_code == code
        assert words in result.stderr and "Traceback" not in result.output

    def test_interrupted_commands_say_how_they_go_on(self, run, monkeypatch, tmp_path, student_file, water):
        from compactff_md.cli import train

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(train, "train_from_files", interrupted)
        result = run("train", "--train", water, "--out", tmp_path / "student")
        assert result.exit_code == 130 and "the same command goes on where it was" in result.stderr
        pytest.importorskip("openmm")
        from compactff_md.engines import openmm_md

        monkeypatch.setattr(openmm_md, "run_md", interrupted)
        args = ("md", water, "--student", student_file, "--steps", 5, "--out", tmp_path)
        assert run(*args).stderr.endswith("error: interrupted\n")
        (tmp_path / "settings.json").write_text("{}")  # the run had begun
        result = run(*args)
        assert result.exit_code == 130 and "interrupted; go on with the same command and --resume" in flat(
            result.stderr
        )

    def test_in_a_process_of_its_own(self, tmp_path):
        command = [sys.executable, "-m", "compactff_md", "info", str(tmp_path / "none")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: no student") and done.stdout == ""


def test_torchrun_talks_once(monkeypatch):
    """Processes other than the first are silent."""
    from compactff_md.cli.options import leads, reporter

    assert leads()
    monkeypatch.setenv("RANK", "1")
    assert not leads() and type(reporter()).__name__ == "Reporter"
