"""Temperatures of decks: how many degrees of freedom move, and that the thermostats heat these alone."""

import re

import ase
import numpy as np
import pytest
from ase import units
from ase.build import molecule

from compactff_md.artifact import describe
from compactff_md.engines.lammps_deck import write_deck
from compactff_md.engines.lammps_settings import DeckSettings
from lammps_builders import network, run_input

KELVIN = 300.0
WATER, METHANOL = molecule("H2O"), molecule("CH3OH")
BOXED = ase.Atoms(WATER.numbers, WATER.positions, cell=[20.0, 20.0, 20.0], pbc=True)
SLAB = ase.Atoms(WATER.numbers, WATER.positions, cell=[20.0, 20.0, 20.0], pbc=(True, True, False))


def deck(folder, atoms, **settings):
    made = network(sorted(set(atoms.get_chemical_symbols())))
    chosen = DeckSettings(**{"temperature_K": KELVIN, "steps": 20, "thermo_interval": 1, **settings})
    return write_deck(atoms, made, describe(made), chosen, folder)


def ran(path):
    """The table of a deck's run, of atoms that do not see each other: what heats them is the thermostat."""
    text = re.sub(r"pair_style .*", "pair_style zero 4.0", path.read_text())
    return run_input(re.sub(r"pair_coeff .*", "pair_coeff * *", text), path.parent).tables[-1]


def degrees(kinetic_eV):
    return 2.0 * np.mean(kinetic_eV) / (units.kB * KELVIN)


@pytest.mark.parametrize(
    ("atoms", "settings", "expected"),
    [
        (METHANOL, {"ensemble": "nve"}, 12),
        (WATER, {}, 3),
        (molecule("O2"), {}, 1),
        (WATER, {"thermostat": "langevin"}, 6),
        (BOXED, {}, 6),
        (SLAB, {}, 6),
    ],
    ids=["methanol nve", "water", "O2", "water langevin", "periodic", "slab"],
)
def test_the_first_step_has_the_temperature_over_what_moves(tmp_path, atoms, settings, expected):
    table = ran(deck(tmp_path, atoms, **settings).deck)
    assert degrees(table["KinEng"][0]) == pytest.approx(expected, rel=1e-5)
    assert table["Temp"][0] == pytest.approx(KELVIN, rel=1e-5)


@pytest.mark.parametrize(("atoms", "expected"), [(WATER, 3), (BOXED, 6)], ids=["free", "periodic"])
def test_nose_hoover_keeps_the_temperature_in_both_decks(tmp_path, atoms, expected):
    made = deck(tmp_path, atoms, steps=40_000, thermo_interval=10)
    for path in (made.deck, made.continuation):
        assert degrees(ran(path)["KinEng"]) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("atoms", [WATER, BOXED], ids=["free", "periodic"])
def test_langevin_heats_atoms_of_unlike_masses_alike(tmp_path, atoms):
    """What LAMMPS' own ``zero yes`` does not: water of 300 K had 700 K."""
    settings = {"thermostat": "langevin", "damping_fs": 10.0, "thermo_interval": 10}
    table = ran(deck(tmp_path, atoms, steps=200_000, **settings).deck)
    assert degrees(table["KinEng"]) == pytest.approx(6, rel=0.05)
    assert table["Temp"].mean() == pytest.approx(KELVIN, rel=0.05)


def test_velocities_of_the_structure_lose_what_a_thermostat_would_count_as_heat(tmp_path):
    """In nve they stay, and a molecule that turns has three degrees of freedom more."""
    atoms = WATER.copy()
    atoms.set_momenta(np.random.default_rng(0).normal(size=(3, 3)))
    kept = ran(deck(tmp_path / "nve", atoms, ensemble="nve").deck)
    assert kept["KinEng"][0] == pytest.approx(atoms.get_kinetic_energy(), rel=1e-5)
    assert kept["Temp"][0] == pytest.approx(2.0 * atoms.get_kinetic_energy() / (6 * units.kB), rel=1e-4)
    stopped = ran(deck(tmp_path / "nvt", atoms).deck)
    assert stopped["KinEng"][0] < 0.9 * atoms.get_kinetic_energy()
