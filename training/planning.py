"""Which chains of frames a run makes: from the plain fields of the sampling, or from its steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ase
import numpy as np
from pydantic import BaseModel, ConfigDict

from compactff_md.errors import CompactFFError
from compactff_md.files import write_json
from compactff_md.training.config import SamplingConfig
from compactff_md.training.diversity import most_diverse
from compactff_md.training.makers import make_structures
from compactff_md.training.packing import decode_atoms, encode_atoms
from compactff_md.training.progress import Reporter
from compactff_md.training.steps import GIVEN, AnyStep, MakerStep, MDStep, ModesStep, RattleStep, step_names

MEMBERS_PER_CHAIN = 50


class ChainSpec(BaseModel):
    """One chain of frames: from which structure, where to, how hot, how many.

    ``walk`` says how it goes on: "given" labels the structures ``members`` as they are, "md" runs dynamics
    at ``temperature_K`` and, where ``pressure_bar`` is given, constant pressure, "rattle" walks from one
    member after the other, "modes" displaces the first along its normal modes. ``strained`` chains start
    from a randomly deformed cell. ``equilibration_steps`` come before the first frame; None takes those of
    the configuration for a test and none otherwise. ``driver`` names what moves the atoms in "md", None the
    teacher itself; of a frame, then, a piece of ``piece_atoms`` atoms is labelled where that is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    purpose: str
    members: tuple[int, ...]
    frames: int
    seed: tuple[int, ...]
    temperature_K: float | None = None
    strained: bool = False
    walk: Literal["given", "md", "rattle", "modes"] = "md"
    pressure_bar: float | None = None
    equilibration_steps: int | None = None
    driver: str | None = None
    piece_atoms: int | None = None


def plan_chains(num_structures: int, config: SamplingConfig, seed: int) -> list[ChainSpec]:
    """Lay out all chains, those of the test first; the same for the same arguments."""
    if config.mode == "given":
        return _plan_given(num_structures, config, seed)
    training = _plan_training(num_structures, config, seed, config.num_frames)
    return plan_tests(num_structures, config, seed) + training


def plan_tests(num_structures: int, config: SamplingConfig, seed: int) -> list[ChainSpec]:
    """Trajectories for the test at each of its temperatures."""
    return [
        ChainSpec(
            name=f"test-{temperature:g}K-{index:05d}",
            purpose=f"test_{temperature:g}K",
            members=(int(structure),),
            frames=count,
            seed=(seed, 1, int(structure), round(temperature)),
            temperature_K=temperature,
        )
        for temperature in config.test_temperatures_K
        for index, (structure, count) in enumerate(_spread(num_structures, config.test_frames, 5))
    ]


