"""The ResNets of the encoders, as Keras models."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import EncoderConfig
from tfp_vaeflow.networks import ACTIVATIONS
from tfp_vaeflow.networks.initializer import Initializer
from tfp_vaeflow.networks.norms import NORM_EPSILON, BatchNormalization

# How the names of the last layers of residual blocks end.
_END = "_end"


class _SameConv2D(keras.layers.Conv2D):
    """A convolution of stride 1 that keeps the resolution."""

    def convolution_op(self, inputs, kernel):
        return compute.conv2d_same(inputs, tf.convert_to_tensor(kernel))


class _StridedConv2D(keras.layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        convolve = compute.as_fast_as_float32(super().convolution_op)
        return compute.of_any_batch(convolve(inputs, tf.convert_to_tensor(kernel)))


class _ResNetBuilder:
    """Adds residual blocks to a functional Keras model."""

    def __init__(self, config: EncoderConfig, init: Initializer):
        self._config = config
        self._init = init

    def act(self, x, name=None):
        activation = ACTIVATIONS[self._config.activation]
        return keras.layers.Activation(activation, name=name)(x)

    def end(self, y, x, name):
        """The end of a residual block."""
        return self.act(keras.layers.add([y, x]), f"{name}{_END}")

    def conv(self, x, channels, size, stride, name, use_bias=False, fan="fan_in"):
        """A convolution padded by `size // 2` on every side, also when strided."""
        layer, options = _SameConv2D, {"padding": "same"}
        if stride > 1:
            x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_padding")(x)
            layer, options = _StridedConv2D, {"strides": stride}
        kernel = self._kernel_initializer(fan)
        limit = (size * size * x.shape[-1]) ** -0.5
        bias = keras.initializers.RandomUniform(
            -limit, limit, seed=self._init.next_seed()
        )
        return layer(
            channels,
            size,
            **options,
            use_bias=use_bias,
            kernel_initializer=kernel,
            bias_initializer=bias,
            name=name,
        )(x)

    def transposed_conv(self, x, channels, stride, name):
        """A transposed 3x3 convolution: rows 1 to `stride * H` of the full one."""
        x = keras.layers.Conv2DTranspose(
            channels,
            3,
            stride,
            use_bias=False,
            # Keras counts the output channels as fan_in, as is wanted here.
            kernel_initializer=self._kernel_initializer("fan_in"),
            name=name,
        )(x)
        end = 1 if stride == 1 else 0
        return keras.layers.Cropping2D(((1, end), (1, end)), name=f"{name}_cut")(x)

    def _kernel_initializer(self, fan):
        """U(-b, b), b = 1 / sqrt(fan_in); Keras' default is different."""
        return keras.initializers.VarianceScaling(
            1 / 3, fan, "uniform", seed=self._init.next_seed()
        )

    def norm(self, x, level, name):
        if self._config.norm == "batch":
            return BatchNormalization(name=name)(x)
        groups = self._config.num_groups[level]
        return keras.layers.GroupNormalization(groups, epsilon=NORM_EPSILON, name=name)(
            x
        )

    def block(self, x, level, stride, name):
        """conv3x3-norm-act-conv3x3-norm, plus x (projected if necessary), act."""
        planes = self._config.planes[level]
        y = self.conv(x, planes, 3, stride, f"{name}_conv1")
        y = self.act(self.norm(y, level, f"{name}_norm1"))
        y = self.conv(y, planes, 3, 1, f"{name}_conv2")
        y = self.norm(y, level, f"{name}_norm2")
        if stride != 1 or x.shape[-1] != planes:
            # Slices replace the stride: oneDNN's gradient of a strided 1x1 convolution
            # writes beyond its memory (TensorFlow 2.21, 64x64, 4 channels, batch 2).
            x = x[:, ::stride, ::stride]
            x = self.conv(x, planes, 1, 1, f"{name}_projection")
            x = self.norm(x, level, f"{name}_projection_norm")
        return self.end(y, x, name)

    def transposed_block(self, x, planes, level, stride, name):
        """Like `block`, with transposed convolutions.

        The shortcut of stride 2 writes the even positions and leaves zeros between.
        """
        y = self.transposed_conv(x, planes, stride, f"{name}_conv1")
        y = self.act(self.norm(y, level, f"{name}_norm1"))
        y = self.transposed_conv(y, planes, 1, f"{name}_conv2")
        y = self.norm(y, level, f"{name}_norm2")
        if stride != 1 or x.shape[-1] != planes:
            # The fan_in of a transposed convolution counts its output channels.
            x = self.conv(x, planes, 1, 1, f"{name}_projection", fan="fan_out")
            if stride == 2:
                _, height, width, _ = x.shape
                x = keras.ops.reshape(x, (-1, height, 1, width, 1, planes))
                gap = [[0, 0], [0, 0], [0, 1], [0, 0], [0, 1], [0, 0]]
                x = keras.ops.pad(x, gap)
                x = keras.ops.reshape(x, (-1, 2 * height, 2 * width, planes))
            x = self.norm(x, level, f"{name}_projection_norm")
        return self.end(y, x, name)

    def down(self, x):
        """Two residual blocks per level, the second with stride 2."""
        for level in range(len(self._config.planes)):
            x = self.block(x, level, 1, f"level{level}_block0")
            x = self.block(x, level, 2, f"level{level}_block1")
        return x

    def up(self, x):
        """Back to the image's size, from the last level to the first."""
        widths = [self._config.out_planes, *self._config.planes]
        for level in reversed(range(len(self._config.planes))):
            name = f"up{level}"
            x = self.transposed_block(x, x.shape[-1], level, 1, f"{name}_block0")
            x = self.transposed_block(x, widths[level], level, 2, f"{name}_block1")
        return x


