"""On-policy rounds: the student runs, what it is unsure of is labelled and added, until it is no worse there.

A round's folder keeps its student, what it visited, and the labels; a killed run goes on in the stage where
it was, and pays for no label twice.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.artifact import describe, save_student
from compactff_md.files import write_json
from compactff_md.structure import read_structures
from compactff_md.teachers import Teacher, create_teacher
from compactff_md.training.chains import shards_of
from compactff_md.training.config import DistillConfig, TrainConfig
from compactff_md.training.dataset import read_labelled
from compactff_md.training.descriptors import describe_all
from compactff_md.training.diversity import farthest_points
from compactff_md.training.explore import Visited, decode_visited
from compactff_md.training.frames import LabelledSet
from compactff_md.training.labelling import write_frames
from compactff_md.training.loop import train
from compactff_md.training.metrics import compare, force_errors
from compactff_md.training.planning import ChainSpec
from compactff_md.training.pool import Pool, TeacherPool, default_workers
from compactff_md.training.progress import Reporter
from compactff_md.training.relaxing import Clock
from compactff_md.training.tasks import chain_task, explore_task
from compactff_md.training.uncertainty import fit_uncertainty

ROUND_FILE = "round.json"
STUDENT_FILE = "student.safetensors"
VISITED_FILE = "visited.json"
LABELLED_FILE = "labelled.xyz"
FEWEST_FRAMES_A_CHAIN = 25
EXPLORING_SHARE = 0.5  # of a round's time after the training, at most
RUNS_TOGETHER = 50  # of a student, in one evaluation
SENSIBLE_SHARE = 0.5  # of the deviation of energies that the checks of the data allow

OpenPool = Callable[[Teacher, int, Path], Pool]


@dataclass(frozen=True)
class Round:
    """What one round did; ``report`` is in the metrics, ``frames`` is the file with its labels."""

    frames: Path
    report: dict[str, Any]


def run_round(
    index: int,
    config: DistillConfig,
    training: TrainConfig,
    sets: tuple[LabelledSet, LabelledSet],
    tests: dict[str, LabelledSet],
    starts: list[ase.Atoms],
    teacher: Teacher,
    folder: Path,
    budget: int,
    left_s: float,
    open_pool: OpenPool,
    leads: bool,
    reporter: Reporter,
) -> Round:
    """Train a student on what there is, let it run, and label what it should have known.

    Parameters
    ----------
    training
        How long and how this round's student is trained.
    sets, tests
        Frames so far, and those of the test, which tell what error is to be reached.
    starts
        Structures to run from.
    folder
        Of this round.
    budget
        Labels that this round may spend.
    left_s
        Seconds that it may take. What its training leaves is for runs and labels, of which there are fewer
        where it does not suffice.
    leads
        False in processes that only help to train; they return with the frames missing.
    """
    if (folder / ROUND_FILE).is_file():
        return Round(folder / LABELLED_FILE, json.loads((folder / ROUND_FILE).read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    result = train(training, *sets, folder, reporter)
    if not leads:
        return Round(folder / LABELLED_FILE, {})
    clock = Clock(folder / "clock.json", (left_s - result.elapsed_s) / 60.0)
    held_out = compare(result.network, sets[1].frames)
    uncertainty = fit_uncertainty(result.network, sets[0].frames, held_out, config.seed)
    save_student(
        folder / STUDENT_FILE,
        result.network,
        describe(result.network, size=config.size, seed=config.seed),
        uncertainty,
    )
    visited = _explore(index, config, starts, folder, reporter, clock)
    probe, chosen = choose(visited, budget, config.rounds.probe_share, (config.seed, 60, index))
    asked = (probe, chosen, teacher, folder, open_pool, reporter, clock)
    counts = label_visited(index, config, sets[0], *asked)
    known = [compare(result.network, data.frames) for data in tests.values()] or [held_out]
    wanted = _rmse(known)
    labelled = read_structures(folder / LABELLED_FILE) if counts["frames"] else []
    fresh = [atoms for atoms in labelled if atoms.info["source"] == "probe"]
    error = _rmse([compare(result.network, read_labelled(fresh).frames)]) if fresh else float("nan")
    report = {
        "stage": f"round {index + 1}",
        "seconds": result.elapsed_s + clock.elapsed(),  # both go over interruptions
        "labels": counts["calls"],
        "frames": counts["frames"],
        "exploded": sum(any(v.exploding for v in run) for run in visited),
        "runs": len(visited),
        "test_force_rmse_meV_per_A": 1e3 * wanted,
        "fresh_force_rmse_meV_per_A": 1e3 * error,
        "ratio": error / wanted,
    }
    write_json(folder / ROUND_FILE, report)
    reporter.note(
        f"round {index + 1}: force RMSE {1e3 * error:.1f} meV/A on its own trajectories, "
        f"{1e3 * wanted:.1f} on the test; {report['exploded']} of {report['runs']} runs exploded; "
        f"{counts['frames']} frames added"
    )
    return Round(folder / LABELLED_FILE, report)


def is_enough(report: dict[str, Any], config: DistillConfig) -> bool:
    """Whether a student is no worse on its own trajectories than on the test, and none exploded."""
    ratio = report.get("ratio")
    return ratio is not None and ratio <= config.rounds.enough and report["exploded"] == 0


def _rmse(comparisons: list[Any]) -> float:
    reference = np.concatenate([c.forces_eV_per_A for c in comparisons])
    predicted = np.concatenate([c.predicted_forces_eV_per_A for c in comparisons])
    return 1e-3 * force_errors(reference, predicted)["rmse_meV_per_A"]


def _explore(
    index: int,
    config: DistillConfig,
    starts: list[ase.Atoms],
    folder: Path,
    reporter: Reporter,
    clock: Clock,
) -> list[list[Visited]]:
    """Trajectories of the round's student, kept in a file."""
    path = folder / VISITED_FILE
    if not path.is_file():
        rounds = config.rounds
        temperatures = rounds.temperatures_K or config.sampling.temperatures_K
        plain = config.sampling.model_copy(update={"steps": ()})
        runs = [
            (starts[member], temperatures[k % len(temperatures)], (config.seed, 62, index, k))
            for k, member in enumerate(drawn_starts(len(starts), rounds.trajectories, index, config.seed))
        ]
        # A student of tens of atoms runs as fast on the CPU, and workers may share one GPU badly.
        student = create_teacher(f"student:{folder / STUDENT_FILE}", device="cpu")
        workers = config.sampling.n_workers or default_workers(student)
        parts = np.array_split(
            np.arange(len(runs)), max(min(workers, len(runs)), -(-len(runs) // RUNS_TOGETHER))
        )
        tasks = [
            explore_task([runs[k] for k in part], rounds.steps, rounds.spacing_steps, plain) for part in parts
        ]
        reporter.start(f"round {index + 1}: student runs", len(runs))
        done = [0] * len(tasks)

        def on_frames(task: int, ended: int) -> None:
            done[task] = ended
            clock.save_now_and_then()
            reporter.update(sum(done))

        with TeacherPool(student, workers, folder) as pool:
            results = pool.run(tasks, on_frames, lambda: max(0.0, clock.left(EXPLORING_SHARE)))
        reporter.finish()
        write_json(path, [run for result in results for run in result["visited"]])
    content = json.loads(path.read_text(encoding="utf-8"))
    return [[decode_visited(frame) for frame in run] for run in content]


def drawn_starts(count: int, trajectories: int, index: int, seed: int) -> list[int]:
    """Which of ``count`` starts a round runs from: over all rounds, each comes before any comes again."""
    order = np.arange(count)
    if count > trajectories:
        order = np.random.default_rng([seed, 64]).permutation(count)
    turns = np.arange(index * trajectories, (index + 1) * trajectories)
    drawn = order[turns % count]
    return np.random.default_rng([seed, 61, index]).permutation(drawn).tolist()


def choose(
    visited: list[list[Visited]], budget: int, probe_share: float, seed: tuple[int, ...]
) -> tuple[list[Visited], list[Visited]]:
    """What to label: a probe drawn at random, which tells the error, and what is worth learning.

    Worth learning are frames before an explosion and those with an atom beyond the usual uncertainty;
    of too many, those that are unlike each other and the probe; of too few, the next most unsure follow.
    """
    calm = [v for run in visited for v in run if not v.exploding]
    order = np.random.default_rng(list(seed)).permutation(len(calm))
    cut = min(len(calm), max(1, round(probe_share * budget)))
    probe = [calm[k] for k in order[:cut]]
    rest = [calm[k] for k in order[cut:]] + [v for run in visited for v in run if v.exploding]
    wanted = max(0, budget - len(probe))
    rest.sort(key=lambda v: (not v.exploding, -v.score))
    worth = [v for v in rest if v.exploding or v.score > 1.0]
    if len(worth) <= wanted:
        return probe, rest[:wanted]
    features = describe_all([v.atoms for v in (*worth, *probe)])
    picked = farthest_points(features[: len(worth)], wanted, features[len(worth) :])
    return probe, [worth[k] for k in picked]


def sensible(frames: list[ase.Atoms], known: LabelledSet, most_eV_per_atom: float) -> list[ase.Atoms]:
    """Leave out frames far above the known energies of their composition, which is where runs explode.

    The checks of the data would refuse the whole set for one of them.
    """
    energies: dict[Any, list[float]] = defaultdict(list)
    for frame in known.frames:
        energies[frame.formula].append(frame.energy_eV / len(frame))
    kept = []
    for atoms in frames:
        found = energies.get(tuple(sorted(Counter(atoms.numbers.tolist()).items())))
        if found is None or atoms.get_potential_energy() / len(atoms) - np.mean(found) <= most_eV_per_atom:
            kept.append(atoms)
    return kept


def label_visited(
    index: int,
    config: DistillConfig,
    known: LabelledSet,
    probe: list[Visited],
    chosen: list[Visited],
    teacher: Teacher,
    folder: Path,
    open_pool: OpenPool,
    reporter: Reporter,
    clock: Clock,
) -> dict[str, int]:
    """Ask the teacher; the frames that it could label are in one file, those that it fails on are left out.

    It may fail on any number of them: they are asked for because the student ran into trouble there.
    """
    structures = {k: v.atoms for k, v in enumerate((*probe, *chosen))}
    if not structures:
        return {"calls": 0, "frames": 0}
    parts = np.array_split(np.arange(len(structures)), -(-len(structures) // FEWEST_FRAMES_A_CHAIN))
    plain = config.sampling.model_copy(update={"steps": (), "max_failures": 1.0})
    specs = [
        ChainSpec(
            name=f"chain-{k:05d}",
            purpose="train",
            members=tuple(part.tolist()),
            frames=len(part),
            seed=(config.seed, 63, index, k),
            walk="given",
        )
        for k, part in enumerate(parts)
    ]
    tasks = [chain_task(spec, structures, folder / spec.name, plain) for spec in specs]
    made = [0] * len(tasks)
    reporter.start(f"round {index + 1}: labelling", len(structures))

    def on_frames(k: int, frames: int) -> None:
        made[k] = frames
        clock.save_now_and_then()
        reporter.update(sum(made))

    workers = config.sampling.n_workers or default_workers(teacher)
    with open_pool(teacher, workers, folder) as pool:
        results = pool.run(tasks, on_frames, clock.left)
    reporter.finish()
    if clock.left() < 0:
        reporter.note(f"the time for round {index + 1} is over: there may be fewer labels than planned")
    frames = [a for spec in specs for shard in shards_of(folder / spec.name) for a in read_structures(shard)]
    frames = sensible(frames, known, SENSIBLE_SHARE * config.checks.max_energy_deviation_eV_per_atom)
    for atoms in frames:
        atoms.info["source"] = "probe" if atoms.info["structure"] < len(probe) else "round"
        atoms.info["round"] = index + 1
    if frames:
        write_frames(folder / LABELLED_FILE, frames)
    return {"calls": sum(result["calls"] for result in results), "frames": len(frames)}
