"""What a molecular-dynamics run is asked to do; saved beside what it makes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compactff_md.errors import CompactFFError

# What may differ when a run is resumed: how far it goes, where it runs, and how often it saves.
CHANGEABLE = frozenset({"steps", "time_ps", "platform", "device", "threads", "restart_interval"})


class MDSettings(BaseModel):
    """Settings of a run; wrong ones raise :class:`CompactFFError` with what is allowed.

    Attributes
    ----------
    ensemble
        ``nve`` (velocity Verlet as leapfrog), ``nvt`` (Langevin, BAOAB "middle") or ``npt`` (the same with a
        Monte Carlo barostat).
    temperature_K
        Of the thermostat; in NVE of the velocities at step 0, so that a run that begins at a minimum of the
        energy soon has half of it: equilibrate there.
    pressure_bar
        For npt only; None means 1 bar there.
    timestep_fs
        0.5 fs resolves bonds to hydrogen without constraints.
    steps, time_ps
        How long; exactly one of both.
    force
        ``torchforce`` or ``python``, see :func:`compactff_md.engines.openmm_force.openmm_force`.
    platform
        One of OpenMM's; None means a GPU if OpenMM finds one, else Reference: its integrators are double
        precision and, beside a student, faster than those of CPU at every size (13 against 490 us a step
        for 21 atoms, 0.26 against 0.74 ms for 5,000, without the student).
    device
        Of a PythonForce, see ``openmm_force``.
    threads
        Of PyTorch on the CPU; None means one for up to 256 atoms, which gain nothing from more, and
        PyTorch's own choice beyond.
    dtype, skin_A
        Of the exported student: ``float32`` or ``float64``; None means the exporter's default skin.
    seed
        Of velocities, thermostat and barostat.
    friction_per_ps
        Of the thermostat.
    cell_changes
        What the barostat changes: the volume, the three lengths (upright boxes only), or all six numbers.
    barostat_interval
        Steps between two of the barostat's trial moves.
    minimise
        Relax the structure by the student first.
    equilibration_ps
        Time with a thermostat of at least 10/ps (npt: and the barostat) before the run's step 0; nothing of
        it is written.
    report_interval, trajectory_interval
        Steps between two rows of the log, which is also where the run is checked, and two frames.
    restart_interval
        Steps between two restart files; one is also written once a minute, and at the end.
    trajectory_format
        ``xtc`` (small; positions to 0.01 A) or ``dcd`` (float32).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    temperature_K: float = Field(default=300.0, ge=0.0, le=20_000.0)
    pressure_bar: float | None = Field(default=None, ge=-1e6, le=1e7)
    timestep_fs: float = Field(default=0.5, gt=0.0, le=20.0)
    steps: int | None = Field(default=None, ge=1)
    time_ps: float | None = Field(default=None, gt=0.0)
    force: Literal["torchforce", "python"] = "torchforce"
    platform: str | None = None
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "float64"] = "float32"
    skin_A: float | None = Field(default=None, ge=0.0)
    seed: int = Field(default=0, ge=0)
    friction_per_ps: float = Field(default=1.0, gt=0.0)
    cell_changes: Literal["isotropic", "anisotropic", "flexible"] = "isotropic"
    barostat_interval: int = Field(default=25, ge=1)
    minimise: bool = False
    equilibration_ps: float = Field(default=0.0, ge=0.0)
    report_interval: int = Field(default=100, ge=1)
    trajectory_interval: int = Field(default=200, ge=1)
    restart_interval: int = Field(default=10_000, ge=1)
    trajectory_format: Literal["xtc", "dcd"] = "xtc"

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise CompactFFError(_explained(error)) from error

    @model_validator(mode="after")
    def _check(self) -> MDSettings:
        if (self.steps is None) == (self.time_ps is None):
            raise ValueError("give the length of the run either as steps or as time_ps, and not as both")
        if self.ensemble != "npt" and self.pressure_bar is not None:
            raise ValueError(f"pressure_bar is for npt only, and the ensemble is {self.ensemble}")
        if self.ensemble == "npt" and self.temperature_K == 0.0:
            raise ValueError("npt needs a temperature above 0 K: the barostat samples volumes at it")
        return self

    @property
    def total_steps(self) -> int:
        """How many steps the run has, at least 1."""
        if self.steps is not None:
            return self.steps
        assert self.time_ps is not None
        return max(1, round(self.time_ps * 1000.0 / self.timestep_fs))

    @property
    def timestep_ps(self) -> float:
        """OpenMM's unit of time."""
        return self.timestep_fs / 1000.0

    def differences(self, other: MDSettings) -> list[str]:
        """Names of the fields that differ and may not when a run is resumed."""
        ours, theirs = self.model_dump(), other.model_dump()
        return [name for name in ours if name not in CHANGEABLE and ours[name] != theirs[name]]


def _explained(error: ValidationError) -> str:
    """One line a mistake: field, what was expected, what came."""
    lines = []
    for mistake in error.errors():
        field = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            lines.append(f"unknown setting {field!r}; known are {', '.join(MDSettings.model_fields)}")
        elif field:
            lines.append(f"{field} is {mistake['input']!r}: {mistake['msg']}")
        else:
            lines.append(mistake["msg"].removeprefix("Value error, "))
    return "wrong MD settings: " + "; ".join(lines)
