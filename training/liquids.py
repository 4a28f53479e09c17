"""Boxes of molecules close to a liquid, and pieces cut out of one for teachers of free molecules."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np
from ase.build import molecule
from scipy.spatial.transform import Rotation

from compactff_md.engines.molecules import Molecules
from compactff_md.errors import CompactFFError
from compactff_md.training.clusters import contact_radii

SHRINK = 0.97  # of the distances between molecules, in one step
TURNS = 30  # that a molecule may try for a place among the others
LARGEST_MOVE = 0.1  # of the distance between places


def draw_mixture(
    molecules: Sequence[ase.Atoms], kinds: int, water_share: float, max_atoms: int, rng: np.random.Generator
) -> list[ase.Atoms]:
    """Water and up to ``kinds`` other molecules, as many as fit into ``max_atoms`` when drawn in turn."""
    others = [molecules[int(rng.integers(len(molecules)))] for _ in range(kinds)]
    drawn: list[ase.Atoms] = []
    atoms = 0
    while True:
        wet = rng.random() < water_share
        following = molecule("H2O") if wet else others[int(rng.integers(kinds))]
        atoms += len(following)
        if atoms > max_atoms:
            return drawn
        drawn.append(following)


def fill_box(molecules: Sequence[ase.Atoms], closeness: float, rng: np.random.Generator) -> ase.Atoms:
    """Cubic periodic box of rigid molecules, as dense as turning them one by one allows.

    They start in random orientations on a lattice, far apart, and are brought closer step by step until one
    no longer finds an orientation.

    Parameters
    ----------
    molecules
        At least two; each comes in one piece.
    closeness
        Of two atoms of different molecules at the closest, in sums of their van der Waals radii.
    """
    shapes = [atoms.positions - atoms.positions.mean(0) for atoms in molecules]
    radii = [contact_radii(atoms.numbers) for atoms in molecules]
    reach = max(float((np.linalg.norm(x, axis=1) + r).max()) for x, r in zip(shapes, radii, strict=True))
    each = int(np.ceil(len(molecules) ** (1 / 3)))
    sites = rng.permutation(np.stack(np.meshgrid(*[np.arange(each)] * 3), -1).reshape(-1, 3))
    box = _Box([_turned(x, rng) for x in shapes], radii, (sites[: len(shapes)] + 0.5) / each)
    length_A = 2.0 * reach * each
    while box.settle(SHRINK * length_A, closeness, LARGEST_MOVE / each, rng):
        length_A *= SHRINK
    numbers = np.concatenate([atoms.numbers for atoms in molecules])
    return ase.Atoms(numbers=numbers, positions=box.positions_A(length_A), cell=[length_A] * 3, pbc=True)


class _Box:
    """Rigid molecules at places in fractions of a cubic box; what does not settle leaves it as it was."""

    def __init__(self, shapes: list[np.ndarray], radii: list[np.ndarray], places: np.ndarray) -> None:
        self.shapes, self.radii, self.places = shapes, np.concatenate(radii), places
        self.owner = np.repeat(np.arange(len(shapes)), [len(shape) for shape in shapes])

    def positions_A(self, length_A: float) -> np.ndarray:
        return np.concatenate(self.shapes) + length_A * self.places[self.owner]

    def settle(self, length_A: float, closeness: float, move: float, rng: np.random.Generator) -> bool:
        """Turn and move molecules until none is too close to another; False where one stays so."""
        before = list(self.shapes), self.places.copy()
        for k in range(len(self.shapes)):
            for _ in range(TURNS):
                if self._apart(k, length_A) >= closeness:
                    break
                self.shapes[k] = _turned(self.shapes[k], rng)
                self.places[k] = before[1][k] + rng.uniform(-move, move, 3)
            else:
                self.shapes, self.places = before
                return False
        # Those that settled later may have come close to one before them.
        if all(self._apart(k, length_A) >= closeness for k in range(len(self.shapes))):
            return True
        self.shapes, self.places = before
        return False

    def _apart(self, k: int, length_A: float) -> float:
        """Closest contact of a molecule with the others and all images, in sums of radii."""
        mine = self.owner == k
        positions = self.positions_A(length_A)
        vectors = positions[mine][:, None] - positions[~mine]
        vectors -= length_A * np.round(vectors / length_A)
        sums = self.radii[mine][:, None] + self.radii[~mine]
        return float((np.linalg.norm(vectors, axis=-1) / sums).min())


def _turned(shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Rotation.random(random_state=rng).apply(shape))


def cut_piece(atoms: ase.Atoms, molecules: Molecules, max_atoms: int, rng: np.random.Generator) -> ase.Atoms:
    """Whole molecules nearest to a random place of a periodic structure, free, at most ``max_atoms``.

    Parameters
    ----------
    molecules
        Of the same atoms, with images that hold for these positions: those at the start of a trajectory
        that does not wrap its atoms.

    Raises
    ------
    CompactFFError
        If the structure is not made of molecules, or none is so small.
    """
    if molecules.endless.any():
        raise CompactFFError("a piece can be cut out of molecules only; this is a crystal or a polymer")
    cell = atoms.cell.array
    positions = atoms.positions + molecules.images @ cell
    count = int(molecules.labels.max()) + 1
    sizes = np.bincount(molecules.labels, minlength=count)
    centres = np.stack(
        [np.bincount(molecules.labels, weights=x, minlength=count) for x in positions.T], 1
    ) / sizes.reshape(-1, 1)
    place = rng.random(3) @ cell
    shifts = -np.round(np.linalg.solve(cell.T, (centres - place).T).T) @ cell
    order = np.argsort(np.linalg.norm(centres + shifts - place, axis=1), kind="stable")
    chosen = order[np.cumsum(sizes[order]) <= max_atoms]
    if not len(chosen):
        raise CompactFFError(f"no molecule there has at most {max_atoms} atoms; raise piece_atoms")
    kept = np.isin(molecules.labels, chosen)
    return ase.Atoms(numbers=atoms.numbers[kept], positions=(positions + shifts[molecules.labels])[kept])
