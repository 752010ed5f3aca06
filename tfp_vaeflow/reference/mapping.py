"""Where each tensor of a reference checkpoint goes, and in which layout."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tfp_vaeflow.bijectors import (
    GlowStep,
    MaCowStep,
    MaCowUnit,
    MaskedConv,
    MultiScaleFlow,
    SplitPrior,
)
from tfp_vaeflow.bijectors.coupling import Coupling
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.networks import GlobalAttention, Linear, WeightNormLinear
from tfp_vaeflow.networks.encoders import GaussianEncoder
from tfp_vaeflow.networks.norms import BatchNormalization

# Suffixes of tensors that are no parameters: an inverse kept by hand, and a counter.
IGNORED = (".weight_inv", ".num_batches_tracked")

# From the reference's layout to ours.


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _vector(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


def _kernel(array: np.ndarray) -> np.ndarray:
    """[out, in, kh, kw] -> [kh, kw, in, out], or [out, in] -> [in, out]."""
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def _pointwise(array: np.ndarray) -> np.ndarray:
    """[out, in, 1, 1] -> [in, out]."""
    return array[:, :, 0, 0].T


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
    if network.norm1 is not None:
        yield from _norm(f"{name}.net.norm1", network.norm1.layer)
        yield from _norm(f"{name}.net.norm2", network.norm2.layer)
    yield from _conditioner(f"{name}.h_net", network.conditioner)


def _conditioner(name: str, conditioner) -> Iterator[Weight]:
    if isinstance(conditioner, GlobalAttention):
        yield from _linear(f"{name}.query_proj", conditioner.query)
        yield f"{name}.key_proj.weight", conditioner.key.kernel, _pointwise
        yield f"{name}.key_proj.bias", conditioner.key.bias, _same
    elif conditioner is not None:
        yield from _linear(f"{name}.net", conditioner)


def _masked_conv(name: str, layer: MaskedConv) -> Iterator[Weight]:
    def turned(array):  # ours is the kernel of the turned image
        kernel = _kernel(array)
        if layer.transposed:
            kernel = kernel.transpose(1, 0, 2, 3)
        return kernel[::-1] if layer.reversed else kernel

    network = layer.network
    yield f"{name}.net.shift_conv.weight", network.shifted.kernel, turned
    yield from _weight_norm(f"{name}.net.conv1x1.conv", network.last)
    yield from _conditioner(f"{name}.h_net", network.conditioner)


def _macow_unit(name: str, unit: MaCowUnit) -> Iterator[Weight]:
    for role, layer in unit.layers.items():
        if isinstance(layer, MaskedConv):
            number = "ABCD".index(role.removeprefix("masked_")) + 1
            yield from _masked_conv(f"{name}.conv{number}", layer)
        else:
            yield from _actnorm(f"{name}.{role}", layer)


def _step(
    name: str, step: GlowStep | MaCowStep, conv1x1: str = "conv1x1"
) -> Iterator[Weight]:
    if isinstance(step, MaCowStep):
        actnorms, couplings = {"actnorm1": "actnorm1", "actnorm2": "actnorm2"}, name
    else:
        actnorms = {"actnorm1": "actnorm", "actnorm2": "unit.actnorm"}
        couplings = f"{name}.unit"
    for role, layer in step.layers.items():
        if role.startswith("coupling"):
            label = role.replace("down", "dn")
            yield from _coupling(f"{couplings}.{label}", layer)
        elif role.startswith("actnorm"):
            yield from _actnorm(f"{name}.{actnorms[role]}", layer)
        elif role.startswith("units"):
            yield from _macow_unit(f"{name}.{role}", layer)
        else:
            yield f"{name}.{conv1x1}.weight", layer.weight, _kernel


def _split_prior(name: str, step: SplitPrior) -> Iterator[Weight]:
    layers = step.layers
    yield f"{name}.conv1x1.weight", layers["conv1x1"].weight, _kernel
    yield from _coupling(f"{name}.coupling", layers["coupling"])
    yield from _actnorm(f"{name}.actnorm", layers["leaving"].inner)


def _norm(name: str, layer) -> Iterator[Weight]:
    """A Keras layer: batch norm, or group norm (instance norm is one, too)."""
    yield f"{name}.weight", layer.gamma.value, _same
    yield f"{name}.bias", layer.beta.value, _same
    if isinstance(layer, BatchNormalization):
        yield f"{name}.running_mean", layer.moving_mean.value, _same
        yield f"{name}.running_var", layer.moving_variance.value, _same


def _resnet(name: str, resnet) -> Iterator[Weight]:
    """Our ResNets name layers `level0_block1_conv2`, and `up0_...` on the way up."""
    for layer in resnet.layers:
        if not layer.weights:
            continue
        if layer.name == "top":
            full_name = f"{name}.top"
        else:
            level, block, part = layer.name.split("_", 2)
            up = level.startswith("up")
            conv = "deconv" if up else "conv"
            norm = "bn" if isinstance(layer, BatchNormalization) else "gn"
            part = {
                "projection": "downsample.0",
                "projection_norm": "downsample.1",
            }.get(part, part.replace("conv", conv).replace("norm", norm))
            kind = "deresnet" if up else "resnet"
            number = level.removeprefix("up" if up else "level")
            full_name = (
                f"{name}.{kind}{number}.main.{block.removeprefix('block')}.{part}"
            )
        if "norm" in layer.name:
            yield from _norm(full_name, layer)
            continue
        # Transposed kernels are [in, out, kh, kw] there and [kh, kw, out, in] here: the
        # same exchange of axes. The 1x1 kernel of a shortcut is a plain one here.
        transposed = layer.name.startswith("up") and "projection" in layer.name
        layout = _transposed_pointwise if transposed else _kernel
        yield f"{full_name}.weight", layer.kernel.value, layout
        if layer.use_bias:
            yield f"{full_name}.bias", layer.bias.value, _same


def _transposed_pointwise(array: np.ndarray) -> np.ndarray:
    """[in, out, 1, 1] -> [1, 1, in, out]."""
    return array.transpose(2, 3, 0, 1)


def _encoder(encoder: GaussianEncoder) -> Iterator[Weight]:
    yield from _resnet("discriminator.encoder.net", encoder.resnet)
    _, height, width, channels = encoder.resnet.get_layer("flatten").input.shape

    def head(array):  # the reference flattens channels first
        array = array.reshape(-1, channels, height, width)
        return array.transpose(2, 3, 1, 0).reshape(-1, len(array))

    yield from _weight_norm("discriminator.fc.linear", encoder.head, head)


def _flow(name: str, flow: MultiScaleFlow) -> Iterator[Weight]:
    for level, blocks in enumerate(flow.levels):
        internal = 0 < level < len(flow.levels) - 1
        for block, (steps, split_prior) in enumerate(blocks):
            group = f"layers.{block}" if internal else "steps"
            for number, step in enumerate(steps):
                yield from _step(f"{name}.blocks.{level}.{group}.{number}", step)
            if split_prior is not None:
                yield from _split_prior(
                    f"{name}.blocks.{level}.priors.{block}", split_prior
                )


def weights(model: VAEFlow) -> Iterator[Weight]:
    """Every saved weight of a model, with its name and layout in the reference.

    Yields (name in the reference, our variable, function from the reference's layout of
    the array to ours).
    """
    yield from _flow("generator.flow", model.flow)
    if model.encoder is not None:
        yield from _encoder(model.encoder)
        if model.config.prior.kind == "flow":
            for number, step in enumerate(model.prior.flow.members):
                name = f"discriminator.prior.flow.steps.{number}"
                yield from _step(name, step, "linear")
    elif model.prior is not None:
        yield "discriminator.embed.weight", model.prior.embedding, _same
        for number, layer in enumerate(model.prior.layers):
            yield from _linear(f"discriminator.net.{2 * number}", layer)
    if model.config.dequantizer is not None:
        yield from _resnet("dequantizer.encoder.net", model.dequantizer.encoder.resnet)
        yield from _flow("dequantizer.flow.core", model.dequantizer.flow)


def assign(model: VAEFlow, tensors: dict[str, np.ndarray]) -> list[str]:
    """Assigns the weights of a reference checkpoint to a model, and initialises it so.

    Every tensor is used once, unless it is no parameter.

    Returns:
      The names of the tensors that are no parameters (`IGNORED`).

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
    return sorted(name for name in tensors if name.endswith(IGNORED))
