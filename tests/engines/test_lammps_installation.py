"""Which LAMMPS is taken, and which is refused: executables that say what one says of itself."""

from pathlib import Path

import pytest

from compactff_md.engines.lammps_installation import OLDEST, Lammps, find_lammps
from compactff_md.engines.lammps_run import DeckPlan, command_of
from compactff_md.errors import CompactFFError

HELP = """#!/bin/sh
cat <<'END'

Large-scale Atomic/Molecular Massively Parallel Simulator - {version}

KOKKOS package API: {api}

Installed packages:

ML-IAP PYTHON{more}

END
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    def make(version, api=""):
        path = tmp_path / f"lmp{len(list(tmp_path.iterdir()))}"
        path.write_text(HELP.format(version=version, api=api, more=" KOKKOS" if api else ""))
        path.chmod(0o755)
        monkeypatch.setenv("COMPACTFF_LAMMPS", str(path))
        return path

    return make


@pytest.mark.parametrize("version", ["2 Aug 2023", "29 Aug 2024 - Update 3", "2 Apr 2025", "10 Jul 2025"])
def test_a_release_that_cannot_run_students_is_refused_by_its_date(install, version):
    path = install(version)
    with pytest.raises(CompactFFError, match=rf"{path} is of {version}, and students need {OLDEST} or newer"):
        find_lammps()


@pytest.mark.parametrize(
    "version", ["22 Jul 2025 - Update 1", "10 Sep 2025 - Development - patch_10Sep2025", "4 Jul 2026", "mine"]
)
def test_a_newer_one_and_one_without_a_date_are_taken(install, version):
    path = install(version)
    assert find_lammps().executable == path and find_lammps().version == version


@pytest.mark.parametrize(
    ("api", "runs"), [("CUDA Serial", True), ("HIP", True), ("Serial OpenMP", False), ("", False)]
)
def test_kokkos_is_for_gpus(install, api, runs):
    install("4 Jul 2026", api)
    plan = DeckPlan(Path("in.lammps"), None, ())
    if runs:
        words = command_of(find_lammps(), plan, kokkos=True, gpus=2)
        assert " ".join(words[3:7]) == "-k on g 2"
    else:
        with pytest.raises(CompactFFError, match="without Kokkos for GPUs"):
            command_of(find_lammps(), plan, kokkos=True)


def test_pythons_module_of_lammps_finds_its_library(tmp_path):
    """As LAMMPS' own interface and ASE's LAMMPSlib use it: by the variables that ``--show`` prints."""
    found = Lammps(tmp_path / "bin" / "lmp", "4 Jul 2026", (), (), True, prefix=tmp_path)
    assert found.environment()["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "lib")


@pytest.mark.parametrize(
    ("folder", "named"), [("/usr/lib/x86_64-linux-gnu", False), ("/opt/python/lib", True)]
)
def test_folders_of_the_system_do_not_hide_lammps_own_libraries(tmp_path, monkeypatch, folder, named):
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: folder)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    found = Lammps(tmp_path / "bin" / "lmp", "4 Jul 2026", (), (), True, prefix=tmp_path)
    expected = [str(tmp_path / "lib"), *([folder] if named else [])]
    assert found.environment()["LD_LIBRARY_PATH"].split(":") == expected


def test_a_variable_that_names_nothing_is_told_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTFF_LAMMPS", str(tmp_path / "none"))
    with pytest.raises(CompactFFError, match=rf"no executable at {tmp_path}/none.*COMPACTFF_LAMMPS") as told:
        find_lammps()
    assert "search path" not in str(told.value)
