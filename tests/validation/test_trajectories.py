"""Trajectories that were run before, against those of a reference."""

from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase import Atoms, units

from compactff_md.errors import CompactFFError
from compactff_md.validation.settings import suite_settings
from compactff_md.validation.thresholds import Thresholds
from compactff_md.validation.trajectories import analyse, read_trajectory
from validation_builders import SETTINGS, campaign, subject

ELEMENTS = {1: 2, 8: 1}  # types of the dumps, by atomic number


def lammps_dump(path: Path, frames: list[Atoms], flags: str, every: int = 10) -> Path:
    """A dump with the columns of the decks and velocities; the atoms of free sides make the box."""
    lines = []
    for k, atoms in enumerate(frames):
        low, high = atoms.positions.min(0), atoms.positions.max(0)
        low, high = np.where(atoms.pbc, 0.0, low), np.where(atoms.pbc, np.diag(atoms.cell), high)
        lines += ["ITEM: TIMESTEP", f"{every * k}", "ITEM: NUMBER OF ATOMS", f"{len(atoms)}"]
        lines += [f"ITEM: BOX BOUNDS {flags}", *(f"{a} {b}" for a, b in zip(low, high, strict=True))]
        lines.append("ITEM: ATOMS id type element xu yu zu vx vy vz")
        speeds = atoms.get_velocities() * 1e3 * units.fs  # in A/ps
        for i, (z, x, v) in enumerate(zip(atoms.numbers, atoms.positions, speeds, strict=True)):
            symbol = ase.data.chemical_symbols[z]
            lines.append(f"{i + 1} {ELEMENTS[z]} {symbol} {' '.join(map(str, [*x, *v]))}")
    path.write_text("\n".join(lines) + "\n")
    return path


