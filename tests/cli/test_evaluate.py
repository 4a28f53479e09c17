import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from typer.testing import CliRunner

from compactff_md import load
from compactff_md.cli import app
from compactff_md.training.evaluation import evaluate
from compactff_md.training.keys import LabelKeys

NAME = "organic-ultra-tiny"


def labelled(path, names, shift_eV_per_A=0.0):
    """Frames with the student's own labels, the forces off by a constant along x."""
    frames = []
    rng = np.random.default_rng(0)
    for name in names:
        for _ in range(3):
            atoms = molecule(name)
            atoms.rattle(0.05, rng=rng)
            atoms.calc = load(NAME).ase_calculator()
            atoms.info["REF_energy"] = atoms.get_potential_energy()
            atoms.arrays["REF_forces"] = atoms.get_forces() + np.array([shift_eV_per_A, 0.0, 0.0])
            atoms.calc = None
            frames.append(atoms)
    write(path, frames)
    return path


def run(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_errors_are_those_that_the_labels_have(tmp_path):
    right = labelled(tmp_path / "right.xyz", ["CH3OH"])
    wrong = labelled(tmp_path / "wrong.xyz", ["CH3OH", "H2O"], 0.3)
    result = run(NAME, right, wrong, "--json")
    assert result.exit_code == 0, result.output
    errors = json.loads(result.stdout)
    assert list(errors) == ["right", "wrong", "all"]
    assert [errors[name]["frames"] for name in errors] == [3, 6, 9]
    assert errors["right"]["forces"]["rmse_meV_per_A"] < 0.01
    assert errors["wrong"]["forces"]["rmse_meV_per_A"] == pytest.approx(300 / 3**0.5, rel=1e-4)
    shown = run(NAME, wrong)
    assert shown.exit_code == 0 and "173.2" in shown.stdout and "force RMSE" in shown.stdout


def test_what_cannot_be_evaluated_is_told(tmp_path):
    right = labelled(tmp_path / "right.xyz", ["H2O"])
    (tmp_path / "other").mkdir()
    again = labelled(tmp_path / "other" / "right.xyz", ["H2O"])
    assert "two files are called right" in flat(run(NAME, right, again))
    assert "right.xyz frame 0 holds H, O; the student knows Li, P, S, Cl" in flat(
        run("argyrodite-ultra-tiny", right)
    )
    nan = read(right, ":")
    nan[1].info["REF_energy"] = float("nan")
    write(tmp_path / "nan.xyz", nan)
    assert "nan.xyz frame 1: energy is NaN or infinite" in flat(run(NAME, tmp_path / "nan.xyz"))
    assert "no frame has energy under dft" in flat(run(NAME, right, "--energy-key", "dft"))


def flat(result):
    assert result.exit_code != 0
    return " ".join((str(result.exception) + result.output).split())


def test_the_stress_is_told_and_doubted(tmp_path):
    start = read(Path(__file__).parents[2] / "training" / "recipes" / "li6ps5cl.xyz")
    calculator = load("argyrodite-ultra-tiny").ase_calculator()
    for name, sign in (("right", 1.0), ("wrong", -1.0)):
        frames = []
        for seed in range(3):
            atoms = start.copy()
            atoms.rattle(0.05, seed=seed)
            atoms.calc = calculator
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **results, stress=sign * atoms.get_stress())
            frames.append(atoms)
        write(tmp_path / f"{name}.xyz", frames)
    right = run("argyrodite-ultra-tiny", tmp_path / "right.xyz").stdout
    assert "stress, right: RMSE" in right and "GPa, R2 1.0000" in right and "warning" not in right
    both = run("argyrodite-ultra-tiny", tmp_path / "right.xyz", tmp_path / "wrong.xyz").stdout
    assert (
        "warning: the stress is far worse than the forces (wrong, all)" in both
        and "of the other sign" in both
    )


def test_labels_are_read_as_those_of_the_training():
    student = load(NAME)
    atoms = molecule("CH3OH")
    atoms.calc = student.ase_calculator()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = results["energy"], results["forces"] + 1.0
    atoms.calc = SinglePointCalculator(atoms, **results)

    def error(names, keys=None):
        data = {} if names is None else {"keys": names}
        trained = replace(student, metadata=student.metadata.model_copy(update={"data": data}))
        return evaluate(trained, {"a": [atoms]}, keys)["a"]["forces"]["rmse_meV_per_A"]

    assert error({"energy": "energy", "forces": "forces"}) == pytest.approx(0, abs=0.01)
    for names in (None, {"energy": "REF_energy", "forces": "REF_forces"}, {"of a later version": 1}, 3):
        assert error(names) == pytest.approx(1000, abs=1)
    with pytest.warns(
        UserWarning, match=r"the given list,: not all frames have the energy 'mine' of the tra"
    ):
        assert error({"energy": "mine"}) == pytest.approx(1000, abs=1)
    asked = LabelKeys(energy="energy", forces="forces")
    assert error({"energy": "mine"}, asked) == pytest.approx(0, abs=0.01)
