"""Make the student files that hold the newest version of the format: ``python tests/data/make_students.py``.

Made once and committed, and never again: what is there is left as it is. Whoever changes the format, or
adds a hyperparameter, keeps them loading, and makes new files beside them.
"""

from pathlib import Path

import numpy as np
import torch

from compactff_md.artifact import FORMAT_VERSION, describe, save_student
from compactff_md.engines.ase import StudentCalculator
from compactff_md.files import write_json
from compactff_md.structure import Structure
from compactff_md.students import rebuild
from compactff_md.students.uncertainty import Uncertainty

HERE = Path(__file__).resolve().parent
MOMENTS = {"radial": 3, "channels": 4, "mixed": 4, "triples": 3, "hidden": 8, "interactions": 2}
# The architecture comes first in the name.
SMALL = {
    "moments": {**MOMENTS, "decay": 2, "core": 90},
    "moments-aligned": {**MOMENTS, "decay": 1, "core": 90, "aligned": 100},
    "moments-directed": {
        **MOMENTS,
        "decay": 1,
        "core": 90,
        "floor": 45,
        "aligned": 100,
        "directed": 2,
    },
    "painn": {"features": 6, "interactions": 2, "radial": 4, "update": 4},
}
# Some atoms of the structures are beyond them.
BOUNDS = {"moments": (0.0, 0.02, 0.05), "painn": (0.5, 0.95, 0.4)}


def structures() -> dict[str, Structure]:
    """A molecule, and a triclinic cell smaller than the cutoff."""
    water = [[0.0, 0.1, 0.2], [0.98, 0.0, 0.1], [-0.3, 0.9, 0.3]]
    positions = np.array([*water, [1.4, 1.3, -0.9], [2.5, 1.2, 0.4]])
    numbers = np.array([8, 1, 1, 6, 8])
    cell = np.array([[3.9, 0.0, 0.0], [0.7, 3.6, 0.0], [-0.4, 0.8, 4.1]])
    return {
        "molecule": Structure(positions, numbers),
        "crystal": Structure(positions, numbers, cell, np.array([True, True, True])),
    }


def main() -> None:
    """Write one file for each of the students, and what it must say beside it."""
    for name, hyperparameters in SMALL.items():
        path = HERE / f"student_v{FORMAT_VERSION}_{name}.safetensors"
        if path.exists():
            continue
        architecture = name.partition("-")[0]
        torch.manual_seed(11)
        network = rebuild(architecture, hyperparameters, ["H", "C", "O"], 4.5)
        network.energy_shift_eV.copy_(torch.tensor([-13.6, -1029.5, -2041.8]))
        network.energy_scale_eV.fill_(0.7)
        network.anchored = architecture == "moments"
        network.bound_energies(*BOUNDS[architecture])
        network.eval()
        told = uncertainty(network)
        described = describe(network, seed=11, teacher={"name": "none"}, data={"train": 0})
        save_student(path, network, described, told)
        cases = {kind: said(network, told, s) for kind, s in structures().items()}
        write_json(path.with_suffix(".json"), cases)


def uncertainty(network) -> Uncertainty:
    """One with numbers of the size that features have, for three elements."""
    alone = torch.full((1, 1, 3), 1000.0), torch.tensor([[0]]), torch.tensor([0])
    made = Uncertainty(3, 4, 2, network.features(*alone).shape[1])
    for buffer in made.buffers():
        buffer.copy_(torch.rand(buffer.shape))
    made.highest.add_(1.0)  # above the lowest
    return made


def said(network, told: Uncertainty, structure: Structure) -> dict:
    """A structure, and its energies, forces and uncertainties in float64."""
    atoms = structure.to_ase()
    atoms.calc = StudentCalculator(network, device="cpu", dtype="float64", uncertainty=told)
    results = {
        "energies_eV": atoms.get_potential_energies(),
        "forces_eV_per_A": atoms.get_forces(),
        "uncertainties_eV_per_A": atoms.calc.results["uncertainties"],
    }
    return {**vars(structure), **results}


if __name__ == "__main__":
    main()
