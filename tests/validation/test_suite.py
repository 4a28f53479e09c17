"""The whole suite: one folder, resumed where it was killed, and refused to others."""

import errno
import fcntl
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import ase.build
import ase.io
import numpy as np
import pytest
from ase.cluster import Icosahedron

from compactff_md.engines import openmm_import
from compactff_md.errors import CompactFFError
from compactff_md.files import write_json
from compactff_md.structure import Structure
from compactff_md.student import load
from compactff_md.validation import campaign as campaign_module
from compactff_md.validation import shipped
from compactff_md.validation import subject as subject_module
from compactff_md.validation.breaks import Break
from compactff_md.validation.endurance import Endurance
from compactff_md.validation.engine_ase import ASEEngine
from compactff_md.validation.panel import panel
from compactff_md.validation.report import Report, read_report, write_report
from compactff_md.validation.run import load_run, save_run
from compactff_md.validation.settings import SECTIONS, suite_settings
from compactff_md.validation.stages import Stages
from compactff_md.validation.subject import fingerprint
from compactff_md.validation.suite import Assignment, group, validate
from compactff_md.validation.thresholds import Thresholds
from validation_builders import SETTINGS, PairPotential, Teacher, campaign, crystal, molecule, subject

SOME = ("forces", "symmetry", "stability", "engines")
SHORT = SETTINGS.model_copy(
    update={"sections": SOME, "replica_ps": 0.1, "stability_ps": 0.1, "equilibration_ps": 0.02}
)
BREAK = Break(0, "H2O", "O1-H2", 0.3, True)
DRIFT = (0.001, 0.0, 0.002)


def assignment(fault: str = "", **changes) -> Assignment:
    fields = {"structures": [molecule()], "settings": SHORT, "engine": "ase", **changes}
    return Assignment(subject(fault), Teacher(), **fields)


def ended_early_of(who: str, run, ensemble: str = "nvt"):
    """An engine's ``run`` whose runs of an ensemble end early where ``who`` moves the atoms."""

    def cut(self, frame, task, *args, **kwargs):
        found = run(self, frame, task, *args, **kwargs)
        mine = (self.name == "teacher") == (who == "teacher") and task.ensemble == ensemble
        return replace(found, failure="at step 7: hotter than the sun") if mine else found

    return cut


class Killed(BaseException):
    pass


class Counting:
    """Progress that counts the stages, and dies at one of them."""

    def __init__(self, last: int = 10**6) -> None:
        self.stages: list[str] = []
        self.last = last

    def start(self, stage: str, total: float) -> None:
        if len(self.stages) == self.last:
            raise Killed
        self.stages.append(stage)

    def update(self, done: float, **numbers: float) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...


