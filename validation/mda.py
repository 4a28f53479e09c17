"""What the suite takes of MDAnalysis: optional, and imported here only."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from compactff_md.errors import CompactFFError

INSTALL = 'pip install "compactff-md[openmm]", or pip install MDAnalysis'


def _module(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies' deprecations
            return import_module(name)
    except ImportError as error:
        raise CompactFFError(
            f"this analysis needs MDAnalysis, which cannot be imported ({error}); {INSTALL}"
        ) from error


def box_of(cell_A: np.ndarray, pbc: np.ndarray) -> np.ndarray | None:
    """Lengths and angles as MDAnalysis wants them, shape (6,); None where there is no box.

    Raises
    ------
    CompactFFError
        For slabs and wires, and cells that are not lower triangular.
    """
    if not pbc.any():
        return None
    if not pbc.all():
        raise CompactFFError("periodic in part: MDAnalysis knows boxes that are periodic in all directions")
    if np.abs(np.triu(cell_A, 1)).max() > 1e-4:
        raise CompactFFError(
            "the cell is not lower triangular; turn it so that its first vector lies along x"
        )
    return _module("MDAnalysis.lib.mdamath").triclinic_box(*cell_A.astype(np.float32))


def pairs_within(
    positions_A: np.ndarray, reach_A: float, box: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Unordered pairs within a distance: indices, shape (P, 2), and distances in A, shape (P,)."""
    find = _module("MDAnalysis.lib.distances").self_capped_distance
    return find(positions_A.astype(np.float32), reach_A, box=box)


def angles(positions_A: np.ndarray, triples: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Angles in radians, shape (T,), of triples of indices, the apex in the middle."""
    parts = (positions_A[triples[:, k]].astype(np.float32) for k in range(3))
    return _module("MDAnalysis.lib.distances").calc_angles(*parts, box=box)


def dihedrals(positions_A: np.ndarray, quadruples: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Dihedral angles in radians from -pi to pi, shape (Q,)."""
    parts = (positions_A[quadruples[:, k]].astype(np.float32) for k in range(4))
    return _module("MDAnalysis.lib.distances").calc_dihedrals(*parts, box=box)


def universe(topology: str | Path, trajectory: str | Path | None = None) -> Any:
    """An ``MDAnalysis.Universe`` of a topology, and of a trajectory where one is given.

    Raises
    ------
    CompactFFError
        If a file is missing, of an unknown format, or both do not hold the same atoms.
    """
    for path in (topology, trajectory):
        if path is not None and not Path(path).is_file():
            raise CompactFFError(f"no such file: {path}")
    package = _module("MDAnalysis")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of everything that a topology does not say
            return package.Universe(*(str(path) for path in (topology, trajectory) if path is not None))
    except Exception as error:  # its readers raise whatever their format's parser happens to hit
        what = f"{trajectory} cannot be read with the topology" if trajectory else "cannot read the topology"
        raise CompactFFError(
            f"{what} {topology} ({type(error).__name__}: {error}); "
            "expected formats that MDAnalysis reads, and the same atoms in both"
        ) from error


def rmsd_A(positions_A: np.ndarray, reference_A: np.ndarray, masses_Da: np.ndarray) -> float:
    """Root mean square distance weighted by mass, after the best superposition; shapes (N, 3)."""
    find = _module("MDAnalysis.analysis.rms").rmsd
    return float(find(positions_A, reference_A, weights=masses_Da, center=True, superposition=True))
