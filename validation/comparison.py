"""Several reports beside each other: students, or engines of one student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from compactff_md.errors import CompactFFError
from compactff_md.files import write_json, write_text
from compactff_md.validation.outcome import Finding
from compactff_md.validation.page import document, figure, number
from compactff_md.validation.report import Report
from compactff_md.validation.thresholds import catalogue

COMPARISON_JSON = "comparison.json"
COMPARISON_HTML = "comparison.html"


@dataclass(frozen=True)
class Candidate:
    """A report with the name of its column; ``folder`` holds its pictures."""

    name: str
    report: Report
    folder: Path


def write_comparison(out: str | Path, candidates: Sequence[Candidate]) -> Path:
    """Write comparison.json and comparison.html; return the page.

    Raises
    ------
    CompactFFError
        As in :func:`check_names`.
    """
    check_names([candidate.name for candidate in candidates])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "candidates": {c.name: {"verdict": c.report.verdict, "folder": c.folder} for c in candidates},
        "differences": differences(candidates),
        "rows": {name: _row(found) for name, found in rows(candidates).items()},
    }
    write_json(folder / COMPARISON_JSON, content)
    write_text(folder / COMPARISON_HTML, _page(candidates))
    return folder / COMPARISON_HTML


def check_names(names: Sequence[str]) -> None:
    """Refuse what cannot be compared, by the names of the columns.

    Raises
    ------
    CompactFFError
        For fewer than two reports, or two of one name.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise CompactFFError(
            f"got reports {', '.join(names) or 'none'}; expected two or more, of different names"
        )


def rows(candidates: Sequence[Candidate]) -> dict[str, list[Finding | None]]:
    """Name of a finding -> that of each candidate, None where it has none; in the order of the reports."""
    tables = [{finding.name: finding for finding in c.report.findings} for c in candidates]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [table.get(name) for table in tables] for name in names}


def differences(candidates: Sequence[Candidate]) -> list[str]:
    """What else than the student differs, and makes numbers hard to compare."""
    keys = ("teacher", "structures", "settings", "thresholds", "engine")
    found = []
    for key in keys:
        values = [repr(c.report.facts.get(key)) for c in candidates]
        if len(set(values)) > 1:
            found.append(key)
    return found


def _row(found: Sequence[Finding | None]) -> list[Any]:
    return [None if f is None else {"value": f.value, "unit": f.unit, "verdict": f.verdict} for f in found]


def _page(candidates: Sequence[Candidate]) -> str:
    different = differences(candidates)
    title = " | ".join(c.name for c in candidates)
    body = [f"<h1>{escape(title)}</h1>"]
    if different:
        body.append(f"<p>They also differ in: {escape(', '.join(different))}.</p>")
    head = "".join(
        f'<th>{escape(c.name)} <span class="v {c.report.verdict}">{c.report.verdict}</span></th>'
        for c in candidates
    )
    lines = [f"<tr><th>test</th>{head}<th>allowed</th></tr>"]
    for found in rows(candidates).values():
        lines.append(_line(found))
    body.append(f"<table>{''.join(lines)}</table>")
    captions = dict.fromkeys(
        caption for c in candidates for s in c.report.sections.values() for caption in s.pictures
    )
    for caption in captions:
        body.append(f"<h2>{escape(caption)}</h2>")
        for c in candidates:
            for section in c.report.sections.values():
                if caption in section.pictures:
                    body.append(figure(c.name, c.folder / section.pictures[caption]))
    return document(title, "\n".join(body))


def _line(found: Sequence[Finding | None]) -> str:
    first = next(f for f in found if f is not None)
    described = catalogue().get(first.key)
    title = described.title if described else first.key
    title = f"{title} ({first.subject})" if first.subject else title
    best = _best(found)
    cells = []
    for f in found:
        if f is None:
            cells.append("<td>-</td>")
            continue
        text = f"<b>{number(f)}</b>" if f is best else number(f)
        cells.append(f'<td class="n">{text} <span class="v {f.verdict}">{f.verdict}</span></td>')
    return f"<tr><td>{escape(title)}</td>{''.join(cells)}<td>{escape(str(first.threshold or ''))}</td></tr>"


def _best(found: Sequence[Finding | None]) -> Finding | None:
    """The best number of a row, where the threshold has one side and so tells what better is."""
    known = [
        f
        for f in found
        if f is not None and f.value is not None and f.threshold is not None and f.verdict != "undecided"
    ]
    if len(known) < 2:
        return None
    limit = known[0].threshold
    assert limit is not None
    if (limit.minimum is None) == (limit.maximum is None):
        return None
    sign = 1.0 if limit.minimum is None else -1.0
    return min(known, key=lambda f: sign * (f.value or 0.0))
