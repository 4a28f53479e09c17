import MDAnalysis
import numpy as np
import pytest

from compactff_md.engines.openmm_system import to_openmm
from compactff_md.engines.openmm_trajectory import TRAJECTORIES, xtc_frame_end
from compactff_md.errors import CompactFFError
from openmm_builders import box, ethanol, gas

# What MDAnalysis says of its own future.
pytestmark = pytest.mark.filterwarnings("ignore:DCDReader currently makes:DeprecationWarning")
FORMATS = tuple(TRAJECTORIES)
STRUCTURES = {"more than 9 atoms": lambda: gas(4, 20.0).structure, "9 atoms": ethanol, "box": box}


def frame(structure, step):
    positions = structure.positions_A / 10.0 + step * 1e-3
    return positions, (structure.cell_A / 10.0 * (1 + step * 1e-4) if structure.pbc.all() else None)


def write(path, structure, steps, last_step=None):
    trajectory = TRAJECTORIES[path.suffix[1:]](path, to_openmm(structure)[0], 0.0005, 10, last_step)
    for step in steps:
        trajectory.write(*frame(structure, step))
    trajectory.sync()
    trajectory.close()


def check(path, structure, steps):
    universe = MDAnalysis.Universe.empty(len(structure), trajectory=False)
    universe.load_new(str(path), refresh_offsets=True)
    assert len(universe.trajectory) == len(steps)
    for snapshot, step in zip(universe.trajectory, steps, strict=True):
        positions, cell = frame(structure, step)
        np.testing.assert_allclose(snapshot.positions, positions * 10.0, atol=0.006)
        if path.suffix == ".xtc":
            assert snapshot.time == pytest.approx(step * 0.0005, rel=1e-5)
        if cell is not None:
            lengths = np.linalg.norm(cell * 10.0, axis=1)
            np.testing.assert_allclose(snapshot.dimensions[:3], lengths, rtol=1e-5)
            assert snapshot.volume == pytest.approx(np.linalg.det(cell * 10.0), rel=1e-4)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_frames_come_back_and_a_killed_run_goes_on(tmp_path, suffix, name):
    structure, path = STRUCTURES[name](), tmp_path / f"trajectory.{suffix}"
    write(path, structure, range(10, 60, 10))
    check(path, structure, range(10, 60, 10))
    with path.open("ab") as stream:  # killed in the middle of a frame
        stream.write(path.read_bytes()[-77:-5])
    write(path, structure, (40, 50), last_step=37)
    check(path, structure, range(10, 60, 10))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_restart_before_the_first_frame_starts_the_file_anew(tmp_path, suffix):
    structure, path = ethanol(), tmp_path / f"trajectory.{suffix}"
    write(path, structure, (10, 20))
    write(path, structure, (10,), last_step=3)
    check(path, structure, (10,))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [1, 2, 4])
def test_runs_of_more_steps_than_32_bits_hold_go_on(tmp_path, suffix, kept):
    structure, path, interval = box(), tmp_path / f"trajectory.{suffix}", 2**30

    def write_long(frames, last_step=None):
        trajectory = TRAJECTORIES[suffix](path, to_openmm(structure)[0], 0.0005, interval, last_step)
        for number in frames:
            trajectory.write(*frame(structure, 10 * number))
        trajectory.close()

    write_long(range(1, 6))
    whole = path.read_bytes()
    write_long((), kept * interval + 3)
    assert path.stat().st_size < len(whole)
    write_long(range(kept + 1, 6), kept * interval + 3)
    assert path.read_bytes() == whole
    universe = MDAnalysis.Universe.empty(len(structure), trajectory=False)
    universe.load_new(str(path), refresh_offsets=True)
    assert len(universe.trajectory) == 5


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_frames_are_noticed(tmp_path, suffix):
    structure, path = ethanol(), tmp_path / f"trajectory.{suffix}"
    write(path, structure, (10, 20))
    with pytest.raises(CompactFFError, match="fewer than the 3 frames"):
        write(path, structure, (), last_step=30)
    path.unlink()
    with pytest.raises(CompactFFError, match="fewer than the 1 frames"):
        write(path, structure, (), last_step=10)


def test_the_end_of_an_xtc_frame(tmp_path):
    structure, path = box(), tmp_path / "trajectory.xtc"
    write(path, structure, (10,))
    size = path.stat().st_size
    assert xtc_frame_end(path, 0) == size
    assert xtc_frame_end(path, size) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert xtc_frame_end(path, 0) is None
    path.write_bytes(b"\0" * 200)
    with pytest.raises(CompactFFError, match="no XTC frame begins at byte 0"):
        xtc_frame_end(path, 0)
