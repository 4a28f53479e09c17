"""Teachers on other machines, through dask.distributed, an optional package.

Workers must have this package and the teacher installed, and see the out folder under the same path: what
they label goes there, in the same shards as from the processes of one machine. Each thread of a worker has a
calculator of its own; where a teacher cannot be called from two threads at once, workers of one thread do it
(``dask worker --nthreads 1``).
"""

from __future__ import annotations

import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from compactff_md.errors import CompactFFError
from compactff_md.files import write_text
from compactff_md.teachers import Teacher
from compactff_md.training.labelling import LabelCounts, labeller_here
from compactff_md.training.pool import Dealer, OnFrames
from compactff_md.training.progress import Reporter
from compactff_md.training.tasks import Task, perform

try:
    import distributed
except ImportError:
    distributed = None

CONNECT_SECONDS = 30
RETRIES = 3  # of a task whose worker was lost; what it had labelled stays
SHARED_FILE = "seen-by-workers"
WAIT_S = 1.0  # between two looks for a worker
TICK_S = 2.0  # at most, between two looks at the clock while tasks are done
TELL_S = 5.0  # at least, between two messages of a worker about the same task
TOPIC = "compactff-md"
_totals = threading.local()


def perform_there(name: str, settings: dict[str, Any], task: Task, run: str) -> dict[str, Any]:
    """Do a task in a thread of a worker, whose teacher is kept from task to task; errors come back as data.

    Failures count for the ``run`` alone, of which the worker may see several. A task may name the
    ``teacher_version`` that is wanted, and a ``shared`` file in which the worker has to find the run; it ends
    early where the file names another run, which then goes on in the folder.
    """
    shared = Path(task["shared"]) if "shared" in task else None
    try:
        if shared is not None and _run_in(shared) != run:
            raise CompactFFError(
                f"a dask worker on {socket.gethostname()} does not see the folder {shared.parent} of this "
                "run: all workers must see the out folder under the same path as where the run began"
            )
        labeller = labeller_here(name, settings, task.get("teacher_version"))
        labeller.totals = vars(_totals).setdefault(run, LabelCounts())
        return {"result": perform(task, labeller, _teller(shared, run))}
    except CompactFFError as error:
        return {"error": str(error)}


def _run_in(shared: Path) -> str:
    """The run that a folder is of; empty where that cannot be read."""
    try:
        return shared.read_text(encoding="utf-8")
    except OSError:
        return ""


def _teller(shared: Path | None, run: str) -> Callable[[int], None]:
    """What tells the client now and then how many frames the task of this thread has."""
    last = time.monotonic()

    def tell(frames: int) -> None:
        nonlocal last
        if time.monotonic() - last < TELL_S:
            return
        last = time.monotonic()
        if shared is not None and _run_in(shared) not in (run, ""):
            raise CompactFFError(f"{shared.parent} was taken over by another process, which goes on with it")
        with suppress(AttributeError, KeyError, ValueError):  # where the thread is none of dask's
            worker = distributed.get_worker()
            worker.log_event(TOPIC, [worker.get_current_task(), frames])

    return tell


