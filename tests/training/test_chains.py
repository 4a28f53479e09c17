from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from chain_builders import KilledError, frames_of, run, sampling
from compactff_md.errors import CompactFFError
from compactff_md.training.chains import shards_of
from compactff_md.training.labelling import Labeller
from compactff_md.training.planning import ChainSpec
from compactff_md.training.tasks import chain_task, perform


class Moody(EMT):
    """Fails now and then, or always."""

    every = 7
    calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=None):
        Moody.calls += 1
        if Moody.calls % Moody.every == 0:
            raise RuntimeError("SCF not converged")
        super().calculate(atoms, properties, system_changes)


def test_a_chain_makes_dynamics_and_rattled_copies(tmp_path, spec):
    counts = run(tmp_path, spec, {0: molecule("CH3OH")}, sampling())
    frames = frames_of(tmp_path)
    assert len(frames) == 25
    assert [f.info["source"] for f in frames[:4]] == ["md", "rattle", "md", "rattle"]
    assert frames[0].info["temperature_K"] == 300.0
    assert "temperature_K" not in frames[1].info
    assert counts.calls == 1 + 13 * 3 + 13
    frame = frames[10].copy()
    frame.calc = EMT()
    assert frames[10].get_potential_energy() == pytest.approx(frame.get_potential_energy(), abs=1e-5)
    assert np.allclose(frames[10].get_forces(), frame.get_forces(), atol=1e-5)


def test_a_killed_chain_goes_on_as_it_would_have(tmp_path, spec):
    def kill(frames):
        if frames >= 12:
            raise KilledError

    config, structures = sampling(shard_seconds=0), {0: molecule("CH3OH")}
    undisturbed = run(tmp_path / "whole", spec, structures, config)
    with pytest.raises(KilledError):
        run(tmp_path / "parts", spec, structures, config, kill)
    assert run(tmp_path / "parts", spec, structures, config).calls == undisturbed.calls
    whole, parts = frames_of(tmp_path / "whole"), frames_of(tmp_path / "parts")
    assert len(whole) == len(parts) == 25
    for one, two in zip(whole, parts, strict=True):
        assert np.allclose(one.positions, two.positions, atol=1e-7)
        assert one.get_potential_energy() == pytest.approx(two.get_potential_energy(), abs=1e-7)


def test_a_state_without_forces_goes_on(tmp_path, spec):
    """As it was written before they were kept: the teacher is asked again."""
    config, structures = sampling(shard_seconds=0), {0: molecule("CH3OH")}
    undisturbed = run(tmp_path / "whole", spec, structures, config)
    run(tmp_path / "parts", spec, structures, config, limit=0.0)
    with np.load(tmp_path / "parts" / "state.npz") as state:
        older = {name: state[name] for name in state if name not in ("energy", "forces", "stress")}
    np.savez(tmp_path / "parts" / "state.npz", **older)
    assert run(tmp_path / "parts", spec, structures, config).calls == undisturbed.calls + 1
    for one, two in zip(frames_of(tmp_path / "whole"), frames_of(tmp_path / "parts"), strict=True):
        assert np.allclose(one.positions, two.positions, atol=1e-7)


def test_a_chain_that_was_taken_over_writes_no_more(tmp_path, spec):
    """As where a client was killed, and a worker of the cluster goes on beside the resumed run."""
    config, structures = sampling(shard_seconds=0), {0: molecule("CH3OH")}

    def take_over(frames):
        if frames == 10:
            run(tmp_path, spec, structures, config)

    with pytest.raises(CompactFFError, match="was taken over"):
        run(tmp_path, spec, structures, config, take_over)
    frames = frames_of(tmp_path)
    assert len(frames) == len({frame.positions.tobytes() for frame in frames}) == 25


def test_a_finished_chain_costs_nothing(tmp_path, spec):
    first = run(tmp_path, spec, {0: molecule("CH3OH")}, sampling())
    again = run(tmp_path, spec, {0: molecule("CH3OH")}, sampling())
    assert again.calls == first.calls


def test_a_time_limit_keeps_what_is_there(tmp_path, spec):
    run(tmp_path, spec, {0: molecule("CH3OH")}, sampling(), limit=0.0)
    assert 0 < len(frames_of(tmp_path)) < 25


def test_equilibration_ends_with_the_time_and_gives_nothing(tmp_path, spec):
    test = spec.model_copy(update={"purpose": "test_300K", "frames": 4})
    counts = run(tmp_path, test, {0: molecule("CH3OH")}, sampling(), limit=0.0)
    assert counts.calls == 1 and shards_of(tmp_path) == []


def test_what_begins_after_the_time_asks_nothing(tmp_path, spec):
    counts = run(tmp_path, spec, {0: molecule("CH3OH")}, sampling(), limit=-1.0)
    assert counts.calls == 0 and shards_of(tmp_path) == []


def test_test_chains_are_equilibrated_and_not_rattled(tmp_path, spec):
    test = spec.model_copy(update={"purpose": "test_300K", "frames": 4})
    config = sampling(equilibration_steps=20, test_spacing_steps=5)
    counts = run(tmp_path, test, {0: molecule("CH3OH")}, config)
    assert [f.info["source"] for f in frames_of(tmp_path)] == ["md"] * 4
    assert counts.calls == 1 + 20 + 4 * 5


