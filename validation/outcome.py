"""What a test of the suite finds: a number with its threshold, a verdict, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from compactff_md.validation.thresholds import Threshold

Verdict = Literal["pass", "fail", "undecided", "info"]


@dataclass(frozen=True)
class Finding:
    """One number of a report.

    Attributes
    ----------
    key
        Of the catalogue (``tests.toml``), such as ``forces.own_frames.rmse``.
    value
        None where nothing could be measured; ``note`` then says why.
    unit
        Of value, interval and threshold; empty for pure numbers.
    interval
        Bounds of the 95 % confidence interval; None where the value has no statistical error.
    threshold
        None for numbers that are told and not judged.
    verdict
        ``undecided`` where the interval lies on both sides of the threshold, or there is no number.
    note
        What the reader should know beside the number.
    subject
        Which of several the number is of (an element, a temperature, an engine); empty where there is one.
    """

    key: str
    value: float | None
    unit: str
    interval: tuple[float, float] | None
    threshold: Threshold | None
    verdict: Verdict
    note: str = ""
    subject: str = ""

    @property
    def name(self) -> str:
        """Key and subject: unique in a report."""
        return f"{self.key} [{self.subject}]" if self.subject else self.key


@dataclass(frozen=True)
class Section:
    """What one stage of the suite found: findings, tables of numbers, and the names of its pictures."""

    findings: tuple[Finding, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)


def judge(
    key: str,
    value: float | None,
    unit: str,
    threshold: Threshold | None,
    *,
    interval: tuple[float, float] | None = None,
    note: str = "",
    subject: str = "",
    undecided: bool = False,
) -> Finding:
    """Compare a number with its threshold.

    Parameters
    ----------
    undecided
        True where the data cannot carry a verdict, whatever the number; ``note`` should say why.

    Returns
    -------
    Finding
        Passed where the whole interval is allowed, failed where none of it is.
    """
    number = None if value is None or not math.isfinite(value) else float(value)
    verdict: Verdict
    if threshold is None:
        verdict = "info"
    elif undecided or number is None:
        verdict = "undecided"
    else:
        low, high = (min(number, interval[0]), max(number, interval[1])) if interval else (number, number)
        if threshold.allows(low) and threshold.allows(high):
            verdict = "pass"
        else:
            verdict = "fail" if threshold.excludes(low, high) else "undecided"
    # An interval without an end decides nothing, and has no form in JSON.
    told = interval if interval and all(map(math.isfinite, interval)) else None
    return Finding(key, number, unit, told, threshold, verdict, note, subject)


def failed(finding: Finding, note: str) -> Finding:
    """A finding that failed without a number: the thing itself broke, and ``note`` tells how."""
    return replace(finding, verdict="fail" if finding.threshold else finding.verdict, note=note)


def overall(findings: Iterable[Finding]) -> Verdict:
    """The verdict of many: ``fail`` outranks ``undecided``, which outranks ``pass``."""
    verdicts = {finding.verdict for finding in findings}
    for verdict in ("fail", "undecided", "pass"):
        if verdict in verdicts:
            return verdict  # type: ignore[return-value]
    return "undecided"


def to_plain(section: Section) -> dict[str, Any]:
    """A section in the types of JSON."""
    return asdict(section)


def from_plain(content: dict[str, Any]) -> Section:
    """Inverse of :func:`to_plain`."""
    findings = []
    for raw in content["findings"]:
        limits = Threshold(**raw["threshold"]) if raw["threshold"] else None
        interval = tuple(raw["interval"]) if raw["interval"] else None
        findings.append(Finding(**{**raw, "threshold": limits, "interval": interval}))
    return Section(tuple(findings), content["details"], content["pictures"])
