import errno
import fcntl

import pytest

from compactff_md.locks import lock


def test_a_lock_holds_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as first:
        assert lock(first)
        with path.open("w") as second:
            assert not lock(second)
    with path.open("w") as third:
        assert lock(third)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, "Not here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        (tmp_path / "lock").open("w") as file,
        pytest.warns(UserWarning, match=r"lock cannot be locked \(Not here"),
    ):
        assert lock(file)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_holds_is_refused(tmp_path, monkeypatch, number):
    def held(*_):
        raise OSError(number, "Held")

    monkeypatch.setattr(fcntl, "flock", held)
    with (tmp_path / "lock").open("w") as file:
        assert not lock(file)
