"""Under which names a labelled file keeps energies, forces, stress and virial.

Conventions that are found without being told, in this order: MACE's ``REF_energy``, ``REF_forces``,
``REF_stress``, ``REF_virials``; ``dft_energy``, ``DFT_energy``, ``ref_energy`` ... alike; ASE's own
``energy``, ``forces``, ``stress`` (results of a calculator, or plain info and arrays), ``virial``. The first
energy decides: of the other labels those with its prefix come first. Where every frame has ASE's ``energy``
and ``free_energy`` among a calculator's results, it is the latter, whose derivative the forces are where
electrons are smeared; isolated atoms may have an ``energy`` alone. What belongs together, such as training
and validation, is read under the same names where all of it has them.

Of MACE's weights of frames only zeros count: they mark labels that are none, such as stresses of zero in the
place of unknown ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from pydantic import BaseModel, ConfigDict

from compactff_md.errors import CompactFFError

PREFIXES = ("REF_", "ref_", "dft_", "DFT_", "")
NAMES = {
    "energy": ("energy",),
    "forces": ("forces", "force"),
    "stress": ("stress",),
    "virial": ("virials", "virial"),
    "energies": ("energies",),
}
FREE_ENERGY = "free_energy"
OTHER_NAMES = {"energy": (FREE_ENERGY, "TotEnergy", "Energy"), "forces": ("Forces",)}
REQUIRED = ("energy", "forces")
WEIGHTS = ("config_weight", "config_energy_weight", "config_forces_weight")  # of what no frame can lack
STRESS_WEIGHTS = {"stress": "config_stress_weight", "virial": "config_virials_weight"}
ISOLATED_TYPES = ("isolatedatom", "isolated_atom")


class LabelKeys(BaseModel):
    """Names of the labels in ``atoms.info``, ``atoms.arrays`` or the calculator's results.

    None means: find it among the known conventions (energy and forces must be found, the others may be
    absent). ``stress`` is in eV/A^3 with ASE's sign, six Voigt components or 3 x 3; ``virial`` is
    in eV with the sign of QUIP and MACE: ``-volume * stress``. ``energies`` are those of atoms, in eV; they
    may be absent, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None
    energies: str | None = None


def lookup(atoms: ase.Atoms, key: str) -> Any:
    """Return what the frame holds under a key, or None: calculator's results, info, arrays."""
    for place in (_results(atoms), atoms.info, atoms.arrays):
        if place.get(key) is not None:
            return place[key]
    return None


def _results(atoms: ase.Atoms) -> dict[str, Any]:
    return getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}


def is_isolated(atoms: ase.Atoms) -> bool:
    """Whether a frame is one isolated atom."""
    kind = str(atoms.info.get("config_type", "")).lower()
    return len(atoms) == 1 and (kind in ISOLATED_TYPES or not atoms.pbc.any())


def is_left_out(atoms: ase.Atoms) -> bool:
    """Whether a weight of the frame, or of its energy or forces, is zero."""
    return _has_zero(atoms, WEIGHTS)


def has_other_weights(atoms: ase.Atoms) -> bool:
    """Whether a weight of the frame is neither zero nor one."""
    given = [atoms.info[name] for name in (*WEIGHTS, *STRESS_WEIGHTS.values()) if name in atoms.info]
    return any(not (np.array_equal(weight, 0) or np.array_equal(weight, 1)) for weight in given)


def _has_zero(atoms: ase.Atoms, names: Sequence[str]) -> bool:
    return any(name in atoms.info and np.array_equal(atoms.info[name], 0) for name in names)


