"""Every pair within a radius, in plain torch operations that TorchScript can run on any device.

The atoms are wrapped into the cell and copied to every periodic image within the radius of it. What is
left is a search among points in open space: points are sorted by square columns in x and y and by height
z within a column, so that the points near an atom are a few contiguous stretches of that order. The cost
is linear in the number of atoms, whatever the cell and however far apart the atoms are.

Constants reach the functions as defaults of their arguments, because TorchScript sees no globals.
"""

# No `from __future__ import annotations`: TorchScript cannot resolve the fields of a NamedTuple from strings.
from typing import NamedTuple

import torch
from torch import Tensor

# Columns are this fraction of the radius wide, and an atom looks as many columns to each side: narrower
# ones are fewer candidates but more stretches.
COLUMNS_PER_RADIUS = 2
# Heights are compared as whole multiples of this: exact in int64, together with the column.
HEIGHT_STEP_A = 1.0 / 64.0
# Added to the radius where only stretches of candidates are chosen, against rounding at the edges.
SLACK_A = 1e-6
# Below this number of (atom, image) combinations every one is tried.
ALL_PAIRS_LIMIT = 1 << 18
# Atoms whose candidates are held in memory at a time: 150,000 candidates of 100 bytes in water.
CHUNK_ATOMS = 1024
# Thinner cells need millions of images, and hold no physics.
MIN_HEIGHT_A = 0.5


class Images(NamedTuple):
    """Atoms wrapped into the cell, and their images within the radius of the cell.

    ``centres`` (N, 3) are wrapped positions and ``wraps`` (N, 3) the whole lattice vectors that were
    subtracted; ``points`` (G, 3) are images, ``atoms`` (G,) what they are images of, and ``steps``
    (G, 3) the lattice vectors added to the wrapped atom. Whole numbers are kept in float64.
    """

    centres: Tensor
    wraps: Tensor
    points: Tensor
    atoms: Tensor
    steps: Tensor


class Columns(NamedTuple):
    """A grid of columns, and where each of the sorted images stands in it.

    ``keys`` (G,) are column and height of each as one int64, ascending; ``origin`` (3,) is the corner of
    the grid, ``width`` the side of a column in A, ``rows`` the number of columns along y, ``span`` the
    number of height steps in a column, ``reach`` how many columns to each side are within the radius, and
    ``step`` the height step in A.
    """

    keys: Tensor
    origin: Tensor
    width: float
    rows: int
    span: int
    reach: int
    step: float


def find_pairs(
    positions: Tensor, cell: Tensor, pbc: list[bool], radius: float, trials: int = ALL_PAIRS_LIMIT
) -> tuple[Tensor, Tensor, Tensor]:
    """Every ordered pair of atoms within ``radius``, periodic images included.

    Parameters
    ----------
    positions
        In A, shape (N, 3), float64; may lie outside the cell.
    cell
        Lattice vectors as rows, shape (3, 3), float64; rows along directions that are not periodic are
        ignored.
    pbc
        Whether each of the three directions is periodic.
    radius
        In A.
    trials
        Up to this number of combinations of an atom and an image all are tried.

    Returns
    -------
    i, j
        Indices, shape (P,), int64, sorted by i.
    shifts
        Whole lattice vectors to add to atom j where it stands, shape (P, 3), float64.

    Raises
    ------
    RuntimeError
        On non-finite positions, a singular cell, or one thinner than 0.5 A.
    """
    if not bool(torch.isfinite(positions).all()):
        raise RuntimeError("positions are NaN or infinite; expected finite numbers")
    images = make_images(positions, completed_cell(cell, pbc), pbc, radius)
    if positions.shape[0] * images.points.shape[0] <= trials:
        i, g = pairs_by_trial(images, radius)
    else:
        images, columns = sort_into_columns(images, radius)
        i, g = pairs_by_columns(images, columns, radius)
    j = images.atoms[g]
    shifts = images.steps[g] - images.wraps[j] + images.wraps[i]
    return i, j, shifts


