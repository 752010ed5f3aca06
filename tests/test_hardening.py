"""What can go wrong in a long run, provoked: the line one sees, and nothing is lost."""

import dataclasses
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfp_vaeflow as vf
from surroundings import NOT_TO_BE_HAD
from testing import digest, random_images, tiny_model_config
from tfp_vaeflow import data
from tfp_vaeflow.common import files, metrics_file
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import DataConfig
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.training.step import StepCounts

# Little to trace, no pictures, a checkpoint and a line of metrics for every step.
SETTINGS = [
    "FlowConfig.num_steps=[0,1]",
    "FlowConfig.hidden=[4,4]",
    "FlowConfig.factors=[]",
    "EncoderConfig.planes=[4]",
    "EncoderConfig.out_planes=2",
    "ModelConfig.latent_dim=4",
    "PriorConfig.kind='normal'",
    "OptimizerConfig.ema_decay=0.0",
    "TrainingConfig.batch_size=8",
    "TrainingConfig.micro_batches=1",
    "TrainingConfig.log_every=1",
    "DataConfig.validation_fraction=0.0",  # so nothing is evaluated
    "TrainingConfig.images_every=0",
    "TrainingConfig.checkpoint_every=1",
    "TrainingConfig.keep_checkpoints=3",
    "TrainingConfig.initialization_images=16",
]


def arguments(model_dir, steps, *bindings):
    return [
        "--gin_file=gin/digits.gin",
        f"--model_dir={model_dir}",
        f"--num_steps={steps}",
        *(f"--gin_bindings={binding}" for binding in [*SETTINGS, *bindings]),
    ]


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A run of three steps, each saved; the last is made the best."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    result = run("train", *arguments(directory, 3), cwd=directory.parent)
    assert result.returncode == 0, result.stderr
    (directory / "checkpoints" / "best").mkdir(exist_ok=True)
    for path in (directory / "checkpoints").glob("step-3.*"):
        shutil.copy(path, directory / "checkpoints" / "best")
    return directory


@pytest.fixture
def model_dir(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def names(model_dir):
    return {path.name for path in (model_dir / "checkpoints").rglob("*")}


def digests(model_dir):
    indices = (model_dir / "checkpoints").rglob("*.index")
    return {str(p.relative_to(model_dir)): digest(p.with_suffix("")) for p in indices}


def the_line(result):
    """The one line that a command that could not go on leaves."""
    if result.returncode == NOT_TO_BE_HAD:
        pytest.skip("this system makes no mounts in namespaces")
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def size_of_a_checkpoint(model_dir):
    (path,) = (model_dir / "checkpoints").glob("step-3.data*")
    return path.stat().st_size


ADVICE = "is saved: remove the cause and start the same command again"


def test_no_room_for_a_checkpoint(run, model_dir, tmp_path):
    """What is half written is removed, and the rest is as it was."""
    before = digests(model_dir)
    result = run("train", *arguments(model_dir, 5), cwd=tmp_path, largest_file=30_000)
    assert the_line(result) == (
        f"{model_dir}/checkpoints/step-4: File too large; the run ends after step 4, "
        f"and step 3 {ADVICE}"
    )
    assert digests(model_dir) == before
    assert not any("temp" in name or "step-4" in name for name in names(model_dir))


@pytest.mark.slow
def test_a_full_disk(run, model_dir, tmp_path):
    before = digests(model_dir)
    room = size_of_a_checkpoint(model_dir)  # but there are events to write too
    result = run(
        "train",
        *arguments(model_dir, 5),
        cwd=tmp_path,
        small_disk=(str(model_dir), room),
    )
    assert the_line(result) == (
        f"{model_dir}/checkpoints/step-4: No space left on device; the run ends after "
        f"step 4, and step 3 {ADVICE}"
    )
    after = Path(f"{model_dir}-after")
    assert digests(after) == before and names(after) == names(model_dir)


@pytest.mark.parametrize(
    "largest, what, saved",
    [
        (70_000, "metrics.jsonl", 4),
        pytest.param(20_000, "train", 3, marks=pytest.mark.slow),
    ],
)
def test_no_room_for_what_is_told_of_a_run(
    run, model_dir, tmp_path, largest, what, saved
):
    """The steps so far are saved if there is room for them."""
    if what == "metrics.jsonl":
        path = model_dir / what
        filling = {"step": 0, "split": "train", "note": ""}
        filling["note"] = "x" * (largest - path.stat().st_size - 150)
        path.write_text(json.dumps(filling) + "\n" + path.read_text())
    rare = "TrainingConfig.checkpoint_every=100000"
    result = run(
        "train",
        *arguments(model_dir, 100_000, rare),
        cwd=tmp_path,
        largest_file=largest,
    )
    line = the_line(result)
    assert line.startswith(f"{model_dir}/{what}: File too large; the run ends after")
    assert line.endswith(f"and step {saved} {ADVICE}")
    assert (model_dir / "checkpoints" / f"step-{saved}.index").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "old")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            files.write_text(path, 1000 * "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert files.describe(caught.value) == f"{path}: File too large"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    "folder, message",
    [
        (".", ".lock: Read-only file system"),
        ("checkpoints", "checkpoints/owner: Read-only file system"),
    ],
)
def test_a_directory_that_cannot_be_written(run, model_dir, tmp_path, folder, message):
    """Is found before anything is trained."""
    result = run(
        "train",
        *arguments(model_dir, 5),
        cwd=tmp_path,
        read_only=str(model_dir / folder),
    )
    assert the_line(result) == f"{model_dir}/{message}"
    assert "\nstep " not in result.stdout


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks(run, model_dir, tmp_path, number):
    """A run goes on there, and says what it lacks; any other error ends it."""
    what = os.strerror(number)
    result = run("train", *arguments(model_dir, 3), cwd=tmp_path, no_locks=number)
    if number == errno.EIO:
        assert the_line(result) == f"{model_dir}/.lock: {what}"
        return
    if result.returncode == NOT_TO_BE_HAD:
        pytest.skip("this system has no filters of system calls")
    assert result.returncode == 0, result.stderr
    assert (
        f"{model_dir} is on a file system without locks ({what}): if two processes "
        "train there, only the one that began last goes on\n"
    ) in result.stdout
    assert "trained to step 3" in result.stdout


