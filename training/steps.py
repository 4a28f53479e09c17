"""The steps that a sampling recipe may list: what each makes, from which structures, and how much.

Some steps make structures without the teacher (conformers, clusters, liquid, torsions, strain, volumes,
contacts, dimers, substitution); of these ``frames`` are labelled, chosen to be unlike each other. The others
move with the teacher (md, rattle, modes) and label what they meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, model_validator

GIVEN = "given"


def check_temperatures(temperatures_K: tuple[float, ...]) -> None:
    """Refuse no temperature, or none above zero.

    Raises
    ------
    ValueError
        With what is given.
    """
    if not temperatures_K or min(temperatures_K) <= 0:
        raise ValueError(f"temperatures_K is {temperatures_K}; expected at least one, all above 0 K")


def check_range(name: str, bounds: tuple[float, float], above: float = 0.0) -> None:
    """Refuse two bounds that are out of order, or not above a number.

    Raises
    ------
    ValueError
        With what is given.
    """
    if not above < bounds[0] <= bounds[1]:
        raise ValueError(f"{name} is {bounds}; expected {above:g} < smallest <= largest")


def check_symbols(symbols: Iterable[str]) -> None:
    """Refuse what is no chemical symbol.

    Raises
    ------
    ValueError
        With the strange ones.
    """
    unknown = [symbol for symbol in symbols if symbol not in atomic_numbers]
    if unknown:
        raise ValueError(f"there is no element {', '.join(unknown)}; expected symbols such as C or Cl")


class Step(BaseModel):
    """What all steps have.

    Attributes
    ----------
    name
        By which later steps refer to it; None takes the kind, with a number where that is taken.
    of
        Steps whose structures it starts from; "given" are the structures of the run.
    purpose
        "test": its frames are for the test, never for training.
    frames
        To label in all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, pattern=r"^[^./\\\x00][^/\\\x00]*$")  # a part of file names
    of: tuple[str, ...] = (GIVEN,)
    purpose: Literal["train", "test"] = "train"
    frames: int = Field(ge=0)


class MakerStep(Step):
    """A step that makes structures: ``count`` in all, of which ``frames`` are labelled (None: all)."""

    count: int = Field(100, ge=1)
    frames: int | None = Field(None, ge=0)  # type: ignore[assignment]

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.frames is not None and self.frames > self.count:
            raise ValueError(f"frames is {self.frames} and count {self.count}; expected at most count")
        return self


class ConformersStep(MakerStep):
    """Conformers of the SMILES in a file, one a line, by RDKit; ``count`` is the most in all."""

    kind: Literal["conformers"]
    smiles: str
    each: int = Field(1, ge=1)
    count: int = Field(1_000_000, ge=1)


class ClustersStep(MakerStep):
    """Molecules packed at contact distances: the sizes in turn, partners drawn from ``of`` or water.

    ``closeness`` is the range of the nearest contact as a fraction of the sum of van der Waals radii.
    """

    kind: Literal["clusters"]
    sizes: tuple[Annotated[int, Field(ge=2)], ...] = Field((2, 3), min_length=1)
    water_share: float = Field(0.5, ge=0, le=1)
    closeness: tuple[float, float] = (0.75, 1.05)
    max_atoms: int = Field(60, ge=2)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range("closeness", self.closeness)
        return self


class LiquidStep(MakerStep):
    """Cubic periodic boxes of up to ``max_atoms`` atoms: water and ``kinds`` molecules drawn from ``of``.

    The shares of water are taken in turn. The molecules are rigid and as close as turning them one by one
    allows, which is less dense than the liquid: dynamics at constant pressure brings them together.
    """

    kind: Literal["liquid"]
    kinds: int = Field(2, ge=1)
    water_shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((1.0, 0.5, 0.0), min_length=1)
    closeness: float = Field(0.8, gt=0.3, le=1.2)
    max_atoms: int = Field(160, ge=6)


class TorsionsStep(MakerStep):
    """Random turns about bonds outside rings."""

    kind: Literal["torsions"]
    bonds: int = Field(2, ge=1)


class StrainStep(MakerStep):
    """Random symmetric strain of periodic cells, entries up to ``max_strain``."""

    kind: Literal["strain"]
    max_strain: float = Field(0.05, gt=0, lt=0.5)


class VolumesStep(MakerStep):
    """Cells and positions scaled to volumes between two factors, evenly spaced."""

    kind: Literal["volumes"]
    factors: tuple[float, float] = (0.85, 1.15)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0.3 <= self.factors[0] < self.factors[1] <= 3:
            raise ValueError(f"factors is {self.factors}; expected 0.3 <= smallest < largest <= 3")
        return self


class ContactsStep(MakerStep):
    """Two neighbours pushed together to a fraction of their distance."""

    kind: Literal["contacts"]
    closeness: tuple[float, float] = (0.7, 0.95)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range("closeness", self.closeness)
        return self


