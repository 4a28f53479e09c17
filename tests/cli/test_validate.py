"""``compactff validate`` and ``compactff compare`` from the command line."""

import json
import shutil

import pytest

from compactff_md.cli import validate as command

FEW = (
    "--set",
    "replicas=1",
    "--set",
    "replica_ps=0.02",
    "--set",
    "equilibration_ps=0",
    "--set",
    "stability_runs=1",
    "--set",
    "stability_ps=0.008",
    "--set",
    "labelled_frames=2",
    "--set",
    "sections=[symmetry, stability]",
)


def arguments(student, water, out, *more):
    teacher = ("--teacher", "ase.calculators.emt:EMT")
    return (student, *teacher, "--structures", water, "--out", out, "--engine", "ase", *FEW, *more)


class TestValidate:
    def test_report_and_exit_code(self, run, tmp_path, student_file, water):
        result = run("validate", *arguments(student_file, water, tmp_path / "out"))
        content = json.loads((tmp_path / "out" / "report.json").read_text())
        assert result.exit_code == content["exit_code"] == 0, result.output
        assert "verdict: undecided" in result.stdout and "report.html" in result.stdout
        assert (tmp_path / "out" / "report.html").is_file()
        strict = run("validate", *arguments(student_file, water, tmp_path / "out", "--strict"))
        assert strict.exit_code == 1

    def test_own_thresholds_break_it(self, run, tmp_path, student_file, water):
        mine = tmp_path / "mine.toml"
        mine.write_text('"symmetry.rotation" = { minimum = 5.0 }\n')
        result = run("validate", *arguments(student_file, water, tmp_path / "out", "--thresholds", mine))
        assert result.exit_code == 1 and "fail" in result.stdout, result.output

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            ((), ["STUDENT and --teacher and --structures missing"]),
            (("--trajectory", "t.xtc"), ["--trajectory needs a --topology"]),
            (("--trajectory", "t.xtc", "--topology", "t.pdb"), ["no such file"]),
            (("--suite", "endless"), ["unknown suite 'endless'"]),
            (("--set", "colour=1"), ["unknown setting 'colour'"]),
        ],
    )
    def test_bad_input(self, refused, tmp_path, args, words):
        refused("validate", "--out", tmp_path / "out", *args, words=words)

    def test_bad_systems(self, refused, tmp_path, student_file, copper, bad_structure):
        out = tmp_path / "out"
        refused("validate", *arguments(student_file, copper, out), words=["structure 0", "does not know Cu"])
        path, words = bad_structure
        refused("validate", *arguments(student_file, path, out), words=words)

    def test_a_trajectory_of_lammps_needs_its_times(self, run, refused, tmp_path, water):
        pytest.importorskip("MDAnalysis")
        lines = []
        for step in (0, 10, 20):
            lines += ["ITEM: TIMESTEP", step, "ITEM: NUMBER OF ATOMS", 3, "ITEM: BOX BOUNDS mm mm mm"]
            lines += [*("-1 1",) * 3, "ITEM: ATOMS id type element xu yu zu"]
            lines += ["1 1 O 0 0 0.12", "2 2 H 0 0.76 -0.48", "3 2 H 0 -0.76 -0.48"]
        (tmp_path / "trajectory.lammpstrj").write_text("\n".join(map(str, lines)))
        args = ("--trajectory", tmp_path / "trajectory.lammpstrj", "--topology", water, "--out")
        refused("validate", *args, tmp_path / "no", words=["--set frame_fs=5"])
        result = run("validate", *args, tmp_path / "out", "--set", "frame_fs=5")
        content = json.loads((tmp_path / "out" / "report.json").read_text())
        assert result.exit_code == content["exit_code"] == 0, result.output
        assert "0 failures in 0.01 ps" in str(content)

    def test_teacher_that_lacks_an_element(self, refused, tmp_path, student_file, water):
        args = arguments(student_file, water, tmp_path / "out")
        refused("validate", *args, "--teacher", "nonsense", words=["unknown teacher 'nonsense'"])


def test_compare(run, tmp_path, student_file, wild_student, water):
    args = ("--teacher", "ase.calculators.emt:EMT", "--structures", water, "--engine", "ase", *FEW)
    out = tmp_path / "both"
    result = run("compare", student_file, wild_student, "--out", out, *args)
    assert (out / "comparison.html").is_file(), result.output
    folders = [p.parent for p in out.glob("*/report.json")]
    assert len(folders) == 2
    again = run("compare", *folders, "--out", tmp_path / "again")
    assert again.exit_code == result.exit_code and (tmp_path / "again" / "comparison.json").is_file()
    renamed = [folder.rename(tmp_path / f"of-{k}") / "validation-report" for k, folder in enumerate(folders)]
    for folder in renamed:  # as `compactff validate` calls it by default
        shutil.copytree(folder.parent, folder)
    same = run("compare", *renamed, "--out", tmp_path / "same")
    assert same.exit_code == result.exit_code, same.output
    content = json.loads((tmp_path / "same" / "comparison.json").read_text())
    assert list(content["candidates"]) == [str(folder) for folder in renamed]


def test_more_replicas_of_the_student_cost_none_of_the_teacher(
    run, tmp_path, student_file, wild_student, water
):
    args = ("--teacher", "ase.calculators.emt:EMT", "--structures", water, "--engine", "ase", *FEW)
    many = ("--set", "sections=[structure]", "--set", "student_replicas=2")
    result = run("compare", student_file, wild_student, "--out", tmp_path / "few", *args, *many[:2])
    (teacher,) = (tmp_path / "few").glob("teacher-*")
    before = {path.name: path.stat().st_mtime_ns for path in teacher.rglob("*.npz")}
    assert list(before) == ["teacher-replica-0.npz"], result.output
    shutil.copytree(teacher, tmp_path / "many" / teacher.name)
    result = run("compare", student_file, wild_student, "--out", tmp_path / "many", *args, *many)
    (same,) = (tmp_path / "many").glob("teacher-*")
    assert {path.name: path.stat().st_mtime_ns for path in same.rglob("*.npz")} == before, result.output
    for folder in (path for path in (tmp_path / "many").iterdir() if path.is_dir() and path != same):
        assert {p.name for p in folder.rglob("student-replica-*.npz")} == {
            "student-replica-0.npz",
            "student-replica-1.npz",
        }


@pytest.mark.parametrize("times", [1, 2])
def test_what_cannot_be_compared_is_refused_before_the_work(
    refused, monkeypatch, tmp_path, student_file, water, times
):
    monkeypatch.setattr(command, "run_suite", lambda *_, **__: pytest.fail("hours of work"))
    args = ("--teacher", "ase.calculators.emt:EMT", "--structures", water, "--engine", "ase")
    words = ["expected two or more, of different names"]
    refused("compare", *[student_file] * times, "--out", tmp_path / "out", *args, words=words)
    assert not (tmp_path / "out").exists()
