import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import MDAnalysis
import numpy as np
import pytest

from compactff_md.engines import openmm_recorder
from compactff_md.engines.md_log import read_log
from compactff_md.engines.openmm_import import openmm
from compactff_md.engines.openmm_md import MDStopped, run_md, simulate
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from openmm_builders import ethanol, settings, springs, student

# What MDAnalysis says of its own future.
pytestmark = pytest.mark.filterwarnings("ignore:DCDReader currently makes:DeprecationWarning")


@pytest.fixture(scope="module")
def network():
    return student(0.05)


@pytest.mark.parametrize("force", ["torchforce", "python"])
@pytest.mark.parametrize("format", ["xtc", "dcd"])
def test_a_resumed_run_is_the_same_run(tmp_path, network, format, force):
    asked = settings(trajectory_format=format, force=force)
    run_md(ethanol(), network, asked, tmp_path / "whole")
    run_md(ethanol(), network, asked.model_copy(update={"steps": 17}), tmp_path / "parts")
    run_md(ethanol(), network, asked, tmp_path / "parts", resume=True)
    whole, parts = read_log(tmp_path / "whole/log.csv"), read_log(tmp_path / "parts/log.csv")
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-6 if name != "temperature_K" else 1e-2)
    frames = [
        np.array(
            [f.positions.copy() for f in MDAnalysis.Universe(str(out / "topology.pdb"), str(file)).trajectory]
        )
        for out in (tmp_path / "whole", tmp_path / "parts")
        for file in out.glob(f"trajectory.{format}")
    ]
    assert len(frames[0]) == 4
    np.testing.assert_allclose(frames[0], frames[1], atol=0.011 if format == "xtc" else 1e-4)


