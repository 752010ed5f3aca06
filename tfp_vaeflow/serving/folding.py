"""Folding: the same function with less to compute, for a model that is trained.

    weight norm                     -> its kernel
    ActNorm, 1x1 convolution        -> one affine map of the channels, and its inverse
    convolution, batch norm         -> a convolution with bias
    log-dets of all these           -> numbers
    every layer's h(z)              -> parts of one product of z

Matrices are multiplied and inverted once, in float64, and kept in float32.
"""

import itertools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.bijectors import (
    ActNorm,
    Conv1x1,
    Coupling,
    FlowBijector,
    GlowStep,
    MaCowStep,
    Sequential,
    SplitPrior,
)
from tfp_vaeflow.bijectors.masked_conv import MaskedConv
from tfp_vaeflow.convolutions import sizes
from tfp_vaeflow.encoders import GaussianEncoder, LocalEncoder
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.networks import (
    ACTIVATIONS,
    CouplingNetwork,
    GlobalLinear,
    WeightNormLinear,
    apply_kernel,
)
from tfp_vaeflow.norms import BatchNormalization

tfd = tfp.distributions


def _constant(value: np.ndarray, dtype: tf.DType) -> tf.Variable:
    """A weight that no training changes: a variable, which a SavedModel holds once."""
    return tf.Variable(tf.cast(value, dtype), trainable=False)


class FoldedLinear(tf.Module):
    """A dense layer or convolution with bias, in place of a normed one.

    Args:
      kernel: `[in, out]` or `[kh, kw, in, out]`.
      bias: `[out]`.
    """

    def __init__(self, kernel: tf.Tensor, bias: tf.Tensor):
        super().__init__()
        self.weight = _constant(kernel, kernel.dtype)
        self.bias = _constant(bias, kernel.dtype)

    def kernel(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.weight)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """x of any precision; the result has that of the weights."""
        return tf.cast(apply_kernel(x, self.weight), self.bias.dtype) + self.bias


class ChannelMap(FlowBijector):
    """An affine map of the channels, the same at every position.

        inverse:  v = x W + b              (x * w + b for a vector w)
        forward:  x = v W^-1 - b W^-1
        inverse log-det:  H W log |det W|

    Shapes: `[B, H, W, C]` or `[B, C]`; the conditioning is ignored.

    Args:
      weight: float64 W, `[C, C]`, or its diagonal w, `[C]`.
      bias: float64 b, `[C]`.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.
    """

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        event_ndims: int,
        name: str,
        dtype: tf.DType,
    ):
        super().__init__(event_ndims, name, dtype)
        if weight.ndim == 1:
            inverse, back = 1 / weight, -bias / weight
            log_det = np.sum(np.log(np.abs(weight)))
        else:
            inverse = np.linalg.inv(weight)
            back = -bias @ inverse
            log_det = np.linalg.slogdet(weight)[1]
        self._log_det = float(log_det)  # per position
        self._inverse_map = _constant(weight, dtype), _constant(bias, dtype)
        self._forward_map = _constant(inverse, dtype), _constant(back, dtype)

    @staticmethod
    def _apply(x: tf.Tensor, weight: tf.Variable, bias: tf.Variable) -> tf.Tensor:
        if weight.shape.rank == 1:
            return x * weight + bias
        flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), weight) + bias
        return tf.reshape(flat, [-1, *sizes(x), x.shape[-1]])

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._apply(v, *self._forward_map), tf.constant(-self._log_det, v.dtype)

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._apply(x, *self._inverse_map), tf.constant(self._log_det, x.dtype)


class _Part(tf.Module):
    """One of the parts of `SharedConditioning`, in place of a `GlobalLinear`."""

    def __init__(self, number: int):
        super().__init__()
        self._number = number

    def __call__(self, x: tf.Tensor, conditioning: list[tf.Tensor]) -> tf.Tensor:
        return conditioning[self._number]


class SharedConditioning(FlowBijector):
    """A flow conditioned on z by one dense layer, of which each layer gets a part.

    Shapes: as those of the flow.

    Args:
      flow: conditioned by `global_linear`; its conditioners are replaced.
    """

    def __init__(self, flow: FlowBijector):
        super().__init__(3, flow.name, flow.dtype)
        self.flow = flow
        users = [
            module
            for module in flow.submodules
            if isinstance(getattr(module, "conditioner", None), GlobalLinear)
        ]
        layers = [user.conditioner for user in users]
        for number, user in enumerate(users):
            user.conditioner = _Part(number)
        self._sizes = [layer.kernel.shape[1] for layer in layers]
        self._kernel = _constant(
            tf.concat([one.kernel for one in layers], 1), flow.dtype
        )
        self._bias = _constant(tf.concat([one.bias for one in layers], 0), flow.dtype)

    def _parts(self, z: tf.Tensor) -> list[tf.Tensor]:
        h = tf.matmul(z, self._kernel) + self._bias
        return tf.split(h[:, tf.newaxis, tf.newaxis], self._sizes, axis=-1)

    def forward_and_log_det_map(self, v, conditioning=None):
        return self.flow.forward_and_log_det_map(v, self._parts(conditioning))

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self.flow.inverse_and_log_det_map(x, self._parts(conditioning))


def set_flow(model: VAEFlowCore, flow: FlowBijector) -> None:
    """Puts another flow in the place of a model's."""
    model.flow = flow
    model.decoder = tfd.TransformedDistribution(model.decoder.distribution, flow)


def _affine(layer: ActNorm | Conv1x1) -> tuple[np.ndarray, np.ndarray]:
    """A layer's `inverse` as `x W + b`: W `[C, C]` or its diagonal, and b, float64."""
    if isinstance(layer, ActNorm):
        return np.exp(np.float64(layer.log_scale)), np.float64(layer.bias)
    matrix = layer.channel_matrix()
    return np.float64(matrix), np.zeros(len(matrix))


