"""Structures -> labelled files for training, validation and test."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from statistics import median_low
from typing import Any

import ase
import numpy as np

from compactff_md.contacts import check_contacts
from compactff_md.errors import CompactFFError
from compactff_md.files import write_json
from compactff_md.structure import Structure, read_structures
from compactff_md.teachers import Teacher, create_teacher
from compactff_md.training.chains import shards_of
from compactff_md.training.cluster import ClusterPool
from compactff_md.training.config import TEACHER, DistillConfig
from compactff_md.training.drivers import settled_driver
from compactff_md.training.labelling import write_frames
from compactff_md.training.packing import encode_atoms
from compactff_md.training.planning import Plan, PlannedChain, plan_chains, plan_fields, plan_steps
from compactff_md.training.pool import Pool, TeacherPool, default_workers
from compactff_md.training.progress import Reporter
from compactff_md.training.relaxing import Clock, relax_all, relaxation_calls
from compactff_md.training.runs import RUN_FILE, versions_in
from compactff_md.training.splitting import (
    FEWEST_FRAMES,
    check_enough,
    check_plan,
    how_to_get_more,
    split_frames,
)
from compactff_md.training.steps import ConformersStep, MDStep, step_names
from compactff_md.training.tasks import Task, chain_task, flock_task
from compactff_md.training.teacher_check import examine

LABELS_FILE = "labels.json"
LABELLING_SHARE = 0.5  # of `minutes`
FLOCK_ATOMS = 1200  # that a driver moves together
ANY = sys.maxsize  # in the place of a structure's index
# Or twice the median of the composition, for a largest force in dynamics at room temperature has as much, and
# of many structures each may have been sampled at one temperature.
CALM_eV_PER_A = 3.0


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
        workers = config.sampling.n_workers or default_workers(teacher)
        with open_pool(teacher, workers, folder, config.sampling.dask, reporter) as pool:
            clock = Clock(folder / "clock.json", _labelling_minutes(config))
            relaxed = _starts(config, config.sampling.driver, structures, pool, folder, reporter, clock)
            driver = settled_driver(config, list(relaxed.values()), teacher, folder, reporter)
            # A student moves atoms for more frames, which start from more structures where there are many.
            if driver.name != config.sampling.driver:
                relaxed = _starts(config, driver.name, structures, pool, folder, reporter, clock)
            plan = _plan(config, driver.name, relaxed, len(structures), teacher, folder, reporter)
            check_plan(config, plan)
            examine(config, teacher, list(plan.structures.values()), out, reporter)
            totals = _run_chains(plan, pool, folder, reporter, clock, _driver_versions(plan, out))
        totals["calls"] += driver.calls + relaxation_calls(folder)
        about = {"seconds": clock.elapsed(), "driver": driver.name}
        _collect(config, plan, folder, out, {**totals, **about}, reporter)
    return read_labels(out)


def _starts(
    config: DistillConfig,
    driver: str | None,
    structures: list[ase.Atoms],
    pool: Pool,
    folder: Path,
    reporter: Reporter,
    clock: Clock,
) -> dict[int, ase.Atoms]:
    """The structures that trajectories start from, relaxed where the configuration says so."""
    sampling = config.sampling.model_copy(update={"driver": driver})
    needed = list(range(len(structures)))
    if sampling.mode == "given" or sampling.relax_steps == 0:
        return {member: structures[member] for member in needed}
    if not sampling.steps:
        chains = plan_chains(len(structures), sampling, config.seed)
        needed = sorted({member for chain in chains for member in chain.members})
    return relax_all(structures, needed, sampling.relax_steps, pool, folder, reporter, clock)


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


def open_pool(
    teacher: Teacher, workers: int, folder: Path, dask: str | None, reporter: Reporter | None = None
) -> Pool:
    """Processes of this machine, or the workers of a dask scheduler; the ``reporter`` is told of waiting."""
    if dask:
        return ClusterPool(teacher, dask, workers, folder, reporter)
    return TeacherPool(teacher, workers, folder)


def _labelling_minutes(config: DistillConfig) -> float | None:
    """Half of what the rounds leave of the time; None where there is no limit."""
    if config.minutes is None:
        return None
    return config.minutes * LABELLING_SHARE * (1.0 - config.rounds.most * config.rounds.training_share)


def _driver_versions(plan: Plan, out: Path) -> dict[str, str]:
    """Versions of a plan's drivers by their names: those that the run began with, where it knows them."""
    known = versions_in(out) if (out / RUN_FILE).is_file() else {}
    names = {chain.spec.driver for chain in plan.chains if chain.spec.driver}
    return {name: known.get(f"driver_{name}") or create_teacher(name).version for name in names}


