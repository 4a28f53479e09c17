"""Put a finished run's student into the package, with its card.

``python -m compactff_md.training.ship organic-tiny runs/organic-tiny`` writes
``compactff_md/shipped/organic-tiny.safetensors`` and ``organic-tiny.md``; what the family is for is in
``training/recipes/organic.md``. Without the run, ``python -m compactff_md.training.ship organic-tiny`` writes
the card again, after a change of that text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import compactff_md
from compactff_md.artifact import StudentMetadata, read_metadata
from compactff_md.errors import CompactFFError
from compactff_md.files import write_bytes, write_text
from compactff_md.training.distill import METRICS_FILE, STUDENT_FILE

SHIPPED = Path(compactff_md.__file__).parent / "shipped"
RECIPES = Path(__file__).parent / "recipes"
UNCERTAINTY_HEAD = (
    "| test | rank correlation | area under the ROC curve, errors above 3 medians |",
    "|---|---|---|",
)


def ship(name: str, run: Path, out: Path = SHIPPED) -> Path:
    """Copy the student of a run into ``out`` and write its card beside it; return the card.

    Raises
    ------
    CompactFFError
        If the run is not finished, or there is no text on what the family is for.
    """
    for path in (run / STUDENT_FILE, run / METRICS_FILE, _about(name)):
        if not path.is_file():
            raise CompactFFError(f"{path} is missing: expected a finished run, and a text on the family")
    metadata = read_metadata(run / STUDENT_FILE)
    metrics = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / f"{name}.safetensors", (run / STUDENT_FILE).read_bytes())
    card = out / f"{name}.md"
    write_text(card, text(name, metadata, metrics["training"]["steps"], _uncertainty(metrics)))
    return card


def again(name: str, folder: Path = SHIPPED) -> str:
    """The card of a student in ``folder`` as it is made now, of its file and of the text on the family.

    The steps of the training, which the file does not tell, stay as the card has them; so does the quality of
    the uncertainty where the file is of a version that did not tell it.

    Raises
    ------
    CompactFFError
        If there is no such student with a card.
    """
    card, file = folder / f"{name}.md", folder / f"{name}.safetensors"
    for path in (card, file, _about(name)):
        if not path.is_file():
            raise CompactFFError(f"{path} is missing: expected a student of the package, with its card")
    written = card.read_text(encoding="utf-8")
    steps = re.search(r" ([\d,]+) steps", written)
    if steps is None:
        raise CompactFFError(f"{card} does not tell the steps of the training")
    metadata = read_metadata(file)
    told = {key: found["uncertainty"] for key, found in metadata.metrics.items() if "uncertainty" in found}
    rows = written.partition("\n".join(UNCERTAINTY_HEAD))[2].split("\n")
    uncertainty = _uncertainty({"uncertainty": told}) or [row for row in rows if row.startswith("|")]
    return text(name, metadata, int(steps[1].replace(",", "")), uncertainty)


def _about(name: str) -> Path:
    return RECIPES / f"{name.split('-')[0]}.md"


def text(name: str, metadata: StudentMetadata, steps: int, uncertainty: Sequence[str]) -> str:
    """The card: what it is, what the family is for, and how wrong it is.

    ``uncertainty`` has the rows of its table.
    """
    teacher = metadata.teacher or {}
    tests = {key: found for key, found in metadata.metrics.items() if key.startswith("test")}
    start = metadata.data.get("start_from")
    about = _about(name).read_text(encoding="utf-8")
    lines = [
        f"# {name}",
        "",
        f"{metadata.num_parameters:,} parameters ({metadata.architecture}), cutoff {metadata.cutoff_A:g} A, "
        f"{metadata.num_interactions} interactions, for {', '.join(metadata.elements)}. "
        f"Teacher: {teacher.get('name')} ({teacher.get('version')}). "
        f"{metadata.data['train']:,} frames to learn from, {steps:,} steps"
        + (f", going on from {_of_start(start)}." if start else "."),
        "",
        "Paths below are those of the repository. An installation has `training/recipes` as "
        "`compactff_md/training/recipes`, and neither `validation/reports` nor `docs`.",
        "",
        about.strip().replace("NAME", name).replace("SIZE", str(metadata.size)),
        "",
        "## Errors on frames that the training did not see",
        "",
        "Forces over Cartesian components; energies up to a constant for each composition, which is fitted "
        "on these frames, and as they are.",
        "",
        "| test | frames | force RMSE (meV/A) | MAE | R2 | energy RMSE (meV/atom) | as they are |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, found in tests.items():
        forces, energy = found["forces"], found["energy"]
        lines.append(
            f"| {_readable(key)} | {found['frames']} | {forces['rmse_meV_per_A']:.1f} | "
            f"{forces['mae_meV_per_A']:.1f} | {forces['r2']:.5f} | {energy['rmse_meV_per_atom']:.2f} | "
            f"{energy['rmse_absolute_meV_per_atom']:.2f} |"
        )
    lines += ["", *_stresses(tests), *_by_element(tests), ""]
    if uncertainty:
        words = "The uncertainty in the file against the true force error of each atom (by chance, 0.5):"
        lines += [words, "", *UNCERTAINTY_HEAD, *uncertainty]
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
    """One row a test that tells how good the uncertainty is."""
    return [
        f"| {_readable(key)} | {found['spearman']:.2f} | {found['roc_auc']:.2f} |"
        for key, found in metrics.get("uncertainty", {}).items()
        if key.startswith("test") and found["roc_auc"] is not None
    ]


def main() -> None:
    """The command."""
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m compactff_md.training.ship NAME [RUN_FOLDER]")
    name, *run = sys.argv[1:]
    try:
        if run:
            print(ship(name, Path(run[0])))
        else:
            write_text(SHIPPED / f"{name}.md", again(name))
            print(SHIPPED / f"{name}.md")
    except CompactFFError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
