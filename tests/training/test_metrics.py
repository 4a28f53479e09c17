from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.collections import g2

from compactff_md import students
from compactff_md.structure import Structure
from compactff_md.training.frames import Frame
from compactff_md.training.metrics import (
    Comparison,
    compare,
    energy_errors,
    force_errors,
    joined,
    stress_errors,
    summary,
)


def test_force_errors_by_hand():
    reference = np.array([[1.0, -1.0, 0.0]])
    predicted = np.array([[1.1, -1.0, 0.2]])
    errors = force_errors(reference, predicted)
    assert errors["rmse_meV_per_A"] == pytest.approx(1e3 * (0.05 / 3) ** 0.5)
    assert errors["mae_meV_per_A"] == pytest.approx(100.0)
    assert errors["r2"] == pytest.approx(1 - 0.05 / 2)
    assert errors["rms_meV_per_A"] == pytest.approx(1e3 * (2 / 3) ** 0.5)
    assert np.isnan(force_errors(np.zeros((2, 3)), predicted)["r2"])


def comparison(names, energies, predicted, temperatures=None) -> Comparison:
    structures = [Structure.from_ase(molecule(name)) for name in names]
    temperatures = temperatures or [None] * len(names)
    rng = np.random.default_rng(0)
    frames = tuple(
        Frame(s, e, rng.normal(size=(len(s), 3)), temperature_K=t)
        for s, e, t in zip(structures, energies, temperatures, strict=True)
    )
    forces = np.concatenate([f.forces_eV_per_A for f in frames])
    return Comparison(
        frames,
        np.repeat(np.arange(len(frames)), [len(f) for f in frames]),
        np.concatenate([s.numbers for s in structures]),
        np.array(energies),
        np.array(predicted),
        forces,
        forces + 0.1 * (np.concatenate([s.numbers for s in structures]) == 1)[:, None],
        np.full((len(frames), 3, 3), np.nan),
        np.zeros((len(frames), 3, 3)),
    )


def test_energies_are_compared_up_to_a_constant_a_composition():
    result = comparison(
        ["H2O", "H2O", "CH4", "CH4"], [-14.0, -13.9, -24.0, -23.7], [-13.0, -12.9, -26.0, -25.6]
    )
    errors = energy_errors(result)
    # Two deviations of 0.05 eV from the mean of two: 0.05 sqrt(2) from what the mean stands for.
    assert errors["rmse_meV_per_atom"] == pytest.approx(1e3 * (2 * 2 * (0.05 / 5) ** 2 / 4) ** 0.5)
    assert errors["rmse_absolute_meV_per_atom"] > 300


def test_a_constant_a_composition_hides_no_error():
    rng = np.random.default_rng(1)
    distinct = list({molecule(name).get_chemical_formula(): name for name in g2.names}.values())
    names = 3 * distinct
    sizes = np.array([len(molecule(name)) for name in names])
    exact, noise = rng.normal(size=(2, len(names)))
    errors = energy_errors(comparison(names, list(exact), list(exact + 0.01 * sizes * noise)))
    assert len(distinct) > 100 and errors["rmse_meV_per_atom"] == pytest.approx(10.0, rel=0.1)


def test_compositions_that_come_once_have_no_constant():
    errors = energy_errors(comparison(["H2O", "CH4"], [-14.0, -24.0], [-13.7, -24.5]))
    assert errors["rmse_meV_per_atom"] == errors["rmse_absolute_meV_per_atom"] == pytest.approx(100)
    result = comparison(["H2O", "H2O", "CH4"], [-14.0, -13.9, -24.0], [-14.0, -13.9, -20.0])
    assert energy_errors(result)["rmse_meV_per_atom"] == 0


def test_summary_by_element_and_temperature():
    result = comparison(["H2O", "CH4"], [-14.0, -24.0], [-14.0, -24.0], [300.0, None])
    errors = summary(result)
    assert errors["frames"] == 2
    assert errors["forces_by_element"]["O"]["rmse_meV_per_A"] == pytest.approx(0)
    assert errors["forces_by_element"]["H"]["rmse_meV_per_A"] == pytest.approx(100)
    assert set(errors["forces_by_temperature"]) == {"300 K"}
    assert errors["forces_by_temperature"]["300 K"]["rmse_meV_per_A"] == pytest.approx(100 * (2 / 3) ** 0.5)
    assert "virial" not in errors and "stress" not in errors


def test_compare_evaluates_frames_in_order():
    frames = comparison(["H2O", "CH4", "H2O"], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]).frames
    network = students.create("ultra-tiny", ["H", "C", "O"]).eval()
    result = compare(network, frames, batch_atoms=6)
    assert result.predicted_energies_eV[0] == pytest.approx(result.predicted_energies_eV[2], abs=1e-5)
    assert result.predicted_energies_eV[0] != pytest.approx(result.predicted_energies_eV[1], abs=1e-5)
    assert result.predicted_forces_eV_per_A.shape == (11, 3)


def test_several_sets_as_one():
    one = comparison(["CH4", "H2O"], [-1.0, -2.0], [-1.1, -2.0])
    other = comparison(["CO2"], [-4.0], [-4.3])
    both = joined([one, other])
    assert both.frame_of_atom.tolist() == [0] * 5 + [1] * 3 + [2] * 3 and both.sizes.tolist() == [5, 3, 3]
    errors = [summary(part)["forces"]["rmse_meV_per_A"] ** 2 for part in (one, other, both)]
    assert errors[2] == pytest.approx((8 * errors[0] + 3 * errors[1]) / 11)
    assert energy_errors(both)["rmse_absolute_meV_per_atom"] > 0


def test_stresses_in_gpa_over_six_components():
    cells = [bulk("Cu", cubic=True), bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64)]
    frames = tuple(Frame(Structure.from_ase(a), 0.0, np.zeros((len(a), 3))) for a in cells)
    result = comparison(["H2O"] * 3, [0.0] * 3, [0.0] * 3)
    volumes = np.array([a.get_volume() for a in cells])[:, None, None]
    stresses = np.arange(27.0).reshape(3, 3, 3) * 1e-3
    stresses += stresses.transpose(0, 2, 1)
    virials, wrong = stresses * volumes, (stresses + 1e-3 * np.eye(3)) * volumes
    virials[2] = np.nan
    result = replace(result, frames=frames, virials_eV=virials, predicted_virials_eV=wrong)
    errors = stress_errors(result)
    # Three of six components are wrong by 1e-3 eV/A^3 = 0.1602 GPa.
    assert errors["rmse_GPa"] == pytest.approx(0.1602177 * 0.5**0.5, rel=1e-5)
    known = 0.1602177e3 * stresses[:2][:, *np.triu_indices(3)]
    assert errors["r2"] == pytest.approx(1 - errors["rmse_GPa"] ** 2 / known.var(axis=0).mean(), rel=1e-5)
