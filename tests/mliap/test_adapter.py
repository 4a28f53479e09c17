"""The adapter on stand-ins of both builds' data objects, against the student on the whole structure."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
import torch

from builders import random_structure
from compactff_md import students
from compactff_md.artifact import describe, student_bytes
from compactff_md.errors import CompactFFError
from compactff_md.gradients import predict
from compactff_md.mliap import adapter as module
from compactff_md.mliap.adapter import MLIAPStudent
from compactff_md.mliap.stopping import RANK_VARIABLES, SIZE_VARIABLES, StoppedError
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from mliap_builders import KokkosData, PlainData, Rank, ranks_of, run_ranks, totals
from student_builders import biting

ELEMENTS = ["H", "C", "O"]
BOX = np.diag([11.0, 9.0, 8.0])
LIQUID = random_structure(5, ELEMENTS, 60, cell_A=BOX, pbc=(True,) * 3, closest_A=1.0)
ARCHITECTURES = ["moments", "moments-local", "painn", "moments bounded"]


def content(architecture="moments", size="ultra-tiny"):
    name, _, bounded = architecture.partition(" ")
    network = students.create(size, ELEMENTS, architecture=name, seed=4)
    if bounded:
        bounds = biting(copy.deepcopy(network).double(), LIQUID)[0].energy_bounds
        network.bound_energies(*bounds.tolist())
    network.energy_shift_eV.copy_(torch.tensor([-13.6, -1029.1, -2041.8]))
    network.eval()
    return student_bytes(network, describe(network))


def adapter(architecture="moments", dtype="float64"):
    return MLIAPStudent(content(architecture), dtype)


def expected(made, structure):
    network = MLIAPStudent(made.content, "float64").network  # with its own halo
    table = neighbour_table(structure, network.cutoff_A)
    species = network.species_of(torch.from_numpy(structure.numbers))
    return [x.numpy() for x in predict(network, torch.from_numpy(structure.positions_A), table, species)]


def kokkos(architecture, structure, grid, interactions=1, **options):
    first = adapter(architecture)
    ranks = ranks_of(structure, grid, first.network.cutoff_A, interactions=interactions)
    world, barrier = [], threading.Barrier(len(ranks))
    datas = [
        KokkosData(rank, first.element_types, first.network.cutoff_A, world, barrier, **options)
        for rank in ranks
    ]
    adapters = [first, *(adapter(architecture) for _ in ranks[1:])]
    for made in adapters:
        made.has_gpu = True
    return adapters, datas


class Running:
    """A LAMMPS of two ranks, of which this is one, whose MPI is not known."""

    rank, size, lists_are_new, leaves_bonded_out = 0, 2, True, False
    has_one_reach, communication_cutoff_A, skin_A, step = True, None, 1.0, 7

    def masses_Da(self):
        return []  # as where every atom has its own


class EndedError(Exception):
    """Where a process would end."""


@pytest.fixture
def ended(monkeypatch):
    """Errors that end all ranks, which LAMMPS would not do by itself."""
    errors = []

    def end(error, messages):
        errors.append(error)
        raise EndedError

    monkeypatch.setattr(module, "end_all_ranks", end)
    return errors


def water():
    """Free atoms, which have no ghosts."""
    return Structure([[0.0, 0.0, 0.0], [0.9, 0.2, 0.0], [-0.3, 0.9, 0.1]], [8, 1, 1])


def free_rank(made, **options):
    data = PlainData(Rank(water(), [0, 1, 2], 0.0, 1.0, 5.0), made.element_types, 5.0, **options)
    data.rank = Rank(water(), [0, 1, 2], 0.0, 1.0, 5.0)
    return data


def assert_like(got, want, tolerance=1e-9):
    for value, reference in zip(got, want, strict=True):
        np.testing.assert_allclose(value, reference, atol=tolerance, rtol=0)


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 3), (2, 2, 1)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ranks_with_kokkos_exchanges_give_what_one_structure_gives(architecture, grid):
    adapters, datas = kokkos(architecture, LIQUID, grid)
    want = expected(adapters[0], LIQUID)
    for _ in range(2):
        for data in datas:
            data.f[:], data.virial[:] = 0.0, 0.0
        run_ranks(adapters, datas)
        assert_like(totals(datas, len(LIQUID)), want)
    assert sum(data._energy for data in datas) == pytest.approx(float(want[0].sum()), abs=1e-8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ranks_without_atoms_or_pairs_exchange_as_often_as_the_others(architecture):
    """One rank owns nothing, one an isolated atom with no pair, one a molecule."""
    alone = Structure([[1.0, 4.0, 4.0], [27.0, 4.0, 4.0], [28.0, 4.2, 4.0]], [8, 6, 1])
    adapters, datas = kokkos(architecture, alone, (3, 1, 1))
    assert [data.nlistatoms for data in datas] == [1, 0, 2] and datas[0].npairs == 0
    run_ranks(adapters, datas)
    assert_like(totals(datas, 3), expected(adapters[0], alone))
    assert datas[0].exchanges == datas[1].exchanges == datas[2].exchanges
    assert len(datas[0].exchanges) == (0 if architecture == "moments-local" else len(datas[0].exchanges) or 1)
    assert datas[1]._energy == 0.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 1, 1)])
def test_the_plain_build_with_neighbours_of_ghosts(architecture, grid):
    made = adapter(architecture)
    cutoff = made.network.cutoff_A
    ranks = ranks_of(LIQUID, grid, cutoff, interactions=made.network.num_interactions)
    datas = [PlainData(rank, made.element_types, cutoff, ghost_neighbours=True) for rank in ranks]
    for data, rank in zip(datas, ranks, strict=True):
        data.rank = rank
        adapter(architecture).compute_forces(data)
    assert_like(totals(datas, len(LIQUID)), expected(made, LIQUID))


def test_a_list_of_some_atoms_in_another_order_gives_their_energies():
    """As pair_style hybrid does: other atoms are there, of no element, and in no list."""
    made, part = adapter(), np.arange(0, 60, 2)
    some = Structure(LIQUID.positions_A[part], LIQUID.numbers[part], BOX, LIQUID.pbc)
    want = expected(made, some)
    rank = ranks_of(LIQUID, (1, 1, 1), made.network.cutoff_A, interactions=2)[0]
    null = np.flatnonzero(~np.isin(rank.tags - 1, part))
    listed = np.random.default_rng(0).permutation(part)
    data = PlainData(rank, made.element_types, made.network.cutoff_A, True, listed=listed, null=null)
    data.rank = rank
    # The list has all neighbours here; LAMMPS' skip lists leave those of no element out.
    made.compute_forces(data)
    energies, forces, virial = totals([data], 60)
    np.testing.assert_allclose(energies[part], want[0], atol=1e-9)
    np.testing.assert_allclose(forces[part], want[1], atol=1e-9)
    np.testing.assert_allclose(virial, want[2], atol=1e-9)
    assert np.isnan(energies[1::2]).all() and not forces[1::2].any()


def test_listed_atoms_of_no_element_have_no_energy_and_no_force():
    """Kokkos lists them where every type is in one pair style."""
    adapters, datas = kokkos("moments", LIQUID, (1, 1, 1))
    rank, part = datas[0].rank, np.arange(0, 60, 2)
    datas[0]._arrays["elems"][~np.isin(rank.tags - 1, part)] = -1
    run_ranks(adapters, datas)
    some = Structure(LIQUID.positions_A[part], LIQUID.numbers[part], BOX, LIQUID.pbc)
    energies, forces, _ = totals(datas, 60)
    want = expected(adapters[0], some)
    np.testing.assert_allclose(energies[part], want[0], atol=1e-9)
    np.testing.assert_allclose(forces[part], want[1], atol=1e-9)
    assert not energies[1::2].any() and not forces[1::2].any()


def test_float32_and_real_units():
    made = adapter(dtype="float32")
    made.energy_unit = 23.0
    rank = ranks_of(LIQUID, (1, 1, 1), made.network.cutoff_A, interactions=2)[0]
    data = PlainData(rank, made.element_types, made.network.cutoff_A, True)
    data.rank = rank
    made.compute_forces(data)
    energies, forces, virial = totals([data], 60)
    want = expected(adapter(), LIQUID)
    np.testing.assert_allclose(energies / 23.0, want[0], atol=1e-4)
    np.testing.assert_allclose(forces / 23.0, want[1], atol=1e-4)
    np.testing.assert_allclose(virial / 23.0, want[2], atol=1e-3)


def test_an_element_that_the_student_lacks_is_named():
    made = adapter()
    structure = Structure([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]], [8, 11])
    data = PlainData(Rank(structure, [0, 1], 0.0, 2.0, 5.0), made.element_types, 5.0)
    with pytest.raises(CompactFFError, match=r"pair_coeff has Na.*knows H C O"):
        made.compute_forces(data)


def test_forces_that_are_not_finite_stop_it():
    made = adapter()
    structure = Structure([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]], [8, 8])
    data = PlainData(Rank(structure, [0, 1], 0.0, 2.0, 5.0), made.element_types, 5.0)
    data._arrays["rij"][0] = np.nan
    with pytest.raises(CompactFFError, match="not finite"):
        made.compute_forces(data)
    assert not data.f.any()


def test_ghosts_without_rows_are_refused_where_lammps_cannot_be_asked():
    made = adapter()
    rank = ranks_of(LIQUID, (1, 1, 1), made.network.cutoff_A)[0]
    data = PlainData(rank, made.element_types, made.network.cutoff_A)
    with pytest.raises(CompactFFError, match=r"mliap unified FILE 1, and comm_modify cutoff 12"):
        made.compute_forces(data)


def test_what_is_pickled_is_a_class_and_bytes():
    made = adapter()
    again = pickle.loads(pickle.dumps(made))
    assert again.content == made.content and again.dtype == "float64"
    assert again.element_types[:3] == ELEMENTS and again.rcutfac == pytest.approx(made.network.cutoff_A / 2)
    assert {type(value) for value in made.__getstate__().values()} == {bytes, str}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": content("moments-local")}, "checksum"),
        ({"python": "2.7"}, "exported by Python 2.7"),
    ],
)
def test_a_file_that_was_changed_or_is_of_another_python_is_refused(change, words):
    state = {**adapter().__getstate__(), **change}
    with pytest.raises(CompactFFError, match=words):
        MLIAPStudent.__new__(MLIAPStudent).__setstate__(state)


def test_units_are_asked_of_lammps_or_told(monkeypatch, capfd):
    monkeypatch.delenv("COMPACTFF_LAMMPS_UNITS", raising=False)
    made = adapter()
    with pytest.raises(StoppedError, match=r"set COMPACTFF_LAMMPS_UNITS=metal or real.*BUILD_SHARED_LIBS=on"):
        made.interface = object()
    for units, unit in (("metal", 1.0), ("real", 23.06)):
        monkeypatch.setenv("COMPACTFF_LAMMPS_UNITS", units)
        made.interface = object()
        assert made.energy_unit == pytest.approx(unit, abs=0.01) and not capfd.readouterr().err
    monkeypatch.setenv("COMPACTFF_LAMMPS_UNITS", "lj")
    with pytest.raises(CompactFFError, match=r"units lj.*units metal \(eV\)"):
        made.interface = object()


@pytest.mark.parametrize("architecture", ["moments", "painn"])
def test_kokkos_on_the_cpu_exchanges_nothing(architecture):
    """Its exchange would write beyond a buffer of LAMMPS; ghosts have rows as in the plain build."""
    adapters, datas = kokkos(architecture, LIQUID, (1, 1, 1), ghost_neighbours=True, interactions=2)
    adapters[0].has_gpu = False
    run_ranks(adapters, datas)
    assert not datas[0].exchanges
    assert_like(totals(datas, len(LIQUID)), expected(adapters[0], LIQUID))
    adapters, datas = kokkos(architecture, LIQUID, (1, 1, 1))
    adapters[0].has_gpu = False
    with pytest.raises(StoppedError, match="mliap unified FILE 1"):
        run_ranks(adapters, datas)
    assert not datas[0].exchanges


def test_a_kokkos_that_cannot_exchange_names_the_release_that_can():
    adapters, datas = kokkos("moments", LIQUID, (1, 1, 1))

    class Old(PlainData):
        pass

    Old.__module__ = "mliap_unified_couple_kokkos"
    datas[0].__class__ = Old
    with pytest.raises(StoppedError, match="22 Jul 2025 or newer"):
        adapters[0].compute_forces(datas[0])


def test_ranks_that_cannot_speak_go_on_with_rows_of_ghosts_or_without_ghosts(ended):
    """A rank without ghosts sees no list of theirs, and needs none."""
    made = adapter()
    made.running = Running()
    data = free_rank(made, ghost_neighbours=True)
    assert data.natomneigh == data.nlistatoms
    made.compute_forces(data)
    assert_like(totals([data], 3), expected(made, water()))
    assert not ended


@pytest.mark.parametrize(("reach_A", "flag", "words"), [(6.0, True, "too short"), (None, False, "FILE 1")])
def test_a_rank_that_alone_sees_what_is_wrong_ends_all(ended, monkeypatch, reach_A, flag, words):
    made = adapter()
    made.running = Running()
    monkeypatch.setattr(Running, "communication_cutoff_A", reach_A)
    data = PlainData(ranks_of(LIQUID, (2, 1, 1), 5.0)[0], made.element_types, 5.0, ghost_neighbours=flag)
    with pytest.raises(EndedError):
        made.compute_forces(data)
    assert words in str(ended[0])


@pytest.mark.parametrize(("size", "error"), [(1, StoppedError), (2, EndedError)])
def test_masses_in_another_order_than_the_elements_end_it_on_every_rank(monkeypatch, ended, size, error):
    made = adapter()
    data = free_rank(made)
    elements = [made.element_types[kind] for kind in data.elems]
    assert elements == ["O", "H", "H"]
    monkeypatch.setattr(Running, "size", size)
    monkeypatch.setattr(Running, "types", lambda self, count: np.array([1, 2, 2])[:count], raising=False)
    monkeypatch.setattr(Running, "masses_Da", lambda self: [1.008, 15.999])
    made.running = Running()
    with pytest.raises(error) as caught:
        made.compute_forces(data)
    assert "type 1 is O and has the mass of H" in str((ended or [caught.value])[0])


@pytest.mark.parametrize("others", [False, True])
def test_bonds_may_be_of_another_style_where_there_is_one(monkeypatch, capfd, others):
    monkeypatch.setattr(Running, "leaves_bonded_out", True)
    monkeypatch.setattr(Running, "size", 1)
    made, part = adapter(), np.arange(0, 60, 2)
    made.running = Running()
    rank = ranks_of(LIQUID, (1, 1, 1), made.network.cutoff_A, interactions=2)[0]
    null = np.flatnonzero(~np.isin(rank.tags - 1, part))
    options = {"listed": part, "null": null} if others else {}
    data = PlainData(rank, made.element_types, made.network.cutoff_A, True, **options)
    data.rank = rank
    if others:
        for _ in range(2):
            made.compute_forces(data)
        assert capfd.readouterr().err.count("where the student's own atoms have bonds") == 1
    else:
        with pytest.raises(StoppedError, match="special_bonds lj/coul 1 1 1"):
            made.compute_forces(data)


def test_a_kokkos_that_cannot_be_asked_is_known_by_its_arrays(monkeypatch):
    adapters, datas = kokkos("moments", LIQUID, (1, 1, 1))
    adapters[0].has_gpu = False
    monkeypatch.setattr(module, "has_gpu_arrays", lambda data: True)
    run_ranks(adapters, datas)
    assert datas[0].exchanges
    assert_like(totals(datas, len(LIQUID)), expected(adapters[0], LIQUID))


@pytest.mark.parametrize(
    ("variables", "ends"),
    [
        ({}, False),
        ({"PMI_SIZE": "1", "PMIX_RANK": "0"}, False),
        ({"PMI_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "0"}, True),
        ({"PMIX_RANK": "0"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, False),
    ],
)
def test_an_error_ends_other_ranks_that_a_process_manager_tells_of(monkeypatch, ended, variables, ends):
    for name in (*SIZE_VARIABLES, "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = adapter()
    data = free_rank(made)
    data._arrays["rij"][0] = np.nan
    with pytest.raises(EndedError if ends else StoppedError):
        made.compute_forces(data)
    assert len(ended) == ends


@pytest.mark.parametrize(
    ("rank", "variables", "says"),
    [
        (0, {"SLURM_PROCID": "5"}, True),
        (1, {}, False),
        (None, {"SLURM_PROCID": "5"}, False),
        (None, {"SLURM_PROCID": "0"}, True),
    ],
    ids=["first of another partition", "second", "LAMMPS not asked", "first"],
)
def test_the_first_rank_of_each_simulation_says_why_it_stopped(monkeypatch, capfd, rank, variables, says):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Running, "rank", rank)
    monkeypatch.setattr(Running, "leaves_bonded_out", True)
    monkeypatch.setattr(Running, "size", 1)
    made = adapter()
    made.running = Running()
    data = free_rank(made)
    with pytest.raises(StoppedError) as caught:
        made.compute_forces(data)
    sys.excepthook(caught.type, caught.value, None)
    assert ("special_bonds" in capfd.readouterr().err) is says
