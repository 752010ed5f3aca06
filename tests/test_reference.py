"""The reader of PyTorch archives admits tensors and nothing else."""

import pickle
import zipfile

import numpy as np
import pytest

from test_parity import load_model, path_of
from tfp_vaeflow import reference
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.reference import archive


def write(path, content: bytes):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", content)
    return path


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_code_in_the_pickle_does_not_run(tmp_path, capsys):
    path = write(tmp_path / "model.pt", pickle.dumps({"core": Evil()}))
    with pytest.raises(UserError, match="asks for builtins.print"):
        reference.read_state_dict(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"not a zip", None, pickle.dumps([1, 2]), pickle.dumps({"other": 1})],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    if content is not None:
        if content.startswith(b"\x80"):
            write(path, content)
        else:
            path.write_bytes(content)
    with pytest.raises(UserError, match="is not a checkpoint of the reference"):
        reference.read_state_dict(path)


def test_a_tensor_beyond_its_storage_is_refused():
    storage = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="beyond the end"):
        archive._rebuild_tensor(storage, 2, (3,), (1,))
    with pytest.raises(ValueError, match="negative"):
        archive._rebuild_tensor(storage, 2, (2,), (-1,))


def test_strided_tensors():
    storage = np.arange(6, dtype=np.float32)
    transposed = archive._rebuild_tensor(storage, 0, (3, 2), (1, 3))
    np.testing.assert_array_equal(transposed, storage.reshape(2, 3).T)


@pytest.fixture(scope="module")
def model():
    return load_model("gaussian-uniform")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("discriminator.fc.linear.bias"), "no tensor discriminator"),
        (lambda t: t.update(extra=np.zeros(1)), "no place for tensor extra"),
        (
            lambda t: t.update({"discriminator.fc.linear.bias": np.zeros(3)}),
            "does not fit",
        ),
    ],
)
def test_every_tensor_must_have_its_place(model, change, message):
    tensors = reference.read_state_dict(path_of("gaussian-uniform", "model.pt"))
    change(tensors)
    with pytest.raises(UserError, match=message):
        reference.assign(model, tensors)
