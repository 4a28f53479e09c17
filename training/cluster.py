"""Teachers on other machines, through dask.distributed, an optional package.

Workers must have this package and the teacher installed, and see the out folder under the same path: what
they label goes there, in the same shards as from the processes of one machine. Each thread of a worker has a
calculator of its own; where a teacher cannot be called from two threads at once, workers of one thread do it
(``dask worker --nthreads 1``).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from compactff_md.errors import CompactFFError
from compactff_md.teachers import Teacher
from compactff_md.training.labelling import LabelCounts, labeller_here
from compactff_md.training.pool import LEAST_TIME_S, OnFrames
from compactff_md.training.tasks import Task, perform

try:
    import distributed
except ImportError:
    distributed = None

CONNECT_SECONDS = 30
RETRIES = 3  # of a task whose worker was lost; what it had labelled stays
_totals = threading.local()


def perform_there(name: str, settings: dict[str, Any], task: Task, run: str) -> dict[str, Any]:
    """Do a task in a thread of a worker, whose teacher is kept from task to task; errors come back as data.

    Failures count for the ``run`` alone, of which the worker may see several.
    """
    try:
        labeller = labeller_here(name, settings)
        labeller.totals = vars(_totals).setdefault(run, LabelCounts())
        return {"result": perform(task, labeller, lambda frames: None)}
    except CompactFFError as error:
        return {"error": str(error)}


class ClusterPool:
    """Runs tasks on the workers of a dask scheduler; use it as a context manager.

    Parameters
    ----------
    teacher
        Found and tried here; made again on each worker.
    address
        Of the scheduler, or "local" for one of its own with ``workers`` processes.
    workers
        With "local" alone.

    Raises
    ------
    CompactFFError
        Without dask.distributed, or where no scheduler answers.
    """

    def __init__(self, teacher: Teacher, address: str, workers: int, folder: Path) -> None:
        if distributed is None:
            raise CompactFFError(
                "labelling on a cluster needs dask.distributed, which cannot be imported; run: "
                'pip install "compactff-md[distill]"'
            )
        self.teacher, self.address, self.workers, self.folder = teacher, address, workers, folder
        self.run_token = secrets.token_hex(8)
        self.client: Any = None
        self.cluster: Any = None

    def __enter__(self) -> Self:
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in (self.client, self.cluster):
            if part is not None:
                with suppress(Exception):  # the scheduler may be gone
                    part.close()

    @property
    def size(self) -> int:
        """Tasks that are done at once, by the workers that are there now."""
        return max(1, sum(self.client.nthreads().values()))

    def run(
        self, tasks: list[Task], on_frames: OnFrames, time_left: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Do all tasks and return their results in order; ``on_frames`` is called as each one ends.

        Raises
        ------
        CompactFFError
            What a task raised, or that its workers were lost again and again.
        """
        timed = [self._timed(task, len(tasks), time_left) for task in tasks]
        futures = self.client.map(
            perform_there,
            [self.teacher.name] * len(timed),
            [self.teacher.settings] * len(timed),
            timed,
            [self.run_token] * len(timed),
            pure=False,
            retries=RETRIES,
        )
        places = {future.key: index for index, future in enumerate(futures)}
        results: list[dict[str, Any]] = [{} for _ in tasks]
        try:
            for future in distributed.as_completed(futures):
                index = places[future.key]
                results[index] = self._result(future)
                on_frames(index, int(tasks[index].get("spec", {}).get("frames", 1)))
        finally:
            self.client.cancel(futures)
        return results

    def _timed(self, task: Task, count: int, time_left: Callable[[], float] | None) -> Task:
        if time_left is None:
            return task
        waves = max(1.0, count / self.size)
        return {**task, "time_limit_s": max(LEAST_TIME_S, time_left() / waves)}

    def _result(self, future: Any) -> dict[str, Any]:
        try:
            answer = future.result()
        except Exception as error:  # dask's own: lost workers, or a crash of the teacher
            raise CompactFFError(
                f"a worker of {self.address} failed ({type(error).__name__}: {error}); "
                "the same command continues the run"
            ) from error
        if "error" in answer:
            raise CompactFFError(answer["error"])
        return dict(answer["result"])
