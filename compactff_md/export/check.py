"""Compare an exported file with the student that it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor

from compactff_md.errors import CompactFFError
from compactff_md.gradients import predict
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students.base import StudentNetwork, in_dtype
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, EV_TO_KJ_PER_MOL, NM_TO_A

# Energy of a structure in eV, and forces in eV/A, may differ by this much in float32 and float64.
ENERGY_TOLERANCE_EV = {torch.float32: 1e-5, torch.float64: 1e-8}
FORCE_TOLERANCE_EV_PER_A = {torch.float32: 1e-4, torch.float64: 1e-8}
# Beside that, as many units of rounding, where energies and forces are large: neighbours are summed in
# another order in file and student, and two interactions carry it on: 17 units were seen on 300 atoms
# with pairs at 0.5 A. In float64 the same systems agree to 1e-8, so it is rounding and no more.
ROUNDING_UNITS = 32.0
# And as many times what float32 costs the student itself there, against float64: where a student was never
# trained, such as in random structures of eight elements, its rounding is that of larger intermediate terms.
OWN_ROUNDING = 4.0


def check_export(
    path: str | Path, network: StudentNetwork, structures: Sequence[Structure] = (), seed: int = 0
) -> None:
    """Load the file anew and compare it with the student on given and on random structures.

    The student gets its neighbours from vesin, the file from its own list. Energies must agree to 1e-5 eV
    and forces to 1e-4 eV/A in float32 (1e-8 in float64), or to what these dtypes resolve where energies
    are sums over many atoms and forces are large. Each structure is evaluated twice, the second time
    displaced, so that the list is used again. Where the file has atoms, ``forward`` is compared as well.

    Parameters
    ----------
    path
        The TorchScript file.
    network
        The student in evaluation mode, in the dtype of the file.
    structures
        What to compare beside random molecules, crystals and slabs of the student's elements.
    seed
        Of the random structures.

    Raises
    ------
    CompactFFError
        If a structure differs by more; the message says which, and by how much.
    """
    module = torch.jit.load(str(path))
    precise = in_dtype(network, "float64")
    rng = np.random.default_rng(seed)
    chosen = [(f"structure {k}", s) for k, s in enumerate(structures)]
    chosen += [(f"random structure {k}", s) for k, s in enumerate(random_structures(network, rng))]
    for label, structure in chosen:
        _compare(module, network, precise, structure, label)
        moves = rng.uniform(-0.05, 0.05, structure.positions_A.shape)
        moved = Structure(structure.positions_A + moves, structure.numbers, structure.cell_A, structure.pbc)
        _compare(module, network, precise, moved, label + ", displaced")
    if len(module.numbers):
        _compare_forward(module, rng)


def random_structures(network: StudentNetwork, rng: np.random.Generator) -> Iterator[Structure]:
    """Yield a molecule, a droplet, and boxes: large and small, cubic, triclinic, a slab and a wire."""
    skew = np.array([[1.0, 0.0, 0.0], [0.3, 0.9, 0.0], [-0.2, 0.3, 1.1]])
    cases = [
        (10, np.eye(3), (False, False, False)),
        (70, np.eye(3), (False, False, False)),
        (90, np.eye(3), (True, True, True)),
        (60, skew, (True, True, True)),
        (3, skew, (True, True, True)),
        (20, skew, (True, True, False)),
        (8, np.eye(3), (False, False, True)),
    ]
    known = network.atomic_numbers.cpu().numpy()
    for count, shape, pbc in cases:
        numbers = np.concatenate([known, rng.choice(known, count)])[:count]
        yield scattered(numbers, shape, pbc, rng)


def scattered(
    numbers: np.ndarray, shape: np.ndarray, pbc: Sequence[bool], rng: np.random.Generator
) -> Structure:
    """Atoms near the sites of a lattice as wide as their bonds, some of them outside of the cell.

    The closest distances are about 1.4 times the largest covalent radius, where the repulsion of nuclei
    just begins, so that nothing is missed and forces stay those of hot matter.
    """
    count = len(numbers)
    spacing_A = max(1.8, 2.5 * float(covalent_radii[numbers].max()))
    side = math.ceil(count ** (1.0 / 3.0) - 1e-9)
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = rng.permutation(sites)[:count] + rng.uniform(-0.22, 0.22, (count, 3))
    cell_A = spacing_A * side * np.asarray(shape)
    fractional = sites / side + rng.integers(-1, 2, (count, 3)) * np.asarray(pbc)
    periodic = np.asarray(pbc, dtype=bool)
    return Structure(fractional @ cell_A, rng.permutation(numbers), cell_A * periodic[:, None], periodic)


def _compare(
    module: torch.jit.ScriptModule, network: StudentNetwork, precise: StudentNetwork, s: Structure, label: str
) -> None:
    """Compare ``evaluate`` with the student on one structure; ``precise`` is the student in float64."""
    positions, numbers = torch.from_numpy(s.positions_A), torch.from_numpy(s.numbers)
    species = network.species_of(numbers)
    table = neighbour_table(s, network.cutoff_A)
    energies, forces, virial = predict(network, positions, table, species)
    exact_energies, exact_forces, _ = predict(precise, positions, table, species)
    got = module.evaluate(positions, numbers, torch.from_numpy(s.cell_A), torch.from_numpy(s.pbc))
    dtype = network.dtype_like().dtype
    rounding = ROUNDING_UNITS * torch.finfo(dtype).eps
    learned = energies - network.energy_shift_eV[species]
    # An atom's energy is a sum of terms of the size of the energy scale, also where it is small itself.
    terms = float(network.energy_scale_eV) * math.sqrt(len(s))
    allowed_energy = ENERGY_TOLERANCE_EV[dtype] + rounding * (float(learned.norm()) + terms)
    allowed_energy += OWN_ROUNDING * abs(float(energies.sum() - exact_energies.sum()))
    allowed_force = FORCE_TOLERANCE_EV_PER_A[dtype] + rounding * float(forces.abs().max())
    allowed_force += OWN_ROUNDING * float((forces - exact_forces).abs().max())
    allowed_virial = allowed_force * network.cutoff_A * math.sqrt(len(s))
    _agree(f"{label}: energy", got[0].sum(), energies.sum(), allowed_energy, "eV")
    _agree(f"{label}: forces", got[1], forces, allowed_force, "eV/A")
    _agree(f"{label}: virial", got[2], virial, allowed_virial, "eV")


def _compare_forward(module: torch.jit.ScriptModule, rng: np.random.Generator) -> None:
    """Compare ``forward`` with ``evaluate`` on the atoms of the file, put anywhere."""
    pbc = [True, True, True] if module.follows_box else list(module.pbc)
    numbers = module.numbers.numpy()
    s = scattered(np.sort(numbers), np.eye(3), pbc, rng)
    positions, cell = torch.from_numpy(s.positions_A), torch.from_numpy(s.cell_A)
    energies, forces, _ = module.evaluate(positions, module.numbers, cell, torch.from_numpy(s.pbc))
    chosen = module.particles if len(module.particles) else torch.arange(len(numbers))
    system = torch.zeros(int(chosen.max()) + 1, 3, dtype=torch.float64)
    system[chosen] = positions / NM_TO_A
    energy_kJ, forces_kJ = module(system, cell / NM_TO_A if any(pbc) else None)
    eps = ROUNDING_UNITS * torch.finfo(forces.dtype).eps
    scale = (float(energies.abs().sum()), float(forces.abs().max()))
    allowed = [t[forces.dtype] for t in (ENERGY_TOLERANCE_EV, FORCE_TOLERANCE_EV_PER_A)]
    energy_eV, forces_eV = energy_kJ / EV_TO_KJ_PER_MOL, forces_kJ[chosen] / EV_PER_A_TO_KJ_PER_MOL_PER_NM
    _agree("forward: energy", energy_eV, energies.sum(), allowed[0] + eps * scale[0], "eV")
    _agree("forward: forces", forces_eV, forces, allowed[1] + eps * scale[1], "eV/A")


def _agree(what: str, got: Tensor, expected: Tensor, allowed: float, unit: str) -> None:
    difference = float((got.double() - expected.double()).abs().max())
    if not difference <= allowed:  # NaN too
        raise CompactFFError(
            f"the exported file differs from the student in {what}: by {difference:.3g} {unit}, "
            f"allowed is {allowed:.3g}; no file was written"
        )
