"""LAMMPS against the ASE calculator: energies of atoms, forces and virial, on one rank and on several."""

import copy
import re

import ase
import numpy as np
import pytest
from ase.build import graphene, molecule

from builders import SMALL, TRICLINIC, random_structure
from compactff_md.structure import Structure
from lammps_builders import (
    ENERGY,
    export,
    forces_of,
    network,
    reference,
    run_input,
    system_text,
    tables_of,
    virial_of,
)
from student_builders import biting

PERIODIC = (True, True, True)
ELEMENTS = ["H", "C", "O"]


def atoms_of(structure):
    return ase.Atoms(structure.numbers, structure.positions_A, cell=structure.cell_A, pbc=structure.pbc)


def drops():
    """Two molecules and two lonely atoms, far apart: energies of isolated atoms, ranks with nothing."""
    atoms = molecule("CH3CH2OH")
    atoms.positions -= atoms.positions.min(0)
    other = atoms.copy()
    other.positions += [21.0, 2.0, 1.0]
    lonely = ase.Atoms("OC", [[11.0, 9.0, 2.0], [13.0, 0.5, 30.0]])
    return atoms + other + lonely


def liquid(seed=2, count=60):
    box = np.diag([12.0, 11.0, 10.0])
    return atoms_of(random_structure(seed, ELEMENTS, count, cell_A=box, pbc=PERIODIC, closest_A=1.3))


SYSTEMS = {
    "molecule": molecule("CH3CH2OH"),
    "planar": molecule("H2O"),
    "drops": drops(),
    "liquid": liquid(),
    "triclinic": atoms_of(random_structure(3, ELEMENTS, 20, cell_A=TRICLINIC, pbc=PERIODIC)),
    "thin": atoms_of(
        random_structure(5, ELEMENTS, 12, cell_A=np.diag([12.0, 3.0, 9.0]), pbc=PERIODIC, closest_A=1.1)
    ),
    "tiny": atoms_of(random_structure(4, ELEMENTS, 2, cell_A=SMALL, pbc=PERIODIC)),
    "slab": atoms_of(
        random_structure(6, ELEMENTS, 20, cell_A=np.diag([7.0, 8.0, 9.0]), pbc=(True, True, False))
    ),
}
SYSTEMS["outside"] = SYSTEMS["slab"].copy()
SYSTEMS["outside"].positions[:, 2] -= 4.0  # a free direction has no side that atoms could leave
SYSTEMS["graphene"] = graphene("C2", a=2.46, size=(3, 2, 1))  # tilted, with an open axis that has no side
SYSTEMS["graphene"].rattle(0.1, seed=1)


def bounded_network():
    """Bounds that a third of the liquid's atoms are below, and a third above."""
    made = network(ELEMENTS)
    liquid_structure = Structure.from_ase(SYSTEMS["liquid"])
    bounds = biting(copy.deepcopy(made).double(), liquid_structure)[0].energy_bounds
    made.bound_energies(*bounds.tolist())
    return made


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """Every system with every kind of student, flags and units, in one process."""
    folder = tmp_path_factory.mktemp("one")
    students = {
        "moments": (network(ELEMENTS), "float64"),
        "local": (network(ELEMENTS, architecture="moments-local"), "float64"),
        "painn": (network(ELEMENTS, architecture="painn"), "float64"),
        "bounded": (bounded_network(), "float64"),
        **{size: (network(ELEMENTS, size), "float32") for size in ("tiny", "original")},
    }
    for name, (made, dtype) in students.items():
        export(made, folder / f"{name}.pt", dtype)
    cases = {}
    for name in SYSTEMS:
        cases[f"{name}-moments-0-metal"] = (name, "moments", 0, "metal")
        cases[f"{name}-moments-1-metal"] = (name, "moments", 1, "metal")
    for student in ("local", "painn", "bounded", "tiny", "original"):
        for name in ("drops", "liquid", "triclinic"):
            cases[f"{name}-{student}-0-metal"] = (name, student, 0, "metal")
    cases["liquid-moments-0-real"] = ("liquid", "moments", 0, "real")
    cases["drops-moments-0-real"] = ("drops", "moments", 0, "real")
    cases["drops-painn-1-metal"] = ("drops", "painn", 1, "metal")
    cases["liquid-painn-1-metal"] = ("liquid", "painn", 1, "metal")
    text = "".join(
        system_text(key, SYSTEMS[name], f"{student}.pt", ELEMENTS, folder, flag=flag, units=units)
        for key, (name, student, flag, units) in cases.items()
    )
    ran = run_input(text, folder)
    return {key: (*case, *students[case[1]]) for key, case in cases.items()}, ran.tables, folder


def test_energies_forces_and_virial_are_those_of_the_ase_calculator(one_rank):
    cases, tables, folder = one_rank
    assert len(tables) == len(cases)
    for (key, (name, _, _, units, made, dtype)), table in zip(cases.items(), tables, strict=True):
        unit, tolerance = ENERGY[units], 1.0 if dtype == "float32" else 1e-2
        energies, forces, virial = reference(SYSTEMS[name], made, dtype)
        got_forces, got_energies = forces_of(folder / f"{key}.dump")
        np.testing.assert_allclose(got_energies / unit, energies, atol=1e-5 * tolerance, rtol=0, err_msg=key)
        np.testing.assert_allclose(got_forces / unit, forces, atol=1e-4 * tolerance, rtol=0, err_msg=key)
        total = table[0]["PotEng"] / unit
        assert total == pytest.approx(energies.sum(), abs=1e-5 * len(energies)), key
        if virial is not None:
            got = virial_of(table[0], units)
            np.testing.assert_allclose(got, virial, atol=1e-4 * np.abs(virial).max(), rtol=0, err_msg=key)


