"""The tables of the documents: ``make bench``, or ``python -m compactff_md.training.bench PART``.

Prints Markdown tables and writes them with their numbers into runs/bench. Parts: speed (six minutes),
uncertainty (one minute), lammps (a quarter of an hour), liquid, aspirin, bakeoff and ablation (half an hour
each or more; the last three train, two jobs at a time), molecules (70 minutes), in all some four hours; and
gpu, by its name alone. What is trained already is not trained again: remove the out folder to start anew.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from compactff_md.errors import CompactFFError
from compactff_md.files import write_json, write_text
from compactff_md.students import SIZES
from compactff_md.training.bakeoff import bakeoff
from compactff_md.training.bench_ablation import ablation
from compactff_md.training.bench_aspirin import aspirin
from compactff_md.training.bench_gpu import dynamics
from compactff_md.training.bench_lammps import against_bare, against_teacher
from compactff_md.training.bench_liquid import liquid
from compactff_md.training.bench_molecules import molecules
from compactff_md.training.bench_speed import against_painn, scaling
from compactff_md.training.bench_systems import of_the_repository
from compactff_md.training.bench_uncertainty import uncertainty_costs

DATA = Path(__file__).with_name("data")


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


def speed(arguments: argparse.Namespace) -> None:
    """Cost of energies and forces."""
    show("speed water: 1,536 atoms, exported TorchScript", against_painn("water", 7), arguments.out)
    show("speed benzene: 12 atoms", against_painn("benzene", 300), arguments.out)
    show("speed scaling: water, exported TorchScript", scaling(), arguments.out)


def distilled_aspirin(arguments: argparse.Namespace) -> None:
    """Accuracy and energy conservation of a distilled molecule."""
    minutes, folder = arguments.minutes or 10.0, arguments.out / "aspirin"
    rows = aspirin(arguments.structure, minutes, arguments.time_ps, folder, arguments.jobs)
    show(f"aspirin: GFN2-xTB, {minutes:g} minutes each", rows, arguments.out)


def architectures(arguments: argparse.Namespace) -> None:
    """Accuracy of the architectures after equal time."""
    minutes, train = arguments.minutes or 6.0, arguments.train
    folder = arguments.out / f"bakeoff-{minutes:g}min"
    rows = bakeoff(train, arguments.test, minutes, folder, arguments.jobs)
    show(f"bakeoff: {train.name}, {minutes:g} minutes each", rows, arguments.out)


def lammps(arguments: argparse.Namespace) -> None:
    """Cost of LAMMPS beside the student; it wants ``make lammps`` first and two idle cores."""
    rows = against_bare(arguments.sizes, lambda row: print(row, file=sys.stderr, flush=True))
    show("lammps: NVE of water, float32, one thread a rank", rows, arguments.out)
    rows = against_teacher()
    if rows:
        show("lammps teacher: SevenNet 7net-0 through ASE on the same box", rows, arguments.out)


def on_a_gpu(arguments: argparse.Namespace) -> None:
    """Speed of dynamics on a GPU; not among all, since it wants one."""
    title = f"gpu: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}, float32"
    rows = dynamics(arguments.sizes, arguments.systems, lambda row: print(row, file=sys.stderr, flush=True))
    show(title, rows, arguments.out)


def pieces_of_a_liquid(arguments: argparse.Namespace) -> None:
    """Density at constant pressure, and errors on free pieces of the liquid."""
    given = arguments
    rows = liquid(given.students, given.liquid, "gfn2-xtb", 1.0, given.liquid_ps, 192, given.pieces)
    show(f"liquid: {given.liquid.name}, 300 K, 1 bar, pieces of 192 atoms by GFN2-xTB", rows, given.out)


def parts_of_distillation(arguments: argparse.Namespace) -> None:
    """Accuracy with and without each part of a distillation, after equal labels and steps."""
    calls, steps = arguments.calls, arguments.steps
    rows = ablation(arguments.structure, calls, steps, arguments.out / "ablation", arguments.jobs)
    show(f"ablation: {calls:,} teacher calls and {steps:,} steps each", rows, arguments.out)


def random_molecules(arguments: argparse.Namespace) -> None:
    """Accuracy of the defaults on molecules drawn at random."""
    minutes, seed = arguments.minutes or 15.0, arguments.seed
    folder = arguments.out / f"molecules-{seed}-{minutes:g}min"
    rows = molecules(arguments.structures, arguments.count, seed, minutes, folder, arguments.jobs)
    show(f"molecules: GFN2-xTB, at most {minutes:g} minutes and one core each", rows, arguments.out)


def cost_of_uncertainty(arguments: argparse.Namespace) -> None:
    """How much longer the ASE calculator takes with the uncertainty."""
    rows = uncertainty_costs(arguments.sizes)
    show("uncertainty: ASE calculator, float32, one thread", rows, arguments.out)


PARTS = {
    "speed": speed,
    "uncertainty": cost_of_uncertainty,
    "lammps": lammps,
    "aspirin": distilled_aspirin,
    "bakeoff": architectures,
    "ablation": parts_of_distillation,
    "molecules": random_molecules,
    "liquid": pieces_of_a_liquid,
    "gpu": on_a_gpu,
}
BY_NAME_ALONE = ("gpu",)
# Which argument names a file that an installation lacks.
FILES = {"aspirin": "structure", "ablation": "structure", "molecules": "structures", "liquid": "liquid"}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m compactff_md.training.bench", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for tables and runs")
    parser.add_argument("--minutes", type=float, help="of each; 10 (aspirin), 6 (bakeoff), 15 (molecules)")
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at a time, one core each, of those that train"
    )
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, choices=SIZES, help="for lammps, gpu, uncertainty"
    )
    parser.add_argument("--systems", nargs="+", default=[], help="of those that gpu has; all unless told")
    parser.add_argument(
        "--structure", type=Path, default=Path("openmm/aspirin.xyz"), help="for aspirin, ablation"
    )
    parser.add_argument(
        "--structures",
        type=Path,
        default=Path("validation/reports/organic_unseen.xyz"),
        help="to draw molecules from",
    )
    parser.add_argument("--count", type=int, default=3, help="of molecules")
    parser.add_argument("--seed", type=int, default=0, help="to draw molecules with")
    parser.add_argument("--calls", type=int, default=3000, help="of the teacher for each (ablation)")
    parser.add_argument("--steps", type=int, default=8000, help="of training each (ablation)")
    parser.add_argument("--time-ps", type=float, default=100.0, help="of NVE (aspirin)")
    parser.add_argument(
        "--students", nargs="+", default=[f"organic-{size}" for size in SIZES], help="names or files (liquid)"
    )
    parser.add_argument(
        "--liquid", type=Path, default=Path("openmm/water_box.xyz"), help="box of molecules (liquid)"
    )
    parser.add_argument("--liquid-ps", type=float, default=10.0, help="of dynamics each (liquid)")
    parser.add_argument("--pieces", type=int, default=6, help="that the teacher labels (liquid)")
    parser.add_argument("--train", type=Path, default=DATA / "ethanol_train.xyz.gz", help="for bakeoff")
    parser.add_argument("--test", type=Path, default=DATA / "ethanol_test.xyz.gz", help="for bakeoff")
    return parser.parse_args()


def main() -> None:
    """Run one part, or all."""
    arguments = parse()
    every = [name for name in PARTS if name not in BY_NAME_ALONE]
    chosen = every if arguments.part == "all" else [arguments.part]
    torch.set_num_threads(1)
    try:
        for name in FILES.keys() & chosen:
            of_the_repository(getattr(arguments, FILES[name]))
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            PARTS[name](arguments)
    except CompactFFError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
