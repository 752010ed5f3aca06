"""Folders of pictures as people come by them."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from testing import tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow import data
from tfp_vaeflow.common import classes
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import pictures

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pictures"


def picture(size=8):
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))


def fill(folder: Path, count: int, name="img", suffix="png"):
    """Writes pictures; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture().save(folder / f"{name}{number:03d}.{suffix}")


def fill_classes(folder: Path, count: int, names=("cat", "dog")):
    for name in names:
        fill(folder / name, count, name)


def load(root, fraction=0.1, order=classes.NATURAL, **model) -> data.Splits:
    """Loads a folder, and reads all of it."""
    config = cfg.DataConfig("folder", str(root), validation_fraction=fraction)
    splits = data.load(config, tiny_model_config(**model), order)
    for split in splits:
        assert split.first(split.num_images).shape == (split.num_images, 8, 8, 3)
    return splits


def test_batches_of_files_have_known_shapes(root):
    """Without them, XLA compiles nothing."""
    fill_classes(root, 10)
    splits = load(root)
    batches = [
        data.training_batches(splits.train, cfg.DataConfig("folder"), 4, 0, 0),
        data.evaluation_batches(splits.validation, 4),
    ]
    for spec in tf.nest.flatten([each.element_spec for each in batches]):
        assert spec.shape.is_fully_defined() and spec.shape[0] == 4


def sizes(splits):
    return [split.num_images for split in splits]


def names(split):
    """The classes of a part by name, and how many pictures each has."""
    if split.labels is None:
        return None
    found = [split.name_of(label) for label in split.labels]
    return {name: found.count(name) for name in sorted(set(found))}


def test_labelled_training_and_flat_test_pictures(root):
    """As competitions give them out."""
    fill_classes(root / "train", 10)
    fill(root / "test", 5)
    splits = load(root)
    assert sizes(splits) == [18, 2, 5]
    assert splits.train.class_names == ("cat", "dog") and splits.test.labels is None
    conditional = {
        "encoder": None,
        "prior": cfg.PriorConfig("categorical", num_classes=2),
    }
    splits = load(root, **conditional)  # trains, and is validated
    model = tiny_model_config(**conditional)
    with pytest.raises(UserError, match="and the test part of the data has no labels"):
        data.check_labels(splits.test, model, "test")


def test_new_classes_in_the_test_part(root, capsys):
    """As in data of faults: training has only what is good, and there are masks."""
    fill(root / "train" / "good", 10)
    for name in ("good", "broken_large", "contamination"):
        fill(root / "test" / name, 3)
    fill(root / "ground_truth" / "broken_large", 3, "mask")
    splits = load(root)
    assert splits.test.class_names == ("good", "broken_large", "contamination")
    assert names(splits.train) == {"good": 9} and names(splits.validation) == {
        "good": 1
    }
    assert names(splits.test) == {"broken_large": 3, "contamination": 3, "good": 3}
    printed = capsys.readouterr().out
    assert "entries beside the folders of the parts are not read" in printed
    assert str(root / "ground_truth") in printed
    conditional = {"prior": cfg.PriorConfig("categorical", num_classes=1)}
    model = tiny_model_config(encoder=None, **conditional)
    message = (
        r"labels up to 2 \(class contamination\), and PriorConfig.num_classes is 1"
    )
    with pytest.raises(UserError, match=message):
        data.check_labels(splits.test, model, "test")


@pytest.mark.parametrize("folders", [("cat", "dog"), ("test", "val"), ("Dog", "tests")])
def test_classes_at_the_root(root, capsys, folders):
    """Without a training part folders are classes, whatever they are called."""
    fill_classes(root, 10, folders)
    splits = load(root)
    assert splits.train.class_names == folders and sizes(splits) == [16, 2, 2]
    said = "no folder in" in capsys.readouterr().out
    assert said == (folders == ("test", "val"))
    assert data.holds_images(root)


@pytest.mark.parametrize(
    "train, validation, test",
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Testing"),
        ("TRAIN", "VALIDATION", None),
    ],
)
def test_parts_by_other_names(root, train, validation, test):
    fill_classes(root / train, 10)
    fill_classes(root / validation, 4)
    if test:
        fill_classes(root / test, 3)
    splits = load(root)
    assert sizes(splits) == ([20, 8, 6] if test else [18, 8, 2])
    assert all(split.class_names == ("cat", "dog") for split in splits)
    (root / "valid" / "cat").mkdir(parents=True, exist_ok=True)
    if validation != "valid":
        with pytest.raises(
            UserError, match="are both the validation part; expected one"
        ):
            load(root)


