"""The loop around the step: stopped anywhere, it ends with the same bits."""

import collections
import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tfp_vaeflow as vf
from testing import digest, load_digits, tiny_experiment, tiny_model_config
from tfp_vaeflow import config as cfg
from tfp_vaeflow import data, training
from tfp_vaeflow.bijectors import MultiScaleFlow
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.model.checkpoints import read_description, write_description
from tfp_vaeflow.model.objective import Losses
from tfp_vaeflow.networks.norms import BatchNormalization
from tfp_vaeflow.training.devices import mirrored

ONE = ["CPU:0"]
TWO = ["CPU:0", "CPU:1"]


@pytest.fixture(scope="module")
def splits():
    return load_digits(tiny_experiment())


def train(config, splits, model_dir, devices=ONE, profile_steps=None):
    strategy = mirrored(devices)
    return training.train(config, splits, strategy, model_dir, "config", profile_steps)


@pytest.fixture(scope="module")
def batch_sizes():
    """On how many images the parts of the model were run in `whole_run`, by part."""
    return collections.defaultdict(set)


def noting_sizes(run, sizes):
    """A method that notes, whenever it runs, the size of its batch, in graphs too."""

    def note(size):
        sizes.add(int(size))
        return size

    @functools.wraps(run)  # Keras looks at the arguments
    def noting(self, x, *args, **kwargs):
        tf.numpy_function(note, [tf.shape(x)[0]], tf.int32)
        return run(self, x, *args, **kwargs)

    return noting


@pytest.fixture(scope="module")
def whole_run(splits, batch_sizes, tmp_path_factory):
    """40 steps in one go."""
    model_dir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for part, name in (
            (MultiScaleFlow, "forward_and_log_det_map"),
            (MultiScaleFlow, "inverse_and_log_det_map"),
            (BatchNormalization, "call"),  # of the encoder
        ):
            noting = noting_sizes(getattr(part, name), batch_sizes[name])
            patch.setattr(part, name, noting)
        run = train(tiny_experiment(), splits, model_dir, profile_steps=(30, 31))
    return model_dir, run


def test_nothing_beside_the_step_is_larger_than_it(whole_run, batch_sizes):
    """Initialisation, validation, pictures, histograms and projector go in batches."""
    training = tiny_experiment().training
    micro_batch = training.batch_size // training.micro_batches
    for name in ("forward_and_log_det_map", "inverse_and_log_det_map"):
        assert max(batch_sizes[name]) == micro_batch, (name, batch_sizes)
    # The step itself shows the whole batch to the encoder.
    assert max(batch_sizes["call"] - {training.batch_size}) == micro_batch, batch_sizes


def records(model_dir):
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_what_a_run_leaves(whole_run):
    model_dir, run = whole_run
    assert run.step == 40
    train = [r for r in records(model_dir) if r["split"] == "train"]
    assert [r["step"] for r in train] == [10, 20, 30, 40]
    assert all(r["gradient_norm"] > 0 and r["skipped_steps"] == 0 for r in train)
    for record in records(model_dir):
        terms = [record[f"bits_per_dim/{t}"] for t in Losses._fields]
        assert abs(sum(terms) - record["bits_per_dim/total"]) < 1e-5
    assert all(r["epoch"] == r["step"] * 48 / 1293 for r in train)
    images = {path.name for path in (model_dir / "images").iterdir()}
    pictures = {f"samples_t{t}" for t in (0.5, 0.7, 0.85, 1.0)}
    pictures |= {"reconstructions", "switches", "switch_matrix", "interpolation"}
    assert images == {f"{name}_0000040.png" for name in pictures}
    bound = {f"bits_per_dim/{t}" for t in ("total", *Losses._fields)}
    tags = {split: event_tags(model_dir / split) for split in (".", "train", "eval")}
    assert bound | {"config", "graph"} <= tags["train"]
    assert bound | {f"pictures/{name}" for name in pictures} <= tags["eval"]
    (profile,) = (model_dir / "plugins" / "profile").glob("*/*.xplane.pb")
    assert profile.stat().st_size > 1000
    assert {"log_det/level1", "log_scale/level2/coupling", "posterior/stddev"} <= tags[
        "eval"
    ]
    assert {"_hparams_/session_start_info", "custom_scalars__config__"} <= tags["."]


