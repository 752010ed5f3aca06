"""Directories that are not on this machine; `ram://`, of one process, stands in."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from exports import build
from testing import load_digits, random_images, tiny_experiment, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow import data, training
from tfp_vaeflow.common import files, metrics_file
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.evaluation import figures
from tfp_vaeflow.model import checkpoints
from tfp_vaeflow.serving import bundle
from tfp_vaeflow.training.devices import mirrored

numbers = itertools.count()


@pytest.fixture(params=["ram", "local"])
def root(request, tmp_path):
    """An empty place, there and here: both have to do the same."""
    return f"ram://place{next(numbers)}" if request.param == "ram" else str(tmp_path)


def test_files(root):
    path = f"{root}/deep/er/file.txt"
    assert not files.exists(path) and not files.is_dir(f"{root}/deep")
    assert files.list_dir(f"{root}/deep") == []
    files.write_text(path, "one\n")
    files.append_text(path, "two\n")
    assert files.read_text(path) == "one\ntwo\n"
    files.write_bytes(path, b"\x00\xff")
    assert files.read_bytes(path) == b"\x00\xff"
    files.write_text(f"{root}/deep/other.txt", "")
    assert files.exists(path) and not files.is_dir(path)
    assert files.list_dir(f"{root}/deep") == ["er", "other.txt"]
    found = files.entries(f"{root}/deep", lambda name: name.endswith(".txt"))
    assert found == [
        ("er", f"{root}/deep/er", "directory"),
        ("other.txt", f"{root}/deep/other.txt", "file"),
    ]
    assert files.read_bytes(path, 1) == b"\x00"
    assert files.identity(f"{root}/deep") != files.identity(f"{root}/deep/er")
    assert files.total_size(f"{root}/deep") == 2
    assert files.stamp(path).split()[0] == "2"
    assert files.absolute(f"{root}/deep/") == f"{root}/deep"
    files.remove(path)
    files.remove(f"{root}/deep")
    assert not files.exists(path)
    with pytest.raises(FileNotFoundError) as caught:
        files.read_text(path)
    assert path in files.describe(caught.value)


def test_a_scheme_that_nobody_knows():
    with pytest.raises(OSError, match="scheme 'nowhere' not implemented") as caught:
        files.write_text("nowhere://a/b", "")
    assert files.describe(caught.value).startswith("nowhere://a: File system scheme")


def train(steps, model_dir):
    """With little to trace, no validation and no pictures."""
    whole = tiny_experiment(
        num_steps=steps, log_every=1, checkpoint_every=1, keep_checkpoints=2
    )
    model = tiny_model_config(
        image_shape=(8, 8, 1),
        n_bins=17,
        flow=cfg.FlowConfig(num_steps=[0, 1], hidden=[4, 4], factors=[]),
        prior=cfg.PriorConfig("normal"),
    )
    config = dataclasses.replace(
        whole,
        model=model,
        data=cfg.DataConfig("digits", validation_fraction=0.0),
        training=dataclasses.replace(whole.training, images_every=0),
    )
    splits = load_digits(config)
    strategy = mirrored(["CPU:0"])
    return training.train(config, splits, strategy, model_dir, "config")


def test_a_run_and_its_continuation(capsys):
    """Every save can be read at once, and the second part goes on from the first."""
    model_dir = "ram://runs/digits"
    steps = []
    save = checkpoints.CheckpointKeeper.save

    def save_and_read(keeper, step):
        save(keeper, step)
        names = files.list_dir(f"{model_dir}/checkpoints")
        assert not any("temp" in name for name in names)
        steps.append(checkpoints.load_with_step(model_dir)[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.CheckpointKeeper, "save", save_and_read)
        train(1, model_dir)
        run = train(3, model_dir)
    assert f"resumed from step 1 in {model_dir}" in capsys.readouterr().out
    assert steps == [1, 2, 3]
    for loaded, trained in zip(vf.load(model_dir).variables, run.average.variables):
        np.testing.assert_array_equal(loaded, trained)
    kept = [n for n in files.list_dir(f"{model_dir}/checkpoints") if "index" in n]
    assert kept == ["step-2.index", "step-3.index"]
    assert [record["step"] for record in metrics_file.read(model_dir)] == [1, 2, 3]
    events = [n for n in files.list_dir(f"{model_dir}/train") if "events" in n]
    assert len(events) == 2


def test_the_process_that_began_last_goes_on(root):
    """There as here, where a lock may be missing."""
    state = {"model": tf.Module()}
    first, second = (checkpoints.CheckpointKeeper(root, 2, state) for _ in range(2))
    first.take_over()
    first.save(1)
    second.take_over()
    message = rf"another process \(\d+ on \S+\) has taken {root} over, and goes"
    with pytest.raises(UserError, match=message):
        first.save(2)
    second.save(3)
    indices = [n for n in files.list_dir(f"{root}/checkpoints") if "index" in n]
    assert indices == ["step-1.index", "step-3.index"]
    files.remove(f"{root}/checkpoints/owner")  # by a person: nobody has taken over
    second.save(4)


def test_a_damaged_checkpoint(capsys):
    keeper = checkpoints.CheckpointKeeper("ram://runs/hurt", 2, {"model": build()})
    keeper.take_over()
    keeper.save(1)
    keeper.save(2)
    path = "ram://runs/hurt/checkpoints/step-2.data-00000-of-00001"
    files.write_bytes(path, files.read_bytes(path)[:-1])
    assert keeper.restore_latest() and keeper.saved_step == 1
    assert "step-2 cannot be read" in capsys.readouterr().out


def test_a_folder_of_images(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for index, image in enumerate(random_images(24)):
        label = "cat" if index % 2 else "dog"
        figures.write_png(f"{root}/pics/train/{label}/{index:02}.png", image)
    files.write_text(f"{root}/pics/train/cat/text.png", "no image")
    config = cfg.DataConfig("digits", f"{root}/pics/", validation_fraction=0.25)
    splits = data.load(config, tiny_model_config())
    assert "1 of 25 files cannot be read and are left out" in capsys.readouterr().out
    assert [split.num_images for split in splits] == [12, 6, 6]
    batch = next(iter(data.training_batches(splits.train, config, 4, 0, 0, True)))
    assert batch.images.shape == (4, 8, 8, 3) and set(batch.labels.numpy()) <= {0, 1}
    for path in data.find_pictures(f"{root}/pics").paths:
        files.remove(path)
    with pytest.raises(OSError, match="cannot be read any more"), data.reading():
        next(iter(data.training_batches(splits.train, config, 4, 0, 0)))


def test_a_version_is_whole_when_it_can_be_seen(tmp_path, monkeypatch):
    """What makes a directory a SavedModel comes last."""
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/data", "fingerprint.pb"):
        (tmp_path / name).write_text(name)
    written = []
    write = files.write_bytes

    def note(path, data):
        written.append(path)
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", note)
    for number in ("1", "2"):
        version = bundle.publish(tmp_path, "ram://versions/tiny")
        assert version == f"ram://versions/tiny/{number}"
        assert len(written) == 3 and written[-1] == f"{version}/saved_model.pb"
        assert files.read_text(f"{version}/variables/data") == "variables/data"
        written.clear()


@pytest.mark.slow
def test_an_export():
    version = bundle.export(build(), "ram://serving/tiny/")
    assert version == "ram://serving/tiny/1"
    assert files.list_dir("ram://serving/tiny") == [
        "1",
        "batching.config",
        "models.config",
        "requests",
        "signatures.md",
        "typical_scores.json",
    ]
    assert "tf_serving_warmup_requests" in files.list_dir(f"{version}/assets.extra")
    served = tf.saved_model.load(version).signatures["sample"]
    ours = build().sample(1, seed=3, temperature=0.7).numpy()
    seeds, temperatures = tf.constant([3], tf.int64), tf.constant([0.7])
    inputs = {"seed": seeds, "temperature": temperatures}
    np.testing.assert_allclose(served(**inputs)["image"], ours, atol=1)


@pytest.mark.slow
def test_all_commands(run, tmp_path):
    """Train, train on, measure, make pictures and export, by nothing but `ram://`."""
    from test_commands import train_arguments

    model_dir = "ram://runs/digits"
    bindings = ["--gin_bindings=TrainingConfig.checkpoint_every=2"]
    model = f"--model_dir={model_dir}"
    result = run(
        "train",
        *train_arguments(model_dir, 5, 5),
        *bindings,
        "--profile_steps=2,3",
        cwd=tmp_path,
        then=[
            ["train", *train_arguments(model_dir, 7), *bindings],
            ["evaluate", model],
            ["synthesize", model, "--mode=switch", "--num_images=8"],
            ["synthesize", model, "--checkpoint=best", "--num_images=8"],
            ["export", model, "--export_dir=ram://serving/digits"],
        ],
    )
    assert result.returncode == 0, result.stderr
    for line in (
        f"profile written to {model_dir}/plugins/profile",
        f"resumed from step 5 in {model_dir}",
        "changed since the run was last started: TrainingConfig.num_steps: 5 -> 7",
        f"written to {model_dir}/evaluation.md, evaluation.json and "
        "evaluation/test-step-7/",
        f"wrote {model_dir}/synthesis/switches.png",
        f"wrote {model_dir}/synthesis/samples_t0.7.png",
        "wrote ram://serving/digits/1 (",
    ):
        assert line in result.stdout
    assert not list(tmp_path.iterdir())
