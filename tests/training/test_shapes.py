import numpy as np
import pytest

from compactff_md.training.shapes import Shapes, choose_shapes


def test_frames_of_one_size_need_one_shape():
    shapes = choose_shapes(np.full(50, 21), np.full(50, 20), batch_size=8, batch_atoms=4096)
    assert shapes == Shapes(168, (20,))


def test_many_sizes_share_few_shapes_with_little_padding():
    random = np.random.default_rng(0)
    sizes = random.integers(2, 60, 2000)
    widths = np.minimum(sizes - 1, random.integers(10, 40, 2000))
    shapes = choose_shapes(sizes, widths, batch_size=8, batch_atoms=4096)
    assert shapes.rows == np.ceil(8 * sizes.mean())
    assert len(shapes.widths) <= 4 and shapes.widths[-1] == widths.max()
    held = np.array(shapes.widths)[shapes.classes(widths)]
    assert (held >= widths).all()
    pairs, single = (sizes * held).sum(), (sizes * widths.max()).sum()
    assert pairs < 0.85 * single and pairs < 1.25 * (sizes * widths).sum()


def test_the_largest_frame_fits_whatever_the_limit():
    shapes = choose_shapes(np.array([3, 3, 50]), np.array([2, 2, 30]), batch_size=2, batch_atoms=40)
    assert shapes.rows == 50 and shapes.room_for(50, 30) == (50, 30)


@pytest.mark.parametrize(
    ("rows", "width", "room"),
    [(10, 4, (10, 4)), (3, 5, (10, 9)), (11, 4, None), (10, 10, None)],
)
def test_the_smallest_shape_with_room(rows, width, room):
    assert Shapes(10, (4, 9)).room_for(rows, width) == room
