"""Every figure of the documents: ``make bench``, or ``python -m compactff_md.training.bench PART``.

Prints Markdown tables and writes them with their numbers into runs/bench. Parts: speed, aspirin, bakeoff.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import torch

from compactff_md.files import write_json, write_text
from compactff_md.training.bakeoff import bakeoff
from compactff_md.training.bench_aspirin import aspirin
from compactff_md.training.bench_speed import against_painn, scaling


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as a table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(title: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Print a table and keep it as Markdown and JSON."""
    text = f"## {title}\n\n{markdown(rows)}\n"
    print(text, flush=True)
    stem = title.split(":")[0].replace(" ", "-").lower()
    write_text(out / f"{stem}.md", text)
    write_json(out / f"{stem}.json", {"machine": platform.processor() or platform.machine(), "rows": rows})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m compactff_md.training.bench", description=__doc__)
    parser.add_argument("part", nargs="?", default="speed", choices=["speed", "aspirin", "bakeoff"])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for tables and runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training each (aspirin, bakeoff)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, one core each (aspirin, bakeoff)"
    )
    parser.add_argument("--structure", type=Path, default=Path("openmm/aspirin.xyz"), help="for aspirin")
    parser.add_argument("--time-ps", type=float, default=100.0, help="of NVE (aspirin)")
    parser.add_argument("--train", type=Path, help="labelled extxyz (bakeoff)")
    parser.add_argument("--test", type=Path, help="labelled extxyz (bakeoff)")
    return parser.parse_args()


def main() -> None:
    """Run one part."""
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if arguments.part == "speed":
        show("speed water: 1,536 atoms, exported TorchScript", against_painn("water", 7), arguments.out)
        show("speed benzene: 12 atoms", against_painn("benzene", 300), arguments.out)
        show("speed scaling: water, exported TorchScript", scaling(), arguments.out)
    elif arguments.part == "aspirin":
        rows = aspirin(
            arguments.structure,
            arguments.minutes,
            arguments.time_ps,
            arguments.out / "aspirin",
            arguments.jobs,
        )
        show("aspirin: GFN2-xTB", rows, arguments.out)
    else:
        if arguments.train is None or arguments.test is None:
            raise SystemExit("bakeoff wants --train FILE and --test FILE, labelled extxyz")
        folder = arguments.out / f"bakeoff-{arguments.minutes:g}min"
        rows = bakeoff(arguments.train, arguments.test, arguments.minutes, folder, arguments.jobs)
        show(f"bakeoff: {arguments.train.name}, {arguments.minutes:g} minutes each", rows, arguments.out)


if __name__ == "__main__":
    main()
