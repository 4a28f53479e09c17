"""What ends a run that has blown up, in every kind of deck, with a soft repulsion in place of the student."""

import ase
import numpy as np
import pytest

from compactff_md.artifact import describe
from compactff_md.engines.lammps_deck import deck_facts, write_deck
from compactff_md.engines.lammps_settings import DeckSettings
from lammps_builders import network, run_input

RUNS = {
    "nve": {"ensemble": "nve"},
    "nvt": {"ensemble": "nvt", "units": "real"},
    "langevin": {"ensemble": "nvt", "thermostat": "langevin"},
    "npt": {"ensemble": "npt", "units": "real", "pressure_bar": 120_000.0},
}
HEIGHT = {"metal": 2.0, "real": 46.0}


def lattice():
    sites = 3.6 * np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    return ase.Atoms("H27", sites, cell=[10.8] * 3, pbc=True)


def ran(path, settings, timestep_fs, check):
    text = path.read_text().replace("mliap unified student.mliap.pt 0", "soft 5.0")
    text = text.replace("pair_coeff      * * H", f"pair_coeff * * {HEIGHT[settings.units]}")
    own = f"timestep        {settings.time(settings.timestep_fs):g}"
    assert own in text
    text = text.replace(own, f"timestep {settings.time(timestep_fs)}")
    return run_input(text, path.parent, check=check)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_blows_up_ends_with_an_error_and_a_sound_one_does_not(tmp_path, kind):
    settings = DeckSettings(steps=200, temperature_K=100.0, **RUNS[kind])
    made = network(["H"])
    deck = write_deck(lattice(), made, describe(made), settings, tmp_path)
    for path in (deck.deck, deck.continuation):
        assert ran(path, settings, 0.5, True).tables[-1]["Step"][-1] in (200, 400)
        blown_up = ran(path, settings, 12.0, False)
        assert blown_up.code != 0, blown_up.out[-2000:]
        assert "_ran_away met on step" in blown_up.out and "Loop time" in blown_up.out


def test_bounds_are_those_of_the_hottest_and_no_few_atoms_reach_them():
    atoms, made = lattice(), network(["H"])
    cold = deck_facts(atoms, made, DeckSettings(steps=1))
    assert cold["highest_K"] == 2300.0 and cold["highest_rise_eV"] == pytest.approx(0.388, abs=1e-3)
    assert (
        deck_facts(atoms, made, DeckSettings(steps=1, temperature_K=0.0, ensemble="nve"))["highest_K"]
        == 2000.0
    )
    atoms.set_momenta(np.tile([[1.0], [-1.0]], (14, 3))[:27])
    hot = deck_facts(atoms, made, DeckSettings(steps=1))
    assert hot["highest_K"] > 4.0 * atoms.get_temperature() > 9200.0
    pair = ase.Atoms("H2", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]])
    # A vibration of mean energy kT/2 exceeds 25 times that at less than one step in a million.
    few = deck_facts(pair, made, DeckSettings(steps=1))
    assert 2 * few["highest_rise_eV"] > 25.0 * 0.5 * 8.617e-5 * 300.0 and few["highest_K"] > 60 * 300.0