def resolve_keys(
    frames: list[ase.Atoms], keys: LabelKeys, source: str, like: LabelKeys | None = None
) -> LabelKeys:
    """Replace every None by the convention that the frames follow; one choice for the whole file.

    Isolated atoms are left out of the search where there are other frames, because files often give them an
    energy only; a file of nothing else needs no forces. Where a stress or a virial is asked for, the other
    is not searched for. Names of ``like``, those of the training, come first.

    Raises
    ------
    CompactFFError
        If energies or forces are under no known name, or a name that was asked for is in no frame; the
        message lists the names that the file has.
    """
    labelled = [frame for frame in frames if not is_isolated(frame)]
    like = like or LabelKeys()
    energy = _find_energy(labelled or frames, keys, like, source)
    if not labelled:
        return LabelKeys(energy=energy)
    own = [energy.removesuffix("energy").removesuffix("free_")] if energy.endswith("energy") else []
    prefixes = tuple(dict.fromkeys((*own, *PREFIXES)))
    asked = {
        "forces": keys.forces or _in_all(labelled, like.forces),
        "energies": keys.energies or _in_any(labelled, like.energies),
    }
    found = {label: _find(labelled, label, key, prefixes, source) for label, key in asked.items()}
    return LabelKeys(energy=energy, **found, **_find_stress(labelled, keys, like, prefixes, source))


def _find_energy(frames: list[ase.Atoms], keys: LabelKeys, like: LabelKeys, source: str) -> str:
    """Name of the energy: the one asked for, else that of ``like``, else the first convention."""
    if keys.energy is None and _in_all(frames, like.energy):
        return str(like.energy)
    energy = str(_find(frames, "energy", keys.energy, PREFIXES, source))
    smeared = energy == "energy" and keys.energy is None and all(_has_free_energy(frame) for frame in frames)
    return FREE_ENERGY if smeared else energy


def _find_stress(
    frames: list[ase.Atoms], keys: LabelKeys, like: LabelKeys, prefixes: Sequence[str], source: str
) -> dict[str, str | None]:
    """Names of stress and virial: asked for, those of ``like``, or of the first prefix that has either."""
    asked = {label: key for label, key in (("stress", keys.stress), ("virial", keys.virial)) if key}
    if asked:
        return {label: _find(frames, label, key, prefixes, source) for label, key in asked.items()}
    found = {"stress": _in_any(frames, like.stress), "virial": _in_any(frames, like.virial)}
    if any(found.values()):
        return found
    for prefix in prefixes:
        found = {label: _find(frames, label, None, (prefix,), source) for label in ("stress", "virial")}
        if any(found.values()):
            return found
    return {}


def _in_all(frames: list[ase.Atoms], key: str | None) -> str | None:
    return key if key and all(_energy_or_other(frame, key) is not None for frame in frames) else None


def _in_any(frames: list[ase.Atoms], key: str | None) -> str | None:
    return key if key and any(lookup(frame, key) is not None for frame in frames) else None


def _energy_or_other(atoms: ase.Atoms, key: str) -> Any:
    """What is under a key; isolated atoms without a free energy have an energy in its place."""
    value = lookup(atoms, key)
    return lookup(atoms, "energy") if value is None and key == FREE_ENERGY and is_isolated(atoms) else value


def other_names(found: LabelKeys, asked: LabelKeys, like: LabelKeys) -> list[tuple[str, str, str]]:
    """Labels that were found under another name than ``like`` has: label, name, and that of ``like``.

    Where none was asked for. Stress and virial are one label, which either may lack.
    """
    kinds = [("energy",), ("forces",), ("stress", "virial")]
    told = []
    for labels in kinds:
        names, others = ([getattr(keys, label) for label in labels] for keys in (found, like))
        if any(getattr(asked, label) for label in labels) or not any(names) or not any(others):
            continue
        if not any(name and name in others for name in names):
            told.append((labels[0], *(next(filter(None, keys)) for keys in (names, others))))
    return told


def _find(
    frames: list[ase.Atoms], label: str, asked: str | None, prefixes: Sequence[str], source: str
) -> str | None:
    """The first name of a label that any frame has."""
    known = tuple(prefix + name for prefix in prefixes for name in NAMES[label]) + OTHER_NAMES.get(label, ())
    names = known if asked is None else (asked,)
    for name in names:
        if any(lookup(frame, name) is not None for frame in frames):
            return name
    if asked is None and label not in REQUIRED:
        return None
    raise CompactFFError(
        f"{source}: no frame has {label} under {_listed(names)}; it has {_listed(_names(frames[0]))}. "
        f"Give the name of the {label} with the option for its key"
    )


