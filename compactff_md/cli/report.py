"""What is printed when labels or a training are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from compactff_md.cli.console import out, say, say_files
from compactff_md.training.distill import RunResult
from compactff_md.training.generate import Labels
from compactff_md.training.stress_check import CONVENTION, is_doubtful

COLUMNS = ("frames", "force RMSE meV/A", "force MAE meV/A", "force R2", "energy RMSE meV/atom")


def say_run(result: RunResult) -> None:
    """Print errors on unseen frames, the training's length, and where the files are."""
    out.print(error_table(result.metrics["errors"]))
    metrics = result.metrics
    for line in (*stress_lines(metrics["errors"]), *_stage_lines(metrics), *_uncertainty_lines(metrics)):
        say(line)
    training = result.metrics["training"]
    minutes = training["seconds"] / 60
    say(f"{training['num_parameters']} parameters, {training['steps']} steps in {minutes:.1f} min")
    files: dict[str, Path | str] = {
        "student": result.student,
        "metrics": result.metrics_file,
        "picture": result.report,
        "recipe": result.recipe,
    }
    frames = sorted(result.folder.glob("*.xyz"))
    if frames:
        files["labelled frames"] = result.folder / ("{" + ",".join(path.stem for path in frames) + "}.xyz")
    say_files(files)


def say_labels(labels: Labels) -> None:
    """Print how many frames each file has, what they took, and where they are."""
    counts = labels.counts
    frames = ", ".join(f"{count:,} in {name}" for name, count in sorted(counts["frames"].items()))
    say(f"labelled frames: {frames}")
    say(f"{counts['calls']:,} teacher calls in {counts['seconds'] / 60:.1f} min")
    say_files({name: labels.train.with_name(f"{name}.xyz") for name in sorted(counts["frames"])})


def stress_lines(errors: dict[str, Any]) -> Iterator[str]:
    """Errors of the stress of each set of frames that have one, and a doubt where they are large."""
    for name, found in errors.items():
        if "stress" in found:
            r2 = found["stress"]["r2"]  # None: a single stress
            of_variance = "" if r2 is None else f", R2 {r2:.4f}"
            yield f"stress, {name}: RMSE {found['stress']['rmse_GPa']:.3g} GPa{of_variance}"
    doubtful = [name for name, found in errors.items() if is_doubtful(found)]
    if doubtful:
        yield (
            f"warning: the stress is far worse than the forces ({', '.join(doubtful)}). Are its labels by "
            f"the method of the energies, and {CONVENTION}?"
        )


def _stage_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Seconds, labels and errors of each stage before the training."""
    for stage in metrics.get("stages", ())[:-1]:
        line = f"{stage['stage']}: {stage['labels']} teacher calls in {stage['seconds'] / 60:.1f} min"
        if stage.get("fresh_force_rmse_meV_per_A") is not None:
            line += (
                f"; force RMSE {stage['fresh_force_rmse_meV_per_A']:.1f} meV/A on the student's own "
                f"trajectories, {stage['test_force_rmse_meV_per_A']:.1f} on the test"
            )
        yield line


def _uncertainty_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """How well the uncertainty finds large errors in each test."""
    for name, found in metrics.get("uncertainty", {}).items():
        if name != "valid" and None not in (found["roc_auc"], found["spearman"]):
            yield (
                f"uncertainty, {name}: correlation {found['spearman']:.2f} with the force error, area under "
                f"the ROC curve {found['roc_auc']:.2f} for errors above 3 times the median"
            )


def error_table(errors: dict[str, Any]) -> Table:
    """Errors of each set of unseen frames, and at each temperature where there are several."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("unseen frames", *COLUMNS):
        number = title in COLUMNS
        table.add_column(title, justify="right" if number else "left", no_wrap=not number)
    for row in _rows(errors):
        table.add_row(*row)
    return table


def _rows(errors: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row a set of frames, and one a temperature where a set has several."""
    for name, found in errors.items():
        forces, energy = found["forces"], found["energy"]
        yield (
            name,
            str(found["frames"]),
            *_force_cells(forces),
            f"{energy['rmse_meV_per_atom']:.3g}",
        )
        by_temperature = found.get("forces_by_temperature", {})
        if len(by_temperature) > 1:
            for temperature, part in by_temperature.items():
                yield f"  at {temperature}", "", *_force_cells(part), ""


def _force_cells(forces: dict[str, float]) -> tuple[str, str, str]:
    r2 = forces["r2"]
    return (
        f"{forces['rmse_meV_per_A']:.1f}",
        f"{forces['mae_meV_per_A']:.1f}",
        "-" if r2 is None else f"{r2:.5f}",
    )
