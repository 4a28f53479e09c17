"""How much of each test the three suites do; saved in every report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compactff_md.errors import CompactFFError

SECTIONS = (
    "forces",
    "symmetry",
    "smoothness",
    "export",
    "conservation",
    "stability",
    "structure",
    "dynamics",
    "thermodynamics",
    "engines",
)


class SuiteSettings(BaseModel):
    """Settings of a validation; wrong ones raise :class:`CompactFFError` with what is allowed.

    Attributes
    ----------
    temperature_K
        Of the teacher's replicas and the student's; stability and forces are tested at 1.5 times it, too.
    timestep_fs
        Of all runs but those that compare timesteps.
    sections
        What is tested.
    replicas, replica_ps, equilibration_ps
        Runs with a thermostat, and the time before each.
    student_replicas
        How many of these runs the student does; None: as many as the teacher. Its time is short, and the more
        it does the narrower is what is told of it.
    friction_per_ps
        Of the thermostat of the replicas.
    frame_fs
        Time between two recorded frames.
    labelled_frames
        Frames of the student's own dynamics that the teacher labels, at each temperature.
    conservation_ps, law_ps
        Length of the NVE run whose drift is fitted, and of those at each of ``law_timesteps_fs``.
    stability_runs, stability_ps
        Number and length of the runs at each of the two temperatures.
    agreement_steps
        Steps over which engines are compared from the same positions and velocities.
    pressure_bar
        Where given: as many further replicas of both at this pressure, for the density, of systems that are
        periodic in all directions.
    torsions
        How many rotatable bonds are scanned.
    dtypes
        Of the student in NVE.
    seed
        Of velocities, thermostats, structures and resampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature_K: float = Field(default=300.0, gt=0.0, le=10_000.0)
    timestep_fs: float = Field(default=0.5, gt=0.0, le=10.0)
    sections: tuple[Literal[SECTIONS], ...] = SECTIONS  # type: ignore[valid-type]
    replicas: int = Field(default=3, ge=1)
    student_replicas: int | None = Field(default=None, ge=1)
    replica_ps: float = Field(default=0.8, gt=0.0)
    equilibration_ps: float = Field(default=0.2, ge=0.0)
    friction_per_ps: float = Field(default=5.0, gt=0.0)
    frame_fs: float = Field(default=4.0, gt=0.0)
    labelled_frames: int = Field(default=40, ge=2)
    conservation_ps: float = Field(default=4.0, gt=0.0)
    law_ps: float = Field(default=0.5, gt=0.0)
    law_timesteps_fs: tuple[float, ...] = (0.25, 0.5, 1.0)
    stability_runs: int = Field(default=2, ge=1)
    stability_ps: float = Field(default=2.0, gt=0.0)
    agreement_steps: int = Field(default=200, ge=1)
    pressure_bar: float | None = Field(default=None, ge=-1e6, le=1e7)
    torsions: int = Field(default=1, ge=0)
    dtypes: tuple[Literal["float32", "float64"], ...] = ("float32",)
    seed: int = Field(default=0, ge=0)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise CompactFFError(_explained(error)) from error

    @property
    def for_teacher(self) -> dict[str, Any]:
        """What the teacher's runs depend on: all but what is the student's alone."""
        return self.model_dump(exclude={"student_replicas"})

    def steps(self, time_ps: float, timestep_fs: float | None = None) -> int:
        """Steps in a time, at least 1."""
        return max(1, round(1000.0 * time_ps / (timestep_fs or self.timestep_fs)))

    def every(self, timestep_fs: float | None = None) -> int:
        """Steps between two frames, which are ``frame_fs`` apart or a little less; at least 1."""
        return max(1, int(self.frame_fs / (timestep_fs or self.timestep_fs) + 1e-9))


BOTH: tuple[Any, ...] = ("float32", "float64")
SUITES: dict[str, dict[str, Any]] = {
    "quick": {},
    "standard": {
        "replicas": 4,
        "replica_ps": 10.0,
        "equilibration_ps": 1.0,
        "labelled_frames": 200,
        "conservation_ps": 50.0,
        "law_ps": 5.0,
        "stability_runs": 8,
        "stability_ps": 50.0,
        "agreement_steps": 1000,
        "torsions": 3,
        "dtypes": BOTH,
    },
    "full": {
        "replicas": 8,
        "replica_ps": 100.0,
        "equilibration_ps": 5.0,
        "labelled_frames": 1000,
        "conservation_ps": 500.0,
        "law_ps": 20.0,
        "stability_runs": 20,
        "stability_ps": 500.0,
        "agreement_steps": 1000,
        "torsions": 12,
        "dtypes": BOTH,
    },
}


def suite_settings(suite: str, **changes: Any) -> SuiteSettings:
    """Settings of ``quick``, ``standard`` or ``full``, some of them changed.

    Raises
    ------
    CompactFFError
        For an unknown suite, or as in :class:`SuiteSettings`.
    """
    if suite not in SUITES:
        raise CompactFFError(f"unknown suite {suite!r}; allowed are {', '.join(SUITES)}")
    return SuiteSettings(**{**SUITES[suite], **changes})


def _explained(error: ValidationError) -> str:
    lines = []
    for mistake in error.errors():
        field = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            lines.append(f"unknown setting {field!r}; known are {', '.join(SuiteSettings.model_fields)}")
        else:
            lines.append(f"{field} is {mistake['input']!r}: {mistake['msg']}")
    return "wrong validation settings: " + "; ".join(lines)
