"""``compactff deck`` and ``compactff lammps``, as a user calls them."""

import os
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest

from compactff_md.cli import lammps as lammps_command
from compactff_md.engines.lammps_installation import Lammps
from lammps_builders import lammps
from reporters import flat

DECKS = ("in.lammps", "continue.lammps")


def test_a_folder_that_runs(run, tmp_path, student_file, water):
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


def test_its_exit_code_is_that_of_lammps(run, tmp_path):
    lammps()
    (tmp_path / "in.lammps").write_text("units nonsense\n")
    assert run("lammps", tmp_path).exit_code == 1


@pytest.mark.parametrize(
    "value", ["yes", "0100", "12:30", "null", "1_000", "0x10", ".5", "C O # x", "[1, 2]", "a=b", ""]
)
def test_variables_reach_lammps_as_they_are_given(run, tmp_path, monkeypatch, value):
    (tmp_path / "in.lammps").write_text("run 5\n")
    monkeypatch.setattr(lammps_command, "find_lammps", lambda: Lammps(Path("lmp"), "", (), (), True))
    shown = run("lammps", tmp_path, "--var", f"v={value}", "--show")
    assert shlex.split(shown.stdout)[-2:] == ["v", value], shown.output


def test_ctrl_c_tells_how_it_goes_on_and_the_same_command_overwrites_nothing(
    run, refused, tmp_path, monkeypatch
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
    for name in DECKS:
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
    for name in ("log.2.lammps", "trajectory.2.lammpstrj", "final.restart", "notes.txt"):
        (tmp_path / name).write_text("of the run before")
    run("lammps", tmp_path, "--overwrite")
    assert {path.name for path in tmp_path.iterdir()} == {*DECKS, "restart.a", "restart.b", "notes.txt"}
    names += ["log.2.lammps", "final.restart"]
    result = run("lammps", tmp_path / "continue.lammps")
    assert "--var from=restart.b --var part=3 (" in result.stderr
    assert started == ["in.lammps"] * 3 + ["continue.lammps"]


def test_what_a_run_left_is_not_overwritten_before_its_first_restart_file(
    run, refused, tmp_path, student_file, water, monkeypatch
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
    refused("lammps", out, words=["holds a run (log.lammps)", "--overwrite", "no restart file to go on from"])
    assert run("lammps", out, "--overwrite").exit_code == 130


def test_a_run_that_blew_up_is_explained(run, tmp_path, monkeypatch):
    def blown_up(found, plan, words, ranks, line, step):
        line("ERROR: Fix halt condition for fix-id energy_ran_away met on step 50 with value 56.3")
        return 1

    monkeypatch.setattr(lammps_command, "find_lammps", lambda: Lammps(Path("lmp"), "", (), (), True))
    monkeypatch.setattr(lammps_command, "run_deck", blown_up)
    (tmp_path / "in.lammps").write_text("run 5\n")
    result = run("lammps", tmp_path)
    assert result.exit_code == 1 and "the run blew up" in result.stderr


def test_mdanalysis_reads_what_the_deck_writes(run, tmp_path, student_file, water):
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