class DimersStep(MakerStep):
    """Two atoms alone, of every pair of elements in turn, so that nuclei that come close repel each other.

    ``elements`` are those of the structures where none are given; distances are spread evenly over
    ``closeness`` times the sum of the covalent radii. Such pairs are far from molecules in energy and force:
    ``sampling.max_force_eV_per_A``, ``checks.max_energy_deviation_eV_per_atom`` and
    ``checks.max_force_eV_per_A`` must allow for them.
    """

    kind: Literal["dimers"]
    elements: tuple[str, ...] = ()
    closeness: tuple[float, float] = (0.7, 1.0)

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_symbols(self.elements)
        check_range("closeness", self.closeness)
        return self


class SubstitutionStep(MakerStep):
    """Disorder: atoms of two elements exchanged, elements replaced, atoms removed.

    ``exchange`` lists pairs such as [S, Cl], of which up to ``most`` atoms each change places;
    ``replace`` maps an element to another; ``remove`` gives elements of which up to that many go. Atoms
    bonded to an element in ``unbonded_to`` stay as they are, such as the sulfur of thiophosphate.
    """

    kind: Literal["substitution"]
    exchange: tuple[tuple[str, str], ...] = ()
    replace: dict[str, str] = Field(default_factory=dict)
    remove: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    most: int = Field(4, ge=1)
    unbonded_to: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.exchange or self.replace or self.remove):
            raise ValueError("nothing to substitute; expected exchange, replace or remove")
        pairs = [*self.exchange, *self.replace.items()]
        check_symbols([*(symbol for pair in pairs for symbol in pair), *self.remove, *self.unbonded_to])
        return self


class MDStep(Step):
    """Teacher dynamics from every structure, and rattled copies beside it.

    With a ``driver``, such as ``student:organic-tiny`` or another name of a teacher, that moves the atoms and
    the teacher labels the frames that are kept: each then costs one call, and not one a step. For training
    only; the test is of the teacher's own trajectories. A chain gets at least ``fewest`` frames where the
    number of temperatures can fall for it, and, where chains equilibrate first, that of the structures.

    With ``piece_atoms`` not the frame is labelled but a round piece of it, whole molecules of at most so many
    atoms about a random place, free: what a liquid is to a teacher that knows free molecules only, or is too
    slow for a box. It needs a driver, which sees the periodic structure.
    """

    kind: Literal["md"]
    temperatures_K: tuple[float, ...] = (300.0, 600.0, 1000.0)
    driver: str | None = None
    trajectories: int = Field(1, ge=1)
    ensemble: Literal["nvt", "npt"] = "nvt"
    pressure_bar: float = 1.0
    spacing_steps: int = Field(20, ge=1)
    equilibration_steps: int = Field(0, ge=0)
    rattles: int = Field(1, ge=0)
    max_strain: float = Field(0.03, ge=0, lt=0.5)
    fewest: int = Field(10, ge=1)
    piece_atoms: int | None = Field(None, ge=3)

    @model_validator(mode="after")
    def _warm(self) -> Self:
        check_temperatures(self.temperatures_K)
        if self.ensemble == "nvt" and self.pressure_bar != type(self).model_fields["pressure_bar"].default:
            raise ValueError(f"pressure_bar is {self.pressure_bar:g}, but ensemble nvt: expected npt")
        if self.driver is not None and self.purpose == "test":
            raise ValueError("a test is of the teacher's own trajectories; leave out the driver")
        if self.piece_atoms is not None and self.driver is None:
            raise ValueError(
                "pieces are labelled of what a driver moves; give one, such as student:organic-tiny"
            )
        return self


class RattleStep(Step):
    """Rattle, label, move down the forces, repeat: ``length`` copies from each structure in turn."""

    kind: Literal["rattle"]
    sigma_A: tuple[float, float] = (0.01, 0.1)
    length: int = Field(5, ge=1)
    max_strain: float = Field(0.03, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range("sigma_A", self.sigma_A)
        return self


class ModesStep(Step):
    """Thermal displacements along the normal modes of each structure, classical, at a temperature.

    The second derivatives come from one teacher call a coordinate; those frames are labels too.
    """

    kind: Literal["modes"]
    temperatures_K: tuple[float, ...] = (300.0, 1000.0)

    @model_validator(mode="after")
    def _warm(self) -> Self:
        check_temperatures(self.temperatures_K)
        return self


AnyStep = Annotated[
    ConformersStep
    | ClustersStep
    | LiquidStep
    | TorsionsStep
    | StrainStep
    | VolumesStep
    | ContactsStep
    | DimersStep
    | SubstitutionStep
    | MDStep
    | RattleStep
    | ModesStep,
    Field(discriminator="kind"),
]


def step_names(steps: tuple[AnyStep, ...]) -> list[str]:
    """Name of every step, in order.

    Raises
    ------
    ValueError
        Where a name is taken, or ``of`` names a step that does not come before or makes no structures.
    """
    names: list[str] = []
    makers = {GIVEN}
    for index, step in enumerate(steps):
        name = step.name or (step.kind if step.kind not in names else f"{step.kind}-{index}")
        if name in (*names, GIVEN):
            raise ValueError(f"two steps are called {name!r}; give one of them another name")
        unknown = [source for source in step.of if source not in makers]
        if unknown or not step.of:
            allowed = ", ".join(sorted(makers))
            raise ValueError(
                f"step {name!r} is of {', '.join(unknown) or 'nothing'}; allowed there are {allowed}"
            )
        names.append(name)
        if isinstance(step, MakerStep):
            makers.add(name)
    return names
