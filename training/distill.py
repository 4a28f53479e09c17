"""Whole runs: labels -> student (``train``), and structures -> labels -> student (``distill``).

The same call with the same out folder continues an interrupted run at whatever stage it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactff_md.artifact import describe, save_student
from compactff_md.files import plain, write_json
from compactff_md.teachers import Teacher, create_teacher
from compactff_md.training.config import DistillConfig, TrainConfig, write_config
from compactff_md.training.dataset import Source, check_validation, load_sets, read_labelled
from compactff_md.training.distributed import Team, join_team
from compactff_md.training.frames import LabelledSet
from compactff_md.training.generate import Labels, generate_labels, read_start, structures_digest
from compactff_md.training.loop import TrainResult, train
from compactff_md.training.metrics import Comparison, compare, summary
from compactff_md.training.plots import plot_report
from compactff_md.training.progress import Reporter
from compactff_md.training.runs import RunFolder, open_run

STUDENT_FILE = "student.safetensors"
METRICS_FILE = "metrics.json"
RECIPE_FILE = "recipe.yaml"
REPORT_FILE = "report.png"
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
    sets = load_sets(train_files, valid, config)
    checked = _load_tests(tests or {}, sets[0], config)
    digests = _digests({"train": sets[0], "valid": sets[1], **checked})
    run = open_run(out, "train", config, digests, team)
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
    team = join_team(config.device)
    reporter = reporter if reporter and team.leads else Reporter()
    teacher = create_teacher(config.teacher, **config.teacher_arguments)
    structures = read_start(config.structures, teacher)
    sources = {"structures_sha256": structures_digest(structures), "teacher_version": teacher.version}
    run = open_run(out, "distill", config, sources, team)
    if run.finished:
        return _finished(run, reporter)
    if team.leads:
        write_config(config, run.path / RECIPE_FILE)
        generate_labels(config, structures, teacher, run.path, reporter)
    team.wait()
    labels = generate_labels(config, structures, teacher, run.path, reporter)
    training = _training_config(config, labels)
    sets = load_sets([labels.train], labels.valid, training)
    tests = _load_tests(dict(labels.tests), sets[0], training)
    result = train(training, *sets, run.path, reporter)
    return _conclude(config, run, team, result, sets, tests, reporter, teacher, labels)


def _training_config(config: DistillConfig, labels: Labels) -> TrainConfig:
    """Give the training what the labelling left of the time."""
    if config.minutes is None:
        return config.training
    left = config.minutes - labels.counts["seconds"] / 60.0
    return config.training.model_copy(update={"minutes": max(left, LEAST_TRAINING_SHARE * config.minutes)})


def _load_tests(
    tests: dict[str, Source], train_set: LabelledSet, config: TrainConfig
) -> dict[str, LabelledSet]:
    return {
        name: check_validation(read_labelled(source, config.keys), train_set, config, "the test")
        for name, source in tests.items()
    }


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
) -> RunResult:
    """Measure, and write the student, the numbers and the picture."""
    if not team.leads:
        team.wait()
        return RunResult(run.path, {})
    compared = {"valid": compare(result.network, sets[1].frames)}
    compared |= {name: compare(result.network, data.frames) for name, data in tests.items()}
    errors = {name: summary(comparison) for name, comparison in compared.items()}
    metrics = {"errors": errors, "training": _training_numbers(result), "history": result.history}
    if labels is not None:
        metrics["labels"] = labels.counts
    described = describe(
        result.network,
        size=config.size,
        teacher=teacher.describe() if teacher else None,
        data={"train": len(sets[0]), "valid": len(sets[1]), **_digests({"train": sets[0], "valid": sets[1]})},
        metrics=errors,
        seed=config.seed,
    )
    save_student(run.path / STUDENT_FILE, result.network, described)
    write_json(run.path / METRICS_FILE, metrics)
    plot_report(
        run.path / REPORT_FILE, _pairs(compared), result.history, _title(config, described.num_parameters)
    )
    run.finish()
    reporter.note(f"student, metrics and picture are in {run.path}")
    team.wait()
    return RunResult(run.path, plain(metrics))


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
