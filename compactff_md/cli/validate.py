"""``compactff validate`` and ``compactff compare``: whether a student does in MD what its teacher does."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from compactff_md.cli.console import out as console
from compactff_md.cli.console import say, say_files
from compactff_md.cli.group import resumable
from compactff_md.cli.options import Set, assignments, given, reporter
from compactff_md.errors import CompactFFError
from compactff_md.structure import Structure, read_structures
from compactff_md.student import load
from compactff_md.teachers import create_teacher
from compactff_md.validation.comparison import COMPARISON_JSON, Candidate, check_names, write_comparison
from compactff_md.validation.panel import VERDICTS, PanelRow, panel, title
from compactff_md.validation.report import REPORT_HTML, REPORT_JSON, Report, read_report
from compactff_md.validation.settings import SUITES, suite_settings
from compactff_md.validation.subject import ENGINES, subject_of
from compactff_md.validation.suite import Assignment, identity_of
from compactff_md.validation.suite import validate as run_suite
from compactff_md.validation.thresholds import Thresholds
from compactff_md.validation.trajectories import analyse

Suite = Annotated[str, typer.Option("--suite", help=f"How much: {', '.join(SUITES)}.")]
Teacher = Annotated[str | None, typer.Option("--teacher", help="What the student was made of.")]
TeacherArgs = Annotated[
    list[str] | None, typer.Option("--teacher-arg", metavar="NAME=VALUE", help="For the teacher: charge=1.")
]
Structures = Annotated[
    Path | None, typer.Option("--structures", help="Any format of ASE; runs start from its frames.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder; the same command resumes it.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="In K; default 300.")]
Pressure = Annotated[
    float | None, typer.Option("--pressure", help="In bar: compare densities, too, of periodic systems.")
]
Own = Annotated[
    Path | None, typer.Option("--thresholds", help="TOML with thresholds that replace those of the package.")
]


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command(
        epilog="Example: compactff validate aspirin --teacher gfn2-xtb --structures aspirin.xyz --out check"
    )(validate)
    app.command(
        epilog="Example: compactff compare check-tiny check-original --out both; or compactff compare A B "
        "--teacher gfn2-xtb --structures aspirin.xyz --out both"
    )(compare)


def validate(
    student: Annotated[
        str | None, typer.Argument(help="Student file, or the folder that made it.", show_default=False)
    ] = None,
    out: Out = Path("validation-report"),
    teacher: Teacher = None,
    structures: Structures = None,
    suite: Suite = "quick",
    engine: Annotated[
        str, typer.Option("--engine", help=f"What runs the student: {', '.join(ENGINES)}.")
    ] = "openmm",
    temperature: Temperature = None,
    pressure: Pressure = None,
    thresholds: Own = None,
    trajectory: Annotated[
        list[Path] | None,
        typer.Option(
            "--trajectory",
            help="Instead of a student: what was run; repeatable. LAMMPS' files need --set frame_fs=5, the "
            "time between two frames.",
        ),
    ] = None,
    topology: Annotated[Path | None, typer.Option("--topology", help="Of the trajectories.")] = None,
    reference: Annotated[
        list[Path] | None, typer.Option("--reference", help="Trajectories to compare with; repeatable.")
    ] = None,
    teacher_arg: TeacherArgs = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where a test is undecided, too.")
    ] = False,
    set_: Set = None,
) -> None:
    """Compare a student's dynamics with its teacher's, and judge them by thresholds.

    Writes report.html, report.json and every run. Ends with 0 where no threshold is broken, with 1 where one
    is, and with 2 where nothing could be judged.
    """
    changes = {**given(temperature_K=temperature, pressure_bar=pressure), **assignments(set_, "--set")}
    settings, limits = suite_settings(suite, **changes), Thresholds(thresholds)
    with resumable(), reporter() as progress:
        if trajectory:
            if topology is None or student is not None:
                raise CompactFFError("--trajectory needs a --topology, and takes the place of a student")
            report = analyse(
                trajectory,
                topology,
                out,
                references=reference or (),
                settings=settings,
                thresholds=limits,
                progress=progress,
            )
        else:
            job = _assignment(student, teacher, teacher_arg, structures, settings, limits, engine, suite)
            report = run_suite(job, out, progress)
    _say_report(report, out)
    code = report.exit_code
    raise typer.Exit(1 if strict and code == 0 and report.verdict != "pass" else code)


def compare(
    candidates: Annotated[list[str], typer.Argument(help="Folders of reports, or students.")],
    out: Out = Path("comparison"),
    teacher: Teacher = None,
    structures: Structures = None,
    suite: Suite = "quick",
    engine: Annotated[
        list[str] | None, typer.Option("--engine", help=f"Repeatable: {', '.join(ENGINES)}.")
    ] = None,
    temperature: Temperature = None,
    pressure: Pressure = None,
    thresholds: Own = None,
    teacher_arg: TeacherArgs = None,
    set_: Set = None,
) -> None:
    """Put several reports beside each other; students are validated first, the teacher's runs made once."""
    changes = {**given(temperature_K=temperature, pressure_bar=pressure), **assignments(set_, "--set")}
    settings, limits = suite_settings(suite, **changes), Thresholds(thresholds)
    columns: list[tuple[Path, Report | Assignment]] = []
    for name in candidates:
        if (Path(name) / REPORT_JSON).is_file():
            columns.append((Path(name), read_report(name)))
            continue
        if teacher is None or structures is None:
            raise CompactFFError(
                f"{name} holds no {REPORT_JSON}; give folders of reports, or students with --teacher and "
                "--structures"
            )
        for own in engine or ["openmm"]:
            job = _assignment(name, teacher, teacher_arg, structures, settings, limits, own, suite)
            folder = out / f"{Path(name).stem}-{own}-{_short(job.subject.identity)}"
            columns.append((folder, job))
    names = _names([folder for folder, _ in columns])
    check_names(names)
    found: list[Candidate] = []
    out.mkdir(parents=True, exist_ok=True)
    for name, (folder, report) in zip(names, columns, strict=True):
        if isinstance(report, Assignment):
            shared = out / f"teacher-{_short(_shared(report))}"
            with resumable(), reporter() as progress:
                report = run_suite(report, folder, progress, shared=shared)
        found.append(Candidate(name, report, folder))
    page = write_comparison(out, found)
    _say_comparison(found)
    say_files({"page": page, "numbers": out / COMPARISON_JSON})
    raise typer.Exit(1 if any(c.report.exit_code == 1 for c in found) else 0)


