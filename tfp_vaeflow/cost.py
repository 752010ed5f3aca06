"""What a model costs: arithmetic and memory an image, read off its traced graph."""

import math
from typing import NamedTuple

import tensorflow as tf

from tfp_vaeflow.model import VAEFlow

# Operations whose output is their first input under another shape or name.
_ALIASES = {"Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient"}
# Outputs that are there anyway, or are no activations.
_NOT_KEPT = {"ReadVariableOp", "Const", "Placeholder"}
_BATCH = 2


class Cost(NamedTuple):
    """Of one image in one part of a model.

    Attributes:
      flops: of the forward pass, in convolutions and matrix products (a product and a
        sum are two).
      activation_bytes: what the forward pass keeps for the gradient.
    """

    flops: float
    activation_bytes: float


def flops_of(op: tf.Operation) -> int:
    """Of a convolution or a matrix product of static shape; 0 for any other."""
    if op.type not in ("Conv2D", "MatMul", "BatchMatMulV2"):
        return 0
    outputs = op.outputs[0].shape.num_elements()
    if op.type == "Conv2D":
        return 2 * outputs * math.prod(op.inputs[1].shape[:3])
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return 2 * outputs * op.inputs[0].shape[-2 if transposed else -1]


def _source(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one has."""
    while tensor.op.type in _ALIASES:
        tensor = tensor.op.inputs[0]
    return tensor


def _kept(forward: set[tf.Operation], backward: list[tf.Operation]) -> float:
    """Bytes that `backward` reads of what `forward` made."""
    tensors = {}
    for op in backward:
        for tensor in map(_source, op.inputs):
            if tensor.op in forward and tensor.op.type not in _NOT_KEPT:
                tensors[tensor.ref()] = tensor
    # What has no static shape is the shape of something: a few numbers.
    sizes = [(t.shape.num_elements() or 0) * t.dtype.size for t in tensors.values()]
    return sum(sizes)


def costs(model: VAEFlow, num_samples: int = 1) -> dict[str, Cost]:
    """The cost of one image in training, by part.

    Args:
      model: any model; it is traced, not run.
      num_samples: K samples of (z, u) an image.

    Returns:
      `features` (the encoders, which see the whole share of a device at once) and
      `losses` (prior and flow, which may take it in micro-batches).
    """
    marks = []

    def step(images):
        graph = tf.compat.v1.get_default_graph()

        def mark():
            marks.append(len(graph.get_operations()))

        with tf.GradientTape() as outer:
            labels = tf.zeros([_BATCH], tf.int64)
            features = model.features(images, True, labels)
        mark()
        with tf.GradientTape() as inner:
            inner.watch(features)
            draws = model.draw_loss_noise(0, _BATCH, num_samples)
            losses = model.losses_given_features(images, features, draws, True)
        mark()
        targets = [model.variables_by_use()[1], features]
        gradients, of_features = inner.gradient(losses, targets)
        mark()
        used = model.variables_by_use()[0]
        return gradients, outer.gradient(features, used, output_gradients=of_features)

    images = tf.TensorSpec([_BATCH, *model.config.image_shape], tf.uint8)
    ops = tf.function(step, autograph=False).get_concrete_function(images)
    ops = ops.graph.get_operations()
    first, second, third = marks
    parts = {
        "features": (ops[:first], ops[third:]),
        "losses": (ops[first:second], ops[second:third]),
    }
    return {
        name: Cost(
            sum(map(flops_of, forward)) / _BATCH, _kept(set(forward), backward) / _BATCH
        )
        for name, (forward, backward) in parts.items()
    }
