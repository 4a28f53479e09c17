"""Chains of labelled frames on disk: written in shards, continued where they stopped.

A chain's folder holds ``shard-FIRSTFRAME.xyz`` files and ``state.npz``. The state is written after the
shard that it belongs to, so a killed run redoes what came after the last shard; each segment of a trajectory
has a random generator of its own, so that it goes on as it would have, and finds the labels that it had paid
for in ``journal``. Who begins to work on the
folder takes it over: a process that still runs for a killed client then writes no more.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from math import inf
from pathlib import Path

import ase
import numpy as np

from compactff_md.engines.molecules import find_molecules
from compactff_md.errors import CompactFFError
from compactff_md.files import atomic_write, read_arrays, write_text
from compactff_md.structure import Structure, read_structures
from compactff_md.training.asking import Asking, answered
from compactff_md.training.config import SamplingConfig
from compactff_md.training.journal import Journal
from compactff_md.training.label import Label
from compactff_md.training.labelling import (
    LabelCounts,
    Labeller,
    TeacherFailure,
    TooManyFailuresError,
    labelled_atoms,
    labeller_here,
    write_frames,
)
from compactff_md.training.liquids import cut_piece
from compactff_md.training.modes import hessian, thermal_displacement
from compactff_md.training.planning import ChainSpec
from compactff_md.training.sampling import (
    Phase,
    langevin,
    random_strain,
    rattle_walk,
    sampling_masses,
    strained,
    thermal_velocities,
)

STATE_FILE = "state.npz"
OWNER_FILE = "owner"
MODES_FILE = "modes.npz"
JOURNAL_FILE = "journal"
MOST_ATTEMPTS = 100
MOST_LOST = 10  # frames that come to nothing, for each that is wanted, before a chain ends
RESTART_AFTER = 3  # failures in one segment before the trajectory starts again
MAX_SHARD_FRAMES = 500

Report = Callable[[int], None]


class Chain:
    """One chain: makes frames segment by segment until it has as many as its plan says.

    Parameters
    ----------
    spec
        The plan.
    structures
        Given structures by index, those that ``spec.members`` names; relaxed ones for trajectories.
    folder
        Of this chain; made if missing in one that is there, and taken over from whoever works on it.
    config, labeller
        Settings of the sampling, and the teacher, whose counts start anew.
    driver_version
        That the driver must have; None where any is right.
    """

    def __init__(
        self,
        spec: ChainSpec,
        structures: dict[int, ase.Atoms],
        folder: Path,
        config: SamplingConfig,
        labeller: Labeller,
        driver_version: str | None = None,
    ) -> None:
        self.spec, self.config, self.labeller, self.folder = spec, config, labeller, folder
        self.structures = structures
        labeller.counts = LabelCounts()
        self.mover = labeller_here(spec.driver, {}, driver_version) if spec.driver else labeller
        self.segment = 0
        self.written = 0
        self.complete = False
        self.ends = inf
        self.pending: list[ase.Atoms] = []
        self.labelled: set[int] = set()  # of given structures, before they are asked for again
        self.phase: Phase | None = None
        self.atoms = self._start_atoms()
        folder.mkdir(exist_ok=True)
        labeller.journal = self.journal = Journal(folder / JOURNAL_FILE)
        self.token = secrets.token_hex(8)
        write_text(folder / OWNER_FILE, self.token)
        self._restore()

    def run(self, report: Report, time_limit_s: float | None = None) -> LabelCounts:
        """Make frames to the end, or until the time is over; ``report`` gets the number of frames so far.

        A stretch that was begun is finished, an equilibration is not; below zero nothing is begun.

        Raises
        ------
        TooManyFailuresError
            If the teacher fails on too many of them.
        CompactFFError
            If another process has taken the folder over.
        """
        return answered(self.running(report, time_limit_s), self.mover)

    def running(self, report: Report, time_limit_s: float | None = None) -> Asking[LabelCounts]:
        """As :meth:`run`, asking for what moves the atoms, so that several can run side by side."""
        last_shard = time.monotonic()
        self.ends = inf if time_limit_s is None else last_shard + time_limit_s
        report(self.written)
        if not self.complete and self.spec.walk != "given":  # it may have been given up before
            self.labeller.counts.check(self.config.max_failures)
        if time_limit_s is not None and time_limit_s < 0:
            self._write_shard()
            return self.labeller.counts
        while not self.complete:
            yield from self._next_segment()
            ended = self._exhausted()
            if ended or self.spec.walk != "given":  # of given ones the worst may come first
                self.labeller.counts.check(self.config.max_failures)
            self.complete = ended
            report(self.written + len(self.pending))
            now = time.monotonic()
            out_of_time = now > self.ends
            due = now - last_shard >= self.config.shard_seconds or len(self.pending) >= MAX_SHARD_FRAMES
            if self.complete or out_of_time or due:
                self._write_shard()
                self.journal.clear()
                last_shard = time.monotonic()
            if out_of_time:
                break
        return self.labeller.counts

    def give_up(self) -> None:
        """End with the frames that there are, until more failures are allowed.

        Given structures that have no label are asked for again.
        """
        self._write_shard()
        self.journal.clear()  # what it had paid for is in the counts

    def _exhausted(self) -> bool:
        if self.spec.walk == "given":
            return self.segment >= len(self.spec.members)
        lost = self.labeller.counts.failures + self.labeller.counts.rejected
        enough = self.written + len(self.pending) >= self.spec.frames
        return enough or lost >= MOST_LOST * self.spec.frames

    def _next_segment(self) -> Asking[None]:
        if self.spec.walk == "given":
            member = self.spec.members[self.segment]
            if member not in self.labelled:
                self._label(self.structures[member], structure=member)
        elif self.spec.walk == "rattle":
            self._rattle()
        elif self.spec.walk == "modes":
            self._displace()
        else:
            assert self.spec.temperature_K is not None
            yield from self._run_dynamics(self.spec.temperature_K)
        self.segment += 1

    def _rattle(self) -> None:
        """One walk from one member after the other."""
        member = self.spec.members[self.segment % len(self.spec.members)]
        rng = np.random.default_rng([*self.spec.seed, self.segment])
        for atoms, label in rattle_walk(self.structures[member], self.config, self.labeller, rng):
            self.pending.append(labelled_atoms(atoms, label, source="rattle", structure=member))
        self._cut()

    def _displace(self) -> None:
        """One frame along the normal modes; the second derivatives come first, and give frames too."""
        member = self.spec.members[0]
        atoms = self.structures[member]
        path = self.folder / MODES_FILE
        origin = {"source": "modes", "structure": member}
        if self.segment == 0 or not path.is_file():  # a killed run has its labels in the journal
            matrix, labelled = self._hessian(atoms)
            with atomic_write(path) as temporary:
                np.savez(temporary, matrix=matrix)
            # They are much alike: at most half of the frames.
            self.pending += [labelled_atoms(a, b, **origin) for a, b in labelled[: self.spec.frames // 2]]
        matrix = read_arrays(path)["matrix"]
        rng = np.random.default_rng([*self.spec.seed, self.segment])
        moved = atoms.copy()
        kelvin = self.spec.temperature_K or 0.0
        moved.positions += thermal_displacement(matrix, kelvin, not atoms.pbc.any(), rng)
        self._label(moved, **origin)
        self._cut()

    def _hessian(self, atoms: ase.Atoms) -> tuple[np.ndarray, list[tuple[ase.Atoms, Label]]]:
        counts = self.labeller.counts
        before = counts.calls
        try:
            return hessian(atoms, self.labeller)
        except TeacherFailure as failure:
            counts.failures += 1
            self.complete = True  # whatever is allowed: it would fail again
            words = f"chain {self.spec.name}: the teacher gives no second derivatives: {failure}"
            raise TooManyFailuresError(words) from failure
        finally:
            counts.attempts += counts.calls - before

    def _cut(self) -> None:
        del self.pending[self.spec.frames - self.written :]

    def _label(self, atoms: ase.Atoms, **info: object) -> None:
        counts = self.labeller.counts
        counts.attempts += 1
        try:
            label = self.labeller.label(atoms)
        except TeacherFailure:
            counts.failures += 1
            return
        if label.max_force_eV_per_A > self.config.max_force_eV_per_A:
            counts.rejected += 1
            return
        self.pending.append(labelled_atoms(atoms, label, **info))

    def _run_dynamics(self, temperature_K: float) -> Asking[None]:
        """One stretch of the trajectory and the frames that it gives; tried again where the teacher fails."""
        counts, config = self.labeller.counts, self.config
        testing = self.spec.purpose != "train"
        steps = config.test_spacing_steps if testing else config.spacing_steps
        for attempt in range(MOST_ATTEMPTS):
            rng = np.random.default_rng([*self.spec.seed, self.segment, attempt])
            counts.attempts += 1
            try:
                if self.phase is None or attempt >= RESTART_AFTER:
                    self.phase = yield from self._thermal_start(temperature_K, rng, testing)
                if self.phase is None:
                    return
                self.phase = yield from self._langevin(self.phase, temperature_K, steps, rng)
                break
            except TeacherFailure as failure:
                counts.failures += 1
                counts.last_failure = str(failure)
                counts.check(config.max_failures)
        else:
            raise TooManyFailuresError(
                f"chain {self.spec.name}: the teacher fails again and again: {counts.last_failure}"
            )
        self._keep_frames(temperature_K, rng, testing)

    def _keep_frames(self, temperature_K: float, rng: np.random.Generator, testing: bool) -> None:
        assert self.phase is not None
        origin = {"structure": self.spec.members[0], "chain": self.spec.name}
        self.atoms.positions = self.phase.positions_A
        if self.phase.cell_A is not None:
            self.atoms.set_cell(self.phase.cell_A)
        frame = self._piece(rng) if self.spec.piece_atoms else self.atoms
        label = self.phase.label if self.mover is self.labeller else self._label_of_teacher(frame)
        if label is None:
            self.phase = None
            return
        if label.max_force_eV_per_A <= self.config.max_force_eV_per_A:
            frame = labelled_atoms(frame, label, source="md", temperature_K=temperature_K, **origin)
            self.pending.append(frame)
        else:
            self.labeller.counts.rejected += 1
        if not testing:
            for atoms, label in rattle_walk(frame, self.config, self.labeller, rng):
                self.pending.append(labelled_atoms(atoms, label, source="rattle", **origin))
        self._cut()

    def _piece(self, rng: np.random.Generator) -> ase.Atoms:
        """A piece of the present frame; its molecules are those of the start, whatever came close since."""
        molecules = find_molecules(Structure.from_ase(self._start_atoms()))
        return cut_piece(self.atoms, molecules, self.spec.piece_atoms or 0, rng)

    def _label_of_teacher(self, atoms: ase.Atoms) -> Label | None:
        """What the teacher says of where its driver came; None where that is nothing to learn from."""
        counts, most = self.labeller.counts, self.config.max_force_eV_per_A
        try:
            label = self.labeller.label(atoms)
        except TeacherFailure:
            counts.failures += 1
            return None
        if label.max_force_eV_per_A <= most:
            return label
        counts.failures += 1
        counts.last_failure = (
            f"{self.spec.driver} came to forces of {label.max_force_eV_per_A:.0f} eV/A, allowed are {most:g}"
        )
        return None

    def _start_atoms(self) -> ase.Atoms:
        atoms = self.structures[self.spec.members[0]]
        amount = self.config.max_strain if self.spec.strained else 0.0
        rng = np.random.default_rng([*self.spec.seed, 1_000_003])
        return strained(atoms, random_strain(atoms.pbc, amount, rng))

    def _thermal_start(
        self, temperature_K: float, rng: np.random.Generator, testing: bool
    ) -> Asking[Phase | None]:
        """From the start structure, with twice the kinetic energy: it loses half of it to the potential.

        None where the time is over before it is equilibrated.
        """
        self.atoms = self._start_atoms()
        velocities = thermal_velocities(sampling_masses(self.atoms, self.config), 2 * temperature_K, rng)
        start = self.atoms.positions.copy()
        label = yield self.atoms
        phase = Phase(start, velocities, label)
        steps = self.spec.equilibration_steps
        if steps is None:
            steps = self.config.equilibration_steps if testing else 0
        for _ in range(steps):
            if time.monotonic() > self.ends:
                return None
            phase = yield from self._langevin(phase, temperature_K, 1, rng)
        return phase

    def _langevin(
        self, phase: Phase, temperature_K: float, steps: int, rng: np.random.Generator
    ) -> Asking[Phase]:
        config, pressure_bar = self.config, self.spec.pressure_bar
        return langevin(self.atoms, phase, temperature_K, steps, config, rng, pressure_bar)

    def _check_owner(self) -> None:
        path = self.folder / OWNER_FILE
        if not path.is_file() or path.read_text(encoding="utf-8") != self.token:
            raise CompactFFError(f"{self.folder} was taken over by another process, which goes on with it")

    def _write_shard(self) -> None:
        self._check_owner()
        if self.pending:
            write_frames(self.folder / f"shard-{self.written:07d}.xyz", self.pending)
            self.written += len(self.pending)
            self.pending = []
        content = {
            "segment": self.segment,
            "written": self.written,
            "complete": self.complete,
            **asdict(self.labeller.counts),
        }
        if self.phase is not None:
            content |= self.phase.arrays()
        with atomic_write(self.folder / STATE_FILE) as temporary:
            np.savez(temporary, **content)

    def _restore(self) -> None:
        path = self.folder / STATE_FILE
        if not path.is_file():
            return
        content = read_arrays(path)
        self.segment, self.written = int(content["segment"]), int(content["written"])
        self.complete = bool(content["complete"])
        for name in ("calls", "attempts", "failures", "rejected"):
            setattr(self.labeller.counts, name, int(content[name]))
        if "last_failure" in content:
            self.labeller.counts.last_failure = str(content["last_failure"])
        if self.spec.walk == "given" and self._exhausted() and not self.complete:
            self._ask_again()
        if "positions" in content and not self.complete:
            self._take_up(content)

    def _ask_again(self) -> None:
        """For the given structures that have no label: too many had none."""
        frames = [atoms for shard in shards_of(self.folder) for atoms in read_structures(shard)]
        self.labelled, self.segment = {int(atoms.info["structure"]) for atoms in frames}, 0
        counts = self.labeller.counts
        counts.attempts, counts.failures, counts.rejected = len(frames), 0, 0

    def _take_up(self, state: dict[str, np.ndarray]) -> None:
        cell = state.get("cell")
        self.atoms.positions = state["positions"]
        if cell is not None:
            self.atoms.set_cell(cell)
        with suppress(TeacherFailure):  # the trajectory then starts again
            if "forces" in state:
                label = Label(float(state["energy"]), state["forces"], state.get("stress"))
            else:  # a state as it was written before they were kept
                label = self.mover.label(self.atoms)
            self.phase = Phase(state["positions"], state["velocities"], label, cell)


def shards_of(folder: Path) -> list[Path]:
    """Files of a chain in the order of its frames, without those of a killed run beyond its state."""
    written = int(read_arrays(folder / STATE_FILE)["written"])
    return [path for path in sorted(folder.glob("shard-*.xyz")) if int(path.stem.split("-")[1]) < written]