def _names(folders: list[Path]) -> list[str]:
    """Last parts of the paths, or the paths where those are not unique."""
    last = [folder.name for folder in folders]
    return last if len(set(last)) == len(last) else [str(folder) for folder in folders]


def _assignment(
    student: str | None,
    teacher: str | None,
    teacher_args: list[str] | None,
    structures: Path | None,
    settings: Any,
    limits: Thresholds,
    engine: str,
    suite: str,
) -> Assignment:
    """What to validate, from the words of the command line."""
    missing = [
        name
        for name, value in (("STUDENT", student), ("--teacher", teacher), ("--structures", structures))
        if value is None
    ]
    if missing or student is None or teacher is None or structures is None:
        raise CompactFFError(
            f"{' and '.join(missing)} missing; expected STUDENT, --teacher and --structures, "
            "or --trajectory and --topology"
        )
    if engine not in ENGINES:
        raise CompactFFError(f"unknown engine {engine!r}; allowed are {', '.join(ENGINES)}")
    frames = [Structure.from_ase(atoms) for atoms in read_structures(structures)]
    found = create_teacher(teacher, **assignments(teacher_args, "--teacher-arg"))
    return Assignment(subject_of(load(student), student), found, frames, settings, limits, engine, suite)


def _shared(job: Assignment) -> dict[str, Any]:
    """What the teacher's runs depend on."""
    identity = identity_of(job)
    return {"teacher": identity["teacher"], "settings": job.settings.for_teacher, "engine": job.engine}


def _short(identity: dict[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:8]


def _say_panel(rows: list[PanelRow]) -> None:
    """Of several systems: one line a test, and not one a test and system."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("test", *VERDICTS, "median", "worst", "of", "allowed"):
        table.add_column(column)
    for row in rows:
        counts = [str(row.counts[verdict]) for verdict in VERDICTS]
        name = f"[bold red]{row.title}[/]" if row.counts["fail"] else row.title
        table.add_row(name, *counts, *row.numbers, row.worst_system, str(row.threshold or ""))
    console.print(table)


def _say_findings(report: Report) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "test", "found", "allowed"):
        table.add_column(column)
    colours = {"pass": "green", "fail": "bold red", "undecided": "yellow"}
    for finding in report.findings:
        if finding.verdict == "info":
            continue
        value = "-" if finding.value is None else f"{finding.value:.4g} {finding.unit}".strip()
        colour = colours[finding.verdict]
        table.add_row(f"[{colour}]{finding.verdict}[/]", title(finding), value, str(finding.threshold or ""))
    console.print(table)


def _say_report(report: Report, out: Path) -> None:
    rows = panel(report.findings, report.facts.get("systems", {}))
    if rows:
        _say_panel(rows)
    else:
        _say_findings(report)
    counts = ", ".join(f"{report.count(v)} {v}" for v in ("pass", "fail", "undecided"))  # type: ignore[arg-type]
    say(f"verdict: {report.verdict} ({counts})")
    say_files({"report": out / REPORT_HTML, "numbers": out / REPORT_JSON})


def _say_comparison(candidates: list[Candidate]) -> None:
    for candidate in candidates:
        report = candidate.report
        counts = ", ".join(f"{report.count(v)} {v}" for v in ("pass", "fail", "undecided"))  # type: ignore[arg-type]
        say(f"{candidate.name}: {report.verdict} ({counts})")
