"""Finds the origin of a number that is not finite: an eager pass, layer by layer."""

import dataclasses
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors import FlowBijector, watched
from tfp_vaeflow.config import ExperimentConfig
from tfp_vaeflow.data import Batch
from tfp_vaeflow.model import VAEFlow
from tfp_vaeflow.training.gradients import loss_and_gradients


class _NotFiniteError(Exception):
    """Raised at the first value that is not finite."""


def _is_finite(*values: tf.Tensor) -> bool:
    return all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in values)


def _flow_layers(model: VAEFlow) -> list[FlowBijector]:
    return [module for module in model.submodules if isinstance(module, FlowBijector)]


def _resnets(model: VAEFlow) -> Iterator[tuple[str, keras.Model]]:
    if model.encoder is not None:
        yield "encoder", model.encoder.resnet
    if model.config.dequantizer is not None:
        yield "dequantizer's encoder", model.dequantizer.encoder.resnet


def _check_resnet(model: VAEFlow, name: str, resnet, images: tf.Tensor) -> None:
    layers = [layer for layer in resnet.layers if layer.weights]
    outputs = keras.Model(resnet.inputs, [layer.output for layer in layers])

    @tf.function(autograph=False)  # a graph frees the tensors between the layers
    def are_finite(x):
        values = outputs(x, training=True)
        return [tf.reduce_all(tf.math.is_finite(value)) for value in values]

    for layer, is_finite in zip(layers, are_finite(model.noise_free(images))):
        if not is_finite:
            raise _NotFiniteError(f"{name} layer {layer.name}")


def _layer_of(
    model: VAEFlow,
    variable: tf.Variable,
    gradient: tf.Tensor,
    passed: list[FlowBijector],
):
    """Finds the layer to which a gradient that is not finite belongs.

    Layers may share a variable. Among those whose part of the gradient is not finite,
    the last one is taken.

    Returns (place in the order of the data, name); the place is -1 outside of the flow.
    """
    owners = {}  # part -> its innermost layer, which is the first in `passed`
    for place, layer in enumerate(passed):
        for one, part in compute.parts_of_variables(layer):
            if one is variable:
                owners.setdefault(part, (place, f"layer {layer.name}"))
    bad = [owner for part, owner in owners.items() if not _is_finite(gradient[part])]
    if bad:
        return max(bad)
    parts = {"the encoder": model.encoder, "the prior": model.prior}
    for name, part in parts.items():
        if part is not None and any(variable is v for v in part.trainable_variables):
            return -1, name
    return -1, "the dequantizer's encoder"


def first_layer_not_finite(
    model: VAEFlow, config: ExperimentConfig, batch: Batch, step: int
) -> str:
    """Says which layer is the first whose output or gradient is not finite.

    Outputs are checked in the order in which data passes the layers, from the pixels to
    the codes. If all of them are finite, gradients are checked in the opposite order.

    Args:
      model: with the weights that the step had.
      config: the experiment.
      batch: the global batch of the step.
      step: number of steps before this one; its noise depends on it.
    """
    size = len(batch.images) // config.training.micro_batches
    statistics = [(v, tf.identity(v)) for v in model.variables if not v.trainable]
    passed = []  # layers, in the order in which data passes them

    def note(layer, v, log_det_map):
        if not _is_finite(v, log_det_map):
            raise _NotFiniteError(f"layer {layer.name}")  # the innermost comes first
        passed.append(layer)

    try:
        mixed = compute.using(mixed_precision=config.training.mixed_precision)
        with mixed, watched(_flow_layers(model), note):
            for name, resnet in _resnets(model):
                _check_resnet(model, name, resnet, batch.images)
            for first in range(0, len(batch.images), size):
                piece = Batch(*(part[first : first + size] for part in batch))
                _check_gradients(model, config, piece, step, passed)
    except _NotFiniteError as error:
        return f"the first that is not finite is {error}"
    finally:
        for variable, value in statistics:
            variable.assign(value)  # batch norm has changed them
    return "computed again layer by layer on one device, every value is finite"


def _check_gradients(model, config, batch, step, passed) -> None:
    del passed[:]
    whole = dataclasses.replace(config.training, micro_batches=1)
    losses, gradients = loss_and_gradients(
        model, dataclasses.replace(config, training=whole), batch, step
    )
    if not _is_finite(*losses):
        raise _NotFiniteError("the objective (every layer is finite)")
    variables = model.trainable_variables
    bad = [(v, g) for v, g in zip(variables, gradients) if not _is_finite(g)]
    if bad:
        _, name = max(_layer_of(model, *pair, passed) for pair in bad)
        raise _NotFiniteError(f"the gradient of {name}")
