"""Runs of a real LAMMPS: several systems in one process, which costs one start of PyTorch."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.calculators.lammps import Prism

from compactff_md import students
from compactff_md.artifact import describe
from compactff_md.engines.ase import StudentCalculator
from compactff_md.engines.lammps_deck import data_text
from compactff_md.engines.lammps_installation import Lammps, find_lammps
from compactff_md.errors import CompactFFError
from compactff_md.export.mliap import export_mliap
from compactff_md.units import EV_TO_KCAL_PER_MOL

TIMEOUT_S = 1200  # for a machine that does other things as well
NKTV2P = {"metal": 1.6021765e6, "real": 68568.415}  # LAMMPS' own constants: energy / volume to pressure
ENERGY = {"metal": 1.0, "real": EV_TO_KCAL_PER_MOL}


@cache
def _found() -> Lammps | str:
    try:
        return find_lammps()
    except CompactFFError as error:
        return str(error)


def lammps() -> Lammps:
    """The LAMMPS of these tests; `make test` builds one, and then none may be missing."""
    found = _found()
    if isinstance(found, str):
        if os.environ.get("COMPACTFF_TEST_LAMMPS") == "required":
            pytest.fail(found)
        pytest.skip(found)
    return found


def network(elements, size="ultra-tiny", architecture="moments", scale_eV=2.0, seed=4):
    """A student that has learned nothing, with energies of elements that are far from zero."""
    made = students.create(size, elements, architecture=architecture, seed=seed)
    made.energy_scale_eV.fill_(scale_eV)
    made.energy_shift_eV.copy_(-10.0 * (1.0 + made.atomic_numbers.double()))
    return made.eval()


def export(made, path: Path, dtype="float64") -> Path:
    return export_mliap(made, describe(made), path, dtype=dtype)


@dataclass
class Ran:
    """What a process left: exit code, output, and the tables of its log."""

    code: int
    out: str
    err: str
    tables: list[np.ndarray]  # one a run, with names as fields


def run_input(text: str, folder: Path, ranks=1, *arguments: str, check=True, **variables: str) -> Ran:
    """Run an input in a folder, with what ``compactff lammps`` sets up."""
    found = lammps()
    (folder / "in.test").write_text(text)
    words = [str(found.executable), "-in", "in.test", "-nocite", *arguments]
    if ranks > 1:
        words = [str(found.mpiexec), "-n", str(ranks), *words]
    environment = {**found.environment(ranks), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Ran(done.returncode, done.stdout, done.stderr, tables_of(done.stdout))


def tables_of(out: str) -> list[np.ndarray]:
    tables = []
    for match in re.finditer(r"^\s+Step .*?(?=^Loop time)", out, re.MULTILINE | re.DOTALL):
        head, *rows = match[0].strip("\n").splitlines()
        rows = [row for row in rows if re.match(r"\s*\d", row)]
        names = head.split()
        tables.append(np.array([tuple(map(float, r.split())) for r in rows], [(n, float) for n in names]))
    return tables


def system_text(
    name: str,
    atoms: ase.Atoms,
    student: str,
    elements: list[str],
    folder: Path,
    *,
    flag=0,
    units="metal",
    more="",
    run="run 0",
) -> str:
    """A part of an input: clear, atoms, student, ``more``, a run, and forces in ``NAME.dump``."""
    (folder / f"{name}.data").write_text(data_text(atoms, elements, units))
    boundary = " ".join("p" if p else "m" for p in atoms.pbc)
    return f"""
clear
units {units}
newton on
atom_style atomic
atom_modify map yes
boundary {boundary}
{more if more.startswith("processors") else ""}
read_data {name}.data
pair_style mliap unified {student} {flag}
pair_coeff * * {" ".join(elements)}
{"comm_modify cutoff 12.0" if flag else ""}
neighbor 1.0 bin
{"" if more.startswith("processors") else more}
compute e all pe/atom
thermo_style custom step pe etotal pxx pyy pzz pxy pxz pyz press vol
thermo_modify norm no format float %.15g
thermo 10
{run}
write_dump all custom {name}.dump id fx fy fz c_e modify sort id format float %.15g
"""


def forces_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Forces and energies of atoms of a dump by :func:`system_text`, in LAMMPS' frame."""
    rows = np.loadtxt(path, skiprows=9, ndmin=2)
    return rows[:, 1:4], rows[:, 4]


def reference(atoms: ase.Atoms, made, dtype="float64"):
    """Energies of atoms, forces and the virial -dE/dstrain, by the ASE calculator, in LAMMPS' frame."""
    atoms = atoms.copy()
    atoms.calc = StudentCalculator(made, device="cpu", dtype=dtype)
    energies, forces = atoms.get_potential_energies(), atoms.get_forces()
    if not atoms.pbc.all():
        return energies, forces, None
    turn = Prism(atoms.cell).vector_to_lammps(np.eye(3))
    virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
    return energies, forces @ turn, turn.T @ virial @ turn


def virial_of(row, units="metal") -> np.ndarray:
    """Virial in eV of a row with pressures of atoms at rest."""
    p = np.array([[row[f"P{''.join(sorted(a + b))}"] for b in "xyz"] for a in "xyz"])
    return p * row["Volume"] / NKTV2P[units] / ENERGY[units]
