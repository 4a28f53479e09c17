"""Training that goes on from a student: what it keeps, what the data decide, what is refused."""

import shutil

import numpy as np
import pytest
import torch

import compactff_md
from compactff_md.artifact import describe, save_student
from compactff_md.errors import CompactFFError
from compactff_md.students import DTYPES
from compactff_md.training.dataset import load_sets
from compactff_md.training.distill import train_from_files
from compactff_md.training.frames import LabelledSet
from compactff_md.training.loop import train
from compactff_md.training.metrics import compare, energy_errors, force_errors
from compactff_md.training.preparation import continued_network

START = "organic-ultra-tiny"


def error_of(network, data) -> float:
    found = compare(network.eval(), data.frames)
    return force_errors(found.forces_eV_per_A, found.predicted_forces_eV_per_A)["rmse_meV_per_A"]


@pytest.fixture
def without_isolated(ethanol_sets):
    return LabelledSet(ethanol_sets[0].frames)


def test_the_student_itself_is_where_it_starts(without_isolated, quick_config):
    """Of another teacher: forces stay, energies move by a constant for each element."""
    network, given = (
        continued_network(quick_config(start_from=START), without_isolated),
        compactff_md.load(START),
    )
    assert network.elements == given.elements and not network.bounded
    found, before = (
        compare(network.eval(), without_isolated.frames),
        compare(given.network, without_isolated.frames),
    )
    assert np.abs(found.predicted_forces_eV_per_A - before.predicted_forces_eV_per_A).max() < 1e-5
    assert np.abs(before.energies_eV - before.predicted_energies_eV).min() > 100.0
    assert abs((found.energies_eV - found.predicted_energies_eV).mean()) < 1e-3
    assert energy_errors(found)["rmse_meV_per_atom"] < 50
    moved = network.energy_shift_eV - given.network.offsets_eV()
    absent = [k for k, symbol in enumerate(network.elements) if symbol not in ("H", "C", "O")]
    assert moved[absent].abs().max() < 1e-9


def test_energies_of_isolated_atoms_are_kept(ethanol_sets, quick_config, tmp_path):
    given = compactff_md.load(START)
    network = train(quick_config(start_from=START, steps=3), *ethanol_sets, tmp_path).network
    assert network.anchored and network.bounded
    count = len(network.elements)
    alone = torch.arange(count)
    far = torch.full((count, 1, 3), 1000.0)
    energies = dict(zip(network.elements, network(far, alone.unsqueeze(1), alone).tolist(), strict=True))
    for symbol, energy in ethanol_sets[0].isolated_eV.items():
        assert energies[symbol] == pytest.approx(energy, abs=1e-5)
    own = given.network.isolated_energies() * given.network.energy_scale_eV + given.network.offsets_eV()
    assert energies["S"] == pytest.approx(own[network.elements.index("S")].item(), abs=1e-5)


def test_it_is_ahead_of_one_that_starts_from_nothing(ethanol_sets, quick_config, tmp_path):
    started = train(quick_config(start_from=START, steps=60), *ethanol_sets, tmp_path / "a").network
    fresh = train(quick_config(steps=60), *ethanol_sets, tmp_path / "b").network
    assert error_of(started, ethanol_sets[1]) < 0.5 * error_of(fresh, ethanol_sets[1])


@pytest.mark.parametrize("variant", ["moments-local", "moments-second", "moments-directed", "painn"])
def test_a_variant_goes_on_by_its_own_name(ethanol_sets, quick_config, tmp_path, variant):
    config = quick_config(architecture=variant, steps=2)
    network = train(config, *ethanol_sets, tmp_path / "first").network
    start = tmp_path / "start.safetensors"
    save_student(start, network, describe(network, seed=0, teacher={"name": "t"}, data={"train": 1}))
    more = quick_config(architecture=variant, steps=1, start_from=str(start))
    assert train(more, *ethanol_sets, tmp_path / "more").network.hyperparameters == network.hyperparameters


def test_a_finished_run_starts_another(ethanol_files, quick_config, tmp_path):
    """By its folder; the file then says where it came from, and another student there is another run."""
    first = train_from_files(quick_config(), [ethanol_files["train"]], tmp_path / "first")
    start = shutil.copytree(first.folder, tmp_path / "start")
    config = quick_config(start_from=str(start), steps=2)
    second = train_from_files(config, [ethanol_files["train"]], tmp_path / "second")
    data = compactff_md.load(second.student).metadata.data
    assert data["start_from"] == "start" and len(data["start_from_checksum"]) == 64
    assert train_from_files(config, [ethanol_files["train"]], tmp_path / "second").already_finished
    shutil.copy(compactff_md.load(START).path, start / "student.safetensors")
    with pytest.raises(CompactFFError, match="start_from_checksum is"):
        train_from_files(config, [ethanol_files["train"]], tmp_path / "second")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start_from": "nowhere"}, "nowhere"),
        ({"start_from": START, "size": "tiny"}, "size is tiny, but organic-ultra-tiny has ultra-tiny"),
        ({"start_from": START, "cutoff_A": 6.0}, "cutoff_A is 6.0, but organic-ultra-tiny has 5.0"),
        ({"start_from": START, "architecture": "painn"}, "architecture is painn"),
        ({"start_from": START, "architecture": "moments-local"}, "architecture is moments-local"),
        ({"start_from": START, "elements": ["H", "C", "O", "Fe"]}, "asked for are Fe, too"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message, ethanol_sets, quick_config, tmp_path):
    with pytest.raises(CompactFFError, match=message):
        train(quick_config(**fields), *ethanol_sets, tmp_path)


def test_elements_that_it_does_not_know(copper_frames, quick_config, tmp_path):
    sets = load_sets([copper_frames[:8]], copper_frames[8:], quick_config())
    with pytest.raises(CompactFFError, match="which knows H, C, N, O, F, P, S, Cl; asked for are Cu, too"):
        train(quick_config(start_from=START), *sets, tmp_path)


def test_the_precision_may_change(ethanol_sets, quick_config, tmp_path):
    train_set, valid_set = ethanol_sets
    first = train(quick_config(steps=2, dtype="float64"), *ethanol_sets, tmp_path / "a").network
    save_student(tmp_path / "a.safetensors", first, describe(first))
    for dtype in ("float32", "float64"):
        config = quick_config(steps=2, dtype=dtype, start_from=str(tmp_path / "a.safetensors"))
        network = train(config, train_set, valid_set, tmp_path / dtype).network
        assert network.dtype_like().dtype == DTYPES[dtype]
        assert network.energy_shift_eV.dtype == DTYPES["float64"]