def test_strained_chains_keep_one_cell_and_rattled_copies_have_their_own(tmp_path, spec):
    strained = spec.model_copy(update={"strained": True, "frames": 8})
    run(tmp_path, strained, {0: bulk("Cu", cubic=True)}, sampling())
    frames = frames_of(tmp_path)
    assert all(frame.get_stress().shape == (6,) for frame in frames)
    volumes = {
        kind: {round(f.get_volume(), 6) for f in frames if f.info["source"] == kind}
        for kind in ("md", "rattle")
    }
    assert len(volumes["md"]) == 1
    assert len(volumes["rattle"]) == 4
    assert volumes["md"] != {round(bulk("Cu", cubic=True).get_volume(), 6)}


def test_failures_leave_frames_out_and_are_counted(tmp_path, spec):
    counts = run(tmp_path, spec, {0: molecule("CH3OH")}, sampling(max_failures=0.9), calculator=Moody)
    assert len(frames_of(tmp_path)) == 25
    assert counts.failures > 3


def test_a_teacher_that_fails_all_the_time_stops_the_chain(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(Moody, "every", 1)
    with pytest.raises(CompactFFError, match=r"failed on 5 of 5 frames.*RuntimeError: SCF not converged"):
        run(tmp_path, spec, {0: molecule("CH3OH")}, sampling(), calculator=Moody)


def test_given_structures_are_labelled_as_they_are(tmp_path):
    spec = ChainSpec(name="train-0", purpose="train", members=(2, 5), frames=2, seed=(0,), walk="given")
    run(tmp_path, spec, {2: molecule("H2O"), 5: molecule("CH4")}, sampling(mode="given"))
    frames = frames_of(tmp_path)
    assert [str(f.symbols) for f in frames] == ["OH2", "CH4"]
    assert np.allclose(frames[0].positions, molecule("H2O").positions, atol=1e-7)
    assert frames[1].info["structure"] == 5


def test_constant_pressure_goes_on_after_a_kill_as_it_would_have(tmp_path, spec):
    def kill(frames):
        if frames >= 5:
            raise KilledError

    pressed = spec.model_copy(update={"pressure_bar": 1e4, "frames": 10})
    config, structures = sampling(shard_seconds=0, rattles=0), {0: bulk("Cu", cubic=True)}
    run(tmp_path / "whole", pressed, structures, config)
    with pytest.raises(KilledError):
        run(tmp_path / "parts", pressed, structures, config, kill)
    run(tmp_path / "parts", pressed, structures, config)
    whole, parts = frames_of(tmp_path / "whole"), frames_of(tmp_path / "parts")
    volumes = [frame.get_volume() for frame in whole]
    assert len(set(np.round(volumes, 6))) == 10
    assert [frame.get_volume() for frame in parts] == pytest.approx(volumes, abs=1e-5)
    again = whole[-1].copy()
    again.calc = EMT()
    assert whole[-1].get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-5)


def test_rattle_walks_go_from_member_to_member(tmp_path):
    spec = ChainSpec(name="r", purpose="train", members=(0, 1), frames=9, seed=(1,), walk="rattle")
    structures = {0: molecule("CH3OH"), 1: molecule("CH4")}
    counts = run(tmp_path, spec, structures, sampling(rattles=3))
    frames = frames_of(tmp_path)
    assert [f.info["structure"] for f in frames] == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert counts.calls == 9


def test_modes_pay_for_second_derivatives_once(tmp_path):
    spec = ChainSpec(
        name="m", purpose="train", members=(0,), frames=20, seed=(1,), walk="modes", temperature_K=300.0
    )
    structures, config = {0: molecule("H2O")}, sampling(shard_seconds=0)

    def kill(frames):
        if frames >= 13:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path, spec, structures, config, kill)
    counts = run(tmp_path, spec, structures, config)
    frames = frames_of(tmp_path)
    assert len(frames) == 20 and {f.info["source"] for f in frames} == {"modes"}
    assert counts.calls <= 10 + 10 + 1


def test_a_chain_that_fails_ends_with_what_it_has_and_the_others_go_on(tmp_path):
    class Fragile(EMT):
        """Cannot do methane."""

        def calculate(self, atoms=None, *arguments, **options):
            if len(atoms) == 5:
                raise RuntimeError("SCF not converged")
            super().calculate(atoms, *arguments, **options)

    labeller = Labeller(SimpleNamespace(name="test", settings={}, calculator=Fragile))

    def task(name, atoms, alone=False):
        spec = ChainSpec(name=name, purpose="train", members=(0,), frames=4, seed=(0,), temperature_K=300.0)
        return chain_task(spec, {0: atoms}, tmp_path / name, sampling(), alone)

    assert perform(task("bad", molecule("CH4")), labeller, print)["failures"] == 5
    assert perform(task("good", molecule("H2O")), labeller, print)["failures"] == 0
    assert shards_of(tmp_path / "bad") == []
    assert len(shards_of(tmp_path / "good")) == 1
    with pytest.raises(CompactFFError, match="failed on 5 of 5 frames"):
        perform(task("only", molecule("CH4"), alone=True), labeller, print)
    with pytest.raises(CompactFFError, match=r"failed on \d+ of \d+ frames, allowed are"):
        for k in range(10):
            perform(task(f"bad{k}", molecule("CH4")), labeller, print)


