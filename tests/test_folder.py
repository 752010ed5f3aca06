"""Folders of images, with the files that people really have."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from testing import random_images, tiny_model_config
from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.data import pictures


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


@pytest.fixture
def flat(tmp_path):
    root = tmp_path / "pictures"
    for index, image in enumerate(random_images(30, (10, 12, 3))):
        write(root / f"{index:02}.png", image)
    return root


def load(root, **changes):
    config = DataConfig("folder", str(root), validation_fraction=0.2)
    return data.load(config, tiny_model_config(**changes))


def rows(split):
    return {image.tobytes() for image in split.first(split.num_images)}


def test_flat_folder_is_divided_by_name(flat, tmp_path):
    splits = load(flat)
    assert [split.num_images for split in splits] == [18, 6, 6]
    assert all(split.labels is None for split in splits)
    parts = [rows(split) for split in splits]
    assert len(parts[0] | parts[1] | parts[2]) == 30
    moved = flat.rename(tmp_path / "elsewhere")
    assert [rows(split) for split in load(moved)] == parts


def test_labelled_folder(tmp_path):
    for part, count in (("train", 10), ("test", 4)):
        for label, value in (("cat", 10), ("dog", 200)):
            for index in range(count):
                image = np.full((8, 8, 3), value + index, np.uint8)
                write(tmp_path / part / label / f"{index}.png", image)
    splits = load(tmp_path)
    assert [split.num_images for split in splits] == [16, 4, 8]
    for split in splits:
        values = split.first(20)[:, 0, 0, 0]
        np.testing.assert_array_equal(split.labels, values > 100)


def test_nothing_is_set_aside_at_fraction_0(flat, tmp_path):
    for index, image in enumerate(random_images(4)):
        write(tmp_path / "root" / "test" / f"{index}.png", image)
    flat.rename(tmp_path / "root" / "train")
    config = DataConfig("folder", str(tmp_path / "root"), validation_fraction=0.0)
    splits = data.load(config, tiny_model_config())
    assert [split.num_images for split in splits] == [30, 0, 4]
    with pytest.raises(UserError, match="the validation part of the data is empty"):
        splits.part("validation")
    only = DataConfig("folder", str(tmp_path / "root" / "train"), 0.0)
    with pytest.raises(UserError, match="has no test images, and none are set aside"):
        data.load(only, tiny_model_config())


def test_data_dir_takes_the_place_of_the_named_data_set(flat):
    config = DataConfig("tfds:cifar10", str(flat))
    assert data.load(config, tiny_model_config()).train.num_images > 0


def test_batches(flat):
    splits = load(flat)
    config = DataConfig("folder", str(flat))
    batch = next(iter(data.training_batches(splits.train, config, 4, 0, 0)))
    assert batch.images.shape == (4, 8, 8, 3) and batch.images.dtype == tf.uint8


def test_jpeg_is_decoded_accurately(tmp_path):
    """As Pillow does, and as TensorFlow does when asked to be accurate."""
    write(tmp_path / "a.jpg", random_images(1, (8, 8, 3))[0], quality=75)
    ours = pictures.decode(tmp_path / "a.jpg", (8, 8, 3))
    theirs = tf.io.decode_jpeg(
        tf.io.read_file(str(tmp_path / "a.jpg")), dct_method="INTEGER_ACCURATE"
    )
    np.testing.assert_array_equal(ours, theirs)


def test_crop_and_resize(tmp_path):
    """The middle square of a wide image, at half the size."""
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 200
    write(tmp_path / "wide.png", image)
    np.testing.assert_array_equal(
        pictures.decode(tmp_path / "wide.png", (4, 4, 3)), np.full((4, 4, 3), 200)
    )


def test_what_people_have(tmp_path):
    grey = np.full((8, 8), 100, np.uint8)
    write(tmp_path / "grey.png", grey)
    assert (pictures.decode(tmp_path / "grey.png", (8, 8, 3)) == 100).all()
    colour = np.full((8, 8, 3), 100, np.uint8)
    write(tmp_path / "colour.png", colour)
    assert (pictures.decode(tmp_path / "colour.png", (8, 8, 1)) == 100).all()
    clear = np.zeros((8, 8, 4), np.uint8)
    write(tmp_path / "clear.png", clear)
    assert (pictures.decode(tmp_path / "clear.png", (8, 8, 3)) == 255).all()
    deep = np.full((8, 8), 100 * 257, np.uint16)
    write(tmp_path / "deep.png", deep)
    assert (pictures.decode(tmp_path / "deep.png", (8, 8, 1)) == 100).all()
    print_ready = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    print_ready.save(tmp_path / "cmyk.jpg", quality=95)
    red = pictures.decode(tmp_path / "cmyk.jpg", (8, 8, 3))[0, 0]
    assert red[0] > 240 and red[1:].max() < 15
    palette = Image.fromarray(colour).convert("P")
    palette.save(tmp_path / "palette.png")
    assert (
        abs(int(pictures.decode(tmp_path / "palette.png", (8, 8, 3)).max()) - 100) < 9
    )


def test_exif_rotation(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = 255  # bright above; the camera was held on its side
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    write(tmp_path / "turned.jpg", image, exif=exif, quality=95)
    shown = pictures.decode(tmp_path / "turned.jpg", (8, 8, 3))
    assert shown[:, 4:].min() > 240 and shown[:, :4].max() < 15


def damage(root):
    """Files that cannot be read: cut short, empty, and text under a false name."""
    whole = (root / "00.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("not a picture")


def test_damaged_files_are_named_and_left_out(flat, capsys):
    damage(flat)
    (flat / "notes.txt").write_text("not even called a picture")
    assert sum(split.num_images for split in load(flat)) == 30
    printed = capsys.readouterr().out
    assert "3 of 33 files cannot be read and are left out" in printed
    for name in ("cut.png", "empty.jpg", "text.jpg"):
        assert name in printed
    assert "notes.txt" not in printed


def test_verdicts_are_kept(flat, cache, capsys):
    damage(flat)
    load(flat)
    assert "checking 33 files" in capsys.readouterr().out
    load(flat)
    again = capsys.readouterr().out
    assert "checking" not in again and "3 of 33 files" in again
    write(flat / "cut.png", random_images(1, (6, 6, 3))[0])  # mended
    load(flat)
    assert "checking 1 files" in capsys.readouterr().out
    assert [path.suffix for path in (cache / "tfp_vaeflow").iterdir()] == [".json"]


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda root: None, "holds 0 readable training images; expected at least 3"),
        (lambda root: (root / "train").mkdir(), "train holds 0 readable training"),
        (lambda root: root.rmdir(), "pictures does not exist; expected .*/train/CLASS"),
        (
            lambda root: (root / "a.heic").write_text("ftypheic"),
            r"left out of .*: 1 of other formats \(1 .heic\); expected",
        ),
    ],
)
def test_nothing_to_train_on(tmp_path, prepare, message):
    root = tmp_path / "pictures"
    root.mkdir()
    prepare(root)
    with pytest.raises(UserError, match=message):
        load(root)
    with pytest.raises(UserError, match="without a folder; name one with --data_dir"):
        data.load(DataConfig("folder"), tiny_model_config())
