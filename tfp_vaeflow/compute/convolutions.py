"""Linear maps of channels: products, and convolutions that a device runs fast.

On a CPU, TensorFlow's convolutions, and even more their gradients, reach the speed of
its matrix products only for some shapes. Coupling networks have many channels on one
side or on both: for their shapes this module computes the same by operations that reach
it. `tools/benchmark.py` shows the gain. On a GPU it does so only where XLA compiles.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_vaeflow.compute.devices import has_gpu, multiplies_bfloat16
from tfp_vaeflow.compute.mode import mode

_BAND = 32  # rows
_WIDENED = 50  # from this ratio of channels on, a copy of all neighbours pays off
_MANY_COMPILED = 4  # the same on a GPU, whose convolutions start many small kernels


def as_fast_as_float32(
    linear: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function linear in x and in a kernel, never much slower in bfloat16.

    A processor without instructions for bfloat16 takes up to forty times as long in it.
    There the function is computed in float32 from the same rounded values; its result
    and gradients are rounded again. The kernel is cast to the precision of x.
    """

    @functools.wraps(linear)
    def run(x, kernel):
        kernel = tf.cast(kernel, x.dtype)
        if x.dtype != tf.bfloat16 or multiplies_bfloat16():
            return linear(x, kernel)
        y = linear(tf.cast(x, tf.float32), tf.cast(kernel, tf.float32))
        return tf.cast(y, tf.bfloat16)

    return run


def elu(x: tf.Tensor) -> tf.Tensor:
    """`x` where it is positive, `exp(x) - 1` elsewhere."""
    if x.dtype != tf.bfloat16 or has_gpu() or mode().compiled:
        return tf.nn.elu(x)
    return _elu_by_float32(x)


@tf.custom_gradient
def _elu_by_float32(x):
    """On a CPU, TensorFlow's own ELU in bfloat16 is slower than casts and float32."""
    y = tf.cast(tf.nn.elu(tf.cast(x, tf.float32)), x.dtype)

    def gradient(dy):  # from the result, like TensorFlow's own
        return dy * tf.where(y > 0, tf.ones_like(y), y + 1)

    return y, gradient


