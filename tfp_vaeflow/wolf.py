"""Reads the models of the reference implementation, without PyTorch.

`wolf` (github.com/XuezheMax/wolf) saves a model as `config.json` and `model.pt`. The
latter is a zip archive of a pickle and raw storages; it is read here with an unpickler
that admits the few names such a file needs and refuses every other, so nothing in it
can run.
"""

import collections
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfp_vaeflow.bijectors import GlowStep, SplitPrior
from tfp_vaeflow.bijectors.coupling import Coupling
from tfp_vaeflow.config import EncoderConfig, FlowConfig, ModelConfig, PriorConfig
from tfp_vaeflow.encoders import GaussianEncoder
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.networks import Linear, WeightNormLinear

# Suffixes of tensors that are no parameters: an inverse kept by hand, and a counter.
IGNORED = (".weight_inv", ".num_batches_tracked")

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def _rebuild_tensor(storage, offset, size, stride, *_):
    """What `torch._utils._rebuild_tensor_v2` stands for, as a NumPy array."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and (offset < 0 or min(stride, default=0) < 0):
        raise UserError("a tensor has a negative offset or stride")
    if 0 not in size and last >= storage.size:
        raise UserError("a tensor reaches beyond the end of its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Rebuilds dictionaries of tensors and nothing else."""

    def __init__(self, file, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self._archive = archive
        self._root = root

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(
            f"the file asks for {module}.{name}, which a file of tensors does not need"
        )

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"the file refers to an unknown {kind!r}")
        data = self._archive.read(f"{self._root}data/{key}")
        return np.frombuffer(data, dtype, count)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a reference checkpoint by name, PyTorch's layout.

    Args:
      path: `model.pt`, as the reference's `save` writes it.

    Raises:
      UserError: if the file is no such archive, or asks for anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
            root = name.removesuffix("data.pkl")
            file = io.BytesIO(archive.read(name))
            content = _Unpickler(file, archive, root).load()
        tensors = dict(content["core"])
    except (
        OSError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        IndexError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path} is not a checkpoint of the reference implementation: {error}"
        ) from error
    return tensors


def read_config(
    path: str | Path, image_shape: tuple[int, int, int], n_bins: int
) -> ModelConfig:
    """The reference's `config.json` as a `ModelConfig`.

    Args:
      path: of `config.json`.
      image_shape: `(H, W, C)`; the file does not hold it.
      n_bins: levels of a pixel; the file does not hold it either.

    Raises:
      UserError: if it describes a variant that is not supported, naming the key.
    """
    with open(path) as file:
        config = json.load(file)

    def expect(section, key, *allowed):
        value = section.get(key, allowed[0])
        if value not in allowed:
            raise UserError(
                f"{path}: {key} = {value!r} is not supported; expected one of {allowed}"
            )
        return value

    flow = config["generator"]["flow"]
    expect(flow, "type", "glow")
    expect(flow, "inverse", True)
    expect(flow, "coupling_type", "conv")
    expect(flow, "h_type", "global_linear", None)
    expect(flow, "normalize", None)
    expect(config["dequantizer"], "type", "uniform")
    latent_dim, encoder, prior = 0, None, None
    discriminator = config["discriminator"]
    if expect(discriminator, "type", "gaussian", "base") == "gaussian":
        latent_dim = discriminator["dim"]
        section = discriminator["encoder"]
        expect(section, "type", "global_resnet_bn")
        encoder = EncoderConfig(
            section["hidden_planes"], section["out_planes"], section["activation"]
        )
        section = discriminator["prior"]
        kind = expect(section, "type", "flow", "normal")
        prior = PriorConfig(kind)
        if kind == "flow":
            prior = PriorConfig(
                kind,
                section["num_steps"],
                section["hidden_features"],
                section["activation"],
                section["transform"],
                section["alpha"],
            )
    return ModelConfig(
        image_shape,
        n_bins,
        latent_dim,
        FlowConfig(
            num_steps=flow["num_steps"],
            hidden=flow["hidden_channels"],
            factors=flow["factors"],
            activation=flow["activation"],
            transform=flow["transform"],
            prior_transform=flow["prior_transform"],
            alpha=flow["alpha"],
        ),
        encoder,
        prior,
    )