def _joined(layers: Sequence[ActNorm | Conv1x1]) -> ChannelMap:
    """Neighbouring layers as one, in the order in which `inverse` passes them."""
    first, *rest = layers
    weight, bias = _affine(first)
    for layer in rest:
        next_weight, next_bias = _affine(layer)
        left, right = (np.diag(w) if w.ndim == 1 else w for w in (weight, next_weight))
        weight, bias = left @ right, bias @ right + next_bias
    return ChannelMap(
        weight, bias, first.forward_min_event_ndims, first.name, first.dtype
    )


def _fold_members(chain: Sequential) -> None:
    folded = []
    groups = itertools.groupby(
        chain.members, lambda member: isinstance(member, (ActNorm, Conv1x1))
    )
    for affine, members in groups:
        folded += [_joined(list(members))] if affine else members
    chain.members = folded


def _scale_and_shift(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm with running statistics, as `x * scale + shift`."""
    gamma, beta, mean, variance = (
        np.float64(value)
        for value in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _fold_network(network: CouplingNetwork) -> None:
    network.last = _fold_weight_norm(network.last)
    for linear, norm in (("first", "norm1"), ("second", "norm2")):
        layer = getattr(getattr(network, norm), "layer", None)
        if isinstance(layer, BatchNormalization):
            kernel = getattr(network, linear).kernel
            scale, shift = (tf.cast(v, kernel.dtype) for v in _scale_and_shift(layer))
            setattr(network, linear, FoldedLinear(kernel * scale, shift))
            setattr(network, norm, None)


def _fold_weight_norm(layer: WeightNormLinear) -> FoldedLinear:
    return FoldedLinear(layer.kernel(), tf.convert_to_tensor(layer.bias))


def _normalized_convolution(norm: keras.layers.Layer) -> keras.layers.Layer | None:
    """The convolution whose output a batch norm gets, cropped or not."""
    source = norm.input._keras_history.operation
    if isinstance(source, keras.layers.Cropping2D):
        source = source.input._keras_history.operation
    convolutions = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    return source if isinstance(source, convolutions) else None


def _folded_resnet(resnet: keras.Model) -> keras.Model:
    """A ResNet whose batch norms have become part of the convolutions before them."""
    norms = {}
    for layer in resnet.layers:
        if isinstance(layer, BatchNormalization):
            convolution = _normalized_convolution(layer)
            if convolution is not None:
                norms[convolution.name] = layer
    gone = {norm.name for norm in norms.values()}

    def clone(layer):
        if layer.name in gone:
            return keras.layers.Identity(name=layer.name)
        if layer.name in norms:
            return type(layer).from_config({**layer.get_config(), "use_bias": True})
        return layer

    def call(layer, *args, **kwargs):
        # A batch norm was called with a mask, which Identity does not know.
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    folded = keras.models.clone_model(resnet, clone_function=clone, call_function=call)
    for name, norm in norms.items():
        scale, shift = _scale_and_shift(norm)
        kernel = np.float64(resnet.get_layer(name).kernel)
        if isinstance(resnet.get_layer(name), keras.layers.Conv2DTranspose):
            scale = scale[:, np.newaxis]  # the kernel is [kh, kw, out, in]
        folded.get_layer(name).set_weights([kernel * scale, shift])
    return folded


def _elu_by_float32(x: tf.Tensor) -> tf.Tensor:
    """ELU of bfloat16, faster on a CPU than TensorFlow's own."""
    # Not for training: the gradient would keep the float32 values.
    return tf.cast(tf.nn.elu(tf.cast(x, tf.float32)), x.dtype)


def narrow(model: VAEFlowCore) -> None:
    """Makes coupling networks faster in mixed precision, in place.

    Their kernels are kept in bfloat16, to which they would be rounded before each use.

    Args:
      model: folded.
    """
    on_cpu = not tf.config.list_logical_devices("GPU")
    for module in model.submodules:
        if isinstance(module, CouplingNetwork):
            if on_cpu and module.act is ACTIVATIONS["elu"]:
                module.act = _elu_by_float32
            for layer in (module.first, module.second, module.last):
                name = "weight" if isinstance(layer, FoldedLinear) else "kernel"
                narrowed = _constant(getattr(layer, name), tf.bfloat16)
                setattr(layer, name, narrowed)


def fold(model: VAEFlowCore) -> None:
    """Folds all that can be folded, in place.

    The model then computes what it did before, but can be neither trained nor saved as
    a checkpoint. Group and instance norm stay, and so does batch norm that does not
    follow a convolution.
    """
    for module in [*model.submodules]:
        if isinstance(module, (GlowStep, MaCowStep, SplitPrior, Coupling)):
            module.kind = None  # numbers of its own are in its graph
        if isinstance(module, Sequential):
            _fold_members(module)
        elif isinstance(module, SplitPrior):
            module.conv1x1 = _joined([module.conv1x1])
            module.actnorm = _joined([module.actnorm])
        elif isinstance(module, CouplingNetwork):
            _fold_network(module)
        elif isinstance(module, MaskedConv):
            module.last = _fold_weight_norm(module.last)
        elif isinstance(module, GaussianEncoder):
            module.head = _fold_weight_norm(module.head)
            module.resnet = _folded_resnet(module.resnet)
        elif isinstance(module, LocalEncoder):
            module.resnet = _folded_resnet(module.resnet)
    config = model.config
    if config.latent_dim and config.flow.conditioning == "global_linear":
        set_flow(model, SharedConditioning(model.flow))
