from ase.build import molecule

from compactff_md.training.generate import drop_copies


def test_copies_go_from_the_training_before_the_test():
    water, other = molecule("H2O"), molecule("H2O")
    other.positions[0, 0] += 0.1
    frames = {"train": [water.copy(), other.copy(), other.copy()], "valid": [], "test_300K": [water.copy()]}
    drop_copies(frames)
    assert [len(frames[name]) for name in ("train", "valid", "test_300K")] == [1, 0, 1]
    assert frames["train"][0].positions[0, 0] == other.positions[0, 0]
