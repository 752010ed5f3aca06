"""The noise of a model's computations, as tuples of tensors."""

from typing import NamedTuple

import tensorflow as tf


class LossNoise(NamedTuple):
    """The random draws behind one evaluation of the losses.

    Attributes:
      dequantization: `[B, K, H, W, C]`: uniform, or standard normal for a variational
        dequantizer; None where it is not used.
      posterior: standard normal `[B, K, D]`; None for a model without a posterior of z.
    """

    dequantization: tf.Tensor | None
    posterior: tf.Tensor | None


class CodeNoise(NamedTuple):
    """The random draws behind codes from the prior.

    Attributes:
      local: standard normal `[B, H, W, C]`.
      prior: standard normal `[B, D]`, or uniform `[B]` for a class-conditional model;
        None for a model without z.
    """

    local: tf.Tensor
    prior: tf.Tensor | None