@as_fast_as_float32
def linear(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`x @ kernel` for a kernel `[in, out]`; a convolution for `[kh, kw, in, out]`.

    Convolutions have stride 1, an odd kernel and zero padding, so the resolution stays.
    """
    if kernel.shape.rank == 2:
        return tf.matmul(x, kernel)
    *size, inputs, outputs = kernel.shape
    if size == [1, 1]:
        return _at_every_position(x, tf.reshape(kernel, [inputs, outputs]))
    if mode().compiled:
        if _MANY_COMPILED * inputs <= outputs:
            return _widening_conv2d(x, kernel)
        if _MANY_COMPILED * outputs <= inputs:
            return _products_to_neighbours(x, kernel)
        return _conv2d(x, kernel)
    if has_gpu():
        return _conv2d(x, kernel)
    if _WIDENED * inputs <= outputs:
        return _widening_conv2d(x, kernel)
    if inputs <= outputs:
        return _conv2d(x, kernel)
    return _narrowing_conv2d(x, kernel)


def _other_side(kernel):
    """The kernel `[kh, kw, out, in]` of the convolution from outputs back to inputs."""
    return tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])


def _conv2d(x, kernel):
    return of_any_batch(tf.nn.conv2d(x, kernel, strides=1, padding="SAME"))


def conv2d_valid(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A convolution without padding, in the precision of x."""
    return of_any_batch(tf.nn.conv2d(x, tf.cast(kernel, x.dtype), 1, "VALID"))


def of_any_batch(y: tf.Tensor) -> tf.Tensor:
    """A convolution's result, with the right channels even for a batch of no images.

    On processors with AVX-512, TensorFlow gives such a batch the channels of the input.
    """
    if y.shape[0]:
        return y
    return tf.reshape(y, [-1, *sizes(y), y.shape[-1]])


def sizes(x: tf.Tensor) -> list[int | tf.Tensor]:
    """The sizes between batch and channels: numbers where the graph knows them."""
    static = x.shape[1:-1]
    # Keras' function adds an operation to the graph even for known sizes.
    return static.as_list() if static.is_fully_defined() else keras.ops.shape(x)[1:-1]


@tf.custom_gradient
def _at_every_position(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """`x @ matrix` for x `[B, H, W, in]`, as one product.

    Its gradients are computed one after the other, each on all cores; the one by x uses
    a transposed copy of the matrix. TensorFlow's own take 1.2 times the time on a CPU.
    The gradients keep x in its own shape, because an activation before may keep it too.
    """

    def gradient(dy):
        dy = _rows(dy)
        dmatrix = tf.matmul(_rows(x), dy, transpose_a=True)
        with tf.control_dependencies([dmatrix]):
            back = tf.transpose(matrix)
        dx = tf.matmul(dy, back)
        return tf.reshape(dx, [-1, *sizes(x), matrix.shape[0]]), dmatrix

    y = tf.matmul(_rows(x), matrix)
    return tf.reshape(y, [-1, *sizes(x), matrix.shape[1]]), gradient


def _rows(x):
    """`[B, H, W, C]` -> `[B H W, C]`."""
    return tf.reshape(x, [-1, x.shape[-1]])


@as_fast_as_float32
def conv2d_same(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A convolution between similar numbers of channels, on images of known height."""
    if has_gpu() or mode().compiled:
        return _conv2d(x, kernel)
    return _conv2d_of_a_cpu(x, kernel)


@tf.custom_gradient
def _conv2d_of_a_cpu(x, kernel):
    """A convolution with gradients that are fast on a CPU.

    The gradient by x is a convolution of dy: TensorFlow's own takes up to twice the
    time. The gradient by the kernel goes over bands of rows, because its operation
    copies all neighbours of each position that it is given.
    """

    def gradient(dy):
        bands = []
        for begin in range(0, x.shape[1], _BAND):
            with tf.control_dependencies(bands[-1:]):
                bands.append(_kernel_gradient_of_rows(x, kernel, dy, begin))
        return _conv2d(dy, _other_side(kernel)), tf.add_n(bands)

    return _conv2d(x, kernel), gradient


def _kernel_gradient_of_rows(x, kernel, dy, begin):
    """The part of the kernel's gradient from a band of rows of dy, at `begin`.

    It is computed in float32 at least: with explicit padding, TensorFlow's operation
    takes ten times the time in bfloat16, even on processors with instructions for it.
    """
    height, (rows, columns) = x.shape[1], kernel.shape[:2]
    exact = tf.float32 if x.dtype == tf.bfloat16 else x.dtype
    end = min(begin + _BAND, height)
    above, below = begin - rows // 2, end + rows // 2
    outside = [max(-above, 0), max(below - height, 0)]
    gradient = tf.raw_ops.Conv2DBackpropFilter(
        # The identities make the slices wait for the band before.
        input=tf.cast(tf.identity(x)[:, max(above, 0) : min(below, height)], exact),
        filter_sizes=kernel.shape,
        out_backprop=tf.cast(tf.identity(dy)[:, begin:end], exact),
        strides=[1] * 4,
        padding="EXPLICIT",
        explicit_paddings=[0, 0, *outside, *[columns // 2] * 2, 0, 0],
    )
    return tf.cast(gradient, kernel.dtype)


def _widening_conv2d(x, kernel):
    """A convolution of few channels to very many: one product with all neighbours."""
    rows, columns, _, outputs = kernel.shape
    x = _with_neighbours(x, columns, axis=2)
    x = _with_neighbours(x, rows, axis=1)
    return _at_every_position(x, tf.reshape(kernel, [-1, outputs]))


@tf.custom_gradient
def _narrowing_conv2d(x, kernel):
    """A convolution to fewer channels.

    Forward, one product computes the terms that each position adds to its neighbours.
    Backward, both gradients come from the convolution of dy with `_other_side(kernel)`,
    from few channels to many: its result, and its own gradient by its kernel.
    """

    def gradient(dy):
        back = _other_side(kernel)
        dback = tf.raw_ops.Conv2DBackpropFilter(
            input=dy,
            filter_sizes=back.shape,
            out_backprop=x,
            strides=[1] * 4,
            padding="SAME",
        )
        return _conv2d(dy, back), _other_side(dback)

    return _products_to_neighbours(x, kernel), gradient


def _products_to_neighbours(x, kernel):
    """A convolution by one product, of the terms that positions add to neighbours."""
    rows, columns, inputs, _ = kernel.shape
    matrix = tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [inputs, -1])
    y = _from_neighbours(_at_every_position(x, matrix), rows, axis=1)
    return _from_neighbours(y, columns, axis=2)


def _with_neighbours(x: tf.Tensor, size: int, axis: int) -> tf.Tensor:
    """Concatenates the channels of each position's `size` neighbours along an axis."""
    return tf.concat(_shifted(x, size, axis, [0] * size, x.shape[-1]), -1)


def _from_neighbours(y: tf.Tensor, size: int, axis: int) -> tf.Tensor:
    """Sums the terms that a position gets from its `size` neighbours along an axis.

    The channels are `size` blocks, one per offset: the first block of a position is its
    term for the last neighbour along the axis.
    """
    channels = y.shape[-1] // size
    starts = [number * channels for number in range(size)]
    return tf.add_n(_shifted(y, size, axis, starts, channels))


def _shifted(x, size, axis, starts, channels):
    """Per neighbour along an axis, `channels` channels from its start on."""
    length = x.shape[axis] or tf.shape(x)[axis]
    padding = [[0, 0]] * 4
    padding[axis] = [size // 2] * 2
    x = tf.pad(x, padding)
    extent = [-1] * 4
    extent[axis], extent[3] = length, channels
    extent = tf.convert_to_tensor(extent)  # one for all
    parts = []
    for number, start in enumerate(starts):
        begin = [0, 0, 0, start]
        begin[axis] = number
        parts.append(tf.slice(x, begin, extent))
    return parts
