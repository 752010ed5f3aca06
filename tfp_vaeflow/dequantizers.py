"""Dequantizers: the distribution q(u | x) of the noise that makes pixels continuous."""

import tensorflow as tf

from tfp_vaeflow import noise


class UniformDequantizer(tf.Module):
    """`u ~ U[0, 1)` for every pixel value; `log q(u | x) = 0`.

    Reference: Theis et al., arXiv 1511.01844, section 3.1.
    """

    def __init__(self):
        super().__init__(name="dequantizer")

    def draw(self, seed, batch, event_shape, first) -> tf.Tensor:
        """The noise behind u, `[batch, *event_shape]`; see `noise.uniform`."""
        stream = noise.Stream.DEQUANTIZATION
        return noise.uniform(seed, stream, batch, event_shape, first)

    def __call__(self, drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Drawn noise `[B, K, H, W, C]` -> `(u, log q(u | x))`, the latter `[B, K]`."""
        return drawn, tf.zeros(tf.shape(drawn)[:2], drawn.dtype)
