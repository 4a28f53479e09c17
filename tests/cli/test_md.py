"""``compactff md``, as a user calls it, and what it says of a run."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.io import read

from compactff_md.cli import group
from compactff_md.cli.dynamics import picoseconds
from compactff_md.errors import CompactFFError
from reporters import flat

pytest.importorskip("openmm")


@pytest.mark.parametrize(
    ("steps", "said", "not_said"),
    [
        (3, ["report_interval is 4", "trajectory_interval is 6"], ["mean temperature"]),
        (5, ["mean temperature", "trajectory_interval is 6"], ["report_interval"]),
        (6, ["mean temperature"], ["report_interval", "trajectory_interval"]),
    ],
)
def test_short_runs_say_what_they_did_not_write(run, tmp_path, water, student_file, steps, said, not_said):
    args = ("md", water, "--student", student_file, "--force", "python", "--timestep", 0.1, "--steps", steps)
    intervals = ("--set", "report_interval=4", "--set", "trajectory_interval=6")
    result = run(*args, *intervals, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for words in said:
        assert words in result.stdout
    for words in not_said:
        assert words not in result.stdout


def test_run_and_resume(run, tmp_path, student_file, water):
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


def test_drift_is_told_where_energy_is_conserved(run, tmp_path, student_file, water):
    args = ("md", water, "--student", student_file, "--ensemble", "nve", "--force", "python")
    result = run(*args, "--steps", 4, "--set", "report_interval=1", "--out", tmp_path / "md")
    assert "total energy: drift" in result.stdout, result.output


def test_masses_in_the_file_are_obeyed(run, tmp_path, student_file, water):
    atoms = read(water)
    atoms.set_masses([15.999, 2.014, 2.014])
    atoms.write(tmp_path / "heavy.xyz")
    args = ("md", tmp_path / "heavy.xyz", "--student", student_file, "--force", "python", "--steps", 2)
    result = run(*args, "--out", tmp_path / "md")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "md" / "settings.json").read_text())
    assert written["masses"]["sum_Da"] == pytest.approx(20.027)


def test_stopped_simulation_ends_with_1_and_keeps_all(run, tmp_path, wild_student, water):
    out = tmp_path / "md"
    args = ("md", water, "--student", wild_student, "--ensemble", "nve", "--force", "python")
    result = run(*args, "--timestep", 10, "--steps", 2000, "--set", "report_interval=1", "--out", out)
    assert result.exit_code == group.EXIT_STOPPED, result.output
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.output
    assert len((out / "log.csv").read_text().splitlines()) >= 2


def test_ctrl_c_leaves_a_run_that_resumes(tmp_path, student_file, water):
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
def test_times(text, time_ps):
    assert picoseconds(text, "--time") == pytest.approx(time_ps)


@pytest.mark.parametrize("text", ["", "ps", "-1ps", "1.2.3ps", "10 PS", "nan"])
def test_what_is_no_time(text):
    with pytest.raises(CompactFFError, match="expected a time such as"):
        picoseconds(text, "--time")
