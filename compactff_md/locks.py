"""Locks of folders, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import warnings
from typing import IO


def lock(file: IO[str], wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where another process holds it, or ``wait`` for that.

    On file systems without locks (some network ones) it warns and goes on: nothing then keeps two processes
    apart.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # network file systems may say the second
        return False
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(f"{file.name} cannot be locked ({reason}); run one process in its folder", stacklevel=2)
    return True
