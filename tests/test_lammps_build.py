"""lammps/build where it cannot build: what it built before is still there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[1] / "lammps" / "build"
PARTS = ("src/ML-IAP/mliap_unified_couple.pyx", "src/ML-IAP/mliap_data.cpp", "cmake/CMakeLists.txt")


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("has_source", [False, True], ids=["no source", "no tools"])
def test_a_build_that_fails_leaves_the_one_before(tmp_path, has_source):
    before = tmp_path / "cache" / "lammps" / f"py{sys.version_info[0]}.{sys.version_info[1]}"
    script(before / "bin" / "lmp", "exit 0")
    (before / "recipe").write_text("of an older script\n")
    source = tmp_path / "source"
    for part in PARTS if has_source else ():
        (source / part).parent.mkdir(parents=True, exist_ok=True)
        (source / part).touch()
    tools = script(tmp_path / "bin" / "apt-get", "exit 1").parent
    variables = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHON": str(script(tools / "python", f'[ "$1" = -c ] && exec {sys.executable} "$@"; exit 1')),
        "COMPACTFF_CACHE": str(tmp_path / "cache"),
        "LAMMPS_GIT": str(tmp_path / "none.git"),
        "LAMMPS_SOURCE": str(source) if has_source else "",
        "CXX": "true",
    }
    done = subprocess.run(
        [BUILD], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert ("no source of LAMMPS" in done.stderr) is not has_source, done.stderr
    assert (before / "bin" / "lmp").is_file() and (before / "recipe").read_text() == "of an older script\n"
    assert sorted(path.name for path in before.parent.iterdir() if path.name[0] != ".") == [before.name]
