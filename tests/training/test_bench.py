import pytest

from compactff_md.training import bench


@pytest.mark.parametrize("part", ["ablation", "molecules", "liquid", "all"])
def test_benches_of_files_of_the_repository_say_so_before_anything_is_measured(part, tmp_path, monkeypatch):
    """An installation has the benches, and not these files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", part])
    with pytest.raises(SystemExit, match=r"no such file: \S+; it is part of the repository"):
        bench.main()
    assert not list(tmp_path.iterdir())


def test_files_are_told_of_every_part_that_names_one(monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench"])
    defaults = vars(bench.parse())
    given = {name for name, value in defaults.items() if str(value).startswith(("openmm", "validation"))}
    assert given == set(bench.FILES.values()) and bench.FILES.keys() <= bench.PARTS.keys()
