import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("distributed")

from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.io import read
from distributed import LocalCluster

from compactff_md.errors import CompactFFError
from compactff_md.teachers import create_teacher
from compactff_md.training import cluster
from compactff_md.training.chains import shards_of
from compactff_md.training.cluster import ClusterPool, perform_there
from compactff_md.training.config import SamplingConfig
from compactff_md.training.labelling import labeller_here
from compactff_md.training.planning import ChainSpec
from compactff_md.training.tasks import chain_task, relax_task

EMT = "ase.calculators.emt:EMT"


def test_work_on_a_worker_is_that_of_this_process_and_errors_come_back():
    task = relax_task(molecule("CH3OH"), 5, "structure 0")
    answer = perform_there(EMT, {}, task, "run")
    assert answer == perform_there(EMT, {}, task, "run")
    assert len(answer["result"]["atoms"]["numbers"]) == 6
    atoms = molecule("H2O")
    atoms.numbers[0] = 92
    answer = perform_there(EMT, {}, relax_task(atoms, 5, "structure 1"), "run")
    assert "structure 1: the teacher" in answer["error"]


def test_without_dask_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "distributed", None)
    with pytest.raises(CompactFFError, match=r'pip install "compactff-md\[distill\]"'):
        ClusterPool(create_teacher(EMT), "local", 1, tmp_path)


def test_no_scheduler_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    pool = ClusterPool(create_teacher(EMT), "tcp://127.0.0.1:1", 1, tmp_path)
    with pytest.raises(CompactFFError, match=r"no dask scheduler answers at 'tcp://127\.0\.0\.1:1'"), pool:
        pass


@pytest.mark.filterwarnings("ignore")  # dask's own, of sockets and loops
def test_a_cluster_of_processes_here_does_what_the_pool_does(tmp_path):
    tasks = [relax_task(molecule("CH3OH"), 3, f"structure {k}") for k in range(3)]
    seen: list[int] = []
    with ClusterPool(create_teacher(EMT), "local", 1, tmp_path) as pool:
        results = pool.run(tasks, lambda index, frames: seen.append(index), lambda: 60.0)
    assert results == [perform_there(EMT, {}, task, "run")["result"] for task in tasks]
    assert sorted(seen) == [0, 1, 2]


class Meeting(Calculator):
    """Gives the first coordinate as the energy; not before two threads have calculated theirs, but for 0."""

    implemented_properties = ("energy", "forces")
    both = threading.Barrier(2, timeout=20.0)

    def calculate(self, atoms=None, properties=None, system_changes=None):
        self.results = {"energy": float(atoms.positions[0, 0]), "forces": np.zeros((len(atoms), 3))}
        if atoms.positions.any():
            Meeting.both.wait()


def given_task(folder, index: int):
    members = ChainSpec(name="c", purpose="train", members=(0,), frames=1, seed=(0,), walk="given")
    atoms = Atoms("H", positions=[[float(index), 0.0, 0.0]])
    return chain_task(members, {0: atoms}, folder / str(index), SamplingConfig())


def test_each_thread_of_a_worker_has_a_calculator_of_its_own(tmp_path):
    def label(index: int) -> float:
        perform_there(f"{__name__}:Meeting", {}, given_task(tmp_path, index), "run")
        return read(shards_of(tmp_path / str(index))[0]).get_potential_energy()

    label(0)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(label, (1, 2))) == [1.0, 2.0]


def test_the_driver_of_a_thread_is_its_own():
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(labeller_here, EMT, {}).result()
        assert thread.submit(labeller_here, EMT, {}).result() is other
    assert labeller_here(EMT, {}) is labeller_here(EMT, {}) is not other


def test_failures_of_an_earlier_run_do_not_count(tmp_path):
    """A worker lives longer than a run; what the first one failed on ended the next."""

    def fail(run: str, index: int) -> dict:
        atoms = Atoms("U", positions=[[0.0, 0.0, float(index)]])
        spec = ChainSpec(
            name="c", purpose="train", members=(0,), frames=4, seed=(index,), temperature_K=300.0
        )
        task = chain_task(spec, {0: atoms}, tmp_path / f"{run}{index}", SamplingConfig())
        return perform_there(EMT, {}, task, run)

    assert "error" in [fail("first", k) for k in range(4)][-1]
    assert "result" in fail("second", 0)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_is_as_large_as_its_threads_and_they_label_beside_each_other(tmp_path):
    members = tuple(range(10))
    spec = ChainSpec(name="c", purpose="train", members=members, frames=10, seed=(0,), walk="given")
    structures = {
        k: molecule("CH3OH", positions=molecule("CH3OH").positions * (1 + 0.02 * k)) for k in members
    }
    tasks = [chain_task(spec, structures, tmp_path / str(k), SamplingConfig()) for k in range(6)]
    workers = LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None)
    with workers, ClusterPool(create_teacher(EMT), workers.scheduler_address, 1, tmp_path) as pool:
        assert pool.size == 3
        pool.run(tasks, lambda index, frames: None)
    labeller = labeller_here(EMT, {})
    energies = [labeller.label(structures[k]).energy_eV for k in members]
    for k in range(6):
        frames = read(shards_of(tmp_path / str(k))[0], ":")
        assert [frame.get_potential_energy() for frame in frames] == pytest.approx(energies)
