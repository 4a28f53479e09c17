"""Tables of reports as Markdown, such as of the students that come with the package.

``python -m compactff_md.validation.shipped --out docs/shipped.md validation/reports/*.json --endurance
validation/reports/endurance/*.json``
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from compactff_md.errors import CompactFFError
from compactff_md.files import write_text
from compactff_md.student import SHIPPED, load
from compactff_md.validation import endurance
from compactff_md.validation.endurance import Endurance
from compactff_md.validation.outcome import Finding
from compactff_md.validation.panel import VERDICTS, panel, title
from compactff_md.validation.report import REPORT_JSON, Report, read_report
from compactff_md.validation.subject import fingerprint
from compactff_md.validation.thresholds import Thresholds
from compactff_md.validation.transport import scale_of

# What two reports have in common of which one goes on with further systems.
CONDITIONS = ("student", "teacher", "engine", "settings", "thresholds", "suite")
# Of the note of a diffusion in earlier reports, in cm²/s; its interval reaches about so many errors.
ERRORS = 3.0
BLUNT = "the runs are too short to tell half of it"
DIFFUSION = re.compile(r"student (\S+), teacher (\S+), error (\S+) cm²/s")


def markdown(name: str, report: Report) -> str:
    """A section of a document: of many systems one line a test, of one system one line a finding.

    Raises
    ------
    CompactFFError
        If the report is not of a student's systems, such as one of trajectories.
    """
    systems = report.facts.get("systems", {})
    if not systems:
        raise CompactFFError(f"the report of {report.title} names no systems; expected one of a student")
    report = by_present_rules(report)
    teacher = report.facts.get("teacher", {}).get("name", "")
    counts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in VERDICTS)
    kelvin = report.facts.get("settings", {}).get("temperature_K")
    lines = [
        f"## {name}",
        "",
        f"{len(systems)} {'system' if len(systems) == 1 else 'systems'} against {teacher} in "
        f"{report.facts.get('engine', '')} at {kelvin} K, suite {report.facts.get('suite', '')}: {counts}. "
        f"Made by `{report.facts.get('command', '')}`.",
        "",
        *_earlier(report),
        *(_of_one(report) if len(systems) == 1 else _of_many(report, systems)),
    ]
    return "\n".join(lines) + "\n"


def by_present_rules(report: Report) -> Report:
    """The report with passes undecided that are none any more, as far as its notes tell: of diffusion."""
    sections = {
        name: replace(section, findings=tuple(map(_judged_now, section.findings)))
        for name, section in report.sections.items()
    }
    return replace(report, sections=sections)


def _judged_now(finding: Finding) -> Finding:
    told = DIFFUSION.search(finding.note)
    if not (finding.key == "dynamics.diffusion" and finding.verdict == "pass" and told):
        return finding
    student, teacher, error = map(float, told.groups())
    limit = Thresholds().get(finding.key)
    furthest = (abs(student - teacher) + ERRORS * error) / scale_of(teacher)
    if limit is None or limit.maximum is None or furthest <= limit.maximum:
        return finding
    note = f"{finding.note}; {BLUNT} (a pass in the report, by an earlier rule)"
    return replace(finding, verdict="undecided", note=note)


def _earlier(report: Report) -> list[str]:
    """Warnings where the package has another student of that name now, or judges otherwise."""
    student = report.facts.get("student", {})
    name = student.get("name", "")
    found = []
    if name in SHIPPED and not _is_shipped(name, student.get("sha256")):
        created = str(student.get("created", "")).split("T")[0]
        found.append(
            f"**Of the `{name}` of {created}**: the one in the package is newer, and was not tested so."
        )
    if report.facts.get("thresholds") != Thresholds().sha256:
        found.append("Judged by other thresholds than those in the package now, or by an earlier version.")
    return [line for warning in found for line in (warning, "")]


def _is_shipped(name: str, sha256: str | None) -> bool:
    return name in SHIPPED and fingerprint(load(name).network) == sha256


def long_dynamics(rows: Sequence[Endurance]) -> str:
    """A section on runs of :mod:`compactff_md.validation.endurance`, of the students that are shipped now."""
    current = [row for row in rows if _is_shipped(row.student, row.sha256)]
    earlier = sorted({row.student for row in rows} - {row.student for row in current})
    lines = [
        "## Long dynamics",
        "",
        "With a Langevin thermostat of 1/ps and a timestep of 0.5 fs, and watched bonds between nonmetals: "
        "broken is one that becomes 0.5 Å longer or shorter than at the start and stays so, and the "
        "teacher then goes on from a moment before; one that comes back was stretched. Then 10 ps at "
        "constant energy. The "
        "`organic-*` run the 20 molecules of `validation/reports/organic_unseen.xyz`, of no scaffold "
        "that the training saw, the `argyrodite-*` a disordered cell: `python -m "
        "compactff_md.validation.endurance organic-tiny --structures "
        "validation/reports/organic_unseen.xyz --drift-ps 10`, or `argyrodite-tiny --engine lammps --teacher "
        "sevennet-l3i5 --structures validation/reports/argyrodite_416.xyz --drift-ps 10`.",
        "",
        endurance.markdown(current),
    ]
    if earlier:
        lines.append(f"Of the present {', '.join(f'`{name}`' for name in earlier)} there is no such run.\n")
    return "\n".join(lines)


def _of_many(report: Report, systems: Collection[str]) -> list[str]:
    lines = [
        f"| test | {' | '.join(VERDICTS)} | median | worst | of | allowed |",
        "|---" * (5 + len(VERDICTS)) + "|",
    ]
    for row in panel(report.findings, systems):
        cells = [str(row.counts[verdict]) for verdict in VERDICTS]
        if row.counts["fail"]:
            cells[-1] = f"**{cells[-1]}**"
        limits = str(row.threshold or "")
        lines.append(f"| {' | '.join([row.title, *cells, *row.numbers, row.worst_system, limits])} |")
    return lines


def _of_one(report: Report) -> list[str]:
    lines = ["| test | verdict | found | allowed | note |", "|---" * 5 + "|"]
    for finding in report.findings:
        if finding.verdict == "info":
            continue
        verdict = "**fail**" if finding.verdict == "fail" else finding.verdict
        found = "-" if finding.value is None else f"{finding.value:.3g} {finding.unit}".strip()
        limits = str(finding.threshold or "")
        lines.append(f"| {' | '.join([title(finding), verdict, found, limits, finding.note])} |")
    return lines


def merged(reports: dict[str, Report]) -> dict[str, Report]:
    """Reports of the same student and conditions on different systems as one, under the first's name."""
    found: dict[str, Report] = {}
    for name, report in reports.items():
        parts = [n for n, other in found.items() if _goes_on(other, report)]
        if parts:
            found[parts[0]] = _both(found[parts[0]], report)
        else:
            found[name] = report
    return found


