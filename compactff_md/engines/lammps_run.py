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
    warnings: tuple[str, ...] = ()


def read_plan(path: str | Path, variables: dict[str, str]) -> DeckPlan:
    """Read a deck for what can be known of it.

    Raises
    ------
    CompactFFError
        If there is no such deck, it names a student's file that is not there, or it runs a student whose
        neighbours it excludes, which leaves atoms without parts of their environment. Under hybrid, only
        types are known to be the student's: other exclusions are among the plan's ``warnings``.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "in.lammps"
    if not path.is_file():
        raise CompactFFError(f"no such deck: {path}; compactff deck writes one")
    known, students, steps, plain, is_hybrid = dict(variables), [], 0, True, False
    left_out: set[str] = set()  # of neigh_modify's words, those that leave neighbours out
    refused = doubted = ""
    excluded: list[list[str]] = []  # pairs of types, as neigh_modify has them
    by_others = False  # whether anything is left out by groups or molecules, of which the text tells nothing
    own: set[int] = set()  # types that pair_coeff of hybrid gives to the student
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
            excluded = [*excluded, *_excluded_types(words)] if "exclude" in left_out else []
            if "exclude" in words or "include" in words:
                by_others = bool(left_out) and (by_others or "type" not in words)
        elif words[0] == "pair_coeff" and "mliap" in words and is_hybrid:
            own |= _mapped_types(words)
        elif words[0] in ("run", "minimize", "rerun") and left_out and students:
            if not is_hybrid or any(_are_own(pair, own) for pair in excluded):
                refused = min(left_out)
            doubted = min(left_out) if by_others else doubted
        if words[0] == "run" and len(words) > 1:
            plain = plain and words[1].isdigit()
            steps += int(words[1]) if words[1].isdigit() else 0
    if left_out and students:  # at the end: what runs may be in a loop or another file
        if not is_hybrid or any(_are_own(pair, own) for pair in excluded):
            refused = min(left_out)
        doubted = min(left_out) if by_others else doubted
    warnings = [
        f"{path} has neigh_modify {word}: it may leave out no two atoms of the student's own, or the forces "
        "are wrong (lammps/README.md)"
        for word in [doubted]
        if word
    ]
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
    return DeckPlan(path, steps if plain and steps else None, tuple(students), tuple(warnings))


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


def _excluded_types(words: list[str]) -> list[list[str]]:
    """Pairs of types that a neigh_modify excludes, each a number or a range of numbers."""
    return [words[k + 2 : k + 4] for k in range(1, len(words) - 3) if words[k : k + 2] == ["exclude", "type"]]


def _mapped_types(words: list[str]) -> set[int]:
    """Types that get an element in a pair_coeff of hybrid: ``pair_coeff * * mliap [N] H O NULL``."""
    names = words[words.index("mliap") + 1 :]
    names = names[1:] if names and names[0].isdigit() else names
    return {number for number, name in enumerate(names, 1) if name != "NULL"}


def _are_own(pair: list[str], own: set[int]) -> bool:
    """Whether both of a pair of types, or ranges such as ``2*4``, have some of the student's own."""
    return all(any(_is_in(number, text) for number in own) for text in pair)


def _is_in(number: int, text: str) -> bool:
    if text.isdigit():
        return number == int(text)
    ends = re.fullmatch(r"(\d*)\*(\d*)", text)
    return ends is not None and int(ends[1] or 1) <= number <= int(ends[2] or number)


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
