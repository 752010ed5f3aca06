import numpy as np
import pytest
from PIL import Image

from tfp_vaeflow.evaluation import figures


def test_grid():
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones(
        (3, 2, 2, 1), np.uint8
    )
    expected = [
        [0, 0, 255, 1, 1],
        [0, 0, 255, 1, 1],
        [255] * 5,
        [2, 2, 255, 255, 255],
        [2, 2, 255, 255, 255],
    ]
    np.testing.assert_array_equal(figures.grid(images, 2, 2)[..., 0], expected)
    assert figures.grid(images, 2, 48).shape == (5 * 24, 5 * 24, 1)


def test_switch_grid_has_the_originals_on_one_diagonal():
    values = [np.full((1, 2, 2, 1), value, np.uint8) for value in (10, 20, 30, 40)]
    a, b, z_a_v_b, z_b_v_a = values
    grid = figures.switch_grid(a, b, z_a_v_b, z_b_v_a, 1)[..., 0]
    corners = grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]
    assert corners == (10, 30, 40, 20)


@pytest.mark.parametrize("channels", [1, 3])
def test_words_around_a_picture(channels):
    picture = np.random.default_rng(0).integers(0, 200, (60, 90, channels), np.uint8)
    columns, rows = ["v of A", "v of B"], ["z of A", "", "z of B"]
    made = figures.described(picture, "a title of more than one line", columns, rows)
    height, width = made.shape[0] - 60, made.shape[1] - 90
    np.testing.assert_array_equal(made[height:, width:], picture)
    is_ink = made.min(-1) < 128
    assert height > 3 * 12 and all(is_ink[at : at + 16].any() for at in (0, 16))
    head, edge = is_ink[height - 16 : height, width:], is_ink[height:, :width]
    assert all(half.any() for half in np.split(head, 2, 1))
    assert [part.any() for part in np.split(edge, 3)] == [True, False, True]
    bare = figures.described(picture, "")
    np.testing.assert_array_equal(bare[-60:], picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_png(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
    path = tmp_path / "deep" / "image.png"
    figures.write_png(path, image)
    read = np.array(Image.open(path)).reshape(image.shape)
    np.testing.assert_array_equal(read, image)
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]
