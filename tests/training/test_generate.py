from ase.build import molecule

from compactff_md.training.generate import drop_copies, held_out
from compactff_md.training.planning import ChainSpec


def test_copies_go_from_the_training_before_the_test():
    water, other = molecule("H2O"), molecule("H2O")
    other.positions[0, 0] += 0.1
    frames = {"train": [water.copy(), other.copy(), other.copy()], "valid": [], "test_300K": [water.copy()]}
    drop_copies(frames)
    assert [len(frames[name]) for name in ("train", "valid", "test_300K")] == [1, 0, 1]
    assert frames["train"][0].positions[0, 0] == other.positions[0, 0]


def spec_of(index: int, walk: str = "md") -> ChainSpec:
    return ChainSpec(
        name=f"c{index}", purpose="train", members=(index,), frames=9, seed=(0, index), walk=walk
    )


def test_the_end_of_a_trajectory_is_held_out():
    chain = [molecule("H2O")] * 40
    assert held_out(chain, 0.05, spec_of(0)) == {38, 39}
    assert held_out(chain[:5], 0.05, spec_of(0)) == {4}
    given = held_out(chain, 0.1, spec_of(0, "given"))
    assert len(given) == 4 and given == held_out(chain, 0.1, spec_of(0, "given"))


def test_of_many_short_chains_some_are_held_out_whole():
    found = [held_out([molecule("H2O")] * 3, 0.05, spec_of(k)) for k in range(2000)]
    assert {frozenset(held) for held in found} == {frozenset(), frozenset({0, 1, 2})}
    assert 60 < sum(bool(held) for held in found) < 140
