"""Conversion factors, all from ``ase.units`` (CODATA 2014).

Inside the package lengths are angstrom, energies eV, masses dalton, times fs, temperatures K and
pressures bar; ``_A``, ``_eV``, ``_fs``, ``_K``, ``_bar`` in a name say so. OpenMM's own units are nm and
kJ/mol, in LAMMPS' ``real`` units kcal/mol, and only :mod:`compactff_md.engines`,
:mod:`compactff_md.export` and :mod:`compactff_md.mliap` convert to them.
"""

from ase import units as _ase

NM_TO_A = 10.0
KJ_PER_MOL_TO_EV = _ase.kJ / _ase.mol
EV_TO_KJ_PER_MOL = 1.0 / KJ_PER_MOL_TO_EV
EV_PER_A_TO_KJ_PER_MOL_PER_NM = EV_TO_KJ_PER_MOL * NM_TO_A
EV_TO_KCAL_PER_MOL = _ase.mol / _ase.kcal
HARTREE_TO_EV = _ase.Hartree
BOHR_TO_A = _ase.Bohr
KB_EV_PER_K = _ase.kB
EV_PER_A3_TO_BAR = 1.0 / (1e5 * _ase.Pascal)
EV_PER_A3_TO_GPA = 1e-4 * EV_PER_A3_TO_BAR
# e^2 / (4 pi eps0), the constant of Coulomb's law.
COULOMB_EV_A = _ase.Hartree * _ase.Bohr