def test_a_file_in_the_place_of_the_checkpoints(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").touch()
    result = run("train", *arguments(tmp_path / "run", 5), cwd=tmp_path)
    assert the_line(result) == f"{tmp_path}/run/checkpoints: File exists"
    assert "\nstep " not in result.stdout


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


DATA, INDEX = "data-00000-of-00001", "index"


def test_the_last_two_are_damaged(run, model_dir, tmp_path):
    """Training goes on from the one before; what lay about unfinished is removed."""
    directory = model_dir / "checkpoints"
    flip(directory / f"step-3.{DATA}", 20_000)
    cut(directory / f"step-2.{INDEX}", 5000)
    (directory / "step-9_temp").mkdir()
    (directory / "step-9_temp" / "part").touch()
    (directory / f"step-9.{DATA}").touch()
    (directory / "checkpoint.tmp0123").touch()
    before = digest(directory / "step-1")
    result = run("train", *arguments(model_dir, 2), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for step in (3, 2):
        start = f"checkpoint {directory}/step-{step} cannot be read: "
        (line,) = (x for x in result.stdout.splitlines() if x.startswith(start))
        assert line.endswith("; trying the one before")
    assert f"resumed from step 1 in {model_dir}" in result.stdout
    assert digest(directory / "step-1") == before
    assert "step-2.index" in names(model_dir)
    assert not any(
        name.startswith(("step-9", "checkpoint.")) for name in names(model_dir)
    )


def test_loading_goes_back_too(model_dir, capsys):
    directory = model_dir / "checkpoints"
    cut(directory / f"step-3.{DATA}", 54_000)
    model, step = checkpoints.load_with_step(model_dir)
    assert step == 2
    assert "step-3 cannot be read" in capsys.readouterr().out
    expected = tf.train.load_checkpoint(str(directory / "step-2"))
    name = "model/initialized/.ATTRIBUTES/VARIABLE_VALUE"
    assert model.initialized.numpy() == expected.get_tensor(name)


@pytest.mark.parametrize("which, count", [("latest", 3), ("best", 1)])
def test_all_are_damaged(model_dir, which, count):
    directory = checkpoints._checkpoint_dir(model_dir, which)
    paths = list(Path(directory).glob("step-*.data*"))
    assert len(paths) == count
    for path in paths:
        cut(path, 2000)
    with pytest.raises(UserError) as caught:
        vf.load(model_dir, which)
    assert re.fullmatch(
        rf"checkpoint {directory}/step-\d cannot be read: .*; there is no other to go "
        rf"back to: bring back a copy of {directory}",
        str(caught.value),
    )


def test_no_damage_goes_unnoticed(model_dir, capsys):
    """A bit or an end anywhere in the files: all is as it was, or it is noticed."""
    model, _ = checkpoints.load_with_step(model_dir)
    whole = [variable.numpy() for variable in model.variables]
    rng = random.Random(0)
    noticed = 0
    for kind in (DATA, INDEX):
        path = model_dir / "checkpoints" / f"step-3.{kind}"
        content = path.read_bytes()
        places = rng.sample(range(len(content)), 12)
        damages = [(flip, place) for place in [0, len(content) - 1, *places]]
        damages += [(cut, place) for place in [0, 1, len(content) - 1, *places[:5]]]
        for damage, place in damages:
            damage(path, place)
            step = checkpoints.load_into(model, model_dir)
            said = capsys.readouterr().out
            assert ("step-3 cannot be read" in said) == (step == 2)
            noticed += step == 2
            if step == 3:
                for variable, value in zip(model.variables, whole):
                    np.testing.assert_array_equal(variable, value)
            path.write_bytes(content)
    assert noticed > 20


def test_a_checkpoint_of_another_model(model_dir):
    """That the description does not know of: the first variable that differs."""
    config = checkpoints.read_description(model_dir)
    other = dataclasses.replace(config, latent_dim=5)
    with pytest.raises(UserError, match="model.latent_dim is 4 there and 5 in this"):
        checkpoints.check_description(model_dir, other)
    checkpoints.write_description(model_dir, other)
    message = (
        rf"{model_dir}/checkpoints/step-3 does not fit {model_dir}/model.json: "
        r"model/\S+ is of shape \[4(, \d+)*\] there and \[5(, \d+)*\] here"
    )
    with pytest.raises(UserError, match=message):
        vf.load(model_dir)
    checkpoints.write_description(model_dir, config)
    description = model_dir / "model.json"
    values = json.loads(description.read_text())
    del values["format"]  # as before there were numbers
    description.write_text(json.dumps(values))
    with pytest.raises(UserError, match="model.json is of format 0, and this version"):
        vf.load(model_dir)
    checkpoints.write_description(model_dir, config)
    keeper = checkpoints.CheckpointKeeper(
        model_dir, 3, {"model": vf.load(model_dir), "more": tf.Module(name="more")}
    )
    keeper._checkpoint.more.weight = tf.Variable(1.0)
    with pytest.raises(UserError, match="and its optimizer: more/weight is not in it"):
        keeper.restore_latest()


def test_a_failed_save_of_the_best_keeps_no_value(tmp_path, monkeypatch):
    """Else no later one would be saved that is worse than what was never saved."""
    keeper = checkpoints.CheckpointKeeper(tmp_path, 1, {"counts": StepCounts()})
    assert keeper.save_if_best(1, 3.0)
    with monkeypatch.context() as patch:

        def fail(**_):
            raise OSError("no space left")

        patch.setattr(keeper._best, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            keeper.save_if_best(2, 2.0)
    keeper.save(2)
    assert not keeper.save_if_best(3, 3.5) and keeper.save_if_best(3, 2.5)


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for index, image in enumerate(random_images(20, (8, 8, 1))):
        folder = root / ("test" if index < 4 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{index:02}.png")
    return root


def test_data_that_vanishes(run, pictures, tmp_path):
    """The run saves the steps that it made."""
    model_dir = tmp_path / "run"

    def take_away():
        for _ in range(600):
            if metrics_file.read(model_dir):
                pictures.rename(tmp_path / "away")
                return
            time.sleep(0.1)

    thread = threading.Thread(target=take_away)
    thread.start()
    rare = "TrainingConfig.checkpoint_every=100000"
    words = [*arguments(model_dir, 100_000, rare), f"--data_dir={pictures}"]
    result = run("train", *words, cwd=tmp_path)
    thread.join()
    match = re.fullmatch(
        rf"{pictures}/train/\d\d\.png cannot be read any more: No such file or "
        rf"directory; the run ends after step (\d+), and step (\d+) {ADVICE}",
        the_line(result),
    )
    assert match and match[1] == match[2]
    assert checkpoints.load_with_step(model_dir)[1] == int(match[1])


def test_an_image_that_is_damaged_later(pictures):
    """Wherever it is read: in a batch of training, of evaluation, or by itself."""
    config = DataConfig("folder", str(pictures))
    splits = data.load(config, tiny_model_config())
    for path in pictures.rglob("*.png"):
        path.write_text("no image any more")
    message = rf"{pictures}/t\w+/\d\d.png cannot be read any more: is no JPEG"
    training = data.training_batches(splits.train, config, 4, 0, 0)
    for read in (
        lambda: next(iter(training)),
        lambda: next(iter(data.evaluation_batches(splits.test, 4))),
        lambda: splits.validation.first(1),
    ):
        with pytest.raises(OSError, match=message), data.reading():
            read()
