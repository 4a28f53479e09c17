r"""Long dynamics of students, watched for bonds that break and for energy that drifts.

    python -m compactff_md.validation.endurance organic-tiny \
        --structures validation/reports/organic_unseen.xyz

runs all molecules of the file at once, far apart, at each temperature, and

    python -m compactff_md.validation.endurance argyrodite-tiny --engine lammps --repeat 2 2 2 \
        --structures validation/reports/argyrodite_unseen.xyz --teacher sevennet-l3i5

a crystal. What is finished is kept: the same command goes on, and asks of a longer time only what is missing.
Where a bond breaks and stays so, the teacher goes on from a moment before, with the same positions and
velocities, which shows whether it breaks there, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator

from compactff_md.errors import CompactFFError
from compactff_md.files import write_json, write_text
from compactff_md.structure import Structure, read_structures
from compactff_md.student import load
from compactff_md.teachers import create_teacher
from compactff_md.validation import conservation
from compactff_md.validation.breaks import Break, Watch
from compactff_md.validation.campaign import digest_of
from compactff_md.validation.engine_ase import at_rest_at
from compactff_md.validation.run import Run
from compactff_md.validation.stages import Stages
from compactff_md.validation.subject import ENGINES, make_engine, subject_of
from compactff_md.validation.task import Engine, State, Task, last_state

# Molecules diffuse as a whole, about 26 A in 100 ps at 600 K and a friction of 1/ps.
APART_A = 100.0
PIECE_PS = 5.0  # after which what was run is kept, unless told otherwise
WATCHED_PS = 5.0  # a bond that is back at the end of such a part is not broken
FRAME_FS = 50.0
SAME_PLACE_A = 0.01  # files of LAMMPS have six digits
EQUILIBRATION_PS = 1.0
FRICTION_PER_PS = 1.0


@dataclass(frozen=True)
class Endurance:
    """What one student did at one temperature.

    Attributes
    ----------
    time_ps
        As far as the run came; ``failure`` says why it ended early, and is empty where it did not.
    molecules, breaks
        Watched, and those of which a bond broke or was stretched as far.
    mean_K
        Of the thermal run; None where it ended at once.
    drift_meV_per_atom_ps, drift_low, drift_high
        Of the run at constant energy of ``drift_ps``, with a 95 % interval; None where it ended early.
    sha256
        Of the student's weights, which tells it from others of its name.
    """

    student: str
    temperature_K: float
    timestep_fs: float
    engine: str
    atoms: int
    time_ps: float
    failure: str
    molecules: int
    breaks: tuple[Break, ...]
    mean_K: float | None
    drift_ps: float
    drift_meV_per_atom_ps: float | None
    drift_low: float | None
    drift_high: float | None
    sha256: str = ""


def apart(structures: Sequence[ase.Atoms], spacing_A: float = APART_A) -> ase.Atoms:
    """One structure of free molecules on a cubic lattice, too far from each other to interact.

    Raises
    ------
    CompactFFError
        For periodic structures among several.
    """
    if any(atoms.pbc.any() for atoms in structures):
        raise CompactFFError("periodic structures cannot share a run; give a file with one of them")
    edge = int(np.ceil(len(structures) ** (1 / 3)))
    together = ase.Atoms()
    for k, atoms in enumerate(structures):
        moved = ase.Atoms(atoms.numbers, atoms.positions - atoms.get_center_of_mass())
        moved.positions += spacing_A * np.array([k % edge, k // edge % edge, k // edge**2])
        together += moved
    return together


def endure(
    student_name: str,
    structure: Structure,
    stages: Stages,
    task: Task,
    *,
    engine: Engine,
    time_ps: float,
    drift_ps: float,
    teacher: BaseCalculator | None,
    piece_ps: float = PIECE_PS,
    tell: Any = lambda message: None,
) -> Endurance:
    """Run a student for a time at the temperature of a task, then at constant energy.

    Parameters
    ----------
    stages
        Keeps what is finished.
    task
        Its temperature, timestep and distance of frames hold for all pieces.
    teacher
        Goes on where bonds break and stay so; None leaves that open.
    piece_ps
        After which what was run is kept.

    Raises
    ------
    CompactFFError
        If what is kept was run in other pieces.
    """
    watch = Watch(structure, teacher)
    state, failure, reached, kelvin = None, "", 0.0, []
    for piece, length_ps in enumerate(pieces_ps(time_ps, piece_ps)):
        own = replace(task, steps=round(1000 * length_ps / task.timestep_fs), seed=task.seed + piece)
        name = f"{task.temperature_K:g}K-{piece:04d}-{own.steps}"
        run = stages.run(name, partial(_made, engine, structure, own, state))
        if state is not None and np.abs(run.positions_A[0] - state.positions_A).max() > SAME_PLACE_A:
            raise CompactFFError(
                f"{name} in {stages.path} does not begin where the piece before it ended: it was made with "
                f"another --piece-ps or --time-ps; give that one, or another --out"
            )
        for part in run.parts(WATCHED_PS):
            for one in watch.look(part, reached):
                tell(f"{student_name}, {task.temperature_K:g} K: {one}")
        reached += float(run.time_ps[-1])
        kelvin.append(run.kinetic_temperature_K.mean())
        state, failure = last_state(run), run.failure
        tell(f"{student_name}, {task.temperature_K:g} K: {reached:.4g} of {time_ps:g} ps {failure}")
        if failure:
            break
    drift = None if failure else _drift(structure, stages, task, engine, drift_ps)
    return Endurance(
        student=student_name,
        temperature_K=task.temperature_K,
        timestep_fs=task.timestep_fs,
        engine=engine.name,
        atoms=len(structure),
        time_ps=reached,
        failure=failure,
        molecules=watch.molecules,
        breaks=watch.breaks,
        mean_K=float(np.mean(kelvin)) if np.isfinite(kelvin).all() else None,
        drift_ps=drift_ps,
        drift_meV_per_atom_ps=drift.value if drift else None,
        drift_low=drift.low if drift else None,
        drift_high=drift.high if drift else None,
    )


def pieces_ps(time_ps: float, piece_ps: float = PIECE_PS) -> list[float]:
    """Lengths of what is run and kept by itself: equal ones, so that a longer time goes on, and the rest."""
    count, rest = divmod(time_ps, piece_ps)
    return [piece_ps] * int(count) + ([rest] if rest or not count else [])


def _made(engine: Engine, structure: Structure, task: Task, state: State | None, _: Path) -> Run:
    return engine.run(structure, task, state)


def _drift(structure: Structure, stages: Stages, task: Task, engine: Engine, drift_ps: float) -> Any:
    """Slope of the total energy after an equilibration; None where the run ended early."""
    every = max(1, task.every // 5)
    steps = round(1000 * drift_ps / task.timestep_fs)
    warm = replace(task, steps=round(1000 * EQUILIBRATION_PS / task.timestep_fs), friction_per_ps=10.0)
    name = f"{task.temperature_K:g}K-warm"
    warmed = stages.run(name, partial(_made, engine, structure, warm, None))
    if warmed.failure:
        return None
    state = last_state(warmed)
    velocities = at_rest_at(structure, state.velocities_A_per_fs, task.temperature_K)
    still = replace(task, ensemble="nve", steps=steps, every=every, equilibration_steps=0)
    name = f"{task.temperature_K:g}K-nve-{steps}"
    start = State(state.positions_A, velocities)
    run = stages.run(name, partial(_made, engine, structure, still, start))
    return None if run.failure else conservation.analyse(run).drift_meV_per_atom_ps


def markdown(rows: Sequence[Endurance]) -> str:
    """A table, one line a student and temperature."""
    lines = [
        "| student | K | engine | atoms | ps | mean K | broken | teacher, too | drift, meV/atom/ps |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        broken = f"{sum(not b.back for b in row.breaks)} of {row.molecules}"
        named = ", ".join(
            f"{b.formula} {b.bond} {'stretched ' if b.back else ''}at {b.time_ps:.3g} ps" for b in row.breaks
        )
        asked = [b.teacher for b in row.breaks if b.teacher is not None]
        kelvin = "-" if row.mean_K is None else f"{row.mean_K:.0f}"
        drift = "-"
        if row.drift_meV_per_atom_ps is not None:
            drift = f"{row.drift_meV_per_atom_ps:.1g} ({row.drift_low:.1g} to {row.drift_high:.1g})"
        lines.append(
            f"| {row.student} | {row.temperature_K:g} | {row.engine} | {row.atoms} | {row.time_ps:g} "
            f"{row.failure} | {kelvin} | {broken} {f'({named})' if named else ''} | "
            f"{f'{sum(asked)} of {len(asked)}' if asked else '-'} | {drift} |"
        )
    return "\n".join(lines) + "\n"


def read_row(path: Path) -> Endurance:
    """What a run left in its folder."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["breaks"] = tuple(Break(**one) for one in content["breaks"])
    return Endurance(**content)


