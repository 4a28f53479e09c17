import json
import re

import ase.io
import MDAnalysis
import numpy as np
import pytest

from compactff_md.engines import openmm_simulation
from compactff_md.engines.md_log import read_log
from compactff_md.engines.openmm_force import FORCES
from compactff_md.engines.openmm_import import openmm
from compactff_md.engines.openmm_md import MDSettings, MDStopped, run_md, simulate
from compactff_md.engines.openmm_system import prepare
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure
from openmm_builders import box, ethanol, gas, settings, springs, student

# What MDAnalysis says of its own future.
pytestmark = pytest.mark.filterwarnings("ignore:DCDReader currently makes:DeprecationWarning")


@pytest.fixture(scope="module")
def network():
    return student(0.05)


@pytest.mark.parametrize("force", ["torchforce", "python"])
@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_a_run_writes_what_it_promises(tmp_path, network, ensemble, force):
    structure = box(10 * np.eye(3)) if ensemble == "npt" else ethanol()
    seen = []
    asked = settings(ensemble=ensemble, force=force, seed=3)
    result = run_md(structure, network, asked, tmp_path / "run", progress=seen.append)
    assert result.completed and result.steps == 40 and result.time_ps == pytest.approx(0.004)
    assert seen[-1].step == seen[-1].steps == 40 and seen[-1].ns_per_day > 0 and result.ns_per_day > 0
    log = read_log(result.log)
    np.testing.assert_array_equal(log["step"], np.arange(0, 41, 5))
    np.testing.assert_allclose(log["total_eV"], log["potential_eV"] + log["kinetic_eV"], atol=2e-9)
    assert log["temperature_K"][0] == pytest.approx(300.0, rel=0.2 if ensemble != "nve" else 1e-4)
    universe = MDAnalysis.Universe(str(result.topology), str(result.trajectory))
    assert len(universe.trajectory) == 4
    assert list(universe.atoms.elements) == structure.symbols
    assert universe.trajectory[-1].time == pytest.approx(0.004)
    written = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert MDSettings(**written["settings"]) == asked
    assert written["student"]["parameters"] == network.num_parameters
    assert written["platform"] == result.platform == "Reference"
    assert written["versions"]["openmm"]
    if ensemble == "npt":
        assert universe.trajectory[-1].volume == pytest.approx(log["volume_A3"][-1], rel=1e-3)
        mass = (
            universe.atoms.masses.sum()
            if hasattr(universe.atoms, "masses")
            else structure.to_ase().get_masses().sum()
        )
        assert log["density_g_per_cm3"][-1] == pytest.approx(
            mass / 0.6022140857 / log["volume_A3"][-1], rel=1e-3
        )


def test_a_gpu_that_does_not_work_is_told(tmp_path, monkeypatch):
    def without_gpu(system, integrator, name):
        if name == "CUDA":
            raise openmm.OpenMMException("CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)\nand a stack")
        return make_context(system, integrator, name)

    make_context = openmm_simulation.make_context
    monkeypatch.setattr(openmm_simulation, "make_context", without_gpu)
    monkeypatch.setattr(openmm_simulation, "automatic_platforms", lambda: ["CUDA", "Reference"])
    with pytest.warns(UserWarning, match=r"CUDA does not work here \(CUDA_ERR.*\): running on Reference$"):
        result = simulate(springs(ethanol()), settings(equilibration_ps=0.001), tmp_path / "run")
    assert result.platform == "Reference"
    with pytest.raises(CompactFFError, match=r"platform CUDA does not work here \(CUDA_ERROR_UNSUPP[^\n]*$"):
        simulate(springs(ethanol()), settings(platform="CUDA"), tmp_path / "other")


def test_a_student_conserves_energy(tmp_path):
    result = run_md(ethanol(), student(0.02), settings(steps=400, timestep_fs=0.05), tmp_path / "run")
    energy = read_log(result.log)["total_eV"]
    kinetic = read_log(result.log)["kinetic_eV"]
    assert np.ptp(energy) < 1e-2 * np.ptp(kinetic)
    assert result.drift is not None and result.drift.duration_ps == pytest.approx(0.02)


