import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from compactff_md.training.dataset import read_labelled
from compactff_md.training.loop import train
from compactff_md.training.metrics import compare
from compactff_md.training.uncertainty import (
    environments,
    fit_uncertainty,
    force_error,
    k_means,
    quality,
    roc_auc,
    tell,
)

DATA = Path(__file__).parents[1] / "data"


def test_clusters_are_found_where_they_are():
    rng = np.random.default_rng(0)
    true = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = np.concatenate([c + rng.normal(0, 0.1, (50, 2)) for c in true])
    centres, labels = k_means(points, 3, rng)
    assert sorted(centres.round().tolist()) == sorted(true.tolist())
    assert sorted(np.bincount(labels)) == [50, 50, 50]
    same, _ = k_means(np.ones((4, 2)), 3, rng)
    assert same.shape == (3, 2) and np.allclose(same, 1)


def test_the_area_under_the_curve_counts_pairs():
    rng = np.random.default_rng(1)
    score, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert roc_auc(score, positive) == pytest.approx(np.mean(pairs))
    assert roc_auc(score, np.zeros(40, dtype=bool)) is None


def test_a_perfect_uncertainty_has_perfect_marks():
    error = np.random.default_rng(2).lognormal(0, 1, 500)
    found = quality(error, error)
    assert found["roc_auc"] == found["spearman"] == pytest.approx(1.0)
    assert found["calibration"] == pytest.approx(1.0)
    assert quality(np.ones(500), error)["spearman"] is None


@pytest.fixture(scope="module")
def trained(ethanol_sets, tmp_path_factory):
    from compactff_md.training.config import TrainConfig
    from compactff_md.training.recipe_files import make_config

    config = make_config(TrainConfig, {"size": "ultra-tiny", "steps": 30, "threads": 1})
    return train(config, *ethanol_sets, tmp_path_factory.mktemp("run")).network


def test_it_is_right_on_average_where_it_was_calibrated_and_grows_far_away(trained, ethanol_sets):
    learned, held_out = ethanol_sets
    compared = compare(trained, held_out.frames)
    made = fit_uncertainty(trained, learned.frames, compared, seed=1)
    told, error = tell(made, trained, held_out.frames), force_error(compared)
    assert ((error / told) ** 2).mean() == pytest.approx(1.0, abs=0.05)
    alone = copy.deepcopy(made)  # the distance, without the weights
    alone.load_state_dict({**made.state_dict(), "weights": torch.zeros_like(made.weights)})
    # No area under the curve: of these five frames one atom is above three medians.
    marks = [quality(tell(part, trained, held_out.frames), error) for part in (alone, made)]
    assert marks[1]["spearman"] > marks[0]["spearman"]
    unseen = read_labelled(DATA / "ethanol_test.xyz").frames
    found = quality(tell(made, trained, unseen), force_error(compare(trained, unseen)))
    assert found["spearman"] > 0.3 and found["calibration"] == pytest.approx(1.0, abs=0.3)
    assert (told < float(made.usual_eV_per_A)).mean() == pytest.approx(0.99, abs=0.02)
    seen = environments(trained, held_out.frames)
    again = fit_uncertainty(trained, learned.frames, compared, seed=1)
    for name, value in made.state_dict().items():
        assert np.array_equal(value.numpy(), again.state_dict()[name].numpy()), name
    near = made.distance(*_tensors(seen.features, seen.species)).mean()
    far = made.distance(*_tensors(seen.features + 1.0, seen.species)).mean()
    assert float(far) > 3 * float(near)


def _tensors(features, species):
    return torch.from_numpy(features).float(), torch.from_numpy(species)


def test_an_element_that_no_frame_had_is_far_away(ethanol_sets, tmp_path):
    from compactff_md.training.config import TrainConfig
    from compactff_md.training.recipe_files import make_config

    config = make_config(
        TrainConfig, {"size": "ultra-tiny", "steps": 2, "threads": 1, "elements": ["H", "C", "O", "S"]}
    )
    learned, held_out = ethanol_sets
    isolated = {**learned.isolated_eV, "S": -10.0}
    sets = [type(part)(part.frames, isolated) for part in (learned, held_out)]
    network = train(config, *sets, tmp_path).network
    compared = compare(network, held_out.frames)
    made = fit_uncertainty(network, learned.frames, compared)
    seen = environments(network, held_out.frames)
    strange = made.distance(*_tensors(seen.features, np.full(len(seen.species), 3)))
    assert float(strange.min()) > 10 * float(made.distance(*_tensors(seen.features, seen.species)).max())


def test_blocks_of_atoms_give_the_same(trained, ethanol_sets, monkeypatch):
    learned, held_out = ethanol_sets
    compared = compare(trained, held_out.frames)
    whole = fit_uncertainty(trained, learned.frames, compared)
    monkeypatch.setattr("compactff_md.training.uncertainty.BLOCK_ATOMS", 7)
    parts = fit_uncertainty(trained, learned.frames, compared)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], rtol=1e-5), name
    monkeypatch.setattr("compactff_md.training.uncertainty.MOST_ATOMS", 18)
    asked = []
    monkeypatch.setattr(
        "compactff_md.training.uncertainty.environments",
        lambda network, frames: asked.append(len(frames)) or environments(network, frames),
    )
    fit_uncertainty(trained, learned.frames, compared)
    assert asked[0] == 2
