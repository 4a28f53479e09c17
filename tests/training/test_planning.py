import pytest
from ase.build import bulk, molecule

from compactff_md.errors import CompactFFError
from compactff_md.training.config import SamplingConfig
from compactff_md.training.planning import plan_steps
from compactff_md.training.progress import Reporter
from compactff_md.training.recipe_files import make_config
from compactff_md.training.tasks import chain_task


def plan(folder, given, *steps, **fields):
    config = make_config(SamplingConfig, {"steps": list(steps), "test_frames": 5, **fields})
    return plan_steps(dict(enumerate(given)), config, 0, folder, Reporter())


def test_every_frame_of_every_step_has_its_chain(tmp_path):
    made = plan(
        tmp_path,
        [molecule("CH3OH"), molecule("H2O")],
        {"kind": "clusters", "count": 30, "frames": 12, "max_atoms": 20},
        {"kind": "md", "of": ["given", "clusters"], "frames": 100, "rattles": 2, "fewest": 1},
        {"kind": "rattle", "frames": 23, "length": 5},
        {"kind": "modes", "frames": 9, "temperatures_K": [300.0]},
    )
    frames: dict[str, int] = {}
    for chain in made.chains:
        kind = chain.spec.name.rsplit("-", 1)[0]
        frames[kind] = frames.get(kind, 0) + chain.spec.frames
        assert all(member in made.structures for member in chain.spec.members)
        assert chain.config.steps == ()
    assert (
        frames["clusters"] == 12 and frames["md"] == 100 and frames["rattle"] == 23 and frames["modes"] == 9
    )
    assert len({chain.spec.name for chain in made.chains}) == len(made.chains)
    assert len({chain.spec.seed for chain in made.chains}) == len(made.chains)
    assert len(made.structures) == 32
    tests = [chain.spec for chain in made.chains if chain.spec.purpose.startswith("test")]
    assert {spec.purpose for spec in tests} == {"test_300K", "test_600K"}
    walks = {chain.spec.name.split("-")[0]: chain.spec.walk for chain in made.chains}
    assert (walks["clusters"], walks["md"], walks["rattle"], walks["modes"]) == (
        "given",
        "md",
        "rattle",
        "modes",
    )


def test_the_same_plan_again_and_what_was_made_is_read(tmp_path):
    step = {"kind": "clusters", "count": 5, "sizes": [2]}
    first = plan(tmp_path, [molecule("H2O")], step)
    written = (tmp_path / "made-clusters.json").stat().st_mtime_ns
    again = plan(tmp_path, [molecule("H2O")], step)
    assert (tmp_path / "made-clusters.json").stat().st_mtime_ns == written
    assert [c.spec for c in first.chains] == [c.spec for c in again.chains]
    assert all(first.structures[k] == again.structures[k] for k in first.structures)


def test_steps_for_the_test_replace_the_usual_ones(tmp_path):
    made = plan(
        tmp_path,
        [bulk("Cu", cubic=True)],
        {"kind": "md", "frames": 10, "ensemble": "npt", "pressure_bar": 5.0, "temperatures_K": [300]},
        {"kind": "md", "purpose": "test", "frames": 6, "temperatures_K": [400], "equilibration_steps": 7},
        {"kind": "strain", "purpose": "test", "count": 4},
        test_frames=100,
    )
    purposes = [chain.spec.purpose for chain in made.chains]
    assert purposes == ["test_400K", "test_strain", "train"]
    tested, trained = made.chains[0].spec, made.chains[-1].spec
    assert trained.pressure_bar == 5.0
    assert tested.equilibration_steps == 7 and tested.pressure_bar is None


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_step_of_few_frames_is_planned_and_can_be_sent(tmp_path, frames):
    made = plan(tmp_path, [molecule("H2O")] * 2, {"kind": "md", "frames": frames})
    training = [chain for chain in made.chains if chain.spec.purpose == "train"]
    assert sum(chain.spec.frames for chain in training) == frames
    for chain in made.chains:
        task = chain_task(chain.spec, made.structures, tmp_path, chain.config)
        assert SamplingConfig(**task["config"]) == chain.config


def test_a_step_without_structures_is_told(tmp_path):
    with pytest.raises(CompactFFError, match="step 'md' has no structure to start from"):
        plan(tmp_path, [], {"kind": "md", "frames": 3})


def test_chains_that_equilibrate_are_long_enough_to_be_worth_it(tmp_path):
    step = {
        "kind": "md",
        "purpose": "test",
        "of": ["copies"],
        "frames": 30,
        "temperatures_K": [300, 600, 1000],
    }
    copies = {"kind": "strain", "name": "copies", "count": 20, "frames": 0}
    copper = [bulk("Cu", cubic=True)]
    for name in "ab":
        (tmp_path / name).mkdir()
    waiting = {**step, "equilibration_steps": 9, "fewest": 10}
    made = plan(tmp_path / "a", copper, copies, waiting, test_frames=100)
    assert [chain.spec.frames for chain in made.chains] == [10, 10, 10]
    assert {chain.spec.temperature_K for chain in made.chains} == {300, 600, 1000}
    assert len({chain.spec.members for chain in made.chains}) == 3
    # Without one, each structure is worth a frame.
    made = plan(tmp_path / "b", copper, copies, {**step, "fewest": 10}, test_frames=100)
    assert len({chain.spec.members for chain in made.chains}) == 20
