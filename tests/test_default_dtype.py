"""MACE's calculator makes float64 PyTorch's default for the whole process: students stay as they are."""

from contextlib import contextmanager

import ase.build
import pytest
import torch

from builders import assert_same
from compactff_md import load, students
from compactff_md.engines.openmm_force import FORCES
from compactff_md.engines.openmm_system import prepare
from compactff_md.structure import Structure
from compactff_md.students.uncertainty import Uncertainty
from openmm_builders import context, energy_and_forces

SHIPPED = "organic-ultra-tiny"


@contextmanager
def by_default(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def tensors(network):
    return dict(network.named_parameters()) | dict(network.named_buffers())


def assert_equal(got, expected):
    assert set(got) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("architecture", students.VARIANTS)
def test_networks_are_made_alike(architecture):
    def make():
        return tensors(students.create("ultra-tiny", ["H", "C", "O"], architecture=architecture, seed=3))

    expected = make()
    with by_default(torch.float64):
        assert_equal(make(), expected)
        assert torch.get_default_dtype() == torch.float64
        assert {value.dtype for value in tensors(Uncertainty(3, 2, 4, 5)).values()} == {torch.float32}


def test_files_are_read_and_written_alike(tmp_path):
    student = load(SHIPPED)
    assert student.network.bounded and student.uncertainty is not None
    with by_default(torch.float64):
        again = load(SHIPPED)
        assert_equal(tensors(again.network), tensors(student.network))
        assert_equal(tensors(again.uncertainty), tensors(student.uncertainty))
        read = load(again.save(tmp_path / "again"))
    assert read.metadata.dtype == "float32"
    assert_equal(tensors(read.network), tensors(student.network))
    assert_equal(tensors(read.uncertainty), tensors(student.uncertainty))


@pytest.mark.parametrize("dtype", students.DTYPES)
def test_calculators_say_the_same(dtype):
    atoms = ase.build.molecule("CH3CH2OH")
    student = load(SHIPPED)
    atoms.calc = student.ase_calculator(dtype=dtype)
    atoms.get_forces()
    expected = dict(atoms.calc.results)
    with by_default(torch.float64):
        for calculator in (
            atoms.calc,
            student.ase_calculator(dtype=dtype),
            load(SHIPPED).ase_calculator(dtype=dtype),
        ):
            calculator.reset()
            atoms.calc = calculator
            atoms.get_forces()
            assert set(calculator.results) == set(expected)
            for name, value in expected.items():
                assert_same(calculator.results[name], value)


def test_exported_students_say_the_same(tmp_path):
    student = load(SHIPPED)
    s = Structure.from_ase(ase.build.molecule("CH3CH2OH"))
    arguments = [torch.from_numpy(x) for x in (s.positions_A, s.numbers, s.cell_A, s.pbc)]
    expected = torch.jit.load(student.export(tmp_path / "one.pt")).evaluate(*arguments)
    with by_default(torch.float64):
        got = torch.jit.load(student.export(tmp_path / "two.pt")).evaluate(*arguments)
        for one, two in zip(got, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("force", FORCES)
def test_openmm_says_the_same(force):
    ready = prepare(ase.build.molecule("CH3CH2OH"), load(SHIPPED), force=force)
    expected = energy_and_forces(context(ready.system, ready.structure.positions_A))
    with by_default(torch.float64):
        energy, forces = energy_and_forces(context(ready.system, ready.structure.positions_A))
    assert_same(energy, expected[0])
    assert_same(forces, expected[1])
