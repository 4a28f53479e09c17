"""Thresholds and texts of the tests: data, in two TOML files that the user may read and replace."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compactff_md.errors import CompactFFError

DEFAULTS = Path(__file__).with_name("thresholds.toml")
CATALOGUE = Path(__file__).with_name("tests.toml")


@dataclass(frozen=True)
class Threshold:
    """What is allowed of a number, both bounds included; None where there is no bound."""

    minimum: float | None = None
    maximum: float | None = None

    def allows(self, value: float) -> bool:
        """Whether a value is within the bounds; NaN is not."""
        above = self.minimum is None or value >= self.minimum
        return above and (self.maximum is None or value <= self.maximum) and value == value

    def excludes(self, low: float, high: float) -> bool:
        """Whether nothing between two values is within the bounds."""
        below = self.minimum is not None and high < self.minimum
        return below or (self.maximum is not None and low > self.maximum)

    def __str__(self) -> str:
        parts = [] if self.minimum is None else [f"≥ {self.minimum:g}"]
        return " and ".join(parts + ([] if self.maximum is None else [f"≤ {self.maximum:g}"]))


@dataclass(frozen=True)
class Description:
    """What a test is called, what its number means, and what to do where it fails."""

    title: str
    meaning: str
    advice: str


class Thresholds:
    """The thresholds of a suite run.

    Parameters
    ----------
    path
        The user's own TOML, with entries ``"key" = {minimum = ..., maximum = ...}`` that replace those of the
        package; the others stay. None: the package's alone.

    Raises
    ------
    CompactFFError
        If the file is missing or not TOML, an entry is no test of the suite, or its bounds are no numbers.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.table = _read(DEFAULTS)
        if path is not None:
            own = _read(Path(path))
            unknown = sorted(own.keys() - catalogue().keys())
            if unknown:
                raise CompactFFError(
                    f"{path}: unknown tests {', '.join(unknown)}; known are {', '.join(catalogue())}"
                )
            self.table |= own

    @property
    def sha256(self) -> str:
        """A checksum of all bounds."""
        bounds = {key: str(limit) for key, limit in sorted(self.table.items())}
        return hashlib.sha256(repr(bounds).encode()).hexdigest()

    def get(self, key: str) -> Threshold | None:
        """The threshold of a test; None for those that are told and not judged."""
        return self.table.get(key)


@cache
def catalogue() -> dict[str, Description]:
    """Every test by its key."""
    content = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    return {key: Description(**entry) for key, entry in content.items()}


def _read(path: Path) -> dict[str, Threshold]:
    if not path.is_file():
        raise CompactFFError(f"no such thresholds file: {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CompactFFError(f"{path} cannot be read as TOML: {error}") from error
    return {key: _threshold(path, key, entry) for key, entry in content.items()}


def _threshold(path: Path, key: str, entry: object) -> Threshold:
    allowed = {"minimum", "maximum"}
    if not isinstance(entry, dict) or not entry or not entry.keys() <= allowed:
        raise CompactFFError(f'{path}: {key} is {entry!r}; expected "{key}" = {{minimum = 0.1, maximum = 2}}')
    for name, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CompactFFError(f"{path}: {name} of {key} is {value!r}; expected a number")
    return Threshold(**{name: float(value) for name, value in entry.items()})
