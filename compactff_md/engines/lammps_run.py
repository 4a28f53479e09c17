"""Run a deck with a LAMMPS, and check before what LAMMPS would say badly or late."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from compactff_md.engines.lammps_deck import CONTINUATION, RESTARTS, lammps_words, left_by_a_run
from compactff_md.engines.lammps_installation import BUILD_IT, Lammps
from compactff_md.engines.stop_signals import sigterm_as_interrupt
from compactff_md.errors import CompactFFError

# How a row of LAMMPS' log begins where it is a number of a step.
ROW = re.compile(r"^\s*(\d+)(\s+\S+)+\s*$")


@dataclass(frozen=True)
class DeckPlan:
    """What a deck's text tells before it is run; ``total_steps`` is None where it is not plain."""

    path: Path
    total_steps: int | None
    students: tuple[Path, ...]


def read_plan(path: str | Path, variables: dict[str, str]) -> DeckPlan:
    """Read a deck for what can be known of it.

    Raises
    ------
    CompactFFError
        If there is no such deck, it names a student's file that is not there, or it runs a student whose
        neighbours it excludes, which leaves atoms without parts of their environment.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "in.lammps"
    if not path.is_file():
        raise CompactFFError(f"no such deck: {path}; compactff deck writes one")
    known, students, steps, plain, is_hybrid = dict(variables), [], 0, True, False
    left_out: set[str] = set()  # of neigh_modify's words, those that leave neighbours out
    refused = ""
    for line in _lines(path.read_text(errors="replace")):
        words = [_filled(word, known) for word in _words(line)]
        if words[0] == "variable" and len(words) >= 4 and words[2] in ("index", "equal", "string"):
            known.setdefault(words[1], words[3])
        elif words[0] == "pair_style" and "unified" in words[:-1]:
            students.append(path.parent / words[words.index("unified") + 1])
            is_hybrid = is_hybrid or words[1].startswith("hybrid")
        elif words[0] == "neigh_modify":
            for word, is_off in (("exclude", "none"), ("include", "all")):
                if word in words[:-1]:
                    left_out -= {word}
                    left_out |= {word} if words[words.index(word) + 1] != is_off else set()
        elif words[0] in ("run", "minimize", "rerun") and left_out and students and not is_hybrid:
            refused = min(left_out)
        if words[0] == "run" and len(words) > 1:
            plain = plain and words[1].isdigit()
            steps += int(words[1]) if words[1].isdigit() else 0
    if left_out and students and not is_hybrid:  # at the end: what runs may be in a loop or another file
        refused = min(left_out)
    for student in students:
        if "$" not in str(student) and not student.is_file():
            raise CompactFFError(
                f"{path} names {student.name}, which is not beside it; write it with "
                f"compactff export STUDENT --format mliap --out {student}"
            )
    if refused:
        raise CompactFFError(
            f"{path} has neigh_modify {refused}, which takes neighbours out of the environments that a "
            "student sees: forces would be wrong. To hold atoms, move the others only (lammps/README.md)"
        )
    return DeckPlan(path, steps if plain and steps else None, tuple(students))


def command_of(
    lammps: Lammps,
    plan: DeckPlan,
    *,
    ranks: int = 1,
    kokkos: bool = False,
    gpus: int = 1,
    variables: dict[str, str] | None = None,
    extra: tuple[str, ...] = (),
) -> list[str]:
    """Words of the process that runs a deck in its own folder.

    Raises
    ------
    CompactFFError
        If this LAMMPS has no MPI or no Kokkos for GPUs and they are asked for.
    """
    if ranks > 1 and not lammps.has_mpi:
        raise CompactFFError(f"{lammps.executable} was built without MPI and runs one rank: {BUILD_IT}")
    if kokkos and not lammps.has_gpu:
        raise CompactFFError(
            f"{lammps.executable} was built without Kokkos for GPUs: build LAMMPS with lammps/build where "
            "nvcc is, from a source that has Kokkos, or leave --kokkos out"
        )
    launcher = lammps.mpiexec
    words = lammps_words(
        plan.path.name, ranks, kokkos, str(lammps.executable), str(launcher) if launcher else None, gpus
    )
    for name, value in (variables or {}).items():
        words += ["-var", name, value]
    return [*words, *extra]


def run_deck(
    lammps: Lammps,
    plan: DeckPlan,
    words: list[str],
    ranks: int,
    line: Callable[[str], None],
    step: Callable[[int], None],
) -> int:
    """Run a deck in its folder, and hand over what it prints; LAMMPS ends with us at Ctrl-C and SIGTERM.

    Parameters
    ----------
    lammps, plan, words, ranks
        What runs what; from the functions above.
    line
        Called with each line of the standard output; errors go to the standard error as they come.
    step
        Called with the number of a step when a row of the log shows one.

    Returns
    -------
    int
        LAMMPS' exit code; 128 and the signal's number where one ended it.

    Raises
    ------
    KeyboardInterrupt
        At either signal, when LAMMPS has ended.
    """
    environment = lammps.environment(ranks)
    with (
        sigterm_as_interrupt(),
        subprocess.Popen(
            words, cwd=plan.path.parent, env=environment, stdout=subprocess.PIPE, text=True, errors="replace"
        ) as process,
    ):
        try:
            assert process.stdout is not None
            in_table = False
            for text in process.stdout:
                line(text.rstrip("\n"))
                row = ROW.match(text)
                if text.split()[:1] == ["Step"]:
                    in_table = True
                elif in_table and row:
                    step(int(row[1]))
                elif text.startswith("Loop time"):
                    in_table = False
        except KeyboardInterrupt:
            process.terminate()  # SIGINT is ignored below a shell that started us in the background
            process.wait()
            raise
        code = process.wait()
    return code if code >= 0 else 128 - code


def continuation(folder: Path) -> tuple[Path, dict[str, str]] | None:
    """The deck that goes on with the run of a folder, and its variables: the newest restart file, a new part.

    None where there is no such deck, or no restart file yet.
    """
    deck, found = folder / CONTINUATION, [path for name in RESTARTS if (path := folder / name).is_file()]
    if not (found and deck.is_file()):
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    part = next(n for n in count(2) if not (folder / f"log.{n}.lammps").exists())
    return deck, {"from": newest.name, "part": str(part)}


def run_there(folder: Path) -> list[Path]:
    """What a run left in a folder that compactff deck wrote; nothing where LAMMPS did not come to a step."""
    if not (folder / CONTINUATION).is_file():
        return []
    left = left_by_a_run(folder)
    return left if any(path.name in RESTARTS or _has_steps(path) for path in left) else []


def _has_steps(path: Path) -> bool:
    """Whether a log or a trajectory has a row or a frame."""
    with path.open(errors="replace") as file:
        return any(line.split()[:1] == ["Step"] or line.startswith("ITEM: TIMESTEP") for line in file)


def _lines(text: str) -> list[str]:
    """Commands without comments, continued lines joined."""
    joined = re.sub(r"&[ \t]*\n", " ", text)
    stripped = (line.split("#")[0].strip() for line in joined.splitlines())
    return [line for line in stripped if line]


def _words(line: str) -> list[str]:
    """Words as LAMMPS has them: what quotes hold together is one."""
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is not closed, or closed in another line
        return line.split()


def _filled(word: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}|\$(\w)", lambda m: variables.get(m[1] or m[2], m[0]), word)