def event_tags(logdir):
    (events,) = logdir.glob("events*")
    tags = set()
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        tags |= {value.tag for value in event.summary.value}
        tags |= {"graph"} if event.graph_def else set()
    return tags


def checkpoint(model_dir, step=40):
    return model_dir / "checkpoints" / f"step-{step}"


def test_stopped_and_resumed(splits, whole_run, tmp_path):
    """20 steps and 20 more give the bits of 40, in every variable that is saved.

    In the middle of the first epoch, with augmentation, two micro-batches and a moving
    average; the epoch ends at step 27.
    """
    train(tiny_experiment(num_steps=20), splits, tmp_path)
    train(tiny_experiment(), splits, tmp_path)
    assert digest(checkpoint(tmp_path)) == digest(checkpoint(whole_run[0]))
    assert digest(checkpoint(tmp_path, 20)) != digest(checkpoint(tmp_path))
    kept = {"images_per_second", "peak_memory_mib"}
    for a, b in zip(records(tmp_path), records(whole_run[0]), strict=True):
        assert {k: v for k, v in a.items() if k not in kept} == {
            k: v for k, v in b.items() if k not in kept
        }


@pytest.mark.slow
def test_stopped_and_resumed_on_two_devices(splits, tmp_path):
    train(tiny_experiment(images_every=0), splits, tmp_path / "a", TWO)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for step in (30, 40):  # as if it had been killed before
        (tmp_path / "b" / "checkpoints" / f"step-{step}.index").unlink()
    train(tiny_experiment(images_every=0), splits, tmp_path / "b", TWO)
    assert digest(checkpoint(tmp_path / "a")) == digest(checkpoint(tmp_path / "b"))


