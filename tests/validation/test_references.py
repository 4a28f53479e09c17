"""The analyses against independent sources: analytic systems, ASE and MDAnalysis used by hand."""

import re
from dataclasses import replace

import ase.build
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.vibrations import Vibrations

from builders import rotation
from compactff_md.engines.molecules import Molecules, find_molecules
from compactff_md.structure import Structure
from compactff_md.validation import conservation, dynamics, mda, structure, thermodynamics
from compactff_md.validation.campaign import Labels
from compactff_md.validation.engine_ase import ASEEngine, at_rest_at
from compactff_md.validation.run import Run
from compactff_md.validation.task import State, Task
from validation_builders import PairPotential, campaign, gas, molecule, subject

SPRING_EV_PER_A2 = 20.0


class Springs(Calculator):
    """Each atom on a spring to the origin."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        self.results = {
            "energy": 0.5 * SPRING_EV_PER_A2 * float((x**2).sum()),
            "forces": -SPRING_EV_PER_A2 * x,
        }


class TestConservation:
    @pytest.mark.parametrize(
        ("drift", "verdict"), [(0.004, "pass"), (0.05, "fail"), (0.3, "fail"), (10.0, "fail")]
    )
    def test_a_run_that_heats_itself_fails_however_fast(self, tmp_path, drift, verdict):
        bench = campaign(tmp_path, subject())
        for seed in range(4):
            run = gas(seed, frames=1000)
            rng = np.random.default_rng(seed)
            gained = 0.5e-3 * drift * 24 * run.time_ps  # eV, of each energy
            exchanged = 0.01 * 24 * rng.normal(size=1000)
            noise = 1e-5 * rng.normal(size=1000)
            heated = replace(
                run, kinetic_eV=1.0 + gained + exchanged, potential_eV=gained - exchanged + noise
            )
            finding = conservation.drift_findings(bench, heated, "")[0]
            assert finding.verdict == verdict, finding

    def test_fluctuation_of_a_harmonic_oscillator(self):
        """Velocity Verlet keeps E - (w dt)^2/4 * V: the fluctuation of E is that share of the potential's."""
        engine = ASEEngine(Springs())
        mass, dt = 12.011, 2.0
        frame = Structure([[0.2, 0.0, 0.0]], [6])
        start = State(frame.positions_A, np.array([[0.0, 0.003, 0.0]]))
        run = engine.run(frame, Task("nve", 300.0, dt, 5_000, 1, 0), start)
        share = SPRING_EV_PER_A2 / mass * units.fs**2 * dt**2 / 4
        assert run.total_eV.std() == pytest.approx(share * run.potential_eV.std(), rel=1e-3)
        found = conservation.analyse(run)
        slope = found.drift_meV_per_atom_ps
        assert slope.low <= 0 <= slope.high or abs(slope.value) < 1e-4
        assert found.ratio == pytest.approx(share * run.potential_eV.std() / run.kinetic_eV.std(), rel=0.01)

    def test_square_law_of_lennard_jones(self):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
        frame = Structure.from_ase(atoms)
        rng = np.random.default_rng(0)
        velocities = at_rest_at(frame, rng.normal(size=(len(frame), 3)), 60.0)
        calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=7.0, ro=5.5, smooth=True)
        runs = [
            ASEEngine(calculator).run(
                frame, Task("nve", 60.0, dt, int(600 / dt), 1, 0), State(frame.positions_A, velocities)
            )
            for dt in (5.0, 10.0)
        ]
        spread = np.array([run.total_eV.std() for run in runs])
        assert conservation.exponent(np.array([5.0, 10.0]), spread) == pytest.approx(2.0, abs=0.15)

    def test_injected_drift_is_measured_with_its_error(self):
        run, true = gas(0, frames=2000), 1e3 * 2.4e-4 / 24
        inside = 0
        for seed in range(40):
            rng = np.random.default_rng(seed)
            noise, kinetic = rng.normal(scale=1e-3, size=2000), 1.0 + 0.05 * rng.normal(size=2000)
            potential = noise + 2.4e-4 * run.time_ps - kinetic
            found = conservation.analyse(replace(run, potential_eV=potential, kinetic_eV=kinetic))
            slope = found.drift_meV_per_atom_ps
            assert slope.value == pytest.approx(true, rel=0.05) and slope.high - slope.low < 2e-3
            inside += slope.low < true < slope.high
        assert inside >= 32  # of 95 %: 38 expected, with a deviation of 1.4
        per_dof = slope.value * 24 / run.dof / (units.kB * 300.0)  # meV/ps is eV/ns
        assert found.drift_kT_per_ns_dof == pytest.approx(per_dof)


