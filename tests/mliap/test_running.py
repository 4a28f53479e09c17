from types import SimpleNamespace

import numpy as np
import pytest

from compactff_md.mliap.running import WORD, RunningLammps, _instance, _words, find_running


class Library:
    """Answers like those of LAMMPS' C functions, from memory of this process."""

    def __init__(self, apis=(), **arrays):
        self.arrays = {name: np.array(values) for name, values in arrays.items()}
        self.lammps_extract_setting = self._function(
            lambda _, name: {b"bigint": 8, b"tagint": 4, b"ntypes": 2}[name]
        )
        self.lammps_extract_global = self._function(lambda _, name: self._address(name.decode()))
        self.lammps_extract_atom = self._function(lambda _, name: self._address(name.decode()))
        self.lammps_get_mpi_comm = self._function(lambda _: 0)
        self.lammps_config_accelerator = self._function(
            lambda package, kind, api: package == b"KOKKOS" and kind == b"api" and api.decode() in apis
        )

    def _address(self, name):
        return self.arrays[name].ctypes.data if name in self.arrays else None

    def _function(self, call):
        class Function(SimpleNamespace):
            __call__ = staticmethod(call)

        return Function()


def running(*apis, **arrays):
    return RunningLammps(0, Library(apis, **arrays))


@pytest.mark.parametrize(
    ("apis", "gpu"), [((), False), (("serial", "openmp"), False), (("cuda", "serial"), True)]
)
def test_kokkos_works_on_a_gpu_where_it_was_built_for_one(apis, gpu):
    assert running(*apis).has_gpu is gpu


@pytest.mark.parametrize(
    ("bonds", "lj", "coulomb", "leaves"),
    [
        (0, [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], False),
        (8, [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], True),
        (8, [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], True),
        (8, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.5, 1e-50], False),
        (8, [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], False),
    ],
)
def test_bonded_neighbours_are_left_out_where_both_weights_are_zero(bonds, lj, coulomb, leaves):
    asked = running(nbonds=np.array([bonds], dtype=np.int64), special_lj=lj, special_coul=coulomb)
    assert asked.leaves_bonded_out is leaves


def test_atoms_without_ids_have_zeros_in_their_place():
    assert running(id=np.array([3, 1], dtype=np.int32)).ids(2).tolist() == [3, 1]
    assert running(id=np.array([0, 0], dtype=np.int32)).ids(2) is None and running().ids(2) is None
    assert running().ids(0).tolist() == []


def test_types_and_their_masses_begin_at_one():
    asked = running(mass=[0.0, 1.008, 15.999], type=np.array([2, 1, 1], dtype=np.int32))
    assert asked.masses_Da() == [1.008, 15.999] and asked.types(2).tolist() == [2, 1]
    assert asked.types(0).tolist() == [] and running().masses_Da() == []


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