def test_resuming_drops_lines_from_after_the_checkpoint(splits, whole_run, tmp_path):
    shutil.copytree(whole_run[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 45, "split": "train"}\n{"step": 4')
    train(tiny_experiment(), splits, tmp_path / "run")
    assert records(tmp_path / "run") == records(whole_run[0])


def test_load_after_a_move(splits, whole_run, tmp_path):
    """What is loaded is the average."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(whole_run[0], moved)
    images = splits.test.first(5)
    run = whole_run[1]
    for which in ("latest", "best"):
        model = vf.load(moved, which)
        assert model.config == run.model.config
        np.testing.assert_array_equal(model.decode(*model.encode(images)), images)
    for loaded, average in zip(vf.load(moved).variables, run.average.variables):
        np.testing.assert_array_equal(loaded, average)
    with pytest.raises(ValueError, match="initialised already"):
        vf.load(moved).initialize(images)


def test_last_checkpoints_and_the_best_are_kept(whole_run):
    checkpoints = whole_run[0] / "checkpoints"
    steps = sorted(path.stem for path in checkpoints.glob("*.index"))
    assert steps == ["step-20", "step-30", "step-40"]
    evaluations = [r for r in records(whole_run[0]) if r["split"] == "eval"]
    best = min(evaluations, key=lambda r: r["bits_per_dim/total"])
    (index,) = (checkpoints / "best").glob("*.index")
    assert index.stem == f"step-{best['step']}"


def fail():
    raise AssertionError("labels are read, and nothing needs them")


def test_a_damaged_checkpoint_is_passed_over(splits, whole_run, tmp_path, capsys):
    """And gone back to the one before; none that can be read is an error.

    No labels are read to train and to validate.
    """
    model_dir = tmp_path / "run"
    shutil.copytree(whole_run[0], model_dir)
    directory = model_dir / "checkpoints"
    data_file = directory / "step-40.data-00000-of-00001"
    data_file.write_bytes(data_file.read_bytes()[:2000])
    without = data.Splits(*(dataclasses.replace(s, read_labels=fail) for s in splits))
    train(tiny_experiment(images_every=0), without, model_dir)
    said = capsys.readouterr().out
    assert "step-40 cannot be read" in said and "trying the one before" in said
    assert "resumed from step 30" in said
    assert digest(checkpoint(model_dir)) == digest(checkpoint(whole_run[0]))
    for path in directory.glob("step-*.data*"):
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="step-20 cannot be read"):
        train(tiny_experiment(), splits, model_dir)


def test_beginning_with_the_weights_of_another_run(splits, whole_run, tmp_path, capsys):
    """With its average; without data-dependent initialisation."""
    source = str(whole_run[0])
    config = tiny_experiment(init_from=source, num_steps=0)
    run = train(config, splits, tmp_path / "fine")
    assert f"weights of step 40 taken from {source}" in capsys.readouterr().out
    expected = whole_run[1].average.variables
    for model in (run.model, run.average):
        for a, b in zip(model.variables, expected):
            np.testing.assert_array_equal(a, b)
    assert run.step == 0 and int(run.optimizer.iterations.numpy()) == 0
    for directory, message in (
        (tmp_path / "nothing", "is not a model directory"),
        (tmp_path / "other", "model.latent_dim is 4 there and 5 in this experiment"),
    ):
        model = dataclasses.replace(config.model, latent_dim=5)
        here = dataclasses.replace(tiny_experiment(init_from=source), model=model)
        if directory.name == "nothing":
            here = tiny_experiment(init_from=str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=message):
            train(here, splits, directory)


def test_too_many_steps_without_an_update(splits, tmp_path, capsys):
    config = tiny_experiment(log_every=1, max_skipped_steps=3, micro_batches=1)
    hot = cfg.OptimizerConfig(learning_rate=1e15, warmup_steps=0)
    config = dataclasses.replace(config, optimizer=hot)
    message = (
        r"step \d+ made no update, number 3 in a row \(TrainingConfig."
        r"max_skipped_steps = 3\): the \w+ loss is (nan|inf); the first that is not "
        r"finite is (encoder layer|layer) \w+\. a lower OptimizerConfig"
    )
    with pytest.raises(UserError, match=message):
        train(config, splits, tmp_path)
    said = capsys.readouterr().out
    for count in (1, 2, 3):
        assert f"({count} in a row, {count} in all)" in said
    last = records(tmp_path)[-1]
    assert last["skipped_steps"] == 2 and "bits_per_dim/total" not in last


def test_weights_that_are_not_finite_are_not_saved(whole_run):
    run = whole_run[1]
    assert run.weights_are_finite()
    variable = run.model.trainable_variables[0]
    value = variable.numpy()
    variable.assign(np.full_like(value, np.nan))
    assert not run.weights_are_finite()
    variable.assign(value)


def test_checkpoints_that_nothing_points_to(splits, whole_run, tmp_path, capsys):
    """As after a kill inside the first save."""
    shutil.copytree(whole_run[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "checkpoint").unlink()
    train(tiny_experiment(), splits, tmp_path / "run")
    assert "resumed from step 40" in capsys.readouterr().out
    vf.load(tmp_path / "run")


def test_another_model_in_the_directory(splits, tmp_path):
    flow = cfg.FlowConfig(num_steps=[0, [1], 1], hidden=[4, 4, 4], factors=[4])
    other = tiny_model_config(image_shape=(8, 8, 1), n_bins=17, flow=flow)
    write_description(tmp_path, other)
    assert read_description(tmp_path) == other
    with pytest.raises(UserError, match="model.flow.hidden is .* there and"):
        train(tiny_experiment(), splits, tmp_path)