def test_parts_one_level_too_deep(root, capsys):
    fill_classes(root / "archive" / "train", 5)
    assert load(root).train.class_names == ("archive",)
    assert f"use the parts in {root}/archive, name that" in capsys.readouterr().out


def test_classes_of_one_picture(root):
    """Classes are those of the whole part, and carving leaves each a picture."""
    for number in range(12):
        name = f"person{number:02d}"
        fill(root / "train" / name, 10 if number < 2 else 1, name)
    splits = load(root, fraction=0.4)
    assert set(names(splits.train)) == {f"person{number:02d}" for number in range(12)}
    assert sum(sizes(splits)) == 30
    for split in splits[1:]:
        assert set(names(split)) <= {"person00", "person01"} and split.num_images > 5
    for name in ("person00", "person01"):
        for path in sorted((root / "train" / name).iterdir())[1:]:
            path.unlink()
    with pytest.raises(UserError, match="each of its 12 classes has one picture"):
        load(root)
    fill(root / "test", 2)
    assert sizes(load(root)) == [12, 0, 2]


def test_a_broken_link(root, capsys):
    fill(root, 10)
    os.symlink("nowhere.png", root / "lost.png")
    os.symlink("nowhere", root / "lost")
    os.mkfifo(root / "pipe")
    assert sum(sizes(load(root))) == 10
    printed = capsys.readouterr().out
    assert "1 of 11 files cannot be read and are left out" in printed
    assert f"{root}/lost.png: a broken link" in printed
    assert "2 of other formats (2 broken link or special file)" in printed


def test_linked_folders(root, tmp_path, capsys):
    """Are read, but not for ever."""
    fill(tmp_path / "elsewhere" / "sub", 10)
    fill(root / "train" / "cat", 10)
    os.symlink(tmp_path / "elsewhere", root / "train" / "dog")
    os.symlink("..", root / "train" / "cat" / "up")
    assert sum(sizes(load(root))) == 20
    assert "cat/up: a link to a folder that it lies in" in capsys.readouterr().out


def test_names_that_are_not_utf_8(root, capsys):
    fill(root, 10)
    folder = os.fsencode(root)
    os.rename(folder + b"/img000.png", folder + b"/caf\xe9.png")
    for number in range(3):
        (root / f"broken\n{number}.png").write_text("no picture")
    Path(os.fsdecode(folder + b"/\xff.jpg")).write_text("no picture")
    assert sum(sizes(load(root))) == 10
    printed = capsys.readouterr().out
    printed.encode("utf-8")
    assert r"broken\n0.png: is no JPEG, PNG" in printed and r"\udcff.jpg" in printed
    fill(root / os.fsdecode(b"\xe9t\xe9"), 20)
    label = r"\udce9t\udce9"
    splits = load(root)
    assert splits.train.class_names == (label,)
    classes.write(root, splits.train.class_names)
    assert classes.read(root) == (label,)
    assert classes.label_of(os.fsdecode(b"\xe9t\xe9"), classes.read(root), 1) == 0


def test_helper_folders(root, capsys):
    """Of notebooks, macOS and network drives."""
    fill_classes(root / "train", 10)
    for folder in (".ipynb_checkpoints", "__MACOSX", "cat/@eaDir", ".hidden"):
        fill(root / "train" / folder, 3)
    (root / "train" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "train" / "dog" / "._dog000.png").write_bytes(b"\0\5\x16\7")
    (root / ".DS_Store").write_bytes(b"\0")
    splits = load(root)
    assert sum(sizes(splits)) == 20 and splits.train.class_names == ("cat", "dog")
    printed = capsys.readouterr().out
    assert "3 hidden, 4 of other programs" in printed and "1 Thumbs.db" in printed


