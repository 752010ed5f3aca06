import dataclasses
import io
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils import gcs_utils

from testing import random_images, tiny_model_config
from tfp_vaeflow import data
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig, FlowConfig, ModelConfig
from tfp_vaeflow.data import pictures


@pytest.fixture(scope="module")
def digits():
    flow = FlowConfig(num_steps=[0, 1], hidden=[4, 4])
    return data.load(DataConfig("digits"), ModelConfig((8, 8, 1), 17, 0, flow))


def array_split(count, shape=(4, 4, 1)):
    """Images whose every pixel is their index."""
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones(
        shape, np.uint8
    )
    images = tf.constant(images)
    return data.Split(
        count, lambda i: tf.gather(images, i), lambda: np.arange(count) % 10
    )


def test_digits(digits):
    assert [split.num_images for split in digits] == [1293, 144, 360]
    images = digits.test.first(360)
    assert images.shape == (360, 8, 8, 1) and images.dtype == np.uint8
    levels = set(np.unique(images))
    assert levels == {-(-256 * k // 17) for k in range(17)}
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    train, test, train_labels, labels = train_test_split(
        bunch.images, bunch.target, test_size=0.2, random_state=0, stratify=bunch.target
    )
    np.testing.assert_array_equal(images[..., 0].astype(int) * 17 // 256, test)
    np.testing.assert_array_equal(digits.test.labels, labels)
    known = {
        (level.astype(np.uint8).tobytes(), label)
        for level, label in zip(train, train_labels)
    }
    found = {
        ((image[..., 0].astype(int) * 17 // 256).astype(np.uint8).tobytes(), label)
        for split in (digits.train, digits.validation)
        for image, label in zip(split.first(split.num_images), split.labels)
    }
    assert found == known


def test_parts_do_not_overlap(digits):
    rows = [
        {image.tobytes() for image in split.first(split.num_images)} for split in digits
    ]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def indices_of(dataset, count):
    return [batch.images.numpy()[:, 0, 0, 0].tolist() for batch in dataset.take(count)]


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own():
    batches = data.training_batches(array_split(20), DataConfig(), 8, 1, 0)
    flat = sum(indices_of(batches, 10), [])  # 4 epochs
    epochs = [flat[i : i + 20] for i in range(0, 80, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = data.training_batches(array_split(20), DataConfig(), 8, 2, 0)
    assert sum(indices_of(other, 10), []) != flat


def test_batch_t_does_not_depend_on_where_the_run_began():
    config = DataConfig(horizontal_flip=True, shift=1)
    split = array_split(20)
    whole = list(data.training_batches(split, config, 8, 1, 0).take(6))
    late = list(data.training_batches(split, config, 8, 1, 4).take(2))
    for a, b in zip(whole[4:], late):
        np.testing.assert_array_equal(a.images, b.images)


def test_evaluation_counts_every_image_once():
    batches = list(data.evaluation_batches(array_split(10), 4))
    assert [len(batch.images) for batch in batches] == [4, 4, 4]
    weights = np.concatenate([batch.weights for batch in batches])
    seen = np.concatenate([batch.images[:, 0, 0, 0] for batch in batches])
    assert seen[weights > 0].tolist() == list(range(10))
    positions = np.concatenate([batch.positions for batch in batches])
    assert positions.tolist() == list(range(12))


def test_horizontal_flip():
    images = random_images(200, (4, 4, 1))
    flipped = data.augment(images, DataConfig(horizontal_flip=True), [1, 2]).numpy()
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all() and 0.35 < mirrored.mean() < 0.65


@pytest.mark.parametrize("fill", ["reflect", "constant"])
def test_shift(fill):
    images = random_images(200, (6, 6, 1))
    config = DataConfig(shift=1, shift_fill=fill)
    shifted = data.augment(images, config, [1, 2]).numpy()
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], fill)
    crops = [padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    matches = np.stack([(shifted == c).all(axis=(1, 2, 3)) for c in crops])
    assert matches.any(axis=0).all()
    assert (matches.mean(axis=1) > 0.04).all()  # each of the nine about equally


def test_augmentation_goes_by_position():
    config = DataConfig(horizontal_flip=True, shift=1)
    images = random_images(16)
    whole = data.augment(images, config, [3, 4])
    np.testing.assert_array_equal(data.augment(images[:8], config, [3, 4]), whole[:8])


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """A labelled data set of JPEG files, made, not downloaded; no test split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._some()}

    def _generate_examples(self):
        for index in range(50):
            yield index, {"image": encoded(index), "label": index % 2}

    def _some(self):
        for index in range(5):
            yield index, {"image": encoded(index + 50), "label": 0}


def encoded(index):
    """A JPEG file of 12x10 pixels."""
    file = io.BytesIO()
    Image.fromarray(random_images(60, (10, 12, 3))[index]).save(file, "JPEG")
    file.seek(0)
    return file


def test_tfds(tmp_path):
    TinyPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    config = DataConfig("tfds:tiny_pictures", str(tmp_path), validation_fraction=0.2)
    splits = data.load(config, tiny_model_config())
    assert [split.num_images for split in splits] == [40, 5, 10]
    # Cropped and resized like the files of a folder.
    known = {
        pictures.decode(encoded(index), (8, 8, 3)).tobytes(): index
        for index in range(55)
    }
    found = []
    for split in splits:
        indices = [known[image.tobytes()] for image in split.first(60)]
        expected = 0 if split is splits.validation else np.mod(indices, 2)
        np.testing.assert_array_equal(split.labels, expected)
        found += indices
    assert sorted(found) == list(range(55))
    batch = next(iter(data.training_batches(splits.train, config, 4, 0, 0)))
    assert batch.images.shape == (4, 8, 8, 3)
    missing = dataclasses.replace(config, data_dir=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="tfds build tiny_pictures"):
        data.load(missing, tiny_model_config())


def test_tfds_that_cannot_be_read_by_index(tmp_path, monkeypatch):
    """As `tfds build` prepares it unless told otherwise; the advice then works."""
    builder = TinyPictures(data_dir=tmp_path)
    builder.download_and_prepare()
    config = DataConfig("tfds:tiny_pictures", str(tmp_path))
    message = f"prepared in {builder.data_dir} as tfrecord, which .* `tfds build tiny_"
    with pytest.raises(UserError, match=message):
        data.load(config, tiny_model_config())
    other = tmp_path / "other"
    TinyPictures(data_dir=other, file_format="array_record").download_and_prepare()
    config = dataclasses.replace(config, data_dir=str(other))
    assert data.load(config, tiny_model_config()).validation.num_images == 5
    # Not prepared, while TensorFlow Datasets reads from its bucket what there would be.
    bucket = tmp_path / "bucket" / "dataset_info" / "tiny_pictures" / "1.0.0"
    bucket.mkdir(parents=True)
    for path in other.glob("tiny_pictures/1.0.0/*.json"):
        shutil.copy(path, bucket)
    monkeypatch.setattr(gcs_utils, "GCS_ROOT_DIR", str(tmp_path / "bucket"))
    monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", False)
    config = dataclasses.replace(config, data_dir=str(tmp_path / "none"))
    assert "train" in TinyPictures(data_dir=tmp_path / "none").info.splits
    with pytest.raises(UserError, match="not prepared in .*none/tiny_pictures/1.0.0;"):
        data.load(config, tiny_model_config())


class NoPictures(tfds.core.GeneratorBasedBuilder):
    """Numbers only."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"value": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"value": 1}


def test_tfds_without_images(tmp_path):
    NoPictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    config = DataConfig("tfds:no_pictures", str(tmp_path))
    with pytest.raises(UserError, match="no feature 'image', only value"):
        data.load(config, tiny_model_config())


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_in_a_file(tmp_path, suffix):
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8), np.uint8)
    path = tmp_path / f"images.{suffix}"
    if suffix == "npy":
        np.save(path, images)
    else:
        np.savez(path, images=images[..., np.newaxis], labels=np.arange(50) % 3)
    model = ModelConfig((8, 8, 1), 256, 0, FlowConfig([0, 1], [4, 4]))
    splits = data.load(DataConfig(data_dir=str(path), validation_fraction=0.2), model)
    assert [part.num_images for part in splits] == [32, 8, 10]
    batch = next(iter(data.training_batches(splits.train, DataConfig(), 4, 0, 0)))
    assert batch.images.shape == (4, 8, 8, 1)
    found = np.concatenate([part.first(50)[..., 0] for part in splits])
    assert {image.tobytes() for image in found} == {i.tobytes() for i in images}
    if suffix == "npz":
        by_image = {i.tobytes(): n % 3 for n, i in enumerate(images)}
        labels = [by_image[i.tobytes()] for i in splits.test.first(50)[..., 0]]
        assert labels == splits.test.labels.tolist()


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": np.zeros((5, 8, 8), np.float32)}, "images are float32 of shape"),
        (
            {"images": np.zeros((5, 8, 9), np.uint8)},
            r"shape \(8, 9, 1\), but ModelConf",
        ),
        ({"x": np.zeros((5, 8, 8), np.uint8)}, "has the arrays x; expected 'images'"),
        (
            {"images": np.zeros((5, 8, 8), np.uint8), "labels": np.zeros(4, int)},
            r"labels are int64 of shape \(4,\); expected integers of shape \(5,\)",
        ),
        (b"no numpy", "is no NumPy file"),
        (None, "does not exist"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    path = tmp_path / "images.npz"
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    elif arrays is not None:
        np.savez(path, **arrays)
    model = ModelConfig((8, 8, 1), 256, 0, FlowConfig([0, 1], [4, 4]))
    with pytest.raises(UserError, match=message):
        data.load(DataConfig(data_dir=str(path)), model)
