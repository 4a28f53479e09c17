"""What a molecular-dynamics run is asked to do; saved beside what it makes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from compactff_md.engines.run_settings import RunSettings

# What may differ when a run is resumed: how far it goes, where it runs, and how often it saves.
CHANGEABLE = frozenset({"steps", "time_ps", "platform", "device", "threads", "restart_interval"})


class MDSettings(RunSettings):
    """Settings of a run in OpenMM; those of every engine are in :class:`RunSettings`.

    Attributes
    ----------
    ensemble
        ``nve`` (velocity Verlet as leapfrog), ``nvt`` (Langevin, BAOAB "middle") or ``npt`` (the same with a
        Monte Carlo barostat).
    force
        ``torchforce`` or ``python``, see :func:`compactff_md.engines.openmm_force.openmm_force`.
    platform
        One of OpenMM's; None means a GPU that OpenMM and PyTorch both find, else Reference (with a warning
        where a GPU was tried and failed), whose integrators are double precision and, beside a student,
        faster than those of CPU at every size (13 against 490 us a step for 21 atoms, 0.26 against 0.74 ms
        for 5,000, without the student).
    device
        Of a PythonForce, see ``openmm_force``.
    threads
        Of PyTorch on the CPU; None means one for up to 256 atoms, which gain nothing from more, and
        PyTorch's own choice beyond.
    skin_A
        Of the exported student; None means the exporter's default.
    seed
        Of velocities, thermostat and barostat.
    friction_per_ps
        Of the thermostat; in nve of that of the equilibration.
    barostat_interval
        Steps between two of the barostat's trial moves.
    equilibration_ps
        Time with a thermostat of at least 10/ps (npt: and the barostat) before the run's step 0; nothing of
        it is written.
    report_interval
        Steps between two rows of the log. The run is looked at there, and in every 100 steps.
    restart_interval
        Steps between two restart files; one is also written once a minute, and at the end.
    trajectory_format
        ``xtc`` (small; positions to 0.01 A) or ``dcd`` (float32).
    """

    kind: ClassVar[str] = "MD"
    ensembles_of: ClassVar[dict[str, tuple[str, ...]]] = {
        **RunSettings.ensembles_of,
        "barostat_interval": ("npt",),
        "friction_per_ps": ("nvt", "npt"),
    }

    force: Literal["torchforce", "python"] = "torchforce"
    platform: str | None = None
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    skin_A: float | None = Field(default=None, ge=0.0)
    seed: int = Field(default=0, ge=0)
    friction_per_ps: float = Field(default=1.0, gt=0.0)
    barostat_interval: int = Field(default=25, ge=1)
    equilibration_ps: float = Field(default=0.0, ge=0.0)
    report_interval: int = Field(default=100, ge=1)
    trajectory_format: Literal["xtc", "dcd"] = "xtc"

    @classmethod
    def saved(cls, fields: dict[str, Any]) -> MDSettings:
        """Read settings of a run, among which earlier versions left what the ensemble had no use for.

        Raises
        ------
        CompactFFError
            For wrong ones.
        """
        ensemble = fields.get("ensemble")
        idle = {name for name, ensembles in cls.ensembles_of.items() if ensemble not in ensembles}
        if fields.get("equilibration_ps"):
            idle -= {"friction_per_ps"}
        return cls(**{name: value for name, value in fields.items() if name not in idle})

    def unused(self) -> list[str]:
        """As in :class:`RunSettings`; a thermostat has an equilibration, too."""
        found = super().unused()
        return [name for name in found if name != "friction_per_ps" or self.equilibration_ps == 0.0]

    @property
    def timestep_ps(self) -> float:
        """OpenMM's unit of time."""
        return self.timestep_fs / 1000.0

    def differences(self, other: MDSettings) -> list[str]:
        """Names of the fields that differ and may not when a run is resumed."""
        ours, theirs = self.model_dump(), other.model_dump()
        return [name for name in ours if name not in CHANGEABLE and ours[name] != theirs[name]]
