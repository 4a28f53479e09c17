import numpy as np
import pytest
from matplotlib.image import imread

from compactff_md.training.plots import plot_demo, plot_report

HISTORY = [
    {"elapsed_s": 10.0 * k, "train_force_rmse": 500.0 / k, "valid_force_rmse": 550.0 / k} for k in range(1, 6)
]


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    forces = rng.normal(size=(9000, 3))
    return {"test 300 K": (forces, forces + 0.02), "test 600 K": (2 * forces, 2 * forces - 0.05)}


def test_the_report_is_a_picture(tmp_path, pairs):
    plot_report(tmp_path / "report.png", pairs, HISTORY, "a student")
    picture = imread(tmp_path / "report.png")
    assert picture.shape[0] > 400 and picture.std() > 0.05


def test_the_demo_is_a_picture(tmp_path, pairs):
    time_ps = np.linspace(0, 10, 200)
    energy = -1078.0 + 1e-3 * np.random.default_rng(0).normal(size=200)
    plot_demo(tmp_path / "demo.png", pairs, time_ps, energy, "aspirin")
    assert imread(tmp_path / "demo.png").std() > 0.05


def test_nothing_to_compare_is_drawn_too(tmp_path):
    plot_report(tmp_path / "report.png", {}, HISTORY, "")
    assert (tmp_path / "report.png").is_file()
