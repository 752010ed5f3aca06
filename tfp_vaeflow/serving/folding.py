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

from tfp_vaeflow.bijectors import ConditionedThrough, FlowBijector
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.networks import Folding, SharedProduct

tfd = tfp.distributions


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
        set_flow(model, ConditionedThrough(flow, product))
    else:
        set_flow(model, model.flow.folded(folding))
