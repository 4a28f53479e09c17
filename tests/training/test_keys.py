import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from compactff_md.errors import CompactFFError
from compactff_md.training.keys import (
    LabelKeys,
    atom_energies_of,
    energy_of,
    forces_of,
    other_names,
    resolve_keys,
    stress_of,
)

FORCES = np.arange(9.0).reshape(3, 3)
STRESS = np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]]) * 1e-3


def with_labels(energy: str, forces: str) -> ase.Atoms:
    atoms = molecule("H2O")
    atoms.info[energy] = -14.0
    atoms.arrays[forces] = FORCES
    return atoms


@pytest.mark.parametrize(
    ("energy", "forces"),
    [
        ("REF_energy", "REF_forces"),
        ("dft_energy", "dft_forces"),
        ("DFT_energy", "DFT_forces"),
        ("energy", "forces"),
        ("TotEnergy", "force"),
    ],
)
def test_conventions_are_found(energy, forces):
    atoms = with_labels(energy, forces)
    keys = resolve_keys([atoms], LabelKeys(), "file")
    assert (keys.energy, keys.forces, keys.stress, keys.virial) == (energy, forces, None, None)
    assert energy_of(atoms, keys, "frame") == -14.0
    assert np.array_equal(forces_of(atoms, keys, "frame"), FORCES)


def test_results_of_a_calculator_are_found():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-14.0, forces=FORCES)
    keys = resolve_keys([atoms], LabelKeys(), "file")
    assert energy_of(atoms, keys, "frame") == -14.0
    assert np.array_equal(forces_of(atoms, keys, "frame"), FORCES)


def test_reference_labels_outrank_a_calculators():
    atoms = with_labels("REF_energy", "REF_forces")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=-FORCES)
    keys = resolve_keys([atoms], LabelKeys(), "file")
    assert (keys.energy, keys.forces) == ("REF_energy", "REF_forces")