def test_a_stray_picture(root, capsys):
    fill_classes(root / "train", 10)
    fill(root / "train", 1, "montage")
    splits = load(root)
    assert names(splits.train) and sum(sizes(splits)) == 20
    printed = capsys.readouterr().out
    assert "1 picture(s) beside the class folders" in printed
    assert str(root / "train" / "montage000.png") in printed
    fill(root / "train", 30)  # now the folders are the exception
    splits = load(root)
    assert splits.train.labels is None and sum(sizes(splits)) == 51
    assert "all are read without labels" in capsys.readouterr().out


def test_other_formats(root, capsys):
    """TIFF, BMP, and the first frame of a GIF are read; what is not is counted."""
    for suffix in ("png", "tif", "bmp", "gif", "webp", "jpg"):
        fill(root / "train" / "cat", 4, suffix, suffix)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = root / "train" / "cat" / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (pictures.decode(path, (8, 8, 3))[0, 0] == [255, 0, 0]).all()
    picture().save(root / "train" / "cat" / "thumbnail.nef", "TIFF")
    (root / "train" / "cat" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "train" / "notes.txt").write_text("BM is no bitmap")
    (root / "train" / "LICENSE").write_text("")
    assert sum(sizes(load(root))) == 25
    printed = capsys.readouterr().out
    assert "left out of" in printed and "4 of other formats" in printed
    for kind in ("1 .heic", "1 .nef", "1 .txt", "1 without a suffix"):
        assert kind in printed


def test_numbered_classes(root, tmp_path):
    """Go by their numbers; a run keeps its names, and one without them its order."""
    numbers = [str(number) for number in range(12)]
    fill_classes(root / "train", 3, numbers)
    assert load(root).train.class_names == tuple(numbers)
    run = tmp_path / "run"
    old = load(root, order=classes.order_of(run)).train
    assert old.class_names == tuple(sorted(numbers))
    classes.write(run, ["11", "gone", "3"])
    kept = load(root, order=classes.order_of(run)).train
    rest = [number for number in numbers if number not in ("11", "3")]
    assert kept.class_names == ("11", "gone", "3", *rest)
    assert names(kept) == names(load(root).train)
    assert classes.label_of("3", kept.class_names, 13) == 2
    assert classes.label_of("12", kept.class_names, 13) == 12  # no name: a number
    with pytest.raises(UserError, match="no class 'x'; expected one of 11, gone, 3, 0"):
        classes.label_of("x", kept.class_names, 13)
    (run / "classes.json").write_text("[")
    with pytest.raises(UserError, match="classes.json is damaged"):
        classes.order_of(run)


def test_names_sort_as_people_sort():
    order = ["1", "2", "02b", "10", "a2", "A10", "b", "É", "²"]
    found = classes.NATURAL.arrange(reversed(order))
    assert [found.index(name) for name in ("1", "2", "10")] == [0, 1, 3]
    assert found.index("a2") < found.index("A10") < found.index("b")


