"""One student, one teacher, one system: the runs and labels that the tests share, each made once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from matplotlib.figure import Figure

from compactff_md.engines.molecules import Molecules, find_molecules
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.validation.engine_ase import UNSOUND, ASEEngine, at_rest_at
from compactff_md.validation.outcome import Finding, Section, failed, judge
from compactff_md.validation.run import Run
from compactff_md.validation.settings import SuiteSettings
from compactff_md.validation.stages import Stages
from compactff_md.validation.subject import Subject, make_engine
from compactff_md.validation.task import Engine, State, Task, Tick, last_state
from compactff_md.validation.teacher_calculator import TeacherCalculator
from compactff_md.validation.thresholds import Thresholds

# What is asked of stability and forces beyond the temperature of production.
HOTTER = 1.5


class EndedEarlyError(CompactFFError):
    """The student's dynamics did not last: nothing can be said of such a student's ensemble."""


class Reference(Protocol):
    """A teacher: :class:`compactff_md.teachers.Teacher`, or anything that makes ASE calculators."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def calculator(self) -> BaseCalculator:
        """A new calculator."""


class Silent:
    """What a campaign tells its progress to; does nothing."""

    def start(self, stage: str, total: float) -> None:
        """Begin a stage."""

    def update(self, done: float, **numbers: float) -> None:
        """Tell how much of it is done."""

    def finish(self) -> None:
        """End it."""

    def note(self, message: str) -> None:
        """Say a sentence."""


@dataclass(frozen=True)
class Labels:
    """Energies (F,), forces (F, N, 3) and stresses (F, 3, 3), in eV and A.

    Stresses are NaN where there is no cell, or the calculator tells none.
    """

    energies_eV: np.ndarray
    forces_eV_per_A: np.ndarray
    stresses_eV_per_A3: np.ndarray


def did_not_run(campaign: Campaign, section: str, error: CompactFFError) -> Finding:
    """The finding of a section that did not run; it failed where the student's dynamics did not last."""
    finding = campaign.judge("suite.ran", None, "", note=str(error), subject=section)
    return failed(finding, str(error)) if isinstance(error, EndedEarlyError) else finding


def section_or_why(campaign: Campaign, name: str, make: Callable[[], Section]) -> Section:
    """A section, or, where it cannot be made, the finding that says why: others go on without it."""
    try:
        return make()
    except CompactFFError as error:
        return Section((did_not_run(campaign, name, error),))