def shaken_water(count: int = 60) -> list[Atoms]:
    """Frames of a molecule of water that vibrates and is not periodic."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        atoms = ase.build.molecule("H2O")
        atoms.positions += rng.normal(0.0, 0.02, (3, 3))
        atoms.set_velocities(rng.normal(0.0, 5e-3, (3, 3)) / units.fs)
        frames.append(atoms)
    return frames


def lammps_dcd(path: Path, frames: list[Atoms], remarks: str) -> Path:
    """A DCD of a timestep of 0.5, every 10 steps, in a box of 20 A."""
    libdcd = pytest.importorskip("MDAnalysis.lib.formats.libdcd")
    with libdcd.DCDFile(str(path), "w") as file:
        file.write_header(
            remarks=remarks, natoms=len(frames[0]), istart=0, nsavc=10, delta=0.5, is_periodic=1
        )
        for atoms in frames:
            file.write(xyz=atoms.positions.astype(np.float32), box=np.array([20.0, 90, 20, 90, 90, 20]))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("trajectories")
    bench = campaign(tmp_path / "runs", subject(), replica_ps=2.0)
    long = campaign(tmp_path / "long", subject("", length=1.05), replica_ps=2.0)
    for name, runs in (("own", long.student_replicas()), ("theirs", bench.student_replicas())):
        for k, run in enumerate(runs):
            frames = [Atoms(run.numbers, x) for x in run.positions_A]
            ase.io.write(tmp_path / f"{name}-{k}.xyz", frames, format="xyz")
    return tmp_path


class TestTrajectories:
    @pytest.fixture(autouse=True)
    def _mdanalysis(self):
        pytest.importorskip("MDAnalysis")

    def test_compared(self, files):
        own, theirs = ([files / f"{name}-{k}.xyz" for k in range(2)] for name in ("own", "theirs"))
        options = {"settings": SETTINGS, "thresholds": Thresholds()}
        report = analyse(own, own[0], files / "report", references=theirs, **options)
        found = {finding.name: finding.verdict for finding in report.findings}
        assert found["stability.survived"] == "pass" and found["structure.distances"] == "fail"
        same = analyse(theirs, own[0], files / "same", references=theirs[::-1], **options)
        assert "fail" not in {finding.verdict for finding in same.findings}
        alone = analyse(own, own[0], files / "alone", **options)
        assert list(alone.sections) == ["stability"]

    def test_files_without_times_have_frames_of_the_settings(self, files):
        run = read_trajectory(files / "own-0.xyz", files / "own-0.xyz", SETTINGS)
        assert run.time_ps[:3] == pytest.approx(np.arange(3) * SETTINGS.frame_fs / 1e3)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "no such file"),
            ("3\n\nC 0 0 0\nC 0 0 1\nO 0 1 0\n" * 3, "cannot be read with the topology"),
            ("4\n\nC 0 0 0\nC 0 0 1\nO 0 1 0\nO 1 0 0\n", "has 1 frames; expected at least 2"),
        ],
    )
    def test_bad_files(self, files, tmp_path, content, words):
        path = tmp_path / "bad.xyz"
        if content is not None:
            path.write_text(content)
        with pytest.raises(CompactFFError, match=words):
            analyse([path], files / "own-0.xyz", tmp_path / "out", settings=SETTINGS, thresholds=Thresholds())

    def test_atoms_without_elements(self, tmp_path):
        path = tmp_path / "beads.xyz"
        path.write_text("2\n\nW1 0 0 0\nQQ 0 0 1\n" * 3)
        with pytest.raises(CompactFFError, match="does not tell the elements"):
            analyse([path], path, tmp_path / "out", settings=SETTINGS, thresholds=Thresholds())


class TestFilesOfLammps:
    """Dumps tell steps and no times, and of each side whether it is periodic."""

    SETTINGS = suite_settings("quick", frame_fs=5.0)

    @pytest.fixture(autouse=True)
    def _mdanalysis(self):
        pytest.importorskip("MDAnalysis")

    @pytest.fixture
    def topology(self, tmp_path) -> Path:
        ase.io.write(tmp_path / "water.xyz", ase.build.molecule("H2O"), format="xyz")
        return tmp_path / "water.xyz"

    @pytest.mark.parametrize(
        ("name", "flags"),
        [("trajectory.lammpstrj", "mm mm mm"), ("t.lammpsdump", "ff ff ff"), ("dump.run", "ss fm sf")],
    )
    def test_a_free_molecule_stays_free(self, tmp_path, topology, name, flags):
        frames = shaken_water()
        run = read_trajectory(lammps_dump(tmp_path / name, frames, flags), topology, self.SETTINGS)
        assert not run.pbc.any() and not run.cell_A.any()
        assert run.positions_A == pytest.approx(np.array([atoms.positions for atoms in frames]), abs=1e-7)
        speeds = [atoms.get_velocities() * units.fs for atoms in frames]
        assert run.velocities_A_per_fs == pytest.approx(np.array(speeds))
        assert run.time_ps[:3] == pytest.approx([0.0, 0.005, 0.010])

    def test_a_box_has_the_sides_that_are_periodic(self, tmp_path, topology):
        frames = shaken_water(3)
        for flags, pbc in (("pp pp pp", [True] * 3), ("pp pp fm", [True, True, False])):
            for atoms in frames:
                atoms.set_cell([9.0, 10.0, 11.0])
                atoms.set_pbc(pbc)
            path = lammps_dump(tmp_path / "t.lammpstrj", frames, flags)
            run = read_trajectory(path, topology, self.SETTINGS)
            assert run.pbc.tolist() == pbc
            assert np.diag(run.cell_A[-1])[:2] == pytest.approx([9.0, 10.0])

    def test_what_cannot_be_compared_leaves_the_rest(self, tmp_path, topology):
        frames = shaken_water()
        for atoms in frames:
            atoms.set_cell([9.0, 10.0, 11.0])
            atoms.set_pbc([True, True, False])
        paths = [lammps_dump(tmp_path / f"{k}.lammpstrj", frames, "pp pp fm") for k in range(2)]
        options = {"references": paths[1:], "settings": self.SETTINGS, "thresholds": Thresholds()}
        report = analyse(paths[:1], topology, tmp_path / "out", **options)
        found = {finding.name: finding for finding in report.findings}
        assert found["suite.ran [structure]"].verdict == "undecided"
        assert "periodic in part" in found["suite.ran [structure]"].note
        assert found["stability.survived"].value == 1.0 and (tmp_path / "out" / "report.json").is_file()

    def test_a_broken_bond_is_seen(self, tmp_path, topology):
        frames = shaken_water()
        for atoms in frames[20:]:
            atoms.positions[1] += [0.0, 3.0, 0.5]
        path = lammps_dump(tmp_path / "t.lammpstrj", frames, "mm mm mm")
        whole = lammps_dump(tmp_path / "whole.lammpstrj", shaken_water(), "mm mm mm")
        report = analyse(
            [path],
            topology,
            tmp_path / "out",
            references=[whole],
            settings=self.SETTINGS,
            thresholds=Thresholds(),
        )
        found = {finding.name: finding for finding in report.findings}
        assert found["stability.survived"].verdict == "fail"
        assert "after 0.1 ps: bond O0-H1 broke" in found["stability.survived"].note

    def test_without_the_time_between_frames_it_is_asked_for(self, tmp_path, topology):
        path = lammps_dump(tmp_path / "t.lammpstrj", shaken_water(3), "mm mm mm")
        with pytest.raises(CompactFFError, match=r"no times.*frame_fs"):
            read_trajectory(path, topology, suite_settings("quick"))

    def test_times_of_a_dcd(self, tmp_path, topology):
        theirs = lammps_dcd(tmp_path / "l.dcd", shaken_water(4), "Written by LAMMPS")
        run = read_trajectory(theirs, topology, self.SETTINGS)
        assert run.time_ps == pytest.approx([0.0, 0.005, 0.010, 0.015])
        assert run.pbc.all()
        with pytest.raises(CompactFFError, match=r"no times.*frame_fs"):
            read_trajectory(theirs, topology, suite_settings("quick"))
        others = lammps_dcd(tmp_path / "c.dcd", shaken_water(4), "by another program")
        akma = read_trajectory(others, topology, suite_settings("quick"))
        assert akma.time_ps[1] == pytest.approx(10 * 0.5 * 0.04888821)

    def test_other_atoms(self, tmp_path, topology):
        path = lammps_dump(tmp_path / "t.lammpstrj", [atoms[:2] for atoms in shaken_water(3)], "mm mm mm")
        with pytest.raises(CompactFFError, match=r"2 atoms.*3"):
            read_trajectory(path, topology, self.SETTINGS)


class TestExtendedXYZ:
    @pytest.fixture(autouse=True)
    def _mdanalysis(self):
        pytest.importorskip("MDAnalysis")

    def test_box_and_times(self, tmp_path):
        frames = []
        for k in range(4):
            atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64)  # its cell is not lower triangular
            atoms.rattle(0.05, seed=k)
            atoms.wrap()
            frames.append(atoms)
        ase.io.write(tmp_path / "t.xyz", frames, format="extxyz")
        ase.io.write(tmp_path / "top.pdb", frames[0])
        run = read_trajectory(tmp_path / "t.xyz", tmp_path / "top.pdb", SETTINGS)
        assert run.pbc.all() and np.abs(np.triu(run.cell_A[0], 1)).max() < 1e-9
        distance = [run.structure(k).to_ase().get_distance(0, 1, mic=True) for k in range(4)]
        assert distance == pytest.approx([atoms.get_distance(0, 1, mic=True) for atoms in frames])
        assert run.time_ps == pytest.approx(np.arange(4) * SETTINGS.frame_fs / 1e3)
        for k, atoms in enumerate(frames):
            atoms.info["time_ps"] = 0.5 + 0.02 * k
        ase.io.write(tmp_path / "of-a-run.xyz", frames, format="extxyz")
        run = read_trajectory(tmp_path / "of-a-run.xyz", tmp_path / "top.pdb", SETTINGS)
        assert run.time_ps == pytest.approx([0.0, 0.02, 0.04, 0.06])

    def test_free_molecules(self, tmp_path):
        frames = shaken_water(3)
        ase.io.write(tmp_path / "t.extxyz", frames, format="extxyz")
        ase.io.write(tmp_path / "top.xyz", frames[0], format="xyz")
        run = read_trajectory(tmp_path / "t.extxyz", tmp_path / "top.xyz", SETTINGS)
        assert not run.pbc.any() and not run.cell_A.any()
        assert run.positions_A == pytest.approx(np.array([atoms.positions for atoms in frames]), abs=1e-7)
