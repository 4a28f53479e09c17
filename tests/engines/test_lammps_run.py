"""Running a deck, without a LAMMPS: what is read in its text, and how a process ends."""

import os
import signal
from pathlib import Path

import pytest

from compactff_md.engines.lammps_installation import Lammps
from compactff_md.engines.lammps_run import DeckPlan, read_plan, run_deck
from compactff_md.errors import CompactFFError

PAIR = "pair_style mliap unified student.mliap.pt 0\n"
LAMMPS = Lammps(Path("lmp"), "1 Jan 2030", (), (), True)


@pytest.mark.parametrize(
    "text",
    [
        'pair_style mliap unified "student.mliap.pt" 0\nrun 5',
        "variable s index 'student.mliap.pt'\npair_style mliap unified $s 0\nrun 5",
        'variable s index """student.mliap.pt"""\npair_style mliap unified "${s}" 0\nrun 5\nprint "it\'s',
    ],
)
def test_names_of_students_may_have_quotes(tmp_path, text):
    deck = tmp_path / "in.lammps"
    deck.write_text(text)
    student = tmp_path / "student.mliap.pt"
    with pytest.raises(CompactFFError, match=r"names student\.mliap\.pt, which is not beside it"):
        read_plan(deck, {})
    student.touch()
    assert read_plan(deck, {}) == DeckPlan(deck, 5, (student,))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (PAIR + "neigh_modify every 1 exclude group held held\nrun 5", True),
        (PAIR + "neigh_modify exclude type 1 1\nneigh_modify exclude none\nrun 5", False),
        (PAIR + "neigh_modify exclude type 1 1\nrun 5\nneigh_modify exclude none\n", True),
        (PAIR + "neigh_modify include held\nminimize 0 1e-3 9 9", True),
        (PAIR + "neigh_modify include all\nrun 5", False),
        (PAIR + 'neigh_modify exclude group held held\nif "1" then "run 5"', True),
        (PAIR.replace("mliap", "hybrid mliap", 1) + "neigh_modify exclude type 3 3\nrun 5", False),
        ("pair_style lj/cut 8\nneigh_modify exclude group held held\n", False),
    ],
    ids=["held", "none", "none after the run", "include", "all", "conditional", "hybrid", "no student"],
)
def test_neighbours_of_a_student_are_not_excluded(tmp_path, text, refused):
    (tmp_path / "student.mliap.pt").touch()
    (tmp_path / "in.lammps").write_text(text)
    if refused:
        with pytest.raises(CompactFFError, match=r"neigh_modify (ex|in)clude.*move the others only"):
            read_plan(tmp_path, {})
    else:
        read_plan(tmp_path, {})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("exclude type 1 2", "refused"),
        ("exclude type 2*3 *", "refused"),
        ("exclude type 1 1\nrun 5\nneigh_modify exclude none", "refused"),
        ("every 1 exclude type 3 3", "silent"),
        ("exclude type 1 3", "silent"),
        ("exclude group g g", "warned"),
        ("include g", "warned"),
        ("every 1", "silent"),
        ("exclude none", "silent"),
    ],
)
def test_neighbours_of_a_student_in_a_hybrid_deck(tmp_path, words, expected):
    (tmp_path / "student.mliap.pt").touch()
    pairs = "pair_coeff * * mliap H O NULL\npair_coeff * 3 lj/cut 0.01 3.4\n"
    style = PAIR.replace("mliap", "hybrid mliap", 1).replace(" 0\n", " 0 lj/cut 8.0\n")
    (tmp_path / "in.lammps").write_text(f"{style}{pairs}neigh_modify {words}\nrun 5\n")
    if expected == "refused":
        with pytest.raises(CompactFFError, match=r"neigh_modify exclude.*move the others only"):
            read_plan(tmp_path, {})
    else:
        assert len(read_plan(tmp_path, {}).warnings) == (expected == "warned")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_lammps_ends_when_we_are_told_to(tmp_path, number):
    """A stand-in that does not hear Ctrl-C, as processes of a script that runs in the background."""
    words = ["sh", "-c", "trap '' INT; echo $$; exec sleep 5"]
    pids = []

    def line(text):
        pids.append(int(text))
        os.kill(os.getpid(), number)

    theirs = signal.signal(signal.SIGTERM, lambda *_: None)
    own = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests in the background do not hear it, too
    try:
        with pytest.raises(KeyboardInterrupt):
            run_deck(LAMMPS, DeckPlan(tmp_path / "in.lammps", None, ()), words, 1, line, lambda step: None)
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, theirs)
        signal.signal(signal.SIGINT, own)
