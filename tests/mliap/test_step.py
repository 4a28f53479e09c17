"""What is read of a step, where its arrays would be on a GPU."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from compactff_md.mliap import step as module
from compactff_md.structure import Structure
from mliap_builders import PlainData, Rank

ELEMENTS = ["H", "O"]


def ghosts_alone(owned=()):
    """A rank that sees three atoms, and has none of them in its list."""
    structure = Structure([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 1.5, 0.0]], [8, 1, 1])
    return PlainData(Rank(structure, owned, 0.0, 2.0, 5.0), ELEMENTS, 5.0, listed=())


@pytest.fixture
def on_gpu(monkeypatch):
    """Tensors that know their device and nothing else; whether two are equal is said to be no."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    given: list[torch.Tensor] = []

    def on_device(array):
        given.append(torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device="cuda"))
        return given[-1]

    def synchronise(like):
        assert any(like is array for array in given), "something was copied before LAMMPS had finished"

    monkeypatch.setattr(module, "on_device", on_device)
    monkeypatch.setattr(module, "synchronise", synchronise)
    monkeypatch.setattr(module, "check_elements", lambda kinds, elements, num_known: False)
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    with mode:
        yield


@pytest.mark.parametrize("owned", [(), (0,)])
@pytest.mark.usefixtures("on_gpu")
def test_a_rank_with_ghosts_and_an_empty_list_has_everything_on_the_gpu(owned):
    read = module.read_step(ghosts_alone(owned), ELEMENTS, 2, 1)
    assert read.num_owned == 0 and read.num_atoms == 3
    tensors = [value for value in vars(read).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 7 and {tensor.device.type for tensor in tensors} == {"cuda"}


def test_the_empty_list_is_the_same_on_the_host():
    read = module.read_step(ghosts_alone(), ELEMENTS, 2, 1)
    assert read.species.dtype == torch.int64 and read.order is None
    np.testing.assert_array_equal(read.species, [1, 0, 0])
