"""The client with a stand-in for TensorFlow Serving, and in process: same answers."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import grpc
import hypothesis
import numpy as np
import pytest
import requests
from hypothesis import strategies as st
from PIL import ExifTags, Image
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from exports import export_tiny
from serving_double import serving
from testing import random_images
from tfp_vaeflow import client
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.data import pictures

ONE_CODE = np.zeros((1, 8, 8, 3), np.float32)
ONE_SAMPLE = {"seed": np.array([1]), "temperature": np.array([0.7], np.float32)}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model, its directory, and the server with its addresses."""
    directory = tmp_path_factory.mktemp("serving") / "tiny"
    model = export_tiny(directory)
    with serving(directory / "1") as (server, rest, grpc_address):
        yield model, directory, server, {"rest": rest, "grpc": grpc_address}


@pytest.fixture(params=["rest", "grpc", "local"], scope="module")
def remote(request, served):
    _, directory, _, addresses = served
    return client.connect(addresses.get(request.param, directory), batch_size=5)


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def test_importing_the_client_loads_no_tensorflow():
    code = (
        "import sys, tfp_vaeflow.client; "
        "sys.exit(any(m.partition('.')[0] == 'tensorflow' for m in sys.modules))"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_a_model_in_this_process_comes_without_warnings(served, caplog):
    _, directory, *_ = served
    client.connect(directory)
    assert caplog.text == ""


def test_the_client_gives_what_the_model_gives(served, remote):
    model = served[0]
    images = random_images(12)  # several requests of 5 rows
    z, v = remote.encode(images)
    expected_z, expected_v = model.encode(images)
    np.testing.assert_allclose(z, expected_z, atol=1e-4)
    np.testing.assert_allclose(v, expected_v, atol=1e-4)
    np.testing.assert_array_equal(remote.decode(z, v), images)
    samples = remote.sample(12, temperature=0.7, seed=5)
    np.testing.assert_array_equal(samples, model.sample(12, 0.7, seed=5))
    np.testing.assert_array_equal(remote.sample(3, 0.7, 5), samples[:3])
    np.testing.assert_array_equal(remote.reconstruct(images, 5), images)
    expected = model.score(images, num_samples=2, seed=5)
    scores = remote.score(images, seed=5)
    assert set(scores) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, atol=1e-4)
    for ours, theirs in zip(
        remote.switch(images[:6], images[6:]), model.switch(images[:6], images[6:])
    ):
        np.testing.assert_array_equal(ours, theirs)
    positions = images[0], images[1], [0.0, 0.5, 1.0], [0.0, 1.5]
    np.testing.assert_array_equal(
        remote.interpolate(*positions), model.interpolate(*positions)
    )
    direction = remote.direction(images[:2], images[2:])
    np.testing.assert_allclose(
        direction, model.direction(images[:2], images[2:]), atol=1e-5
    )
    moved = images[:2], direction, [0.0, 1.0]
    np.testing.assert_array_equal(remote.move(*moved), model.move(*moved))
    seen, z_again, v_again = remote.encode_bytes([png(image) for image in images[:2]])
    np.testing.assert_array_equal(seen, images[:2])
    np.testing.assert_allclose(z_again, z[:2], atol=1e-5)
    np.testing.assert_allclose(v_again, v[:2], atol=1e-5)


def test_rows_of_another_type(remote):
    """As `np.array` makes them of plain numbers."""
    images = random_images(2)
    z, v = remote.encode(images)
    rows = {"z": z.astype(np.float64), "v": v.astype(np.float64)}
    np.testing.assert_array_equal(remote.run("decode", rows)["image"], images)
    with pytest.raises(UserError, match="image is int64; expected uint8"):
        remote.run("encode", {"image": images.astype(np.int64)})


def test_what_the_client_says_about_the_model(remote):
    assert remote.image_shape == (8, 8, 3)
    assert remote.latent_dim == 4
    assert not remote.needs_labels
    assert "switch" in remote.methods


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda c: c.encode(np.zeros((2, 8, 9, 3), np.uint8)), r"shape \(2, 8, 9, 3\)"),
        (lambda c: c.encode(np.zeros((2, 8, 8, 3), np.float32)), "float32.*uint8"),
        (lambda c: c.encode(np.zeros((0, 8, 8, 3), np.uint8)), "at least one image"),
        (lambda c: c.encode_bytes([]), "empty batch"),
        (lambda c: c.encode_bytes(["text"]), "picture 0 is str"),
        (lambda c: c.sample(1, temperature=float("nan")), "temperature is nan"),
        (lambda c: c.sample(1, temperature=-1.0), "temperature is -1"),
        (lambda c: c.sample(0), "num_images is 0"),
        (lambda c: c.sample(1, seed=1 << 31), "seed is 2147483648"),
        (lambda c: c.sample(1, labels=[1]), "not class-conditional"),
        (
            lambda c: c.decode(np.full((1, 4), np.nan), np.zeros((1, 8, 8, 3))),
            "z holds",
        ),
        (lambda c: c.decode(None, np.zeros((1, 8, 8, 3))), "z is None"),
        (
            lambda c: c.decode(np.zeros((2, 4)), np.zeros((1, 8, 8, 3))),
            r"expected \(1, 4\)",
        ),
        (
            lambda c: c.interpolate(*random_images(2), [1e30, 0.5], [0.0]),
            "interpolate: .* out of range in row 0;",
        ),
        (lambda c: c.interpolate(*random_images(2), [], [0.0]), "expected two lists"),
    ],
)
def test_what_a_caller_gets_wrong(remote, call, message):
    with pytest.raises(UserError, match=message):
        call(remote)


