import matplotlib
import pytest
import torch

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)
