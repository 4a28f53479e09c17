"""What a run needs to know, checked when it is made and written beside what it made."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compactff_md.students import SIZES, VARIANTS
from compactff_md.training.keys import LabelKeys
from compactff_md.training.steps import (
    AnyStep,
    ConformersStep,
    DimersStep,
    check_range,
    check_symbols,
    check_temperatures,
    step_names,
)

DEFAULT_STEPS = 20_000
# Of the sampling: what a recipe with steps says in its steps, and in those for the test.
PLAIN_FIELDS = ("mode", "frames", "temperatures_K", "trajectories", "spacing_steps", "rattles", "driver")
TEACHER = "teacher"  # as the driver
# Frames where none are asked for: moved by the teacher, with a call for every step, and by a student.
TEACHER_FRAMES, DRIVEN_FRAMES = 1600, 4800
TEST_FIELDS = ("test_temperatures_K", "test_frames", "test_spacing_steps")


class CheckConfig(BaseModel):
    """What the early data checks refuse.

    ``duplicates``: "error" names the first pair, "drop" keeps the first of each, "keep" trains on all.
    ``max_force_eV_per_A``: on any atom. ``max_energy_deviation_eV_per_atom``: distance from the energy
    that is linear in composition; a frame is refused where it is also 20 times the usual one.
    ``units`` looks for energies, forces or stresses in other units, ``contacts`` for atoms that overlap and
    lengths in nm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    duplicates: Literal["error", "drop", "keep"] = "error"
    max_force_eV_per_A: float = Field(100.0, gt=0)
    max_energy_deviation_eV_per_atom: float = Field(1.0, gt=0)
    units: bool = True
    contacts: bool = True


