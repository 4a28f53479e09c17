import pytest

pytest.importorskip("distributed")

from ase.build import molecule

from compactff_md.errors import CompactFFError
from compactff_md.teachers import create_teacher
from compactff_md.training import cluster
from compactff_md.training.cluster import ClusterPool, perform_there
from compactff_md.training.tasks import relax_task

EMT = "ase.calculators.emt:EMT"


def test_work_on_a_worker_is_that_of_this_process_and_errors_come_back():
    task = relax_task(molecule("CH3OH"), 5, "structure 0")
    answer = perform_there(EMT, {}, task)
    assert answer == perform_there(EMT, {}, task)
    assert len(answer["result"]["atoms"]["numbers"]) == 6
    atoms = molecule("H2O")
    atoms.numbers[0] = 92
    assert "structure 1: the teacher" in perform_there(EMT, {}, relax_task(atoms, 5, "structure 1"))["error"]


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
    assert results == [perform_there(EMT, {}, task)["result"] for task in tasks]
    assert sorted(seen) == [0, 1, 2]
