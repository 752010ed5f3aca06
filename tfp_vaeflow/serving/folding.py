"""Folding: the same function with less to compute, for a trained model.

    weight norm                     -> its kernel
    ActNorm, 1x1 convolution        -> one affine map of the channels, and its inverse
    convolution, batch norm         -> a convolution with bias
    log-dets of all these           -> numbers
    every layer's h(z)              -> parts of one product of z

Each layer and network builds its folded form; this module joins them. Matrices are
multiplied and inverted once, in float64, and kept in float32.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.bijectors import FlowBijector
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.networks import Folding, SharedProduct

tfd = tfp.distributions


class ConditionedAtOnce(FlowBijector):
    """A flow whose layers get their h(z) from one product.

    Shapes: as those of the flow.

    Args:
      flow: folded.
      product: gives h(z) of all its layers.
    """

    def __init__(self, flow: FlowBijector, product: SharedProduct):
        super().__init__(3, flow.name, flow.dtype)
        self._flow = flow
        self._product = product

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._flow.forward_and_log_det_map(v, self._product(conditioning))

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._flow.inverse_and_log_det_map(x, self._product(conditioning))

    def position_shares(self, values):
        return self._flow.position_shares(values)


def set_flow(model: VAEFlowCore, flow: FlowBijector) -> None:
    """Replaces the flow of a model."""
    model.flow = flow
    model.decoder = tfd.TransformedDistribution(model.decoder.distribution, flow)


def fold(model: VAEFlowCore, kernel_dtype: tf.DType = tf.float32) -> None:
    """Folds all that can be folded, in place.

    The model then computes the same as before, but can be neither trained nor saved as
    a checkpoint. Group and instance norm stay, and so does batch norm that does not
    follow a convolution.

    Args:
      model: trained.
      kernel_dtype: type of the kernels of coupling networks: bfloat16 if these compute
        in it.
    """
    folding, config = Folding(kernel_dtype), model.config
    model.global_code = model.global_code.folded(folding)
    model.dequantizer = model.dequantizer.folded(folding)
    if config.latent_dim and config.flow.conditioning == "global_linear":
        product = SharedProduct()
        flow = model.flow.folded(Folding(kernel_dtype, product))
        product.build()
        set_flow(model, ConditionedAtOnce(flow, product))
    else:
        set_flow(model, model.flow.folded(folding))