def encoded(kind, image, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def odd_files() -> dict[str, bytes]:
    """Valid pictures with metadata that cannot be read, or under a false name."""
    png, image = encoded("PNG", picture(40)), picture(40)
    head, tail = png[:33], png[33:]
    orientation = struct.pack("<HHI4s", 0x0112, 3, 1, struct.pack("<HH", 6, 0))
    mistyped = struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + orientation + mistyped
    jpeg = encoded("JPEG", image, exif=b"Exif\0\0" + exif + b"\0" * 4)
    long_text = b"comment\0\0" + zlib.compress(b"a" * (3 << 20))
    profile = b"icc\0\0" + zlib.compress(rng.bytes(1_500_000))
    return {
        "exif_mistyped_tag.jpg": jpeg,
        "without_its_last_two_bytes.jpg": jpeg[:-2],
        "without_its_last_byte.jpg": jpeg[:-1],
        "junk_exif.png": head + chunk(b"eXIf", b"\0\x08\0\x02\x01\x12") + tail,
        "long_text.png": head + chunk(b"zTXt", long_text) + tail,
        "large_profile.png": head + chunk(b"iCCP", profile) + tail,
        "bad_crc_of_a_comment.png": head + chunk(b"tEXt", b"a\0b", crc=1) + tail,
        "without_its_end.png": png[:-12],
        "bmp_named.jpg": encoded("BMP", image),
        "gif_named.png": encoded("GIF", image),
        "no_suffix": encoded("WEBP", image),
    }


def test_odd_files(root, capsys):
    """Pictures go by their content; metadata that cannot be read is ignored."""
    root.mkdir()
    made = odd_files()
    for name, content in made.items():
        (root / name).write_bytes(content)
    assert sum(sizes(load(root))) == len(made)
    assert "left out" not in capsys.readouterr().out
    jpeg = made["exif_mistyped_tag.jpg"]
    start = jpeg.index(b"\xff\xe1")
    length = int.from_bytes(jpeg[start + 2 : start + 4])
    plain = jpeg[:start] + jpeg[start + 2 + length :]
    with Image.open(io.BytesIO(plain)) as image:
        turned = np.asarray(image.rotate(-90))
    for name in ("exif_mistyped_tag.jpg", "without_its_last_two_bytes.jpg"):
        shown = pictures.decode(root / name, (40, 40, 3))
        np.testing.assert_array_equal(shown, turned)


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"progressive": True}, {"optimize": True}]
)
def test_missing_rows_are_damage(options):
    """However few: what is read is the whole picture, never one made grey below."""
    flat = np.full((64, 64, 3), 90, np.uint8)
    flat[:16] = rng.integers(0, 256, (16, 64, 3))
    whole = encoded("JPEG", Image.fromarray(flat), **options)
    expected = pictures.decode(io.BytesIO(whole), (64, 64, 3))
    read = 0
    for cut in range(1, len(whole) - 650, 3):
        try:
            found = pictures.decode(io.BytesIO(whole[:-cut]), (64, 64, 3))
        except (OSError, SyntaxError, ValueError):
            continue
        np.testing.assert_array_equal(found, expected)
        read += 1
    assert read  # without the last byte of its end marker


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_half_a_picture_is_damage(kind):
    whole = encoded(kind, picture(40))
    with pytest.raises((OSError, SyntaxError, ValueError)):
        pictures.decode(io.BytesIO(whole[: len(whole) // 2]), (8, 8, 3))


@pytest.mark.parametrize(
    "pixels, message",
    [
        (np.ones((8, 8), np.float32), "floats, whose range is not known"),
        (np.full((8, 8), 70_000, np.int32), "run from 70000 to 70000; expected 0 to"),
    ],
)
def test_pixels_of_unknown_range(pixels, message):
    whole = encoded("TIFF", Image.fromarray(pixels))
    with pytest.raises(ValueError, match=message):
        pictures.decode(io.BytesIO(whole), (8, 8, 3))


def test_a_narrow_picture():
    whole = encoded("PNG", Image.new("RGB", (3, 1), "red"))
    found = pictures.decode(io.BytesIO(whole), (64, 16, 3))
    assert (found == [255, 0, 0]).all()


def test_find_pictures(root):
    """The rules of training, for other commands."""
    fill(root / "b", 2)
    fill(root / "a", 2)
    (root / "a" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_bytes(b"")
    paths, left_out = data.find_pictures(root)
    assert paths == [f"{root}/{c}/img00{i}.png" for c in "ab" for i in range(2)]
    assert [path for path, _ in left_out.unreadable] == [f"{root}/a/cut.png"]
    assert left_out.hidden == [f"{root}/.hidden.png"]
    assert left_out.other_formats == [(f"{root}/notes.txt", ".txt")]
    first, *rest = left_out.lines()
    assert first == f"left out of {root}: 1 hidden, 1 of other formats (1 .txt)"
    assert rest[0] == "1 of 5 files cannot be read and are left out:"


def test_pictures_of_a_data_set_are_not_a_folder(tmp_path):
    """TensorFlow Datasets keeps in `downloads` what it made a data set of."""
    fill(tmp_path / "downloads" / "extracted", 5)
    config = cfg.DataConfig("tfds:cifar10", str(tmp_path))
    with pytest.raises(UserError, match="is not prepared"):
        data.load(config, tiny_model_config())


_SMALL = {
    "ModelConfig.image_shape": (8, 8, 3),
    "ModelConfig.latent_dim": 2,
    "FlowConfig.num_steps": [1],
    "FlowConfig.hidden": [4],
    "FlowConfig.factors": [],
    "EncoderConfig.planes": [4],
    "PriorConfig.hidden": 4,
    "OptimizerConfig.learning_rate": 0.1,
    "OptimizerConfig.warmup_steps": 0,
    "TrainingConfig.batch_size": 4,
    "TrainingConfig.initialization_images": 8,
    "TrainingConfig.images_every": 0,
    "ObjectiveConfig.free_nats": 0.0,
}
_CLASSES = {
    "ModelConfig.encoder": None,
    "PriorConfig.kind": "categorical",
    "PriorConfig.num_classes": 11,
}
_QUICK = {
    "num_samples": 1,
    "classifier_steps": 1,
    "generated_images": 8,
    "probe_seeds": 1,
    "temperatures": (1.0,),
}


def bound(settings: dict) -> list[str]:
    return [f"--gin_bindings={name}={value!r}" for name, value in settings.items()]


def train_words(root, model, settings) -> list[str]:
    return [
        "--gin_file=gin/folder.gin",
        f"--data_dir={root}",
        model,
        "--num_steps=3",
        *bound(settings),
    ]


def evaluate_words(model) -> list[str]:
    quick = {f"EvaluationConfig.{name}": value for name, value in _QUICK.items()}
    return ["evaluate", model, *bound(quick)]


def report_of(model_dir) -> dict:
    return json.loads((model_dir / "evaluation.json").read_text())


@pytest.mark.slow
def test_commands_with_numbered_classes(run, root, tmp_path):
    """Of three pictures each: the run keeps their names, and takes them."""
    names = [f"c{number}" for number in range(11)]
    fill_classes(root / "train", 3, names)
    model_dir = tmp_path / "run"
    model = f"--model_dir={model_dir}"

    # Without noise a sample is a function of its label.
    quick = ["--temperature=0", "--num_images=2", "--columns=2"]
    labels = ["--label=c10", "--label=10"]
    other_root, other_dir = tmp_path / "other_pictures", tmp_path / "other"
    fill_classes(other_root / "train", 4, ["c0", "c10", "c2"])
    again = train_words(other_root, f"--model_dir={other_dir}", _SMALL | _CLASSES)
    exported = tmp_path / "exported"
    result = run(
        "train",
        *train_words(root, model, _SMALL | _CLASSES),
        cwd=tmp_path,
        then=[
            ["synthesize", model, *quick, *labels],
            ["train", *again, f"--init_from={model_dir}"],
            ["export", model, f"--export_dir={exported}"],
            ["synthesize", model, "--label=c11"],
        ],
    )
    for directory in (model_dir, other_dir, exported):
        assert classes.read(directory) == tuple(names), directory
    assert f"11 classes: {', '.join(names)}" in result.stdout
    grid = np.asarray(Image.open(model_dir / "synthesis" / "samples_t0.png"))
    side = grid.shape[0]
    np.testing.assert_array_equal(grid[:, :side], grid[:, -side:])
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line == (
        f"error: there is no class 'c11'; expected one of {', '.join(names)}, or a "
        "number from 0 to 10"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["few_labelled", "one_of_a_class_in_test", "inspection"]
)
def test_a_report_of_few_images(run, root, tmp_path, case):
    if case == "inspection":
        fill(root / "train" / "good", 30)
        for name in ("good", "broken_large", "contamination"):
            fill(root / "test" / name, 6)
    else:
        fill_classes(root / "train", 15)
    if case == "one_of_a_class_in_test":
        fill(root / "test" / "cat", 5)
    model = f"--model_dir={tmp_path / 'run'}"
    pictures_too = _SMALL | {"TrainingConfig.images_every": 1}
    result = run(
        "train",
        *train_words(root, model, pictures_too),
        cwd=tmp_path,
        then=[evaluate_words(model)],
    )
    assert result.returncode == 0, result.stderr
    found = report_of(tmp_path / "run")
    if case == "inspection":
        rows = {row["class"]: row for row in found["by_class"]}
        assert rows["good"]["likelihood_auc"] is None
        assert 0 <= rows["broken_large"]["likelihood_auc"] <= 1
    else:
        assert found["probes"] is not None
        note = found["notes"].get("fidelity", "")
        assert ("3 images" in note) == (case == "few_labelled")
    projected = (tmp_path / "run" / "eval" / "projector" / "labels.tsv").read_text()
    expected = {"good"} if case == "inspection" else {"cat", "dog"}
    assert set(projected.split()) <= expected