def test_energy_of_springs_is_conserved_and_the_molecule_stays_in_place(tmp_path):
    """Leapfrog's kinetic energy is that of the full step: the scatter is the timestep's error, no more."""
    made = springs(ethanol())
    scatter = {}
    for timestep_fs in (0.5, 0.25):
        asked = settings(steps=4000, timestep_fs=timestep_fs, seed=2, trajectory_interval=4000)
        result = simulate(made, asked, tmp_path / str(timestep_fs))
        assert result.drift is not None
        assert abs(result.drift.slope_meV_per_atom_ps) < 1e-2
        scatter[timestep_fs] = result.drift.std_meV_per_atom
    assert scatter[0.25] == pytest.approx(scatter[0.5] / 4, rel=0.3)
    last = MDAnalysis.Universe(str(result.topology), str(result.trajectory)).trajectory[-1].positions
    masses = made.structure.to_ase().get_masses()
    np.testing.assert_allclose(masses @ last, masses @ made.structure.positions_A, atol=0.3)


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_the_thermostat_reaches_its_temperature(tmp_path, ensemble):
    made = gas(40, 60.0) if ensemble == "npt" else springs(ethanol())
    fast = {"timestep_fs": 1.0, "friction_per_ps": 20.0, "report_interval": 20, "trajectory_interval": 10_000}
    asked = MDSettings(ensemble=ensemble, steps=10_000, temperature_K=450, equilibration_ps=0.5, **fast)
    result = simulate(made, asked, tmp_path / "run")
    temperature = read_log(result.log)["temperature_K"]
    dof = 3 * len(made.structure) - 3
    # 500 rows, of which about one in 3 is independent
    tolerance = 4 * 450 * np.sqrt(2 / dof) / np.sqrt(500 / 3)
    assert abs(temperature.mean() - 450) < tolerance


@pytest.mark.parametrize("cell_changes", ["isotropic", "anisotropic", "flexible"])
def test_the_barostat_changes_what_it_shall(tmp_path, network, cell_changes):
    structure = box(10 * np.eye(3))
    asked = settings(ensemble="npt", cell_changes=cell_changes, barostat_interval=1, pressure_bar=1e5)
    result = run_md(structure, network, asked, tmp_path / "run")
    vectors = (
        MDAnalysis.Universe(str(result.topology), str(result.trajectory)).trajectory[-1].triclinic_dimensions
    )
    lengths = np.diag(vectors)
    assert abs(lengths[0] - 10.0) > 1e-3
    assert (np.ptp(lengths) > 1e-3) == (cell_changes != "isotropic")
    assert (np.abs(vectors - np.diag(lengths)).max() > 1e-3) == (cell_changes == "flexible")


