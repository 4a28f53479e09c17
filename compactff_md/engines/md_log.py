"""The CSV log of a run: written row by row, cut back on resume, and read for the drift of the energy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compactff_md.errors import CompactFFError
from compactff_md.files import atomic_write

COLUMNS = ("step", "time_ps", "potential_eV", "kinetic_eV", "total_eV", "temperature_K")
BOX_COLUMNS = ("volume_A3", "density_g_per_cm3")
# Blocks of the log, whose means are fitted: rows within a block are correlated, blocks much less so.
BLOCKS = 20


@dataclass(frozen=True)
class EnergyDrift:
    """How well a run conserves its total energy.

    ``slope`` with its standard error ``slope_error`` are of a straight line through the total energy, in
    meV/atom/ps; ``std_meV_per_atom`` is the standard deviation of the total energy as it is (its drift
    included), ``duration_ps`` the time that the log covers.
    """

    slope_meV_per_atom_ps: float
    slope_error_meV_per_atom_ps: float
    std_meV_per_atom: float
    duration_ps: float


class Log:
    """Rows of a run; every row reaches the operating system before :meth:`write` returns.

    Parameters
    ----------
    path
        The CSV file.
    periodic
        Whether rows have a volume and a density.
    last_step
        None starts a new file; a step keeps the rows of an existing file up to it.
    """

    def __init__(self, path: Path, periodic: bool, last_step: int | None = None) -> None:
        self.columns = COLUMNS + BOX_COLUMNS if periodic else COLUMNS
        if last_step is None:
            path.write_text(",".join(self.columns) + "\n")
        else:
            cut_log(path, last_step)
        self._stream = path.open("a", newline="")

    def write(self, row: dict[str, float]) -> None:
        """Append one row."""
        self._stream.write(",".join(_text(name, row[name]) for name in self.columns) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """Read a log; a last row that was cut off by a crash is left out.

    Returns
    -------
    dict
        Column -> values, shape (rows,), float64.

    Raises
    ------
    CompactFFError
        If the file is missing or not a log.
    """
    path = Path(path)
    if not path.is_file():
        raise CompactFFError(f"no such log file: {path}")
    header, *lines = path.read_text().splitlines(keepends=True) or [""]
    names = header.strip().split(",")
    if tuple(names[: len(COLUMNS)]) != COLUMNS:
        raise CompactFFError(f"{path} is not a log of compactff md: it does not begin {','.join(COLUMNS)}")
    rows = [line.strip().split(",") for line in lines if line.endswith("\n")]
    try:
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    except ValueError as error:
        raise CompactFFError(f"{path} is damaged: {error}") from error
    return {name: values[:, k] for k, name in enumerate(names)}


def cut_log(path: Path, last_step: int) -> None:
    """Drop the rows after a step, and a row that was cut off by a crash."""
    header, *rows = path.read_text().splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",", 1)[0]) <= last_step]
    with atomic_write(path) as temporary:
        temporary.write_text(header + "".join(kept))


def energy_drift(log: str | Path | dict[str, np.ndarray], num_atoms: int) -> EnergyDrift:
    """Fit a straight line to the total energy over time.

    The line goes through means of 20 blocks of the log (of its rows, where there are fewer), whose
    scatter gives the slope's standard error: that of single rows would be too small, as neighbouring rows
    are correlated.

    Parameters
    ----------
    log
        A log file, or what :func:`read_log` returns; at least 3 rows.
    num_atoms
        To divide by.
    """
    columns = log if isinstance(log, dict) else read_log(log)
    time_ps, energy_meV = columns["time_ps"], columns["total_eV"] * 1000.0 / num_atoms
    if len(time_ps) < 3:
        raise CompactFFError(f"a drift needs at least 3 rows of the log; it has {len(time_ps)}")
    blocks = np.array_split(np.arange(len(time_ps)), min(BLOCKS, len(time_ps)))
    t = np.array([time_ps[block].mean() for block in blocks])
    e = np.array([energy_meV[block].mean() for block in blocks])
    t, e = t - t.mean(), e - e.mean()
    slope = float(t @ e / (t @ t))
    residual = e - slope * t
    error = float(np.sqrt(residual @ residual / max(1, len(t) - 2) / (t @ t)))
    return EnergyDrift(slope, error, float(energy_meV.std()), float(time_ps[-1] - time_ps[0]))


def _text(name: str, value: float) -> str:
    """Nine decimals of an energy: rounding must not show in a drift of 1e-6 eV."""
    if name == "step":
        return str(int(value))
    return f"{value:.9f}" if name.endswith("_eV") else f"{value:.6f}"
