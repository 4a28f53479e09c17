"""One HTML file with everything inside: the verdict on top, then each test with meaning and advice."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from compactff_md.files import plain
from compactff_md.validation.outcome import Finding, Section, Verdict
from compactff_md.validation.panel import PanelRow, panel
from compactff_md.validation.thresholds import catalogue

SENTENCES = {
    "pass": "Every threshold holds.",
    "fail": "At least one threshold is broken: do not trust long simulations before that is mended.",
    "undecided": "No threshold is broken, but some tests could not be decided; their notes say why.",
}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2530;max-width:1080px;margin:2em auto;padding:0 1.2em}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #d5dbe2}
table{border-collapse:collapse;width:100%}td,th{padding:.35em .6em;text-align:left;vertical-align:top}
tr+tr td{border-top:1px solid #e8ecf0}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
.v{display:inline-block;padding:0 .6em;border-radius:1em;color:#fff;font-size:.85em;white-space:nowrap}
.pass{background:#1f8a4c}.fail{background:#c0312b}.undecided{background:#b07a10}.info{background:#7b8794}
.banner{padding:.9em 1.2em;border-radius:.5em;color:#fff;font-size:1.1em}.banner b{font-size:1.25em}
small{color:#5b6773}details{margin:.2em 0}summary{cursor:pointer;color:#2a5d9f}
figure{display:inline-block;margin:.6em 1em .6em 0;max-width:100%}figure img{max-width:100%}
figcaption{font-size:.85em;color:#5b6773}pre{background:#f4f6f8;padding:.8em;overflow:auto;font-size:.82em}
nav a{margin-right:1em}
"""


def page(
    title: str, verdict: Verdict, sections: dict[str, Section], facts: dict[str, Any], folder: Path
) -> str:
    """The whole page; pictures are read from the folder."""
    findings = [finding for section in sections.values() for finding in section.findings]
    over_all = _panel(panel(findings, facts.get("systems", {})))
    body = [f"<h1>{escape(title)}</h1>", _banner(verdict, sections), over_all]
    body += [_worst(sections), _links(sections)]
    for name, section in sections.items():
        body.append(f'<h2 id="{escape(name)}">{escape(name)} {_chip(_of(section))}</h2>')
        body.append(table(section.findings))
        body += [figure(caption, folder / path) for caption, path in section.pictures.items()]
        if section.details:
            body.append(_folded("numbers", section.details))
    body.append(f"<h2>how this was made</h2>{_folded('settings, versions, command', facts)}")
    return document(title, "\n".join(body))


def document(title: str, body: str) -> str:
    """A page around a body."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def table(findings: tuple[Finding, ...]) -> str:
    """Rows of findings; meaning and advice unfold, the advice by itself where a test is not passed."""
    rows = [
        f"<tr><td>{_chip(f.verdict)}</td><td><b>{escape(_title(f))}</b>{_words(f)}</td>"
        f'<td class="n">{number(f)}</td><td class="n">{escape(str(f.threshold or ""))}</td></tr>'
        for f in findings
    ]
    head = "<tr><th></th><th>test</th><th>found (95 % interval)</th><th>allowed</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def number(finding: Finding) -> str:
    """Value, unit and interval for readers."""
    if finding.value is None:
        return "-"
    text = f"{finding.value:.4g} {escape(finding.unit)}".strip()
    if finding.interval is None:
        return text
    low, high = finding.interval
    return f"{text}<br><small>{low:.3g} to {high:.3g}</small>"


def figure(caption: str, path: Path) -> str:
    """A picture inside of the page; what is missing says so."""
    if not path.is_file():
        return f"<p><small>{escape(caption)}: the picture {escape(path.name)} is missing</small></p>"
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _chip(verdict: str) -> str:
    return f'<span class="v {verdict}">{verdict}</span>'


def _of(section: Section) -> str:
    verdicts = {f.verdict for f in section.findings}
    return next((v for v in ("fail", "undecided", "pass") if v in verdicts), "info")


def _banner(verdict: Verdict, sections: dict[str, Section]) -> str:
    found = [f.verdict for section in sections.values() for f in section.findings]
    counts = ", ".join(f"{found.count(v)} {v}" for v in ("pass", "fail", "undecided"))  # type: ignore[arg-type]
    words = f"<b>{verdict.upper()}</b> — {SENTENCES.get(verdict, '')} <br>{counts}"
    return f'<p class="banner {verdict}">{words}</p>'


def _worst(sections: dict[str, Section]) -> str:
    failed = [f for section in sections.values() for f in section.findings if f.verdict == "fail"]
    if not failed:
        return ""
    lines = [f"<li><b>{escape(_title(f))}</b>: {number(f)}; {escape(_advice(f))}</li>" for f in failed]
    return f"<p>What fails:</p><ul>{''.join(lines)}</ul>"


def _panel(rows: list[PanelRow]) -> str:
    """How many of several systems pass each test."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        chips = "".join(f'<span class="v {v}">{n}</span> ' for v, n in row.counts.items() if n)
        median, worst = map(escape, row.numbers)
        lines.append(
            f'<tr><td>{escape(row.title)}</td><td class="n">{chips}</td><td class="n">{median}</td>'
            f'<td class="n">{worst}<br><small>{escape(row.worst_system)}</small></td>'
            f'<td class="n">{escape(str(row.threshold or ""))}</td></tr>'
        )
    head = "<tr><th>test</th><th>systems</th><th>median</th><th>worst</th><th>allowed</th></tr>"
    return f"<h2>over all systems</h2><table>{head}{''.join(lines)}</table>"


def _links(sections: dict[str, Section]) -> str:
    return "<nav>" + "".join(f'<a href="#{escape(n)}">{escape(n)}</a>' for n in sections) + "</nav>"


def _words(finding: Finding) -> str:
    described = catalogue().get(finding.key)
    note = f"<br><small>{escape(finding.note)}</small>" if finding.note else ""
    if described is None:
        return note
    advice = "" if finding.verdict in ("pass", "info") else f"<br><small>→ {escape(described.advice)}</small>"
    return f"<details><summary>meaning</summary>{escape(described.meaning)}</details>{note}{advice}"


def _title(finding: Finding) -> str:
    described = catalogue().get(finding.key)
    title = described.title if described else finding.key
    return f"{title} ({finding.subject})" if finding.subject else title


def _advice(finding: Finding) -> str:
    described = catalogue().get(finding.key)
    return described.advice if described else ""


def _folded(title: str, content: Any) -> str:
    text = escape(json.dumps(plain(content), indent=2, ensure_ascii=False))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"
