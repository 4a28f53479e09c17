import tracemalloc

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from builders import PERIODIC, SMALL, random_structure
from compactff_md import students
from compactff_md.gradients import forces_from_edges
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.training.batches import FrameStore, epoch_batches
from compactff_md.training.frames import Frame
from compactff_md.training.loss import predict_batch


def make_frames() -> tuple[Frame, ...]:
    structures = [
        Structure.from_ase(molecule("CH3CH2OH")),
        random_structure(1, ["C", "O"], 3, cell_A=SMALL, pbc=PERIODIC, closest_A=0.8),
        Structure.from_ase(ase.Atoms("CH", positions=[[0, 0, 0], [30, 0, 0]])),
        Structure.from_ase(bulk("C", "diamond", a=3.6)),
        Structure.from_ase(molecule("H2O")),
    ]
    rng = np.random.default_rng(0)
    return tuple(
        Frame(
            s,
            float(k),
            rng.normal(size=(len(s), 3)),
            np.eye(3) * 0.01 * k if s.pbc.all() else None,
        )
        for k, s in enumerate(structures)
    )


@pytest.fixture
def network():
    made = students.create("ultra-tiny", ["H", "C", "O"])
    return made.double().eval()


def test_a_batch_gives_what_single_frames_give(network):
    frames = make_frames()
    store = FrameStore(frames, network, torch.device("cpu"), torch.float64)
    chosen = np.array([3, 0, 2, 1])
    found = predict_batch(network.energies_and_gradients, store.batch(chosen), True)
    energies, forces, virials = found.energies_eV, found.forces_eV_per_A, found.virials_eV
    start = 0
    for place, index in enumerate(chosen):
        structure = frames[index].structure
        table = neighbour_table(structure, network.cutoff_A)
        vectors = table.vectors(torch.from_numpy(structure.positions_A))
        species = network.species_of(torch.from_numpy(structure.numbers))
        expected, gradients = network.energies_and_gradients(vectors, table.neighbours, species)
        assert (energies[place] - expected.sum()).item() == pytest.approx(0, abs=1e-9)
        own = forces[start : start + len(structure)]
        assert torch.allclose(own, forces_from_edges(gradients, table.neighbours), atol=1e-9)
        virial = torch.einsum("nka,nkb->ab", vectors, gradients)
        assert torch.allclose(virials[place], 0.5 * (virial + virial.T), atol=1e-8)
        start += len(structure)


def test_labels_follow_their_frames(network):
    frames = make_frames()
    store = FrameStore(frames, network, torch.device("cpu"), torch.float64)
    batch = store.batch(np.array([4, 1]))
    assert batch.energies_eV.tolist() == [4.0, 1.0]
    assert batch.has_stress.tolist() == [0.0, 1.0]
    assert batch.frame_of_atom.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.concatenate([frames[4].forces_eV_per_A, frames[1].forces_eV_per_A])
    assert np.allclose(batch.forces_eV_per_A, expected)
    volume = frames[1].structure.volume_A3
    assert np.allclose(batch.virials_eV[1], 0.01 * volume * np.eye(3))


def test_pairs_take_little_more_memory_than_is_kept(network):
    start = bulk("C", "diamond", a=3.6, cubic=True) * (2, 2, 2)
    frames = []
    for seed in range(40):
        start.rattle(0.05, seed=seed)
        frames.append(Frame(Structure.from_ase(start), 0.0, np.zeros((64, 3))))
    tracemalloc.start()
    try:
        store = FrameStore(tuple(frames), network, torch.device("cpu"), torch.float32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = store.pair_vectors.nbytes + store.pair_steps.nbytes
    assert kept == 16 * (int(store.counts.sum()) + 1)
    assert peak < 3 * kept


def test_an_epoch_holds_every_frame_once():
    sizes = np.array([3] * 23)
    batches = epoch_batches(sizes, 5, 1000, seed=0, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(23))
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3]
    again, other = (epoch_batches(sizes, 5, 1000, seed=0, epoch=e) for e in (2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_batches_are_limited_by_atoms():
    sizes = np.array([10, 200, 30, 500, 60] * 4)
    batches = epoch_batches(sizes, 8, 250, seed=0, epoch=0)
    assert all(sizes[b].sum() <= 250 or len(b) == 1 for b in batches)
    assert sorted(np.concatenate(batches)) == list(range(20))


def test_processes_share_the_batches_of_one_with_larger_batches():
    sizes = np.array([3] * 26)
    whole = epoch_batches(sizes, 6, 1000, seed=0, epoch=0)
    parts = [epoch_batches(sizes, 3, 1000, seed=0, epoch=0, rank=r, world=2) for r in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == 4
    for one, two, both in zip(*parts, whole[:4], strict=True):
        assert np.array_equal(np.concatenate([one, two]), both)


def test_few_frames_are_enough_for_many_processes():
    parts = [epoch_batches(np.array([3]), 4, 100, 0, 0, rank=r, world=3) for r in range(3)]
    assert all(len(part) == 1 for part in parts)


def test_classes_never_meet_in_a_batch():
    sizes, classes = np.arange(1, 41), np.arange(40) % 3
    batches = epoch_batches(sizes, 40, 100, seed=0, epoch=1, classes=classes)
    assert sorted(np.concatenate(batches)) == list(range(40))
    assert all(len(set(classes[batch])) == 1 and sizes[batch].sum() <= 100 for batch in batches)
    first = [int(classes[batch[0]]) for batch in batches]
    assert first != sorted(first)