def test_a_picture_that_cannot_be_read(remote):
    good = png(random_images(1)[0])
    jpeg = io.BytesIO()
    Image.fromarray(random_images(1, (64, 64, 3))[0]).save(jpeg, "JPEG")
    for bad in (b"", b"no picture", good[:40], jpeg.getvalue()[:300]):
        with pytest.raises(client.ServerError):
            remote.encode_bytes([good, bad])
    assert len(remote.encode_bytes([good])[0]) == 1


def test_photographs_are_turned(remote):
    """As in training: by EXIF data, of formats that the server does not know too."""
    image = Image.fromarray(random_images(1, (24, 16, 3))[0])
    shape = remote.image_shape
    for kind, turn, mode, words in (
        ("JPEG", 6, "RGB", {"quality": 95}),
        ("JPEG", 3, "CMYK", {"quality": 95}),
        ("PNG", 8, "RGB", {}),
        ("WEBP", 1, "RGB", {"lossless": True}),
        ("GIF", 1, "P", {}),
    ):
        data, exif = io.BytesIO(), Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        image.convert(mode).save(data, kind, exif=exif, **words)
        expected = pictures.decode(io.BytesIO(data.getvalue()), shape)
        (seen,), *_ = remote.encode_bytes([data.getvalue()])
        np.testing.assert_allclose(seen.astype(int), expected, atol=1)


def test_many_images(served, remote):
    """In requests that a batching server takes, whatever `batch_size` is."""
    images = np.repeat(random_images(10), 100, 0)
    z, _ = client.Client(remote._transport, batch_size=500).encode(images)
    np.testing.assert_allclose(z, served[0].encode(images)[0], atol=1e-4)


def test_overload_is_tried_again(served):
    _, _, server, addresses = served
    for address in addresses.values():
        remote = client.connect(address, retries=3)
        server.failures = [grpc.StatusCode.UNAVAILABLE] * 2
        assert len(remote.sample(1)) == 1
        assert not server.failures
        server.failures = [grpc.StatusCode.UNAVAILABLE] * 5
        with pytest.raises(client.ServerError, match="UNAVAILABLE|503"):
            remote.sample(1)
        server.failures = []
        # What is wrong stays wrong.
        server.failures = [grpc.StatusCode.INVALID_ARGUMENT] * 2
        with pytest.raises(client.ServerError, match="told to fail"):
            remote.sample(1)
        assert len(server.failures) == 1
        server.failures = []


@pytest.mark.parametrize(
    "address, error, message",
    [
        ("{directory}/nothing", UserError, "no SavedModel"),
        ("http://127.0.0.1/tiny", UserError, "no address of a model"),
        ("grpc://127.0.0.1:1", UserError, "no address of a model"),
        ("http://127.0.0.1:9/v1/models/tiny", client.ServerError, "no answer"),
        ("grpc://127.0.0.1:9/tiny", client.ServerError, "UNAVAILABLE"),
        ("{rest}x", client.ServerError, "404, Servable not found"),
        ("{rest}/versions/7", client.ServerError, "404, Servable not found"),
        ("{grpc}x", client.ServerError, "NOT_FOUND"),
        ("{grpc}/7", client.ServerError, "NOT_FOUND"),
    ],
)
def test_wrong_addresses(served, address, error, message):
    _, directory, _, addresses = served
    with pytest.raises(error, match=message):
        client.connect(address.format(directory=directory, **addresses), retries=0)


def test_a_version_can_be_named(served):
    addresses = served[3]
    for address in (f"{addresses['rest']}/versions/1", f"{addresses['grpc']}/1"):
        assert client.connect(address).latent_dim == 4


# The REST API itself, on the requests that lie beside the model.


def post(served, body) -> requests.Response:
    text = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return requests.post(f"{served[3]['rest']}:predict", data=text, timeout=60)


def example(served, signature: str) -> dict:
    return json.loads((served[1] / "requests" / f"{signature}.json").read_text())


