import torch

from compactff_md.students.moment_layer import MomentsConfig
from compactff_md.students.moments import MomentsStudent
from compactff_md.training.batches import FrameStore
from compactff_md.training.compiled import CompiledEvaluation, wants_compilation
from compactff_md.training.config import TrainConfig
from compactff_md.training.progress import Reporter
from compactff_md.training.shapes import Shapes


class Notes(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def small_network():
    torch.manual_seed(0)
    config = MomentsConfig(radial=4, channels=8, mixed=8, triples=4, hidden=16, interactions=1)
    return MomentsStudent(["H", "C", "O"], 5.0, config).train()


def gradients_of(network, evaluate, batch):
    network.zero_grad()
    energies, gradients = evaluate(batch.vectors, batch.neighbours, batch.species)
    (energies.square().sum() + gradients.square().sum()).backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def store_of(frames, network):
    return FrameStore(frames, network, torch.device("cpu"), torch.float32)


def test_compiled_equals_eager_also_in_the_derivative_by_the_weights(ethanol_sets):
    network = small_network()
    store = store_of(ethanol_sets[0].frames[:6], network)
    shapes = Shapes(rows=36, widths=(7, 8))
    notes = Notes()
    evaluate = CompiledEvaluation(network, shapes, "float32", notes)
    assert evaluate.compiled is not None and not notes.notes
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    evaluate.network = None  # were it asked, that would show
    for count in (4, 2):
        batch = store.batch(torch.arange(count).numpy())
        assert shapes.room_for(*batch.neighbours.shape) == (36, 8)
        mine = gradients_of(network, evaluate, batch)
        expected = gradients_of(network, network.energies_and_gradients, batch)
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)


def test_a_batch_that_no_shape_holds_goes_without(ethanol_sets):
    network = small_network()
    evaluate = CompiledEvaluation(network, Shapes(rows=9, widths=(8,)), "float32", Notes())
    batch = store_of(ethanol_sets[0].frames[:2], network).batch(torch.arange(2).numpy())
    energies, gradients = evaluate(batch.vectors, batch.neighbours, batch.species)
    assert energies.shape == (18,) and gradients.shape == batch.vectors.shape


def test_a_compiler_that_fails_is_told_and_done_without(ethanol_sets, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    network, notes = small_network(), Notes()
    batch = store_of(ethanol_sets[0].frames[:2], network).batch(torch.arange(2).numpy())
    evaluate = CompiledEvaluation(network, Shapes(rows=18, widths=(8,)), "float32", notes)
    assert notes.notes == ["torch.compile does not work here (no C++ compiler); training goes on without it"]
    assert len(gradients_of(network, evaluate, batch)) > 5


def test_it_is_used_where_it_pays():
    network, one, two = small_network(), Shapes(9, (8,)), Shapes(90, (8, 20))
    assert wants_compilation(TrainConfig(minutes=5), network, one)
    assert not wants_compilation(TrainConfig(minutes=5), network, two)
    assert wants_compilation(TrainConfig(minutes=9), network, two)
    assert not wants_compilation(TrainConfig(steps=100), network, one)
    assert wants_compilation(TrainConfig(steps=100, compile="always"), network, two)
    network.needs_autograd = True
    assert not wants_compilation(TrainConfig(minutes=5), network, one)