def build_global_resnet(
    config: EncoderConfig, image_shape: tuple[int, int, int], init: Initializer
) -> keras.Model:
    """The ResNet of the global encoder.

    Two residual blocks per level, the second with stride 2, then a 1x1 convolution, ELU
    and flatten. Paper, appendix.

    Args:
      config: its planes, norm and activation.
      image_shape: `(H, W, C)`.
      init: source of initial weights.

    Returns:
      A model `[B, H, W, C]` -> `[B, H/2^L * W/2^L * out_planes]`.
    """
    builder = _ResNetBuilder(config, init)
    inputs = keras.Input(image_shape, name="image")
    x = builder.down(inputs)
    x = builder.conv(x, config.out_planes, 1, 1, "top", use_bias=True)
    x = keras.layers.Flatten(name="flatten")(keras.layers.ELU()(x))
    return keras.Model(inputs, x, name="global_resnet")


def build_local_resnet(
    config: EncoderConfig, image_shape: tuple[int, int, int], init: Initializer
) -> keras.Model:
    """The ResNet of the local encoder: down like the global one, then up again.

    Each level on the way up has two transposed residual blocks. The second one has
    stride 2 and changes the channels to those of the next finer level, or to
    `out_planes` at the end. Paper, appendix.

    Args:
      config: its planes, norm and activation.
      image_shape: `(H, W, C)`.
      init: source of initial weights.

    Returns:
      A model `[B, H, W, C]` -> `[B, H, W, out_planes]`.
    """
    builder = _ResNetBuilder(config, init)
    inputs = keras.Input(image_shape, name="image")
    return keras.Model(inputs, builder.up(builder.down(inputs)), name="local_resnet")


def _parts(resnet: keras.Model) -> list[keras.Model]:
    """The residual blocks of a ResNet, and the layers after them."""
    ends = [layer.output for layer in resnet.layers if layer.name.endswith(_END)]
    cuts = [resnet.inputs[0], *ends]
    if ends[-1] is not resnet.outputs[0]:
        cuts.append(resnet.outputs[0])
    return [keras.Model(start, end) for start, end in itertools.pairwise(cuts)]


def run_resnet(resnet: keras.Model, x: tf.Tensor, training: bool) -> tf.Tensor:
    """The output of a ResNet on float32 images."""
    return compute.run_model(resnet, lambda: _parts(resnet), x, training)


def outputs_of(resnet: keras.Model, batches: list[tf.Tensor]) -> list[tf.Tensor]:
    """The outputs of a ResNet on batches of images, by its running statistics.

    It runs as a graph, which frees the tensors between the layers.
    """
    run = tf.function(resnet, autograph=False, reduce_retracing=True)
    return [run(batch, training=False) for batch in batches]


def _normalized_convolution(norm: keras.layers.Layer) -> keras.layers.Layer | None:
    """The convolution before a batch norm, cropped or not; None without one."""
    source = norm.input._keras_history.operation
    if isinstance(source, keras.layers.Cropping2D):
        source = source.input._keras_history.operation
    convolutions = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    return source if isinstance(source, convolutions) else None


def folded_resnet(resnet: keras.Model) -> keras.Model:
    """A ResNet whose batch norms have become part of the convolutions before them.

    A batch norm that does not follow a convolution stays.
    """
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
        # The recorded call of a batch norm has a mask, which Identity does not accept.
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    folded = keras.models.clone_model(resnet, clone_function=clone, call_function=call)
    for name, norm in norms.items():
        scale, shift = norm.scale_and_shift()
        kernel = np.float64(resnet.get_layer(name).kernel)
        if isinstance(resnet.get_layer(name), keras.layers.Conv2DTranspose):
            scale = scale[:, np.newaxis]  # the kernel is [kh, kw, out, in]
        folded.get_layer(name).set_weights([kernel * scale, shift])
    return folded
