"""Findings of many systems, test by test: how many pass, the usual number, and the worst one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from compactff_md.validation.outcome import Finding, Verdict
from compactff_md.validation.thresholds import Threshold, catalogue

VERDICTS: tuple[Verdict, ...] = ("pass", "undecided", "fail")


@dataclass(frozen=True)
class PanelRow:
    """One test over all systems.

    Attributes
    ----------
    key, subject
        As in :class:`Finding`, the subject without the system.
    counts
        Systems with each verdict, of ``VERDICTS``; or findings, where a test has others in each system.
    median, worst
        Of the numbers; None where there is none. The worst is the furthest towards or beyond the threshold.
    worst_system
        Where the worst is, with what of the system it is, if that is of no other; empty where there is none.
    """

    key: str
    subject: str
    unit: str
    threshold: Threshold | None
    counts: dict[Verdict, int]
    median: float | None
    worst: float | None
    worst_system: str

    @property
    def title(self) -> str:
        """For readers."""
        return title(self)

    @property
    def numbers(self) -> tuple[str, str]:
        """Median and worst for readers."""
        texts = [
            "-" if value is None else f"{value:.3g} {self.unit}".strip()
            for value in (self.median, self.worst)
        ]
        return texts[0], texts[1]


def title(tested: PanelRow | Finding) -> str:
    """What readers call a test."""
    described = catalogue().get(tested.key)
    words = described.title if described else tested.key
    return f"{words} ({tested.subject})" if tested.subject else words


def panel(findings: Iterable[Finding], systems: Collection[str]) -> list[PanelRow]:
    """Judged tests of two or more systems, in the order of the findings; empty for one system."""
    if len(systems) < 2:
        return []
    tests: dict[str, dict[str, dict[str, Finding]]] = {}  # by key, subject and system
    for finding in findings:
        system, _, subject = finding.subject.partition(", ")
        if system in systems and finding.verdict != "info":
            tests.setdefault(finding.key, {}).setdefault(subject, {})[system] = finding
    rows = []
    for key, by_subject in tests.items():
        # Such as bonds, of which no two systems have the same: they are one test.
        if len(by_subject) > 1 and all(len(found) == 1 for found in by_subject.values()):
            by_subject = {"": {f.subject: f for found in by_subject.values() for f in found.values()}}
        rows += [_row(key, subject, found) for subject, found in by_subject.items()]
    return rows


def _row(key: str, subject: str, found: dict[str, Finding]) -> PanelRow:
    first = next(iter(found.values()))
    verdicts = [finding.verdict for finding in found.values()]
    values = {system: f.value for system, f in found.items() if f.value is not None}
    worst = max(values, key=lambda system: _badness(values[system], first.threshold), default="")
    return PanelRow(
        key,
        subject,
        first.unit,
        first.threshold,
        {verdict: verdicts.count(verdict) for verdict in VERDICTS},
        statistics.median(values.values()) if values else None,
        values.get(worst),
        worst,
    )


def _badness(value: float, threshold: Threshold | None) -> float:
    """Grows towards what is not allowed."""
    if threshold is None:
        return abs(value)
    over = -math.inf if threshold.maximum is None else value - threshold.maximum
    under = -math.inf if threshold.minimum is None else threshold.minimum - value
    return max(over, under)