class TestThermostat:
    def test_equipartition_and_configurations(self):
        """Of independent oscillators BAOAB samples <x^2> = kT/k exactly, at any timestep."""
        frame = Structure(np.zeros((40, 3)) + np.arange(40)[:, None] * 1e-9, [6] * 40)
        run = ASEEngine(Springs()).run(frame, Task("nvt", 300.0, 4.0, 4000, 4, 3, 200, friction_per_ps=10.0))
        wanted = units.kB * 300.0 / SPRING_EV_PER_A2
        assert (run.positions_A**2).mean() == pytest.approx(wanted, rel=0.05)
        assert run.kinetic_temperature_K.mean() == pytest.approx(300.0, rel=0.12)  # (1 - (w dt)^2/4) of it

    def test_a_calculator_that_fails_ends_the_run_and_not_the_suite(self):
        class Broken(Springs):
            def calculate(self, *args, **kwargs):
                super().calculate(*args, **kwargs)
                if abs(self.atoms.positions).max() > 0.21:
                    raise RuntimeError("no self-consistency")

        frame = Structure([[0.2, 0.0, 0.0]], [6])
        start = State(frame.positions_A, np.array([[0.01, 0.0, 0.0]]))
        run = ASEEngine(Broken()).run(frame, Task("nve", 300.0, 1.0, 100, 1, 0), start)
        assert "no self-consistency" in run.failure and 1 <= len(run) < 100


class TestDynamics:
    @pytest.mark.parametrize("make", [lambda: (molecule(), PairPotential()), lambda: (_gold(), EMT())])
    def test_frequencies_are_those_of_ase(self, tmp_path, make):
        frame, calculator = make()
        least = dynamics.minimum(frame, calculator)
        ours = dynamics.harmonic_frequencies(least, calculator)
        atoms = least.to_ase()
        atoms.calc = calculator
        vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
        vibrations.run()
        theirs = vibrations.get_frequencies()
        theirs = np.sort(np.where(np.abs(theirs.imag) > np.abs(theirs.real), -theirs.imag, theirs.real))
        assert ours[-3:] == pytest.approx(theirs[-3:], rel=2e-3)
        assert dynamics.rigid_modes(least) == 6

    def test_spectrum_of_an_oscillator_peaks_at_its_frequency(self):
        time_fs = 4.0 * np.arange(500)
        against = np.array([1.0, -1.0])[None, :, None] * np.ones((1, 2, 3))
        velocities = np.cos(2 * np.pi * 2.99792458e-5 * 1000.0 * time_fs)[:, None, None] * against
        run = gas(0, 500)
        run = Run(**{**run.__dict__, "time_ps": time_fs / 1e3})
        spectrum = dynamics.spectrum(velocities, np.ones(2))
        axis = dynamics.wavenumbers(run, len(spectrum))
        assert axis[np.argmax(spectrum)] == pytest.approx(1000.0, abs=10.0)
        assert spectrum.sum() == pytest.approx(1.0)
        # Engines differ in whether they remove the motion of the whole.
        whole = np.random.default_rng(0).normal(size=(500, 1, 3))
        assert dynamics.spectrum(velocities + whole, np.ones(2)) == pytest.approx(spectrum)

    @pytest.mark.parametrize(
        ("frames", "spacings_fs", "element", "words"),
        [
            (39, (4.0, 4.0), 18, "has 39 frames; a spectrum needs 40"),
            (80, (4.0, 8.0), 18, "4 fs apart in one run and 8 fs in another"),
            (80, (8.0, 8.0), 7, "tell frequencies up to 2085 1/cm, .* which reach 2500"),
            (80, (6.0, 6.0), 1, "which reach 4000"),
        ],
    )
    def test_spectra_that_cannot_be_compared_decide_nothing(
        self, tmp_path, frames, spacings_fs, element, words
    ):
        runs = []
        for seed, spacing_fs in enumerate(spacings_fs):
            run = gas(seed, frames)
            numbers = np.where(run.numbers == 18, element, run.numbers)
            runs.append(replace(run, numbers=numbers, time_ps=1e-3 * spacing_fs * np.arange(frames)))
        found = dynamics.compare_spectra(campaign(tmp_path, subject()), runs[:1], runs[1:], ("a", "b"))
        (finding,) = found.findings
        assert finding.verdict == "undecided" and re.search(words, finding.note), finding

    def test_vibrations_that_keep_their_energy_are_one_sample_a_run(self, tmp_path):
        """Harmonic, at constant energy: the same spectrum, with other energies in each run."""
        runs, time_fs = [], 4.0 * np.arange(1000)
        for seed in range(2):
            rng, run = np.random.default_rng(seed), gas(seed, frames=1000)
            waves = 2 * np.pi * (np.linspace(2e-3, 0.1, 72)[:, None] * time_fs + rng.random((72, 1)))
            velocities = (rng.exponential(size=(72, 1)) ** 0.5 * np.cos(waves)).T.reshape(1000, 24, 3)
            runs.append(replace(run, time_ps=1e-3 * time_fs, velocities_A_per_fs=velocities))
        found = dynamics.compare_spectra(campaign(tmp_path, subject()), runs[:1], runs[1:], ("a", "b"))
        assert found.findings[0].verdict == "undecided", found.findings[0]
        length = dynamics.BLOCK_FRAMES
        assert len(dynamics.independent_spectra(runs, length, 0.1)) == 20
        assert len(dynamics.independent_spectra(runs, length, 1.0)) == 10
        assert len(dynamics.independent_spectra(runs, length, 100.0)) == 2

    def test_a_minimum_beyond_the_volumes_is_no_minimum(self):
        volumes = 100.0 * thermodynamics.VOLUMES
        noise_eV = 1e-5 * np.random.default_rng(0).normal(size=7)  # without any the fit warns
        found = thermodynamics.bulk_modulus_GPa(volumes, 1e-3 * (volumes - 99.0) ** 2 + noise_eV)
        assert found[0] == pytest.approx(99.0, abs=0.2)
        with pytest.raises(ValueError, match="would be at 9"):
            thermodynamics.bulk_modulus_GPa(volumes, 1e-3 * (volumes - 92.0) ** 2 + noise_eV)