def completed_cell(cell: Tensor, pbc: list[bool]) -> Tensor:
    """Replace rows of directions that are not periodic by unit vectors at right angles to all others."""
    periodic = torch.tensor(pbc)  # on the host: nothing here waits for a device
    count = int(periodic.sum())
    full = torch.eye(3, dtype=cell.dtype, device=cell.device)
    if count > 0:
        rows = cell[torch.where(periodic)[0].to(cell.device)]  # (count, 3)
        basis = torch.linalg.qr(rows.t(), "complete")[0].t()  # (3, 3), the last are at right angles to rows
        order = torch.argsort(torch.argsort(~periodic, stable=True)).to(cell.device)
        full = torch.cat([rows, basis[count:]])[order]
    return full


def heights(inverse: Tensor) -> Tensor:
    """Distances between opposite faces of the cell with this inverse, in A, shape (3,)."""
    return torch.linalg.vector_norm(inverse, dim=0).reciprocal()


def make_images(
    positions: Tensor, cell: Tensor, pbc: list[bool], radius: float, min_height: float = MIN_HEIGHT_A
) -> Images:
    """Wrap the atoms along periodic directions and copy them to all images within ``radius``."""
    if not bool(torch.linalg.det(cell).abs() > 1e-9):
        raise RuntimeError("the cell is singular: its periodic vectors are zero, linearly dependent or NaN")
    inverse = torch.linalg.inv(cell)
    periodic = torch.tensor(pbc, dtype=cell.dtype, device=cell.device)
    fractional = positions @ inverse  # (N, 3)
    wraps = torch.floor(fractional) * periodic
    fractional = fractional - wraps
    atoms = torch.arange(positions.shape[0], device=positions.device)
    steps = torch.zeros_like(positions)
    thickness: list[float] = heights(inverse).tolist()
    for d in range(3):
        if pbc[d]:
            if thickness[d] < min_height:
                raise RuntimeError("the cell is thinner than 0.5 A along a periodic direction")
            atoms, steps = copy_along(atoms, steps, fractional, d, radius / thickness[d])
    centres = positions - wraps @ cell
    return Images(centres, wraps, centres[atoms] + steps @ cell, atoms, steps)


def copy_along(
    atoms: Tensor, steps: Tensor, fractional: Tensor, d: int, reach: float
) -> tuple[Tensor, Tensor]:
    """Add the images along direction ``d`` that are within ``reach`` (a fraction of the cell) of the cell."""
    count = int(reach) + 1
    moves = torch.arange(-count, count + 1, device=fractional.device).to(fractional.dtype)  # (M,)
    place = fractional[atoms, d] + moves.unsqueeze(1)  # (M, G)
    move, source = torch.where((place >= -reach) & (place <= 1.0 + reach))
    steps = steps[source]
    steps[:, d] = moves[move]
    return atoms[source], steps


