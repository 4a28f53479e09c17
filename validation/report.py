"""The report of a validation: every number as JSON, and a page that opens without a network."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compactff_md.errors import CompactFFError
from compactff_md.files import write_json, write_text
from compactff_md.validation.outcome import Finding, Section, Verdict, from_plain, overall, to_plain
from compactff_md.validation.page import page

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Report:
    """What a validation found, with what is needed to make it again."""

    title: str
    sections: dict[str, Section]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All of them."""
        return [finding for section in self.sections.values() for finding in section.findings]

    @property
    def verdict(self) -> Verdict:
        """``fail`` where one threshold is broken, ``pass`` where all hold, else ``undecided``."""
        return overall(self.findings)

    def count(self, verdict: Verdict) -> int:
        """How many findings have a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 where no threshold is broken, 1 where one is, 2 where no test could be judged."""
        if self.count("fail"):
            return 1
        return 0 if self.count("pass") else 2


def command_line() -> str:
    """What was typed to start this process, so that it can be typed again."""
    program = Path(sys.argv[0]).name
    typed = ["python", "-m", "compactff_md"] if program == "__main__.py" else [program]
    return shlex.join([*typed, *sys.argv[1:]])


def write_report(folder: Path, report: Report) -> None:
    """Write report.json and report.html into the folder that holds the pictures."""
    counts = {verdict: report.count(verdict) for verdict in ("pass", "fail", "undecided", "info")}  # type: ignore[arg-type]
    content = {
        "format_version": FORMAT_VERSION,
        "title": report.title,
        "verdict": report.verdict,
        "counts": counts,
        "exit_code": report.exit_code,
        "facts": report.facts,
        "sections": {name: to_plain(section) for name, section in report.sections.items()},
    }
    write_json(folder / REPORT_JSON, content)
    write_text(
        folder / REPORT_HTML, page(report.title, report.verdict, report.sections, report.facts, folder)
    )


def read_report(path: str | Path) -> Report:
    """Read a report from its file or folder.

    Raises
    ------
    CompactFFError
        If there is none, or it cannot be read.
    """
    path = Path(path)
    path = path / REPORT_JSON if path.is_dir() else path
    if not path.is_file():
        raise CompactFFError(f"no report {path}; expected the --out of compactff validate")
    try:
        content = json.loads(path.read_text())
        sections = {name: from_plain(raw) for name, raw in content["sections"].items()}
        return Report(content["title"], sections, content["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise CompactFFError(f"{path} is no report of compactff validate: {error}") from error
