import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compactff_md.errors import CompactFFError
from compactff_md.files import atomic_write, write_bytes, write_json, write_text


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "student.txt"
    path.write_text("old")
    return path


def assert_untouched(old):
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_new_and_replaced_files(old):
    write_text(old, "new é")
    write_bytes(old.with_name("other"), b"\x00")
    assert old.read_text(encoding="utf-8") == "new é"
    assert sorted(p.name for p in old.parent.iterdir()) == ["other", "student.txt"]


def test_temporary_keeps_folder_and_suffix(old):
    with atomic_write(old) as temporary:
        assert (temporary.parent, temporary.suffix) == (old.parent.resolve(), ".txt")
        temporary.write_text("x")
        assert old.read_text() == "old"


def test_link_is_followed(old):
    link = old.with_name("link")
    link.symlink_to(old)
    write_text(link, "new")
    assert link.is_symlink() and old.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_interrupted_write_leaves_old_file(old, error):
    with pytest.raises(type(error)), atomic_write(old) as temporary:
        temporary.write_text("half")
        raise error
    assert_untouched(old)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_while_writing(old, monkeypatch, code):
    def full(self, content):
        self.touch()
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CompactFFError, match=r"student\.txt.*no space left.*nothing was changed"):
        write_text(old, "new")
    assert_untouched(old)


def test_full_disk_noticed_only_by_fsync(old, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CompactFFError, match="no space left"):
        write_text(old, "new")
    assert_untouched(old)


def run_child(code, old, **kwargs):
    return subprocess.run([sys.executable, "-c", code, str(old)], capture_output=True, text=True, **kwargs)


WRITERS = {
    "bytes": "from compactff_md.files import write_bytes; write_bytes(sys.argv[1], bytes(10**6))",
    "torch": """
import torch
from compactff_md.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    torch.save(torch.zeros(10**6), temporary)
""",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_real_limit_of_file_size(old, writer):
    """The operating system itself refuses the rest of a file, as a full disk would."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    code = f"import sys\n{WRITERS[writer]}"
    result = run_child(code, old, preexec_fn=limit)
    assert result.returncode == 1
    assert "no space left" in result.stderr
    assert_untouched(old)


def test_killed_process_leaves_old_file(old):
    code = """
import os, signal, sys
from compactff_md.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_child(code, old).returncode == -signal.SIGKILL
    assert old.read_text() == "old"


def test_missing_folder_and_not_a_file(tmp_path):
    with pytest.raises(CompactFFError, match=r"folder .*nowhere does not exist"):
        write_text(tmp_path / "nowhere" / "file", "x")
    with pytest.raises(CompactFFError, match="is a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(CompactFFError, match="not a regular file"):
        write_text("/dev/null", "x")


def test_no_permission(old, monkeypatch):
    def refuse(self, content):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(CompactFFError, match="Permission denied"):
        write_text(old, "new")
    assert_untouched(old)


def test_json_of_numpy_and_non_finite(tmp_path):
    path = tmp_path / "metrics.json"
    content = {
        "rmse": np.float64(0.5),
        "r2": float("nan"),
        "n": np.arange(2),
        "at": Path("a/b"),
        "t": (1, True),
    }
    write_json(path, content)
    expected = {"rmse": 0.5, "r2": None, "n": [0, 1], "at": "a/b", "t": [1, True]}
    assert json.loads(path.read_text()) == expected


def test_json_refuses_objects_and_writes_nothing(old):
    with pytest.raises(CompactFFError, match="object cannot be written as JSON"):
        write_json(old, {"bad": object()})
    assert_untouched(old)
