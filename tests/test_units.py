import pytest

from compactff_md import units

# CODATA 2022 (NIST): https://physics.nist.gov/cuu/Constants/. The package follows CODATA 2014, as ASE
# does; the two agree to a few parts in 1e8.
ELEMENTARY_CHARGE_C = 1.602176634e-19
AVOGADRO_PER_MOL = 6.02214076e23
BOLTZMANN_J_PER_K = 1.380649e-23
HARTREE_EV = 27.211386245981
BOHR_A = 0.529177210544
VACUUM_PERMITTIVITY_F_PER_M = 8.8541878188e-12


def test_against_codata():
    kj_per_mol = ELEMENTARY_CHARGE_C * AVOGADRO_PER_MOL / 1000
    assert pytest.approx(kj_per_mol, rel=1e-7) == units.EV_TO_KJ_PER_MOL
    assert pytest.approx(BOLTZMANN_J_PER_K / ELEMENTARY_CHARGE_C, rel=1e-6) == units.KB_EV_PER_K
    assert pytest.approx(HARTREE_EV, rel=1e-7) == units.HARTREE_TO_EV
    assert pytest.approx(BOHR_A, rel=1e-7) == units.BOHR_TO_A
    assert pytest.approx(ELEMENTARY_CHARGE_C * 1e30 / 1e5, rel=1e-7) == units.EV_PER_A3_TO_BAR
    coulomb = ELEMENTARY_CHARGE_C / (4 * 3.141592653589793 * VACUUM_PERMITTIVITY_F_PER_M) * 1e10
    assert pytest.approx(coulomb, rel=1e-7) == units.COULOMB_EV_A


def test_against_openmm():
    omm = pytest.importorskip("openmm.unit")
    ev = omm.elementary_charge * omm.volt
    energy = (1.0 * ev * omm.AVOGADRO_CONSTANT_NA).value_in_unit(omm.kilojoule_per_mole)
    assert pytest.approx(energy, rel=1e-6) == units.EV_TO_KJ_PER_MOL
    assert (1.0 * omm.nanometer).value_in_unit(omm.angstrom) == units.NM_TO_A
    force = units.EV_TO_KJ_PER_MOL * (1.0 / omm.angstrom).value_in_unit(omm.nanometer**-1)
    assert pytest.approx(force, rel=1e-12) == units.EV_PER_A_TO_KJ_PER_MOL_PER_NM
    kb = omm.BOLTZMANN_CONSTANT_kB.value_in_unit(omm.joule / omm.kelvin)
    assert pytest.approx(kb / ELEMENTARY_CHARGE_C, rel=1e-6) == units.KB_EV_PER_K


def test_factors_are_inverse():
    assert pytest.approx(1.0 / units.KJ_PER_MOL_TO_EV, rel=1e-15) == units.EV_TO_KJ_PER_MOL
