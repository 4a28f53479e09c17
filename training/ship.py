"""Put a finished run's student into the package, with its card.

``python -m compactff_md.training.ship organic-tiny runs/organic-tiny`` writes
``compactff_md/shipped/organic-tiny.safetensors`` and ``organic-tiny.md``; what the family is for is in
``training/recipes/organic.md``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import compactff_md
from compactff_md.artifact import StudentMetadata, read_metadata
from compactff_md.errors import CompactFFError
from compactff_md.files import write_bytes, write_text
from compactff_md.training.distill import METRICS_FILE, STUDENT_FILE

SHIPPED = Path(compactff_md.__file__).parent / "shipped"
RECIPES = Path(__file__).parent / "recipes"


def ship(name: str, run: Path, out: Path = SHIPPED) -> Path:
    """Copy the student of a run into ``out`` and write its card beside it; return the card.

    Raises
    ------
    CompactFFError
        If the run is not finished, or there is no text on what the family is for.
    """
    about = RECIPES / f"{name.split('-')[0]}.md"
    for path in (run / STUDENT_FILE, run / METRICS_FILE, about):
        if not path.is_file():
            raise CompactFFError(f"{path} is missing: expected a finished run, and a text on the family")
    metadata = read_metadata(run / STUDENT_FILE)
    metrics = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / f"{name}.safetensors", (run / STUDENT_FILE).read_bytes())
    card = out / f"{name}.md"
    write_text(card, text(name, metadata, metrics, about.read_text(encoding="utf-8")))
    return card


def text(name: str, metadata: StudentMetadata, metrics: dict[str, Any], about: str) -> str:
    """The card: what it is, what the family is for, and how wrong it is."""
    teacher = metadata.teacher or {}
    training = metrics["training"]
    tests = {key: found for key, found in metrics["errors"].items() if key.startswith("test")}
    start = metadata.data.get("start_from")
    lines = [
        f"# {name}",
        "",
        f"{metadata.num_parameters:,} parameters ({metadata.architecture}), cutoff {metadata.cutoff_A:g} A, "
        f"{metadata.num_interactions} interactions, for {', '.join(metadata.elements)}. "
        f"Teacher: {teacher.get('name')} ({teacher.get('version')}). "
        f"{metadata.data['train']:,} frames to learn from, {training['steps']:,} steps"
        + (f", going on from {_of_start(start)}." if start else "."),
        "",
        about.strip().replace("NAME", name).replace("SIZE", str(metadata.size)),
        "",
        "## Errors on frames that the training did not see",
        "",
        "Forces over Cartesian components; energies up to a constant for each composition.",
        "",
        "| test | frames | force RMSE (meV/A) | MAE | R2 | energy RMSE (meV/atom) |",
        "|---|---|---|---|---|---|",
    ]
    for key, found in tests.items():
        forces, energy = found["forces"], found["energy"]
        lines.append(
            f"| {_readable(key)} | {found['frames']} | {forces['rmse_meV_per_A']:.1f} | "
            f"{forces['mae_meV_per_A']:.1f} | {forces['r2']:.5f} | {energy['rmse_meV_per_atom']:.2f} |"
        )
    lines += ["", *_stresses(tests), *_by_element(tests), "", *_uncertainty(metrics)]
    return "\n".join(lines).rstrip() + "\n"


def _of_start(start: str) -> str:
    """What a training began with: a student of the package as it was then, or the file of another run."""
    return "the student of an earlier run" if Path(start).suffix else f"an earlier {start}"


def _readable(key: str) -> str:
    return key.removeprefix("test_").replace("_", " ").replace("K", " K")


def _stresses(tests: dict[str, Any]) -> list[str]:
    """One row a test that has stresses."""
    rows = [
        f"| {_readable(key)} | {found['stress']['rmse_GPa']:.3f} | {found['stress']['r2']:.4f} |"
        for key, found in tests.items()
        if "stress" in found and found["stress"]["r2"] is not None
    ]
    return ["| test | stress RMSE (GPa) | R2 |", "|---|---|---|", *rows, ""] if rows else []


def _by_element(tests: dict[str, Any]) -> list[str]:
    """Force RMSE in meV/A, one row an element and one column a test."""
    symbols = sorted({symbol for found in tests.values() for symbol in found["forces_by_element"]})
    lines = [
        f"| force RMSE (meV/A) | {' | '.join(_readable(key) for key in tests)} |",
        "|---" * (1 + len(tests)) + "|",
    ]
    for symbol in symbols:
        parts = [found["forces_by_element"].get(symbol) for found in tests.values()]
        cells = [f"{part['rmse_meV_per_A']:.1f}" if part else "-" for part in parts]
        lines.append(f"| {symbol} | {' | '.join(cells)} |")
    return lines


def _uncertainty(metrics: dict[str, Any]) -> list[str]:
    told = {
        key: found
        for key, found in metrics.get("uncertainty", {}).items()
        if key.startswith("test") and found["roc_auc"] is not None
    }
    if not told:
        return []
    rows = [
        f"| {_readable(key)} | {found['spearman']:.2f} | {found['roc_auc']:.2f} |"
        for key, found in told.items()
    ]
    return [
        "The uncertainty in the file against the true force error of each atom:",
        "",
        "| test | rank correlation | area under the ROC curve, errors above 3 medians |",
        "|---|---|---|",
        *rows,
    ]


def main() -> None:
    """The command."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m compactff_md.training.ship NAME RUN_FOLDER")
    try:
        print(ship(sys.argv[1], Path(sys.argv[2])))
    except CompactFFError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
