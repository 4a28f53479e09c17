"""No label is paid for twice: what a killed run had asked for is in its journal."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import read

from compactff_md.training.chains import JOURNAL_FILE, Chain, shards_of
from compactff_md.training.config import SamplingConfig
from compactff_md.training.drivers import choose_driver
from compactff_md.training.journal import Journal
from compactff_md.training.label import Label
from compactff_md.training.labelling import Labeller
from compactff_md.training.planning import ChainSpec
from compactff_md.training.sampling import relax
from compactff_md.training.tasks import perform, relax_task
from compactff_md.training.teacher_check import check_gradient

METHANOL = molecule("CH3OH")
RATTLED = METHANOL.copy()
RATTLED.rattle(0.1, seed=1)
SPECS = {
    "md": {"frames": 6, "temperature_K": 300.0},
    "rattle": {"frames": 9, "walk": "rattle"},
    "modes": {"frames": 8, "walk": "modes", "temperature_K": 300.0},
    "given": {"frames": 1, "walk": "given"},
}


class KilledError(BaseException):
    """No failure of the teacher, as a signal is none."""


class Paid(EMT):
    """Counts what it computes, and is killed at one of the calls."""

    calls, kill_at = 0, None

    def calculate(self, *args, **kwargs):
        if Paid.calls == Paid.kill_at:
            Paid.kill_at = None
            raise KilledError
        super().calculate(*args, **kwargs)
        Paid.calls += 1


TEACHER = SimpleNamespace(name="test", settings={}, version="1", calculator=Paid)


@pytest.fixture(autouse=True)
def nothing_paid():
    Paid.calls, Paid.kill_at = 0, None


def paid_for(work, kill_at=None):
    """Calls that were paid for by work that is killed once, and begun again; and its result."""
    Paid.calls, Paid.kill_at = 0, kill_at
    if kill_at is not None:
        with pytest.raises(KilledError):
            work()
    return work(), Paid.calls


def chain(folder, walk, **options):
    spec = ChainSpec(name="train-0", purpose="train", members=(0,), seed=(0, 2, 0, 0), **SPECS[walk])
    return Chain(spec, {0: METHANOL}, folder, SamplingConfig(), Labeller(TEACHER)).run(
        lambda frames: None, **options
    )


@pytest.mark.parametrize("walk", SPECS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_killed_chain_pays_for_nothing_twice(tmp_path, walk, share):
    """Long before its first shard, by the settings of every user."""
    counts, all_calls = paid_for(lambda: chain(tmp_path / "whole", walk))
    assert counts.calls == all_calls
    again, calls = paid_for(lambda: chain(tmp_path / "killed", walk), int(share * all_calls))
    assert calls == again.calls == all_calls
    assert not (tmp_path / "killed" / JOURNAL_FILE).exists()
    whole, killed = ([a for s in shards_of(tmp_path / x) for a in read(s, ":")] for x in ("whole", "killed"))
    assert len(whole) == len(killed)
    for one, two in zip(whole, killed, strict=True):
        assert np.array_equal(one.positions, two.positions)
        assert np.array_equal(one.get_forces(), two.get_forces())


def test_a_journal_outlives_a_start_without_time(tmp_path):
    """As with --minutes that are over."""
    Paid.kill_at = 5
    with pytest.raises(KilledError):
        chain(tmp_path, "md")
    chain(tmp_path, "md", time_limit_s=-1.0)
    Paid.calls = 0
    assert chain(tmp_path, "md").calls == Paid.calls + 5


def test_nor_does_a_relaxation(tmp_path):
    def work(name):
        task = relax_task(RATTLED, 30, "methanol", tmp_path / name)
        return perform(task, Labeller(TEACHER), lambda done: None)

    whole, all_calls = paid_for(lambda: work("whole.json"))
    assert all_calls > 8
    killed, calls = paid_for(lambda: work("killed.json"), all_calls - 2)
    assert calls == all_calls
    assert killed == whole == json.loads((tmp_path / "killed.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.json", "whole.json"]


@pytest.mark.parametrize(
    "work", [check_gradient, lambda *args, **kw: choose_driver([args[1]], *args[:1], **kw)]
)
def test_nor_do_the_first_questions(tmp_path, work):
    def run(name):
        return work(TEACHER, METHANOL, journal=Journal(tmp_path / name))

    whole, all_calls = paid_for(lambda: run("whole"))
    killed, calls = paid_for(lambda: run("killed"), all_calls - 1)
    assert all_calls > 1 and calls == all_calls
    assert killed == whole


def test_every_part_of_a_label_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    forces, stress, parts = rng.normal(size=(6, 3)), rng.normal(size=(3, 3)), rng.normal(size=6)
    for name, more in {
        "bare": (None, None),
        "stress": (stress, None),
        "parts": (None, parts),
        "all": (stress, parts),
    }.items():
        Journal(tmp_path / name).add(METHANOL, Label(-1.25, forces, *more, unsureness=0.5))
        found = Journal(tmp_path / name).find(METHANOL)
        assert (found.energy_eV, found.unsureness) == (-1.25, 0.5)
        assert np.array_equal(found.forces_eV_per_A, forces)
        for kept, given in zip((found.stress_eV_per_A3, found.atom_energies_eV), more, strict=True):
            assert (kept is None) == (given is None) and (kept is None or np.array_equal(kept, given))


def test_other_structures_are_not_found(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.add(METHANOL, Label(0.0, np.zeros((6, 3)), None))
    moved, boxed, charged = METHANOL.copy(), METHANOL.copy(), METHANOL.copy()
    moved.positions[0, 0] += 1e-12
    boxed.cell, boxed.pbc = np.eye(3), True
    charged.numbers[0] = 7
    kept = Journal(tmp_path / "journal")
    assert [kept.find(atoms) for atoms in (moved, boxed, charged)] == [None] * 3
    assert kept.find(METHANOL.copy()) is not None


@pytest.mark.parametrize("cut", [1, 40, 150])
def test_a_record_that_was_cut_off_is_left_out(tmp_path, cut):
    path = tmp_path / "journal"
    for atoms in (METHANOL, RATTLED):
        Journal(path).add(atoms, Label(0.0, np.ones((6, 3)), None))
    path.write_bytes(path.read_bytes()[:-cut])
    kept = Journal(path)
    assert kept.find(METHANOL) is not None and kept.find(RATTLED) is None
    kept.add(RATTLED, Label(1.0, np.ones((6, 3)), None))
    assert Journal(path).find(RATTLED).energy_eV == 1.0


def test_an_optimiser_goes_on_from_what_is_kept(tmp_path):
    labeller = Labeller(TEACHER, journal=Journal(tmp_path / "journal"))
    first = relax(RATTLED, labeller, 5, "methanol")
    Paid.calls = 0
    again = Labeller(TEACHER, journal=Journal(tmp_path / "journal"))
    assert np.array_equal(relax(RATTLED, again, 5, "methanol").positions, first.positions)
    assert Paid.calls == 0 and again.counts.calls == labeller.counts.calls