def test_a_chain_makes_its_own_folder_alone(tmp_path, spec):
    """Where those above are missing, this is another machine than that of the run."""
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "labels" / "chain", spec, {0: molecule("CH3OH")}, sampling())
    assert list(tmp_path.iterdir()) == []


class Unable(EMT):
    """Cannot do what lies beyond 100 A from the origin, nor the 5th call."""

    calls = 0

    def calculate(self, atoms=None, *arguments, **options):
        Unable.calls += 1
        if Unable.calls == 5 or atoms.positions.max() > 100.0:
            raise RuntimeError("SCF not converged")
        super().calculate(atoms, *arguments, **options)


def modes_spec(frames: int = 20) -> ChainSpec:
    return ChainSpec(
        name="m", purpose="train", members=(0,), frames=frames, seed=(1,), walk="modes", temperature_K=300.0
    )


def test_second_derivatives_that_cannot_be_had_end_their_chain_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Unable, "calls", 0)
    labeller = Labeller(SimpleNamespace(name="test", settings={}, calculator=Unable))
    task = chain_task(modes_spec(), {0: molecule("H2O")}, tmp_path, sampling())
    for _ in range(2):  # the second time is free
        counts = perform(task, labeller, print)
        assert (counts["calls"], counts["attempts"], counts["failures"]) == (5, 5, 1)
    assert shards_of(tmp_path) == []
    monkeypatch.setattr(Unable, "calls", 0)
    with pytest.raises(CompactFFError, match=r"chain m: .*second derivatives.*SCF not converged"):
        perform({**task, "alone": True, "folder": str(tmp_path / "alone")}, labeller, print)


def test_given_structures_are_all_asked_for_whatever_the_first_ones_are(tmp_path):
    """As those that make runs explode, which stand first."""
    far = molecule("CH4")
    far.positions += 200.0
    structures = dict(enumerate([far] * 5 + [molecule("CH4")] * 45))
    spec = ChainSpec(name="g", purpose="train", members=tuple(range(50)), frames=50, seed=(0,), walk="given")
    counts = run(tmp_path, spec, structures, sampling(), calculator=Unable)
    assert (counts.attempts, counts.failures) == (50, 5)
    assert len(frames_of(tmp_path)) == 45
    fewer = spec.model_copy(update={"members": tuple(range(20))})
    with pytest.raises(CompactFFError, match="failed on 5 of 20 frames"):
        run(tmp_path / "fewer", fewer, structures, sampling(), calculator=Unable)


def test_given_structures_without_a_label_are_asked_for_again(tmp_path):
    """The cause may be mended, or more failures be allowed."""
    far = molecule("CH4")
    far.positions += 200.0
    structures = dict(enumerate([molecule("CH4")] * 5 + [far] * 10 + [molecule("CH4")] * 5))
    spec = ChainSpec(name="g", purpose="train", members=tuple(range(20)), frames=20, seed=(0,), walk="given")
    config = sampling(max_failures=0.2)
    task = chain_task(spec, structures, tmp_path, config, alone=True)
    labeller = Labeller(SimpleNamespace(name="test", settings={}, calculator=Unable))
    for calls in (20, 30):  # of those that failed, and no others
        with pytest.raises(CompactFFError, match=r"failed on 10 of 20 frames.*the last failure: [^.]"):
            perform(task, labeller, print)
        assert int(np.load(tmp_path / "state.npz")["calls"]) == calls
    config = config.model_copy(update={"max_failures": 1.0})
    perform(chain_task(spec, structures, tmp_path, config, alone=True), labeller, print)
    assert len(frames_of(tmp_path)) == 10
    mended = chain_task(spec, structures, tmp_path / "mended", sampling(max_failures=0.2), alone=True)
    with pytest.raises(CompactFFError, match="failed on 10 of 20"):
        perform(mended, Labeller(SimpleNamespace(name="test", settings={}, calculator=Unable)), print)
    counts = perform(mended, Labeller(SimpleNamespace(name="test", settings={}, calculator=EMT)), print)
    assert (counts["attempts"], counts["failures"], counts["calls"]) == (20, 0, 30)
    assert sorted(a.info["structure"] for a in frames_of(tmp_path / "mended")) == list(range(20))


@pytest.mark.parametrize("walk", ["rattle", "modes", "md"])
def test_a_chain_whose_frames_are_all_rejected_ends(tmp_path, walk):
    spec = modes_spec(4).model_copy(update={"walk": walk})
    counts = run(tmp_path, spec, {0: molecule("CH3OH")}, sampling(max_force_eV_per_A=1e-3))
    assert counts.rejected == 40 and counts.failures == 0
