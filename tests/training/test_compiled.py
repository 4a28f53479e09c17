import torch

from compactff_md.students.moment_layer import MomentsConfig
from compactff_md.students.moments import MomentsStudent
from compactff_md.training.batches import FrameStore
from compactff_md.training.compiled import CompiledEvaluation, wants_compilation
from compactff_md.training.config import TrainConfig
from compactff_md.training.progress import Reporter


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


def test_compiled_equals_eager_also_in_the_derivative_by_the_weights(ethanol_sets):
    network = small_network()
    store = FrameStore(ethanol_sets[0].frames[:6], network, torch.device("cpu"), torch.float32)
    store.pad_to_widest()
    full, rest = (store.batch(torch.arange(n).numpy()) for n in (4, 2))
    notes = Notes()
    evaluate = CompiledEvaluation(network, full, notes)
    assert evaluate.compiled is not None and not notes.notes
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    for batch in (full, rest):
        mine = gradients_of(network, evaluate, batch)
        expected = gradients_of(network, network.energies_and_gradients, batch)
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)


def test_a_compiler_that_fails_is_told_and_done_without(ethanol_sets, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    network = small_network()
    store = FrameStore(ethanol_sets[0].frames[:2], network, torch.device("cpu"), torch.float32)
    batch, notes = store.batch(torch.arange(2).numpy()), Notes()
    evaluate = CompiledEvaluation(network, batch, notes)
    assert notes.notes == ["torch.compile does not work here (no C++ compiler); training goes on without it"]
    assert len(gradients_of(network, evaluate, batch)) > 5


def test_it_is_used_where_it_pays(ethanol_sets):
    network = small_network()
    store = FrameStore(ethanol_sets[0].frames[:3], network, torch.device("cpu"), torch.float32)
    assert wants_compilation(TrainConfig(minutes=5), network, store)
    assert not wants_compilation(TrainConfig(minutes=1), network, store)
    assert not wants_compilation(TrainConfig(steps=100), network, store)
    assert wants_compilation(TrainConfig(steps=100, compile="always"), network, store)
    network.needs_autograd = True
    assert not wants_compilation(TrainConfig(minutes=5), network, store)
