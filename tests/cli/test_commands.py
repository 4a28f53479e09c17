"""Every command as a user calls it, at the smallest size that still does everything."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.io import read

from compactff_md import load
from compactff_md.cli import group
from compactff_md.cli import lammps as lammps_command
from compactff_md.cli.dynamics import picoseconds
from compactff_md.engines.lammps_installation import Lammps
from compactff_md.errors import CompactFFError
from lammps_builders import lammps

DATA = Path(__file__).resolve().parents[1] / "data"
COMMANDS = ("distill", "train", "evaluate", "export", "md", "deck", "lammps", "info", "doctor")
DISTILL = ("distill", "--teacher", "ase.calculators.emt:EMT", "--size", "ultra-tiny", "--temperature", "300")
FEW = ("--frames", "24", "--set", "sampling.test_frames=2", "--set", "sampling.equilibration_steps=1")


def flat(text: str) -> str:
    """Text without the frames and line ends that rich adds."""
    return " ".join(text.replace("│", " ").split())


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


class TestDeckAndLammps:
    def test_a_folder_that_runs(self, run, tmp_path, student_file, water):
        found = lammps()
        out = tmp_path / "deck"
        args = ("deck", water, "--student", student_file, "--ensemble", "nve", "--steps", 20)
        shown = run(*args, "--set", "thermo_interval=10", "--out", out)
        assert shown.exit_code == 0, shown.output
        assert "compactff lammps" in shown.stdout and "lmp -in in.lammps" in shown.stdout
        names = {"system.data", "student.mliap.pt", "in.lammps", "continue.lammps", "deck.json"}
        assert {path.name for path in out.iterdir()} == names
        told = run("lammps", out, "--ranks", 2, "--var", "steps=10", "--show")
        assert "-n 2" in told.stdout and "-var steps 10" in told.stdout and "PYTHONPATH=" in told.stdout
        done = run("lammps", out)
        assert done.exit_code == 0, done.output
        assert "Loop time" in done.stdout and (out / "final.restart").is_file()
        assert str(found.executable) in told.stdout.replace("\n", "")

    def test_its_exit_code_is_that_of_lammps(self, run, tmp_path):
        lammps()
        (tmp_path / "in.lammps").write_text("units nonsense\n")
        assert run("lammps", tmp_path).exit_code == 1

    @pytest.mark.parametrize(
        "value", ["yes", "0100", "12:30", "null", "1_000", "0x10", ".5", "C O # x", "[1, 2]", "a=b", ""]
    )
    def test_variables_reach_lammps_as_they_are_given(self, run, tmp_path, monkeypatch, value):
        (tmp_path / "in.lammps").write_text("run 5\n")
        monkeypatch.setattr(lammps_command, "find_lammps", lambda: Lammps(Path("lmp"), "", (), (), True))
        shown = run("lammps", tmp_path, "--var", f"v={value}", "--show")
        assert shlex.split(shown.stdout)[-2:] == ["v", value], shown.output

    def test_ctrl_c_tells_how_it_goes_on_and_the_same_command_overwrites_nothing(
        self, run, refused, tmp_path, monkeypatch
    ):
        def interrupted(found, plan, *_):
            """In place of LAMMPS: write what the first half of a run leaves."""
            started.append(plan.path.name)
            for age, name in enumerate(names):
                (tmp_path / name).write_text("")
                os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
            raise KeyboardInterrupt

        found = Lammps(Path("lmp"), "1 Jan 2030", (), ("CUDA",), True)
        monkeypatch.setattr(lammps_command, "find_lammps", lambda: found)
        monkeypatch.setattr(lammps_command, "run_deck", interrupted)
        for name in ("in.lammps", "continue.lammps"):
            (tmp_path / name).write_text("run 5\n")
        started, names = [], []
        result = run("lammps", tmp_path)
        assert (result.exit_code, flat(result.stderr)) == (130, "error: interrupted")
        names += ["restart.b", "restart.a"]  # the newest first
        result = run("lammps", tmp_path, "--kokkos")  # again, as there was nothing to go on from
        going_on = f"go on with: compactff lammps {tmp_path}/continue.lammps --kokkos --var from=restart.b"
        assert result.exit_code == 130 and f"interrupted; {going_on} --var part=2 (" in result.stderr
        refused("lammps", tmp_path, "--kokkos", words=["holds a run", "--overwrite", going_on])
        assert started == ["in.lammps"] * 2
        run("lammps", tmp_path, "--overwrite")
        names += ["log.2.lammps", "final.restart"]
        result = run("lammps", tmp_path / "continue.lammps")
        assert "--var from=restart.b --var part=3 (" in result.stderr
        assert started == ["in.lammps"] * 3 + ["continue.lammps"]

    def test_what_a_run_left_is_not_overwritten_before_its_first_restart_file(
        self, run, refused, tmp_path, student_file, water, monkeypatch
    ):
        def interrupted(*_):
            (out / "log.lammps").write_text("   Step          Temp\n         0   300\n")
            raise KeyboardInterrupt

        monkeypatch.setattr(lammps_command, "find_lammps", lambda: Lammps(Path("lmp"), "", (), (), True))
        monkeypatch.setattr(lammps_command, "run_deck", interrupted)
        out = tmp_path / "deck"
        assert run("deck", water, "--student", student_file, "--steps", 20, "--out", out).exit_code == 0
        assert "restart         1000 restart.a restart.b" in (out / "in.lammps").read_text()
        (out / "log.lammps").write_text("LAMMPS\nERROR: no Python\n")  # came to no step
        result = run("lammps", out)
        assert result.exit_code == 130 and "no restart file yet" in flat(result.stderr)
        refused(
            "lammps", out, words=["holds a run (log.lammps)", "--overwrite", "no restart file to go on from"]
        )
        assert run("lammps", out, "--overwrite").exit_code == 130

    def test_a_run_that_blew_up_is_explained(self, run, tmp_path, monkeypatch):
        def blown_up(found, plan, words, ranks, line, step):
            line("ERROR: Fix halt condition for fix-id energy_ran_away met on step 50 with value 56.3")
            return 1

        monkeypatch.setattr(lammps_command, "find_lammps", lambda: Lammps(Path("lmp"), "", (), (), True))
        monkeypatch.setattr(lammps_command, "run_deck", blown_up)
        (tmp_path / "in.lammps").write_text("run 5\n")
        result = run("lammps", tmp_path)
        assert result.exit_code == 1 and "the run blew up" in result.stderr

    def test_mdanalysis_reads_what_the_deck_writes(self, run, tmp_path, student_file, water):
        lammps()
        mda = pytest.importorskip("MDAnalysis")
        out = tmp_path / "deck"
        args = ("deck", water, "--student", student_file, "--ensemble", "nvt", "--steps", 4)
        assert run(*args, "--set", "trajectory_interval=2", "--out", out).exit_code == 0
        assert run("lammps", out).exit_code == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            universe = mda.Universe(
                str(out / "system.data"),
                str(out / "trajectory.lammpstrj"),
                atom_style="id type x y z",
                format="LAMMPSDUMP",
            )
            frames = [frame.positions.copy() for frame in universe.trajectory]
        assert len(frames) == 3 and frames[0].shape == (3, 3)
        assert not np.array_equal(frames[0], frames[2])


class TestMD:
    @pytest.fixture(autouse=True)
    def _openmm(self):
        pytest.importorskip("openmm")

    def test_run_and_resume(self, run, tmp_path, student_file, water):
        out = tmp_path / "md"
        args = (
            "md",
            water,
            "--student",
            student_file,
            "--ensemble",
            "nvt",
            "--temperature",
            50,
            "--force",
            "python",
        )
        args += ("--platform", "Reference", "--set", "report_interval=5", "--set", "trajectory_interval=5")
        result = run(*args, "--time", "10fs", "--out", out)
        assert result.exit_code == 0, result.output
        shown = flat(result.stdout)
        assert "0.01 ps (20 steps) on Reference" in shown and "total energy: drift" not in shown
        for name in ("topology.pdb", "trajectory.xtc", "log.csv", "restart.xml"):
            assert (out / name).is_file() and name in shown
        longer = run(*args, "--time", "20fs", "--out", out, "--resume")
        assert longer.exit_code == 0, longer.output
        rows = np.loadtxt(out / "log.csv", delimiter=",", skiprows=1)
        assert rows[:, 0].tolist() == list(range(0, 41, 5))

    def test_drift_is_told_where_energy_is_conserved(self, run, tmp_path, student_file, water):
        args = ("md", water, "--student", student_file, "--ensemble", "nve", "--force", "python")
        result = run(*args, "--steps", 4, "--set", "report_interval=1", "--out", tmp_path / "md")
        assert "total energy: drift" in result.stdout, result.output

    def test_masses_in_the_file_are_obeyed(self, run, tmp_path, student_file, water):
        atoms = read(water)
        atoms.set_masses([15.999, 2.014, 2.014])
        atoms.write(tmp_path / "heavy.xyz")
        args = ("md", tmp_path / "heavy.xyz", "--student", student_file, "--force", "python", "--steps", 2)
        result = run(*args, "--out", tmp_path / "md")
        assert result.exit_code == 0, result.output
        written = json.loads((tmp_path / "md" / "settings.json").read_text())
        assert written["masses"]["sum_Da"] == pytest.approx(20.027)

    def test_stopped_simulation_ends_with_1_and_keeps_all(self, run, tmp_path, wild_student, water):
        out = tmp_path / "md"
        args = ("md", water, "--student", wild_student, "--ensemble", "nve", "--force", "python")
        result = run(*args, "--timestep", 10, "--steps", 2000, "--set", "report_interval=1", "--out", out)
        assert result.exit_code == group.EXIT_STOPPED, result.output
        assert result.stderr.count("error: ") == 1 and "Traceback" not in result.output
        assert len((out / "log.csv").read_text().splitlines()) >= 2

    def test_ctrl_c_leaves_a_run_that_resumes(self, tmp_path, student_file, water):
        out = tmp_path / "md"
        command = [sys.executable, "-m", "compactff_md", "md", str(water), "--student", str(student_file)]
        command += ["--force", "python", "--time", "1us", "--out", str(out), "--set", "report_interval=10"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out / "log.csv").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT, errors
        assert "--resume" in shown and "Traceback" not in errors
        assert (out / "restart.xml").is_file()

    @pytest.mark.parametrize(
        ("text", "time_ps"),
        [("10ps", 10), ("1 ns", 1000), ("500fs", 0.5), ("2", 2), ("1e-3us", 1000), (None, None)],
    )
    def test_times(self, text, time_ps):
        assert picoseconds(text, "--time") == pytest.approx(time_ps)

    @pytest.mark.parametrize("text", ["", "ps", "-1ps", "1.2.3ps", "10 PS", "nan"])
    def test_what_is_no_time(self, text):
        with pytest.raises(CompactFFError, match="expected a time such as"):
            picoseconds(text, "--time")


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
