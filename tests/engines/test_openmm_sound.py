import numpy as np
import pytest

from compactff_md.engines.md_velocities import KB_KJ_PER_MOL_K
from compactff_md.engines.openmm_import import openmm
from compactff_md.engines.openmm_md import MDStopped, simulate
from compactff_md.engines.openmm_sound import Unsound, Watch
from compactff_md.structure import Structure
from openmm_builders import ethanol, settings, springs


@pytest.mark.parametrize("temperature_K", [0.0, 10.0, 300.0, 1500.0])
@pytest.mark.parametrize("num_atoms", [9, 22, 10_000])
def test_heating_melting_and_boiling_are_sound_and_free_atoms_are_not(temperature_K, num_atoms):
    watch = Watch(temperature_K, 3 * num_atoms - 3, num_atoms)
    watch.check(-50.0, 0.0)
    thermal = 1.5 * num_atoms * KB_KJ_PER_MOL_K * temperature_K
    watch.check(-50.0 + 2.0 * thermal + 14.0 * num_atoms, thermal)  # 14 kJ/mol an atom: water becomes vapour
    watch.check(-1e6 * num_atoms, thermal)
    with pytest.raises(Unsound, match=r"potential energy has risen by .* flown apart"):
        watch.check(-50.0 + 250.0 * num_atoms, thermal)


def test_a_barostat_may_do_its_work():
    Watch(300.0, 27, 10, work=1e4).check(0.0, 0.0)
    watch = Watch(300.0, 27, 10, work=1e4)
    watch.check(0.0, 0.0)
    watch.check(1e4, 0.0)
    with pytest.raises(Unsound, match="potential energy has risen"):
        watch.check(2e4, 0.0)


def stepping_up(after: int, energy: float):
    """Springs whose energy goes up by so much (kJ/mol) after so many evaluations, without a force."""
    made, calls = springs(ethanol()), []

    def compute(state):
        calls.append(0)
        return (energy if len(calls) > after else 0.0), np.zeros((9, 3))

    made.system.addForce(openmm.PythonForce(compute))
    return made


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_what_has_flown_apart_and_cooled_is_stopped_however_seldom_the_log_is_written(tmp_path, ensemble):
    asked = settings(ensemble=ensemble, steps=2000, report_interval=2000, trajectory_interval=200)
    with pytest.raises(MDStopped, match=r"stopped at step 100 .*potential energy has risen by 2[56]"):
        simulate(stepping_up(50, 2500.0), asked, tmp_path / "run")
    assert (tmp_path / "run/trajectory.xtc").stat().st_size == 0


def test_what_has_flown_apart_in_the_equilibration_is_stopped(tmp_path):
    asked = settings(ensemble="nvt", equilibration_ps=0.01)
    with pytest.raises(MDStopped, match=r"potential energy has risen by .* eV during equilibration"):
        simulate(stepping_up(20, 2500.0), asked, tmp_path / "run")


def test_a_strained_start_is_no_alarm(tmp_path):
    made = springs(ethanol())
    strained = Structure(made.structure.positions_A * 1.05, made.structure.numbers)
    made = type(made)(strained, made.topology, made.system)
    assert simulate(made, settings(steps=1000), tmp_path / "nve").completed
    asked = settings(ensemble="nvt", steps=1000, temperature_K=1500, equilibration_ps=0.05)
    assert simulate(made, asked, tmp_path / "nvt").completed