def within(images: Images, i: Tensor, g: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Keep the candidates (atom i, image g) that are closer than ``radius`` and not one and the same."""
    difference = images.points.index_select(0, g) - images.centres.index_select(0, i)  # (C, 3)
    near = torch.where((difference * difference).sum(1) <= radius * radius)[0]
    i, g = i.index_select(0, near), g.index_select(0, near)
    itself = (images.atoms.index_select(0, g) == i) & (images.steps == 0.0).all(1).index_select(0, g)
    other = torch.where(~itself)[0]
    return i.index_select(0, other), g.index_select(0, other)


def pairs_by_trial(images: Images, radius: float, slack: float = SLACK_A) -> tuple[Tensor, Tensor]:
    """Atoms and their images within ``radius`` by trying all: the fastest for small systems."""
    distance = torch.cdist(images.centres, images.points, compute_mode="donot_use_mm_for_euclid_dist")
    i, g = torch.where(distance <= radius + slack)
    return within(images, i, g, radius)


def pairs_by_columns(
    images: Images, columns: Columns, radius: float, chunk: int = CHUNK_ATOMS
) -> tuple[Tensor, Tensor]:
    """Atoms and their images within ``radius``, in time and memory linear in the number of atoms."""
    number = images.centres.shape[0]
    rows: list[Tensor] = []
    found: list[Tensor] = []
    for start in range(0, number, chunk):
        i = torch.arange(start, min(start + chunk, number), device=images.atoms.device)
        first, count = stretches(columns, images.centres[i], radius)  # both (n, S)
        total = count.sum(1)  # (n,)
        place = torch.repeat_interleave(first.flatten() - starts(count.flatten()), count.flatten())
        place = place + torch.arange(place.shape[0], device=place.device)
        kept_i, kept_g = within(images, torch.repeat_interleave(i, total), place, radius)
        rows.append(kept_i)
        found.append(kept_g)
    return torch.cat(rows), torch.cat(found)


def starts(count: Tensor) -> Tensor:
    """Where each of consecutive stretches of these lengths begins."""
    return torch.cumsum(count, 0) - count


def sort_into_columns(
    images: Images, radius: float, reach: int = COLUMNS_PER_RADIUS, step: float = HEIGHT_STEP_A
) -> tuple[Images, Columns]:
    """Order images by column, and by height within it."""
    width = radius / reach
    origin = images.points.amin(0)
    local = images.points - origin
    extent: list[float] = local.amax(0).tolist()
    # As many empty columns beyond each edge as an atom looks at, so that none is mistaken for another.
    rows = int(extent[1] / width) + 1 + 2 * reach
    span = int((extent[2] + 2.0 * radius) / step) + 4
    if (extent[0] / width + 4.0 * reach) * rows * span > 9e18:
        raise RuntimeError("atoms are too far apart (more than 100,000 A); the system has flown apart")
    place = torch.floor(local[:, :2] / width).to(torch.int64)
    height = torch.floor(local[:, 2] / step).to(torch.int64)
    keys = (place[:, 0] * rows + place[:, 1] + reach) * span + height
    keys, order = torch.sort(keys)
    points, atoms, steps = images.points[order], images.atoms[order], images.steps[order]
    ordered = Images(images.centres, images.wraps, points, atoms, steps)
    return ordered, Columns(keys, origin, width, rows, span, reach, step)


def stretches(
    columns: Columns, centres: Tensor, radius: float, slack: float = SLACK_A
) -> tuple[Tensor, Tensor]:
    """Where the points near each centre stand: first place and count for each column, shape (n, S)."""
    side = 2 * columns.reach + 1
    offsets = torch.arange(-columns.reach, columns.reach + 1, device=centres.device)
    local = centres - columns.origin  # (n, 3)
    own = torch.floor(local[:, :2] / columns.width).to(torch.int64)
    place = own.unsqueeze(2) + offsets  # (n, 2, side)
    edge = place.to(centres.dtype) * columns.width
    coordinate = local[:, :2].unsqueeze(2)
    gap = torch.clamp(torch.maximum(edge - coordinate, coordinate - edge - columns.width), min=0.0)
    square = gap * gap
    room = (radius + slack) ** 2 - square[:, 0].unsqueeze(2) - square[:, 1].unsqueeze(1)  # (n, side, side)
    half = torch.sqrt(torch.clamp(room, min=0.0)).view(-1, side * side)
    key = place[:, 0].unsqueeze(2) * columns.rows + place[:, 1].unsqueeze(1) + columns.reach
    base = key.view(-1, side * side) * columns.span
    height = local[:, 2].unsqueeze(1)
    low = base + torch.floor((height - half) / columns.step).to(torch.int64)
    high = base + torch.floor((height + half) / columns.step).to(torch.int64)
    first = torch.searchsorted(columns.keys, low)
    count = torch.searchsorted(columns.keys, high, right=True) - first
    return first, count * (room.view(-1, side * side) > 0.0)
