"""The elementwise transforms of coupling layers, data -> code and back.

A transform has `num_parameters` a transformed channel; `params` holds them along the
last axis, one block of channels after another, in the order of the docstring.
"""

import math

import tensorflow as tf


class Additive:
    """`v = x + shift`; log-det 0. Parameters: shift. (NICE, arXiv 1410.8516)"""

    num_parameters = 1

    def forward_and_log_det(self, x, params):
        return x - params, tf.zeros_like(x)

    def inverse_and_log_det(self, y, params):
        return y + params, tf.zeros_like(y)


class Affine:
    """`v = scale * x + shift`, `scale = 1 + alpha tanh(s / 2)`, log-det `log scale`.

    Parameters: shift, s. Paper, appendix; arXiv 1605.08803.
    """

    num_parameters = 2

    def __init__(self, alpha: float):
        self._alpha = alpha

    def _shift_and_log_scale(self, params):
        shift, s = tf.split(params, 2, axis=-1)
        # 1 + alpha tanh(s/2) = (1 - alpha) + 2 alpha sigmoid(s). With alpha = 1 the
        # logarithm is log 2 + log sigmoid(s), which stays finite and exact where
        # 1 + tanh(s/2) rounds to zero.
        if self._alpha == 1:
            return shift, math.log(2.0) + tf.math.log_sigmoid(s)
        return shift, tf.math.log1p(self._alpha * tf.tanh(s / 2))

    def forward_and_log_det(self, x, params):
        shift, log_scale = self._shift_and_log_scale(params)
        return (x - shift) * tf.exp(-log_scale), -log_scale

    def inverse_and_log_det(self, y, params):
        shift, log_scale = self._shift_and_log_scale(params)
        return y * tf.exp(log_scale) + shift, log_scale


def make_transform(name: str, alpha: float) -> Additive | Affine:
    return Additive() if name == "additive" else Affine(alpha)
