from dataclasses import replace

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.training.checks import check_disjoint, check_labels, work_slope
from compactff_md.training.config import CheckConfig, TrainConfig
from compactff_md.training.dataset import check_validation, read_labelled
from compactff_md.training.frames import Frame, LabelledSet
from compactff_md.units import BOHR_TO_A, HARTREE_TO_EV


@pytest.fixture
def ethanol(ethanol_files) -> LabelledSet:
    data = read_labelled(ethanol_files["train"])
    return LabelledSet(data.frames, read_labelled(ethanol_files["isolated_atoms"]).isolated_eV)


def changed(data: LabelledSet, index: int, **fields) -> LabelledSet:
    frames = list(data.frames)
    frames[index] = replace(frames[index], **fields)
    return LabelledSet(tuple(frames), data.isolated_eV)


def scaled(data: LabelledSet, energy: float = 1.0, forces: float = 1.0) -> LabelledSet:
    frames = [
        replace(f, energy_eV=f.energy_eV * energy, forces_eV_per_A=f.forces_eV_per_A * forces)
        for f in data.frames
    ]
    return LabelledSet(tuple(frames))


def springs(count: int = 60, energy: float = 1.0, forces: float = 1.0) -> LabelledSet:
    """Water held by springs, in small steps: energy and forces belong together."""
    rng = np.random.default_rng(0)
    start = molecule("H2O")
    frames = []
    for index in range(count):
        shift = rng.normal(0, 0.05, (3, 3))
        structure = Structure(start.positions + shift, start.numbers)
        total = -14.0 + 10.0 * float((shift**2).sum())
        frames.append(Frame(structure, total * energy, -20.0 * shift * forces, name=f"frame {index}"))
    return LabelledSet(tuple(frames))


def bound_by_valence(count: int = 60) -> LabelledSet:
    """Water in eV whose energies are by chance those of its atoms in Hartree, as GFN2-xTB has of C6H14S."""
    frames = [replace(frame, energy_eV=frame.energy_eV - 62.07) for frame in springs(count).frames]
    return LabelledSet(tuple(frames))


def test_good_data_pass(ethanol):
    assert len(check_labels(ethanol, CheckConfig())) == 40
    assert len(check_labels(springs(), CheckConfig())) == 60


@pytest.mark.parametrize("field", ["energy_eV", "forces_eV_per_A", "stress_eV_per_A3"])
def test_non_finite_labels(ethanol, field):
    forces = np.zeros((9, 3))
    forces[2, 1] = np.inf
    bad = {"energy_eV": float("nan"), "forces_eV_per_A": forces, "stress_eV_per_A3": np.full((3, 3), np.nan)}
    with pytest.raises(CompactFFError, match=r"ethanol_train.xyz frame 3: \w+ is NaN or infinite; label it"):
        check_labels(changed(ethanol, 3, **{field: bad[field]}), CheckConfig())


def test_energies_of_atoms_add_up(ethanol):
    parts = np.full(9, ethanol.frames[3].energy_eV / 9)
    check_labels(changed(ethanol, 3, atom_energies_eV=parts), CheckConfig())
    with pytest.raises(
        CompactFFError, match=r"frame 3: its energies of atoms add up to \+0.9 eV from its en"
    ):
        check_labels(changed(ethanol, 3, atom_energies_eV=parts + 0.1), CheckConfig())


def test_absurd_forces(ethanol):
    forces = np.zeros((9, 3))
    forces[4] = [0.0, 120.0, 0.0]
    data = changed(ethanol, 5, forces_eV_per_A=forces)
    with pytest.raises(CompactFFError, match=r"frame 5: the force on atom 4 is 120 eV/A; allowed are 100"):
        check_labels(data, CheckConfig())
    check_labels(data, CheckConfig(max_force_eV_per_A=150.0))


def test_duplicates_are_named_dropped_or_kept(ethanol):
    data = changed(ethanol, 7, structure=ethanol.frames[2].structure)
    with pytest.raises(CompactFFError, match=r"frame 7 is the same structure as .*frame 2; remove one"):
        check_labels(data, CheckConfig())
    assert len(check_labels(data, CheckConfig(duplicates="drop"))) == 39
    assert len(check_labels(data, CheckConfig(duplicates="keep"))) == 40


def test_validation_frames_must_be_unseen(ethanol):
    other = LabelledSet(ethanol.frames[9:10])
    with pytest.raises(CompactFFError, match=r"meant for the test, is the same structure as .*frame 9"):
        check_disjoint(ethanol, other, "the test")


def test_energies_far_from_their_composition(ethanol):
    data = changed(ethanol, 11, energy_eV=ethanol.frames[11].energy_eV + 15.0)
    with pytest.raises(CompactFFError, match=r"frame 11: its energy -4194\.\d+ eV is 1\.\d+ eV per\s+atom"):
        check_labels(data, CheckConfig())