class ClusterPool:
    """Runs tasks on the workers of a dask scheduler; use it as a context manager.

    It begins when there is a worker. Where the time is limited, tasks are handed out as workers get free,
    each with its share of the time that is left then.

    Parameters
    ----------
    teacher
        Found and tried here; made again on each worker.
    address
        Of the scheduler, or "local" for one of its own with ``workers`` processes.
    workers
        With "local" alone.
    folder
        Where the tasks' files go; workers must see it under the same path.
    reporter
        Is told of waiting.

    Raises
    ------
    CompactFFError
        Without dask.distributed, or where no scheduler answers.
    """

    def __init__(
        self, teacher: Teacher, address: str, workers: int, folder: Path, reporter: Reporter | None = None
    ) -> None:
        if distributed is None:
            raise CompactFFError(
                "labelling on a cluster needs dask.distributed, which cannot be imported; run: "
                'pip install "compactff-md[distill]"'
            )
        self.teacher, self.address, self.workers = teacher, address, workers
        self.folder, self.reporter = folder.absolute(), reporter or Reporter()
        self.run_token = secrets.token_hex(8)
        # Keys of tasks with the frames that they have so far, and with None when they end.
        self.events: queue.SimpleQueue[tuple[str, int | None]] = queue.SimpleQueue()
        self.client: Any = None
        self.cluster: Any = None

    def __enter__(self) -> Self:
        try:
            self._connect()
            write_text(self.folder / SHARED_FILE, self.run_token)
            self._wait_for_workers()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _connect(self) -> None:
        try:
            if self.address == "local":
                self.cluster = distributed.LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    local_directory=str(self.folder),
                )
            self.client = distributed.Client(self.cluster or self.address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise CompactFFError(
                f"no dask scheduler answers at {self.address!r} ({error}); expected an address such as "
                "tcp://host:8786, or local"
            ) from error
        self.client.subscribe_topic(TOPIC, lambda event: self.events.put(tuple(event[1])))

    def _close(self) -> None:
        for part in (self.client, self.cluster):
            if part is not None:
                with suppress(Exception):  # the scheduler may be gone
                    part.close()

    @property
    def size(self) -> int:
        """Tasks that are done at once, by the workers that are there now."""
        return max(1, self._threads())

    def _threads(self) -> int:
        try:
            return int(sum(self.client.nthreads().values()))
        except OSError as error:
            raise self._lost(error) from error

    def _wait_for_workers(self) -> None:
        if not self._threads():
            self.reporter.note(f"{self.address} has no dask workers yet: waiting for the first one")
        while not self._threads():
            time.sleep(WAIT_S)

    def run(
        self, tasks: list[Task], on_frames: OnFrames, time_left: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Do all tasks and return their results in order.

        ``on_frames`` is called with the frames of a task as its worker tells of them, as it ends, and every
        few seconds whatever happens.

        Raises
        ------
        CompactFFError
            What a task raised, or that its workers were lost again and again.
        """
        self._wait_for_workers()
        limited = time_left is not None and time_left() < inf
        deal = Dealer(tasks, self.size, time_left)
        results: list[dict[str, Any]] = [{} for _ in tasks]
        made = [0] * len(tasks)
        running: dict[str, tuple[int, Any]] = {}
        try:
            while True:
                free = None
                if limited:
                    deal.workers = self.size
                    free = max(0, deal.workers - len(running))
                for index, task in islice(deal, free):
                    future = self._submit(task)
                    running[future.key] = index, future
                if not running:
                    return results
                key, frames = self._next_event(running)
                if key not in running:  # of an earlier call
                    continue
                index, future = running[key]
                if frames is None:
                    del running[key]
                    results[index] = self._result(future)
                    frames = _frames_of(tasks[index])
                made[index] = max(made[index], frames)
                on_frames(index, made[index])
        finally:
            self.client.cancel([future for _, future in running.values()])

    def _submit(self, task: Task) -> Any:
        order = {
            **task,
            "teacher_version": self.teacher.version,
            "shared": str(self.folder / SHARED_FILE),
        }
        asked = (self.teacher.name, self.teacher.settings, order, self.run_token)
        future = self.client.submit(perform_there, *asked, pure=False, retries=RETRIES)
        future.add_done_callback(lambda ended: self.events.put((ended.key, None)))
        return future

    def _next_event(self, running: dict[str, tuple[int, Any]]) -> tuple[str, int | None]:
        """The next one; one that says nothing new where none comes."""
        try:
            return self.events.get(timeout=TICK_S)
        except queue.Empty:
            return next(iter(running)), 0

    def _result(self, future: Any) -> dict[str, Any]:
        try:
            answer = future.result()
        except Exception as error:  # dask's own: lost workers, or a crash of the teacher
            raise self._lost(error) from error
        if "error" in answer:
            raise CompactFFError(answer["error"])
        return dict(answer["result"])

    def _lost(self, error: Exception) -> CompactFFError:
        return CompactFFError(
            f"the dask cluster {self.address} failed ({type(error).__name__}: {error}); "
            "the same command continues the run"
        )


def _frames_of(task: Task) -> int:
    """Frames that a task is to make, as far as it has a plan."""
    return sum(int(chain.get("spec", {}).get("frames", 1)) for chain in task.get("chains", [task]))
