from dataclasses import replace

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from compactff_md.training.config import TrainConfig
from compactff_md.training.dataset import known_elements, load_sets, read_labelled, split
from compactff_md.training.keys import LabelKeys
from compactff_md.training.recipe_files import make_config


def test_isolated_atoms_are_taken_out_of_the_frames(ethanol_files):
    data = read_labelled(read(ethanol_files["train"], ":3") + read(ethanol_files["isolated_atoms"], ":"))
    assert len(data) == 3
    assert data.isolated_eV["H"] == pytest.approx(-13.568422383)
    assert set(data.isolated_eV) == {"H", "C", "N", "O"}


def test_config_type_marks_an_isolated_atom_in_a_cell(water_frames):
    atom = ase.Atoms("H", cell=[10, 10, 10], pbc=True, info={"config_type": "IsolatedAtom", "energy": -13.0})
    assert read_labelled([*water_frames, atom]).isolated_eV == {"H": -13.0}


def test_labels_survive_a_file_of_mace(tmp_path, water_frames):
    for index, frame in enumerate(water_frames):
        frame.info["REF_energy"] = frame.get_potential_energy()
        frame.arrays["REF_forces"] = frame.get_forces()
        frame.info["temperature_K"] = 300.0 + index
        frame.calc = None
    write(tmp_path / "mace.xyz", water_frames)
    data = read_labelled(tmp_path / "mace.xyz")
    assert data.frames[2].energy_eV == pytest.approx(water_frames[2].info["REF_energy"])
    assert np.allclose(data.frames[2].forces_eV_per_A, water_frames[2].arrays["REF_forces"], atol=1e-8)
    assert data.frames[2].temperature_K == 302.0
    assert data.frames[2].name == "mace.xyz frame 2"


def test_a_frame_without_forces_is_named(tmp_path, water_frames):
    del water_frames[4].calc.results["forces"]
    with pytest.raises(CompactFFError, match="frame 4 has no forces 'forces'"):
        read_labelled(water_frames)


def test_a_bad_structure_is_named(water_frames):
    water_frames[1].positions[0, 0] = np.nan
    with pytest.raises(CompactFFError, match=r"frame 1: positions of atoms \[0\] are NaN"):
        read_labelled(water_frames)


def test_unreadable_and_empty_files(tmp_path):
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(CompactFFError, match=r"empty\.xyz"):
        read_labelled(tmp_path / "empty.xyz")
    with pytest.raises(CompactFFError, match="no such structure file"):
        read_labelled(tmp_path / "missing.xyz")
    with pytest.raises(CompactFFError, match="the list of frames is empty"):
        read_labelled([])


def test_load_from_several_files(ethanol_files):
    config = TrainConfig()
    train, valid = load_sets(
        [ethanol_files["train"], ethanol_files["isolated_atoms"]], ethanol_files["test"], config
    )
    assert (len(train), len(valid)) == (40, 20)
    assert valid.isolated_eV == train.isolated_eV != {}


def smeared(frames: list[ase.Atoms]) -> list[ase.Atoms]:
    """The same, with a free energy that is 0.1 eV below the energy."""
    copies = [frame.copy() for frame in frames]
    for copy, frame in zip(copies, frames, strict=True):
        results = frame.calc.results
        copy.calc = SinglePointCalculator(copy, **results, free_energy=results["energy"] - 0.1)
    return copies


def energies(data) -> list[float]:
    return [frame.energy_eV for frame in data.frames]


