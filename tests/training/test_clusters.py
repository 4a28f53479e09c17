import numpy as np
import pytest
from ase.build import molecule

from compactff_md.training.clusters import closeness, contact_radii, dock, pack


def test_the_newcomer_is_in_contact_and_no_closer():
    rng = np.random.default_rng(0)
    one = molecule("C6H6")
    for target in (0.8, 1.0):
        for _ in range(5):
            pair = dock(one, molecule("H2O"), target, rng)
            assert len(pair) == 15
            assert closeness(pair[:12], pair[12:]) == pytest.approx(target, abs=0.03)
            assert closeness(pair[:12], pair[12:]) > target
            inner = pair[12:].get_all_distances() - molecule("H2O").get_all_distances()
            assert np.abs(inner).max() < 1e-9


def test_contact_radii_are_those_of_bondi_and_never_missing():
    assert contact_radii(np.array([1, 6, 8])) == pytest.approx([1.2, 1.7, 1.52], abs=0.05)
    assert np.isfinite(contact_radii(np.arange(1, 87))).all()


def test_clusters_have_the_size_asked_for_and_water():
    rng = np.random.default_rng(1)
    molecules = [molecule("CH4"), molecule("SH2")]
    dry = pack(molecules, 3, 0.0, (0.8, 1.0), 60, rng)
    assert set(dry.get_chemical_symbols()) <= {"C", "H", "S"}
    wet = pack(molecules, 3, 1.0, (0.8, 1.0), 60, rng)
    assert wet.get_chemical_symbols().count("O") == 2
    assert pack([molecule("C6H6")], 2, 0.0, (0.8, 1.0), 20, rng) is None
