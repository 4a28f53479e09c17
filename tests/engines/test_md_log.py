import numpy as np
import pytest

from compactff_md.engines.md_log import BOX_COLUMNS, COLUMNS, Log, energy_drift, read_log
from compactff_md.errors import CompactFFError


def row(step: int) -> dict[str, float]:
    return {"step": step, **{name: step + k / 8 for k, name in enumerate((*COLUMNS[1:], *BOX_COLUMNS))}}


def test_rows_come_back(tmp_path):
    log = Log(tmp_path / "log.csv", periodic=True)
    for step in (0, 10, 20):
        log.write(row(step))
    found = read_log(tmp_path / "log.csv")  # while it is still open
    log.close()
    assert tuple(found) == COLUMNS + BOX_COLUMNS
    np.testing.assert_array_equal(found["step"], [0, 10, 20])
    np.testing.assert_array_equal(found["total_eV"], [0.375, 10.375, 20.375])


def test_a_resumed_log_has_neither_gaps_nor_doubles(tmp_path):
    path = tmp_path / "log.csv"
    log = Log(path, periodic=False)
    for step in range(0, 50, 10):
        log.write(row(step))
    log.close()
    path.write_text(path.read_text() + "50,50.1")  # killed while it wrote
    assert len(read_log(path)["step"]) == 5
    log = Log(path, periodic=False, last_step=25)
    log.write(row(30))
    log.close()
    np.testing.assert_array_equal(read_log(path)["step"], [0, 10, 20, 30])


def test_foreign_and_missing_logs_are_refused(tmp_path):
    with pytest.raises(CompactFFError, match="no such log"):
        read_log(tmp_path / "log.csv")
    for content in ("", "step,energy\n1,2\n"):
        (tmp_path / "log.csv").write_text(content)
        with pytest.raises(CompactFFError, match="not a log"):
            read_log(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text(",".join(COLUMNS) + "\n1,2,3,four,5,6\n")
    with pytest.raises(CompactFFError, match="damaged"):
        read_log(tmp_path / "log.csv")


def test_the_drift_of_a_known_line():
    time_ps = np.linspace(0, 100, 2001)
    noise = np.random.default_rng(0).normal(scale=0.002, size=2001)
    log = {"time_ps": time_ps, "total_eV": -1000.0 + 20 * 0.5e-3 * time_ps + 20 * noise}
    drift = energy_drift(log, num_atoms=20)
    assert abs(drift.slope_meV_per_atom_ps - 0.5) < 4 * drift.slope_error_meV_per_atom_ps
    assert drift.slope_error_meV_per_atom_ps == pytest.approx(2.0 / np.sqrt(2001) / 28.9, rel=0.5)
    assert drift.std_meV_per_atom == pytest.approx(np.hypot(0.5 * 28.9, 2.0), rel=0.02)
    assert drift.duration_ps == 100
    with pytest.raises(CompactFFError, match="at least 3 rows"):
        energy_drift({key: value[:2] for key, value in log.items()}, 20)


def test_correlated_noise_widens_the_error():
    rng = np.random.default_rng(1)
    slopes, errors = [], []
    for _ in range(60):
        walk = np.convolve(rng.normal(size=1040), np.ones(40) / np.sqrt(40), "valid")[:1000]
        drift = energy_drift({"time_ps": np.arange(1000.0), "total_eV": walk * 1e-3}, 1)
        slopes.append(drift.slope_meV_per_atom_ps)
        errors.append(drift.slope_error_meV_per_atom_ps)
    assert 0.6 < np.mean(errors) / np.std(slopes) < 1.5
