"""What a model costs: arithmetic and memory per image, read off a step's graph."""

import math
from typing import NamedTuple

import tensorflow as tf

from tfp_vaeflow.config import ExperimentConfig, ObjectiveConfig, TrainingConfig
from tfp_vaeflow.data import Batch
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.training.gradients import GRADIENT, PARTS, loss_and_gradients

# Operations whose output is their first input under another shape or name.
_ALIASES = {"Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient"}
# Operations whose outputs are in memory anyway, or are no activations.
_NOT_KEPT = {"ReadVariableOp", "Const", "Placeholder"}
_BATCH = 2


class Cost(NamedTuple):
    """The cost of one image in one part of a model.

    Attributes:
      flops: of the forward pass, in convolutions and matrix products (a product and a
        sum are two).
      activation_bytes: what the forward pass keeps for the gradient.
    """

    flops: float
    activation_bytes: float


def flops_of(op: tf.Operation) -> int:
    """FLOPs of a convolution or matrix product of static shape; 0 for any other."""
    if op.type not in ("Conv2D", "MatMul", "BatchMatMulV2"):
        return 0
    outputs = op.outputs[0].shape.num_elements()
    if op.type == "Conv2D":
        return 2 * outputs * math.prod(op.inputs[1].shape[:3])
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return 2 * outputs * op.inputs[0].shape[-2 if transposed else -1]


def _source(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one shares."""
    while tensor.op.type in _ALIASES:
        tensor = tensor.op.inputs[0]
    return tensor


def _kept(forward: set[tf.Operation], backward: list[tf.Operation]) -> float:
    """Bytes of the outputs of `forward` that `backward` reads."""
    tensors = {}
    for op in backward:
        for tensor in map(_source, op.inputs):
            if tensor.op in forward and tensor.op.type not in _NOT_KEPT:
                tensors[tensor.ref()] = tensor
    # A tensor without a static shape holds a shape: a few numbers.
    sizes = [(t.shape.num_elements() or 0) * t.dtype.size for t in tensors.values()]
    return sum(sizes)


def costs(model: VAEFlow, num_samples: int = 1) -> dict[str, Cost]:
    """The cost of one image in training, by part.

    Args:
      model: any model; its step is traced, not run.
      num_samples: K samples of (z, u) per image.

    Returns:
      `statistics` (the encoders, which see the whole share of a device at once) and
      `losses` (prior and flow, which may take it in micro-batches).
    """
    config = ExperimentConfig(
        model=model.config,
        objective=ObjectiveConfig(num_samples=num_samples),
        training=TrainingConfig(
            batch_size=_BATCH,
            initialization_images=max(2, model.config.least_images),
        ),
    )

    def step(images):
        numbers = tf.zeros([_BATCH], tf.int64)
        batch = Batch(images=images, positions=numbers, weights=None, labels=numbers)
        return loss_and_gradients(model, config, batch, 0)

    images = tf.TensorSpec([_BATCH, *model.config.image_shape], tf.uint8)
    ops = tf.function(step, autograph=False).get_concrete_function(images)
    ops = ops.graph.get_operations()

    def of(scope):
        return [op for op in ops if op.name.startswith(f"{scope}/")]

    found = {}
    for part in PARTS:
        forward, backward = of(part), of(part + GRADIENT)
        found[part] = Cost(
            sum(map(flops_of, forward)) / _BATCH, _kept(set(forward), backward) / _BATCH
        )
    return found
