"""Energies of atoms level off beyond the bounds, and nothing changes within."""

import copy

import pytest
import torch

from compactff_md.artifact import describe, load_student, read_metadata, save_student
from compactff_md.errors import CompactFFError
from compactff_md.export.torchscript import export_torchscript
from compactff_md.gradients import predict
from compactff_md.neighbours import neighbour_table
from compactff_md.structure import Structure
from compactff_md.students import create
from student_builders import CRYSTAL, MOLECULE, biting, evaluate, species_of

BOUNDS = (-0.5, 0.7, 0.4)


def test_the_curve_is_smooth_and_bounded():
    network = create("ultra-tiny", ["H"]).double()
    network.bound_energies(*BOUNDS)
    x = torch.linspace(-3.0, 4.0, 70_001, dtype=torch.float64)
    value, slope = network.level(x)
    lowest, highest, room = BOUNDS
    inside = (x >= lowest) & (x <= highest)
    assert torch.equal(value[inside], x[inside]) and bool((slope[inside] == 1.0).all())
    assert float(value.min()) >= lowest - 0.25 * room - 1e-6
    assert float(value.max()) <= highest + room + 1e-6
    assert bool((slope >= 0).all())
    h = float(x[1] - x[0])
    measured = torch.diff(value) / h
    torch.testing.assert_close(measured, 0.5 * (slope[1:] + slope[:-1]), atol=1e-6, rtol=0)
    bend = torch.diff(slope) / h  # continuous: its steps are of order h
    assert float(torch.diff(bend).abs().max()) < 0.05


def test_forces_are_the_derivative_where_the_bounds_bite(student):
    bounded, raw = biting(student, MOLECULE)
    energies, forces, _ = evaluate(bounded, MOLECULE)
    plain, other, _ = evaluate(student, MOLECULE)
    lowest, highest, _ = bounded.energy_bounds.tolist()
    within = (raw >= lowest) & (raw <= highest)
    assert 0 < int(within.sum()) < len(raw)
    torch.testing.assert_close(energies[within], plain[within])
    # The curve leaves the line with the third power: an atom just beyond a bound is where it was to rounding.
    assert float((energies - plain)[~within].abs().median()) > 0 and not torch.allclose(forces, other)
    h = 1e-5
    for atom, axis in ((0, 0), (5, 1), (11, 2)):
        ends = []
        for sign in (1.0, -1.0):
            positions = MOLECULE.positions_A.copy()
            positions[atom, axis] += sign * h
            ends.append(float(evaluate(bounded, Structure(positions, MOLECULE.numbers))[0].sum()))
        slope = (ends[0] - ends[1]) / (2 * h)
        assert float(forces[atom, axis]) == pytest.approx(-slope, abs=2e-6 * max(1.0, abs(slope)))


def test_atoms_packed_as_no_data_are_have_no_bottomless_hole(student):
    bounded, _ = biting(student, CRYSTAL)
    packed = Structure(0.3 * MOLECULE.positions_A, MOLECULE.numbers)
    room = float(bounded.energy_scale_eV) * float(bounded.energy_bounds[2])
    lowest = float(bounded.energy_scale_eV * bounded.energy_bounds[0])
    table = neighbour_table(packed, bounded.cutoff_A)
    energies, _, _ = predict(
        bounded, torch.from_numpy(packed.positions_A), table, species_of(bounded, packed)
    )
    beside_offsets = energies - bounded.offsets_eV()[species_of(bounded, packed)]
    assert float(beside_offsets.min()) >= lowest - 0.25 * room - 1e-6


def test_the_file_keeps_them(tmp_path, trained):
    bounded = copy.deepcopy(trained)
    bounded.bound_energies(*BOUNDS)
    save_student(tmp_path / "bounded", bounded, describe(bounded))
    loaded, metadata = load_student(tmp_path / "bounded")
    assert loaded.bounded and metadata.energy_bounds == pytest.approx(BOUNDS)
    assert metadata.format_version == 3
    for mine, theirs in zip(evaluate(loaded, CRYSTAL), evaluate(bounded, CRYSTAL), strict=True):
        torch.testing.assert_close(mine, theirs)
    save_student(tmp_path / "plain", trained, describe(trained))
    assert read_metadata(tmp_path / "plain").energy_bounds is None
    assert not load_student(tmp_path / "plain")[0].bounded


def test_exported_files_have_them(tmp_path, trained):
    plain = copy.deepcopy(trained)
    plain.energy_scale_eV.fill_(30.0)
    bounded = copy.deepcopy(plain)
    bounded.bound_energies(*biting(copy.deepcopy(plain).double(), MOLECULE)[0].energy_bounds.tolist())
    export_torchscript(bounded, describe(bounded), tmp_path / "bounded.pt")
    module = torch.jit.load(tmp_path / "bounded.pt")
    positions, numbers = torch.from_numpy(MOLECULE.positions_A), torch.from_numpy(MOLECULE.numbers)
    free = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    _, forces, _ = module.evaluate(positions, numbers, *free)
    expected, other = (evaluate(network, MOLECULE)[1] for network in (bounded, plain))
    assert float((forces - expected).abs().max()) < 1e-3
    assert float((forces - other).abs().max()) > 0.01


@pytest.mark.parametrize(
    "bounds", [(1.0, 0.0, 1.0), (0.0, float("inf"), 1.0), (0.0, 1.0, 0.0), (float("nan"), 1.0, 1.0)]
)
def test_bounds_that_are_none(bounds):
    with pytest.raises(CompactFFError, match="expected lowest < highest and room"):
        create("ultra-tiny", ["H"]).bound_energies(*bounds)
