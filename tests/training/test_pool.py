import os
import signal
import sys
import time

import numpy as np
import pytest
from ase.build import molecule

from compactff_md.errors import CompactFFError
from compactff_md.teachers import create_teacher
from compactff_md.training.chains import shards_of
from compactff_md.training.config import SamplingConfig
from compactff_md.training.packing import decode_atoms, encode_atoms
from compactff_md.training.planning import ChainSpec
from compactff_md.training.pool import TeacherPool, default_workers
from compactff_md.training.recipe_files import make_config
from compactff_md.training.tasks import chain_task, relax_task

EMT = "ase.calculators.emt:EMT"


def chains(folder, count: int, frames: int = 6):
    config = make_config(SamplingConfig, {"spacing_steps": 2})
    specs = [
        ChainSpec(
            name=f"c{k}", purpose="train", members=(0,), frames=frames, seed=(0, k), temperature_K=300.0
        )
        for k in range(count)
    ]
    return [chain_task(spec, {0: molecule("CH3OH")}, folder / spec.name, config) for spec in specs]


def test_structures_survive_being_sent():
    atoms = molecule("CH3OH", cell=[5, 6, 7], pbc=[True, False, True])
    again = decode_atoms(encode_atoms(atoms))
    assert again == atoms


def test_xtb_gets_a_process_a_core():
    assert default_workers(create_teacher("gfn2-xtb")) == min(8, os.cpu_count() or 1)
    assert default_workers(create_teacher(EMT)) == 1


def test_this_process_and_others_give_the_same_frames(tmp_path):
    teacher = create_teacher(EMT)
    for workers in (1, 2):
        seen: list[int] = []
        folder = tmp_path / str(workers)
        folder.mkdir()
        with TeacherPool(teacher, workers, folder) as pool:
            relaxed = pool.run([relax_task(molecule("CH3OH"), 5, "structure 0")], lambda i, n: None)
            results = pool.run(chains(folder, 3), lambda index, frames, seen=seen: seen.append(index))
        assert len(relaxed[0]["atoms"]["numbers"]) == 6
        assert [result["failures"] for result in results] == [0, 0, 0]
        assert set(seen) == {0, 1, 2}
    for k in range(3):
        one, two = (shards_of(tmp_path / w / f"c{k}")[0].read_text() for w in "12")
        assert one == two


def test_a_failure_in_a_process_is_told_here(tmp_path):
    with (
        TeacherPool(create_teacher(EMT), 2, tmp_path) as pool,
        pytest.raises(CompactFFError, match=r"structure 3: the teacher ase.* fails on it"),
    ):
        atoms = molecule("H2O")
        atoms.numbers[0] = 92
        pool.run([relax_task(atoms, 5, "structure 3")], lambda i, n: None)


def test_a_process_that_imports_another_teacher_is_told(tmp_path, monkeypatch):
    """This process goes on with what it imported, a fresh one finds what the file is now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taught.py").write_text("from ase.calculators.emt import EMT as make\n")
    teacher = create_teacher("taught:make")
    (tmp_path / "taught.py").write_text("from ase.calculators.lj import LennardJones as make\n")
    with (
        TeacherPool(teacher, 2, tmp_path) as pool,
        pytest.raises(CompactFFError, match=f"wanted is {teacher.version}.*the Python that began the run"),
    ):
        pool.run([relax_task(molecule("H2O"), 5, "structure 0")], lambda i, n: None)
    monkeypatch.delitem(sys.modules, "taught")


def test_a_killed_process_is_told_with_its_log(tmp_path):
    with TeacherPool(create_teacher(EMT), 2, tmp_path) as pool:
        os.kill(pool.processes[0].pid, signal.SIGKILL)
        os.kill(pool.processes[1].pid, signal.SIGKILL)
        time.sleep(0.2)
        with pytest.raises(CompactFFError, match=r"died \(exit status -9; its last words are in .*worker-"):
            pool.run(chains(tmp_path, 2), lambda i, n: None)


def test_what_the_caller_raises_stops_the_processes(tmp_path):
    def stop(index, frames):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), TeacherPool(create_teacher(EMT), 2, tmp_path) as pool:
        processes = pool.processes
        pool.run(chains(tmp_path, 2, frames=10_000), stop)
    assert all(process.poll() is not None for process in processes)


def test_the_time_is_shared_between_the_tasks(tmp_path):
    with TeacherPool(create_teacher(EMT), 1, tmp_path) as pool:
        started = time.monotonic()
        end = started + 2.0
        pool.run(chains(tmp_path, 2, frames=100_000), lambda i, n: None, lambda: end - time.monotonic())
    assert time.monotonic() - started < 6.0
    sizes = [sum(shard.stat().st_size for shard in shards_of(tmp_path / f"c{k}")) for k in range(2)]
    assert np.min(sizes) > 0
