"""The scripts in openmm/ run as they are."""

import os
import runpy
import signal
import sys
from pathlib import Path

import ase.io
import MDAnalysis
import pytest

from compactff_md import load, students
from compactff_md.artifact import describe, save_student
from compactff_md.engines.openmm_simulation import Simulation
from compactff_md.structure import Structure

SCRIPTS = Path(__file__).parents[2] / "openmm"
RECIPES = SCRIPTS.parent / "training" / "recipes"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = students.create("ultra-tiny", ["C", "H", "N", "O"], seed=2).eval()
    network.energy_scale_eV.fill_(0.02)  # it is not trained: an almost flat landscape
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_student(path, network, describe(network))
    return path


@pytest.mark.parametrize(
    ("script", "steps", "topology", "frames"),
    [
        ("nve_molecule", 40, None, 2),
        ("npt_box", 50, "npt_box.pdb", 1),
        ("mixed_ml_mm", 50, "mixed_ml_mm.pdb", 1),
    ],
)
def test_a_script_runs(tmp_path, monkeypatch, capsys, file, script, steps, topology, frames):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, str(file), "--steps", str(steps)])
    runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert "Speed (ns/day)" in capsys.readouterr().out
    top = str(topology or SCRIPTS / "aspirin.xyz")
    assert len(MDAnalysis.Universe(top, f"{script}.xtc").trajectory) == frames


def test_a_demonstration_that_is_interrupted_early_goes_on(tmp_path, monkeypatch, file):
    """Ctrl-C before the first step, when no restart file is there, and in the middle."""
    demo = runpy.run_path(str(SCRIPTS / "demo.py"))
    steps = {"steps": 4, "time_ps": None, "equilibration_ps": 0.0, "minimise": False, "force": "python"}
    asked = demo["DYNAMICS"].model_copy(update=steps)
    arguments = ase.io.read(SCRIPTS / "aspirin.xyz"), load(file), asked, tmp_path / "nve"
    for name, code in (("begin", "interrupted before the first step"), ("advance", 130)):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(Simulation, name, lambda *_: os.kill(os.getpid(), signal.SIGINT))
            demo["simulate"](*arguments)
        assert str(ended.value).startswith(str(code))
    assert demo["simulate"](*arguments).steps == 4


def test_the_structures_are_what_they_are_said_to_be():
    formulas = {"aspirin.xyz": "C9H8O4", "alanine_dipeptide.pdb": "C6H12N2O2", "water_box.xyz": "H128O64"}
    for name, formula in formulas.items():
        atoms = ase.io.read(SCRIPTS / name)
        assert atoms.get_chemical_formula() == formula
        Structure.from_ase(atoms)
    water = ase.io.read(SCRIPTS / "water_box.xyz")
    assert water.get_masses().sum() / 0.602214 / water.get_volume() == pytest.approx(0.997, abs=1e-3)
    assert all(set(a.symbols) == {"H", "O"} for a in ase.io.read(RECIPES / "water_training.xyz", ":"))
