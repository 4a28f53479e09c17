import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compactff_md.errors import CompactFFError
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import create
from compactff_md.training.batches import FrameStore
from compactff_md.training.dataset import load_sets
from compactff_md.training.loop import CHECKPOINT, _sample, is_lost, train
from compactff_md.training.metrics import compare, summary
from compactff_md.training.progress import Reporter


class KilledError(Exception):
    pass


class KillAt(Reporter):
    """Stops the run after so many steps, as a killed process would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def update(self, done: float, **numbers: float) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KilledError


def weights(result) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in result.network.parameters()])


def test_ten_frames_are_learned(ethanol_sets, quick_config, tmp_path):
    config = quick_config(steps=200)
    result = train(config, *ethanol_sets, tmp_path)
    assert result.steps == 200
    assert result.network.energy_scale_eV > 0.5
    assert result.history[-1]["train_force_rmse"] < 500  # the labels' own is about 1,200 meV/A
    assert result.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    start = train(quick_config(steps=1), *ethanol_sets, tmp_path / "start").history[-1]["train_force_rmse"]
    assert start > 900


def test_isolated_atoms_keep_their_energies(ethanol_sets, quick_config, tmp_path):
    network = train(quick_config(), *ethanol_sets, tmp_path).network
    assert network.anchored
    far = torch.full((3, 1, 3), 1000.0)
    alone = torch.arange(3)
    energies, _ = network.energies_and_gradients(far, alone.unsqueeze(1), alone)
    expected = [ethanol_sets[0].isolated_eV[symbol] for symbol in network.elements]
    assert energies.tolist() == pytest.approx(expected, abs=1e-5)


def test_energies_level_off_beyond_those_of_the_data_only(ethanol_sets, quick_config, tmp_path):
    network = train(quick_config(), *ethanol_sets, tmp_path).network
    assert network.bounded
    bounded = compare(network, ethanol_sets[0].frames)
    network.bounded = False
    free = compare(network, ethanol_sets[0].frames)
    assert (bounded.predicted_forces_eV_per_A == free.predicted_forces_eV_per_A).all()
    assert (bounded.predicted_energies_eV == free.predicted_energies_eV).all()
    network.bounded = True
    first = ethanol_sets[0].frames[0].structure
    packed = Structure(0.2 * first.positions_A, first.numbers)
    table = neighbour_table(packed, network.cutoff_A)
    vectors = table.vectors(torch.from_numpy(packed.positions_A)).float()
    species = network.species_of(torch.from_numpy(packed.numbers))
    raw = network.network_energies(vectors, table.neighbours, species).detach()
    lowest, highest, room = network.energy_bounds.tolist()
    levelled = network.level(raw)[0]
    assert float(levelled.min()) >= lowest - 0.25 * room - 1e-5
    assert float(levelled.max()) <= highest + room + 1e-5


def test_stress_is_learned(copper_frames, quick_config, tmp_path):
    config = quick_config(steps=250, batch_size=4)
    sets = load_sets([copper_frames[:10]], copper_frames[10:], config)
    before = summary(compare(train(quick_config(steps=1), *sets, tmp_path / "a").network, sets[0].frames))
    after = summary(compare(train(config, *sets, tmp_path / "b").network, sets[0].frames))
    assert after["virial"]["rmse_meV_per_atom"] < 0.3 * before["virial"]["rmse_meV_per_atom"]


def test_the_same_seed_gives_the_same_weights(ethanol_sets, quick_config, tmp_path):
    one, two = (train(quick_config(), *ethanol_sets, tmp_path / name) for name in "ab")
    other = train(quick_config(seed=1), *ethanol_sets, tmp_path / "c")
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(ethanol_sets, quick_config, tmp_path):
    config = quick_config(steps=25, checkpoint_seconds=0, batch_size=4)
    whole = train(config, *ethanol_sets, tmp_path / "whole")
    for steps in (4, 9):  # within and across epochs of three batches
        with pytest.raises(KilledError):
            train(config, *ethanol_sets, tmp_path / "parts", KillAt(steps))
    parts = train(config, *ethanol_sets, tmp_path / "parts")
    assert parts.resumed_at_step == 13
    assert torch.equal(weights(whole), weights(parts))
    assert whole.history[-1]["valid_force_rmse"] == parts.history[-1]["valid_force_rmse"]


def test_a_finished_run_is_not_trained_again(ethanol_sets, quick_config, tmp_path):
    first = train(quick_config(), *ethanol_sets, tmp_path)
    again = train(quick_config(), *ethanol_sets, tmp_path)
    assert again.steps == again.resumed_at_step == 20
    assert torch.equal(weights(first), weights(again))


def test_a_time_limit_anneals_to_zero_over_interruptions(ethanol_sets, quick_config, tmp_path):
    config = quick_config(steps=None, minutes=3 / 60, checkpoint_seconds=0.2, validate_seconds=0.5)
    with pytest.raises(KilledError):
        train(config, *ethanol_sets, tmp_path, KillAt(10))
    result = train(config, *ethanol_sets, tmp_path)
    rates = [row["learning_rate"] for row in result.history]
    times = [row["elapsed_s"] for row in result.history]
    assert times == sorted(times)
    assert 3.0 <= result.elapsed_s < 5.0
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_epochs_count_batches(ethanol_sets, quick_config, tmp_path):
    result = train(quick_config(steps=None, epochs=3, batch_size=4), *ethanol_sets, tmp_path)
    assert result.steps == 9


def test_another_number_of_processes_goes_on_at_the_same_progress(ethanol_sets, quick_config, tmp_path):
    config = quick_config(steps=None, epochs=2, batch_size=1, checkpoint_seconds=0)
    with pytest.raises(KilledError):
        train(config, *ethanol_sets, tmp_path, KillAt(6))
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    done = content["state"]["position"]
    assert content["state"]["world"] == 1 and done > 2
    content["state"] |= {"world": 2, "position": done // 2}  # as two processes would have left it
    torch.save(content, tmp_path / CHECKPOINT)
    assert train(config, *ethanol_sets, tmp_path).steps == done + 20 - 2 * (done // 2)


def test_validation_takes_a_tenth_of_the_time(ethanol_sets, quick_config, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("compactff_md.training.loop.time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Ticking(Reporter):
        def update(self, done: float, **numbers: float) -> None:
            clock[0] += 10.0 if numbers else 1.0  # a validation and a step

    result = train(quick_config(steps=250, validate_seconds=20), *ethanol_sets, tmp_path, Ticking())
    assert [row["step"] for row in result.history] == [21, 121, 221, 250]


def test_the_first_look_at_the_data_is_no_larger_than_a_batch(ethanol_sets):
    network = create("ultra-tiny", ["H", "C", "O"])
    store = FrameStore(ethanol_sets[0].frames, network, torch.device("cpu"), torch.float32)
    assert [len(_sample(store, most)) for most in (1, 9, 30, 4096)] == [1, 1, 3, 10]


def test_divergence_is_told(ethanol_sets, quick_config, tmp_path):
    config = quick_config(learning_rate=1e30, warmup=0.0, gradient_clip=1e30)
    with pytest.raises(CompactFFError, match=r"diverged.*lower learning_rate"):
        train(config, *ethanol_sets, tmp_path)


def test_validations_that_stay_bad_tell_divergence():
    assert not is_lost([]) and not is_lost([0.9, 0.9, 0.9]) and not is_lost([-1.0, -2.0, -1.0, -1.0])
    assert not is_lost([0.3, 0.8, 0.1, 0.0, 0.79])  # a spike
    assert not is_lost([0.8, 0.2, 0.1])  # not long enough
    assert not is_lost([0.05, 0.01, -0.1, 0.0])  # nothing was learned yet
    assert is_lost([0.3, 0.8, 0.1, 0.0, -5.0])


def test_a_run_that_stays_lost_ends(ethanol_sets, quick_config, tmp_path, monkeypatch):
    monkeypatch.setattr("compactff_md.training.loop.is_lost", lambda r2: len(r2) >= 2)
    with pytest.raises(CompactFFError, match=r"diverged.*R2 of the validation fell to.*now 0\.01\)"):
        train(quick_config(steps=50, validate_seconds=1e-3), *ethanol_sets, tmp_path)


def test_a_damaged_or_foreign_checkpoint_is_refused(ethanol_sets, quick_config, tmp_path):
    train(quick_config(steps=2), *ethanol_sets, tmp_path)
    with pytest.raises(CompactFFError, match="is of another student"):
        train(quick_config(steps=2, size="tiny"), *ethanol_sets, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(CompactFFError, match=r"is damaged, or no checkpoint.*remove"):
        train(quick_config(steps=2), *ethanol_sets, tmp_path)


SCRIPT = """
import sys, torch
from pathlib import Path
from ase.io import read
from compactff_md.training.config import TrainConfig
from compactff_md.training.recipe_files import make_config
from compactff_md.training.dataset import load_sets
from compactff_md.training.loop import train

data, out = Path(sys.argv[1]), Path(sys.argv[2])
frames = read(data, ":")
for name, batch, length in (("steps", int(sys.argv[3]), {"steps": 12}), ("time", 4, {"minutes": 0.02})):
    fields = dict(size="ultra-tiny", batch_size=batch, device="cpu", threads=1, dtype="float64", warmup=0.0)
    config = make_config(TrainConfig, {**fields, **length})
    sets = load_sets([frames[:32]], frames[32:], config)
    result = train(config, *sets, out / name)
    torch.save([p.detach() for p in result.network.parameters()], out / name / "weights.pt")
"""


def run_script(folder: Path, data: Path, batch: int, processes: int) -> list[torch.Tensor]:
    """Weights after twelve steps; after that the script trains for a little more than a second."""
    (folder / "script.py").write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launch if processes > 1 else []), "script.py", str(data), "out", str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "out" / "time" / CHECKPOINT).is_file()
    return torch.load(folder / "out" / "steps" / "weights.pt")


@pytest.mark.slow
def test_two_processes_equal_one_with_batches_twice_as_large(ethanol_files, tmp_path):
    results = []
    for processes, batch in ((1, 8), (2, 4)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        results.append(run_script(folder, ethanol_files["train"], batch, processes))
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