def copper(**info) -> ase.Atoms:
    """Four atoms with REF labels, and another calculator's results beside them."""
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(info, REF_energy=-14.0)
    atoms.arrays["REF_forces"] = np.zeros((4, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=9.0, forces=np.ones((4, 3)), stress=np.ones(6))
    return atoms


def test_the_stress_is_that_of_the_energy():
    atoms = copper(REF_virials=-STRESS * 4)
    keys = resolve_keys([atoms], LabelKeys(), "file")
    assert (keys.energy, keys.stress, keys.virial) == ("REF_energy", None, "REF_virials")
    assert np.allclose(stress_of(atoms, keys, "frame") * atoms.get_volume(), STRESS * 4)
    keys = resolve_keys([atoms], LabelKeys(energy="energy"), "file")
    assert (keys.forces, keys.stress, keys.virial) == ("forces", "stress", None)
    keys = resolve_keys([copper(mine=-STRESS)], LabelKeys(virial="mine"), "file")
    assert (keys.stress, keys.virial) == (None, "mine")
    assert resolve_keys([copper()], LabelKeys(), "file").stress == "stress"  # there is no other


def test_cells_of_one_atom_have_forces_and_a_stress():
    cells = [bulk("Cu", a=a) for a in (3.5, 3.6)]
    for cell in cells:
        cell.info.update(REF_energy=-3.0, mine=STRESS)
        cell.arrays["REF_forces"] = np.zeros((1, 3))
    keys = resolve_keys(cells, LabelKeys(stress="mine"), "file")
    assert (keys.forces, keys.stress) == ("REF_forces", "mine")
    with pytest.raises(CompactFFError, match="no frame has stress under nonsense"):
        resolve_keys(cells, LabelKeys(stress="nonsense"), "file")
    atom = ase.Atoms("Cu", info={"REF_energy": 0.0})
    boxed = ase.Atoms("Cu", cell=[9] * 3, pbc=True, info={"REF_energy": 0.0, "config_type": "IsolatedAtom"})
    keys = resolve_keys([atom, boxed], LabelKeys(forces="my_forces", stress="mine"), "file")
    assert (keys.energy, keys.forces, keys.stress) == ("REF_energy", None, None)


def test_the_energy_is_the_one_whose_derivative_the_forces_are(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-14.0, free_energy=-14.1, forces=FORCES)
    write(tmp_path / "smeared.xyz", [atoms, atoms])
    frames = read(tmp_path / "smeared.xyz", ":")
    assert resolve_keys(frames, LabelKeys(), "file").energy == "free_energy"
    assert energy_of(frames[0], resolve_keys(frames, LabelKeys(), "file"), "frame") == -14.1
    assert resolve_keys(frames, LabelKeys(energy="energy"), "file").energy == "energy"
    plain = molecule("H2O")
    plain.calc = SinglePointCalculator(plain, energy=-14.0, forces=FORCES)
    assert resolve_keys([*frames, plain], LabelKeys(), "file").energy == "energy"  # one for all
    frames[0].info["REF_energy"] = -13.0
    assert resolve_keys(frames, LabelKeys(), "file").energy == "REF_energy"


def test_frames_with_forces_decide_and_isolated_atoms_may_have_an_energy_alone():
    frame, atom = molecule("H2O"), ase.Atoms("H")
    frame.calc = SinglePointCalculator(frame, energy=-14.0, free_energy=-14.1, forces=FORCES)
    atom.calc = SinglePointCalculator(atom, energy=-13.0)
    for frames in ([frame, atom], [atom, frame]):
        keys = resolve_keys(frames, LabelKeys(), "file")
        assert keys.energy == "free_energy"
        assert [energy_of(atoms, keys, "frame") for atoms in (frame, atom)] == [-14.1, -13.0]
    assert resolve_keys([atom], LabelKeys(), "file", keys).energy == "free_energy"
    assert resolve_keys([atom], LabelKeys(), "file").energy == "energy"


def test_names_of_the_training_come_first():
    frame = copper(REF_virials=-STRESS * 4)
    like = LabelKeys(energy="energy", forces="forces", stress="stress")
    keys = resolve_keys([frame], LabelKeys(), "file", like)
    assert keys == like and other_names(keys, LabelKeys(), like) == []
    assert resolve_keys([frame], LabelKeys(energy="REF_energy"), "file", like).energy == "REF_energy"
    like = LabelKeys(energy="free_energy", forces="my_forces", virial="my_virial")
    keys = resolve_keys([frame], LabelKeys(), "file", like)
    assert (keys.energy, keys.forces, keys.virial) == ("REF_energy", "REF_forces", "REF_virials")
    assert other_names(keys, LabelKeys(), like) == [
        ("energy", "REF_energy", "free_energy"),
        ("forces", "REF_forces", "my_forces"),
        ("stress", "REF_virials", "my_virial"),
    ]
    assert other_names(keys, keys, like) == []  # asked for
    assert other_names(LabelKeys(energy="REF_energy"), LabelKeys(), like)[1:] == []  # isolated atoms


def test_given_names_are_used():
    atoms = with_labels("mine", "my_forces")
    with pytest.raises(CompactFFError, match=r"no frame has energy under REF_energy.*it has mine, my_forces"):
        resolve_keys([atoms], LabelKeys(), "file")
    keys = resolve_keys([atoms], LabelKeys(energy="mine", forces="my_forces"), "file")
    assert energy_of(atoms, keys, "frame") == -14.0
    with pytest.raises(CompactFFError, match="no frame has stress under tension"):
        resolve_keys([atoms], LabelKeys(energy="mine", forces="my_forces", stress="tension"), "file")


def test_missing_and_malformed_labels_name_the_frame():
    keys = LabelKeys(energy="energy", forces="forces")
    atoms = molecule("H2O")
    with pytest.raises(CompactFFError, match="frame 7 has no energy 'energy'"):
        energy_of(atoms, keys, "frame 7")
    with pytest.raises(CompactFFError, match="frame 7 has no forces 'forces'"):
        forces_of(atoms, keys, "frame 7")
    atoms.info["energy"] = [1.0, 2.0]
    with pytest.raises(CompactFFError, match="expected one number"):
        energy_of(atoms, keys, "frame 7")
    atoms.arrays["forces"] = np.zeros((3, 2))
    with pytest.raises(CompactFFError, match=r"shape \(3, 2\).*expected numbers of shape \(3, 3\)"):
        forces_of(atoms, keys, "frame 7")
    assert atom_energies_of(atoms, keys, "frame 7") is None
    atoms.info["energies"] = [1.0, 2.0]
    with pytest.raises(CompactFFError, match=r"shape \(2,\).*expected numbers of shape \(3,\) in eV"):
        atom_energies_of(atoms, LabelKeys(energies="energies"), "frame 7")


@pytest.mark.parametrize("form", ["matrix", "nine", "voigt"])
def test_stress_in_every_form(form):
    atoms = bulk("Cu", cubic=True)
    voigt = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.info["REF_stress"] = {"matrix": STRESS, "nine": STRESS.ravel(), "voigt": voigt}[form]
    assert np.allclose(stress_of(atoms, LabelKeys(stress="REF_stress"), "frame"), STRESS)


def test_virial_is_minus_volume_times_stress():
    atoms = bulk("Cu", cubic=True)
    atoms.info["REF_virials"] = -STRESS * atoms.get_volume()
    assert np.allclose(stress_of(atoms, LabelKeys(virial="REF_virials"), "frame"), STRESS)


def test_a_virial_of_weight_zero_is_none():
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(stress=STRESS, virial=STRESS, config_stress_weight=0.0)
    keys = LabelKeys(stress="stress", virial="virial")
    assert np.allclose(stress_of(atoms, keys, "frame"), -STRESS / atoms.get_volume())
    atoms.info["config_virials_weight"] = 0.0
    assert stress_of(atoms, keys, "frame") is None


def test_stress_is_none_without_a_period_and_refused_with_five_numbers():
    keys = LabelKeys(stress="stress")
    molecule_ = molecule("H2O")
    molecule_.info["stress"] = np.zeros(6)
    assert stress_of(molecule_, keys, "frame") is None
    crystal = bulk("Cu")
    crystal.info["stress"] = np.zeros(5)
    with pytest.raises(CompactFFError, match="expected 6 numbers"):
        stress_of(crystal, keys, "frame 3")
