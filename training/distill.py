"""Whole runs: labels -> student (``train``), and structures -> labels -> student (``distill``).

The same call with the same out folder continues an interrupted run at whatever stage it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from compactff_md.artifact import describe, save_student
from compactff_md.errors import CompactFFError
from compactff_md.files import plain, write_json
from compactff_md.students.uncertainty import Uncertainty
from compactff_md.teachers import Teacher
from compactff_md.training.checks import structure_key
from compactff_md.training.config import DistillConfig, TrainConfig
from compactff_md.training.dataset import Source, check_validation, load_sets, read_labelled
from compactff_md.training.distributed import Team, join_team
from compactff_md.training.frames import LabelledSet
from compactff_md.training.generate import Labels, open_pool, read_labels, start_structures
from compactff_md.training.keys import LabelKeys
from compactff_md.training.loop import TrainResult, train
from compactff_md.training.metrics import Comparison, compare, joined, summary
from compactff_md.training.opening import RECIPE_FILE, ROUNDS_FOLDER, labelled_run, start_checksum
from compactff_md.training.plots import plot_report
from compactff_md.training.pool import Pool
from compactff_md.training.progress import Reporter
from compactff_md.training.recipe_files import write_config
from compactff_md.training.rounds import ROUND_FILE, Round, is_enough, run_round
from compactff_md.training.runs import RunFolder, open_run
from compactff_md.training.teacher_check import CHECK_FILE
from compactff_md.training.uncertainty import fit_uncertainty, force_error, quality, tell

STUDENT_FILE = "student.safetensors"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.png"
ALL_TESTS = "test_all"
LEAST_TRAINING_SHARE = 0.25  # of `minutes`, whatever the labelling took


@dataclass(frozen=True)
class RunResult:
    """Files of a finished run and its numbers, as in ``metrics.json``.

    ``already_finished`` is True where the folder held the finished run and nothing was done. ``student``,
    ``metrics_file``, ``recipe`` and ``report`` are in ``folder``.
    """

    folder: Path
    metrics: dict[str, Any]
    already_finished: bool = False

    @property
    def student(self) -> Path:
        """The student file."""
        return self.folder / STUDENT_FILE

    @property
    def metrics_file(self) -> Path:
        """The numbers as JSON."""
        return self.folder / METRICS_FILE

    @property
    def recipe(self) -> Path:
        """The resolved configuration."""
        return self.folder / RECIPE_FILE

    @property
    def report(self) -> Path:
        """The picture."""
        return self.folder / REPORT_FILE


def train_from_files(
    config: TrainConfig,
    train_files: Sequence[Source],
    out: str | Path,
    valid: Source | None = None,
    tests: dict[str, Source] | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Train a student on labelled frames; everything lands in ``out``.

    Parameters
    ----------
    train_files
        Labelled files, or lists of ``ase.Atoms``; isolated atoms may be among them or in a file of their
        own.
    valid
        Held-out frames; None holds out 5% of the training frames.
    tests
        Further labelled frames by name, evaluated at the end.

    Raises
    ------
    CompactFFError
        For bad data, a folder that holds another run, training that diverges.
    """
    team = join_team(config.device)
    reporter = reporter if reporter and team.leads else Reporter()
    taken = sorted({"train", "valid"} & set(tests or {}))
    if taken:
        raise CompactFFError(f"a test is called {taken[0]}, as frames of the training; give it another name")
    sets = load_sets(train_files, valid, config)
    read = {name: read_labelled(source, config.keys, sets[0].keys) for name, source in (tests or {}).items()}
    checked = _check_tests(read, sets[0], config)
    digests = _digests({"train": sets[0], "valid": sets[1], **checked})
    run = open_run(out, "train", config, {**digests, **start_checksum(config)}, team)
    if run.finished:
        return _finished(run, reporter)
    if team.leads:
        write_config(config, run.path / RECIPE_FILE)
    team.wait()
    result = train(config, *sets, run.path, reporter)
    return _conclude(config, run, team, result, sets, checked, reporter)


def distill(config: DistillConfig, out: str | Path, reporter: Reporter | None = None) -> RunResult:
    """Let a teacher label structures and train a student on them; everything lands in ``out``.

    Raises
    ------
    CompactFFError
        For bad structures, an unknown teacher or one that fails too often, a folder that holds another
        run, training that diverges.
    """
    reporter, team, teacher, run = labelled_run(config, out, reporter)
    if run.finished:
        return _finished(run, reporter)
    labels = read_labels(run.path if config.labels_from is None else Path(config.labels_from))
    rounds = _rounds(config, labels, teacher, run, team, reporter)
    training = _training_config(config, labels, rounds)
    sets, tests = _own_sets(config, training, labels, rounds, reporter)
    result = train(training, *sets, run.path, reporter)
    return _conclude(config, run, team, result, sets, tests, reporter, teacher, labels, rounds)


