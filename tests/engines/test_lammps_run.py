"""Running a deck, without a LAMMPS: what is read in its text, and how a process ends."""

import os
import signal
from pathlib import Path

import pytest

from compactff_md.engines.lammps_installation import Lammps
from compactff_md.engines.lammps_run import DeckPlan, run_deck

LAMMPS = Lammps(Path("lmp"), "1 Jan 2030", (), (), True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_lammps_ends_when_we_are_told_to(tmp_path, number):
    """A stand-in that does not hear Ctrl-C, as processes of a script that runs in the background."""
    words = ["sh", "-c", "trap '' INT; echo $$; exec sleep 5"]
    pids = []

    def line(text):
        pids.append(int(text))
        os.kill(os.getpid(), number)

    theirs = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_deck(LAMMPS, DeckPlan(tmp_path / "in.lammps", None, ()), words, 1, line, lambda step: None)
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, theirs)