def test_training_and_validation_have_the_same_energies(water_frames, tmp_path):
    both, plain = smeared(water_frames), [frame.get_potential_energy() for frame in water_frames]
    free = [energy - 0.1 for energy in plain]
    atoms = [ase.Atoms(symbol, info={"energy": energy}) for symbol, energy in (("H", -3.0), ("O", -2.0))]
    train, valid = load_sets([[*both[:6], *atoms]], both[6:], TrainConfig())
    assert energies(train) == free[:6] and energies(valid) == free[6:]
    assert train.isolated_eV == {"H": -3.0, "O": -2.0} and train.keys.energy == "free_energy"
    # Where one file lacks the free energy, all is read without it.
    for files in ([both[:3], water_frames[3:6]], [water_frames[3:6], both[:3]]):
        train, valid = load_sets(files, both[6:], TrainConfig())
        assert sorted(energies(train)) == sorted(plain[:6]) and energies(valid) == plain[6:]
    with pytest.warns(
        UserWarning, match=r"not all frames have the energy 'free_energy' of the training; 'en"
    ):
        valid = load_sets([both[:6]], water_frames[6:], TrainConfig())[1]
    assert energies(valid) == plain[6:]
    for atom in atoms:
        atom.calc = SinglePointCalculator(atom, energy=atom.info.pop("energy"))
    write(tmp_path / "atoms.xyz", smeared(atoms))
    config = TrainConfig(isolated_energies_eV=str(tmp_path / "atoms.xyz"))
    assert load_sets([water_frames], None, config)[0].isolated_eV == {"H": -3.0, "O": -2.0}
    assert load_sets([both], None, config)[0].isolated_eV == {"H": -3.1, "O": -2.1}


def test_isolated_atoms_of_one_element_have_one_energy(water_frames, tmp_path):
    def atom(symbol: str, energy_eV: float) -> ase.Atoms:
        return ase.Atoms(symbol, info={"energy": energy_eV})

    frames = [*water_frames, atom("H", -3.0), atom("O", -2.0)]
    message = r"frame 10 has 5.0000 eV for the isolated H, the given list, frame 8 has -3.0000; allowed are"
    with pytest.raises(CompactFFError, match=message):
        load_sets([[*frames, atom("H", 5.0)]], None, TrainConfig())
    write(tmp_path / "atoms.xyz", [atom("O", -2.0), atom("H", -2.99)])
    with pytest.raises(CompactFFError, match=r"atoms.xyz frame 1 has -2.9900 eV .*list, frame 8 has -3.0000"):
        load_sets([frames, tmp_path / "atoms.xyz"], None, TrainConfig())
    same = [*frames, atom("H", -3.0005)]
    assert load_sets([same], None, TrainConfig())[0].isolated_eV["O"] == -2.0
    nan = [*water_frames, atom("H", float("nan")), atom("O", -2.0)]
    with pytest.raises(CompactFFError, match="frame 8: the energy of the isolated H is nan; label it again"):
        load_sets([nan], None, TrainConfig())
    with pytest.raises(CompactFFError, match="the energy of the isolated H is nan; expected a number in eV"):
        load_sets([frames], None, TrainConfig(isolated_energies_eV={"H": float("nan")}))
    # What is given outranks the frames.
    config = TrainConfig(isolated_energies_eV={"H": -3.1})
    for files in ([nan], [frames, tmp_path / "atoms.xyz"]):
        assert load_sets(files, None, config)[0].isolated_eV == {"H": -3.1, "O": -2.0}
    write(tmp_path / "two.xyz", [atom("H", -3.0), atom("H", -3.1), atom("O", -2.0)])
    with pytest.raises(CompactFFError, match=r"two.xyz frame 1 has -3.1000 eV for the isolated H"):
        load_sets([frames], None, TrainConfig(isolated_energies_eV=str(tmp_path / "two.xyz")))


def test_isolated_energies_from_the_configuration(ethanol_files, tmp_path):
    given = {"H": -13.5, "C": -1025.0, "O": -2035.0}
    config = make_config(TrainConfig, {"isolated_energies_eV": given})
    assert load_sets([ethanol_files["train"]], None, config)[0].isolated_eV == given
    config = make_config(TrainConfig, {"isolated_energies_eV": str(ethanol_files["isolated_atoms"])})
    assert load_sets([ethanol_files["train"]], None, config)[0].isolated_eV["O"] < -2035.5
    config = make_config(TrainConfig, {"isolated_energies_eV": str(ethanol_files["test"])})
    with pytest.raises(CompactFFError, match="expected isolated atoms only"):
        load_sets([ethanol_files["train"]], None, config)


def test_validation_is_checked_against_the_training(ethanol_files, water_frames):
    with pytest.raises(CompactFFError, match="is the same structure as"):
        load_sets([ethanol_files["train"]], ethanol_files["train"], TrainConfig())
    with pytest.raises(CompactFFError, match="hold C, which the training frames do not"):
        load_sets([water_frames], ethanol_files["test"], TrainConfig())