def label(config: DistillConfig, out: str | Path, reporter: Reporter | None = None) -> Labels:
    """Let a teacher label structures, the first part of :func:`distill`, which goes on in the same folder.

    Raises
    ------
    CompactFFError
        As :func:`distill`; where the labels are to be those of another run.
    """
    if config.labels_from is not None:
        raise CompactFFError(
            f"there is nothing to label: labels_from is {config.labels_from}; leave it out, or train on those"
        )
    reporter, team, _, run = labelled_run(config, out, reporter)
    labels = read_labels(run.path)
    if team.leads:  # what the training would refuse is told now
        _own_sets(config, config.training, labels, [], reporter)
    return labels


def _rounds(
    config: DistillConfig,
    labels: Labels,
    teacher: Teacher,
    run: RunFolder,
    team: Team,
    reporter: Reporter,
) -> list[Round]:
    """On-policy rounds until the student is no worse on its own trajectories, or the labels are spent."""
    done: list[Round] = []
    left = config.rounds.labels
    starts = start_structures(labels, config.structures) if config.rounds.most else []
    part = _share_of(config, config.rounds.training_share)
    for index in range(config.rounds.most):
        folder = run.path / ROUNDS_FOLDER / f"{index + 1:02d}"
        left_s = _left_for_rounds_s(config, labels, done)
        if left_s <= 60.0 * (part.minutes or 0.0) and not (folder / ROUND_FILE).is_file():
            reporter.note(f"the time for rounds is over: the training follows after {index}")
            break
        sets, tests = _own_sets(config, part, labels, done)
        budget = left // (config.rounds.most - index)
        arguments = (index, config, part, sets, tests, starts, teacher, folder, budget, left_s)

        def open_there(teacher: Teacher, workers: int, folder: Path) -> Pool:
            return open_pool(teacher, workers, folder, config.sampling.dask, reporter)

        run_round(*arguments, open_there, team.leads, reporter)
        team.wait()
        # The leading process has written it; the others read it here.
        done.append(run_round(*arguments, open_there, team.leads, reporter))
        left -= done[-1].report["labels"]
        if is_enough(done[-1].report, config) or left <= 0:
            break
    return done


def _own_sets(
    config: DistillConfig,
    training: TrainConfig,
    labels: Labels,
    rounds: list[Round],
    reporter: Reporter | None = None,
) -> tuple[tuple[LabelledSet, LabelledSet], dict[str, LabelledSet]]:
    """Frames to train on, validate and test with.

    ``keys`` are those of the ``labelled`` files alone. Of these, structures that the run has labelled itself
    are left out: one with the same seed begins with the same ones.
    """

    def read(path: str | Path, keys: LabelKeys | None = None) -> LabelledSet:
        return replace(read_labelled(path, keys), by_teacher=True)

    own, valid = read(labels.train), read(labels.valid)
    tests = {name: read(path) for name, path in labels.tests.items()}
    added = [read(part.frames) for part in rounds if part.frames.is_file()]
    before = [read(path, config.keys) for path in config.labelled]
    if before:
        parts = (own, valid, *tests.values(), *added)
        known = {structure_key(frame) for part in parts for frame in part.frames}
        count = sum(map(len, before))
        before = [_without(part, known) for part in before]
        if reporter and count > sum(map(len, before)):
            again = count - sum(map(len, before))
            reporter.note(f"{again} of {count} labelled frames are this run's own as well, and left out")
    sets = load_sets([own, *before, *added], valid, training)
    return sets, _check_tests(tests, sets[0], training)


def _without(data: LabelledSet, known: set[bytes]) -> LabelledSet:
    return replace(data, frames=tuple(f for f in data.frames if structure_key(f) not in known))


def _share_of(config: DistillConfig, share: float) -> TrainConfig:
    """The training of a round: a share of the whole."""
    training = config.training
    return training.model_copy(
        update={
            "minutes": None if training.minutes is None else share * training.minutes,
            "steps": None if training.max_steps is None else max(1, round(share * training.max_steps)),
            "epochs": None if training.epochs is None else max(1, round(share * training.epochs)),
        }
    )


def _training_config(config: DistillConfig, labels: Labels, rounds: list[Round]) -> TrainConfig:
    """Give the training what labelling and rounds left of the time."""
    if config.minutes is None:
        return config.training
    left = config.minutes - _spent_s(config, labels, rounds) / 60.0
    return config.training.model_copy(update={"minutes": max(left, LEAST_TRAINING_SHARE * config.minutes)})


def _left_for_rounds_s(config: DistillConfig, labels: Labels, rounds: list[Round]) -> float:
    """Seconds until the training has to begin; infinite where there is no limit."""
    if config.minutes is None:
        return inf
    return 60.0 * config.minutes * (1.0 - LEAST_TRAINING_SHARE) - _spent_s(config, labels, rounds)


def _spent_s(config: DistillConfig, labels: Labels, rounds: list[Round]) -> float:
    labelling = labels.counts["seconds"] if config.labels_from is None else 0.0
    return labelling + sum(part.report["seconds"] for part in rounds)


