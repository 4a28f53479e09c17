import numpy as np
from ase.build import bulk, molecule

from builders import rotation
from compactff_md.training.descriptors import describe_all, describe_structure
from compactff_md.training.diversity import farthest_points, most_diverse


def test_descriptors_see_neither_rotation_nor_order_but_displacements_and_elements():
    atoms = molecule("CH3OH")
    same = atoms[::-1]
    same.positions = same.positions @ rotation(3).T + 7.0
    assert np.allclose(describe_structure(atoms), describe_structure(same), atol=1e-9)
    moved, other = atoms.copy(), atoms.copy()
    moved.positions[0] += 0.2
    other.numbers[1] = 16
    for changed in (moved, other):
        assert np.abs(describe_structure(atoms) - describe_structure(changed)).max() > 1e-3
    crystal = bulk("Cu", cubic=True)
    assert np.allclose(describe_structure(crystal), describe_structure(crystal.repeat(2)), atol=1e-9)


def test_the_farthest_points_of_a_line_are_its_ends_and_middle():
    line = np.linspace(0, 1, 101)[:, None]
    chosen = farthest_points(line, 3)
    assert chosen[0] == 50 and set(chosen[1:]) == {0, 100}
    assert farthest_points(line, 1, known=np.array([[0.0]])) == [100]
    assert farthest_points(line[:2], 5) in ([0, 1], [1, 0])


def test_copies_are_not_chosen():
    rng = np.random.default_rng(0)
    copies = []
    for _ in range(30):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(0, 1e-3, (3, 3))
        copies.append(atoms)
    others = [molecule("CH4"), molecule("NH3"), molecule("C6H6"), molecule("SH2")]
    chosen = most_diverse(copies + others, 5)
    assert set(chosen) >= {30, 31, 32, 33} and chosen == sorted(chosen)
    assert most_diverse(others, 9) == [0, 1, 2, 3]
    assert np.allclose(describe_all(others).mean(0), 0)