class TrainConfig(BaseModel):
    """How a student is trained.

    Attributes
    ----------
    size, architecture
        A preset, and the architecture where it should not be the preset's own.
    elements
        Symbols that the student knows; None takes those of the data.
    start_from
        Student to go on with: a shipped one's name, a file or the folder of a run. It must have this size
        and know the elements of the data. Its weights, elements and cutoff stay, energies of elements follow
        the data.
    minutes, steps, epochs
        How long. The learning rate falls along a cosine to zero at the first of them to be reached; with
        ``minutes`` it follows the time spent training, over interruptions. None of them: 20,000 steps.
    batch_size, batch_atoms
        Frames and atoms in a batch, at most, on each process; a frame larger than that is a batch.
    optimiser
        "muon" for matrices with AdamW for the rest, or "adamw" for all.
    learning_rate, warmup, weight_decay, gradient_clip
        The rate (None: what suits the size) rises over the first ``warmup`` of the run and falls to zero; the
        norm of the gradient is cut.
    ema_decay
        Of the running mean of the weights, which is what is validated and shipped.
    loss, huber_delta
        "huber" is quadratic below ``huber_delta`` (eV/A of forces; eV/atom of energies) and linear above.
    large_force_eV_per_A
        Errors count less for atoms on which the teacher's force, or the error itself, is larger than that
        (:func:`compactff_md.training.loss.trust`); those of a frame's energy and stress as its least atom.
    forces_weight, energy_weight, energy_weight_end, stress_weight
        Of the squared errors in (eV/A)^2, (eV/atom)^2 and of the virial in (eV/atom)^2. The energy's
        weight rises from the first to the second value between 60% and 90% of the run.
    atom_energies_weight
        Of the squared errors of the teacher's energies of atoms in eV^2, where the data have them; it falls
        to zero over the first half of the run. 0 leaves them out of everything.
    compile
        "always" compiles the training step with torch.compile, "never" does not, "auto" does where it pays:
        from 4 minutes or 10,000 steps for each of the at most four shapes of batches. Frames of different
        sizes are then batched by atoms: as many as ``batch_size`` frames have on average.
    isolated_energies_eV
        Energy of each element's isolated atom, or the name of a file with one-atom frames; these outrank
        one-atom frames in the data.
    threads
        Of the CPU; None takes one for small batches and all for large ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: str = "tiny"
    architecture: str | None = None
    elements: tuple[str, ...] | None = None
    cutoff_A: float = Field(5.0, ge=1.0, le=20.0)
    start_from: str | None = None
    seed: int = Field(0, ge=0)
    minutes: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    epochs: int | None = Field(None, gt=0)
    batch_size: int = Field(8, ge=1)
    batch_atoms: int = Field(4096, ge=1)
    optimiser: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = Field(None, gt=0)
    warmup: float = Field(0.01, ge=0, le=0.5)
    weight_decay: float = Field(1e-6, ge=0)
    gradient_clip: float = Field(10.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    loss: Literal["huber", "squared"] = "huber"
    huber_delta: float = Field(0.1, gt=0)
    large_force_eV_per_A: float = Field(10.0, gt=0)
    forces_weight: float = Field(1.0, ge=0)
    energy_weight: float = Field(0.1, ge=0)
    energy_weight_end: float = Field(10.0, ge=0)
    stress_weight: float = Field(1.0, ge=0)
    atom_energies_weight: float = Field(0.0, ge=0)
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "auto"
    compile: Literal["auto", "always", "never"] = "auto"
    threads: int | None = Field(None, ge=1)
    validate_seconds: float = Field(20.0, gt=0)
    checkpoint_seconds: float = Field(20.0, ge=0)
    keys: LabelKeys = LabelKeys()
    checks: CheckConfig = CheckConfig()
    isolated_energies_eV: dict[str, float] | str | None = None

    @field_validator("size")
    @classmethod
    def _known_size(cls, value: str) -> str:
        if value not in SIZES:
            raise ValueError(f"no such size; allowed are {', '.join(SIZES)}")
        return value

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str | None) -> str | None:
        if value is not None and value not in VARIANTS:
            raise ValueError(f"no such architecture; allowed are {', '.join(VARIANTS)}")
        return value

    @model_validator(mode="after")
    def _learnable(self) -> Self:
        check_symbols(self.elements or ())
        if not (self.forces_weight or self.energy_weight or self.energy_weight_end or self.stress_weight):
            raise ValueError("forces_weight, energy_weight, energy_weight_end and stress_weight are all 0")
        return self

    @property
    def max_steps(self) -> int | None:
        """Steps where the length is given in steps, or in nothing at all."""
        unlimited = self.minutes is None and self.epochs is None and self.steps is None
        return DEFAULT_STEPS if unlimited else self.steps


class SamplingConfig(BaseModel):
    """Which structures the teacher labels.

    Attributes
    ----------
    mode
        "md": Langevin dynamics with the teacher from each given structure, rattled copies beside it;
        "given": the given structures as they are, no others; one with an element of its own is for training.
    frames
        Labelled frames for training and validation, over all structures and temperatures together. None:
        1,600; 4,800 where a student moves the atoms, so that a frame costs one call.
    valid_fraction
        Part of each trajectory, at its end, that is held out for validation.
    driver
        What moves the atoms in the dynamics for training, while the teacher labels the frames that are kept:
        a name as of teachers, such as "student:organic-tiny", or "teacher" for the teacher itself. None: a
        shipped student that knows the elements and agrees with the teacher on some rattled structures
        (:mod:`compactff_md.training.drivers`), else the teacher.
    temperatures_K, test_temperatures_K
        Of the trajectories for training, and of the independent ones for the test.
    trajectories
        Independent trajectories for each structure and temperature.
    timestep_fs, friction_per_fs, minimum_mass_u
        Of the Langevin dynamics. Lighter atoms get the minimum mass: positions have the same Boltzmann
        distribution with any masses, and heavier hydrogens allow longer steps.
    spacing_steps
        Steps between two frames that are kept.
    rattles
        Displaced copies of each kept MD frame, each labelled at the cost of one teacher call, then moved
        down the forces before it is displaced again.
    rattle_sigma_A
        Smallest and largest standard deviation of the displacement.
    max_force_eV_per_A, min_separation_A
        Rattled copies beyond either are not kept. A chain that has lost ten times as many frames as it is to
        give, to them or to failures, ends with what it has.
    max_strain
        Largest entry of the random strain of periodic cells.
    relax_steps
        Steps of the relaxation at the start, at most; 0 starts from the structures as given.
    test_frames, test_spacing_steps, equilibration_steps
        For each test temperature: frames, steps between them, and steps before the first.
    n_workers
        Processes that call the teacher; None takes one a core (at most 8) for xTB, and one otherwise.
    max_failures
        Largest fraction of labels that the teacher may fail on; 1 lets it fail on all. A run may go on with
        another. Those of rounds do not count.
    steps
        What to sample step by step (:mod:`compactff_md.training.steps`), in the place of ``mode``,
        ``frames``, ``temperatures_K``, ``trajectories``, ``spacing_steps``, ``rattles`` and ``driver``.
        Without a step for the test, the given structures are tested as without steps.
    dask
        Address of a dask scheduler that does the work, such as ``tcp://host:8786``, or "local" for one of
        its own here; None: processes of this machine. All must see the out folder under the same path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["md", "given"] = "md"
    driver: str | None = None
    frames: int | None = Field(None, ge=4)
    valid_fraction: float = Field(0.05, gt=0, lt=0.5)
    temperatures_K: tuple[float, ...] = (300.0, 600.0, 1000.0)
    test_temperatures_K: tuple[float, ...] = (300.0, 600.0)
    trajectories: int = Field(2, ge=1)
    timestep_fs: float = Field(2.0, gt=0, le=5)
    friction_per_fs: float = Field(0.01, gt=0)
    minimum_mass_u: float = Field(8.0, ge=0)
    spacing_steps: int = Field(20, ge=1)
    rattles: int = Field(1, ge=0)
    rattle_sigma_A: tuple[float, float] = (0.01, 0.05)
    max_force_eV_per_A: float = Field(30.0, gt=0)
    min_separation_A: float = Field(0.5, gt=0)
    max_strain: float = Field(0.03, ge=0, lt=0.5)
    relax_steps: int = Field(100, ge=0)
    test_frames: int = Field(100, ge=1)
    test_spacing_steps: int = Field(10, ge=1)
    equilibration_steps: int = Field(250, ge=0)
    n_workers: int | None = Field(None, ge=1)
    max_failures: float = Field(0.2, ge=0, le=1)
    shard_seconds: float = Field(20.0, ge=0)
    steps: tuple[AnyStep, ...] = ()
    dask: str | None = None

    @property
    def num_frames(self) -> int:
        """Frames that are asked for, or the default of what moves the atoms."""
        if self.frames is not None:
            return self.frames
        return TEACHER_FRAMES if self.driver in (None, TEACHER) else DRIVEN_FRAMES

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        step_names(self.steps)
        outranked = set(PLAIN_FIELDS) if self.steps else set()
        if any(step.purpose == "test" for step in self.steps):
            outranked |= set(TEST_FIELDS)
        fields = type(self).model_fields
        both = sorted(name for name in outranked if getattr(self, name) != fields[name].default)
        if both:
            raise ValueError(f"steps and {', '.join(both)} contradict each other; set these in the steps")
        return self

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.mode == "given" and self.driver is not None:
            raise ValueError(f"mode is given, so that nothing moves, and driver {self.driver}: leave one out")
        check_range("rattle_sigma_A", self.rattle_sigma_A)
        for name in ("temperatures_K", "test_temperatures_K"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least one, all above 0 K")
        return self


class RoundsConfig(BaseModel):
    """On-policy rounds after the first labels (:mod:`compactff_md.training.rounds`).

    Attributes
    ----------
    most
        Rounds at most; 0: none.
    labels
        Teacher calls that all rounds together may spend.
    trajectories, steps, spacing_steps
        Runs of the student in each round, their steps, and steps between frames to choose from.
    temperatures_K
        Of the runs; None takes those of the sampling.
    probe_share
        Part of a round's labels that is drawn at random, to tell the error on fresh trajectories.
    enough
        The rounds end where this error is at most that many times the error on the test.
    training_share
        Part of the run's ``minutes``, steps or epochs for the student of each round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    most: int = Field(0, ge=0, le=20)
    labels: int = Field(600, ge=10)
    trajectories: int = Field(12, ge=1)
    steps: int = Field(2000, ge=10)
    spacing_steps: int = Field(50, ge=5)
    temperatures_K: tuple[float, ...] | None = None
    probe_share: float = Field(0.3, gt=0, le=1)
    enough: float = Field(1.1, gt=0)
    training_share: float = Field(0.1, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.most * self.training_share > 0.5:
            raise ValueError(
                f"{self.most} rounds of {self.training_share:g} of the time leave less than half of it; "
                "expected most * training_share of at most 0.5"
            )
        if self.temperatures_K is not None:
            check_temperatures(self.temperatures_K)
        if self.spacing_steps > self.steps:
            raise ValueError(
                f"spacing_steps is {self.spacing_steps}, more than the {self.steps} steps of a run"
            )
        return self


class DistillConfig(TrainConfig):
    """From structures to a student: everything of :class:`TrainConfig`, and the teacher and sampling.

    ``minutes`` covers labelling and training: labelling ends after half of it with what it has, rounds where
    a quarter is left, training takes the rest; until the labels are complete, a run may go on with more.
    ``structures`` may be None where the sampling makes its own, from SMILES or as pairs of named elements.
    ``labelled`` are files with frames that the same teacher has labelled before, under the names in ``keys``;
    they join the training frames. ``labels_from`` is the out folder of another run with the same teacher,
    sampling and seed, whose labels are then used, such as for another size of student.
    """

    structures: str | None = None
    teacher: str = "gfn2-xtb"
    teacher_arguments: dict[str, Any] = Field(default_factory=dict)
    size: str = "ultra-tiny"
    labelled: tuple[str, ...] = ()
    labels_from: str | None = None
    sampling: SamplingConfig = SamplingConfig()
    rounds: RoundsConfig = RoundsConfig()

    @model_validator(mode="after")
    def _from_something(self) -> Self:
        from_nothing = any(
            isinstance(step, ConformersStep) or (isinstance(step, DimersStep) and step.elements)
            for step in self.sampling.steps
        )
        if self.structures is None and not from_nothing:
            raise ValueError("the field 'structures' is missing")
        kept, allowed = self.sampling.max_force_eV_per_A, self.checks.max_force_eV_per_A
        if kept > allowed:
            raise ValueError(
                f"sampling.max_force_eV_per_A is {kept:g}, and checks.max_force_eV_per_A {allowed:g}: the "
                "training would refuse frames that are kept; expected at most as much"
            )
        return self

    @property
    def training(self) -> TrainConfig:
        """The part that the training sees."""
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})
