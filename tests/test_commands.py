"""The commands as a person runs them: the demo's path at a tiny size, and mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testing import TINY
from tfp_vaeflow.command import tensorflow_start
from tfp_vaeflow.common import typical_scores
from tfp_vaeflow.common.errors import EXTRAS
from tfp_vaeflow.training.devices import locked

ROOT = Path(__file__).parents[1]


def run_alone(command: str, *arguments: object, cwd: Path):
    """Runs a command in a process of its own, as a person does."""
    return subprocess.run(
        [sys.executable, "-m", f"tfp_vaeflow.{command}", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def train_arguments(model_dir: Path, steps: int, images_every: int = 0) -> list[str]:
    return [
        "--gin_file=gin/digits.gin",
        f"--model_dir={model_dir}",
        f"--num_steps={steps}",
        *(f"--gin_bindings={binding}" for binding in TINY),
        f"--gin_bindings=TrainingConfig.images_every={images_every}",
    ]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model trained by the command, from a directory that is not the root."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    result = run_alone(
        "train", *train_arguments(directory, 10, 10), cwd=directory.parent
    )
    assert result.returncode == 0, result.stderr
    assert "step 10/10" in result.stdout and " left" in result.stdout
    assert "1293 training, 144 validation, 360 test images" in result.stdout
    return directory


def test_train_resumes_with_the_same_command(run, model_dir, tmp_path):
    copy = tmp_path / "digits"
    shutil.copytree(model_dir, copy)
    decay = "--gin_bindings=OptimizerConfig.decay=0.5"
    result = run("train", *train_arguments(copy, 12), decay, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"resumed from step 10 in {copy}" in result.stdout
    assert f"trained to step 12; everything lies in {copy}" in result.stdout
    changes = [li for li in result.stdout.splitlines() if li.startswith("changed")]
    assert changes == [
        "changed since the run was last started: OptimizerConfig.decay: 0.998 -> 0.5",
        "changed since the run was last started: TrainingConfig.num_steps: 10 -> 12",
        "changed since the run was last started: TrainingConfig.images_every: 10 -> 0",
    ]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_exits_with_42(model_dir, tmp_path, number):
    copy = tmp_path / "digits"
    shutil.copytree(model_dir, copy)
    deterministic = "--gin_bindings=TrainingConfig.deterministic=True"
    arguments = [*train_arguments(copy, 100_000), deterministic]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfp_vaeflow.train", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step 15/"):
            process.send_signal(number)
            break
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 42, errors
    step = int(re.search(r"stopped and saved at step (\d+)", rest)[1])
    assert (copy / "checkpoints" / f"step-{step}.index").exists()
    assert "Traceback" not in errors


def test_evaluate(run, model_dir, tmp_path):
    result = run("evaluate", f"--model_dir={model_dir}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in (
        "bits/dim",
        "decoded exactly",
        "360 of 360",
        "logistic regression on z",
        "mutual information",
        "KID",
        "of a flow without z (Glow)",
    ):
        assert text in result.stdout
    page = (model_dir / "evaluation.md").read_text()
    figures = re.findall(r"\]\((.*?\.png)\)", page)
    assert len(figures) == 6
    for name in figures:
        with Image.open(model_dir / name) as image:
            assert min(image.size) > 300
    events = sorted((model_dir / "eval").glob("events*"), key=os.path.getmtime)[-1]
    assert b"mutual information" in events.read_bytes()
    kept = model_dir / "evaluation" / "test-step-10"
    assert {(model_dir / name).parent for name in figures} == {kept}
    numbers = (model_dir / "evaluation.json").read_text()
    assert (kept / "evaluation.json").read_text() == numbers
    assert f"]({kept.name}" not in (page := (kept / "evaluation.md").read_text())
    for name in re.findall(r"\]\((.*?\.png)\)", page):
        assert (kept / name).exists()
    values = json.loads(numbers)
    assert values["step"] == 10 and values["split"] == "test"
    assert values["num_images"] == 360
    assert values["num_samples"] == 2 and values["exactly_decoded"] == 360
    assert set(values["terms"]) == {"generation", "kl", "dequantization"}
    assert abs(sum(values["terms"].values()) - values["bits_per_dim"]) < 1e-6
    assert set(values["probe"]) == {"z", "v", "pixels"}
    assert values["probe"]["pixels"] > 0.9
    assert values["kl_nats"] == pytest.approx(
        values["terms"]["kl"] * 64 * np.log(2), rel=1e-6
    )
    assert np.isfinite(values["shuffled_z_gap_nats"])
    words = f"--model_dir={model_dir}", "--only=bound"
    result = run("evaluate", *words, cwd=model_dir.parent)
    assert result.returncode == 0, result.stderr
    assert "measuring probes" not in result.stdout and "KID" in result.stdout
    again = json.loads((model_dir / "evaluation.json").read_text())
    assert set(again) == set(values)
    assert again["measures"] == values["measures"] and again["probe"] == values["probe"]
    others = np.zeros((40, 8, 8, 1), np.uint8)
    np.savez(model_dir.parent / "others.npz", images=others)
    words = *words, "--data_dir=others.npz"
    result = run("evaluate", *words, cwd=model_dir.parent)
    assert "left out, because they are of 360 images of digits" in result.stdout
    assert json.loads((model_dir / "evaluation.json").read_text())["probe"] is None


@pytest.mark.parametrize(
    "mode, arguments, files",
    [
        ("sample", ["--temperature=0.7", "--num_images=10"], ["samples_t0.7"]),
        ("reconstruct", ["--num_images=6"], ["reconstructions"]),
        ("interpolate", ["--grid_size=3"], ["interpolation"]),
        ("switch", ["--num_images=8", "--columns=2"], ["switches"]),
        ("switch", ["--images=a.png,b.png"], ["switches"]),
        (
            "attribute",
            ["--toward=3", "--from=7", "--strength=0", "--strength=1"],
            ["attribute"],
        ),
        pytest.param(
            "attribute",
            ["--toward=.", "--images=a.png,b.png"],
            ["attribute"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_synthesize(run, model_dir, tmp_path, mode, arguments, files):
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (20, 30), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    result = run(
        "synthesize",
        f"--model_dir={model_dir}",
        f"--mode={mode}",
        f"--output_dir={tmp_path / 'made'}",
        *arguments,
        cwd=tmp_path,
        optimized=True,
    )
    assert result.returncode == 0, result.stderr
    made = tmp_path / "made"
    assert {path.stem for path in made.glob("*.png")} == set(files)
    for name in files:
        assert f"wrote {made / name}.png" in result.stdout
        image = np.array(Image.open(made / f"{name}.png"))
        assert image.ndim == 2 and image.std() > 0  # grey, and something on it


def test_export(run, model_dir, tmp_path):
    directory = tmp_path / "serving" / "digits"
    arguments = f"--model_dir={model_dir}", f"--export_dir={directory}"
    result = run("export", *arguments, "--num_samples=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"wrote {directory / '1'} (" in result.stdout
    assert f"how to call them: {directory / 'signatures.md'}" in result.stdout
    assert (directory / "1" / "saved_model.pb").exists()
    kept = typical_scores.read(model_dir)["latest"]
    assert kept.step == 10 and kept.num_images == 144
    assert typical_scores.read(directory) == {"exported": kept}


def test_dry_run(run, tmp_path):
    arguments = train_arguments(tmp_path / "run", 10)
    result = run("train", *arguments, "--dry_run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = ("total parameters", "FLOPs per image", "memory per device", "one step")
    for text in names:
        assert text in result.stdout
    assert not list(tmp_path.iterdir())


def test_init_from(run, model_dir, tmp_path):
    """A run that begins with the weights of another."""
    copy = tmp_path / "fine"
    arguments = [*train_arguments(copy, 1), f"--init_from={model_dir}"]
    result = run("train", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"weights of step 10 taken from {model_dir}" in result.stdout
    assert "trained to step 1;" in result.stdout


def test_a_second_trainer_is_refused(run, model_dir, tmp_path):
    with locked(model_dir):
        result = run("train", *train_arguments(model_dir, 12), cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert str(model_dir) in line and "another process" in line


WITHOUT_EXTRAS = """
import runpy, sys
from tfp_vaeflow.common.errors import EXTRAS
sys.modules.update(dict.fromkeys(EXTRAS))
sys.argv = sys.argv[1:]
runpy.run_module(f"tfp_vaeflow.{sys.argv[0]}", run_name="__main__")
"""


def run_without_extras(command: str, *arguments: object, cwd: Path):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, command, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command, arguments, package, extra",
    [
        ("evaluate", [], "sklearn", "evaluate"),
        pytest.param(
            *("export", ["--export_dir=out"], "tensorflow_serving", "serve"),
            marks=pytest.mark.slow,
        ),
        ("explore", ["--server=grpc://h:1/m"], "tensorflow_serving", "serve"),
    ],
)
def test_an_extra_that_is_missing(
    model_dir, tmp_path, command, arguments, package, extra
):
    if command != "explore":
        arguments = [f"--model_dir={model_dir}", *arguments]
    result = run_without_extras(command, *arguments, cwd=tmp_path)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: the package '{package}' is not installed")
    assert line.endswith(f"pip install 'tfp_vaeflow[{extra}]'")
    assert result.returncode == 2


@pytest.mark.slow
def test_training_needs_no_extra(tmp_path):
    arguments = train_arguments(tmp_path / "run", 2, images_every=2)
    result = run_without_extras("train", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "trained to step 2" in result.stdout


def test_extras_are_as_the_package_says():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    names = {"sklearn": "scikit-learn"}
    for package, extra in EXTRAS.items():
        name = names.get(package, package.replace("_", "-"))
        listed = project["optional-dependencies"][extra]
        assert any(one.split(">")[0].startswith(name) for one in listed), package


@pytest.mark.parametrize(
    "visible, found, expected",
    [(None, [], True), ("0", [], True), ("-1", [], False), (None, ["a GPU"], False)],
)
def test_whether_a_gpu_is_missed(tmp_path, monkeypatch, visible, found, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(tensorflow_start, "_NVIDIA", tmp_path / "driver")
    assert not tensorflow_start._without_its_gpu(found)
    (tmp_path / "driver").touch()
    assert tensorflow_start._without_its_gpu(found) == expected


def test_flags_of_xla_are_added_to_those_of_the_user(tmp_path, monkeypatch):
    """Also to those of a file, which the variable may name."""
    path = tmp_path / "flags"
    path.write_text("--xla_a=1\n--xla_b=2\n")
    for given in ("--xla_a=1 --xla_b=2", str(path)):
        monkeypatch.setenv("XLA_FLAGS", given)
        tensorflow_start._set_flag("XLA_FLAGS", "xla_c", "3")
        tensorflow_start._set_flag("XLA_FLAGS", "xla_b", "4")
        assert os.environ["XLA_FLAGS"] == "--xla_a=1 --xla_b=2 --xla_c=3"
        tensorflow_start._set_flag("XLA_FLAGS", "xla_b", "4", wins=True)
        assert os.environ["XLA_FLAGS"].endswith("--xla_b=2 --xla_c=3 --xla_b=4")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "missing"))
    tensorflow_start._set_flag("XLA_FLAGS", "xla_c", "3")
    assert os.environ["XLA_FLAGS"] == str(tmp_path / "missing")


DETERMINISTIC = """
import glob, os, sys
from tfp_vaeflow.command import start_tensorflow, tensorflow_start
os.environ["XLA_FLAGS"] = f"--xla_dump_to={sys.argv[1]}"
os.environ["CUDA_VISIBLE_DEVICES"] = "99"  # is nowhere
tensorflow_start._NVIDIA = os.path.dirname(sys.argv[1])  # so there is a driver
start_tensorflow(cached=False, deterministic=True)
import tensorflow as tf
tf.function(lambda: tf.ones([3]) * 2, jit_compile=True)()
[path] = glob.glob(sys.argv[1] + "/*debug_options")
options = open(path).read()
assert "xla_gpu_deterministic_ops: true" in options
assert "xla_gpu_enable_triton_gemm: false" in options
assert "tf_xla_disable_constant_folding=true" in os.environ["TF_XLA_FLAGS"]
tensorflow_start._set_flag("XLA_FLAGS", "xla_dump_to", "another")
assert os.environ["XLA_FLAGS"].startswith(f"--xla_dump_to={sys.argv[1]} ")
assert "another" not in os.environ["XLA_FLAGS"]
try:
    tf.random.normal([3])