def test_the_pressure_is_the_slope_of_the_energy(tmp_path):
    """Volume, and each of the three lengths and tilts, by central differences in LAMMPS itself."""
    made = network(ELEMENTS)
    export(made, tmp_path / "s.pt")
    size = 1e-4
    lattice = ase.Atoms(SYSTEMS["triclinic"])
    text = system_text("cell", lattice, "s.pt", ELEMENTS, tmp_path)
    lines = []
    for scaled in ("x", "y", "z", "xyz"):
        for sign in (1, -1):
            words = " ".join(f"{axis} scale {1 + sign * size}" for axis in scaled)
            tilts = _tilts(scaled, 1 + sign * size)
            lines += [f"change_box all {words} {tilts} remap units box", "run 0"]
            words = " ".join(f"{axis} scale {1 / (1 + sign * size)}" for axis in scaled)
            lines += [f"change_box all {words} {_tilts(scaled, 1 / (1 + sign * size))} remap units box"]
    ran = run_input(text + "\n".join(["variable b equal xy", *lines]), tmp_path)
    first, *rest = [table[0] for table in ran.tables]
    for k, scaled in enumerate(("x", "y", "z", "xyz")):
        up, down = rest[2 * k], rest[2 * k + 1]
        slope = (up["PotEng"] - down["PotEng"]) / (up["Volume"] - down["Volume"])
        pressure = first["Press"] if scaled == "xyz" else first[f"P{scaled}{scaled}"]
        assert -slope * 1.6021765e6 == pytest.approx(pressure, rel=1e-5, abs=1.0), scaled


def _tilts(scaled, factor):
    """Tilts follow the vector that they belong to: xy and xz the x components, yz the y component."""
    names = [n for n in ("xy", "xz", "yz") if n[0] in scaled]
    return " ".join(f"{n} final $({n}*{factor})" for n in names)


GRIDS = {2: ["2 1 1", "1 2 1", "1 1 2"], 4: ["4 1 1", "2 2 1"]}
SIZES = ("ultra-tiny", "tiny", "original")


def ranks_text(folder, grids):
    """Forces of all sizes on each grid; dynamics of each size on the first, with both flags."""
    parts = []
    for k, grid in enumerate(grids):
        for size in SIZES:
            for name in ("liquid", "drops"):
                key = f"{name}-{size}-{k}"
                more = f"processors {grid}"
                atoms = SYSTEMS[name]
                parts.append(system_text(key, atoms, f"{size}.pt", ELEMENTS, folder, more=more))
    for size, flag, units in [(s, 0, "metal") for s in SIZES] + [("ultra-tiny", 1, "real")]:
        atoms = liquid(9, 30 if size == "original" else 60)
        run = "velocity all create 200 3\nfix 1 all nve\nthermo 10\nrun 100"
        run = f"timestep {0.0003 if units == 'metal' else 0.3}\nthermo_modify format float %.8g\n{run}"
        key = f"run-{size}-{flag}"
        parts.append(system_text(key, atoms, f"{size}.pt", ELEMENTS, folder, flag=flag, units=units, run=run))
    return "".join(parts)


@pytest.mark.slow
def test_ranks_give_the_forces_and_the_thermo_lines_of_one(tmp_path):
    """One test, since the processes of a parallel run would make what they share anew."""
    results = {}
    for ranks, grids in [(1, ["1 1 1"]), *GRIDS.items()]:
        folder = tmp_path / f"ranks{ranks}"
        folder.mkdir()
        for size in SIZES:
            export(network(ELEMENTS, size, scale_eV=0.5), folder / f"{size}.pt")
        results[ranks] = (run_input(ranks_text(folder, grids), folder, ranks), folder)
    for ranks in GRIDS:
        compare_ranks(*results[1], *results[ranks], len(GRIDS[ranks]))
    assert re.search(r"Nlocal: .* 0 min", results[4][0].out), "no rank was without atoms"
    for table in results[4][0].tables[-4:-1]:
        assert np.ptp(table["TotEng"]) < 0.02 * np.ptp(table["PotEng"])


def compare_ranks(one, folder, many, other, grids):
    """Forces of every size on every grid, and the lines of a hundred steps."""
    for k in range(grids):
        for size in SIZES:
            for name in ("liquid", "drops"):
                forces, energies = forces_of(folder / f"{name}-{size}-0.dump")
                got, got_energies = forces_of(other / f"{name}-{size}-{k}.dump")
                np.testing.assert_allclose(got, forces, atol=1e-5, rtol=0)
                np.testing.assert_allclose(got_energies, energies, atol=1e-5, rtol=0)
    assert one.out.count("Loop time") == 10 and len(tables_of(many.out)) == grids * 6 + 4
    for mine, theirs in zip(one.tables[-4:], many.tables[-4:], strict=True):
        assert len(mine) == 11
        np.testing.assert_array_equal(theirs, mine)  # printed with eight digits
