"""What users give the commands: paths, and files of the wrong kind."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from test_hardening import SETTINGS
from testing import tiny_model_config
from tfp_vaeflow import command
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import TrainingConfig, experiment
from tfp_vaeflow.model import build_model, checkpoints
from tfp_vaeflow.training import Trainer

ROOT = Path(__file__).parents[1]
COMMANDS = ["train", "evaluate", "score", "synthesize", "export", "explore"]
# Flags and arguments of text that is no path.
NO_PATHS = {
    *("arguments", "data", "gin_bindings", "host", "image_size", "label", "leave_out"),
    *("only", "profile_steps", "server", "signature", "title"),
}


def test_every_flag_that_is_a_path_knows_the_home_directory():
    """All flags of all commands and tools, by what their parsers make of `~/x`."""
    code = """if True:
        import json, os, runpy, sys
        from tfp_vaeflow import command
        found = {}
        for path in sys.argv[1:]:
            before = set(command.FLAGS)
            runpy.run_path(path, run_name=path)
            for name in set(command.FLAGS) - before:
                try:
                    value = command.FLAGS[name].parser.parse("~/x")
                except ValueError:
                    value = "no text"
                found[f"{path} {name}"] = value
                delattr(command.FLAGS, name)
        print(json.dumps(found))
    """
    paths = [f"tfp_vaeflow/{name}.py" for name in COMMANDS]
    paths += [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tools").glob("*.py"))
        if "from absl import flags" in path.read_text()
    ]
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", code, *paths],
            cwd=ROOT,
            env={**os.environ, "HOME": "/home/of/somebody"},
            capture_output=True,
            check=True,
        ).stdout
    )
    assert {path.split()[0] for path in found} == set(paths)
    assert found["tfp_vaeflow/train.py gin_file"] == "/home/of/somebody/x"
    for name, value in found.items():
        if value in ("~/x", ["~/x"]):
            assert name.split()[1] in NO_PATHS, name


def test_every_argument_that_is_a_path_knows_the_home_directory():
    """Those of the tools that use argparse."""
    seen = set()
    for path in sorted((ROOT / "tools").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if getattr(getattr(call, "func", None), "attr", "") != "add_argument":
                continue
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            kind = given.get("type", "str")
            assert kind in ("str", "int", "files.expand", "files.user_path")
            if kind == "str" and not {"choices", "action"} & set(given):
                name = ast.unparse(call.args[0]).strip("\"'-")
                assert name in NO_PATHS, f"{path.name}: {name}"
            seen.add(kind)
    assert {"files.expand", "files.user_path"} <= seen


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"KERAS_BACKEND": "jax"}, 'unset KERAS_BACKEND, or set "backend": "tensorfl'),
        pytest.param(
            {"image_data_format": "channels_first"},
            'set "image_data_format": "channels_last" in {home}/keras.json',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_keras_set_up_for_something_else(tmp_path, settings, message):
    """By its variable or its file: found before the data and the model."""
    arguments = ["--gin_file=gin/digits.gin", "--model_dir=x"]
    variables = {k: v for k, v in settings.items() if k.isupper()}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    result = subprocess.run(
        [sys.executable, "-m", "tfp_vaeflow.train", *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_HOME": str(tmp_path),
            **variables,
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: Keras")
    assert message.format(home=tmp_path) in line


@pytest.mark.parametrize(
    "name, value", [("image_data_format", "channels_first"), ("floatx", "float64")]
)
def test_no_model_with_keras_set_up_for_something_else(name, value):
    """Also where Python code sets it up."""
    former = getattr(keras.config, name)()
    getattr(keras.config, f"set_{name}")(value)
    try:
        with pytest.raises(UserError, match=f"Keras' {name} is {value}"):
            build_model(tiny_model_config())
    finally:
        getattr(keras.config, f"set_{name}")(former)


def test_no_model_with_another_backend(monkeypatch):
    """One that is installed; none is here."""
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(UserError, match="Keras computes with torch"):
        build_model(tiny_model_config())


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_images_are_grey_or_rgb(channels):
    with pytest.raises(UserError, match=r"image_shape is .* 1 channel .* or 3"):
        tiny_model_config(image_shape=(8, 8, channels))


# Files of the wrong kind, and odd values.


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A folder with a model directory, `run`, and all kinds of what is none."""
    root = tmp_path_factory.mktemp("things")
    settings = experiment.load(["gin/digits.gin"], SETTINGS)
    trainer = Trainer(settings, tf.distribute.get_strategy())
    trainer.model.initialized.assign(True)
    checkpoints.CheckpointKeeper(root / "run", 1, trainer.state).save(0)
    checkpoints.write_description(root / "run", settings.model)
    experiment.save(root / "run")
    junk = np.random.default_rng(0).integers(0, 256, 999, dtype=np.uint8).tobytes()
    for name, content in {
        "empty": b"",
        "junk": junk,
        "unclosed.gin": b"include 'gin/digits.gin'\nTrainingConfig.num_steps = [3\n",
        "other/config.gin": b"Agent.x = 3\n",
        "other/model.json": b'{"layers": 3}',
        "list/model.json": b"[1, 2]",
        "binary/config.gin": junk,
        "binary/model.json": junk,
        "savedmodel/1/saved_model.pb": junk,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


NEW = "train --gin_file=gin/digits.gin --model_dir={tmp}/new "
MODEL = " --model_dir={things}/run "
KINDS = [
    (
        "train --model_dir={tmp}/new --gin_file={things}/junk",
        "{things}/junk: 'utf-8'",
    ),
    ("train --model_dir={tmp}/new --gin_file={things}/run", "no experiment file"),
    (
        "train --model_dir={tmp}/new --gin_file={things}/unclosed.gin",
        "in {things}/unclosed.gin: EOF in multi-line statement, line 3",
    ),
    (NEW + "--data_dir={things}/empty", "{things}/empty holds no pictures"),
    (NEW + "--data_dir=", "flag --data_dir=: expected a path"),
    (
        NEW + "--init_from={things}/other",
        "model.json is not the description of",
    ),
    ("synthesize --model_dir={things}/list", "list/model.json is not the description"),
    (
        "export --export_dir={tmp}/x --model_dir={things}/binary",
        "not a text in UTF-8",
    ),
    ("evaluate --model_dir={things}/binary", "config.gin: not a text in UTF-8"),
    ("evaluate --model_dir={things}/other", "No configurable matching 'Agent'"),
    ("evaluate --feature_network={things}/junk" + MODEL, "junk cannot be read"),
    ("evaluate --other_data={things}/junk" + MODEL, "expected a folder of pictures"),
    (
        "synthesize --output_dir={things}/junk --num_images=2" + MODEL,
        "junk: File exists",
    ),
    ("explore --saved_model={things}/savedmodel", "cannot be loaded"),
    ("explore --server=ftp://a/b", "or an address http://... or grpc://..."),
    ("explore --server=grpc://127.0.0.1:9/m/9999999999999999999", "no address of a"),
    ("explore --server=http://[::1/v1/models/m", "no answer that can be read"),
    ("explore --server=http://a/v1/models/m --port=99999", "port"),
]


@pytest.mark.parametrize("what, message", KINDS, ids=[kind[0] for kind in KINDS])
def test_what_is_of_the_wrong_kind_is_named_in_one_line(
    run, things, tmp_path, what, message
):
    words = what.format(things=things, tmp=tmp_path).split()
    result = run(*words, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message.format(things=things) in line


def test_numbers_that_tensorflow_cannot_count():
    with pytest.raises(UserError, match="TrainingConfig.batch_size is .* less than 2"):
        TrainingConfig(batch_size=2**31)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM\nat length")],
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr(command, "FLAGS", flags.FlagValues())
    with pytest.raises(SystemExit) as end:
        command.run_main(main, "", with_tensorflow=False)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory") and "TrainingConfig.batch" in line
