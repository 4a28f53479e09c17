"""Labelled files -> checked frames."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ase
import numpy as np

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, read_structures
from compactff_md.training.checks import (
    are_like_hartree,
    check_disjoint,
    check_isolated_agree,
    check_labels,
    structure_key,
)
from compactff_md.training.config import TrainConfig
from compactff_md.training.frames import Frame, LabelledSet
from compactff_md.training.keys import (
    LabelKeys,
    atom_energies_of,
    energy_of,
    forces_of,
    has_other_weights,
    is_isolated,
    is_left_out,
    other_names,
    resolve_keys,
    stress_of,
)

Source = str | Path | Sequence[ase.Atoms]


def read_labelled(
    source: Source, keys: LabelKeys | None = None, like: LabelKeys | None = None
) -> LabelledSet:
    """Read every frame with its labels, unchecked.

    Frames of one atom that are not periodic, or whose ``config_type`` says ``IsolatedAtom``, are taken
    for isolated atoms and not for frames to train on. A warning tells of weights of frames: those of zero
    leave a frame or its stress out (:mod:`compactff_md.training.keys`), others are not used.

    Parameters
    ----------
    source
        A file that ASE reads, or labelled ``ase.Atoms``.
    keys
        Names of the labels; None, or None inside, finds them.
    like
        Names of the training's labels: they come first among those that are found, and a warning tells
        where the frames have others.

    Raises
    ------
    CompactFFError
        Naming file and frame where a label is missing or has another shape.
    """
    return _labelled(*_frames_of(source), keys or LabelKeys(), like)


def _labelled(atoms: list[ase.Atoms], label: str, keys: LabelKeys, like: LabelKeys | None) -> LabelledSet:
    resolved = resolve_keys(atoms, keys, label, like)
    for kind, name, other in other_names(resolved, keys, like or LabelKeys()):
        _warn(f"{label}: not all frames have the {kind} {other!r} of the training; {name!r} is read instead")
    frames, isolated = [], []
    for index, frame in enumerate(atoms):
        name = f"{label} frame {index}"
        if is_isolated(frame):
            isolated.append((frame.get_chemical_symbols()[0], energy_of(frame, resolved, name), name))
        elif not is_left_out(frame):
            frames.append(make_frame(frame, resolved, name))
    _warn_of_weights(atoms, label)
    energies = {symbol: energy for symbol, energy, _ in isolated}
    return LabelledSet(tuple(frames), energies, keys=resolved, isolated_frames=tuple(isolated))


def _warn_of_weights(atoms: list[ase.Atoms], label: str) -> None:
    frames = [frame for frame in atoms if not is_isolated(frame)]
    left_out = sum(is_left_out(frame) for frame in frames)
    told = [f"{left_out} frames have a weight of 0 (config_weight ...) and are left out"] if left_out else []
    if any(has_other_weights(frame) for frame in frames):
        told.append("weights of frames (config_weight ...) other than 0 are not used")
    if told:
        _warn(f"{label}: {'; '.join(told)}")


def _warn(message: str) -> None:
    """Warn from one place, so that what is read again is told once."""
    warnings.warn(message, stacklevel=1)


def _frames_of(source: Source) -> tuple[list[ase.Atoms], str]:
    if isinstance(source, str | Path):
        return read_structures(source), Path(source).name
    if not len(source):
        raise CompactFFError("the list of frames is empty; expected labelled ase.Atoms")
    return list(source), "the given list,"


def make_frame(atoms: ase.Atoms, keys: LabelKeys, name: str) -> Frame:
    """Take structure and labels from ``ase.Atoms``; errors carry ``name``."""
    try:
        structure = Structure.from_ase(atoms)
    except CompactFFError as error:
        raise CompactFFError(f"{name}: {error}") from error
    temperature = atoms.info.get("temperature_K")
    return Frame(
        structure=structure,
        energy_eV=energy_of(atoms, keys, name),
        forces_eV_per_A=forces_of(atoms, keys, name),
        stress_eV_per_A3=stress_of(atoms, keys, name),
        atom_energies_eV=atom_energies_of(atoms, keys, name),
        name=name,
        temperature_K=None if temperature is None else float(temperature),
    )


def load_sets(
    train: Sequence[Source | LabelledSet], valid: Source | LabelledSet | None, config: TrainConfig
) -> tuple[LabelledSet, LabelledSet]:
    """Read and check the frames to train on and those to validate with.

    Parameters
    ----------
    train
        Files, lists, or what was read already; one may hold nothing but isolated atoms.
    valid
        None takes 5% of the training frames (at least one), drawn with the seed.

    Raises
    ------
    CompactFFError
        As in :func:`read_labelled` and :func:`compactff_md.training.checks.check_labels`; also where a
        frame is in both sets or has an element that ``config.elements`` leaves out.
    """
    parts, keys = _read_together(train, config)
    given = given_isolated(config, keys)
    check_isolated_agree(parts, given)
    isolated = {symbol: energy for part in parts for symbol, energy in part.isolated_eV.items()} | given
    frames = tuple(frame for part in parts for frame in part.frames)
    everything = LabelledSet(frames, isolated, all(part.by_teacher for part in parts), keys)
    checked = check_labels(_wanted(everything, config), config.checks)
    if valid is None:
        return split(checked, config.seed)
    held_out = valid if isinstance(valid, LabelledSet) else read_labelled(valid, config.keys, keys)
    return checked, check_validation(held_out, checked, config)


def _read_together(
    sources: Sequence[Source | LabelledSet], config: TrainConfig
) -> tuple[list[LabelledSet], LabelKeys | None]:
    """Read what was not read yet, under the same names where all of it has them, and tell these names."""
    opened = [_frames_of(source) for source in sources if not isinstance(source, LabelledSet)]
    keys = None
    if opened:
        together = [frame for atoms, _ in opened for frame in atoms]
        keys = resolve_keys(together, config.keys, ", ".join(label for _, label in opened))
        del together
    parts = [
        source if isinstance(source, LabelledSet) else _labelled(*opened.pop(0), config.keys, keys)
        for source in sources
    ]
    of_files = [part.keys for part in parts if part.frames and not part.by_teacher]
    return parts, keys or next(iter(of_files), None)


def _wanted(data: LabelledSet, config: TrainConfig) -> LabelledSet:
    """Without energies of atoms where no weight asks for them: then they are not even checked."""
    if config.atom_energies_weight > 0:
        return data
    return replace(data, frames=tuple(replace(frame, atom_energies_eV=None) for frame in data.frames))


def given_isolated(config: TrainConfig, like: LabelKeys | None = None) -> dict[str, float]:
    """Energies of isolated atoms that the configuration gives, or the file that it names.

    There they come under the name of the frames' energies, if ``like`` tells it.

    Raises
    ------
    CompactFFError
        If the file holds anything but single atoms, or two energies of an element.
    """
    given = config.isolated_energies_eV
    if not isinstance(given, str):
        return given or {}
    content = read_labelled(given, config.keys, like)
    if content.frames:
        raise CompactFFError(
            f"{content.frames[0].name} has {len(content.frames[0])} atoms; expected isolated atoms only"
        )
    check_isolated_agree([content])
    return content.isolated_eV


def check_validation(
    valid: LabelledSet, train: LabelledSet, config: TrainConfig, purpose: str = "the validation"
) -> LabelledSet:
    """Check held-out frames by themselves and against the training set; return them."""
    checks = config.checks.model_copy(update={"duplicates": "keep"})
    # Where the energies of the training are right and like those of atoms in Hartree, so are these.
    by_teacher = valid.by_teacher or are_like_hartree(train.frames)
    own = replace(valid, isolated_eV=train.isolated_eV, by_teacher=by_teacher)
    held_out = check_labels(_wanted(own, config), checks)
    unknown = [symbol for symbol in held_out.elements if symbol not in known_elements(train, config)]
    if unknown:
        raise CompactFFError(
            f"the frames for {purpose} hold {', '.join(unknown)}, which the training frames do not"
        )
    check_disjoint(train, held_out, purpose)
    return held_out


def split(data: LabelledSet, seed: int, fraction: float = 0.05) -> tuple[LabelledSet, LabelledSet]:
    """Hold out a random part of the frames, at least one; copies of a frame stay together.

    Frames that alone have an element are trained on.

    Raises
    ------
    CompactFFError
        If there are fewer than two frames, or none of them can be held out.
    """
    if len(data) < 2:
        raise CompactFFError(f"there are {len(data)} frames; expected at least 2, one of them for validation")
    order = np.random.default_rng([seed, 1]).permutation(len(data))
    copies: dict[bytes, list[int]] = defaultdict(list)
    for k, frame in enumerate(data.frames):
        copies[structure_key(frame)].append(k)
    same = {k: together for together in copies.values() for k in together}
    elements = [set(frame.structure.numbers.tolist()) for frame in data.frames]
    left = Counter(number for present in elements for number in present)
    held: set[int] = set()
    for k in order.tolist():
        if len(held) >= max(1, round(fraction * len(data))):
            break
        taken = len(same[k])
        if k not in held and all(left[number] > taken for number in elements[k]):
            held.update(same[k])
            left.subtract(dict.fromkeys(elements[k], taken))
    if not held:
        raise CompactFFError(
            f"none of the {len(data)} frames can be held out for the validation: each is a copy of all "
            "others, or has an element that no other has; give a validation file"
        )
    kept = tuple(frame for k, frame in enumerate(data.frames) if k not in held)
    valid = tuple(frame for k, frame in enumerate(data.frames) if k in held)
    return replace(data, frames=kept), replace(data, frames=valid)


def known_elements(data: LabelledSet, config: TrainConfig) -> list[str]:
    """Elements of the student: those of the configuration, else those of the data.

    Raises
    ------
    CompactFFError
        If the configuration leaves out an element that the frames have.
    """
    if config.elements is None:
        return data.elements
    missing = [symbol for symbol in data.elements if symbol not in config.elements]
    if missing:
        raise CompactFFError(
            f"elements are {', '.join(config.elements)}, but the data also hold {', '.join(missing)}"
        )
    return list(config.elements)