# From the reference's layout to ours.


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _vector(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


def _kernel(array: np.ndarray) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out], or [out, in] -> [in, out]."""
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


Weight = tuple[str, tf.Variable, Callable[[np.ndarray], np.ndarray]]


def _linear(name: str, layer: Linear) -> Iterator[Weight]:
    yield f"{name}.weight", layer.kernel, _kernel
    if layer.bias is not None:
        yield f"{name}.bias", layer.bias, _same


def _weight_norm(
    name: str, layer: WeightNormLinear, layout: Callable = _kernel
) -> Iterator[Weight]:
    yield f"{name}.weight_v", layer.direction, layout
    yield f"{name}.weight_g", layer.gain, _vector
    yield f"{name}.bias", layer.bias, _same


def _actnorm(name: str, layer) -> Iterator[Weight]:
    yield f"{name}.log_scale", layer.log_scale, _vector
    yield f"{name}.bias", layer.bias, _vector


def _coupling(name: str, coupling: Coupling) -> Iterator[Weight]:
    network = coupling.network
    if network.last.direction.shape.rank == 2:
        first, second, last = "fc1", "fc2", "fc3.linear"
    else:
        first, second, last = "conv1", "conv2", "conv3.conv"
    yield from _linear(f"{name}.net.{first}", network.first)
    yield from _linear(f"{name}.net.{second}", network.second)
    yield from _weight_norm(f"{name}.net.{last}", network.last)
    if network.conditioner is not None:
        yield from _linear(f"{name}.h_net.net", network.conditioner)


def _step(name: str, step: GlowStep, conv1x1: str = "conv1x1") -> Iterator[Weight]:
    actnorm1, rotation, up1, down1, actnorm2, up2, down2 = step.members
    yield from _actnorm(f"{name}.actnorm", actnorm1)
    yield f"{name}.{conv1x1}.weight", rotation.weight, _kernel
    yield from _coupling(f"{name}.unit.coupling1_up", up1)
    yield from _coupling(f"{name}.unit.coupling1_dn", down1)
    yield from _actnorm(f"{name}.unit.actnorm", actnorm2)
    yield from _coupling(f"{name}.unit.coupling2_up", up2)
    yield from _coupling(f"{name}.unit.coupling2_dn", down2)


def _split_prior(name: str, layer: SplitPrior) -> Iterator[Weight]:
    yield f"{name}.conv1x1.weight", layer.conv1x1.weight, _kernel
    yield from _coupling(f"{name}.coupling", layer.coupling)
    yield from _actnorm(f"{name}.actnorm", layer.actnorm)


def _batch_norm(name: str, layer) -> Iterator[Weight]:
    yield f"{name}.weight", layer.gamma.value, _same
    yield f"{name}.bias", layer.beta.value, _same
    yield f"{name}.running_mean", layer.moving_mean.value, _same
    yield f"{name}.running_var", layer.moving_variance.value, _same


def _encoder(encoder: GaussianEncoder) -> Iterator[Weight]:
    names = {
        "conv1": "conv1",
        "norm1": "bn1",
        "conv2": "conv2",
        "norm2": "bn2",
        "projection": "downsample.0",
        "projection_norm": "downsample.1",
    }
    net = "discriminator.encoder.net"
    for layer in encoder.resnet.layers:
        if not layer.weights:
            continue
        if layer.name == "top":
            name = f"{net}.top"
        else:
            level, block, part = layer.name.split("_", 2)
            level, block = level.removeprefix("level"), block.removeprefix("block")
            name = f"{net}.resnet{level}.main.{block}.{names[part]}"
        if "norm" in layer.name:
            yield from _batch_norm(name, layer)
            continue
        yield f"{name}.weight", layer.kernel.value, _kernel
        if layer.use_bias:
            yield f"{name}.bias", layer.bias.value, _same
    _, height, width, channels = encoder.resnet.get_layer("flatten").input.shape

    def head(array):  # the reference flattens channels first
        array = array.reshape(-1, channels, height, width)
        return array.transpose(2, 3, 1, 0).reshape(-1, len(array))

    yield from _weight_norm("discriminator.fc.linear", encoder.head, head)


def weights(model: VAEFlow) -> Iterator[Weight]:
    """Every saved weight of a model: its name in the reference, our variable, and the
    function that takes the reference's array to our layout."""
    levels = model.flow.levels
    for level, blocks in enumerate(levels):
        internal = 0 < level < len(levels) - 1
        name = f"generator.flow.blocks.{level}"
        for block, (steps, split_prior) in enumerate(blocks):
            group = f"layers.{block}" if internal else "steps"
            for number, step in enumerate(steps):
                yield from _step(f"{name}.{group}.{number}", step)
            if split_prior is not None:
                yield from _split_prior(f"{name}.priors.{block}", split_prior)
    if model.encoder is not None:
        yield from _encoder(model.encoder)
        if model.config.prior.kind == "flow":
            for number, step in enumerate(model.prior.flow.members):
                name = f"discriminator.prior.flow.steps.{number}"
                yield from _step(name, step, "linear")


def assign(model: VAEFlow, tensors: dict[str, np.ndarray]) -> None:
    """Gives a model the weights of a reference checkpoint; it is initialised then.

    Raises:
      UserError: if a tensor is missing, left over, or of the wrong shape.
    """
    values = []
    left = {name for name in tensors if not name.endswith(IGNORED)}
    for name, variable, layout in weights(model):
        if name not in left:
            raise UserError(f"the checkpoint has no tensor {name}")
        value = layout(tensors[name])
        if value.shape != tuple(variable.shape):
            raise UserError(
                f"{name} is of shape {tensors[name].shape}, which does not fit the "
                f"model's {tuple(variable.shape)}"
            )
        values.append((variable, value))
        left.remove(name)
    if left:
        raise UserError(f"the model has no place for tensor {min(left)}")
    for variable, value in values:
        variable.assign(value)
    model.initialized.assign(True)
