"""Structures from structures, without the teacher: what the steps of a recipe that make some do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.data import atomic_numbers, covalent_radii
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from compactff_md.errors import CompactFFError
from compactff_md.training.chemistry import conformers
from compactff_md.training.clusters import pack
from compactff_md.training.liquids import draw_mixture, fill_box
from compactff_md.training.molecules import read_smiles
from compactff_md.training.sampling import random_strain, separation_A, strained
from compactff_md.training.steps import (
    ClustersStep,
    ConformersStep,
    ContactsStep,
    DimersStep,
    LiquidStep,
    MakerStep,
    StrainStep,
    SubstitutionStep,
    TorsionsStep,
    VolumesStep,
)

BOND_FACTOR = 1.25  # bonds are shorter than this times the sum of covalent radii
TRIES_PER_STRUCTURE = 10


def make_structures(
    step: MakerStep, name: str, sources: Sequence[ase.Atoms], min_separation_A: float, seed: tuple[int, ...]
) -> list[ase.Atoms]:
    """All structures of a step; the same for the same arguments.

    Raises
    ------
    CompactFFError
        If the step can make nothing of these structures, such as strain of a molecule.
    """
    if isinstance(step, ConformersStep):
        return _conformers(step, name, seed)
    make = MAKERS[type(step)]
    # In random order, so that fewer than there are sources come from all of them.
    order = np.random.default_rng(list(seed)).permutation(len(sources))
    shuffled = [sources[k] for k in order]
    made: list[ase.Atoms] = []
    for index in range(TRIES_PER_STRUCTURE * step.count):
        if len(made) == step.count:
            break
        rng = np.random.default_rng([*seed, index])
        trial = make(step, shuffled, index, rng)
        if trial is not None and separation_A(trial) >= min_separation_A:
            made.append(trial)
    if not made:
        raise CompactFFError(
            f"step {name!r} can make nothing of the {len(sources)} structures: {_needs(step)}"
        )
    return made


def _needs(step: MakerStep) -> str:
    return {
        StrainStep: "expected periodic ones",
        VolumesStep: "expected periodic ones",
        TorsionsStep: "expected molecules with bonds to turn about",
        ClustersStep: "expected free molecules, small enough for max_atoms",
        LiquidStep: "expected free molecules, small enough for max_atoms",
        SubstitutionStep: "they have none of the elements",
    }.get(type(step), "atoms would come too close")


def _conformers(step: ConformersStep, name: str, seed: tuple[int, ...]) -> list[ase.Atoms]:
    made: list[ase.Atoms] = []
    for index, smiles in enumerate(read_smiles(step.smiles)):
        made += conformers(smiles, step.each, int(np.random.default_rng([*seed, index]).integers(2**31)))
        if len(made) >= step.count:
            break
    if not made:
        raise CompactFFError(
            f"step {name!r}: no molecule of {Path(step.smiles).name} could be embedded in space"
        )
    return made[: step.count]


def strain(
    step: StrainStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Strain a structure at random; None where it is not periodic."""
    atoms = sources[index % len(sources)]
    return strained(atoms, random_strain(atoms.pbc, step.max_strain, rng)) if atoms.pbc.any() else None


def volume(
    step: VolumesStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Scale a structure; factors are spread evenly over all that the step makes."""
    atoms = sources[index % len(sources)]
    if not atoms.pbc.all():
        return None
    low, high = step.factors
    share = 0.5 if step.count == 1 else index % step.count / (step.count - 1)
    return strained(atoms, ((low + (high - low) * share) ** (1 / 3) - 1.0) * np.eye(3))


def bonds(atoms: ase.Atoms) -> np.ndarray:
    """Pairs (B, 2) of bonded atoms of a free molecule, by covalent radii."""
    radii = covalent_radii[atoms.numbers]
    near = atoms.get_all_distances() < BOND_FACTOR * (radii[:, None] + radii)
    return np.argwhere(np.triu(near, 1))


def turnable(atoms: ase.Atoms) -> list[tuple[int, int, np.ndarray]]:
    """Bonds (i, j) outside rings between inner atoms, and which atoms (N,) turn with j."""
    pairs = bonds(atoms)
    found = []
    for k, (i, j) in enumerate(pairs):
        graph = np.zeros((len(atoms), len(atoms)), dtype=bool)
        graph[tuple(np.delete(pairs, k, axis=0).T)] = True
        side = connected_components(graph, directed=False)[1]
        if side[i] != side[j] and 1 < (side == side[j]).sum() and 1 < (side == side[i]).sum():
            found.append((int(i), int(j), side == side[j]))
    return found


def torsion(
    step: TorsionsStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Turn about up to ``step.bonds`` bonds by random angles; None for molecules without any."""
    atoms = sources[index % len(sources)]
    choices = [] if atoms.pbc.any() else turnable(atoms)
    if not choices:
        return None
    result = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions)
    for k in rng.permutation(len(choices))[: step.bonds]:
        i, j, turning = choices[k]
        axis = result.positions[j] - result.positions[i]
        turn = Rotation.from_rotvec(rng.uniform(-np.pi, np.pi) * axis / np.linalg.norm(axis))
        here = result.positions[j].copy()
        result.positions[turning] = turn.apply(result.positions[turning] - here) + here
    return result


