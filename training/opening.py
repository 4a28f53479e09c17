"""How a distillation begins: its teacher, the folder that is its own, and the labels there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from compactff_md.student import student_file
from compactff_md.teachers import Teacher, create_teacher
from compactff_md.training.checks import check_isolated_agree
from compactff_md.training.config import DistillConfig, TrainConfig
from compactff_md.training.dataset import given_isolated, read_labelled
from compactff_md.training.distributed import Team, join_team
from compactff_md.training.generate import (
    LABELS_FILE,
    driver_versions,
    file_digests,
    generate_labels,
    read_labels,
    read_start,
    structures_digest,
)
from compactff_md.training.journal import Journal
from compactff_md.training.loop import CHECKPOINT
from compactff_md.training.planning import plan_fields
from compactff_md.training.preparation import check_start
from compactff_md.training.progress import Reporter
from compactff_md.training.recipe_files import write_config
from compactff_md.training.runs import RUN_FILE, RunFolder, check_labels_are_the_same, open_run, versions_in
from compactff_md.training.splitting import check_plan
from compactff_md.training.teacher_check import check_labels_are_its_own, examine

RECIPE_FILE = "recipe.yaml"
LABELLED_JOURNAL = "labelled.journal"
BEFORE_TRAINING = ("checks", "isolated_energies_eV", "isolated_energies_checksum")
ROUNDS_FOLDER = "rounds"


def labelled_run(
    config: DistillConfig, out: str | Path, reporter: Reporter | None
) -> tuple[Reporter, Team, Teacher, RunFolder]:
    """The folder of a run, with its labels or finished, and who works there.

    Raises
    ------
    CompactFFError
        As :func:`compactff_md.training.distill.distill`, but for the training.
    """
    team = join_team(config.device)
    reporter = reporter if reporter and team.leads else Reporter()
    teacher, versions = _teacher(config, Path(out))
    structures = read_start(config.structures, teacher)
    check_start(config)
    labelled = config.labels_from is not None or (Path(out) / LABELS_FILE).is_file()
    if not config.sampling.steps and not labelled:
        given = dict(enumerate(structures))
        check_plan(config, plan_fields(given, len(given), config.sampling, config.seed))
    sources: dict[str, str | None] = {
        "structures_sha256": structures_digest(structures),
        **versions,
        **file_digests(config),
        **start_checksum(config),
        **_isolated_checksum(config),
    }
    if config.labels_from is not None:
        check_labels_are_the_same(Path(config.labels_from), config, sources)
        read_labels(Path(config.labels_from))
    run = open_run(out, "distill", config, sources, team, _changeable(Path(out), labelled))
    if team.leads and not run.finished:
        write_config(config, run.path / RECIPE_FILE)
        examine(config, teacher, structures, run.path, reporter)
        journal = Journal(run.path / LABELLED_JOURNAL)  # it stays: there is nothing else to keep of this
        before = [read_labelled(path, config.keys) for path in config.labelled]
        check_isolated_agree(before, given_isolated(config))
        for part in before:
            check_labels_are_its_own(teacher, part.frames, journal=journal)
        if config.labels_from is None:
            generate_labels(config, structures, teacher, run.path, reporter)
    team.wait()
    return reporter, team, teacher, run


def _teacher(config: DistillConfig, out: Path) -> tuple[Teacher, dict[str, str]]:
    """The teacher, with versions of it and of drivers; it may be missing where nothing is left to ask it."""
    asked = config.rounds.most or config.labelled or config.labels_from is not None
    if not asked and (out / LABELS_FILE).is_file() and (out / RUN_FILE).is_file():
        versions = versions_in(out)
        return Teacher(config.teacher, versions["teacher_version"], dict(config.teacher_arguments)), versions
    teacher = create_teacher(config.teacher, **config.teacher_arguments)
    return teacher, {"teacher_version": teacher.version, **driver_versions(config)}


def _changeable(out: Path, labelled: bool) -> list[str]:
    """What may still be given anew: time until the labels are complete, the rest until a training begins."""
    trained = (out / CHECKPOINT).is_file() or (out / ROUNDS_FOLDER).is_dir()
    return [*([] if labelled else ["minutes"]), *([] if trained else BEFORE_TRAINING)]


def start_checksum(config: TrainConfig) -> dict[str, str]:
    """Checksum of the student that the training starts from, if any."""
    if config.start_from is None:
        return {}
    return {"start_from_checksum": hashlib.sha256(student_file(config.start_from).read_bytes()).hexdigest()}


def _isolated_checksum(config: TrainConfig) -> dict[str, str | None]:
    """Checksum of the file with energies of isolated atoms; None where there is none."""
    if not isinstance(config.isolated_energies_eV, str):
        return {"isolated_energies_checksum": None}
    content = repr(sorted(given_isolated(config).items()))
    return {"isolated_energies_checksum": hashlib.sha256(content.encode()).hexdigest()}
