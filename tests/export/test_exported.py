import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from compactff_md.errors import CompactFFError
from compactff_md.export import scripted_module
from compactff_md.structure import Structure
from compactff_md.students import DTYPES, in_dtype
from compactff_md.units import EV_PER_A_TO_KJ_PER_MOL_PER_NM, EV_TO_KJ_PER_MOL
from export_builders import STRUCTURES, assert_same, expected, moved, student, tensors


@pytest.fixture(scope="module", params=["moments", "painn"])
def network(request):
    return student(request.param)


@pytest.fixture(scope="module")
def evaluators(network):
    return {d: scripted_module(network, dtype=d) for d in ("float32", "float64")}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_evaluate_is_the_student(network, evaluators, structure, dtype):
    rng = np.random.default_rng(1)
    precise = in_dtype(network, dtype)
    for size in (0.0, 0.03, 0.03, 0.15):
        structure = moved(structure, size, rng)
        got = evaluators[dtype].evaluate(*tensors(structure))
        assert got[0].dtype == torch.float64 and got[1].dtype == DTYPES[dtype]
        tight = (1e-9, 1e-8) if dtype == "float64" else (1e-5, 1e-4)
        assert_same(got, expected(precise, structure), *tight)


def test_float32_and_float64_agree(network, evaluators):
    for structure in STRUCTURES.values():
        one, two = (evaluators[d].evaluate(*tensors(structure)) for d in ("float32", "float64"))
        assert_same(one, two, energy=2e-5)


def test_evaluate_where_gradients_are_switched_off_or_wanted(evaluators):
    structure = STRUCTURES["triclinic"]
    positions, *rest = tensors(structure)
    plain = evaluators["float32"].evaluate(positions, *rest)
    with torch.no_grad():
        off = evaluators["float32"].evaluate(positions, *rest)
        assert not torch.is_grad_enabled()
    wanted = evaluators["float32"].evaluate(positions.clone().requires_grad_(True), *rest)
    assert torch.is_grad_enabled()
    for results in (plain, off, wanted):
        assert not any(r.requires_grad for r in results)
        assert_same(results, plain, 1e-6, 1e-6)


def forward_in_eV(module, s, dtype=torch.float64):
    box = torch.from_numpy(s.cell_A / 10.0).to(dtype) if s.pbc.any() else None
    energy, forces = module(torch.from_numpy(s.positions_A / 10.0).to(dtype), box)
    assert energy.shape == () and energy.dtype == torch.float64
    assert forces.dtype == dtype and forces.is_contiguous()
    return float(energy) / EV_TO_KJ_PER_MOL, forces.double() / EV_PER_A_TO_KJ_PER_MOL_PER_NM


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_forward_in_the_units_of_openmm(network, structure, dtype):
    module = scripted_module(network, structure.numbers, structure.pbc)
    energies, forces, _ = expected(network, structure)
    energy, got = forward_in_eV(module, structure, dtype)
    assert energy == pytest.approx(float(energies.sum()), abs=1e-5 if dtype == torch.float64 else 1e-4)
    torch.testing.assert_close(got, forces.double(), atol=1e-4, rtol=0)


def test_forward_follows_the_box_unless_told(network):
    s = STRUCTURES["triclinic"]
    module = scripted_module(network, s.numbers)
    free = Structure(s.positions_A, s.numbers)
    for structure in (s, free, s):
        energy, _ = forward_in_eV(module, structure)
        assert energy == pytest.approx(float(expected(network, structure)[0].sum()), abs=1e-5)
    fixed = scripted_module(network, s.numbers, pbc=False)
    assert forward_in_eV(fixed, s)[0] == pytest.approx(float(expected(network, free)[0].sum()), abs=1e-5)


def test_forward_on_some_of_the_particles(network):
    s = STRUCTURES["molecule"]
    particles = np.random.default_rng(3).permutation(40)[: len(s)]
    module = scripted_module(network, s.numbers, False, particles=particles)
    everywhere = Structure(np.random.default_rng(4).normal(size=(40, 3)), np.ones(40, dtype=int))
    everywhere.positions_A[particles] = s.positions_A
    energy, forces = forward_in_eV(module, everywhere)
    energies, wanted, _ = expected(network, s)
    assert energy == pytest.approx(float(energies.sum()), abs=1e-5)
    torch.testing.assert_close(forces[particles], wanted.double(), atol=1e-4, rtol=0)
    rest = np.setdiff1d(np.arange(40), particles)
    assert not forces[rest].any()


def test_frozen_as_openmms_plugin_does(network):
    s = STRUCTURES["triclinic"]
    module = scripted_module(network, s.numbers, True)
    frozen = torch.jit.freeze(scripted_module(network, s.numbers, True))
    positions, box = torch.from_numpy(s.positions_A / 10.0), torch.from_numpy(s.cell_A / 10.0)
    for _ in range(6):
        positions = (positions + 0.003 * torch.randn_like(positions)).requires_grad_(True)
        energy, forces = frozen(positions, box)
        # The plugin drops `detach` when it freezes: no graph may grow all the same.
        assert not energy.requires_grad and not forces.requires_grad
        plain_energy, plain_forces = module(positions, box)
        torch.testing.assert_close(energy, plain_energy, rtol=0, atol=1e-3)
        torch.testing.assert_close(forces, plain_forces, rtol=0, atol=1e-1)  # kJ/mol/nm: 1e-4 eV/A