def contact(
    step: ContactsStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Move a random atom and one of its three nearest towards each other."""
    atoms = sources[index % len(sources)]
    if len(atoms) < 2:
        return None
    result = strained(atoms, np.zeros((3, 3)))
    i = int(rng.integers(len(atoms)))
    vectors = result.get_distances(i, list(range(len(atoms))), mic=bool(atoms.pbc.any()), vector=True)
    distance = np.linalg.norm(vectors, axis=1)
    distance[i] = np.inf
    nearest = np.argsort(distance)[: min(3, len(atoms) - 1)]
    j = int(nearest[int(rng.integers(len(nearest)))])
    move = 0.5 * (1.0 - rng.uniform(*step.closeness)) * vectors[j]
    result.positions[i] += move
    result.positions[j] -= move
    return result


def dimer(
    step: DimersStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """The next pair of elements, each pair at evenly spread distances."""
    numbers = [atomic_numbers[symbol] for symbol in step.elements]
    if not numbers:
        numbers = np.unique(np.concatenate([atoms.numbers for atoms in sources])).tolist()
    pairs = list(combinations_with_replacement(numbers, 2))
    one, other = pairs[index % len(pairs)]
    each = -(-step.count // len(pairs))
    closest, farthest = step.closeness
    closeness = closest + (farthest - closest) * (index // len(pairs) + rng.uniform()) / each
    distance_A = closeness * (covalent_radii[one] + covalent_radii[other])
    return ase.Atoms([one, other], [[0.0, 0.0, 0.0], [distance_A, 0.0, 0.0]])


def cluster(
    step: ClustersStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Pack a cluster of the next size; None where no free molecule is there."""
    free = [atoms for atoms in sources if not atoms.pbc.any()]
    size = step.sizes[index % len(step.sizes)]
    return pack(free, size, step.water_share, step.closeness, step.max_atoms, rng) if free else None


def liquid(
    step: LiquidStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Fill a box with the next share of water; None where fewer than two free molecules fit into it."""
    free = [atoms for atoms in sources if not atoms.pbc.any()]
    share = step.water_shares[index % len(step.water_shares)]
    drawn = draw_mixture(free, step.kinds, share, step.max_atoms, rng) if free else []
    return fill_box(drawn, step.closeness, rng) if len(drawn) > 1 else None


def substitution(
    step: SubstitutionStep, sources: Sequence[ase.Atoms], index: int, rng: np.random.Generator
) -> ase.Atoms | None:
    """Exchange, replace and remove atoms at random; None where a structure has none of the elements."""
    result = strained(sources[index % len(sources)], np.zeros((3, 3)))
    changed = False
    bound = _bound(result, step.unbonded_to)
    for one, other in step.exchange:
        a, b = _some(result, one, bound, rng), _some(result, other, bound, rng)
        count = int(rng.integers(1, 1 + min(step.most, len(a), len(b)))) if len(a) and len(b) else 0
        _rename(result, a[:count], other)
        _rename(result, b[:count], one)
        changed |= count > 0
    for old, new in step.replace.items():
        sites = _some(result, old, bound, rng)
        count = int(rng.integers(1, 1 + min(step.most, len(sites)))) if len(sites) else 0
        _rename(result, sites[:count], new)
        changed |= count > 0
    gone: list[int] = []
    for symbol, most in step.remove.items():
        sites = _some(result, symbol, bound, rng)
        gone += sites[: int(rng.integers(0, 1 + min(most, len(sites))))].tolist()
        changed |= len(sites) > 0
    del result[sorted(gone)]
    return result if changed and len(result) else None


def _bound(atoms: ase.Atoms, elements: Sequence[str]) -> np.ndarray:
    """Which atoms are bonded to one of these elements, shape (N,), images included."""
    radii = covalent_radii[atoms.numbers]
    distance = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    near = distance < BOND_FACTOR * (radii[:, None] + radii)
    np.fill_diagonal(near, False)
    return near[:, np.isin(atoms.get_chemical_symbols(), list(elements))].any(1)


def _some(atoms: ase.Atoms, symbol: str, bound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Atoms of an element, but those that are bound, in random order."""
    return rng.permutation(np.flatnonzero((np.array(atoms.get_chemical_symbols()) == symbol) & ~bound))


def _rename(atoms: ase.Atoms, sites: np.ndarray, symbol: str) -> None:
    for site in sites.tolist():
        atoms[site].symbol = symbol


Maker = Callable[[Any, Sequence[ase.Atoms], int, np.random.Generator], ase.Atoms | None]
MAKERS: dict[type[MakerStep], Maker] = {
    StrainStep: strain,
    VolumesStep: volume,
    TorsionsStep: torsion,
    ContactsStep: contact,
    DimersStep: dimer,
    ClustersStep: cluster,
    LiquidStep: liquid,
    SubstitutionStep: substitution,
}
