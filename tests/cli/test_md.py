"""``compactff md``: what it says of a run."""

import pytest

pytest.importorskip("openmm")


@pytest.mark.parametrize(
    ("steps", "said", "not_said"),
    [
        (3, ["report_interval is 4", "trajectory_interval is 6"], ["mean temperature"]),
        (5, ["mean temperature", "trajectory_interval is 6"], ["report_interval"]),
        (6, ["mean temperature"], ["report_interval", "trajectory_interval"]),
    ],
)
def test_short_runs_say_what_they_did_not_write(run, tmp_path, water, student_file, steps, said, not_said):
    args = ("md", water, "--student", student_file, "--force", "python", "--timestep", 0.1, "--steps", steps)
    intervals = ("--set", "report_interval=4", "--set", "trajectory_interval=6")
    result = run(*args, *intervals, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for words in said:
        assert words in result.stdout
    for words in not_said:
        assert words not in result.stdout
