"""The training loop: one network, labelled frames, until the time or the steps are over."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from compactff_md.errors import CompactFFError
from compactff_md.students import DTYPES, StudentNetwork, cast
from compactff_md.training.batches import FrameStore, epoch_batches
from compactff_md.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from compactff_md.training.compiled import CompiledEvaluation, wants_compilation
from compactff_md.training.config import TrainConfig
from compactff_md.training.distributed import Team, join_team
from compactff_md.training.flat import FlatWeights, WeightAverage
from compactff_md.training.frames import Frame, LabelledSet
from compactff_md.training.loss import Evaluate, batch_loss, full_rate, learning_rate
from compactff_md.training.metrics import compare, energy_errors, force_errors
from compactff_md.training.optimiser import Optimiser
from compactff_md.training.preparation import (
    bound_to_data,
    continued_network,
    create_network,
    prepare_network,
    torch_settings,
)
from compactff_md.training.progress import Reporter
from compactff_md.training.shapes import Shapes, choose_shapes

CHECKPOINT = "checkpoint.pt"
SAMPLE_FRAMES = 64  # for the data-dependent start of the network
VALIDATION_FRAMES = 500  # seen while training; the test at the end takes all
# A run has diverged where so many validations in a row explain less than half of what the best one did, once
# one of them explained that much.
LOST_VALIDATIONS = 3
LEARNED_R2 = 0.5
VALIDATION_SHARE = 0.1  # of the time, at most
SHARE_EVERY = 10  # steps between two looks at the first process' clock


@dataclass(frozen=True)
class TrainResult:
    """The trained student (averaged weights, evaluation mode, on the CPU), and how it came about.

    ``history`` has one row a validation: step, epoch, elapsed_s, learning_rate, train_force_rmse and
    valid_force_rmse in meV/A, valid_force_mae, valid_force_r2, valid_energy_rmse in meV/atom.
    """

    network: StudentNetwork
    history: list[dict[str, float]]
    steps: int
    epochs: int
    elapsed_s: float
    resumed_at_step: int


def train(
    config: TrainConfig,
    train_set: LabelledSet,
    valid_set: LabelledSet,
    out: str | Path,
    reporter: Reporter | None = None,
    network: StudentNetwork | None = None,
) -> TrainResult:
    """Train a student, or continue where the checkpoint in ``out`` stands.

    The student that comes out has the averaged weights of the last step, not of the best validation:
    the learning rate ends at zero, where the two differ by noise only.

    Parameters
    ----------
    config
        How; its ``size`` and ``architecture`` are not used where a network is given, which must not be
        together with ``start_from``.
    train_set, valid_set
        Checked frames (:func:`compactff_md.training.dataset.load_sets`).
    out
        Folder for the checkpoint; made if missing. It must belong to this run
        (:mod:`compactff_md.training.runs` sees to that).
    reporter
        Shown the fraction done, after every step.
    network
        An untrained network; its shift and scale are set from the data.

    Raises
    ------
    CompactFFError
        If the training diverges, or the checkpoint is unreadable or of another network.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    team = join_team(config.device)
    with torch_settings(config, train_set, team):
        if network is None and config.start_from is not None:
            network = continued_network(config, train_set)
        else:
            network = network or create_network(config, train_set)
            prepare_network(network, train_set)
        trainer = Trainer(config, train_set, valid_set, network, folder, team, reporter or Reporter())
        return trainer.run()