def test_resuming_springs_is_exact(tmp_path):
    made = springs(ethanol())
    simulate(made, settings(steps=101), tmp_path / "whole")
    for steps in (33, 34, 101):
        simulate(made, settings(steps=steps), tmp_path / "parts", resume=steps > 33)
    assert (tmp_path / "whole/log.csv").read_text() == (tmp_path / "parts/log.csv").read_text()
    for name in ("trajectory.xtc", "topology.pdb"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    states = [
        openmm.XmlSerializer.deserialize((tmp_path / p / "restart.xml").read_text())
        for p in ("whole", "parts")
    ]
    np.testing.assert_array_equal(*[s.getVelocities(asNumpy=True)._value for s in states])
    assert states[1].getStepCount() == 101


def test_resuming_draws_new_random_numbers(tmp_path):
    made = springs(ethanol())
    simulate(made, settings(ensemble="nvt", steps=20), tmp_path / "run")
    first = read_log(tmp_path / "run/log.csv")["kinetic_eV"]
    simulate(made, settings(ensemble="nvt", steps=40), tmp_path / "run", resume=True)
    log = read_log(tmp_path / "run/log.csv")
    np.testing.assert_array_equal(log["step"], np.arange(0, 41, 5))
    np.testing.assert_array_equal(log["kinetic_eV"][:5], first)


def test_a_finished_run_has_nothing_to_resume(tmp_path):
    made = springs(ethanol())
    simulate(made, settings(), tmp_path / "run")
    before = (tmp_path / "run/log.csv").read_text()
    for steps in (40, 20):
        result = simulate(made, settings(steps=steps), tmp_path / "run", resume=True)
        assert result.completed and result.steps == 40
    assert (tmp_path / "run/log.csv").read_text() == before


def test_resume_falls_back_on_the_restart_before(tmp_path):
    made = springs(ethanol())
    simulate(made, settings(restart_interval=20), tmp_path / "run")
    before = read_log(tmp_path / "run/log.csv")
    (tmp_path / "run/restart.xml").write_text("<State")
    result = simulate(made, settings(), tmp_path / "run", resume=True)
    assert result.steps == 40
    np.testing.assert_array_equal(read_log(result.log)["total_eV"], before["total_eV"])
    for name in ("restart.xml", "restart_previous.xml"):
        (tmp_path / "run" / name).write_text("<State")
    with pytest.raises(CompactFFError, match="neither restart file"):
        simulate(made, settings(), tmp_path / "run", resume=True)


def test_folders_of_other_runs_are_refused(tmp_path, network):
    run_md(ethanol(), network, settings(force="python"), tmp_path / "run")
    with pytest.raises(CompactFFError, match=r"already holds a run \(settings.json, log.csv, trajectory.xtc"):
        run_md(ethanol(), network, settings(), tmp_path / "run")
    with pytest.raises(CompactFFError, match="differs in timestep_fs, seed;"):
        run_md(
            ethanol(),
            network,
            settings(force="python", seed=5, timestep_fs=0.2),
            tmp_path / "run",
            resume=True,
        )
    with pytest.raises(CompactFFError, match="differs in student;"):
        run_md(ethanol(), student(0.06), settings(force="python"), tmp_path / "run", resume=True)
    moved = Structure(ethanol().positions_A + 0.01, ethanol().numbers)
    with pytest.raises(CompactFFError, match="differs in structure;"):
        run_md(moved, network, settings(force="python"), tmp_path / "run", resume=True)
    heavy = ethanol().to_ase()
    heavy.set_masses(2.0 * heavy.get_masses())
    run_md(heavy, network, settings(force="python"), tmp_path / "heavy")
    for other, name in ((heavy, "run"), (ethanol(), "heavy")):
        with pytest.raises(CompactFFError, match="differs in masses;"):
            run_md(other, network, settings(force="python"), tmp_path / name, resume=True)
    run_md(heavy, network, settings(force="python", steps=45), tmp_path / "heavy", resume=True)
    with pytest.raises(CompactFFError, match="no run to resume"):
        run_md(ethanol(), network, settings(), tmp_path / "other", resume=True)
    (tmp_path / "a file").write_text("")
    with pytest.raises(CompactFFError, match="cannot make the folder"):
        run_md(ethanol(), network, settings(), tmp_path / "a file" / "run")


def test_a_run_whose_settings_say_nothing_of_masses_goes_on(tmp_path, network):
    """They came later than the other facts about a run."""
    run_md(ethanol(), network, settings(force="python"), tmp_path / "run")
    path = tmp_path / "run" / "settings.json"
    written = json.loads(path.read_text())
    assert written.pop("masses") is None
    path.write_text(json.dumps(written))
    assert run_md(
        ethanol(), network, settings(force="python", steps=45), tmp_path / "run", resume=True
    ).completed


@pytest.mark.parametrize("written", [{"ensemble": "nvt", "thermo_interval": 100}, [], {"settings": 3}])
def test_settings_of_something_else_are_no_run(tmp_path, written):
    """Decks of earlier versions had a file of that name."""
    (tmp_path / "settings.json").write_text(json.dumps(written))
    with pytest.raises(CompactFFError, match=r"no run to resume in .* of a LAMMPS deck or another program"):
        simulate(springs(ethanol()), settings(), tmp_path, resume=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_order(tmp_path, number):
    made = springs(ethanol())
    long = settings(steps=10_000_000, report_interval=1000, trajectory_interval=1000)
    sent = []

    def send(progress):
        if progress.step > 1000 and not sent:
            sent.append(progress.step)
            os.kill(os.getpid(), number)

    result = simulate(made, long, tmp_path / "run", progress=send)
    assert not result.completed and result.signal == number and 1000 < result.steps < 10_000_000
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    state = openmm.XmlSerializer.deserialize((tmp_path / "run/restart.xml").read_text())
    assert state.getStepCount() == result.steps
    more = long.model_copy(update={"steps": result.steps + 500})
    assert simulate(made, more, tmp_path / "run", resume=True).completed


KILLED = """
import sys
from openmm_builders import ethanol, springs
from compactff_md.engines.openmm_md import MDSettings, simulate
settings = MDSettings(ensemble="nve", timestep_fs=0.1, steps=100_000_000, report_interval=50,
                      trajectory_interval=30, restart_interval=700)
simulate(springs(ethanol()), settings, sys.argv[1])
"""


def test_a_killed_run_is_resumed_without_gaps_or_doubles(tmp_path):
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], env=environment)
    patience = time.monotonic() + 60
    while not (out / "restart_previous.xml").exists() and time.monotonic() < patience:
        time.sleep(0.02)
    with pytest.raises(CompactFFError, match="another process is running"):
        simulate(
            springs(ethanol()),
            settings(steps=100_000_000, report_interval=50, trajectory_interval=30),
            out,
            resume=True,
        )
    time.sleep(0.1)
    process.kill()
    process.wait()
    state = openmm.XmlSerializer.deserialize((out / "restart.xml").read_text())
    steps = state.getStepCount() + 330
    more = settings(steps=steps, report_interval=50, trajectory_interval=30)
    result = simulate(springs(ethanol()), more, out, resume=True)
    np.testing.assert_array_equal(read_log(result.log)["step"], np.arange(0, steps + 1, 50))
    universe = MDAnalysis.Universe(str(result.topology), str(result.trajectory))
    times = [frame.time for frame in universe.trajectory]
    np.testing.assert_allclose(times, np.arange(30, steps + 1, 30) * 1e-4, rtol=1e-5)
    whole = simulate(springs(ethanol()), more, tmp_path / "whole")
    np.testing.assert_allclose(read_log(result.log)["total_eV"], read_log(whole.log)["total_eV"], atol=1e-8)


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"run/.lock cannot be locked \(Function not implemented\)"):
        assert simulate(springs(ethanol()), settings(), tmp_path / "run").completed