except RuntimeError as error:
    assert "determinism is enabled" in str(error)
else:
    sys.exit("a draw without a seed went on")
"""


def test_deterministic(tmp_path):
    """TensorFlow and XLA are told in time."""
    result = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, str(tmp_path / "dump")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "TensorFlow does not find the GPU" in result.stderr


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "score", "synthesize", "export", "explore"]
)
def test_help_comes_at_once(command, tmp_path):
    """With exit code 0 and without importing TensorFlow."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('tfp_vaeflow.{command}', run_name='__main__')\n"
        "except SystemExit as error:\n"
        "    assert error.code == 0, error.code\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"python -m tfp_vaeflow.{command}" in result.stdout
    flag = "--server" if command == "explore" else "--model_dir"
    assert flag in result.stdout


# What the user did, and the line that answers it. {run} is a trained model directory,
# {tmp} an empty one.
MISTAKES = [
    ("train --model_dir={tmp}/x", "--gin_file is missing; see --help"),
    ("train --gin_file=gin/digits.gin", "--model_dir is missing; see --help"),
    ("train --gin_fil=x --model_dir={tmp}", "Unknown command line flag 'gin_fil'"),
    ("train gin/digits.gin", "--gin_file is missing"),
    (
        "evaluate --model_dir={run} extra",
        "unexpected argument 'extra'; flags are written --name=value",
    ),
    (
        "train --gin_file=gin/nope.gin --model_dir={tmp}/x",
        "there is no experiment file gin/nope.gin; the package has gin/base.gin",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x "
        "--gin_bindings=TrainingConfig.bach_size=3",
        "doesn't have a parameter named 'bach_size'",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x "
        "--gin_bindings=FlowConfig.num_steps=[0,[1],[1],[1],1] "
        "--gin_bindings=FlowConfig.hidden=[4,4,4,4,4] "
        "--gin_bindings=FlowConfig.factors=[4,4,4]",
        "images are 8x8, but FlowConfig.num_steps halves the sides 4 times; "
        "expected sides divisible by 16",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x "
        "--gin_bindings=DataConfig.name='faces'",
        "DataConfig.name is 'faces'; expected 'digits', 'folder' or 'tfds:NAME'",
    ),
    (
        "train --gin_file=gin/cifar10.gin --model_dir={tmp}/x --data_dir={tmp}",
        "'cifar10' is not prepared in",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x "
        "--gin_bindings=ModelConfig.image_shape=(16,16,1)",
        "images of 'digits' are of shape (8, 8, 1), but ModelConfig.image_shape is "
        "(16, 16, 1)",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={run}",
        "holds another model: model.latent_dim is 4 there and 32 in this experiment",
    ),
    (
        "evaluate --model_dir={tmp}",
        "is not a model directory: there is no config.gin",
    ),
    (
        "evaluate --model_dir={run} --num_samples=0",
        "EvaluationConfig.num_samples is 0; expected at least 1",
    ),
    (
        "evaluate --model_dir={run} --other_data={tmp}/none",
        "EvaluationConfig.other_data is '{tmp}/none'",
    ),
    (
        "evaluate --model_dir={run} --feature_network={tmp}/none",
        "expected 'inception' or the path of a Keras file or a SavedModel",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x --profile_steps=20",
        "--profile_steps is 20; expected two steps, as 10,20",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x --profile_steps=9,3",
        "--profile_steps is 9,3; expected the first step, from 1 on, and then the last",
    ),
    ("evaluate --split=tset --model_dir={run}", "flag --split=tset"),
    (
        "train --gin_file=gin/digits.gin --model_dir={run}/model.json",
        "File exists",
    ),
    (
        "train --gin_file=gin/digits.gin --model_dir={tmp}/x "
        "--gin_bindings=TrainingConfig.initialization_images=1",
        "TrainingConfig.initialization_images is 1; expected at least 2",
    ),
    (
        "synthesize --model_dir={run} --gin_bindings=Nonsense.foo=1",
        "No configurable matching 'Nonsense'",
    ),
    (
        "synthesize --model_dir={tmp}",
        "is not a model directory: it has no readable model.json",
    ),
    (
        "synthesize --model_dir={run} --temperature=-1",
        "temperature is -1.0; expected at least 0",
    ),
    (
        "synthesize --model_dir={run} --mode=switch --num_images=1",
        "switch needs two originals; got 1",
    ),
    (
        "synthesize --model_dir={run} --columns=0",
        "--columns is 0; expected at least 1",
    ),
    (
        "synthesize --model_dir={run} --label=3",
        "--label is 3, but this model is not class-conditional",
    ),
    (
        "train --gin_file=gin/digits_classes.gin --model_dir={tmp}/x "
        "--gin_bindings=PriorConfig.num_classes=9",
        "the data has labels up to 9 (class 9), and PriorConfig.num_classes is 9;",
    ),
    (
        "synthesize --model_dir={damaged}",
        "cannot be read",
    ),
    ("export --model_dir={run}", "--export_dir is missing"),
    ("export --model_dir={tmp} --export_dir={tmp}/x", "is not a model directory"),
    (
        "export --model_dir={run} --export_dir={run}/model.json",
        "model.json is a file; expected a directory for the versions",
    ),
    (
        "export --model_dir={run} --export_dir={tmp}/x --num_samples=0",
        "num_samples is 0; expected at least 1",
    ),
]


