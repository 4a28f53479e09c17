"""What a molecular-dynamics run in any engine is asked to do."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compactff_md.errors import CompactFFError


class RunSettings(BaseModel):
    """What the engines have in common; wrong settings raise :class:`CompactFFError` with what is allowed.

    So do those that the ensemble has no use for, unless they are the defaults.

    Attributes
    ----------
    ensemble
        ``nve``, ``nvt`` or ``npt``.
    temperature_K
        Of thermostat and initial velocities. In NVE of the latter alone: a run that begins at a minimum of
        the energy soon has half of it.
    pressure_bar
        For npt only; None means 1 bar there.
    timestep_fs
        0.5 fs resolves bonds to hydrogen without constraints.
    steps, time_ps
        How long; exactly one of both.
    dtype
        ``float32`` or ``float64`` of the student.
    cell_changes
        Of npt: the volume, the three lengths (upright cells), or all six numbers of the cell.
    minimise
        Relax the structure by the student first.
    trajectory_interval, restart_interval
        Steps between two frames, and between two restart files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str] = "run"
    # Settings that some ensembles alone use.
    ensembles_of: ClassVar[dict[str, tuple[str, ...]]] = {"pressure_bar": ("npt",), "cell_changes": ("npt",)}

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    temperature_K: float = Field(default=300.0, ge=0.0, le=20_000.0)
    pressure_bar: float | None = Field(default=None, ge=-1e6, le=1e7)
    timestep_fs: float = Field(default=0.5, gt=0.0, le=20.0)
    steps: int | None = Field(default=None, ge=1)
    time_ps: float | None = Field(default=None, gt=0.0)
    dtype: Literal["float32", "float64"] = "float32"
    cell_changes: Literal["isotropic", "anisotropic", "flexible"] = "isotropic"
    minimise: bool = False
    trajectory_interval: int = Field(default=200, ge=1)
    restart_interval: int = Field(default=10_000, ge=1)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise CompactFFError(self._explained(error)) from error

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is None and self.time_ps is None:
            raise ValueError("the run has no length: give steps (--steps 20000) or time_ps (--time 10ps)")
        if self.steps is not None and self.time_ps is not None:
            raise ValueError("the run has two lengths: give steps or time_ps, and not both")
        if unused := self.unused():
            allowed = " and ".join(self.ensembles_of[unused[0]])
            raise ValueError(f"{unused[0]} is for {allowed} only, and the ensemble is {self.ensemble}")
        if self.ensemble == "npt" and self.temperature_K == 0.0:
            raise ValueError("npt needs a temperature above 0 K")
        return self

    def unused(self) -> list[str]:
        """Names of settings that differ from the defaults, and that the ensemble has no use for."""
        fields = type(self).model_fields
        return [
            name
            for name, ensembles in self.ensembles_of.items()
            if self.ensemble not in ensembles and getattr(self, name) != fields[name].default
        ]

    @property
    def total_steps(self) -> int:
        """How many steps the run has, at least 1."""
        if self.steps is not None:
            return self.steps
        assert self.time_ps is not None
        return max(1, round(self.time_ps * 1000.0 / self.timestep_fs))

    @classmethod
    def _explained(cls, error: ValidationError) -> str:
        """One line a mistake: field, what was expected, what came."""
        lines = []
        for mistake in error.errors():
            field = ".".join(str(part) for part in mistake["loc"])
            if mistake["type"] == "extra_forbidden":
                lines.append(f"unknown setting {field!r}; known are {', '.join(cls.model_fields)}")
            elif field:
                lines.append(f"{field} is {mistake['input']!r}: {mistake['msg']}")
            else:
                lines.append(mistake["msg"].removeprefix("Value error, "))
        return f"wrong {cls.kind} settings: " + "; ".join(lines)