def _run_chains(
    plan: Plan, pool: Pool, folder: Path, reporter: Reporter, clock: Clock, versions: dict[str, str]
) -> dict[str, Any]:
    together = flocks(plan.chains, plan.structures, pool.size)
    alone = len(plan.chains) == 1
    tasks = [_task_of(flock, plan.structures, folder, alone, versions) for flock in together]
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

    results = pool.run(tasks, on_frames, left)
    reporter.finish()
    if clock.left() < 0:
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


def _task_of(
    flock: list[PlannedChain],
    structures: dict[int, ase.Atoms],
    folder: Path,
    alone: bool,
    versions: dict[str, str],
) -> Task:
    driver = versions.get(flock[0].spec.driver or "")
    tasks = [
        chain_task(chain.spec, structures, folder / chain.spec.name, chain.config, alone, driver)
        for chain in flock
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


def _collect(
    config: DistillConfig, plan: Plan, folder: Path, out: Path, totals: dict[str, Any], reporter: Reporter
) -> None:
    """Merge the shards into one file a purpose."""
    chains = []
    for spec in (chain.spec for chain in plan.chains):
        shards = shards_of(folder / spec.name)
        chains.append((spec, [atoms for shard in shards for atoms in read_structures(shard)]))
    frames, copies = split_frames(chains, config)
    if copies:
        reporter.note(f"{copies} labelled frames are copies of others; they were left out")
    advice = how_to_get_more(config, totals["failures"])
    check_enough(len(frames["train"]), len(frames["valid"]), "labelled", advice)
    counts: dict[str, Any] = {}
    for purpose, chosen in frames.items():
        if chosen:
            write_frames(out / f"{purpose}.xyz", chosen)
            counts[purpose] = len(chosen)
    write_json(out / LABELS_FILE, {"frames": counts, **totals})


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


def start_structures(labels: Labels, given: str | Path | None, most: int = 200) -> list[ase.Atoms]:
    """Labelled structures from which a student may run, evenly spaced where there are more than ``most``.

    They are the calmest frame, by its largest force, of each structure that was given (in the file ``given``)
    or that dynamics started from, and of each composition that has none of these. Those far from calm beside
    most of their composition are left out.
    """
    num_given = 0 if given is None else len(read_structures(given))
    calmest: dict[tuple[str, int], ase.Atoms] = {}
    for atoms in read_structures(labels.train):
        member = int(atoms.info["structure"])
        own = member < num_given or atoms.info.get("source") == "md"
        key = (atoms.get_chemical_formula(), member if own else ANY)
        if key not in calmest or _largest_force(atoms) < _largest_force(calmest[key]):
            calmest[key] = atoms
    alike: dict[str, list[ase.Atoms]] = defaultdict(list)
    for (formula, member), atoms in sorted(calmest.items(), key=lambda item: item[0][1]):
        if member != ANY or formula not in alike:
            alike[formula].append(atoms)
    found = [atoms for frames in alike.values() for atoms in _calm(frames)]
    return [atoms.copy() for atoms in found[:: max(1, -(-len(found) // most))]]


def _calm(frames: list[ase.Atoms]) -> list[ase.Atoms]:
    forces = [_largest_force(atoms) for atoms in frames]
    allowed = max(CALM_eV_PER_A, 2.0 * median_low(forces))
    return [atoms for atoms, force in zip(frames, forces, strict=True) if force <= allowed]


def _largest_force(atoms: ase.Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
