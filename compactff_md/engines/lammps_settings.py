"""What a LAMMPS deck is asked to do; saved beside what it makes."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from compactff_md.engines.run_settings import RunSettings
from compactff_md.units import EV_TO_KCAL_PER_MOL

# LAMMPS' constant of pressure in real units.
BAR_PER_ATMOSPHERE = 1.01325


class DeckSettings(RunSettings):
    """Settings of a LAMMPS deck; those of every engine are in :class:`RunSettings`.

    Velocities that the structure brings are kept in nve; otherwise its motion as a whole is taken off.

    Attributes
    ----------
    thermostat
        Of nvt: ``nose-hoover``, whose state is in the restart files, or ``langevin``, whose random numbers
        are not: a continued run is then another sample.
    damping_fs
        Time in which the thermostat takes a deviation back; the barostat takes ten times as long.
    units
        LAMMPS' ``metal`` (eV, ps, bar) or ``real`` (kcal/mol, fs, atmospheres).
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
    thermo_interval
        Steps between two rows of the log.
    restart_interval
        Steps between two restart files, which is what a crash or Ctrl-C may cost.
    """

    kind: ClassVar[str] = "deck"
    ensembles_of: ClassVar[dict[str, tuple[str, ...]]] = {
        **RunSettings.ensembles_of,
        "thermostat": ("nvt", "npt"),
        "damping_fs": ("nvt", "npt"),
    }

    thermostat: Literal["nose-hoover", "langevin"] = "nose-hoover"
    damping_fs: float = Field(default=100.0, gt=0.0)
    units: Literal["metal", "real"] = "metal"
    skin_A: float = Field(default=1.0, gt=0.0, le=5.0)
    ghost_neighbours: bool = False
    kokkos: bool = False
    ranks: int = Field(default=1, ge=1)
    seed: int = Field(default=1, ge=1, le=900_000_000)
    thermo_interval: int = Field(default=100, ge=1)
    restart_interval: int = Field(default=1_000, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.ensemble == "nvt" and self.temperature_K == 0.0:
            raise ValueError("nvt needs a temperature above 0 K")
        if self.ensemble == "npt" and self.thermostat != "nose-hoover":
            raise ValueError(f"thermostat {self.thermostat} is for nvt only: npt has nose-hoover")
        if self.kokkos and self.ghost_neighbours:
            raise ValueError("ghost_neighbours is for LAMMPS' plain build: with kokkos, LAMMPS exchanges")
        return self

    def unused(self) -> list[str]:
        """As in :class:`RunSettings`, and what is given as the default is: a deck is read by people."""
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        return [
            name for name, used in self.ensembles_of.items() if name in given and self.ensemble not in used
        ]

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
