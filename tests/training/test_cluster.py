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
from compactff_md.training.progress import Reporter
from compactff_md.training.tasks import chain_task, flock_task, relax_task

EMT = "ase.calculators.emt:EMT"
GIVEN = ChainSpec(name="c", purpose="train", members=(0,), frames=1, seed=(0,), walk="given")


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
    seen: list[tuple[int, int]] = []
    with ClusterPool(create_teacher(EMT), "local", 1, tmp_path) as pool:
        results = pool.run(tasks, lambda index, frames: seen.append((index, frames)), lambda: 60.0)
    assert results == [perform_there(EMT, {}, task, "run")["result"] for task in tasks]
    assert {index for index, frames in seen if frames == 1} == {0, 1, 2}


@pytest.fixture
def threads(monkeypatch):
    """Workers in this process, none at first."""
    monkeypatch.setattr(cluster, "WAIT_S", 0.01)
    monkeypatch.setattr(cluster, "TICK_S", 0.01)
    monkeypatch.setattr(cluster, "TELL_S", 0.0)
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None) as made:
        yield made


def test_a_worker_with_another_version_of_the_teacher_is_refused():
    task = relax_task(molecule("H2O"), 1, "structure 0")
    version = create_teacher(EMT).version
    assert "result" in perform_there(EMT, {}, {**task, "teacher_version": version}, "run")
    answer = perform_there(EMT, {}, {**task, "teacher_version": "another"}, "run")
    assert f"is {version} in a process on" in answer["error"] and "wanted is another" in answer["error"]
    assert "restart the dask workers" in answer["error"]


def test_a_worker_that_does_not_see_the_out_folder_labels_nothing(tmp_path):
    """It labelled everything below its own current folder."""
    task = chain_task(GIVEN, {0: Atoms("H")}, tmp_path / "labels" / "c", SamplingConfig())
    task["shared"] = str(tmp_path / "labels" / cluster.SHARED_FILE)
    answer = perform_there(EMT, {}, task, "run")
    assert str(tmp_path / "labels") in answer["error"] and "under the same path" in answer["error"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / cluster.SHARED_FILE).write_text("of another run")
    assert "does not see" in perform_there(EMT, {}, task, "run")["error"]


def test_a_task_of_a_killed_client_ends_when_its_successor_begins(tmp_path, monkeypatch):
    """It kept the worker busy to its end, and the successor waiting."""

    def perform(task, labeller, report):
        (tmp_path / "shared").write_text("successor")
        report(1)

    (tmp_path / "shared").write_text("run")
    monkeypatch.setattr(cluster, "perform", perform)
    monkeypatch.setattr(cluster, "TELL_S", 0.0)
    assert "taken over" in perform_there(EMT, {}, {"shared": str(tmp_path / "shared")}, "run")["error"]


@pytest.mark.filterwarnings("ignore")
def test_waiting_for_workers_can_be_interrupted(tmp_path, threads):
    class Impatient(Reporter):
        def note(self, message):
            raise KeyboardInterrupt

    pool = ClusterPool(create_teacher(EMT), threads.scheduler_address, 1, tmp_path, Impatient())
    with pytest.raises(KeyboardInterrupt), pool:
        pass
    assert pool.client.status == "closed"


class Counting(Calculator):
    """Does not calculate before the client has heard of the frames before, or that time goes by."""

    implemented_properties = ("energy", "forces")
    heard = threading.Semaphore(0)

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        assert self.heard.acquire(timeout=20.0)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


@pytest.mark.filterwarnings("ignore")
def test_it_waits_for_workers_and_hears_of_frames_before_a_task_ends(tmp_path, threads):
    class Hiring(Reporter):
        def note(self, message):
            assert "waiting for the first one" in message
            threads.scale(1)

    def listen(index: int, frames: int) -> None:
        if not seen or frames > seen[-1]:
            heard.release()
        seen.append(frames)

    seen: list[int] = []
    members = GIVEN.model_copy(update={"members": (0, 1, 2), "frames": 3})
    structures = {k: Atoms("H", positions=[[k, 0.0, 0.0]]) for k in members.members}
    task = chain_task(members, structures, tmp_path / "c", SamplingConfig())
    teacher = create_teacher(f"{__name__}:Counting")
    heard = teacher.calculator().heard
    with ClusterPool(teacher, threads.scheduler_address, 1, tmp_path, Hiring()) as pool:
        (result,) = pool.run([task], listen)
    assert result["calls"] == 3 and result["failures"] == 0
    assert sorted(set(seen)) == [0, 1, 2, 3] and seen == sorted(seen)


@pytest.mark.filterwarnings("ignore")
def test_tasks_get_their_share_of_the_time_that_is_left_when_they_begin(tmp_path, threads):
    """A flock counts the frames of all its chains; what comes after the time is not begun."""
    threads.scale(1)
    first, *others = (given_task(tmp_path, index) for index in range(4))
    ended: list[int] = []

    def end(index: int, frames: int) -> None:
        ended.extend([frames] if frames else [])

    with ClusterPool(create_teacher(EMT), threads.scheduler_address, 1, tmp_path) as pool:
        tasks = [flock_task([first, others[0]]), *others[1:]]
        results = pool.run(tasks, end, lambda: -1.0 if ended else 60.0)
    assert [result["calls"] for result in results] == [2, 0, 0]
    assert ended[-3:] == [2, 1, 1]


class Meeting(Calculator):
    """Gives the first coordinate as the energy; not before two threads have calculated theirs, but for 0."""

    implemented_properties = ("energy", "forces")
    both = threading.Barrier(2, timeout=20.0)

    def calculate(self, atoms=None, properties=None, system_changes=None):
        self.results = {"energy": float(atoms.positions[0, 0]), "forces": np.zeros((len(atoms), 3))}
        if atoms.positions.any():
            Meeting.both.wait()


def given_task(folder, index: int):
    atoms = Atoms("H", positions=[[float(index), 0.0, 0.0]])
    return chain_task(GIVEN, {0: atoms}, folder / str(index), SamplingConfig())


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