def kept_rows(out: Path) -> list[Endurance]:
    """What all runs left in the folders there, also those of other calls, by student and temperature."""
    paths = out.glob("*/*K.json")
    return [read_row(path) for path in sorted(paths, key=lambda p: (p.parent.name, float(p.stem[:-1])))]


def _system(arguments: argparse.Namespace) -> Structure:
    structures = read_structures(arguments.structures)
    atoms = structures[0] if len(structures) == 1 else apart(structures)
    return Structure.from_ase(atoms.repeat(arguments.repeat) if atoms.pbc.any() else atoms)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m compactff_md.validation.endurance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("students", nargs="+", help="names of shipped students, files or folders of runs")
    parser.add_argument("--structures", type=Path, required=True, help="free molecules, or one crystal")
    parser.add_argument("--repeat", type=int, nargs=3, default=(1, 1, 1), help="cells of a crystal")
    parser.add_argument("--temperatures", type=float, nargs="+", default=(300.0, 600.0), help="in K")
    parser.add_argument("--time-ps", type=float, default=100.0, help="with a thermostat")
    parser.add_argument("--drift-ps", type=float, default=20.0, help="at constant energy")
    parser.add_argument(
        "--piece-ps", type=float, default=PIECE_PS, help="kept when finished; longer for a fast GPU"
    )
    parser.add_argument("--timestep-fs", type=float, default=0.5)
    parser.add_argument("--engine", choices=ENGINES, default="openmm")
    parser.add_argument("--teacher", default="gfn2-xtb", help="asked where a bond breaks; none: nobody")
    parser.add_argument("--out", type=Path, default=Path("runs/endurance"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Run all students at all temperatures, and write a table."""
    arguments = parse(words)
    structure = _system(arguments)
    teacher = None if arguments.teacher == "none" else create_teacher(arguments.teacher)
    rows = []
    for name in arguments.students:
        subject = subject_of(load(name), name)
        identity = {
            "student": subject.identity,
            "structure": digest_of([structure]),
            "engine": arguments.engine,
            "timestep_fs": arguments.timestep_fs,
        }
        folder = arguments.out / f"{Path(name).name}-{arguments.engine}"
        with Stages(folder, identity) as stages:
            engine = make_engine(arguments.engine, subject)
            for kelvin in arguments.temperatures:
                task = Task(
                    "nvt",
                    kelvin,
                    arguments.timestep_fs,
                    steps=1,
                    every=max(1, round(FRAME_FS / arguments.timestep_fs)),
                    seed=round(kelvin),
                    equilibration_steps=round(1000 * EQUILIBRATION_PS / arguments.timestep_fs),
                    friction_per_ps=FRICTION_PER_PS,
                )
                row = endure(
                    name,
                    structure,
                    stages,
                    task,
                    engine=engine,
                    time_ps=arguments.time_ps,
                    drift_ps=arguments.drift_ps,
                    piece_ps=arguments.piece_ps,
                    teacher=teacher.calculator() if teacher else None,
                    tell=lambda message: print(message, file=sys.stderr, flush=True),
                )
                row = replace(row, sha256=subject.identity["sha256"])
                write_json(stages.file(f"{kelvin:g}K.json"), asdict(row))
                rows.append(row)
                write_text(arguments.out / "endurance.md", markdown(kept_rows(arguments.out)))
    print(markdown(rows))


if __name__ == "__main__":
    main()
