"""What a LAMMPS deck is asked to do; saved beside what it makes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compactff_md.errors import CompactFFError
from compactff_md.units import EV_TO_KCAL_PER_MOL

# LAMMPS' constant of pressure in real units.
BAR_PER_ATMOSPHERE = 1.01325


class DeckSettings(BaseModel):
    """Settings of a deck; wrong ones raise :class:`CompactFFError` with what is allowed.

    Attributes
    ----------
    ensemble
        ``nve``, ``nvt`` or ``npt``.
    temperature_K
        Of thermostat and initial velocities. In NVE of the latter alone, where the structure brings none:
        a run that begins at a minimum of the energy soon has half of it.
    pressure_bar
        For npt only; None means 1 bar there.
    timestep_fs
        0.5 fs resolves bonds to hydrogen.
    steps, time_ps
        How long; exactly one of both.
    thermostat
        Of nvt: ``nose-hoover``, whose state is in the restart files, or ``langevin``, whose random numbers
        are not: a continued run is then another sample.
    damping_fs
        Time in which the thermostat takes a deviation back; the barostat takes ten times as long.
    cell_changes
        Of npt: the volume, the three lengths (upright cells), or all six numbers of the cell.
    units
        LAMMPS' ``metal`` (eV, ps, bar) or ``real`` (kcal/mol, fs, atmospheres).
    dtype
        ``float32`` or ``float64`` of the student.
    skin_A
        How far neighbours are listed beyond the cutoff.
    ghost_neighbours
        Let LAMMPS list the neighbours of ghosts, and have the student compute these too, where the ranks
        cannot ask each other: several times as slow, but it asks nothing of MPI.
    kokkos
        For a GPU: the command line gets what Kokkos needs.
    ranks
        MPI processes of the command line.
    seed
        Of velocities and the Langevin thermostat.
    minimise
        Relax the structure by the student first.
    thermo_interval, trajectory_interval, restart_interval
        Steps between two rows of the log, two frames and two restart files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    temperature_K: float = Field(default=300.0, ge=0.0, le=20_000.0)
    pressure_bar: float | None = Field(default=None, ge=-1e6, le=1e7)
    timestep_fs: float = Field(default=0.5, gt=0.0, le=20.0)
    steps: int | None = Field(default=None, ge=1)
    time_ps: float | None = Field(default=None, gt=0.0)
    thermostat: Literal["nose-hoover", "langevin"] = "nose-hoover"
    damping_fs: float = Field(default=100.0, gt=0.0)
    cell_changes: Literal["isotropic", "anisotropic", "flexible"] = "isotropic"
    units: Literal["metal", "real"] = "metal"
    dtype: Literal["float32", "float64"] = "float32"
    skin_A: float = Field(default=1.0, gt=0.0, le=5.0)
    ghost_neighbours: bool = False
    kokkos: bool = False
    ranks: int = Field(default=1, ge=1)
    seed: int = Field(default=1, ge=1, le=900_000_000)
    minimise: bool = False
    thermo_interval: int = Field(default=100, ge=1)
    trajectory_interval: int = Field(default=200, ge=1)
    restart_interval: int = Field(default=10_000, ge=1)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise CompactFFError(_explained(error)) from error

    @model_validator(mode="after")
    def _check(self) -> DeckSettings:
        if (self.steps is None) == (self.time_ps is None):
            raise ValueError("give the length of the run either as steps or as time_ps, and not as both")
        if self.ensemble != "npt" and self.pressure_bar is not None:
            raise ValueError(f"pressure_bar is for npt only, and the ensemble is {self.ensemble}")
        if self.ensemble != "nve" and self.temperature_K == 0.0:
            raise ValueError(f"{self.ensemble} needs a temperature above 0 K")
        if self.kokkos and self.ghost_neighbours:
            raise ValueError("ghost_neighbours is for LAMMPS' plain build: with kokkos, LAMMPS exchanges")
        return self

    @property
    def total_steps(self) -> int:
        """How many steps the run has, at least 1."""
        if self.steps is not None:
            return self.steps
        assert self.time_ps is not None
        return max(1, round(self.time_ps * 1000.0 / self.timestep_fs))

    def time(self, femtoseconds: float) -> float:
        """A time in the deck's units."""
        return femtoseconds if self.units == "real" else femtoseconds / 1000.0

    def pressure(self, bar: float) -> float:
        """A pressure in the deck's units."""
        return bar / BAR_PER_ATMOSPHERE if self.units == "real" else bar

    @property
    def energy_eV(self) -> float:
        """The deck's unit of energy in eV."""
        return 1.0 / EV_TO_KCAL_PER_MOL if self.units == "real" else 1.0


def _explained(error: ValidationError) -> str:
    """One line a mistake: field, what was expected, what came."""
    lines = []
    for mistake in error.errors():
        field = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            lines.append(f"unknown setting {field!r}; known are {', '.join(DeckSettings.model_fields)}")
        elif field:
            lines.append(f"{field} is {mistake['input']!r}: {mistake['msg']}")
        else:
            lines.append(mistake["msg"].removeprefix("Value error, "))
    return "wrong deck settings: " + "; ".join(lines)