def test_split_is_reproducible_and_disjoint(ethanol_files):
    data = read_labelled(ethanol_files["train"])
    (train, valid), (again, _) = split(data, seed=3), split(data, seed=3)
    assert (len(train), len(valid)) == (38, 2)
    assert train.digest == again.digest != split(data, seed=4)[0].digest
    assert not {f.name for f in train.frames} & {f.name for f in valid.frames}


def test_copies_are_held_out_together_and_lone_elements_are_not(ethanol_files):
    data = read_labelled(ethanol_files["train"])
    tripled = replace(data, frames=data.frames * 3)
    for seed in range(10):
        train, valid = split(tripled, seed)
        sides = [{f.structure.positions_A.tobytes() for f in part.frames} for part in (train, valid)]
        assert not sides[0] & sides[1] and len(valid) % 3 == 0 and len(train) + len(valid) == 120
    silane = Structure.from_ase(molecule("SiH4"))
    lone = replace(data.frames[0], structure=silane, forces_eV_per_A=np.zeros((5, 3)))
    mixed = replace(data, frames=(*data.frames[:19], lone))
    for seed in range(60):
        train, valid = split(mixed, seed)
        assert len(valid) == 1 and "Si" in train.elements and "Si" not in valid.elements
    with pytest.raises(CompactFFError, match="none of the 3 frames can be held out"):
        split(replace(data, frames=data.frames[:1] * 3), 0)


def test_elements_of_the_student(ethanol_files):
    data = read_labelled(ethanol_files["train"])
    assert known_elements(data, TrainConfig()) == ["H", "C", "O"]
    more = make_config(TrainConfig, {"elements": ["O", "C", "H", "N"]})
    assert known_elements(data, more) == ["O", "C", "H", "N"]
    with pytest.raises(CompactFFError, match="elements are H, C, but the data also hold O"):
        known_elements(data, make_config(TrainConfig, {"elements": ["H", "C"]}))


def test_energies_of_atoms_are_left_out_unless_they_have_a_weight(water_frames):
    for frame in water_frames:
        frame.arrays["energies"] = np.zeros(len(frame))  # somebody's, of another meaning
    sets = load_sets([water_frames[2:]], water_frames[:2], TrainConfig())
    assert all(frame.atom_energies_eV is None for data in sets for frame in data.frames)
    with pytest.raises(CompactFFError, match=r"energies of atoms add up to.*set atom_energies_weight to 0"):
        load_sets([water_frames[2:]], water_frames[:2], TrainConfig(atom_energies_weight=1.0))


def test_given_keys_reach_the_reader():
    atoms = molecule("H2O")
    atoms.info["e"], atoms.arrays["f"] = -14.0, np.zeros((3, 3))
    assert read_labelled([atoms], LabelKeys(energy="e", forces="f")).frames[0].energy_eV == -14.0


def test_labels_of_weight_zero_are_left_out_and_other_weights_told(tmp_path, copper_frames):
    frames = [frame.copy() for frame in copper_frames]
    for frame, given in zip(frames, copper_frames, strict=True):
        frame.calc = given.calc
    for index, weights in enumerate(
        (
            {"config_weight": 0.0},
            {"config_forces_weight": 0},
            {"config_stress_weight": 0.0},
            {"config_weight": 1},
        )
    ):
        frames[index].info.update(weights)
    atom = ase.Atoms("Cu", info={"config_type": "IsolatedAtom", "energy": 0.0, "config_weight": 0.5})
    write(tmp_path / "mace.xyz", [*frames, atom])
    with pytest.warns(
        UserWarning, match=r"^mace.xyz: 2 frames have a weight of 0 \(config_weight .*left out$"
    ):
        data = read_labelled(tmp_path / "mace.xyz")
    assert [frame.name for frame in data.frames][:2] == ["mace.xyz frame 2", "mace.xyz frame 3"]
    assert data.frames[0].stress_eV_per_A3 is None and data.frames[1].stress_eV_per_A3 is not None
    assert data.isolated_eV == {"Cu": 0.0}
    frames[3].info["config_energy_weight"] = 10.0
    with pytest.warns(UserWarning, match="left out; weights of frames .* other than 0 are not used$"):
        read_labelled(frames)
    read_labelled(frames[4:])  # warnings are errors here
