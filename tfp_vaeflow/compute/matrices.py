"""Determinants and inverses of small square matrices."""

import tensorflow as tf

from tfp_vaeflow.compute.mode import mode


def log_abs_det(matrix: tf.Tensor) -> tf.Tensor:
    """`log |det W|`, `[..., n, n]` -> `[...]`."""
    if mode().compiled:
        return _by_cholesky(matrix)
    triangular = tf.linalg.qr(matrix)[1]
    diagonal = tf.abs(tf.linalg.diag_part(triangular))
    return tf.reduce_sum(tf.math.log(diagonal), -1)


def inverse(matrix: tf.Tensor) -> tf.Tensor:
    """`W^-1`, computed in float64: `[..., n, n]` -> `[..., n, n]`."""
    exact = tf.cast(matrix, tf.float64)
    if mode().compiled:
        found = tf.linalg.matrix_transpose(_transposed_inverse(exact, _factor(exact)))
    else:
        found = tf.linalg.inv(exact)
    return tf.cast(found, matrix.dtype)


# XLA turns all factorisations into loops over columns; Cholesky's is the shortest. On a
# CPU, TensorFlow's Cholesky raises an error for a singular or non-finite matrix.


@tf.custom_gradient
def _by_cholesky(matrix):
    """`log |det W| = log det(W W^T) / 2`, whose gradient is `W^-T`; in float64."""
    exact = tf.cast(matrix, tf.float64)
    factor = _factor(exact)
    value = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)), -1)

    def gradient(upstream):
        upstream = tf.cast(upstream, tf.float64)[..., tf.newaxis, tf.newaxis]
        return tf.cast(upstream * _transposed_inverse(exact, factor), matrix.dtype)

    return tf.cast(value, matrix.dtype), gradient


def _factor(matrix):
    """L of `W W^T = L L^T`."""
    return tf.linalg.cholesky(tf.matmul(matrix, matrix, transpose_b=True))


def _transposed_inverse(matrix, factor):
    """`W^-T = (W W^T)^-1 W`."""
    return tf.linalg.cholesky_solve(factor, matrix)
