"""Several processes with a teacher each, or the teacher in this one.

Processes are started as modules of this package and not by multiprocessing, which would run the caller's
script again; a teacher that crashes takes its own process down and leaves a message here.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from compactff_md.errors import CompactFFError
from compactff_md.teachers import Teacher
from compactff_md.training.labelling import Labeller
from compactff_md.training.tasks import Task, perform

OnFrames = Callable[[int, int], None]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MOST_WORKERS = 8
LEAST_TIME_S = 1.0


def default_workers(teacher: Teacher) -> int:
    """One process a core for xTB and students, at most 8; else one, which uses all cores or the GPU."""
    small = teacher.name.endswith("-xtb") or teacher.name.startswith("student:")
    return min(MOST_WORKERS, os.cpu_count() or 1) if small else 1


class Pool(Protocol):
    """What does tasks with a teacher, here or elsewhere; a context manager."""

    @property
    def size(self) -> int:
        """Tasks that are done at once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(
        self, tasks: list[Task], on_frames: OnFrames, time_left: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Do all tasks; as :meth:`TeacherPool.run`."""
        ...


class TeacherPool:
    """Runs tasks with a teacher; use it as a context manager.

    Parameters
    ----------
    teacher
        Found and tried.
    workers
        Processes; 1 runs everything in this process.
    log_folder
        Where the processes' standard error is kept.
    """

    def __init__(self, teacher: Teacher, workers: int, log_folder: Path) -> None:
        self.teacher, self.workers, self.log_folder = teacher, workers, log_folder
        self.processes: list[subprocess.Popen[str]] = []
        self.labeller: Labeller | None = None

    def __enter__(self) -> Self:
        if self.workers == 1:
            self.labeller = Labeller(self.teacher)
        else:
            self.processes = [self._start(k) for k in range(self.workers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):  # what could not be sent any more
                        stream.close()
        self.processes = []

    @property
    def size(self) -> int:
        """Tasks that are done at once."""
        return self.workers

    def _start(self, index: int) -> subprocess.Popen[str]:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        with (self.log_folder / f"worker-{index}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "compactff_md.training.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        teacher = self.teacher
        _send(process, {"teacher": teacher.name, "settings": teacher.settings, "version": teacher.version})
        return process

    def run(
        self, tasks: list[Task], on_frames: OnFrames, time_left: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Do all tasks and return their results in order.

        Parameters
        ----------
        on_frames
            Called in this thread with the index of a task and the frames that it has made; what it
            raises stops everything.
        time_left
            Seconds for what is left to do; each task gets its share of it. Below zero nothing more is begun.

        Raises
        ------
        CompactFFError
            What a task raised, or that a process died.
        """
        deal = Dealer(tasks, self.workers, time_left)
        if self.labeller is not None:
            return [self._here(index, task, on_frames) for index, task in deal]
        results: list[dict[str, Any]] = [{} for _ in tasks]
        events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        for number in range(min(len(self.processes), len(tasks))):
            threading.Thread(target=self._drive, args=(number, deal, events), daemon=True).start()
        done = 0
        while done < len(tasks):
            index, message = events.get()
            if message["event"] == "frames":
                on_frames(index, message["frames"])
            elif message["event"] == "done":
                results[index] = message["result"]
                done += 1
            else:
                raise _failure(message)
        return results

    def _here(self, index: int, task: Task, on_frames: OnFrames) -> dict[str, Any]:
        assert self.labeller is not None
        return perform(task, self.labeller, lambda frames: on_frames(index, frames))

    def _drive(self, number: int, deal: Dealer, events: queue.Queue) -> None:
        """Feed one process; ends with the tasks, or with an error."""
        process = self.processes[number]
        for index, task in deal:
            try:
                with suppress(OSError):  # one that has ended may have said why
                    _send(process, task)
                assert process.stdout is not None
                for line in process.stdout:
                    message = json.loads(line)
                    events.put((index, message))
                    if message["event"] != "frames":
                        break
                else:
                    raise BrokenPipeError
            except (OSError, ValueError):
                log = self.log_folder / f"worker-{number}.log"
                events.put((index, {"event": "error", "expected": True, "message": _death(process, log)}))
                return
            if message["event"] == "error":
                return


class Dealer:
    """Hands out tasks one by one, to any thread, each with its share of the time."""

    def __init__(self, tasks: list[Task], workers: int, time_left: Callable[[], float] | None) -> None:
        self.tasks, self.workers, self.time_left = tasks, workers, time_left
        self.next = 0
        self.lock = threading.Lock()

    def __iter__(self) -> Dealer:
        return self

    def __next__(self) -> tuple[int, Task]:
        with self.lock:
            if self.next == len(self.tasks):
                raise StopIteration
            index = self.next
            self.next += 1
        task = self.tasks[index]
        if self.time_left is None:
            return index, task
        left = self.time_left()
        if left >= 0:
            left = max(LEAST_TIME_S, left / max(1.0, (len(self.tasks) - index) / self.workers))
        return index, {**task, "time_limit_s": left}


def _send(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _failure(message: dict[str, Any]) -> Exception:
    if message["expected"]:
        return CompactFFError(message["message"])
    return RuntimeError(f"a process that ran the teacher failed:\n{message['message']}")


def _death(process: subprocess.Popen[str], log: Path) -> str:
    time.sleep(0.1)  # for its status to arrive
    return (
        f"the process that ran the teacher died (exit status {process.poll()}; its last words are in {log}). "
        "If memory ran out, set sampling.n_workers lower; the same command continues the run"
    )
