from compactff_md.mliap.running import WORD, _instance, _words, find_running


class Interface:
    """Like LAMMPS' in nothing but its name."""


def test_there_is_none_outside_of_lammps():
    owner = object()
    assert find_running(Interface(), owner) is None and find_running(None, owner) is None


def test_an_instance_is_what_references_to_its_members_follow():
    address = 0x7F00_0000_1000
    members = [address + k * WORD for k in range(12)]
    assert _instance([5, 7, address, *members]) == address
    assert _instance([5, 7, address, *members[:4], 1, *members[5:]]) == 0
    assert _instance([]) == 0 and _instance([0] * 40) == 0


def test_memory_that_is_not_there_is_no_crash():
    assert _words(WORD, 64) == [] and _words(2**63, 64) == []
    value = b"x" * 64
    assert len(_words(id(value), 64)) == 8