def _has_free_energy(atoms: ase.Atoms) -> bool:
    results = _results(atoms)
    return results.get("energy") is not None and results.get("free_energy") is not None


def _names(atoms: ase.Atoms) -> list[str]:
    arrays = [name for name in atoms.arrays if name not in ("numbers", "positions")]
    return sorted({*_results(atoms), *atoms.info, *arrays})


def _listed(names: Any) -> str:
    return ", ".join(names) or "no labels at all"


def energy_of(atoms: ase.Atoms, keys: LabelKeys, name: str) -> float:
    """Energy of a frame in eV.

    Raises
    ------
    CompactFFError
        If it is missing or not one number.
    """
    value = _energy_or_other(atoms, str(keys.energy))
    if value is None:
        raise CompactFFError(f"{name} has no energy {keys.energy!r}; add it or drop the frame")
    try:
        return float(np.asarray(value, dtype=float).reshape(()))
    except ValueError as error:
        raise CompactFFError(
            f"{name}: energy {keys.energy!r} is {value!r}; expected one number in eV"
        ) from error


def forces_of(atoms: ase.Atoms, keys: LabelKeys, name: str) -> np.ndarray:
    """Forces of a frame in eV/A, shape (N, 3).

    Raises
    ------
    CompactFFError
        If they are missing or of another shape.
    """
    value = lookup(atoms, str(keys.forces))
    if value is None:
        raise CompactFFError(f"{name} has no forces {keys.forces or 'forces'!r}; add them or drop the frame")
    return _numbers(value, (len(atoms), 3), f"{name}: forces {keys.forces!r}", "eV/A")


def atom_energies_of(atoms: ase.Atoms, keys: LabelKeys, name: str) -> np.ndarray | None:
    """Energies of atoms in eV, shape (N,), or None where the frame has none.

    Raises
    ------
    CompactFFError
        If they have another shape.
    """
    value = lookup(atoms, keys.energies) if keys.energies else None
    if value is None:
        return None
    return _numbers(value, (len(atoms),), f"{name}: energies of atoms {keys.energies!r}", "eV")


def stress_of(atoms: ase.Atoms, keys: LabelKeys, name: str) -> np.ndarray | None:
    """Stress of a frame in eV/A^3, shape (3, 3), or None: there is none, of weight 0, or no period.

    Raises
    ------
    CompactFFError
        If stress or virial have neither six nor nine components.
    """
    if not atoms.pbc.all():
        return None
    stress = _lookup_weighted(atoms, keys, "stress")
    if stress is not None:
        return _matrix(stress, f"{name}: stress {keys.stress!r}")
    virial = _lookup_weighted(atoms, keys, "virial")
    if virial is None:
        return None
    return -_matrix(virial, f"{name}: virial {keys.virial!r}") / atoms.get_volume()


def _lookup_weighted(atoms: ase.Atoms, keys: LabelKeys, label: str) -> Any:
    key = getattr(keys, label)
    return lookup(atoms, key) if key and not _has_zero(atoms, (STRESS_WEIGHTS[label],)) else None


def _numbers(value: Any, shape: tuple[int, ...], what: str, unit: str) -> np.ndarray:
    numbers = np.asarray(value)
    if numbers.shape != shape or numbers.dtype.kind not in "fiu":
        raise CompactFFError(
            f"{what} have shape {numbers.shape} and type {numbers.dtype}; "
            f"expected numbers of shape {shape} in {unit}"
        )
    return numbers.astype(np.float64)


def _matrix(value: Any, what: str) -> np.ndarray:
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "fiu" or numbers.size not in (6, 9):
        raise CompactFFError(
            f"{what} has shape {numbers.shape}; expected 6 numbers (xx yy zz yz xz xy) or 3 x 3"
        )
    if numbers.size == 9:
        matrix = numbers.reshape(3, 3).astype(np.float64)
        return 0.5 * (matrix + matrix.T)
    xx, yy, zz, yz, xz, xy = numbers.reshape(6).astype(np.float64)
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
