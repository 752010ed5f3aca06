"""Exported models: the Python API's numbers, and what a server asks of them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.tools import saved_model_cli
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from exports import build, export_tiny
from testing import random_images, tiny_model_config
from tfp_vaeflow import client
from tfp_vaeflow import config as cfg
from tfp_vaeflow.client.transports import ModelTransport
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import pictures
from tfp_vaeflow.model import build_model
from tfp_vaeflow.serving import bundle
from tfp_vaeflow.serving import pictures as graph_pictures


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and the directory of its one version."""
    directory = tmp_path_factory.mktemp("serving") / "tiny"
    return export_tiny(directory), directory / "1"


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[1]))


def graph_def(version: Path):
    text = (version / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(text).meta_graphs[0]


def test_the_graph_holds_no_training(exported):
    library = graph_def(exported[1]).graph_def.library
    functions = [
        f for f in library.function if "traced_restore" not in f.signature.name
    ]
    operations = {node.op for f in functions for node in f.node_def}
    assert "Conv2D" in operations
    operations -= {"StopGradient"}  # of a log-mean-exp; it does nothing here
    training = ("Assign", "Resource", "Grad", "Backprop", "MatrixInverse", "FusedBatch")
    assert not [op for op in operations for word in training if word in op]


def test_flow_and_weights_are_held_once(exported):
    model, version = exported
    library = graph_def(version).graph_def.library
    activations = {
        f.signature.name: sum(node.op == "Elu" for node in f.node_def)
        for f in library.function
    }
    # Two a coupling; and there are 13 couplings.
    flows = [name for name, count in activations.items() if count == 26]
    assert len(flows) == 2  # to data and to codes
    # The inverse of each matrix comes on top.
    names = tf.train.list_variables(str(version / "variables" / "variables"))
    sizes = sum(int(np.prod(shape)) for _, shape in names)
    assert sizes < 1.2 * model.parameter_counts()["total"]


def random_rows(name: str, spec: tf.TensorSpec, count: int) -> tf.Tensor:
    rng = np.random.default_rng(len(name))
    if name == "image_bytes":
        return tf.constant([png(image) for image in random_images(count, (20, 32, 3))])
    if spec.dtype == tf.uint8:
        return tf.constant(random_images(count, seed=len(name)))
    if spec.dtype == tf.int64:
        return tf.constant(rng.integers(0, 1 << 40, count))
    return tf.constant(rng.random([count, *spec.shape[1:]]), tf.float32)


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def requests_of(loaded, count: int) -> dict[str, dict[str, tf.Tensor]]:
    return {
        name: {
            key: random_rows(key, spec, count)
            for key, spec in function.structured_input_signature[1].items()
        }
        for name, function in loaded.signatures.items()
    }


def assert_same(ours, theirs):
    """Equal bytes and integers, numbers within 1e-4."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    if ours.dtype == np.float32:
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_a_row_does_not_see_its_neighbours(loaded):
    for name, rows in requests_of(loaded, 4).items():
        together = loaded.signatures[name](**rows)
        for i in range(4):
            one = {key: value[i : i + 1] for key, value in rows.items()}
            alone = loaded.signatures[name](**one)
            for key, value in alone.items():
                assert_same(value.numpy(), together[key][i : i + 1].numpy())


def test_no_rows_and_many_rows(loaded):
    for name, rows in requests_of(loaded, 2).items():
        none = {key: value[:0] for key, value in rows.items()}
        for value in loaded.signatures[name](**none).values():
            assert value.shape[0] == 0
    many = tf.repeat(requests_of(loaded, 2)["encode"]["image"], 5000, 0)
    assert loaded.signatures["encode"](image=many)["z"].shape == (10000, 4)


@pytest.mark.parametrize(
    "signature, key, value",
    [
        ("sample", "temperature", np.nan),
        ("sample", "temperature", -1.0),
        ("sample", "temperature", np.inf),
        ("interpolate", "alpha", 3e38),
        ("interpolate", "beta", np.nan),
        ("decode", "z", np.nan),
        ("decode", "z", 3e38),
        ("decode", "v", -np.inf),
    ],
)
def test_values_out_of_range(loaded, signature, key, value):
    rows = requests_of(loaded, 2)[signature]
    good = loaded.signatures[signature](**rows)
    first = np.full_like(rows[key][:1], value)
    answer = loaded.signatures[signature](
        **{**rows, key: tf.concat([first, rows[key][1:]], 0)}
    )
    np.testing.assert_array_equal(answer["is_finite"], [False, True])
    for name in set(answer) - {"is_finite"}:
        assert_same(answer[name][1].numpy(), good[name][1].numpy())
        if answer[name].dtype.is_floating:
            assert np.isfinite(answer[name]).all()


@pytest.mark.parametrize(
    "signature, change",
    [
        ("interpolate", lambda rows: {**rows, "alpha": rows["alpha"][:1]}),
        ("decode", lambda rows: {**rows, "v": rows["v"][:1]}),
        ("encode", lambda rows: {"image": rows["image"][..., :2]}),
        ("encode", lambda rows: {"image": tf.cast(rows["image"], tf.float32)}),
        (
            "encode_bytes",
            lambda rows: {"image_bytes": tf.strings.substr(rows["image_bytes"], 0, 60)},
        ),
    ],
)
def test_what_is_no_request(loaded, signature, change):
    rows = requests_of(loaded, 2)[signature]
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError)):
        loaded.signatures[signature](**change(rows))


def test_warm_up_records_replay(exported, loaded):
    path = exported[1] / "assets.extra" / "tf_serving_warmup_requests"
    seen = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        name = request.model_spec.signature_name
        inputs = {
            key: tf.constant(tf.make_ndarray(proto))
            for key, proto in request.inputs.items()
        }
        assert loaded.signatures[name](**inputs)["is_finite"].numpy().all()
        seen.add(name)
    assert seen == set(loaded.signatures)


COMPILED = """
import glob, os, sys
os.environ["XLA_FLAGS"] = "--xla_dump_to=dump"
from tfp_vaeflow import command
command.start_tensorflow(cached=False)
import numpy as np
import tensorflow as tf

found = tf.saved_model.load(sys.argv[1]).signatures
images = np.load("images.npy")
for size in (0, 1, 2, 3, 4, 5, len(images)):
    codes = found["encode"](image=tf.constant(images[:size]))
    pictures = found["decode"](z=codes["z"], v=codes["v"])["image"]
    np.testing.assert_array_equal(pictures, images[:size])
np.savez("codes", **codes)
sizes = sys.argv[2].split(",")
assert len(glob.glob("dump/*debug_options")) == 2 * len(sizes)
"""


@pytest.mark.slow
def test_compiled_by_the_server(tmp_path):
    """For few sizes, by XLA for the CPU here: the same codes, and exact."""
    flow = cfg.FlowConfig(num_steps=[0, [2], 2], hidden=[8, 8, 8], factors=[4])
    model = export_tiny(tmp_path / "tiny", jit_compile=True, flow=flow)
    images = random_images(33, model.config.image_shape)
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [sys.executable, "-c", COMPILED, tmp_path / "tiny" / "1", "1,2,4,8,32"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
    )
    z, v = model.encode(images)
    with np.load(tmp_path / "codes.npz") as codes:
        np.testing.assert_allclose(codes["z"], z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(codes["v"], v, rtol=1e-3, atol=1e-3)
    path = tmp_path / "tiny" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    signatures = tf.saved_model.load(str(tmp_path / "tiny" / "1")).signatures
    assert len(records) == len(bundle.BATCH_SIZES) * len(signatures)


def test_what_lies_beside_the_model(exported, loaded):
    directory = exported[1].parent
    models = text_format.Parse(
        (directory / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (config,) = models.model_config_list.config
    assert (config.name, config.base_path) == ("tiny", "/models/tiny")
    batching = (directory / "batching.config").read_text()
    assert "max_batch_size { value: 32 }" in batching
    text = (directory / "signatures.md").read_text()
    for name, function in loaded.signatures.items():
        assert f"## {name}" in text
        assert f"curl -d @requests/{name}.json" in text
        assert (directory / "requests" / f"{name}.json").exists()
        for key, spec in function.structured_outputs.items():
            assert f"`{key}`" in text
            assert key.endswith("_bytes") == (spec.dtype == tf.string)


def test_versions_are_counted_up(tmp_path, exported):
    finished = tmp_path / ".1.tmp"
    for number in ("1", "2", "3"):
        finished.mkdir()
        (finished / "saved_model.pb").touch()
        assert bundle.publish(finished, tmp_path) == str(tmp_path / number)
    (tmp_path / "10").mkdir()
    finished.mkdir()
    assert bundle.publish(finished, tmp_path) == str(tmp_path / "11")
    assert not finished.exists()
    # Nothing but versions and what is named beside them.
    left = {path.name for path in exported[1].parent.iterdir()}
    assert left == {
        "1",
        "models.config",
        "batching.config",
        "signatures.md",
        "typical_scores.json",
        "requests",
    }


def test_what_cannot_be_exported(tmp_path):
    model = build_model(tiny_model_config())
    with pytest.raises(UserError, match="not initialised"):
        bundle.export(model, tmp_path / "tiny")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        bundle.export(build(), tmp_path / "file")
    with pytest.raises(UserError, match="num_samples is 0"):
        bundle.export(build(), tmp_path / "tiny", num_samples=0)
    assert not list(tmp_path.glob("tiny/*"))


def test_labels_that_a_served_model_refuses():
    prior = cfg.PriorConfig("categorical", num_classes=3)
    remote = client.Client(ModelTransport(build(prior=prior, encoder=None), 1, "m"))
    images = random_images(3)
    with pytest.raises(UserError, match="labels are missing"):
        remote.encode(images)
    with pytest.raises(UserError, match="out of range in row 1;"):
        remote.encode(images, [0, 3, 1])


def test_pictures_are_read_as_from_files():
    y, x = np.mgrid[:50, :70]
    rgb = np.stack([3 * x, 5 * y, x * y], -1).astype(np.uint8)
    alpha = (3 * x % 256).astype(np.uint8)
    colour = Image.fromarray(rgb)
    files = [
        (colour, "PNG"),
        (colour, "JPEG"),
        (colour.convert("L"), "JPEG"),
        (colour.convert("CMYK"), "JPEG"),
        (colour.convert("P"), "PNG"),
        (colour.convert("1"), "PNG"),
        (Image.fromarray((900 * x).astype(np.uint16)), "PNG"),
        (Image.fromarray(np.dstack([rgb, alpha])), "PNG"),
        (colour.crop((0, 0, 9, 9)), "PNG"),
        (colour.crop((0, 0, 3, 5)), "PNG"),
    ]
    for image, kind in files:
        data = io.BytesIO()
        image.save(data, kind)
        for shape in ((8, 8, 1), (16, 16, 3), (16, 32, 3)):
            ours = np.int32(graph_pictures.read(data.getvalue(), shape))
            theirs = np.int32(pictures.decode(io.BytesIO(data.getvalue()), shape))
            assert np.abs(ours - theirs).max() <= 1, (image.mode, kind, shape)


# By programs that are not ours.


def test_the_c_api_gives_the_same(exported, loaded, tmp_path):
    version = exported[1]
    definitions = graph_def(version).signature_def
    orders, values = {}, {}
    rows_of = requests_of(loaded, 3)
    for name, rows in rows_of.items():
        definition = definitions[name]
        orders[name] = {
            "inputs": {key: info.name for key, info in definition.inputs.items()},
            "outputs": {key: info.name for key, info in definition.outputs.items()},
        }
        values |= {f"{name}/{key}": value.numpy() for key, value in rows.items()}
    (tmp_path / "orders.json").write_text(json.dumps(orders))
    np.savez(tmp_path / "values.npz", **values)
    library = Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"
    arguments = [
        library,
        version,
        tmp_path / "orders.json",
        tmp_path / "values.npz",
        tmp_path / "results.npz",
    ]
    script = Path(__file__).with_name("c_api.py")
    # Isolated: neither the project nor the current folder is on the path.
    done = subprocess.run(
        [sys.executable, "-I", script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = np.load(tmp_path / "results.npz", allow_pickle=True)
    for name, rows in rows_of.items():
        for key, value in loaded.signatures[name](**rows).items():
            assert_same(results[f"{name}/{key}"], value.numpy())


def test_saved_model_cli(exported, loaded, tmp_path, monkeypatch):
    rows = requests_of(loaded, 3)["encode"]
    np.save(tmp_path / "image.npy", rows["image"])
    arguments = [
        "saved_model_cli",
        "run",
        f"--dir={exported[1]}",
        "--tag_set=serve",
        "--signature_def=encode",
        f"--inputs=image={tmp_path / 'image.npy'}",
        f"--outdir={tmp_path}",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        saved_model_cli.main()
    assert not end.value.code
    for key, value in loaded.signatures["encode"](**rows).items():
        assert_same(np.load(tmp_path / f"{key}.npy"), value.numpy())
