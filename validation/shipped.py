"""Tables of reports of many systems as Markdown, such as of the students that come with the package.

``python -m compactff_md.validation.shipped --out docs/shipped.md validation/reports/*.json``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compactff_md.errors import CompactFFError
from compactff_md.files import write_text
from compactff_md.validation.panel import VERDICTS, panel
from compactff_md.validation.report import Report, read_report


def markdown(name: str, report: Report) -> str:
    """A section of a document: the verdicts of a report of many systems."""
    systems = report.facts.get("systems", {})
    if len(systems) < 2:
        raise CompactFFError(f"{name} is of {len(systems)} system; expected a report of two or more")
    rows = panel(report.findings, systems)
    teacher = report.facts.get("teacher", {}).get("name", "")
    counts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in VERDICTS)
    lines = [
        f"## {name}",
        "",
        f"{len(systems)} systems against {teacher} in {report.facts.get('engine', '')}, suite "
        f"{report.facts.get('suite', '')}: {counts}. Made by `{report.facts.get('command', '')}`.",
        "",
        f"| test | {' | '.join(VERDICTS)} | median | worst | of | allowed |",
        "|---" * (5 + len(VERDICTS)) + "|",
    ]
    for row in rows:
        cells = [str(row.counts[verdict]) for verdict in VERDICTS]
        if row.counts["fail"]:
            cells[-1] = f"**{cells[-1]}**"
        limits = str(row.threshold or "")
        lines.append(f"| {' | '.join([row.title, *cells, *row.numbers, row.worst_system, limits])} |")
    return "\n".join(lines) + "\n"


def document(reports: dict[str, Report]) -> str:
    """A page of the documentation on several reports, by their names."""
    head = (
        "# What the shipped students pass, and what not\n\n"
        "Made from the reports in `validation/reports/` by "
        "`python -m compactff_md.validation.shipped --out docs/shipped.md validation/reports/*.json`; what "
        "each number means is in [validation.md](validation.md) and in `validation/tests.toml`. *Undecided* "
        "is a run too short to tell.\n"
    )
    return "\n".join([head, *(markdown(name, report) for name, report in reports.items())])


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Tables of reports of many systems, as Markdown.")
    parser.add_argument("reports", nargs="+", type=Path, help="report.json files, or folders with one")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(words)
    write_text(asked.out, document({path.stem: read_report(path) for path in asked.reports}))


if __name__ == "__main__":
    main()
