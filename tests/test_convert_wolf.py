"""tools/convert_wolf.py, and the files of the reference that it reads."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tfp_vaeflow as vf
from test_parity import load_model, load_vectors, nhwc, path_of
from tfp_vaeflow import reference
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import experiment

ROOT = Path(__file__).parents[1]
FOLDER = "gaussian-uniform"


class Name:
    """Pickles as a reference to a global name, as PyTorch's storage types do."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Pickler(pickle._Pickler):
    """Writes tensors as PyTorch does; the storages are written by whoever uses it."""

    def __init__(self, file, storages: dict, view: tuple = ()):
        super().__init__(file, protocol=2)
        self._storages = storages
        self._view = view

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, np.ndarray):
            kind = {"float32": "FloatStorage", "int64": "LongStorage"}[obj.dtype.name]
            key = str(len(self._storages))
            self._storages[key] = obj
            strides = tuple(step // obj.itemsize for step in obj.strides)
            self.save(Name("torch._utils", "_rebuild_tensor_v2"))
            self.write(b"(")
            pid = ("storage", Name("torch", kind), key, "cpu", obj.size, *self._view)
            super().save(pid, False)
            self.write(b"Q")  # the tuple before it names a storage
            for argument in (0, obj.shape, strides, False):
                super().save(argument)
            self.write(b"c" + b"collections\nOrderedDict\n" + b")R" + b"tR")
        else:
            super().save(obj, save_persistent_id)


def write_zip(path: Path, content: dict) -> None:
    """As PyTorch writes since 1.6."""
    storages = {}
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as file:
            Pickler(file, storages).dump(content)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_old(path: Path, content: dict) -> None:
    """As PyTorch wrote before 1.6."""
    storages = {}
    with open(path, "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        Pickler(file, storages, view=(None,)).dump(content)
        pickle.dump(list(storages), file, protocol=2)
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


def training_state(prefix: str) -> dict:
    """What the reference's training saves, around the weights of a folder."""
    tensors = reference.read_state_dict(path_of(FOLDER, "model.pt"))
    return {
        "epoch": 3,
        "model": {
            prefix + name: np.ascontiguousarray(v) for name, v in tensors.items()
        },
        "optimizer": {"state": {0: {"step": 7}}, "param_groups": [{"lr": 0.1}]},
        "best_bpd": 3.5,
    }


@pytest.mark.parametrize("write", [write_zip, write_old])
@pytest.mark.parametrize("prefix", ["core.", "core.module."])
def test_checkpoints_of_training(tmp_path, write, prefix):
    write(tmp_path / "checkpoint1000.tar", training_state(prefix))
    found = reference.read_state_dict(tmp_path / "checkpoint1000.tar")
    expected = reference.read_state_dict(path_of(FOLDER, "model.pt"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def convert(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "convert_wolf.py"), *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_conversion(tmp_path):
    """From training's checkpoint to a directory that the commands take."""
    shutil.copy(path_of(FOLDER, "config.json"), tmp_path)
    write_zip(tmp_path / "checkpoint1000.tar", training_state("core."))
    (tmp_path / "checkpoint500.tar").write_text("an older one, not looked at")
    output = tmp_path / "converted"
    done = convert(f"--source={tmp_path}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "checkpoint1000.tar" in done.stdout
    assert "*.weight_inv" in done.stdout and "*.num_batches_tracked" in done.stdout
    expected = load_model(FOLDER)
    total = expected.parameter_counts()["total"]
    assert f"{total:,}" in done.stdout
    error = done.stdout.split("random image: ")[1].split()[0]
    assert 0 <= float(error) < 1e-3

    images = nhwc(load_vectors(FOLDER)["pixels"])
    model = vf.load(output)
    for ours, theirs in zip(model.encode(images), expected.encode(images)):
        np.testing.assert_array_equal(ours, theirs)
    config = experiment.load_saved(output)
    assert config.model == model.config == expected.config


@pytest.mark.slow
def test_every_command_takes_a_converted_model(tmp_path):
    """evaluate, synthesize and further training, on pictures in a folder."""
    from PIL import Image

    pictures, output = tmp_path / "pictures", tmp_path / "converted"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    source = path_of("gaussian-variational", "config.json").parent
    assert convert(f"--source={source}", f"--output={output}").returncode == 0
    data = f"--data_dir={pictures}"

    def run(command, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", f"tfp_vaeflow.{command}", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    model = f"--model_dir={output}"
    assert "bits/dim" in run("evaluate", model, data)
    run("synthesize", model, "--mode=sample", "--num_images=4")
    run("synthesize", model, "--mode=reconstruct", "--num_images=4", data)
    small = [
        f"--gin_bindings=TrainingConfig.{field}={value}"
        for field, value in (
            ("batch_size", 4),
            ("log_every", 1),
            ("evaluation_batch_size", 4),
        )
    ]
    file = f"--gin_file={output}/config.gin"
    out = run("train", model, file, data, "--num_steps=2", *small)
    assert "resumed from step 0" in out and "trained to step 2" in out

    done = convert(f"--source={source}", f"--output={output}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "holds a model already" in line


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("dequantizer"), "has no key dequantizer"),
        (lambda c: c.update(more=1), "has an unknown key more"),
        (lambda c: c.update(generator=3), "generator is 3; expected an object"),
        (
            lambda c: c["generator"]["flow"].update(split="x"),
            "generator.flow has an unknown key split",
        ),
        (
            lambda c: c["generator"]["flow"].update(levels=2),
            r"generator.flow.levels = 2 is not supported; expected one of \[3\]",
        ),
        (
            lambda c: c["generator"]["flow"].update(h_type="local_linear"),
            "generator.flow.h_type = 'local_linear' is not supported",
        ),
        (
            lambda c: c["discriminator"]["encoder"].update(type="vit"),
            "discriminator.encoder.type = 'vit' is not supported",
        ),
        (
            lambda c: c["generator"]["flow"].update(hidden_channels="8"),
            "FlowConfig.hidden is '8'",
        ),
        (lambda c: c["discriminator"].update(in_dim=100), "do not fit"),
    ],
)
def test_configurations_that_are_refused(tmp_path, change, message):
    config = json.loads(path_of(FOLDER, "config.json").read_text())
    change(config)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as error:
        reference.read_config(path, (16, 16))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", [None, "", "no JSON", "[]"])
def test_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=str(path)):
        reference.read_config(path)


def test_the_size_of_the_images():
    path = path_of(FOLDER, "config.json")
    assert reference.read_config(path).image_shape == (16, 16, 3)
    assert reference.read_config(path, (8, 32)).image_shape == (8, 32, 3)
    plain = path_of("glow-uniform", "config.json")
    assert reference.read_config(plain).image_shape == (16, 16, 3)


def test_logits_of_classes(tmp_path):
    config = json.loads(path_of(FOLDER, "config.json").read_text())
    config["discriminator"] = {
        "type": "categorical",
        "num_events": 2,
        "dim": 8,
        "logits": [0.0, float(np.log(3))],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    prior = reference.read_config(path).prior
    np.testing.assert_allclose(prior.class_probabilities, [0.25, 0.75])
    assert prior.activation == "relu"  # the reference's default
