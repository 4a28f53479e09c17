"""A process that runs a teacher: tasks come in as JSON lines, progress and results go out.

Started by :mod:`compactff_md.training.pool` as ``python -m compactff_md.training.worker``. What teachers
print goes to the standard error, which the pool keeps in a log.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any, TextIO

from compactff_md.errors import CompactFFError
from compactff_md.training.labelling import labeller_here
from compactff_md.training.tasks import perform

REPORT_SECONDS = 0.2


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more; the first one names the teacher."""

    def send(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        first = json.loads(requests.readline())
        labeller = labeller_here(first["teacher"], first["settings"], first["version"])
        for line in requests:
            send(event="done", result=perform(json.loads(line), labeller, _Throttle(send)))
    except CompactFFError as error:
        send(event="error", expected=True, message=str(error))
    except Exception:  # whatever the teacher raises is told to the process that waits
        send(event="error", expected=False, message=traceback.format_exc())


class _Throttle:
    """Passes on the number of frames now and then."""

    def __init__(self, send: Any) -> None:
        self.send, self.last = send, 0.0

    def __call__(self, frames: int) -> None:
        now = time.monotonic()
        if now - self.last >= REPORT_SECONDS:
            self.last = now
            self.send(event="frames", frames=frames)


def main() -> None:
    """Keep the standard output for the protocol alone, whatever Fortran or C prints to it."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, channel)
    except BrokenPipeError:  # the pool is gone
        sys.stderr.write("the process that asked is gone\n")


if __name__ == "__main__":
    main()
