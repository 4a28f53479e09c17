"""Make what a deck of this folder reads: atoms, a student of a few minutes, and the deck itself.

    python lammps/inputs.py liquid --out liquid             # water, GFN1-xTB (compactff-md[xtb])
    python lammps/inputs.py liquid --argon --out hybrid     # the same with argon, for pair_style hybrid
    python lammps/inputs.py solid --out solid               # copper, effective medium theory
    python lammps/inputs.py electrolyte --out electrolyte   # a model of superionic Li2O
    cd solid && compactff lammps npt_solid.lammps

These teachers are there to be quick. For work, distil one that you trust and take the data file, the
student and the elements of your own: every deck has them as variables.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

import compactff_md
from compactff_md.cli.options import assignments, merged, nested
from compactff_md.engines.lammps_deck import data_text
from compactff_md.files import write_text
from compactff_md.training.config import DistillConfig
from compactff_md.training.distill import distill
from compactff_md.training.recipe_files import make_config

HERE = Path(__file__).resolve().parent
DECKS = {"liquid": "nve_liquid.lammps", "solid": "npt_solid.lammps", "electrolyte": "diffusion.lammps"}
TEACHERS = {
    "liquid": "gfn1-xtb",
    "solid": "ase.calculators.emt:EMT",
    "electrolyte": "ionic_teacher:LithiumOxide",
}
TEMPERATURES_K = {"liquid": [300, 500], "solid": [300, 600], "electrolyte": [600, 1200]}


def system(kind: str, repeats: int) -> Atoms:
    """Atoms of the simulation."""
    if kind == "liquid":
        return ase.io.read(HERE.parent / "openmm" / "water_box.xyz").repeat((repeats, 1, 1))
    if kind == "solid":
        return bulk("Cu", cubic=True).repeat(2 + repeats)
    return antifluorite(4.75).repeat(1 + repeats)


def antifluorite(lattice_A: float) -> Atoms:
    """Twelve atoms of Li2O."""
    sites = [(0.25, 0.25, 0.25), (0.0, 0.0, 0.0)]
    return crystal(["Li", "O"], sites, spacegroup=225, cellpar=[lattice_A] * 3 + [90.0] * 3)


def to_learn_from(kind: str) -> list[Atoms]:
    """Structures that the sampling starts from: small, and at several densities where these may change."""
    if kind == "liquid":
        return ase.io.read(HERE.parent / "training" / "recipes" / "water_training.xyz", ":")
    if kind == "solid":
        return [bulk("Cu", a=3.59 * scale, cubic=True).repeat(2) for scale in (0.97, 0.99, 1.0, 1.01, 1.03)]
    return [antifluorite(4.70 * scale).repeat(2) for scale in (0.99, 1.0, 1.02, 1.04)]


def with_argon(atoms: Atoms) -> Atoms:
    """Put the liquid below a layer of argon on a square lattice."""
    side = atoms.cell.lengths()
    steps = [max(1, int(length // 3.8)) for length in side[:2]]
    points = [(i * side[0] / steps[0], j * side[1] / steps[1]) for i, j in np.ndindex(*steps)]
    layers = [[x, y, side[2] + 3.4 + 3.8 * layer] for layer in range(3) for x, y in points]
    both = atoms + Atoms(f"Ar{len(layers)}", layers)
    both.set_cell([side[0], side[1], side[2] + 3.4 + 3 * 3.8])
    both.pbc = True
    return both


def main() -> None:
    """Train, export, and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(DECKS))
    parser.add_argument("--argon", action="store_true", help="liquid with argon, for hybrid_argon.lammps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--student", help="of the same elements, instead of training one")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, labels included")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--set", action="append", metavar="FIELD=VALUE", help="of compactff distill")
    parser.add_argument("--repeats", type=int, default=1, help="size of the box")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    options = nested(assignments(args.set, "--set"))
    student = args.student or train(args.kind, args.out, args.minutes, args.frames, options)
    compactff_md.load(student).export(args.out / "student.mliap.pt", format="mliap")
    atoms = system(args.kind, args.repeats)
    atoms = with_argon(atoms) if args.argon else atoms
    elements = {"liquid": ["H", "O"], "solid": ["Cu"], "electrolyte": ["Li", "O"]}[args.kind]
    write_text(args.out / "system.data", data_text(atoms, elements + ["Ar"] * args.argon, "metal"))
    deck = "hybrid_argon.lammps" if args.argon else DECKS[args.kind]
    shutil.copyfile(HERE / deck, args.out / deck)
    print(f"cd {args.out} && compactff lammps {deck}")


def train(kind: str, out: Path, minutes: float, frames: int, options: dict[str, Any]) -> Path:
    """A student by distillation; workers import the teacher of this folder too."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    start = out / "to_learn_from.xyz"
    ase.io.write(start, to_learn_from(kind))
    fields = {
        "structures": str(start),
        "teacher": TEACHERS[kind],
        "size": "ultra-tiny",
        "minutes": minutes,
        "sampling": {"frames": frames, "temperatures_K": TEMPERATURES_K[kind]},
    }
    distill(make_config(DistillConfig, merged(fields, options), "lammps/inputs.py"), out / "training")
    return out / "training"


if __name__ == "__main__":
    main()
