"""Random but reproducible structures for the tests."""

from itertools import product

import ase
import numpy as np
import torch

from compactff_md.structure import Structure

FREE = (False, False, False)
PERIODIC = (True, True, True)


def random_structure(
    seed: int,
    symbols: list[str],
    count: int = 12,
    *,
    cell_A: np.ndarray | None = None,
    pbc: tuple[bool, bool, bool] = FREE,
    closest_A: float = 0.9,
    side_A: float = 5.0,
) -> Structure:
    """Atoms thrown into the cell (or a cube of ``side_A``), none nearer than ``closest_A``, with images."""
    rng = np.random.default_rng(seed)
    box = np.eye(3) * side_A if cell_A is None else np.asarray(cell_A, dtype=float)
    images = np.array(list(product(*[(-1, 0, 1) if p else (0,) for p in pbc]))) @ box
    positions = np.empty((0, 3))
    for _ in range(10_000):
        if len(positions) == count:
            break
        new = rng.random(3) @ box
        distances = np.linalg.norm(positions[:, None] + images - new, axis=-1)
        if distances.size == 0 or distances.min() > closest_A:
            positions = np.vstack([positions, new])
    assert len(positions) == count, "the cell is too small for so many atoms"
    chosen = [*symbols, *rng.choice(symbols, size=count)][:count]
    return Structure(
        positions, ase.Atoms(chosen).numbers, np.zeros((3, 3)) if not any(pbc) else box, np.array(pbc)
    )


def rotation(seed: int) -> np.ndarray:
    """A random proper rotation, shape (3, 3)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


TRICLINIC = np.array([[6.1, 0.0, 0.0], [1.7, 5.6, 0.0], [-1.2, 2.1, 6.4]])
SMALL = np.array([[2.3, 0.0, 0.0], [0.6, 2.6, 0.0], [-0.4, 0.7, 2.4]])


def assert_same(got, expected):
    """Equal to the last bit; to rounding where there is a GPU, whose sums have no order that is kept."""
    tolerance = 1e-5 if torch.cuda.is_available() else 0.0
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)