def _check_tests(
    tests: dict[str, LabelledSet], train_set: LabelledSet, config: TrainConfig
) -> dict[str, LabelledSet]:
    return {name: check_validation(data, train_set, config, "the test") for name, data in tests.items()}


def _digests(sets: dict[str, LabelledSet]) -> dict[str, str]:
    return {f"{name}_sha256": data.digest for name, data in sets.items()}


def _finished(run: RunFolder, reporter: Reporter) -> RunResult:
    reporter.note(f"{run.path} holds this run, finished; nothing to do")
    metrics = json.loads((run.path / METRICS_FILE).read_text(encoding="utf-8"))
    return RunResult(run.path, metrics, already_finished=True)


def _conclude(
    config: TrainConfig,
    run: RunFolder,
    team: Team,
    result: TrainResult,
    sets: tuple[LabelledSet, LabelledSet],
    tests: dict[str, LabelledSet],
    reporter: Reporter,
    teacher: Teacher | None = None,
    labels: Labels | None = None,
    rounds: Sequence[Round] = (),
) -> RunResult:
    """Measure, and write the student, the numbers and the picture."""
    if not team.leads:
        team.wait()
        return RunResult(run.path, {})
    compared = {"valid": compare(result.network, sets[1].frames)}
    compared |= {name: compare(result.network, data.frames) for name, data in tests.items()}
    errors = {name: summary(comparison) for name, comparison in compared.items()}
    if len(tests) > 1 and ALL_TESTS not in tests:
        errors[ALL_TESTS] = summary(joined([compared[name] for name in tests]))
        errors[ALL_TESTS].pop("forces_by_temperature", None)  # the tests have them
    uncertainty = fit_uncertainty(result.network, sets[0].frames, compared["valid"], config.seed)
    told = _told(uncertainty, result, compared)
    in_file = {
        name: {**found, **({"uncertainty": told[name]} if name in told else {})}
        for name, found in errors.items()
    }
    metrics = {"errors": errors, "training": _training_numbers(result), "history": result.history}
    metrics["uncertainty"] = told
    if labels is not None:
        metrics["labels"] = labels.counts
        metrics["stages"] = _stages(labels, rounds, result, errors)
    if (run.path / CHECK_FILE).is_file():
        metrics["teacher"] = json.loads((run.path / CHECK_FILE).read_text(encoding="utf-8"))
    data = {"train": len(sets[0]), "valid": len(sets[1]), **_digests({"train": sets[0], "valid": sets[1]})}
    if sets[0].keys is not None:
        data["keys"] = sets[0].keys.model_dump(exclude_none=True)
    if config.start_from is not None:
        data |= {"start_from": Path(config.start_from).name, **start_checksum(config)}
    described = describe(
        result.network,
        size=config.size,
        teacher=teacher.describe() if teacher else None,
        data=data,
        metrics=in_file,
        seed=config.seed,
    )
    save_student(run.path / STUDENT_FILE, result.network, described, uncertainty)
    write_json(run.path / METRICS_FILE, metrics)
    plot_report(
        run.path / REPORT_FILE, _pairs(compared), result.history, _title(config, described.num_parameters)
    )
    run.finish()
    reporter.note(f"student, metrics and picture are in {run.path}")
    team.wait()
    return RunResult(run.path, plain(metrics))


def _told(
    uncertainty: Uncertainty | None, result: TrainResult, compared: dict[str, Comparison]
) -> dict[str, Any]:
    """How well the uncertainty tells errors on each set of unseen frames; empty where there is none."""
    if uncertainty is None:
        return {}
    return {
        name: quality(tell(uncertainty, result.network, part.frames), force_error(part))
        for name, part in compared.items()
    }


def _stages(
    labels: Labels, rounds: Sequence[Round], result: TrainResult, errors: dict[str, Any]
) -> list[dict[str, Any]]:
    """Seconds, labels and error of each stage."""
    last = {
        f"{name}_force_rmse_meV_per_A": found["forces"]["rmse_meV_per_A"] for name, found in errors.items()
    }
    return [
        {"stage": "labels", "seconds": labels.counts["seconds"], "labels": labels.counts["calls"]},
        *(part.report for part in rounds),
        {"stage": "training", "seconds": result.elapsed_s, "labels": 0, **last},
    ]


def _training_numbers(result: TrainResult) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "epochs": result.epochs,
        "seconds": result.elapsed_s,
        "num_parameters": result.network.num_parameters,
        "architecture": result.network.architecture,
    }


def _pairs(compared: dict[str, Comparison]) -> dict[str, Any]:
    """The tests where there are any, else the validation."""
    chosen = {name: c for name, c in compared.items() if name != "valid"} or compared
    return {name: (c.forces_eV_per_A, c.predicted_forces_eV_per_A) for name, c in chosen.items()}


def _title(config: TrainConfig, num_parameters: int) -> str:
    taught = f", taught by {config.teacher}" if isinstance(config, DistillConfig) else ""
    return f"{config.size} student, {num_parameters:,} parameters{taught}"