def test_overlapping_atoms_and_nanometres(ethanol):
    structure = ethanol.frames[0].structure
    positions = structure.positions_A.copy()
    positions[1] = positions[0] + [0.1, 0.0, 0.0]
    overlapping = changed(ethanol, 0, structure=Structure(positions, structure.numbers))
    with pytest.raises(CompactFFError, match="frame 0: atoms 0 and 1 overlap"):
        check_labels(overlapping, CheckConfig())
    small = changed(ethanol, 0, structure=Structure(0.1 * structure.positions_A, structure.numbers))
    with pytest.raises(CompactFFError, match="look like nm"):
        check_labels(small, CheckConfig())


def test_total_energies_in_hartree(ethanol):
    with pytest.raises(CompactFFError, match=r"likely in Hartree, expected eV.*multiply energies"):
        check_labels(scaled(ethanol, energy=1 / HARTREE_TO_EV), CheckConfig())
    check_labels(scaled(ethanol, energy=1 / HARTREE_TO_EV), CheckConfig(units=False))
    hydrogen = LabelledSet(ethanol.frames, {"H": -0.4998, "C": -37.7, "O": -74.8})
    with pytest.raises(CompactFFError, match=r"isolated H has -0\.4998: likely Hartree"):
        check_labels(hydrogen, CheckConfig())


def test_energies_in_eV_may_be_like_those_of_atoms_in_hartree():
    many, few = bound_by_valence(), bound_by_valence(12)
    for data in (many, few):  # forces in Hartree/A would fit the energies as well
        assert len(check_labels(replace(data, by_teacher=True), CheckConfig())) == len(data)
        assert len(check_labels(data, CheckConfig(units=False))) == len(data)
        with pytest.raises(CompactFFError, match="the energies are likely in Hartree"):
            check_labels(data, CheckConfig())
    apart = LabelledSet(many.frames[:40]), LabelledSet(many.frames[40:45])
    assert len(check_validation(apart[1], apart[0], TrainConfig())) == 5


@pytest.mark.parametrize(
    ("energy", "forces", "message"),
    [
        (1 / HARTREE_TO_EV, 1.0, "the energies are in Hartree"),
        (1.0, BOHR_TO_A / HARTREE_TO_EV, "the forces are in Hartree/bohr"),
        (1 / HARTREE_TO_EV, BOHR_TO_A / HARTREE_TO_EV, "energies and forces are in Hartree"),
        (23.0605, 1.0, "kcal/mol"),
        (96.4853, 1.0, "kJ/mol"),
        (1.0, -1.0, "wrong sign"),
    ],
)
def test_energies_that_do_not_fit_the_forces(energy, forces, message):
    with pytest.raises(CompactFFError, match=message):
        check_labels(springs(energy=energy, forces=forces), CheckConfig())


def copper(atoms: ase.Atoms) -> Frame:
    atoms.calc = EMT()
    labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    return Frame(Structure.from_ase(atoms), *labels)


@pytest.mark.parametrize("seed", [4, 15, 21])
def test_strained_cells_of_one_crystal_pass(seed):
    rng = np.random.default_rng(seed)
    start = bulk("Cu", cubic=True, a=3.6)
    start.symbols[0] = "Au"
    start.positions += rng.normal(0, 0.1, (4, 3)) + rng.uniform(0, 3.6, 3)
    frames = []
    for stretch in np.linspace(-0.04, 0.04, 22):
        atoms = start.copy()
        atoms.set_cell(atoms.cell.array @ np.diag([1 + stretch, 1, 1]), scale_atoms=True)
        frames.append(copper(atoms))
    assert len(check_labels(LabelledSet(tuple(frames)), CheckConfig())) == 22
    assert np.isnan(work_slope(tuple(frames))[0])


@pytest.mark.parametrize(
    ("energy", "forces", "message"),
    [(1.0, 1.0, ""), (1 / HARTREE_TO_EV, 1.0, "the energies are in Hartree"), (1.0, -1.0, "wrong sign")],
)
def test_crystals_in_few_cells_are_compared_within_each(energy, forces, message):
    frames = []
    for seed in range(30):
        atoms = bulk("Cu", cubic=True, a=(3.55, 3.6, 3.65)[seed % 3])
        atoms.rattle(0.02, seed=seed)
        frames.append(replace(copper(atoms), stress_eV_per_A3=None))
    data = scaled(LabelledSet(tuple(frames)), energy, forces)
    if not message:
        assert len(check_labels(data, CheckConfig())) == 30
        assert work_slope(data.frames)[0] == pytest.approx(1, abs=0.05)
        return
    with pytest.raises(CompactFFError, match=message):
        check_labels(data, CheckConfig())


def test_isolated_atoms_must_be_complete_and_on_the_same_scale(ethanol):
    with pytest.raises(CompactFFError, match="given for H, C, not for O"):
        check_labels(LabelledSet(ethanol.frames, {"H": -13.6, "C": -1025.0}), CheckConfig())
    with pytest.raises(CompactFFError, match="eV per atom away from its isolated atoms"):
        check_labels(LabelledSet(ethanol.frames, {"H": -3.0, "C": -5.0, "O": -5.0}), CheckConfig())


def test_no_frames():
    with pytest.raises(CompactFFError, match="there is no frame to train on"):
        check_labels(LabelledSet(()), CheckConfig())