class Trainer:
    """One run's tensors and clock; see :func:`train`."""

    def __init__(
        self,
        config: TrainConfig,
        train_set: LabelledSet,
        valid_set: LabelledSet,
        network: StudentNetwork,
        folder: Path,
        team: Team,
        reporter: Reporter,
    ) -> None:
        self.config, self.team, self.reporter = config, team, reporter
        self.checkpoint = folder / CHECKPOINT
        dtype = DTYPES[config.dtype]
        self.network = cast(network, dtype).to(team.device).train()
        self.store = FrameStore(train_set.frames, network, team.device, dtype)
        self.train_frames = train_set.frames
        self.valid_frames = _spread(valid_set.frames, VALIDATION_FRAMES)
        self.valid_store = FrameStore(self.valid_frames, network, team.device, dtype)
        self.state = TrainState()
        self.resumed_at = 0
        self._restore_or_start()
        self.started = time.monotonic() - self.state.elapsed_s
        self.evaluate: Evaluate = self.network.energies_and_gradients
        self.shapes = self._choose_shapes(network)
        if self.shapes is not None and not self.state.finished:
            self.reporter.start("compiling the training step", 1.0)
            self.evaluate = CompiledEvaluation(self.network, self.shapes, config.dtype, self.reporter)
            self.reporter.finish()
            self._begin_late()
        self.squares = torch.zeros((), device=team.device)
        self.squares_count = 0

    def _restore_or_start(self) -> None:
        resume = self.checkpoint.is_file()
        content = None
        if resume:
            self.state, content = load_checkpoint(self.checkpoint, self.team.device)
            self._load_weights(content)
            self.resumed_at = self.state.step
            # Batches of one process; others may have been at work before.
            self.state.position = self.state.position * self.state.world // self.team.world
        else:
            if self.config.start_from is None:
                sample = self.store.batch(_sample(self.store, self.config.batch_atoms))
                self.network.initialise_from_data(sample.vectors, sample.neighbours, sample.species)
            self.team.share_tensors([t.data for t in self.network.state_dict(keep_vars=True).values()])
        self.state.world = self.team.world
        self.averaged = copy.deepcopy(self.network)
        self.weights = FlatWeights(self.network)
        config = self.config
        self.optimiser = Optimiser(self.network, self.weights, config.optimiser, config.weight_decay)
        self.average = WeightAverage(self.weights, self.config.ema_decay)
        if content is not None:
            self.optimiser.load(content["optimiser"])
            self.average.vector.copy_(content["average"])
        self.team.wait()

    def _begin_late(self) -> None:
        """Count the time of compiling, but not to the warm-up."""
        if self.config.minutes is not None and self.state.step == 0:
            self.state.elapsed_s = self.team.share(time.monotonic() - self.started)
            self.state.begun = min(1.0, self.state.elapsed_s / (60.0 * self.config.minutes))

    def _choose_shapes(self, network: StudentNetwork) -> Shapes | None:
        """Of the batches, where the step is to be compiled."""
        config, store = self.config, self.store
        shapes = choose_shapes(store.sizes, store.widths, config.batch_size, config.batch_atoms)
        return shapes if wants_compilation(config, network, shapes) else None

    def _load_weights(self, content: dict) -> None:
        try:
            self.network.load_state_dict(content["weights"])
        except RuntimeError as error:
            raise CompactFFError(f"{self.checkpoint} is of another student: {error}") from error

    def run(self) -> TrainResult:
        """Train to the end, or return at once if the checkpoint says that it was reached."""
        self.reporter.start("training", 1.0)
        last_save = last_validation = time.monotonic()
        wait_s = self.config.validate_seconds
        while not self.state.finished:
            for batch in self._rest_of_epoch():
                self._step(batch)
                now = time.monotonic()
                if now - last_validation >= wait_s:
                    self._validate()
                    last_validation = time.monotonic()
                    wait_s = max(self.config.validate_seconds, (last_validation - now) / VALIDATION_SHARE)
                if now - last_save >= self.config.checkpoint_seconds:
                    self._save()
                    last_save = time.monotonic()
                self.reporter.update(self.progress)
                self.state.finished = self.progress >= 1.0
                if self.state.finished:
                    self._validate()
                    self._save()
                    break
            else:
                self.state.epoch += 1
                self.state.position = 0
        self.reporter.finish()
        return self._result()

    def _rest_of_epoch(self) -> list[np.ndarray]:
        config, team, store = self.config, self.team, self.store
        plan = config.seed, self.state.epoch, team.rank, team.world
        if self.shapes is None:
            batches = epoch_batches(store.sizes, config.batch_size, config.batch_atoms, *plan)
        else:  # as many frames as the rows hold
            classes = self.shapes.classes(store.widths)
            batches = epoch_batches(store.sizes, len(store), self.shapes.rows, *plan, classes)
        self.batches_per_epoch = len(batches)
        self.progress = self._progress()
        return batches[self.state.position :]

    def _progress(self) -> float:
        """Fraction of the run that is done: by steps or by time, whichever is further."""
        config, state = self.config, self.state
        parts = [0.0]
        if config.max_steps is not None:
            parts.append(state.step / config.max_steps)
        if config.epochs is not None:
            parts.append((state.epoch + state.position / self.batches_per_epoch) / config.epochs)
        if config.minutes is not None:
            parts.append(state.elapsed_s / (60.0 * config.minutes))
        return min(1.0, max(parts))

    def _step(self, chosen: np.ndarray) -> None:
        """One batch forward, backward, and into the weights."""
        config, state = self.config, self.state
        batch = self.store.batch(chosen)
        loss, square = batch_loss(self.evaluate, batch, config, self.progress, self.store.with_stress)
        self.weights.gradient.zero_()
        loss.backward()
        self.team.average(self.weights.gradient)
        self.weights.clip(config.gradient_clip)
        self.optimiser.step(learning_rate(config, self.progress, self.state.begun))
        self.average.update(state.step)
        self.squares += square
        self.squares_count += 1
        state.step += 1
        state.position += 1
        self._tick()

    def _tick(self) -> None:
        """Read the clock; with several processes all follow the first one's, now and then."""
        elapsed = time.monotonic() - self.started
        timed = self.config.minutes is not None and self.team.world > 1
        if timed and self.state.step % SHARE_EVERY == 0:
            elapsed = self.team.share(elapsed)
        if not timed or self.state.step % SHARE_EVERY == 0:
            self.state.elapsed_s = max(self.state.elapsed_s, elapsed)
        self.progress = self._progress()

    def _validate(self) -> None:
        """Add a row to the history; stop where the loss is not a number any more."""
        train_mse = float(self.squares) / max(1, self.squares_count)
        if not math.isfinite(train_mse):
            raise self._diverged("its loss is not finite")
        self.squares.zero_()
        self.squares_count = 0
        if not self.team.leads:
            return
        self.average.copy_to(self.averaged)
        result = compare(self.averaged.eval(), self.valid_frames, self.valid_store)
        forces = force_errors(result.forces_eV_per_A, result.predicted_forces_eV_per_A)
        self.state.history.append(
            {
                "step": self.state.step,
                "epoch": self.state.epoch,
                "elapsed_s": self.state.elapsed_s,
                "learning_rate": learning_rate(self.config, self.progress, self.state.begun),
                "train_force_rmse": 1e3 * train_mse**0.5,
                "valid_force_rmse": forces["rmse_meV_per_A"],
                "valid_force_mae": forces["mae_meV_per_A"],
                "valid_force_r2": forces["r2"],
                "valid_energy_rmse": energy_errors(result)["rmse_meV_per_atom"],
            }
        )
        shown = {"force_RMSE_meV/A": forces["rmse_meV_per_A"], "R2": forces["r2"]}
        self.reporter.update(self.progress, **shown)
        if is_lost([row["valid_force_r2"] for row in self.state.history]):
            raise self._diverged(f"R2 of the validation fell to {forces['r2']:.3f} and stays there")

    def _diverged(self, how: str) -> CompactFFError:
        return CompactFFError(
            f"the training diverged before step {self.state.step}: {how}. Run it again in another folder "
            f"with a lower learning_rate (now {full_rate(self.config):g}); the last checkpoint is kept"
        )

    def _save(self) -> None:
        if not self.team.leads or not math.isfinite(float(self.squares)):
            return
        # The clock in `state` stays as the processes share it; the file gets the present time.
        elapsed = max(self.state.elapsed_s, time.monotonic() - self.started)
        save_checkpoint(
            self.checkpoint,
            replace(self.state, elapsed_s=elapsed),
            self.network.state_dict(),
            self.average.vector,
            self.optimiser.state(),
        )

    def _result(self) -> TrainResult:
        state = self.state
        self.average.copy_to(self.averaged)
        network = self.averaged.cpu().eval()
        bound_to_data(network, self.train_frames)
        return TrainResult(network, state.history, state.step, state.epoch, state.elapsed_s, self.resumed_at)


def is_lost(r2: list[float]) -> bool:
    """Whether the last validations are far below the best of those before."""
    last, before = r2[-LOST_VALIDATIONS:], r2[:-LOST_VALIDATIONS]
    best = max(before, default=0.0)
    return best >= LEARNED_R2 and max(last) < 0.5 * best


def _spread(frames: tuple[Frame, ...], most: int) -> tuple[Frame, ...]:
    stride = max(1, math.ceil(len(frames) / most))
    return frames[::stride]


def _sample(store: FrameStore, most_atoms: int) -> np.ndarray:
    """Evenly spaced frames, as many as a batch may hold; one at least."""
    stride = max(1, len(store) // SAMPLE_FRAMES)
    chosen = np.arange(0, len(store), stride)[:SAMPLE_FRAMES]
    fitting = np.cumsum(np.asarray(store.sizes)[chosen]) <= most_atoms
    return chosen[: max(1, int(fitting.sum()))]