def digest_of(structures: Sequence[Structure]) -> str:
    """A checksum of positions, elements, cells and their order."""
    digest = hashlib.sha256()
    for frame in structures:
        for array in (frame.positions_A, frame.numbers, frame.cell_A, frame.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass
class Campaign:
    """Everything that the tests of one system need.

    Attributes
    ----------
    label
        Of the system.
    structures
        Frames of the same atoms; runs start from them in turn.
    engine_name
        What moves the student's atoms.
    """

    label: str
    subject: Subject
    teacher: Reference
    structures: Sequence[Structure]
    settings: SuiteSettings
    thresholds: Thresholds
    stages: Stages
    engine_name: str = "ase"
    progress: Any = field(default_factory=Silent)
    _kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What the system's files begin with: those of other structures of the same atoms lie elsewhere."""
        return f"{self.label}-{self._once('digest', lambda: digest_of(self.structures))[:8]}"

    @property
    def structure(self) -> Structure:
        """The first."""
        return self.structures[0]

    @property
    def molecules(self) -> Molecules:
        """Bonds and molecules of the first structure."""
        return self._once("molecules", lambda: find_molecules(self.structure))

    def judge(self, key: str, value: float | None, unit: str, **options: Any) -> Finding:
        """A finding with the threshold of this campaign."""
        return judge(key, value, unit, self.thresholds.get(key), **options)

    def picture(self, name: str, figure: Figure) -> str:
        """Keep a picture; return its path."""
        return self.stages.picture(f"{self.place}/{name}", figure)

    def teacher_engine(self) -> ASEEngine:
        """The teacher in ASE; whatever its calculator raises is a :class:`CompactFFError`."""
        return self._once(
            "teacher", lambda: ASEEngine(TeacherCalculator(self.teacher.calculator()), "teacher")
        )

    def student_engine(self, dtype: str = "float32", name: str | None = None) -> Engine:
        """The student in the engine of the campaign, or in another."""
        name = name or self.engine_name
        return self._once(("engine", name, dtype), lambda: make_engine(name, self.subject, dtype))

    def calculator(self, dtype: str = "float64") -> BaseCalculator:
        """The student in ASE."""
        return self._once(("calculator", dtype), lambda: self.subject.calculator(dtype))

    def run(self, name: str, engine: Engine, task: Task, start: State | None = None, first: int = 0) -> Run:
        """A run, made once and kept; ``first`` chooses the structure that it starts from."""

        def make(unfinished: Path) -> Run:
            structure = self.structures[first % len(self.structures)]
            self.progress.start(f"{self.label}: {name}", task.steps)
            # The teachers' engine; students are so fast that theirs start again.
            options = {"unfinished": unfinished} if isinstance(engine, ASEEngine) else {}
            run = engine.run(structure, task, start, self.progress.update, **options)
            self.progress.finish()
            return run

        return self._once(("run", name), lambda: self.stages.run(f"{self.place}/{name}", make))

    def teacher_replicas(self) -> list[Run]:
        """The teacher's own dynamics at the temperature, its forces with every frame.

        Raises
        ------
        CompactFFError
            If one ended early: what is shorter than the others, or nothing, is no reference.
        """
        return _whole(self._replicas("teacher", self.teacher_engine()))

    def teacher_frames(self) -> list[Run]:
        """The teacher's dynamics as far as they came; without those that ended before their first frame.

        Raises
        ------
        CompactFFError
            If none came to a frame.
        """
        begun = self._replicas("teacher", self.teacher_engine())
        runs = [run for run in begun if np.isfinite(run.potential_eV).all()]
        if not runs:
            raise CompactFFError(f"the teacher's dynamics ended at once: {begun[0].failure}")
        return runs

    def student_replicas(self) -> list[Run]:
        """The student's dynamics under the same conditions.

        Raises
        ------
        EndedEarlyError
            If one ended early.
        """
        return _lasting(self._replicas("student", self.student_engine()))

    def replicas_at_pressure(self) -> tuple[list[Run], list[Run]]:
        """The teacher's and the student's dynamics at the pressure of the settings, which there must be.

        Raises
        ------
        EndedEarlyError
            If one of the student's ended early.
        CompactFFError
            If one of the teacher's did.
        """
        pressure = self.settings.pressure_bar
        student = _lasting(self._replicas("student-npt", self.student_engine(), pressure))
        return _whole(self._replicas("teacher-npt", self.teacher_engine(), pressure)), student

    def sample(self, count: int) -> list[Structure]:
        """The first structure and frames of the student's dynamics, where it has any."""
        try:
            return [self.structure, *self.student_replicas()[0].structures(count - 1)]
        except CompactFFError:
            return list(self.structures[:count])

    def hot_runs(self, factor: float) -> list[Run]:
        """The student's runs for stability, at a multiple of the temperature."""
        s = self.settings
        kelvin = factor * s.temperature_K
        task = self._thermal(s.stability_ps, kelvin)
        return [
            self.run(
                f"stability-{kelvin:g}K-{k}",
                self.student_engine(),
                replace(task, seed=self.seed("stability", k, round(10 * factor))),
                first=k,
            )
            for k in range(s.stability_runs)
        ]

    def start_of_nve(self) -> State | None:
        """The end of a thermal run, at rest as a whole and at the temperature; None where it ended early."""
        try:
            run = self.student_replicas()[0]
        except CompactFFError:
            return None
        state = last_state(run)
        structure = run.structure(-1)
        velocities = at_rest_at(structure, state.velocities_A_per_fs, self.settings.temperature_K)
        return State(state.positions_A, velocities)

    def arrays(
        self, name: str, total: float, make: Callable[[Tick], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays by name, made once and kept; ``make`` tells the tick how much of ``total`` is done.

        Those whose name begins with ``teacher-`` must depend on the teacher and the settings alone.
        """

        def shown() -> dict[str, np.ndarray]:
            self.progress.start(f"{self.label}: {name}", total)
            made = make(self.progress.update)
            self.progress.finish()
            return made

        return self.stages.arrays(f"{self.place}/{name}", shown)

    def labels(self, name: str, structures: Sequence[Structure], calculator: BaseCalculator) -> Labels:
        """Labels of structures of the same atoms, made once and kept; NaN where the calculator fails."""

        def make(tick: Tick) -> dict[str, np.ndarray]:
            rows = []
            for done, structure in enumerate(structures):
                rows.append(_label_or_nothing(structure, calculator))
                tick(done + 1)
            energies, forces, stresses = (np.array(part) for part in zip(*rows, strict=True))
            return {"energies": energies, "forces": forces, "stresses": stresses}

        found = self.arrays(name, len(structures), make)
        return Labels(found["energies"], found["forces"], found["stresses"])

    def seed(self, stream: str, *indices: int) -> int:
        """A seed for one purpose."""
        entropy = [self.settings.seed, *stream.encode(), *indices]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] % (2**31 - 2)) + 1

    def _replicas(self, who: str, engine: Engine, pressure_bar: float | None = None) -> list[Run]:
        task = self._thermal(self.settings.replica_ps, self.settings.temperature_K)
        if pressure_bar is not None:
            task = replace(task, ensemble="npt", pressure_bar=pressure_bar)
        found: dict[int, Run] = {}
        s = self.settings
        count = s.replicas if who.startswith("teacher") else s.student_replicas or s.replicas
        left = list(range(count))
        while left:  # those that another process makes are waited for last
            free = [k for k in left if not self.stages.is_made_elsewhere(f"{self.place}/{who}-replica-{k}")]
            k = (free or left)[0]
            found[k] = self.run(f"{who}-replica-{k}", engine, replace(task, seed=self.seed(who, k)), first=k)
            left.remove(k)
        return [found[k] for k in sorted(found)]

    def _thermal(self, time_ps: float, kelvin: float) -> Task:
        s = self.settings
        return Task(
            "nvt",
            kelvin,
            s.timestep_fs,
            s.steps(time_ps),
            s.every(),
            seed=1,
            equilibration_steps=s.steps(s.equilibration_ps) if s.equilibration_ps else 0,
            friction_per_ps=s.friction_per_ps,
        )

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _whole(runs: list[Run]) -> list[Run]:
    for run in runs:
        if run.failure:
            raise CompactFFError(f"the teacher's dynamics ended early: {run.failure}")
    return runs


def _lasting(runs: list[Run]) -> list[Run]:
    for run in runs:
        if run.failure:
            raise EndedEarlyError(f"the student's dynamics ended early: {run.failure}")
    return runs


def _label_or_nothing(structure: Structure, calculator: BaseCalculator) -> tuple[Any, ...]:
    try:
        return label(structure.to_ase(), calculator)
    except UNSOUND:
        return np.nan, np.full((len(structure), 3), np.nan), np.full((3, 3), np.nan)


def label(atoms: ase.Atoms, calculator: BaseCalculator) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces in eV/A and stress in eV/A^3 (NaN where there is none) of one structure."""
    atoms.calc = calculator
    energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces())
    stress = np.full((3, 3), np.nan)
    if atoms.pbc.all():
        with suppress(*UNSOUND):  # many calculators have energy and forces only
            stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    return energy, forces, stress