def test_a_force_that_does_not_work_leaves_the_folder_free(tmp_path):
    broken = springs(ethanol())

    def fail(state):
        raise ValueError("no such force")

    broken.system.addForce(openmm.PythonForce(fail))
    with pytest.raises(MDStopped, match="the engine failed: no such force"):
        simulate(broken, settings(), tmp_path / "run")
    assert simulate(springs(ethanol()), settings(), tmp_path / "run").completed


def test_runs_in_other_threads_work_without_signals(tmp_path):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(simulate(springs(ethanol()), settings(), tmp_path / "run"))
    )
    thread.start()
    thread.join()
    assert results[0].completed


def test_a_full_disk_stops_a_run_in_order(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openmm_recorder.Recorder, "_write_frame", full)
    with pytest.raises(MDStopped, match=r"No space left on device; everything .* make room and resume"):
        simulate(springs(ethanol()), settings(), tmp_path / "run")
    monkeypatch.undo()
    assert simulate(springs(ethanol()), settings(), tmp_path / "run", resume=True).completed


@pytest.fixture
def limit_files():
    """Give the operating system a limit of bytes for every file, as a full disk would be one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


NO_LIMIT = resource.RLIM_INFINITY
FULL = {
    "log": ({"report_interval": 1, "trajectory_interval": 5000}, 20_000),
    "trajectory": ({"trajectory_interval": 1, "trajectory_format": "dcd"}, 20_000),
    "restart": ({"restart_interval": 50, "report_interval": 500, "trajectory_interval": 500}, 1000),
}


@pytest.mark.parametrize("file", FULL)
def test_a_limit_of_the_system_stops_a_run_in_order(tmp_path, limit_files, file):
    fields, size = FULL[file]
    asked = settings(steps=1000, **fields)
    with pytest.raises(MDStopped, match=r"stopped at step \d+: .*make room and resume the run"):
        simulate(springs(ethanol()), asked, tmp_path / "run", progress=lambda _: limit_files(size))
    limit_files(NO_LIMIT)
    result = simulate(springs(ethanol()), asked, tmp_path / "run", resume=True)
    np.testing.assert_array_equal(read_log(result.log)["step"], np.arange(0, 1001, asked.report_interval))


@pytest.mark.parametrize("file", ["settings.json", "topology.pdb", "restart.xml"])
def test_a_disk_that_is_full_from_the_start_leaves_what_is_said(tmp_path, limit_files, file):
    simulate(springs(ethanol()), settings(), tmp_path / "before")
    limit_files((tmp_path / "before" / file).stat().st_size - 1)
    with pytest.raises(CompactFFError, match=r"run the same command again|resume the run") as caught:
        simulate(springs(ethanol()), settings(), tmp_path / "run")
    limit_files(NO_LIMIT)
    resume = "resume the run" in str(caught.value)
    assert simulate(springs(ethanol()), settings(), tmp_path / "run", resume=resume).completed


def test_a_run_that_makes_no_sense_is_told_where_nothing_can_be_kept(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    made = springs(ethanol())
    made.system.addForce(openmm.PythonForce(lambda state: (float("nan") if limit else 0.0, np.zeros((9, 3)))))
    limit = []

    def break_everything(progress):
        limit.append(progress.step)
        monkeypatch.setattr(openmm_recorder.Recorder, "save", fail)
        monkeypatch.setattr(openmm_recorder.Recorder, "save_failed", lambda _: 1 / 0)  # as a lost GPU would

    with pytest.raises(MDStopped, match=r"potential energy is nan.* Everything written before is kept in"):
        simulate(made, settings(steps=1000), tmp_path / "run", progress=break_everything)
