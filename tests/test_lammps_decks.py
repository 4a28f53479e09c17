"""The decks of lammps/, each with what lammps/inputs.py makes for it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.optimize import BFGS

from compactff_md import load
from compactff_md.artifact import describe, save_student
from compactff_md.engines.lammps_run import command_of, read_plan, run_deck
from lammps_builders import lammps, network, tables_of

LAMMPS = Path(__file__).resolve().parents[1] / "lammps"
FEW = (
    "--frames=40",
    "--set=sampling.test_frames=1",
    "--set=sampling.equilibration_steps=20",
    "--set=sampling.spacing_steps=10",
    "--set=sampling.relax_steps=30",
    "--set=sampling.n_workers=1",
    "--set=minutes=null",
)


def inputs(*words, timeout=1200):
    done = subprocess.run(
        [sys.executable, str(LAMMPS / "inputs.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=words[words.index("--out") + 1].parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def run(folder: Path, deck: str, ranks=1, **variables):
    found, lines = lammps(), []
    plan = read_plan(folder / deck, variables)
    words = command_of(found, plan, ranks=ranks, variables=variables)
    assert run_deck(found, plan, words, ranks, lines.append, lambda step: None) == 0, "\n".join(lines[-20:])
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A student of water that has learned nothing, but keeps atoms apart."""
    path = tmp_path_factory.mktemp("calm") / "student.safetensors"
    made = network(["H", "O"], scale_eV=0.02)
    save_student(path, made, describe(made))
    return path


@pytest.mark.slow
def test_nve_of_a_molecular_liquid(tmp_path, calm):
    lammps()
    inputs("liquid", "--student", calm, "--out", tmp_path)
    tables = tables_of(run(tmp_path, "nve_liquid.lammps", ranks=2, steps="100"))
    assert len(tables) == 2
    assert np.ptp(tables[1]["TotEng"]) < 0.05 * tables[1]["KinEng"].mean()
    assert (tmp_path / "final.restart").is_file()


@pytest.mark.slow
def test_a_student_and_lennard_jones_in_one_box(tmp_path, calm):
    lammps()
    inputs("liquid", "--argon", "--student", calm, "--out", tmp_path)
    tables = tables_of(run(tmp_path, "hybrid_argon.lammps", ranks=2, steps="50", relax="3"))
    last = tables[-1][-1]
    assert last["PotEng"] == pytest.approx(last["c_student"] + last["c_lj"], rel=1e-6)
    assert last["c_lj"] != 0.0 and 50.0 < last["Temp"] < 600.0


@pytest.mark.slow
def test_npt_holds_a_solid_at_its_own_lattice_constant(tmp_path):
    lammps()
    inputs("solid", "--out", tmp_path, *FEW, "--set=steps=300")
    out = run(tmp_path, "npt_solid.lammps", steps="1000", temperature="30")
    kelvin, bar, *lengths = map(
        float, re.search(r"^mean: (\S+) K, (\S+) bar, lengths (\S+) (\S+) (\S+) A", out, re.M).groups()
    )
    own = own_lattice_constant(load(tmp_path / "training"))
    np.testing.assert_allclose(np.array(lengths) / 3.0, own, rtol=5e-3)
    assert kelvin == pytest.approx(30.0, abs=6.0) and abs(bar) < 3000.0


def own_lattice_constant(student) -> float:
    """Where the student's energy of the fcc crystal is least, by ASE."""
    tried = np.linspace(3.3, 3.9, 25)
    energies = []
    for lattice_A in tried:
        atoms = bulk("Cu", a=lattice_A, cubic=True)
        atoms.calc = student.ase_calculator(device="cpu", dtype="float64")
        energies.append(atoms.get_potential_energy())
    least = int(np.argmin(energies))
    fit = np.polyfit(tried[least - 2 : least + 3], energies[least - 2 : least + 3], 2)
    return float(-fit[1] / (2.0 * fit[0]))


@pytest.mark.slow
def test_the_ion_of_an_electrolyte_diffuses_and_its_lattice_does_not(tmp_path):
    lammps()
    inputs("electrolyte", "--out", tmp_path, *FEW, "--set=steps=400", "--set=batch_size=3")
    out = run(tmp_path, "diffusion.lammps", steps="500", temperature="1000")
    ion, rest = np.loadtxt(tmp_path / "msd.dat")[-1, 1:]
    assert 0.0 < rest < ion < 50.0 and f"mobile {ion:.3g}"[:8] in out
    temperature = tables_of(out)[-1]["Temp"].mean()
    assert temperature == pytest.approx(1000.0, rel=0.25)


def test_the_model_electrolyte_is_a_conservative_force_field():
    spec = importlib.util.spec_from_file_location("ionic_teacher", LAMMPS / "ionic_teacher.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    atoms = ase.Atoms("Li2O2", np.random.default_rng(1).uniform(0.0, 4.0, (4, 3)), cell=[6.0] * 3, pbc=True)
    atoms.calc = module.LithiumOxide()
    BFGS(atoms, logfile=None).run(fmax=2.0, steps=50)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    size = 1e-5
    for k in range(3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = module.LithiumOxide()
            moved.positions[0, k] += sign * size
            energies.append(moved.get_potential_energy())
        assert forces[0, k] == pytest.approx((energies[1] - energies[0]) / (2 * size), abs=1e-5)
        energies = []
        for sign in (1, -1):
            strained = atoms.copy()
            strained.calc = module.LithiumOxide()
            strain = np.eye(3)
            strain[k, k] += sign * size
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * size) / atoms.get_volume()
        assert stress[k, k] == pytest.approx(slope, abs=1e-5)
