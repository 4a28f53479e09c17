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


@pytest.mark.parametrize(
    ("options", "has_gpu", "asked"),
    [("", False, False), ("", True, True), ("-D Kokkos_ARCH_HOPPER90=on -D PKG_KSPACE=on", False, True)],
)
def test_kokkos_is_built_for_a_gpu_that_is_known(tmp_path, options, has_gpu, asked):
    """Up to cmake, which here only notes its words."""
    source, tools = tmp_path / "source", tmp_path / "bin"
    for part in (*PARTS, "lib/kokkos/CMakeLists.txt"):
        (source / part).parent.mkdir(parents=True, exist_ok=True)
        (source / part).touch()
    for name in ("python", "lammps"):
        (source / name).mkdir()
    said = tmp_path / "cmake"
    script(tools / "nvcc", "exit 0")
    script(tools / "nvidia-smi", "echo GPU 0: one" if has_gpu else "exit 9")
    script(tools / "mpicxx", "exit 0")
    script(tools / "cmake", f'echo "$@" >{said}; exit 1')
    # Its environment for tools is one that has none of its own.
    script(
        tools / "python",
        f'[ "$1" = -c ] && exec {sys.executable} "$@"; [ "$2" = venv ] && mkdir -p "$3/bin"; '
        f'[ "$2" = venv ] && ln -s {tools}/python "$3/bin/python"; exit 0',
    )
    variables = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHON": str(tools / "python"),
        "COMPACTFF_CACHE": str(tmp_path / "cache"),
        "LAMMPS_SOURCE": str(source),
        "LAMMPS_OPTIONS": options,
        "CXX": "true",
    }
    done = subprocess.run(
        [BUILD], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "the build failed" in done.stderr, done.stderr
    words = said.read_text()
    assert ("kokkos-cuda.cmake" in words) is asked
    assert options in words
    assert ("Kokkos_ARCH" in done.stderr) is not asked  # what to do instead