class TestValidate:
    def test_report(self, tmp_path):
        report = validate(assignment(), tmp_path / "out")
        assert report.exit_code == 0, [f for f in report.findings if f.verdict == "fail"]
        content = json.loads((tmp_path / "out" / "report.json").read_text())
        assert content["verdict"] == report.verdict and content["counts"]["fail"] == 0
        facts = content["facts"]
        assert {"seed", "versions", "command", "settings", "student", "teacher", "engine"} <= facts.keys()
        page = (tmp_path / "out" / "report.html").read_text()
        assert page.count("data:image/png;base64,") == sum(len(s.pictures) for s in report.sections.values())
        assert not re.search(r"(src|href)=\"(https?:|//|/)", page)  # opens without a network
        assert report.verdict.upper() in page.split("<h2")[0]  # on top
        again = read_report(tmp_path / "out")
        assert [f.name for f in again.findings] == [f.name for f in report.findings]
        frames = ase.io.read(next((tmp_path / "out" / "runs").rglob("student-replica-0.xyz")), ":")
        assert len(frames) > 10 and len(frames[0]) == 4

    def test_killed_and_run_again(self, tmp_path):
        whole = validate(assignment(), tmp_path / "whole")
        first, second = Counting(4), Counting()
        with pytest.raises(Killed):
            validate(assignment(), tmp_path / "out", first)
        resumed = validate(assignment(), tmp_path / "out", second)
        assert not set(first.stages) & set(second.stages)
        assert [(f.name, f.value) for f in resumed.findings] == [(f.name, f.value) for f in whole.findings]
        third = Counting()
        validate(assignment(), tmp_path / "out", third)
        assert third.stages == []

    def test_folder_of_another(self, tmp_path):
        validate(assignment(settings=SHORT.model_copy(update={"sections": ("symmetry",)})), tmp_path / "out")
        with pytest.raises(CompactFFError, match="validation of another settings, student"):
            validate(assignment("units"), tmp_path / "out")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("all I have")
        with pytest.raises(CompactFFError, match="holds files and no validation"):
            validate(assignment(), tmp_path / "full")

    def test_a_fault_makes_it_fail(self, tmp_path):
        settings = SHORT.model_copy(update={"sections": ("symmetry",)})
        report = validate(assignment("units", settings=settings), tmp_path / "out")
        assert (report.exit_code, report.verdict) == (1, "fail")
        assert "What fails" in (tmp_path / "out" / "report.html").read_text()

    def test_several_systems_in_one_report(self, tmp_path):
        a, b = molecule(), Structure(molecule().positions_A[:3], molecule().numbers[:3])
        settings = SHORT.model_copy(update={"sections": ("symmetry",)})
        report = validate(assignment("units", settings=settings, structures=[a, b]), tmp_path / "out")
        rows = panel(report.findings, report.facts["systems"])
        assert all(sum(row.counts.values()) == 2 for row in rows)
        assert sum(row.counts["fail"] for row in rows) == report.count("fail") > 0
        assert "over all systems" in (tmp_path / "out" / "report.html").read_text()
        shipped.main([str(tmp_path / "out" / "report.json"), "--out", str(tmp_path / "page.md")])
        page = (tmp_path / "page.md").read_text()
        assert "2 systems against" in page and page.count("\n| ") == len(rows) + 1
        broken = next(row for row in rows if row.counts["fail"])
        assert f"| {broken.title} |" in page and broken.worst_system in page

    def test_reports_of_parts_are_one_on_the_page(self, tmp_path):
        settings = SHORT.model_copy(update={"sections": ("symmetry",)})
        whole = molecule()
        parts = {"first": ([0, 1, 2, 3], [0, 1, 2]), "further": ([1, 2, 3], [0, 1]), "other": ([0, 1], [0])}
        for name, chosen in parts.items():
            structures = [Structure(whole.positions_A[k], whole.numbers[k]) for k in map(list, chosen)]
            seed = settings.model_copy(update={"seed": 1}) if name == "other" else settings
            validate(assignment("units", settings=seed, structures=structures), tmp_path / name)
        folders = [str(tmp_path / name / "report.json") for name in parts]
        shipped.main([*folders, "--out", str(tmp_path / "page.md")])
        page = (tmp_path / "page.md").read_text()
        assert page.count("\n## ") == 2 and "\n4 systems against" in page and "\n2 systems against" in page
        counts = [read_report(folder).count("fail") for folder in folders]
        assert f" {counts[0] + counts[1]} fail." in page

    def test_page_of_one_system(self, tmp_path):
        settings = SHORT.model_copy(update={"sections": ("symmetry",)})
        report = validate(assignment("units", settings=settings), tmp_path / "out")
        shipped.main([str(tmp_path / "out" / "report.json"), "--out", str(tmp_path / "page.md")])
        page = (tmp_path / "page.md").read_text()
        judged = [finding for finding in report.findings if finding.verdict != "info"]
        assert "1 system against" in page and page.count("\n| ") == len(judged) + 1
        assert page.count("**fail**") == report.count("fail") > 0

    def test_a_report_of_an_earlier_student_of_the_package_says_so(self):
        name = "organic-ultra-tiny"
        student = {"name": name, "created": "2026-01-02T03:04:05+00:00"}
        for weights, warned in ((fingerprint(load(name).network), False), ("0" * 64, True)):
            facts = {"systems": {"C2O2": {}}, "student": {**student, "sha256": weights}}
            page = shipped.markdown(name, Report(name, {}, facts))
            assert (f"**Of the `{name}` of 2026-01-02**" in page) == warned

    def test_a_report_by_other_thresholds_says_so(self, tmp_path):
        (tmp_path / "own.toml").write_text('"forces.own_frames.r2" = { minimum = 0.5 }\n')
        for thresholds, warned in ((Thresholds(), False), (Thresholds(tmp_path / "own.toml"), True)):
            facts = {"systems": {"C2O2": {}}, "thresholds": thresholds.sha256}
            page = shipped.markdown("r", Report("r", {}, facts))
            assert ("Judged by other thresholds" in page) == warned

    def test_long_dynamics_of_the_students_of_now(self, tmp_path):
        name = "organic-ultra-tiny"
        here = fingerprint(load(name).network)
        for kelvin, broken, weights in ((300.0, (), here), (600.0, (BREAK,), here), (900.0, (), "0" * 64)):
            row = Endurance(
                name, kelvin, 0.5, "openmm", 9, 100.0, "", 3, broken, 301.0, 20.0, *DRIFT, weights
            )
            write_json(tmp_path / f"{kelvin:g}.json", asdict(row))
        other = replace(row, student="organic-tiny")
        write_json(tmp_path / "tiny.json", asdict(other))
        files = [str(path) for path in tmp_path.glob("*.json")]
        settings = SHORT.model_copy(update={"sections": ("symmetry",)})
        validate(assignment("units", settings=settings), tmp_path / "out")
        report = str(tmp_path / "out" / "report.json")
        shipped.main([report, "--endurance", *files, "--out", str(tmp_path / "page.md")])
        page = (tmp_path / "page.md").read_text()
        assert "| 300 |" in page and "| 600 |" in page and "| 900 |" not in page
        assert "1 of 3 (H2O O1-H2 at 0.3 ps) | 1 of 1 |" in page
        assert "Of the present `organic-tiny` there is no such run" in page

    def test_no_page_without_systems(self, tmp_path):
        (tmp_path / "run").mkdir()
        write_report(tmp_path / "run", Report("a trajectory", {}, {"teacher": "t"}))
        with pytest.raises(CompactFFError, match="report of a trajectory names no systems"):
            shipped.main([str(tmp_path / "run"), "--out", str(tmp_path / "page.md")])
        assert not (tmp_path / "page.md").exists()

    def test_further_systems(self, tmp_path):
        moved = Structure(molecule().positions_A + 1.0, molecule().numbers)
        other = Structure(molecule().positions_A[:3], molecule().numbers[:3])
        settings = SHORT.model_copy(update={"sections": ("stability",)})
        validate(assignment(settings=settings), tmp_path / "out")
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*.npz")}
        both = validate(assignment(settings=settings, structures=[molecule(), other]), tmp_path / "out")
        assert kept and all(path.stat().st_mtime_ns == then for path, then in kept.items())
        assert len(both.facts["systems"]) == 2
        with pytest.raises(CompactFFError, match="the validation of another structures"):
            validate(assignment(settings=settings, structures=[moved]), tmp_path / "out")

    def test_an_engine_that_is_not_here_is_refused_before_anything_is_written(self, tmp_path, monkeypatch):
        def nothing():
            raise CompactFFError("no LAMMPS that runs students was found")

        monkeypatch.setattr(subject_module, "find_lammps", nothing)
        with pytest.raises(CompactFFError, match="no LAMMPS"):
            validate(assignment(engine="lammps"), tmp_path / "out")
        monkeypatch.setattr(openmm_import, "openmm", openmm_import.Missing("openmm", "pip", "no module"))
        for engine in ("openmm", "openmm-python"):
            with pytest.raises(CompactFFError, match="openmm cannot be imported"):
                validate(assignment(engine=engine), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_systems_by_their_atoms(self):
        a, b = molecule(), Structure(molecule().positions_A[::-1], [8, 8, 6, 6])
        moved = Structure(a.positions_A + 0.1, a.numbers)
        found = group([a, b, moved])
        assert {name: len(frames) for name, frames in found.items()} == {"C2O2": 2, "C2O2-2": 1}

    def test_isomers_are_systems_of_their_own(self):
        names = ("trans-butane", "isobutane", "trans-butane")
        frames = [Structure.from_ase(ase.build.molecule(name)) for name in names]
        order = [np.argsort(-frame.numbers, kind="stable") for frame in frames]
        same = [Structure(f.positions_A[k], f.numbers[k]) for f, k in zip(frames, order, strict=True)]
        assert {name: len(found) for name, found in group(same).items()} == {"C4H10": 2, "C4H10-2": 1}

    def test_a_cluster_of_metal_is_one_system_whatever_is_near(self):
        cluster = Icosahedron("Cu", 2)
        frames = [Structure(scale * cluster.positions, cluster.numbers) for scale in (1.0, 1.2, 1.4)]
        assert {name: len(found) for name, found in group(frames).items()} == {"Cu13": 3}

    @pytest.mark.parametrize("section", ["structure", "dynamics", "thermodynamics"])
    def test_a_student_that_does_not_last_fails(self, tmp_path, monkeypatch, section):
        monkeypatch.setattr(ASEEngine, "run", ended_early_of("student", ASEEngine.run))
        settings = SHORT.model_copy(update={"sections": (section,)})
        report = validate(assignment(settings=settings), tmp_path / "out")
        assert report.exit_code == 1
        (finding,) = report.findings
        assert finding.name == f"suite.ran [{section}]" and "the student's dynamics ended" in finding.note

    def test_a_student_that_lasts_only_at_constant_volume_fails(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ASEEngine, "run", ended_early_of("student", ASEEngine.run, "npt"))
        settings = SHORT.model_copy(update={"sections": ("structure",), "pressure_bar": 1.0})
        report = validate(assignment(settings=settings, structures=[crystal()]), tmp_path / "out")
        found = {finding.name: finding.verdict for finding in report.findings}
        assert found["suite.ran [structure at constant pressure]"] == "fail"
        assert "structure.distances" in found

    def test_a_teacher_that_does_not_last_is_no_reference(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ASEEngine, "run", ended_early_of("teacher", ASEEngine.run))
        settings = SHORT.model_copy(update={"sections": ("forces", "structure", "dynamics")})
        report = validate(assignment(settings=settings), tmp_path / "out")
        found = {finding.name: finding for finding in report.findings}
        for name in ("suite.ran [structure]", "suite.ran [dynamics]"):
            assert found[name].verdict == "undecided" and "the teacher's dynamics" in found[name].note
        assert found["forces.teacher_frames.rmse"].verdict in ("pass", "undecided")

    def test_frames_without_labels_are_told(self, tmp_path, monkeypatch):
        def every_other(atoms, calculator, honest=campaign_module.label):
            asked.append(calculator)
            if calculator is asked[0] and len(asked) % 2:
                raise RuntimeError("no self-consistency")
            return honest(atoms, calculator)

        asked: list[PairPotential] = []
        monkeypatch.setattr(campaign_module, "label", every_other)
        settings = SHORT.model_copy(update={"sections": ("forces",)})
        report = validate(assignment(settings=settings), tmp_path / "out")
        hot = {finding.name: finding for finding in report.findings}["forces.own_frames.labelled [450 K]"]
        assert hot.verdict == "undecided" and 0 < hot.value < 1 and "are left out" in hot.note

    @pytest.mark.parametrize(
        ("structures", "words"),
        [
            ([], "no structures"),
            ([Structure([[0, 0, 0], [0.1, 0, 0]], [6, 8])], "structure 0: atoms 0 and 1"),
        ],
    )
    def test_bad_structures(self, tmp_path, structures, words):
        with pytest.raises(CompactFFError, match=words):
            validate(assignment(structures=structures), tmp_path / "out")


class TestSettings:
    def test_suites_grow(self):
        quick, standard, full = (suite_settings(s) for s in ("quick", "standard", "full"))
        assert quick.sections == SECTIONS
        assert quick.replica_ps < standard.replica_ps < full.replica_ps

    @pytest.mark.parametrize(("timestep_fs", "steps"), [(0.5, 8), (0.1, 40), (0.6, 6), (1.5, 2), (9.0, 1)])
    def test_frames_are_no_further_apart_than_asked(self, timestep_fs, steps):
        assert suite_settings("quick", timestep_fs=timestep_fs).every() == steps

    @pytest.mark.parametrize(
        ("suite", "changes", "words"),
        [
            ("slow", {}, "unknown suite 'slow'; allowed are quick"),
            ("quick", {"colour": 1}, "unknown setting 'colour'"),
            ("quick", {"temperature_K": -1}, "temperature_K is -1"),
            ("quick", {"sections": ["magic"]}, "sections"),
        ],
    )
    def test_bad(self, suite, changes, words):
        with pytest.raises(CompactFFError, match=words):
            suite_settings(suite, **changes)


class TestStages:
    def test_in_use(self, tmp_path):
        with Stages(tmp_path / "a", {}), pytest.raises(CompactFFError, match="another process is validating"):
            Stages(tmp_path / "a", {})

    def test_a_file_system_without_locks(self, tmp_path, monkeypatch):
        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with (
            pytest.warns(UserWarning, match="cannot be locked"),
            Stages(tmp_path / "a", {}, tmp_path / "shared") as stages,
        ):
            assert stages.arrays("H2/teacher-x", lambda: {"x": np.ones(1)})["x"] == 1.0

    def test_what_is_the_teachers_is_made_once(self, tmp_path):
        made, begun = [], threading.Event()

        def make(who):
            def slowly():
                made.append(who)
                begun.set()
                time.sleep(0.2)
                return {"x": np.array([len(made)])}

            return slowly

        def ask(who):
            with Stages(tmp_path / who, {}, tmp_path / "shared") as stages:
                kept = stages.arrays("H2/teacher-volumes", make(who))["x"]
                return kept, stages.arrays("H2/student-volumes", make(who))["x"]

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, "a")
            begun.wait()
            second = pool.submit(ask, "b")
            answers = first.result(), second.result()
        assert sorted(made) == ["a", "a", "b"]
        assert answers[0][0] == answers[1][0] == 1

    def test_runs_survive(self, tmp_path):
        run = campaign(tmp_path / "c", subject(), replica_ps=0.02).student_replicas()[0]
        save_run(tmp_path / "run.npz", run)
        again = load_run(tmp_path / "run.npz")
        assert np.array_equal(again.positions_A, run.positions_A) and again.engine == run.engine
        whole = (tmp_path / "run.npz").read_bytes()
        for content in (b"no", b"", whole[: len(whole) // 2]):
            (tmp_path / "run.npz").write_bytes(content)
            with pytest.raises(CompactFFError, match="delete it and run again"):
                load_run(tmp_path / "run.npz")

    def test_damaged_arrays_are_told(self, tmp_path):
        with Stages(tmp_path, {}) as stages:
            stages.arrays("H2/student-x", lambda: {"x": np.ones(1000)})
            (path,) = tmp_path.rglob("*student-x.npz")
            path.write_bytes(path.read_bytes()[:1000])
            with pytest.raises(CompactFFError, match=r"cannot be read: .*; delete it and run again"):
                stages.arrays("H2/student-x", lambda: {})


def test_what_is_to_know_of_the_teacher_is_said(tmp_path):
    class Cautious(Teacher):
        def caution(self, structures):
            return f"warning: not of {len(structures)} such"

    class Notes(Counting):
        def note(self, message: str) -> None:
            said.append(message)

    said: list[str] = []
    job = assignment(settings=SHORT.model_copy(update={"sections": ("forces",)}))
    validate(replace(job, teacher=Cautious()), tmp_path, Notes())
    assert said == ["warning: not of 1 such"]
