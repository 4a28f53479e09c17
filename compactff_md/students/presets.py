"""The three sizes, and how each architecture fills them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from compactff_md.errors import CompactFFError
from compactff_md.students.base import StudentNetwork
from compactff_md.students.moment_layer import MomentsConfig
from compactff_md.students.moments import MomentsStudent
from compactff_md.students.painn import PaiNNConfig, PaiNNStudent

# Most parameters of each size, everything learned counted: the predecessor's three students.
BUDGETS = {"original": 427_292, "tiny": 77_203, "ultra-tiny": 21_459}
SIZES = tuple(BUDGETS)

_config = partial(MomentsConfig, decay=1, core=90, aligned=100)
# `hidden` is the widest wanted; it shrinks where many elements would overrun the budget.
_LOCAL = {
    "original": _config(radial=16, channels=96, mixed=128, triples=64, hidden=320, interactions=1),
    "tiny": _config(radial=12, channels=40, mixed=56, triples=32, hidden=128, interactions=1),
    "ultra-tiny": _config(radial=12, channels=24, mixed=28, triples=20, hidden=72, interactions=1),
}
_SECOND = {
    "original": _config(radial=16, channels=64, mixed=80, triples=48, hidden=192, interactions=2),
    "tiny": _config(radial=12, channels=24, mixed=32, triples=16, hidden=96, interactions=2),
    "ultra-tiny": _config(radial=12, channels=16, mixed=16, triples=8, hidden=48, interactions=2),
}
# docs/bakeoff.md: more accurate for many molecules, for an eighth to four fifths more time.
_DIRECTED = {
    size: replace(_SECOND[size], directed=directed, floor=45)
    for size, directed in (("original", 8), ("tiny", 4), ("ultra-tiny", 4))
}
# docs/bakeoff.md: a second interaction pays at every size. "moments-local" is there for those who want
# half the receptive field, such as in runs over many ranks.
_MOMENTS = _SECOND
_PAINN = {
    "original": PaiNNConfig(features=128, interactions=3, radial=20, update=48),
    "tiny": PaiNNConfig(features=64, interactions=2, radial=12, update=24),
    "ultra-tiny": PaiNNConfig(features=32, interactions=2, radial=10, update=12),
}

_Build = Callable[[list[str], float, dict], StudentNetwork]
ARCHITECTURES: dict[str, _Build] = {
    "moments": lambda elements, cutoff_A, h: MomentsStudent(elements, cutoff_A, MomentsConfig(**h)),
    "painn": lambda elements, cutoff_A, h: PaiNNStudent(elements, cutoff_A, PaiNNConfig(**h)),
}
# Names that `create` takes; the first is what the bake-off chose for each size.
_MOMENTS_VARIANTS = {"moments-local": _LOCAL, "moments-second": _SECOND, "moments-directed": _DIRECTED}
VARIANTS = {"moments": _MOMENTS, **_MOMENTS_VARIANTS, "painn": _PAINN}


@contextmanager
def _in_float32() -> Iterator[None]:
    """Make weights in float32 also where another package, as MACE's calculator does, set another default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@_in_float32()
def create(
    size: str,
    elements: list[str],
    *,
    architecture: str | None = None,
    cutoff_A: float = 5.0,
    seed: int = 0,
) -> StudentNetwork:
    """Make an untrained student of a size, with at most that size's number of parameters.

    Parameters
    ----------
    size
        ``original``, ``tiny`` or ``ultra-tiny``.
    elements
        Chemical symbols that the student shall know.
    architecture
        ``moments`` (what None means), or a rival of the bake-off: ``moments-local``, ``moments-second``,
        ``painn``; or ``moments-directed``.
    cutoff_A
        From 1 to 20 A.
    seed
        Of the initial weights; the global random state is left as it was.

    Raises
    ------
    CompactFFError
        For an unknown size or architecture, or where the elements alone overrun the budget.
    """
    variant = _lookup(VARIANTS, architecture or "moments", "architecture")
    hyperparameters = vars(_lookup(variant, size, "size"))
    name = "painn" if architecture == "painn" else "moments"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "moments":
            hyperparameters = _fit(MomentsConfig(**hyperparameters), elements, cutoff_A, BUDGETS[size])
        network = ARCHITECTURES[name](elements, cutoff_A, hyperparameters)
    if network.num_parameters > BUDGETS[size]:
        raise CompactFFError(
            f"{len(elements)} elements make {network.num_parameters} parameters, more than the "
            f"{BUDGETS[size]} of {size!r}; choose a larger size or fewer elements"
        )
    return network


def variants_of(network: StudentNetwork) -> list[str]:
    """The name of its architecture, and those that :func:`create` takes for networks built like it.

    Only how many interactions there are and whether atoms send directions counts; widths may be others.
    """
    if network.architecture != "moments":
        return [network.architecture]
    found = network.hyperparameters
    built = found["interactions"], found.get("directed", 0) > 0
    alike = [
        name
        for name, sizes in _MOMENTS_VARIANTS.items()
        if (sizes["tiny"].interactions, sizes["tiny"].directed > 0) == built
    ]
    return [network.architecture, *alike]


@_in_float32()
def rebuild(architecture: str, hyperparameters: dict, elements: list[str], cutoff_A: float) -> StudentNetwork:
    """Make the untrained network that a student file describes.

    Raises
    ------
    CompactFFError
        If the architecture or one of its hyperparameters is unknown to this version.
    """
    build = _lookup(ARCHITECTURES, architecture, "architecture")
    try:
        return build(elements, cutoff_A, hyperparameters)
    except TypeError as error:
        raise CompactFFError(
            f"hyperparameters {hyperparameters} do not fit {architecture!r}: {error}"
        ) from error


def _fit(config: MomentsConfig, elements: list[str], cutoff_A: float, budget: int) -> dict:
    """Shrink ``hidden`` by steps of 4 until the budget holds; at 8 the caller's check speaks."""
    hidden = config.hidden
    while hidden > 8:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            count = sum(p.numel() for p in MomentsStudent(elements, cutoff_A, config).parameters())
        if count + len(elements) + 1 <= budget:
            break
        hidden -= 4
        config = replace(config, hidden=hidden)
    return dict(vars(config))


def _lookup(table: dict, key: str, kind: str):
    if key not in table:
        raise CompactFFError(f"unknown {kind} {key!r}; allowed are {', '.join(table)}")
    return table[key]