class TestStructure:
    def test_distances_are_those_of_mdanalysis(self):
        pytest.importorskip("MDAnalysis")
        import MDAnalysis
        from MDAnalysis.analysis.rdf import InterRDF

        run = gas(1)
        universe = MDAnalysis.Universe.empty(24, trajectory=True)
        box = np.tile([12.0, 12.0, 12.0, 90.0, 90.0, 90.0], (len(run), 1)).astype(np.float32)
        universe.load_new(run.positions_A.astype(np.float32), dimensions=box)
        edges = structure._edges("distances", [run], run.structure(0))
        analysis = InterRDF(universe.atoms[:12], universe.atoms[12:], nbins=80, range=(0.0, edges[-1]))
        expected = analysis.run().results.count
        found = structure.observe("distances", [run], run.structure(0), _no_bonds(run), edges)
        ours = found.histograms[0][:, found.names.index("O-Ar")].sum(0)
        assert np.abs(ours - expected).sum() <= 2  # float32 at the edges of bins

    def test_the_distance_from_the_start_is_that_after_superposition(self):
        pytest.importorskip("MDAnalysis")
        rng = np.random.default_rng(3)
        there = rng.normal(size=(8, 3))
        turned = there @ rotation(2) + 5.0
        masses = rng.uniform(1, 16, 8)
        assert mda.rmsd_A(turned, there, masses) == pytest.approx(0.0, abs=1e-6)
        # A breathing by a tenth about the centre of mass, which no turn takes back.
        centre = np.average(there, axis=0, weights=masses)
        grown = centre + 1.1 * (there - centre)
        expected = 0.1 * structure.gyration_A(there, masses)
        assert mda.rmsd_A(grown @ rotation(2), there, masses) == pytest.approx(expected, rel=1e-6)

    def test_gyration_is_that_of_mdanalysis(self):
        pytest.importorskip("MDAnalysis")
        import MDAnalysis

        run = gas(2)
        universe = MDAnalysis.Universe.empty(24, trajectory=True)
        universe.add_TopologyAttr("masses", run.masses_Da)
        universe.load_new(run.positions_A.astype(np.float32))
        expected = universe.atoms.radius_of_gyration()
        assert structure.gyration_A(run.positions_A[0], run.masses_Da) == pytest.approx(expected, rel=1e-5)

    def test_density_of_argon(self):
        run = gas(1)
        expected = run.masses_Da.sum() * 1.66053907 / 12.0**3
        assert structure.densities(run) == pytest.approx(np.full(len(run), expected), rel=1e-6)

    def test_a_single_atom_of_an_element_makes_no_pair(self):
        frame = Structure.from_ase(ase.build.molecule("CH3CH2OH"))
        assert set(structure.element_pairs(frame)) == {"H-H", "H-C", "H-O", "C-C", "C-O"}

    def test_a_short_run_does_not_shorten_the_blocks_of_others(self):
        rng = np.random.default_rng(0)
        slow = np.repeat(rng.normal(size=200), 10)[:, None]  # 10 frames remember each other
        counts = np.stack([slow > 0, slow <= 0], axis=-1).astype(float)

        def of(*lengths: int) -> structure.Observable:
            runs = [counts[:n] for n in lengths], [slow[:n] for n in lengths]
            return structure.Observable(("g",), np.arange(3.0), *runs)

        theirs, ours, note = structure._blocks(of(2000, 2000, 3), of(2000, 2000))
        assert len(theirs) == len(ours) < 200 and note == "1 runs are too short, and left out"
        theirs, ours, note = structure._blocks(of(12, 15), of(12, 12))
        assert len(theirs) == len(ours) == 2 and "whole runs" in note

    def test_groups_of_ethene(self):
        frame = Structure.from_ase(ase.build.molecule("C2H4"))
        bonds = find_molecules(frame)
        assert {k: len(v) for k, v in structure.triples(bonds, frame).items()} == {"C-C-H": 4, "H-C-H": 2}
        assert {k: len(v) for k, v in structure.quadruples(bonds, frame).items()} == {"H-C-C-H": 4}


