"""Steps of one rank between two of LAMMPS' lists: on stand-ins of its data; graphs where there is a GPU."""

import copy
import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import random_structure
from compactff_md.artifact import describe, student_bytes
from compactff_md.gradients import predict
from compactff_md.mliap import adapter as module
from compactff_md.mliap import steady
from compactff_md.mliap.adapter import MLIAPStudent
from compactff_md.mliap.steady import Recording
from compactff_md.mliap.stopping import StoppedError
from compactff_md.neighbours import neighbour_table
from compactff_md.recorded import WIDTH_STEP
from compactff_md.structure import Structure
from compactff_md.students import create, in_dtype
from mliap_builders import KokkosData, ranks_of, run_ranks, totals

ELEMENTS = ["H", "C", "O"]
BOX = np.diag([11.0, 9.0, 8.0])
LIQUID = random_structure(5, ELEMENTS, 60, cell_A=BOX, pbc=(True,) * 3, closest_A=1.0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


class Alone:
    """A LAMMPS of one rank."""

    rank, size, step, skin_A, leaves_bonded_out = 0, 1, 3, 1.0, False
    has_one_reach, communication_cutoff_A, lists_are_new = True, None, True


@pytest.fixture
def made(monkeypatch):
    """An adapter that takes the stand-in's arrays for those of a GPU."""
    monkeypatch.setattr(module, "has_gpu_arrays", lambda data: True)
    network = create("ultra-tiny", ELEMENTS, seed=4).eval()
    result = MLIAPStudent(student_bytes(network, describe(network)), "float64")
    result.running, result.has_gpu = Alone(), True
    return result


def step_of(made, structure, *, after=None, **options):
    """Let the adapter compute, with new lists or those of a step before; return LAMMPS' data after it."""
    made.running.lists_are_new = after is None
    if after is None:
        rank = ranks_of(structure, (1, 1, 1), made.network.cutoff_A, interactions=2)[0]
    else:
        rank = copy.copy(after.rank)
        images = np.round((rank.positions - after.home[rank.tags - 1]) @ np.linalg.inv(after.cell_A))
        rank.positions = structure.positions_A[rank.tags - 1] + images @ structure.cell_A
        rank.numbers = structure.numbers[rank.tags - 1]
    data = KokkosData(rank, made.element_types, made.network.cutoff_A, [], threading.Barrier(1), **options)
    data.home, data.cell_A = structure.positions_A, structure.cell_A
    run_ranks([made], [data])
    return data


def moved(structure, seed, amplitude_A=0.05):
    noise = amplitude_A * np.random.default_rng(seed).normal(size=structure.positions_A.shape)
    return Structure(structure.positions_A + noise, structure.numbers, structure.cell_A, structure.pbc)


def expected(made, structure):
    network = MLIAPStudent(made.content, "float64").network
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    return [x.numpy() for x in predict(network, torch.from_numpy(structure.positions_A), table, species)]


def check(made, structure, data):
    energies, forces = expected(made, structure)[:2]
    got, got_forces, _ = totals([data], len(structure))
    np.testing.assert_allclose(got, energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got_forces, forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(data._energy, energies.sum(), rtol=0, atol=1e-8)


def test_features_travel_at_new_lists_alone(made):
    first = step_of(made, LIQUID)
    check(made, LIQUID, first)
    assert first.exchanges == [("forward", 1)]  # numbers of rows, once
    for seed in range(3):
        later = moved(LIQUID, seed)
        data = step_of(made, later, after=first)
        check(made, later, data)
        assert data.exchanges == []


def test_order_of_the_list_does_not_matter(made):
    listed = np.random.default_rng(0).permutation(len(LIQUID))
    first = step_of(made, LIQUID, listed=listed)
    check(made, LIQUID, first)
    later = moved(LIQUID, 1)
    check(made, later, step_of(made, later, after=first, listed=listed))


def test_tables_grow_with_the_neighbours(made):
    loose = Structure(LIQUID.positions_A * 1.3, LIQUID.numbers, 1.3 * LIQUID.cell_A, LIQUID.pbc)
    first = step_of(made, loose)
    check(made, loose, first)
    narrow = made._steady.width
    dense = Structure(loose.positions_A / 1.3, loose.numbers, loose.cell_A / 1.3, loose.pbc)
    check(made, dense, step_of(made, dense, after=first))
    assert made._steady.width > narrow
    assert made._steady.width % WIDTH_STEP == 0


def test_few_recordings_are_kept(made):
    for count in range(20, 20 + 2 * steady.MOST_RECORDINGS):
        part = Structure(LIQUID.positions_A[:count], LIQUID.numbers[:count], LIQUID.cell_A, LIQUID.pbc)
        check(made, part, step_of(made, part))
    assert len(made._recordings) == steady.MOST_RECORDINGS


def test_those_put_away_are_gone(made):
    """At once, whatever Python's collector of cycles does: each may hold a GPU's memory."""
    gc.disable()
    try:
        seen = []
        for count in range(20, 23 + steady.MOST_RECORDINGS):
            part = Structure(LIQUID.positions_A[:count], LIQUID.numbers[:count], LIQUID.cell_A, LIQUID.pbc)
            step_of(made, part)
            seen += [weakref.ref(x) for x in made._recordings.values()]
        made._steady = None
        assert len({id(ref()) for ref in seen if ref() is not None}) == steady.MOST_RECORDINGS
    finally:
        gc.enable()


def test_a_wider_one_serves_narrower_tables(made):
    """As when a box breathes."""
    step_of(made, LIQUID)
    for scale in (1.01, 1.02, 1.03, 1.0):
        cell = scale * LIQUID.cell_A
        wider = Structure(scale * LIQUID.positions_A, LIQUID.numbers, cell, LIQUID.pbc)
        check(made, wider, step_of(made, wider))
        assert len(made._recordings) == 1
    far = Structure(2.0 * LIQUID.positions_A, LIQUID.numbers, 2.0 * LIQUID.cell_A, LIQUID.pbc)
    check(made, far, step_of(made, far))
    assert len(made._recordings) == 2  # not one that is many times too wide


def test_what_is_used_once_is_not_recorded(made, monkeypatch):
    calls = []
    monkeypatch.setattr(steady.Recorded, "__call__", lambda self: calls.append(1) or self.function())
    first = step_of(made, LIQUID)
    assert not calls
    step_of(made, moved(LIQUID, 0), after=first)
    assert len(calls) == 1


def test_elements_may_change_between_lists(made):
    """As fix atom/swap changes them."""
    first = step_of(made, LIQUID)
    swapped = Structure(LIQUID.positions_A, LIQUID.numbers[::-1].copy(), LIQUID.cell_A, LIQUID.pbc)
    check(made, swapped, step_of(made, swapped, after=first))


def test_atoms_far_apart_have_no_pairs(made):
    cell = 60.0 * np.eye(3)
    gas = Structure(np.array([[1.0, 1, 1], [30, 30, 30]]), np.array([1, 8]), cell, LIQUID.pbc)
    first = step_of(made, gas)
    check(made, gas, first)
    check(made, gas, step_of(made, gas, after=first))


def test_a_strange_element_is_an_error_at_any_step(made):
    first = step_of(made, LIQUID)
    numbers = LIQUID.numbers.copy()
    numbers[3] = 79
    gold = Structure(LIQUID.positions_A, numbers, LIQUID.cell_A, LIQUID.pbc)
    with pytest.raises((StoppedError, SystemExit), match="Au"):
        step_of(made, gold, after=first)


@pytest.mark.parametrize("way", ["null", "autograd", "ranks", "host"])
def test_others_go_the_long_way(made, monkeypatch, way):
    if way == "autograd":
        network = create("ultra-tiny", ELEMENTS, architecture="painn", seed=4).eval()
        running = made.running
        made = MLIAPStudent(student_bytes(network, describe(network)), "float64")
        made.running, made.has_gpu = running, True
    if way == "ranks":
        made.running.size = 2
    if way == "host":
        monkeypatch.setattr(module, "has_gpu_arrays", lambda data: False)
    data = step_of(made, LIQUID, null=(7,) if way == "null" else ())
    assert made._steady is None
    assert len(data.exchanges) > 1
    if way != "null":
        check(made, LIQUID, data)


def filled(recording, structure, network):
    table = neighbour_table(structure, network.cutoff_A)
    vectors = table.vectors(torch.from_numpy(structure.positions_A))
    inside = torch.linalg.vector_norm(vectors, dim=-1) < network.cutoff_A
    rows, slots = inside.nonzero(as_tuple=True)
    device = recording.entries.device
    places = (rows * recording.width + slots).to(device)
    recording.fill(places, vectors[rows, slots].to(device), table.neighbours[rows, slots].to(device))
    recording.species.copy_(network.species_of(torch.from_numpy(structure.numbers)))


@needs_gpu
@pytest.mark.parametrize("size", ["original", "tiny", "ultra-tiny"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_graphs_say_what_the_network_says(size, dtype):
    """Played again with other positions; to rounding, since the order of sums is the device's."""
    network = in_dtype(create(size, ELEMENTS, seed=4), dtype)
    reference = in_dtype(network, "float64")
    recording = Recording(in_dtype(network, dtype).to("cuda"), len(LIQUID), 80)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(LIQUID))  # of the elements, too
        structure = replace(moved(LIQUID, seed), numbers=LIQUID.numbers[order])
        filled(recording, structure, network)
        energies, gradients = (x.double().cpu() for x in recording.play())
        assert (recording._work._graph is not None) == (seed > 0)  # the first time it is computed
        wanted = Recording(reference, len(LIQUID), 80)
        filled(wanted, structure, network)
        energy, slopes = wanted.play()
        tolerance = 1e-9 if dtype == "float64" else 2e-3
        torch.testing.assert_close(energies, energy, rtol=1e-6, atol=tolerance)
        torch.testing.assert_close(gradients, slopes.double(), rtol=1e-3, atol=tolerance)
