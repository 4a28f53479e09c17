"""Which labelled frames train, validate and test; and what is refused before any label is paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import ase
import numpy as np
from ase.data import chemical_symbols

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, read_structures
from compactff_md.training.checks import structure_key
from compactff_md.training.config import DistillConfig
from compactff_md.training.dataset import is_isolated
from compactff_md.training.frames import Frame
from compactff_md.training.planning import ChainSpec, Plan
from compactff_md.training.preparation import check_start

FEWEST_FRAMES = 10
SHORT_CHAIN = 3  # frames, of which one would be much to hold out

Frames = dict[str, list[ase.Atoms]]  # by purpose


def check_plan(config: DistillConfig, plan: Plan) -> None:
    """Refuse a plan whose labels could not be trained on.

    Raises
    ------
    CompactFFError
        If it leaves too few frames for the training, labels single atoms, or has elements that the student
        will not know, or cannot.
    """
    specs = [chain.spec for chain in plan.chains]
    trained = [(spec, spec.frames) for spec in specs if spec.purpose == "train"]
    held = sum(map(len, held_out(trained, config.sampling.valid_fraction, config.seed)))
    check_enough(sum(frames for _, frames in trained) - held, held, "planned", _more(config))
    _refuse_single_atoms({member: plan.structures[member] for spec in specs for member in spec.members})
    every = [(spec.purpose, plan.structures[member]) for spec in specs for member in spec.members]
    # Of given structures those with a rare element train, whatever was drawn for the test.
    of_training = [atoms for purpose, atoms in every if purpose == "train" or _may_move(purpose, config)]
    unknown = _unknown(elements_of(atoms for _, atoms in every), elements_of(of_training), config)
    if unknown:
        raise CompactFFError(
            f"the sampling has structures with {', '.join(sorted(unknown))}, which "
            f"{'elements leaves out' if config.elements else 'no frame for training would have'}"
        )
    check_start(config, sorted(elements_of(of_training), key=chemical_symbols.index))


def _refuse_single_atoms(structures: dict[int, ase.Atoms]) -> None:
    for member, atoms in structures.items():
        if len(atoms) == 1 and not atoms.pbc.any():
            raise CompactFFError(
                f"structure {member} is a single atom without a cell, which no student is trained on. Leave "
                "it out; energies of isolated atoms may be given as isolated_energies_eV"
            )


def check_enough(train: int, valid: int, what: str, advice: str) -> None:
    """Refuse fewer frames than a student can be trained and validated with.

    Raises
    ------
    CompactFFError
        With both numbers, ``what`` they are and ``advice``.
    """
    if train < FEWEST_FRAMES or not valid:
        raise CompactFFError(
            f"{train} frames for training and {valid} for validation were {what}; "
            f"expected at least {FEWEST_FRAMES} and 1. {advice}"
        )


def _more(config: DistillConfig) -> str:
    if config.sampling.steps:
        return "Raise the frames of the steps"
    return "Give more structures" if config.sampling.mode == "given" else "Raise sampling.frames"


def how_to_get_more(config: DistillConfig, failures: int) -> str:
    """What helps a run that labelled too few frames, the teacher having failed on some."""
    again = failures and config.sampling.mode != "given"  # of which all were asked for
    ways = [f"raise sampling.max_failures: the teacher failed on {failures}"] if again else []
    ways += ["give more minutes"] if config.minutes is not None else []
    if ways:
        return f"To go on with this folder, {', or '.join(ways)}"
    return f"{_more(config)}, in another out folder"


def elements_of(structures: Iterable[ase.Atoms]) -> set[str]:
    """Symbols that occur."""
    return {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}


def _unknown(symbols: set[str], trained: set[str], config: DistillConfig) -> set[str]:
    """Symbols that a student of frames with the elements ``trained`` will not know."""
    unknown = symbols - (set(config.elements) if config.elements else trained)
    if unknown and not config.elements:
        for path in config.labelled:
            unknown -= elements_of(atoms for atoms in read_structures(path) if not is_isolated(atoms))
    return unknown


def _may_move(purpose: str, config: DistillConfig) -> bool:
    """Whether a frame with an element that no other has may change over to the training."""
    return purpose == "valid" or (purpose == "test" and config.sampling.mode == "given")


def split_frames(
    chains: Sequence[tuple[ChainSpec, list[ase.Atoms]]], config: DistillConfig
) -> tuple[Frames, int]:
    """Frames of chains by purpose, and how many copies of others were left out.

    The end of each training chain validates (:func:`held_out`).
    """
    frames: Frames = {name: [] for name in (*(spec.purpose for spec, _ in chains), "train", "valid")}
    trained = [(spec, chain) for spec, chain in chains if spec.purpose == "train"]
    for spec, chain in chains:
        if spec.purpose != "train":
            frames[spec.purpose] += chain
    lengths = [(spec, len(chain)) for spec, chain in trained]
    parts = held_out(lengths, config.sampling.valid_fraction, config.seed)
    for (_, chain), held in zip(trained, parts, strict=True):
        frames["train"] += [atoms for k, atoms in enumerate(chain) if k not in held]
        frames["valid"] += [chain[k] for k in sorted(held)]
    count = sum(map(len, frames.values()))
    if config.sampling.steps or config.checks.duplicates != "keep":
        drop_copies(frames)
    copies = count - sum(map(len, frames.values()))
    teach_every_element(frames, config)
    return frames, copies


def drop_copies(frames: Frames) -> None:
    """Leave out what is there already: two steps may label the same structure. The test comes first."""
    seen: set[bytes] = set()
    for purpose in sorted(frames, key=lambda name: (name == "train", name == "valid", name)):
        kept = []
        for atoms in frames[purpose]:
            key = structure_key(Frame(Structure.from_ase(atoms), 0.0, np.zeros((len(atoms), 3))))
            if key not in seen:
                seen.add(key)
                kept.append(atoms)
        frames[purpose] = kept


def teach_every_element(frames: Frames, config: DistillConfig) -> None:
    """Move frames to the training that have an element which no frame there has.

    They come from the validation, and from a test of given structures; where that leaves none there, one
    whose elements other frames have takes their place.
    """
    train = frames["train"]
    for purpose in sorted((name for name in frames if _may_move(name, config)), reverse=True):
        unknown = _unknown(elements_of(frames[purpose]), elements_of(train), config)
        if unknown:
            train += [atoms for atoms in frames[purpose] if elements_of([atoms]) & unknown]
            frames[purpose] = [atoms for atoms in frames[purpose] if not elements_of([atoms]) & unknown]
            frames[purpose] = frames[purpose] or _taken(train)


def _taken(frames: list[ase.Atoms]) -> list[ase.Atoms]:
    """Take the last frame out whose elements are in others as well; an empty list where there is none."""
    counts = Counter(symbol for atoms in frames for symbol in elements_of([atoms]))
    for k in reversed(range(len(frames))):
        if all(counts[symbol] > 1 for symbol in elements_of([frames[k]])):
            return [frames.pop(k)]
    return []


def held_out(chains: Sequence[tuple[ChainSpec, int]], valid_fraction: float, seed: int) -> list[set[int]]:
    """Frames of each chain that validate: given its plan and its number of frames.

    The end of a trajectory, or a random part of given structures. Of chains too short for that the fraction
    is held out whole where they are many; where they are few, each gives its last frame.
    """
    held = [_part_of(spec, frames, valid_fraction) for spec, frames in chains]
    short = [k for k, (_, frames) in enumerate(chains) if frames and not held[k]]
    whole = round(valid_fraction * len(short))
    if not whole:
        for k in short:
            held[k] = {chains[k][1] - 1} if chains[k][1] > SHORT_CHAIN else set()
        if not any(held) and len(short) > 1:
            whole = 1
    for k in np.random.default_rng([seed, 50]).permutation(short)[:whole].tolist():
        held[k] = set(range(chains[k][1]))
    return held


def _part_of(spec: ChainSpec, frames: int, valid_fraction: float) -> set[int]:
    count = round(valid_fraction * frames)
    if spec.walk == "md":
        return set(range(frames - count, frames))
    rng = np.random.default_rng([*spec.seed, *spec.members[:1]])
    return set(rng.permutation(frames)[:count].tolist())