def test_the_barostat_moves_molecules_and_reaches_the_volume_of_an_ideal_gas(tmp_path):
    """<V> = (N + 1) kT / P for N independent molecules."""
    made = gas(60, 40.0)
    asked = MDSettings(
        ensemble="npt",
        pressure_bar=40.0,
        temperature_K=300,
        steps=12_000,
        timestep_fs=1.0,
        friction_per_ps=10.0,
        barostat_interval=1,
        report_interval=10,
        trajectory_interval=4000,
    )
    result = simulate(made, asked, tmp_path / "run")
    volume = read_log(result.log)["volume_A3"][200:]
    expected = 61 * 1.380649e-23 * 300 / 40e5 * 1e30
    assert volume.mean() == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    ("structure", "fields", "message"),
    [
        (ethanol(), {"platform": "TPU"}, "unknown platform 'TPU'; this OpenMM has Reference"),
        (ethanol(), {"ensemble": "npt"}, "npt needs a periodic box"),
        (box(), {"ensemble": "npt", "cell_changes": "anisotropic"}, "upright box"),
        (Structure([[0, 0, 0], [1.2, 0, 0]], [7, 7]), {}, "does not know N"),
        (Structure([[0, 0, 0], [0.1, 0, 0], [3, 0, 0]], [1, 1, 1]), {}, "overlap"),
        (Structure(np.eye(3), [1, 1, 1], 9 * np.eye(3), (True, True, False)), {}, "give a slab a box"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, network, structure, fields, message):
    with pytest.raises(CompactFFError, match=message):
        run_md(structure, network, settings(force="python", **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def explosive(after_step: int, energy: float, push: float):
    """Springs, and a force that goes wrong after some steps."""
    made = springs(ethanol())
    calls = []

    def compute(state):
        calls.append(0)
        bad = len(calls) > after_step
        return (energy if bad else 0.0), np.full((9, 3), push if bad else 0.0) * np.eye(9, 3)

    made.system.addForce(openmm.PythonForce(compute))
    return made


@pytest.mark.parametrize(
    ("energy", "push", "message"),
    [
        (float("nan"), 0.0, "potential energy is nan"),
        (0.0, float("nan"), "not finite|is NaN"),
        (0.0, 1e5, "temperature is [0-9]+ K, above the limit"),
    ],
)
def test_a_run_that_makes_no_sense_is_stopped_and_keeps_everything(tmp_path, energy, push, message):
    made = explosive(60, energy, push)
    with pytest.raises(MDStopped, match=message) as caught:
        simulate(made, settings(steps=4000), tmp_path / "run")
    assert "last sound state" in str(caught.value) and "failed.xyz" in str(caught.value)
    log = read_log(tmp_path / "run/log.csv")
    assert 20 <= log["step"][-1] < 4000 and np.isfinite(log["total_eV"]).all()
    state = openmm.XmlSerializer.deserialize((tmp_path / "run/restart.xml").read_text())
    assert state.getStepCount() == log["step"][-1]
    assert np.isfinite(state.getPositions(asNumpy=True)._value).all()
    assert len(ase.io.read(tmp_path / "run/failed.xyz")) == 9
    result = simulate(springs(ethanol()), settings(steps=100), tmp_path / "run", resume=True)
    assert result.steps == 100
    np.testing.assert_array_equal(read_log(result.log)["step"], np.arange(0, 101, 5))


def test_a_student_that_fails_in_equilibration_is_stopped(tmp_path):
    with pytest.raises(MDStopped, match="before the first step: "):
        simulate(explosive(60, 0.0, 1e6), settings(equilibration_ps=0.1), tmp_path / "run")
    assert simulate(springs(ethanol()), settings(equilibration_ps=0.1), tmp_path / "run").completed


@pytest.mark.parametrize("fields", [{}, {"minimise": True}, {"equilibration_ps": 0.1}])
def test_a_start_that_makes_no_sense_is_stopped_at_once(tmp_path, fields):
    with pytest.raises(MDStopped, match="before the first step: "):
        simulate(explosive(-1, float("nan"), float("nan")), settings(**fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_what_others_put_into_its_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CompactFFError, match="unknown platform"):
        simulate(springs(ethanol()), settings(platform="TPU"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["topology.pdb", "failed.xyz", "restart_previous.xml"])
@pytest.mark.parametrize("fields", [{}, {"platform": "TPU"}])
def test_files_of_others_are_not_written_over(tmp_path, name, fields):
    (tmp_path / name).write_text("mine")
    with pytest.raises(CompactFFError, match=f"already holds {name}, which a run would write over"):
        simulate(springs(ethanol()), settings(**fields), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_what_does_not_move_freely_is_refused_and_leaves_nothing(tmp_path):
    massless, held = springs(ethanol()), springs(ethanol())
    massless.system.setParticleMass(2, 0.0)
    with pytest.raises(CompactFFError, match=r"particles \[2\] have no mass; expected atoms that all move"):
        simulate(massless, settings(), tmp_path / "run")
    held.system.addConstraint(0, 3, 0.109)
    with pytest.raises(CompactFFError, match="has 1 constraints; expected none"):
        simulate(held, settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


MORE_ROOM, SOUNDER = "fewer atoms, a smaller skin, or another platform", "try a smaller timestep"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", MORE_ROOM),
        ("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA", MORE_ROOM),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", MORE_ROOM),
        ("Error creating array: CUDA_ERROR_OUT_OF_MEMORY (2)", MORE_ROOM),
        ("std::bad_alloc", MORE_ROOM),
        ("positions are NaN or infinite; expected finite numbers", SOUNDER),
        ("atoms are too far apart; the system has flown apart", SOUNDER),
        ("the cell is thinner than 0.5 A along a periodic direction", SOUNDER),
        ("in a trace: nan\na nanometer of cable is missing", None),
    ],
)
@pytest.mark.parametrize("fails_at", [0, 20])
def test_advice_is_for_what_failed(tmp_path, message, advice, fails_at):
    made, calls = springs(ethanol()), []

    def compute(state):
        calls.append(0)
        if len(calls) > fails_at:
            raise RuntimeError(message)
        return 0.0, np.zeros((9, 3))

    made.system.addForce(openmm.PythonForce(compute))
    last = re.escape(message.splitlines()[-1])
    with pytest.raises(MDStopped, match=f"the engine failed: {last}") as caught:
        simulate(made, settings(), tmp_path / "run")
    for words in (MORE_ROOM, SOUNDER):
        assert (words in str(caught.value)) == (words == advice)


@pytest.mark.parametrize("force", FORCES)
def test_a_student_that_fails_in_its_own_code_is_stopped(tmp_path, network, force):
    made, calls = prepare(box(), network, force=force), []

    def compute(state):
        calls.append(0)
        return 0.0, np.full((len(made.structure), 3), np.nan if len(calls) > 20 else 0.0)

    made.system.addForce(openmm.PythonForce(compute))
    with pytest.raises(MDStopped, match=r"the engine failed: .*positions are NaN"):
        simulate(made, settings(), tmp_path / "run")


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_a_single_atom_moves_or_does_not(tmp_path, ensemble):
    alone = springs(Structure([[0.0, 0.0, 0.0]], [6]))
    log = read_log(simulate(alone, settings(ensemble=ensemble, steps=2000), tmp_path / "run").log)
    assert np.isfinite(log["temperature_K"]).all()
    assert (log["temperature_K"][-1] > 0) == (ensemble == "nvt")


def test_minimising_and_equilibrating_come_first(tmp_path):
    made = springs(ethanol())
    strained = Structure(made.structure.positions_A * 1.05, made.structure.numbers)
    made = type(made)(strained, made.topology, made.system)
    plain = simulate(made, settings(temperature_K=0), tmp_path / "plain")
    relaxed = simulate(made, settings(temperature_K=0, minimise=True), tmp_path / "relaxed")
    assert read_log(plain.log)["total_eV"][0] > 1.0
    assert read_log(relaxed.log)["total_eV"][0] < 1e-2
    warm = simulate(
        made, settings(minimise=True, equilibration_ps=1.0, friction_per_ps=50), tmp_path / "warm"
    )
    log = read_log(warm.log)
    assert log["step"][0] == 0 and log["time_ps"][0] == 0
    assert log["potential_eV"][0] > 0.1


def test_runs_of_constant_energy_have_the_mean_energy_of_the_equilibration(tmp_path):
    """From seed to seed it scatters less than the potential energy of a moment would make it."""
    made, energies_eV = springs(ethanol()), []
    for seed in range(6):
        asked = settings(steps=100, temperature_K=300, equilibration_ps=10.0, seed=seed)
        energies_eV.append(read_log(simulate(made, asked, tmp_path / str(seed)).log)["total_eV"][0])
    dof = 3 * len(made.structure) - 6
    of_moments_eV = 8.617e-5 * 300 * np.sqrt(dof / 2)
    assert np.std(energies_eV) < 0.5 * of_moments_eV


def test_the_mean_temperature_leaves_the_drawn_velocities_out(tmp_path):
    result = simulate(springs(ethanol()), settings(), tmp_path / "run")
    log = read_log(result.log)
    assert result.temperature_K == pytest.approx(log["temperature_K"][1:].mean()) and result.frames == 4
    short = simulate(springs(ethanol()), settings(steps=3), tmp_path / "short")
    assert np.isnan(short.temperature_K) and short.frames == 0


def test_a_minimisation_that_did_not_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(openmm_simulation, "minimise", lambda context, stop: False)
    made = springs(ethanol())
    strained = Structure(made.structure.positions_A * 1.05, made.structure.numbers)
    made = type(made)(strained, made.topology, made.system)
    with pytest.warns(
        UserWarning, match=r"minimisation ended after 500 steps with a force of .* eV/A, above"
    ):
        assert simulate(made, settings(minimise=True), tmp_path / "run").completed