def _goes_on(report: Report, other: Report) -> bool:
    one, another = (set(r.facts.get("systems", {})) for r in (report, other))
    several = min(len(one), len(another)) > 1  # findings of one alone do not name it
    alike = all(report.facts.get(name) == other.facts.get(name) for name in CONDITIONS)
    return several and alike and not one & another


def _both(report: Report, other: Report) -> Report:
    sections = {
        name: replace(section, findings=(*section.findings, *other.sections[name].findings))
        for name, section in report.sections.items()
    }
    facts = {
        **report.facts,
        "systems": {**report.facts["systems"], **other.facts["systems"]},
        "command": f"{report.facts['command']}; {other.facts['command']}",
    }
    return Report(report.title, sections, facts)


def document(reports: dict[str, Report], rows: Sequence[Endurance] = ()) -> str:
    """A page of the documentation on several reports, by their names, and on long dynamics."""
    long = " --endurance validation/reports/endurance/*.json" if rows else ""
    head = (
        "# What the shipped students pass, and what not\n\n"
        "Made from the reports in `validation/reports/` by "
        "`python -m compactff_md.validation.shipped --out docs/shipped.md validation/reports/*.json"
        f"{long}`; what each number means is in "
        "[validation.md](validation.md) and in `validation/tests.toml`. *Undecided* is a run too short "
        "to tell.\n"
    )
    sections = [markdown(name, report) for name, report in merged(reports).items()]
    return "\n".join([head, *([long_dynamics(rows)] if rows else []), *sections])


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Tables of reports, as Markdown.")
    parser.add_argument("reports", nargs="+", type=Path, help="report.json files, or folders with one")
    parser.add_argument("--endurance", nargs="+", type=Path, default=[], help="files of long dynamics")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(words)
    rows = [endurance.read_row(path) for path in asked.endurance]
    write_text(asked.out, document({_name(path): read_report(path) for path in asked.reports}, rows))


def _name(path: Path) -> str:
    """The file's name, or the folder's of a ``report.json``."""
    return path.parent.name if path.name == REPORT_JSON else path.stem


if __name__ == "__main__":
    main()
