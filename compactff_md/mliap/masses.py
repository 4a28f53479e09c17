"""Whether the elements that pair_coeff gives to LAMMPS' atom types are those that the masses tell."""

from __future__ import annotations

from collections.abc import Iterable

from ase.data import atomic_masses, atomic_numbers

# How far a mass may be from an element's to be another table's, and how far it must be to be another's.
SAME, OTHER = 0.02, 0.1


def exchanged_types(elements: dict[int, str], masses_Da: dict[int, float]) -> str:
    """What speaks for elements in a wrong order: all masses that do not fit are those of each other's types.

    Parameters
    ----------
    elements
        Of each type that has atoms and an element.
    masses_Da
        Of the same types.

    Returns
    -------
    str
        Such as ``type 1 is H and has the mass of O (15.999)``; empty where nothing does: isotopes, masses
        moved from heavy atoms to hydrogen, and one mass for all are no mistake.
    """
    wrong = _unlike(elements, masses_Da)
    right = {elements[kind] for kind in elements.keys() - set(wrong)}
    used = set(elements.values())
    found = {kind: _element_of(masses_Da[kind], used - right - {elements[kind]}) for kind in wrong}
    return _told(found, elements, masses_Da) if all(found.values()) else ""


def foreign_types(elements: dict[int, str], masses_Da: dict[int, float], known: Iterable[str]) -> str:
    """What speaks for an element that is named wrongly: a mass of another that the student knows.

    As in :func:`exchanged_types`; nothing is said where hydrogen has a mass of its own, which may be that of
    others: oxygen of water that gave 2 u to each hydrogen weighs as much as carbon.
    """
    wrong = _unlike(elements, masses_Da)
    if any(elements[kind] == "H" for kind in wrong):
        return ""
    others = set(known) - set(elements.values())
    found = {kind: _element_of(masses_Da[kind], others) for kind in wrong}
    return _told({kind: name for kind, name in found.items() if name}, elements, masses_Da)


def _unlike(elements: dict[int, str], masses_Da: dict[int, float]) -> list[int]:
    return [kind for kind, name in elements.items() if not _fits(masses_Da[kind], name, OTHER)]


def _element_of(mass_Da: float, names: set[str]) -> str:
    return next((name for name in sorted(names) if _fits(mass_Da, name, SAME)), "")


def _fits(mass_Da: float, name: str, tolerance: float) -> bool:
    own_Da = float(atomic_masses[atomic_numbers[name]])
    return abs(mass_Da - own_Da) <= tolerance * own_Da


def _told(found: dict[int, str], elements: dict[int, str], masses_Da: dict[int, float]) -> str:
    return ", ".join(
        f"type {kind} is {elements[kind]} and has the mass of {name} ({masses_Da[kind]:g})"
        for kind, name in sorted(found.items())
    )