@pytest.fixture(scope="module")
def damaged(model_dir, tmp_path_factory):
    """The same model with its checkpoint cut short."""
    directory = tmp_path_factory.mktemp("damaged") / "digits"
    shutil.copytree(model_dir, directory)
    for path in (directory / "checkpoints").glob("*.data*"):
        path.write_bytes(path.read_bytes()[:1000])
    return directory


@pytest.mark.parametrize("what, message", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_get_one_clear_line(run, what, message, model_dir, damaged, tmp_path):
    """And leave the model directory as it was."""
    before = (model_dir / "config.gin").read_text()
    words = what.format(run=model_dir, tmp=tmp_path, damaged=damaged).split()
    result = run(*words, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    errors = result.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: "), result.stderr
    assert message.replace("{tmp}", str(tmp_path)) in errors[0]
    assert (model_dir / "config.gin").read_text() == before


@pytest.mark.slow
def test_benchmark_maps(model_dir, tmp_path):
    """The table of the tool: areas under ROC curves."""
    tool = ROOT / "tools" / "benchmark_maps.py"
    words = f"--model_dir={model_dir}", "--num_images=20", "--size=3"
    result = subprocess.run(
        [sys.executable, tool, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    _, _, *rows = result.stdout.splitlines()
    areas = [float(cell) for row in rows for cell in row.split("|")[2:4]]
    assert len(areas) == 4 and all(0.3 < area < 1 for area in areas)
