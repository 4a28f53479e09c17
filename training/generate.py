"""Structures -> labelled files for training, validation and test."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import ase
import numpy as np

from compactff_md.contacts import check_contacts
from compactff_md.errors import CompactFFError
from compactff_md.files import write_json
from compactff_md.structure import Structure, read_structures
from compactff_md.teachers import Teacher, create_teacher
from compactff_md.training.chains import shards_of
from compactff_md.training.checks import structure_key
from compactff_md.training.cluster import ClusterPool
from compactff_md.training.config import TEACHER, DistillConfig
from compactff_md.training.drivers import settled_driver
from compactff_md.training.frames import Frame
from compactff_md.training.labelling import write_frames
from compactff_md.training.packing import decode_atoms, encode_atoms
from compactff_md.training.planning import ChainSpec, Plan, PlannedChain, plan_fields, plan_steps
from compactff_md.training.pool import Pool, TeacherPool, default_workers
from compactff_md.training.progress import Reporter
from compactff_md.training.steps import ConformersStep, MDStep, step_names
from compactff_md.training.tasks import Task, chain_task, flock_task, relax_task

LABELS_FILE = "labels.json"
CLOCK_SECONDS = 5.0
LABELLING_SHARE = 0.5  # of `minutes`
FEWEST_FRAMES = 10
FLOCK_ATOMS = 1200  # that a driver moves together
SHORT_CHAIN = 3  # frames, of which one would be much to hold out


@dataclass(frozen=True)
class Labels:
    """Files that the teacher labelled, and what it took.

    ``tests`` maps names such as ``test_300K`` to files; ``counts`` has frames of each file, calls,
    failures, rejected frames and seconds.
    """

    train: Path
    valid: Path
    tests: dict[str, Path]
    counts: dict[str, Any]


def read_start(path: str | Path | None, teacher: Teacher) -> list[ase.Atoms]:
    """Read the structures to start from, and refuse what cannot be labelled; none where there is no file.

    Raises
    ------
    CompactFFError
        For unreadable files, overlapping atoms, lengths in nm, elements that the teacher lacks.
    """
    if path is None:
        return []
    structures = read_structures(path)
    for index, atoms in enumerate(structures):
        name = f"{Path(path).name} structure {index}"
        try:
            structure = Structure.from_ase(atoms)
        except CompactFFError as error:
            raise CompactFFError(f"{name}: {error}") from error
        check_contacts(structure, name)
        teacher.check(atoms, name)
    return structures


def generate_labels(
    config: DistillConfig, structures: list[ase.Atoms], teacher: Teacher, out: Path, reporter: Reporter
) -> Labels:
    """Sample and label, or continue where the folder stands, or return what is there already.

    Raises
    ------
    CompactFFError
        If the teacher fails on too many frames, or too few frames came out in the time.
    """
    if not (out / LABELS_FILE).is_file():
        folder = out / "labels"
        folder.mkdir(exist_ok=True)
        clock = _Clock(folder / "clock.json", _labelling_minutes(config))
        workers = config.sampling.n_workers or default_workers(teacher)
        with open_pool(teacher, workers, folder, config.sampling.dask) as pool:
            relaxed = _relax_all(config, structures, pool, folder, reporter, clock)
            driver = settled_driver(config, list(relaxed.values()), teacher, folder, reporter)
            plan = _plan(config, driver.name, relaxed, len(structures), teacher, folder, reporter)
            totals = _run_chains(plan, pool, folder, reporter, clock)
        totals["calls"] += driver.calls
        about = {"seconds": clock.elapsed(), "driver": driver.name}
        _collect(config, plan, folder, out, {**totals, **about})
    return read_labels(out)


def _plan(
    config: DistillConfig,
    driver: str | None,
    structures: dict[int, ase.Atoms],
    num_given: int,
    teacher: Teacher,
    folder: Path,
    reporter: Reporter,
) -> Plan:
    """Chains and their structures; those that steps made are checked as the given ones were."""
    if not config.sampling.steps:
        sampling = config.sampling.model_copy(update={"driver": driver})
        return plan_fields(structures, num_given, sampling, config.seed)
    plan = plan_steps(structures, config.sampling, config.seed, folder, reporter)
    for index in sorted(plan.structures.keys() - structures.keys()):
        teacher.check(plan.structures[index], f"structure {index}, made by a step")
    return plan


def open_pool(teacher: Teacher, workers: int, folder: Path, dask: str | None) -> Pool:
    """Processes of this machine, or the workers of a dask scheduler."""
    return ClusterPool(teacher, dask, workers, folder) if dask else TeacherPool(teacher, workers, folder)


def _labelling_minutes(config: DistillConfig) -> float | None:
    """Half of what the rounds leave of the time; None where there is no limit."""
    if config.minutes is None:
        return None
    return config.minutes * LABELLING_SHARE * (1.0 - config.rounds.most * config.rounds.training_share)


class _Clock:
    """Time spent on labelling, over interruptions."""

    def __init__(self, path: Path, minutes: float | None) -> None:
        self.path = path
        self.limit_s = None if minutes is None else 60.0 * minutes
        before = json.loads(path.read_text())["seconds"] if path.is_file() else 0.0
        self.started = self.saved = time.monotonic()
        self.started -= before

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def left(self) -> float:
        assert self.limit_s is not None
        return self.limit_s - self.elapsed()

    def save_now_and_then(self) -> None:
        if time.monotonic() - self.saved > CLOCK_SECONDS:
            write_json(self.path, {"seconds": self.elapsed()})
            self.saved = time.monotonic()


def _relax_all(
    config: DistillConfig,
    structures: list[ase.Atoms],
    pool: Pool,
    folder: Path,
    reporter: Reporter,
    clock: _Clock,
) -> dict[int, ase.Atoms]:
    """Relax every structure that a trajectory may start from; the results are kept for a resumed run."""
    given = dict(enumerate(structures))
    if config.sampling.mode == "given" or config.sampling.relax_steps == 0:
        return given
    needed = sorted(given)
    if not config.sampling.steps:
        chains = plan_fields(given, len(given), config.sampling, config.seed).chains
        needed = sorted({member for chain in chains for member in chain.spec.members})
    path = folder / "relaxed.json"
    known = {int(k): v for k, v in json.loads(path.read_text()).items()} if path.is_file() else {}
    missing = [member for member in needed if member not in known]
    reporter.start("relaxing structures", max(1, len(needed)))
    for first in range(0, len(missing), 100):
        part = missing[first : first + 100]
        steps = config.sampling.relax_steps
        tasks = [relax_task(structures[m], steps, f"structure {m}") for m in part]
        results = pool.run(tasks, lambda index, frames: None)
        known.update({member: result["atoms"] for member, result in zip(part, results, strict=True)})
        write_json(path, known)
        reporter.update(len(known))
        clock.save_now_and_then()
    reporter.finish()
    return {member: decode_atoms(known[member]) for member in needed}


def _run_chains(plan: Plan, pool: Pool, folder: Path, reporter: Reporter, clock: _Clock) -> dict[str, Any]:
    together = flocks(plan.chains, plan.structures, pool.size)
    tasks = [_task_of(flock, plan.structures, folder, alone=len(plan.chains) == 1) for flock in together]
    training = [flock[0].spec.purpose == "train" for flock in together]
    made = [0] * len(tasks)
    reporter.start("labelling", sum(chain.spec.frames for chain in plan.chains))

    def on_frames(index: int, frames: int) -> None:
        made[index] = frames
        clock.save_now_and_then()
        reporter.update(sum(made))

    def left() -> float:
        """Not below zero, at which chains are left out, before there is enough to train on."""
        enough = sum(compress(made, training)) >= 2 * FEWEST_FRAMES
        return clock.left() if enough else max(0.0, clock.left())

    results = pool.run(tasks, on_frames, left if clock.limit_s is not None else None)
    reporter.finish()
    if clock.limit_s is not None and clock.left() < 0:
        reporter.note("the time for labels is over: there may be fewer frames than planned, or no test")
    totals: dict[str, Any] = defaultdict(int)
    for result in results:
        for name, value in result.items():
            totals[name] += value
    _report_losses(totals, reporter)
    return dict(totals)


def flocks(
    chains: list[PlannedChain], structures: dict[int, ase.Atoms], workers: int
) -> list[list[PlannedChain]]:
    """Chains in their order, those with a driver together: a student likes many atoms, up to a limit.

    There are at least as many flocks as workers, where chains suffice.
    """
    sizes = [len(structures[chain.spec.members[0]]) for chain in chains]
    driven = sum(size for chain, size in zip(chains, sizes, strict=True) if chain.spec.driver)
    most = min(FLOCK_ATOMS, -(-driven // workers))
    made: list[list[PlannedChain]] = []
    atoms = 0
    for chain, size in zip(chains, sizes, strict=True):
        fits = bool(made) and made[-1][0].spec.driver == chain.spec.driver and atoms + size <= most
        if chain.spec.driver and fits:
            made[-1].append(chain)
            atoms += size
        else:
            made.append([chain])
            atoms = size
    return made


def _task_of(flock: list[PlannedChain], structures: dict[int, ase.Atoms], folder: Path, alone: bool) -> Task:
    tasks = [
        chain_task(chain.spec, structures, folder / chain.spec.name, chain.config, alone) for chain in flock
    ]
    return tasks[0] if len(tasks) == 1 else flock_task(tasks)


def _report_losses(totals: dict[str, Any], reporter: Reporter) -> None:
    if totals["failures"]:
        reporter.note(
            f"the teacher failed on {totals['failures']} of {totals['attempts']} frames; they were left out"
        )
    if totals["rejected"]:
        lost = f"{totals['rejected']} of {totals['attempts']} frames were left out"
        reporter.note(f"{lost}: forces above sampling.max_force_eV_per_A, or atoms too close")


def _collect(config: DistillConfig, plan: Plan, folder: Path, out: Path, totals: dict[str, Any]) -> None:
    """Merge the shards into one file a purpose; the end of each training chain is held out."""
    frames: dict[str, list[ase.Atoms]] = defaultdict(list)
    trained: list[tuple[ChainSpec, list[ase.Atoms]]] = []
    for spec in (chain.spec for chain in plan.chains):
        chain = [atoms for shard in shards_of(folder / spec.name) for atoms in read_structures(shard)]
        if spec.purpose == "train":
            trained.append((spec, chain))
        else:
            frames[spec.purpose] += chain
    lengths = [(spec, len(chain)) for spec, chain in trained]
    parts = held_out(lengths, config.sampling.valid_fraction, config.seed)
    for (_, chain), held in zip(trained, parts, strict=True):
        frames["train"] += [atoms for k, atoms in enumerate(chain) if k not in held]
        frames["valid"] += [chain[k] for k in sorted(held)]
    if config.sampling.steps:
        drop_copies(frames)
    if len(frames["train"]) < FEWEST_FRAMES or not frames["valid"]:
        raise CompactFFError(
            f"{len(frames['train'])} frames for training and {len(frames['valid'])} for validation were "
            f"labelled; expected at least {FEWEST_FRAMES} and 1. Give more minutes, or raise sampling.frames"
        )
    counts: dict[str, Any] = {}
    for purpose, chosen in frames.items():
        if chosen:
            write_frames(out / f"{purpose}.xyz", chosen)
            counts[purpose] = len(chosen)
    write_json(out / LABELS_FILE, {"frames": counts, **totals})


def drop_copies(frames: dict[str, list[ase.Atoms]]) -> None:
    """Leave out what is there already: two steps may label the same structure. The test comes first."""
    seen: set[bytes] = set()
    for purpose in sorted(frames, key=lambda name: (name == "train", name == "valid", name)):
        kept = []
        for atoms in frames[purpose]:
            key = structure_key(Frame(Structure.from_ase(atoms), 0.0, np.zeros((len(atoms), 3))))
            if key not in seen:
                seen.add(key)
                kept.append(atoms)
        frames[purpose] = kept


def held_out(chains: Sequence[tuple[ChainSpec, int]], valid_fraction: float, seed: int) -> list[set[int]]:
    """Frames of each chain that validate: given its plan and its number of frames.

    The end of a trajectory, or a random part of given structures. Of chains too short for that the fraction
    is held out whole where they are many; where they are few, each gives its last frame.
    """
    held = [_part_of(spec, frames, valid_fraction) for spec, frames in chains]
    short = [k for k, (_, frames) in enumerate(chains) if frames and not held[k]]
    whole = round(valid_fraction * len(short))
    if not whole:
        for k in short:
            held[k] = {chains[k][1] - 1} if chains[k][1] > SHORT_CHAIN else set()
        if not any(held) and len(short) > 1:
            whole = 1
    for k in np.random.default_rng([seed, 50]).permutation(short)[:whole].tolist():
        held[k] = set(range(chains[k][1]))
    return held


def _part_of(spec: ChainSpec, frames: int, valid_fraction: float) -> set[int]:
    count = round(valid_fraction * frames)
    if spec.walk == "md":
        return set(range(frames - count, frames))
    rng = np.random.default_rng([*spec.seed, *spec.members[:1]])
    return set(rng.permutation(frames)[:count].tolist())


def read_labels(out: Path) -> Labels:
    """What :func:`generate_labels` left in a folder.

    Raises
    ------
    CompactFFError
        If its labels are not complete.
    """
    if not (out / LABELS_FILE).is_file():
        raise CompactFFError(
            f"{out} has no complete labels: there is no {LABELS_FILE}; finish that run first"
        )
    counts = json.loads((out / LABELS_FILE).read_text(encoding="utf-8"))
    tests = {name: out / f"{name}.xyz" for name in counts["frames"] if name.startswith("test")}
    return Labels(out / "train.xyz", out / "valid.xyz", tests, counts)


def structures_digest(structures: list[ase.Atoms]) -> str:
    """Checksum of the structures, for telling runs apart."""
    text = json.dumps([encode_atoms(atoms) for atoms in structures])
    return hashlib.sha256(text.encode()).hexdigest()


def file_digests(config: DistillConfig) -> dict[str, str]:
    """Checksums of the files of labels and SMILES that a run reads beside its structures, by their names."""
    steps = config.sampling.steps
    files = {
        name: step.smiles
        for name, step in zip(step_names(steps), steps, strict=True)
        if isinstance(step, ConformersStep)
    }
    files |= {f"labelled-{index}": path for index, path in enumerate(config.labelled)}
    return {
        f"{name}_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for name, path in files.items()
        if Path(path).is_file()
    }


def driver_versions(config: DistillConfig) -> dict[str, str]:
    """Versions of what moves atoms in the teacher's place, by their names; what is missing shows here.

    Raises
    ------
    CompactFFError
        As :func:`compactff_md.teachers.create_teacher`.
    """
    names = {step.driver for step in config.sampling.steps if isinstance(step, MDStep) and step.driver}
    if config.sampling.driver not in (None, TEACHER):
        names.add(config.sampling.driver)
    return {f"driver_{name}": create_teacher(name).version for name in sorted(names)}


def start_structures(labels: Labels, most: int = 200) -> list[ase.Atoms]:
    """Labelled structures from which a student may run: the calmest of each composition, evenly spaced."""
    frames = read_structures(labels.train)
    calmest: dict[str, ase.Atoms] = {}
    for atoms in frames:
        key = atoms.get_chemical_formula()
        if key not in calmest or _largest_force(atoms) < _largest_force(calmest[key]):
            calmest[key] = atoms
    found = list(calmest.values())
    return [atoms.copy() for atoms in found[:: max(1, -(-len(found) // most))]]


def _largest_force(atoms: ase.Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