class TestThermodynamics:
    def test_share_of_gaussian_differences(self):
        """Weights of a normal exponent of deviation s leave exp(-s^2)."""
        x = units.kB * 300.0 * np.random.default_rng(0).normal(scale=0.8, size=200_000)
        assert thermodynamics.effective_share(x, 300.0) == pytest.approx(np.exp(-0.64), rel=0.03)
        assert thermodynamics.effective_share(np.full(10, 1e3), 300.0) == pytest.approx(1.0)
        assert thermodynamics.gaussian_share(x, 300.0) == pytest.approx(np.exp(-0.64), rel=0.03)

    @pytest.mark.parametrize(("spread_kT", "allowed"), [(0.5, {"pass"}), (2.5, {"fail", "undecided"})])
    def test_few_frames_do_not_hide_a_bad_share(self, tmp_path, monkeypatch, spread_kT, allowed):
        """Of 40 frames with a spread of 2.5 kT the sample's own share is 0.11; that of many is 0.002."""
        bench = campaign(tmp_path, subject(), replica_ps=0.05, labelled_frames=40)
        for seed in range(5):
            difference = spread_kT * units.kB * 300.0 * np.random.default_rng(seed).normal(size=40)
            difference[0] = np.nan  # without a label
            labels = {"replicas-teacher": difference, "replicas-student": np.zeros(40)}
            monkeypatch.setattr(bench, "labels", lambda name, *_, n=labels: Labels(n[name], None, None))
            finding = thermodynamics.reweighting(bench)
            assert finding.verdict in allowed and finding.note.startswith("39 frames"), finding

    @pytest.mark.parametrize(("lost", "verdict"), [(4, "pass"), (5, "undecided")])
    def test_more_than_a_tenth_of_frames_without_energies_decide_nothing(
        self, tmp_path, monkeypatch, lost, verdict
    ):
        bench = campaign(tmp_path, subject(), replica_ps=0.5, labelled_frames=40)
        difference = 1e-4 * np.random.default_rng(0).normal(size=40)
        difference[:lost] = np.nan
        labels = {"replicas-teacher": difference, "replicas-student": np.zeros(40)}
        monkeypatch.setattr(bench, "labels", lambda name, *_: Labels(labels[name], None, None))
        finding = thermodynamics.reweighting(bench)
        assert finding.verdict == verdict and f"{lost} further frames have no energy" in finding.note

    def test_more_replicas_of_the_student_are_no_more_calls_of_the_teacher(self, tmp_path, monkeypatch):
        bench = campaign(tmp_path, subject(), replica_ps=0.02, labelled_frames=4, student_replicas=3)
        asked, labels = [], bench.labels

        def counted(name, frames, calculator):
            asked.append(len(frames))
            return labels(name, frames, calculator)

        monkeypatch.setattr(bench, "labels", counted)
        thermodynamics.reweighting(bench)
        assert len(bench.student_replicas()) == 3 and asked == [4, 4]

    def test_bulk_modulus_from_energies_and_from_stress(self):
        frame = Structure.from_ase(bulk("Cu", "fcc", a=3.59, cubic=True))
        volume, modulus = thermodynamics.bulk_modulus_GPa(*thermodynamics.energy_of_volume(frame, EMT()))
        side = volume ** (1 / 3)
        relaxed = Structure.from_ase(bulk("Cu", "fcc", a=side, cubic=True))
        c = thermodynamics.elastic_constants_GPa(relaxed, EMT())
        assert (c[0, 0] + 2 * c[0, 1]) / 3 == pytest.approx(modulus, rel=0.03)
        assert c[3:, 3:] == pytest.approx(c[3, 3] * np.eye(3), abs=0.05 * c[3, 3])

    @pytest.mark.parametrize(
        ("name", "count"), [("C6H6", 0), ("CH3CH2OH", 2), ("CH4", 0), ("trans-butane", 3)]
    )
    def test_rotatable_bonds(self, name, count):
        frame = Structure.from_ase(ase.build.molecule(name))
        assert len(thermodynamics.rotatable(frame, find_molecules(frame))) == count


def _gold() -> Structure:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.0
    return Structure.from_ase(Atoms("Au4", corners))


def _no_bonds(run: Run):
    n = len(run.numbers)
    return Molecules(np.arange(n), np.zeros((n, 3), int), np.zeros(n, bool), np.zeros((0, 2), int))
