import numpy as np
import pytest
from ase.build import molecule

from compactff_md.engines.molecules import find_molecules
from compactff_md.structure import Structure, read_structures
from compactff_md.training.bench_liquid import liquid, molecular_virial_eV
from compactff_md.training.labelling import write_frames
from compactff_md.training.liquids import fill_box


def test_the_virial_of_rigid_molecules_is_the_slope_of_the_energy_when_they_move_apart():
    rng = np.random.default_rng(0)
    atoms = fill_box([molecule("H2O") for _ in range(8)], 0.8, rng)
    atoms.pbc = False

    def energy(positions):  # a spring between all pairs of oxygens: none acts within a molecule
        oxygens = positions[::3]
        return 0.5 * ((oxygens[:, None] - oxygens) ** 2).sum()

    forces = np.zeros_like(atoms.positions)
    oxygens = atoms.positions[::3]
    forces[::3] = -2.0 * (oxygens[:, None] - oxygens).sum(1)
    molecules = find_molecules(Structure.from_ase(atoms))
    centres = atoms.positions.reshape(8, 3, 3).mean(1).repeat(3, 0)
    slope = (energy(atoms.positions + 1e-5 * centres) - energy(atoms.positions - 1e-5 * centres)) / 2e-5
    assert molecular_virial_eV(atoms, molecules, forces) == pytest.approx(-slope, rel=1e-6)


def test_a_student_has_no_error_against_itself_and_another_one_has(tmp_path):
    rng = np.random.default_rng(1)
    write_frames(tmp_path / "box.xyz", [fill_box([molecule("H2O") for _ in range(20)], 0.8, rng)])
    assert read_structures(tmp_path / "box.xyz")[0].pbc.all()
    names = ["organic-ultra-tiny", "organic-tiny"]
    same, other = liquid(names, tmp_path / "box.xyz", f"student:{names[0]}", 1.0, 1.0, 30, 2)
    assert same["ps"] == other["ps"] == 1.0 and same["ended well"] == "yes"
    assert 0.5 < same["density_g_per_cm3"] < 2.0
    assert same["force_rmse_meV_per_A"] < 1e-3 and abs(same["pressure_error_bar"]) < 1
    assert 10 < other["force_rmse_meV_per_A"] < 300
