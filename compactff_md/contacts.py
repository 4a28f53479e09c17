"""Refuse structures whose atoms overlap, or whose lengths are not in angstrom."""

from __future__ import annotations

import numpy as np

from compactff_md.errors import CompactFFError
from compactff_md.neighbours import pair_list
from compactff_md.structure import Structure

# Two nuclei closer than this are a mistake of the input: H2 at its minimum is 0.74 A.
MIN_CONTACT_A = 0.3


def check_contacts(structure: Structure, label: str = "structure") -> None:
    """Refuse overlapping atoms, and lengths that look like nm.

    Parameters
    ----------
    structure
        What to check; periodic images count.
    label
        How the error message names the structure.

    Raises
    ------
    CompactFFError
        Where two atoms are closer than 0.3 A; where that holds for half of the atoms or more, the
        message says that the lengths look like nm (bonds are 0.07-0.25 nm) or, where it holds through
        periodic images only, that the cell is too small.
    """
    i, j, distance_A, shifts = pair_list(structure, MIN_CONTACT_A)
    if len(i) == 0:
        return
    crowded = len(np.unique(i))
    closest = int(np.argmin(distance_A))
    if crowded > 2 and 2 * crowded >= len(structure):
        reason = "the lengths look like nm, expected A (multiply by 10)"
        without_images = len(np.unique(i[~shifts.any(axis=1)]))
        if 2 * without_images < len(structure):
            cell = ", ".join(f"{length:g}" for length in np.linalg.norm(structure.cell_A, axis=1))
            reason = f"periodic images overlap: the cell is [{cell}] A; give the real one, or pbc as False"
        raise CompactFFError(
            f"{label}: {crowded} of {len(structure)} atoms have a neighbour within {MIN_CONTACT_A} A; "
            f"{reason}"
        )
    raise CompactFFError(
        f"{label}: atoms {int(i[closest])} and {int(j[closest])} overlap, {distance_A[closest]:.3f} A apart; "
        f"allowed are distances of at least {MIN_CONTACT_A} A"
    )