def test_rows_and_columns_of_rest(served):
    model, directory, _, _ = served
    for path in sorted((directory / "requests").iterdir()):
        by_row = json.loads(path.read_text())
        (row,) = by_row["instances"]
        answer = post(served, by_row)
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        assert prediction["is_finite"] is True
        by_column = {
            "signature_name": path.stem,
            "inputs": {name: [value] for name, value in row.items()},
        }
        outputs = post(served, by_column).json()["outputs"]
        assert {name: value[0] for name, value in outputs.items()} == prediction
    prediction = post(served, example(served, "decode")).json()["predictions"][0]
    data = base64.b64decode(prediction["image_bytes"]["b64"])
    np.testing.assert_array_equal(Image.open(io.BytesIO(data)), prediction["image"])
    # A single input may come without its name, and the default signature likewise.
    image = random_images(1)[0].tolist()
    (prediction,) = post(served, {"instances": [image]}).json()["predictions"]
    expected = model.encode(np.array([image], np.uint8))[0][0]
    np.testing.assert_allclose(prediction["z"], expected, atol=1e-4)


def test_status_of_rest(served):
    answer = requests.get(served[3]["rest"], timeout=60).json()
    assert answer["model_version_status"][0]["state"] == "AVAILABLE"


def test_bad_values_spoil_no_neighbour(served):
    request = example(served, "sample")
    (good,) = request["instances"]
    (expected,) = post(served, request).json()["predictions"]
    bad = [
        {**good, "temperature": value} for value in (float("nan"), -1.0, 1e30, "NaN")
    ]
    answer = post(served, {**request, "instances": [bad[0], good, *bad[1:3]]}).json()
    assert [row["is_finite"] for row in answer["predictions"]] == [
        False,
        True,
        False,
        False,
    ]
    assert answer["predictions"][1] == expected
    # A value of another type is the whole request's error.
    assert post(served, {**request, "instances": [bad[3]]}).status_code == 400


def edited(value, draw):
    """A JSON value with something changed somewhere in it."""
    strange = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.just([]),
        st.just({}),
        st.builds(lambda data: {"b64": data}, st.text(max_size=8)),
    )
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.sampled_from(["inside", "drop", "rename"]))
        if kind == "inside":
            return {**value, key: edited(value[key], draw)}
        rest = {name: item for name, item in value.items() if name != key}
        return rest if kind == "drop" else {**rest, draw(st.text()): value[key]}
    if isinstance(value, list) and value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        kind = draw(st.sampled_from(["inside", "drop", "repeat"]))
        before, item, after = value[:index], value[index], value[index + 1 :]
        middle = {"inside": lambda: [edited(item, draw)], "drop": list}
        return [*before, *middle.get(kind, lambda: [item, item])(), *after]
    return draw(strange)


def test_a_server_with_another_model(served, monkeypatch):
    """Its types may be others, too."""
    *_, server, addresses = served
    definition = {"other": meta_graph_pb2.SignatureDef()}
    for info in (definition["other"].inputs["x"], definition["other"].outputs["y"]):
        info.dtype = types_pb2.DT_INT32
        info.tensor_shape.dim.add(size=3)
    monkeypatch.setattr(server, "signature_defs", definition)
    for address in addresses.values():
        with pytest.raises(UserError, match="serves no model of tfp_vaeflow"):
            client.connect(address)


def test_a_name_has_the_version(remote):
    is_local = not remote.address.startswith(("http", "grpc"))
    assert remote.name == ("" if is_local else "version 1 of ") + remote.address


@pytest.fixture(scope="module")
def good_answer(served):
    return post(served, example(served, "interpolate")).content


@hypothesis.settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(data=st.data())
def test_after_any_request_a_good_one_is_answered_as_before(served, good_answer, data):
    names = [path.stem for path in sorted((served[1] / "requests").iterdir())]
    request = example(served, data.draw(st.sampled_from(names)))
    text = json.dumps(edited(request, data.draw))
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    answer = post(served, text)
    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or answer.json()["error"]
    good = post(served, example(served, "interpolate"))
    assert good.status_code == 200
    assert good.content == good_answer


def test_grpc_answers_are_those_of_rest(served):
    _, _, _, addresses = served
    images = random_images(3)
    by_rest, by_grpc = (client.connect(address) for address in addresses.values())
    for ours, theirs in zip(by_rest.encode(images), by_grpc.encode(images)):
        np.testing.assert_array_equal(ours, theirs)


def test_tensors_of_the_wrong_kind_by_grpc(served):
    transport = client.connect(served[3]["grpc"])._transport
    rows = {"image": np.zeros((1, 8, 8, 3), np.float32)}
    with pytest.raises(client.ServerError, match="INVALID_ARGUMENT"):
        transport.predict("encode", rows)
    with pytest.raises(client.ServerError, match="INVALID_ARGUMENT"):
        transport.predict("sample", {"seed": np.array([1])})
    assert transport.predict("sample", ONE_SAMPLE)["is_finite"].all()