def _plan_training(
    num_structures: int,
    config: SamplingConfig,
    seed: int,
    frames: int,
    fewest: int = 10,
    most: int | None = None,
) -> list[ChainSpec]:
    """Chains of all structures, or of ``most`` evenly spaced ones, with so many frames together."""
    temperatures = config.temperatures_K
    most = max(1, min(num_structures, frames, most or num_structures))
    each = len(temperatures) * config.trajectories
    # Chains shorter than about ten frames are not worth their start.
    each = max(1, min(each, frames // (fewest * most)))
    chosen = np.unique(np.linspace(0, num_structures - 1, most).astype(int))
    total = len(chosen) * each
    specs = []
    for order, structure in enumerate(chosen.tolist()):
        for k in range(each):
            index = order * each + k
            temperature = temperatures[(order + k) % len(temperatures)]
            specs.append(
                ChainSpec(
                    name=f"train-{index:05d}",
                    purpose="train",
                    members=(structure,),
                    frames=frames // total + (index < frames % total),
                    seed=(seed, 2, structure, k),
                    temperature_K=temperature,
                    strained=k >= len(temperatures) or each == 1,
                    driver=config.driver,
                )
            )
    return [spec for spec in specs if spec.frames > 0]


def _plan_given(num_structures: int, config: SamplingConfig, seed: int) -> list[ChainSpec]:
    """Label every structure; a tenth of them, drawn at random, is for the test."""
    if num_structures < 4:
        raise CompactFFError(
            f"there are {num_structures} structures to label; expected at least 4 with mode 'given'"
        )
    order = np.random.default_rng([seed, 3]).permutation(num_structures)
    tested = max(1, min(config.test_frames, num_structures // 10))
    parts = [("test", np.sort(order[:tested])), ("train", np.sort(order[tested:]))]
    return [
        ChainSpec(
            name=f"{purpose}-{k:05d}",
            purpose=purpose,
            members=tuple(part.tolist()),
            frames=len(part),
            seed=(seed,),
            walk="given",
        )
        for purpose, members in parts
        for k, part in enumerate(np.array_split(members, max(1, len(members) // 50)))
    ]


def _spread(num_structures: int, frames: int, fewest: int) -> list[tuple[int, int]]:
    """Evenly spaced structures and how many frames each gives, at least ``fewest`` where possible."""
    count = max(1, min(num_structures, frames // fewest))
    chosen = np.unique(np.linspace(0, num_structures - 1, count).astype(int)).tolist()
    return [(s, frames // len(chosen) + (k < frames % len(chosen))) for k, s in enumerate(chosen)]


@dataclass(frozen=True)
class PlannedChain:
    """A chain and the settings that hold for it."""

    spec: ChainSpec
    config: SamplingConfig


@dataclass
class Plan:
    """All chains of a run, and the structures by the indices that their members name."""

    structures: dict[int, ase.Atoms]
    chains: list[PlannedChain]


def plan_fields(structures: dict[int, ase.Atoms], num: int, config: SamplingConfig, seed: int) -> Plan:
    """Plan of a sampling without steps, of ``num`` given structures."""
    return Plan(structures, [PlannedChain(spec, config) for spec in plan_chains(num, config, seed)])


def plan_steps(
    given: dict[int, ase.Atoms], config: SamplingConfig, seed: int, folder: Path, reporter: Reporter
) -> Plan:
    """Make the structures of every step, and plan its chains, those of the test first.

    What a step made is kept in ``folder``, so that it is made once; the same for the same arguments.

    Raises
    ------
    CompactFFError
        As in :func:`compactff_md.training.makers.make_structures`.
    """
    plan = Plan(dict(given), [])
    sources = {GIVEN: list(given)}
    plain = config.model_copy(update={"steps": ()})
    if given and not any(step.purpose == "test" for step in config.steps):
        plan.chains += [PlannedChain(spec, plain) for spec in plan_tests(len(given), plain, seed)]
    for index, (name, step) in enumerate(zip(step_names(config.steps), config.steps, strict=True)):
        members = [member for source in step.of for member in sources[source]]
        if isinstance(step, MakerStep):
            members = _made(step, name, members, plan, plain, (seed, 30, index), folder, reporter)
            sources[name] = members
        elif not members:
            raise CompactFFError(f"step {name!r} has no structure to start from")
        plan.chains += _chains_of(step, name, members, plan, plain, (seed, 40, index))
    plan.chains.sort(key=lambda chain: chain.spec.purpose == "train")  # stable
    return plan


def _made(
    step: MakerStep,
    name: str,
    members: list[int],
    plan: Plan,
    config: SamplingConfig,
    seed: tuple[int, ...],
    folder: Path,
    reporter: Reporter,
) -> list[int]:
    """Add what a step makes to the plan's structures; return where."""
    path = folder / f"made-{name}.json"
    if not path.is_file():
        reporter.start(f"making {name}", 1.0)
        sources = [plan.structures[member] for member in members]
        made = make_structures(step, name, sources, config.min_separation_A, seed)
        write_json(path, [encode_atoms(atoms) for atoms in made])
        reporter.finish()
    made = [decode_atoms(content) for content in json.loads(path.read_text(encoding="utf-8"))]
    first = max(plan.structures, default=-1) + 1
    plan.structures.update({first + k: atoms for k, atoms in enumerate(made)})
    return list(range(first, first + len(made)))


def _chains_of(
    step: AnyStep,
    name: str,
    members: list[int],
    plan: Plan,
    config: SamplingConfig,
    seed: tuple[int, ...],
) -> list[PlannedChain]:
    if isinstance(step, MDStep):
        return _dynamics(step, name, members, config, seed)
    if isinstance(step, RattleStep):
        return _rattles(step, name, members, config, seed)
    if isinstance(step, ModesStep):
        return _modes(step, name, members, config, seed)
    chosen = members
    if step.frames is not None and step.frames < len(members):
        best = most_diverse([plan.structures[member] for member in members], step.frames)
        chosen = [members[k] for k in best]
    parts = np.array_split(chosen, max(1, -(-len(chosen) // MEMBERS_PER_CHAIN)))
    return _walks(step, name, "given", parts, [len(part) for part in parts], config, seed)


def _walks(
    step: AnyStep,
    name: str,
    walk: Literal["given", "rattle"],
    parts: list[np.ndarray],
    frames: list[int],
    config: SamplingConfig,
    seed: tuple[int, ...],
) -> list[PlannedChain]:
    """One chain for each part of the members that has frames."""
    return [
        PlannedChain(
            ChainSpec(
                name=f"{name}-{k:05d}",
                purpose=_purpose(step, name),
                members=tuple(part.tolist()),
                frames=count,
                seed=(*seed, k),
                walk=walk,
            ),
            config,
        )
        for k, (part, count) in enumerate(zip(parts, frames, strict=True))
        if count
    ]


def _purpose(step: AnyStep, name: str, temperature_K: float | None = None) -> str:
    if step.purpose == "train":
        return "train"
    parts = [name] if step.name or temperature_K is None else []
    return "_".join(["test", *parts, *([f"{temperature_K:g}K"] if temperature_K else [])])


def _dynamics(
    step: MDStep, name: str, members: list[int], config: SamplingConfig, seed: tuple[int, ...]
) -> list[PlannedChain]:
    own = config.model_copy(
        update={
            "temperatures_K": step.temperatures_K,
            "trajectories": step.trajectories,
            "spacing_steps": step.spacing_steps,
            "test_spacing_steps": step.spacing_steps,
            "rattles": step.rattles,
            "max_strain": step.max_strain,
        }
    )
    # Each chain pays for its equilibration before its first frame.
    most = max(1, step.frames // step.fewest) if step.equilibration_steps else None
    return [
        PlannedChain(
            spec.model_copy(
                update={
                    "name": f"{name}-{k:05d}",
                    "purpose": _purpose(step, name, spec.temperature_K),
                    "members": tuple(members[m] for m in spec.members),
                    "seed": (*seed, k),
                    "pressure_bar": step.pressure_bar if step.ensemble == "npt" else None,
                    "equilibration_steps": step.equilibration_steps,
                    "driver": step.driver,
                    "piece_atoms": step.piece_atoms,
                }
            ),
            own,
        )
        for k, spec in enumerate(_plan_training(len(members), own, seed[0], step.frames, step.fewest, most))
    ]


def _rattles(
    step: RattleStep, name: str, members: list[int], config: SamplingConfig, seed: tuple[int, ...]
) -> list[PlannedChain]:
    own = config.model_copy(
        update={"rattles": step.length, "rattle_sigma_A": step.sigma_A, "max_strain": step.max_strain}
    )
    # A walk too short for its length is not worth its start: fewer members then have one.
    walks = max(1, min(len(members), step.frames // step.length))
    chosen = np.array(members)[np.linspace(0, len(members) - 1, walks).astype(int)]
    parts = np.array_split(chosen, max(1, -(-walks // MEMBERS_PER_CHAIN)))
    return _walks(step, name, "rattle", parts, _shares(step.frames, len(parts)), own, seed)


def _modes(
    step: ModesStep, name: str, members: list[int], config: SamplingConfig, seed: tuple[int, ...]
) -> list[PlannedChain]:
    temperatures = step.temperatures_K
    return [
        PlannedChain(
            ChainSpec(
                name=f"{name}-{k:05d}",
                purpose=_purpose(step, name, temperatures[k % len(temperatures)]),
                members=(member,),
                frames=frames,
                seed=(*seed, k),
                temperature_K=temperatures[k % len(temperatures)],
                walk="modes",
            ),
            config,
        )
        for k, (member, frames) in enumerate(zip(members, _shares(step.frames, len(members)), strict=True))
        if frames
    ]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (k < total % parts) for k in range(parts)]