def test_input_is_neither_kept_nor_changed(network):
    s = STRUCTURES["triclinic"]
    module = scripted_module(network, s.numbers, True)
    positions, numbers, cell, pbc = (t.clone() for t in tensors(s))
    copies = [positions.clone(), cell.clone()]
    module.evaluate(positions, numbers, cell, pbc)
    assert torch.equal(positions, copies[0]) and torch.equal(cell, copies[1])
    positions += 0.8 * torch.rand(len(s), 3, dtype=torch.float64)  # in place: the list must notice
    there = Structure(positions.numpy(), s.numbers, s.cell_A, s.pbc)
    assert_same(module.evaluate(positions, numbers, cell, pbc), expected(network, there))


def test_copies_do_not_share_their_list(network):
    s = STRUCTURES["triclinic"]
    first = scripted_module(network, s.numbers, True)
    forward_in_eV(first, s)
    second = copy.deepcopy(first)
    other = moved(s, 0.7, np.random.default_rng(5))
    for structure, module in ((other, second), (s, first), (other, second)):
        energy, _ = forward_in_eV(module, structure)
        assert energy == pytest.approx(float(expected(network, structure)[0].sum()), abs=1e-5)
    assert first.table.num_builds == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.zeros(5, 3)), "exported without atoms"),
        (
            lambda m: m.evaluate(*tensors(Structure([[0, 0, 0], [0, 0, 2.0]], [79, 7]))),
            r"\[7, 79\]; it knows H, C, O",
        ),
        (
            lambda m: m.evaluate(torch.zeros(2, 3), torch.ones(3), torch.zeros(3, 3), torch.zeros(3)),
            "expected",
        ),
    ],
)
def test_wrong_input_of_a_general_file(evaluators, call, message):
    with pytest.raises(torch.jit.Error, match=message):
        call(evaluators["float32"])


def test_wrong_input_of_a_file_with_atoms(network):
    module = scripted_module(network, [8, 1, 1], True)
    with pytest.raises(torch.jit.Error, match="no box vectors came"):
        module(torch.rand(3, 3))
    with pytest.raises(torch.jit.Error, match="for 3 atoms; 4 came"):
        module(torch.rand(4, 3), torch.eye(3))
    with pytest.raises(torch.jit.Error, match="NaN"):
        module(torch.full((3, 3), torch.nan), torch.eye(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "allowed are float32, float64"),
        ({"skin_A": -0.1}, "skin is -0.1 A"),
        ({"numbers": [8, 79]}, "does not know Au"),
        ({"pbc": [True, False]}, "one flag or three"),
        ({"numbers": [8, 1], "particles": [0, 0]}, "each once"),
        ({"numbers": [8, 1], "particles": [0, 1, 2]}, "as many as there are numbers, 2"),
        ({"particles": [0]}, "as many as there are numbers, 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(CompactFFError, match=message):
        scripted_module(student(), **options)


def test_the_student_itself_stays_as_it_was():
    network = student().train()
    scripted_module(network, dtype="float64")
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert network.dtype_like().dtype == torch.float32


def test_energies_of_the_elements_stay_in_float64():
    single = in_dtype(student().double(), "float32")
    assert single.dtype_like().dtype == torch.float32
    assert float(single.energy_shift_eV[1]) == float(student().energy_shift_eV[1])


def test_threads_with_a_copy_each(network):
    s = STRUCTURES["triclinic"]
    modules = [scripted_module(network, s.numbers, True) for _ in range(3)]
    walks = [[moved(s, 0.1, np.random.default_rng(10 * k + n)) for n in range(12)] for k in range(3)]

    def run(module, walk):
        return [forward_in_eV(module, structure)[0] for structure in walk]

    with ThreadPoolExecutor(3) as pool:
        energies = list(pool.map(run, modules, walks))
    for got, walk in zip(energies, walks, strict=True):
        assert got == pytest.approx([float(expected(network, s)[0].sum()) for s in walk], abs=1e-5)


def test_energies_of_isolated_atoms_survive():
    network = student()
    network.anchored = True
    network.eval()
    module = scripted_module(network, dtype="float64")
    for symbol, number in zip(network.elements, network.atomic_numbers.tolist(), strict=True):
        energies, forces, _ = module.evaluate(*tensors(Structure([[0.0, 0.0, 0.0]], [number])))
        shift = network.energy_shift_eV[network.elements.index(symbol)]
        assert float(energies[0]) == pytest.approx(float(shift), abs=1e-9)
        assert not forces.any()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@needs_gpu
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_on_a_gpu(network, structure):
    module = scripted_module(network, structure.numbers, structure.pbc).cuda()
    for _ in range(3):
        structure = moved(structure, 0.05, np.random.default_rng(1))
        got = [t.cpu() for t in module.evaluate(*tensors(structure))]
        assert_same(got, expected(network, structure))
        energy, forces = forward_in_eV(module, structure)
        assert energy == pytest.approx(float(expected(network, structure)[0].sum()), abs=1e-5)
        torch.testing.assert_close(forces, expected(network, structure)[1].double(), atol=1e-4, rtol=0)


@needs_gpu
def test_a_free_molecule_never_waits_for_the_gpu():
    structure = STRUCTURES["molecule"]
    module = scripted_module(student(), structure.numbers, False).cuda()
    positions = torch.from_numpy(structure.positions_A / 10.0).cuda()
    for _ in range(3):
        module(positions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(positions + 0.001)
    finally:
        torch.cuda.set_sync_debug_mode("default")
