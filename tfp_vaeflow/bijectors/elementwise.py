"""The elementwise transforms of coupling layers, data -> code and back.

A transform has `num_parameters` parameters per transformed channel. `params` holds them
along its last axis, one block of C values per parameter, in the order of the docstring.
`inverse_and_log_derivative(x, params)` maps x -> v, `forward_and_log_derivative(v,
params)` is its inverse; both return the value and the log-derivative of each element.
Shapes: `[..., C]`, params `[..., num_parameters * C]`. With all parameters zero every
transform is the identity.
"""

import abc
import dataclasses
import math
from typing import ClassVar, Protocol

import numpy as np
import tensorflow as tf


class Transform(Protocol):
    """The interface of a transform; a coupling takes any object that has it.

    Attributes:
      num_parameters: parameters per transformed channel.
    """

    num_parameters: int

    def forward_and_log_derivative(
        self, v: tf.Tensor, params: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """v -> x, and log |dx/dv| of each element."""

    def inverse_and_log_derivative(
        self, x: tf.Tensor, params: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """x -> v, and log |dv/dx| of each element."""


@dataclasses.dataclass(frozen=True)
class Additive:
    """`v = x + shift`; log-det 0. Parameters: shift. (NICE, arXiv 1410.8516)

    Example:

        >>> x, params = tf.random.normal([4, 3]), tf.random.normal([4, 3])
        >>> v, _ = Additive().inverse_and_log_derivative(x, params)
        >>> again, _ = Additive().forward_and_log_derivative(v, params)
        >>> np.allclose(again, x, atol=1e-3)
        True
    """

    num_parameters: ClassVar[int] = 1

    def forward_and_log_derivative(self, v, params):
        """v -> x: takes the shift away."""
        return v - params, tf.zeros_like(v)

    def inverse_and_log_derivative(self, x, params):
        """x -> v: adds the shift."""
        return x + params, tf.zeros_like(x)


@dataclasses.dataclass(frozen=True)
class Affine:
    """`v = scale * x + shift`, `scale = 1 + alpha tanh(s / 2)`, log-det `log scale`.

    Parameters: shift, s. Paper, appendix; arXiv 1605.08803.

    Example:

        >>> x, params = tf.random.normal([4, 3]), tf.random.normal([4, 6])
        >>> v, _ = Affine().inverse_and_log_derivative(x, params)
        >>> again, _ = Affine().forward_and_log_derivative(v, params)
        >>> np.allclose(again, x, atol=1e-3)
        True

    Attributes:
      alpha: in (0, 1]; the scale lies between 1 - alpha and 1 + alpha. With 1 it can
        come close to 0, and the inverse transform then overflows.
    """

    alpha: float = 1.0
    num_parameters: ClassVar[int] = 2

    def _shift_and_log_scale(self, params):
        shift, s = tf.split(params, 2, axis=-1)
        # 1 + alpha tanh(s/2) = (1 - alpha) + 2 alpha sigmoid(s). With alpha = 1 the
        # logarithm is log 2 + log sigmoid(s), which stays finite and exact where
        # 1 + tanh(s/2) rounds to zero.
        if self.alpha == 1:
            return shift, math.log(2.0) + tf.math.log_sigmoid(s)
        return shift, tf.math.log1p(self.alpha * tf.tanh(s / 2))

    def forward_and_log_derivative(self, v, params):
        """v -> x: takes the shift away, then the scale."""
        shift, log_scale = self._shift_and_log_scale(params)
        return (v - shift) * tf.exp(-log_scale), -log_scale

    def inverse_and_log_derivative(self, x, params):
        """x -> v: scales, then shifts."""
        shift, log_scale = self._shift_and_log_scale(params)
        return x * tf.exp(log_scale) + shift, log_scale


@dataclasses.dataclass(frozen=True)
class Relu:
    """`v = scale * x + shift`, `scale = 1 + tanh(s)` if x > 0, else 1.

    Log-det: `log scale`. Parameters: shift, s. (`relu` of XuezheMax/wolf)

    Example:

        >>> x, params = tf.random.normal([4, 3]), tf.random.normal([4, 6])
        >>> v, _ = Relu().inverse_and_log_derivative(x, params)
        >>> again, _ = Relu().forward_and_log_derivative(v, params)
        >>> np.allclose(again, x, atol=1e-3)
        True
    """

    num_parameters: ClassVar[int] = 2

    def _shift_and_log_scale(self, params):
        shift, s = tf.split(params, 2, axis=-1)
        # 1 + tanh(s) = 2 sigmoid(2 s), which does not round to zero; see Affine.
        return shift, math.log(2.0) + tf.math.log_sigmoid(2 * s)

    def forward_and_log_derivative(self, v, params):
        """v -> x: takes the shift away, then the scale of positive x."""
        shift, log_scale = self._shift_and_log_scale(params)
        scaled = v - shift
        # The scale is positive, so `scaled` has the sign of x.
        log_scale = tf.where(scaled > 0, log_scale, 0)
        return scaled * tf.exp(-log_scale), -log_scale

    def inverse_and_log_derivative(self, x, params):
        """x -> v: scales positive x, then shifts."""
        shift, log_scale = self._shift_and_log_scale(params)
        log_scale = tf.where(x > 0, log_scale, 0)
        return x * tf.exp(log_scale) + shift, log_scale


class _RootFinding(abc.ABC):
    """A transform whose direction v -> x finds the root of an increasing function.

    Subclasses map x -> v in `inverse_and_log_derivative` and find the root in `_root`.
    """

    @abc.abstractmethod
    def inverse_and_log_derivative(self, x, params):
        """Data -> code, as in the other transforms."""

    @abc.abstractmethod
    def _root(self, v, params):
        """Code -> data in float64, nearly exact; needs no gradient."""

    def forward_and_log_derivative(self, v, params):
        dtype = v.dtype
        v, params = tf.cast(v, tf.float64), tf.cast(params, tf.float64)
        x = tf.stop_gradient(self._root(v, params))
        # One Newton step removes the remaining error. With the slope held constant, its
        # derivative is that of the implicit function, so no other gradient is needed.
        value, log_slope = self.inverse_and_log_derivative(x, params)
        x -= (value - v) * tf.exp(-tf.stop_gradient(log_slope))
        _, log_slope = self.inverse_and_log_derivative(x, params)
        return tf.cast(x, dtype), tf.cast(-log_slope, dtype)


@dataclasses.dataclass(frozen=True)
class Nlsq(_RootFinding):
    """`v = b x + a + c / (1 + u^2)`, `u = d x + g`: affine plus a bump.

    Log-det: `log(b - 2 c d u / (1 + u^2)^2)`. Parameters: a, log b, c', log d, g.
    For stability, `log b` and `log d` are scaled by 0.4 and c' by 0.3, and
    `c = (8 sqrt(3) / 9 - 0.05) (b / d) tanh(c')` keeps the slope above 0.03 b.
    (Ziegler & Rush, arXiv 1901.10548)

    Example:

        >>> x, params = tf.random.normal([4, 3]), tf.random.normal([4, 15])
        >>> v, _ = Nlsq().inverse_and_log_derivative(x, params)
        >>> again, _ = Nlsq().forward_and_log_derivative(v, params)
        >>> np.allclose(again, x, atol=1e-3)
        True
    """

    num_parameters: ClassVar[int] = 5
    _BUMP: ClassVar[float] = 8 * math.sqrt(3) / 9 - 0.05

    def _parameters(self, params):
        """a, log b, k, log d, g, where k = c d / b."""
        a, log_b, c, log_d, g = tf.split(params, 5, axis=-1)
        return a, 0.4 * log_b, self._BUMP * tf.tanh(0.3 * c), 0.4 * log_d, g

    def inverse_and_log_derivative(self, x, params):
        """x -> v, by the formula of the class."""
        a, log_b, k, log_d, g = self._parameters(params)
        u = tf.exp(log_d) * x + g
        bump = 1 / (1 + u**2)
        v = tf.exp(log_b) * x + a + k * tf.exp(log_b - log_d) * bump
        # This order avoids (1 + u^2)^2, which could overflow.
        return v, log_b + tf.math.log1p(-2 * k * (u * bump) * bump)

    def _root(self, v, params):
        a, log_b, k, log_d, g = self._parameters(params)
        # In u the equation is w = u + k / (1 + u^2), the cubic
        # u^3 - w u^2 + u + k - w = 0, whose one real root is w / 3 + t with
        # t^3 + p t + q = 0 (Cardano). The discriminant q^2/4 + p^3/27 is expanded,
        # because its terms in w^6 cancel: subtracting them would lose all digits.
        w = (v - a) * tf.exp(log_d - log_b) + g
        p = 1 - w**2 / 3
        q = k - 2 * w / 3 - 2 * w**3 / 27
        discriminant = ((w**2 + 1) ** 2 - k * w * (w**2 + 9)) / 27 + k**2 / 4
        t = tf.pow(tf.abs(q) / 2 + tf.sqrt(discriminant), 1 / 3)
        t = tf.where(q > 0, -t, t)
        return (w / 3 + t - p / (3 * t) - g) * tf.exp(-log_d)


@dataclasses.dataclass(frozen=True)
class SymmElu(_RootFinding):
    """`v = x + sign(x) s (1 - exp(-|x|)) + shift`, `s = tanh(s' / 2)`.

    Log-det: `log(1 + s exp(-|x|))`. Parameters: shift, s'. (`symm_elu` of
    XuezheMax/wolf)

    Example:

        >>> x, params = tf.random.normal([4, 3]), tf.random.normal([4, 6])
        >>> v, _ = SymmElu().inverse_and_log_derivative(x, params)
        >>> again, _ = SymmElu().forward_and_log_derivative(v, params)
        >>> np.allclose(again, x, atol=1e-3)
        True
    """

    num_parameters: ClassVar[int] = 2
    _NEWTON_STEPS: ClassVar[int] = 3

    def _parameters(self, params):
        """shift, s, 1 + s."""
        shift, s = tf.split(params, 2, axis=-1)
        # 1 + s is the slope at x = 0 and must stay positive: the sigmoid does not round
        # to zero, and the maximum prevents underflow.
        slope = tf.maximum(2 * tf.sigmoid(s), np.finfo(s.dtype.as_numpy_dtype).tiny)
        return shift, tf.tanh(s / 2), slope

    def inverse_and_log_derivative(self, x, params):
        """x -> v, by the formula of the class."""
        shift, s, slope_at_zero = self._parameters(params)
        # Not tf.sign and tf.abs, whose gradients vanish at zero.
        sign = tf.where(x > 0, tf.ones_like(x), -tf.ones_like(x))
        size = sign * x
        v = x - sign * s * tf.math.expm1(-size) + shift
        return v, tf.math.log(_slope(size, slope_at_zero))

    def _root(self, v, params):
        shift, s, slope_at_zero = self._parameters(params)
        v -= shift
        goal = tf.abs(v)
        # For t >= 0 the function is (1 + s) t - s (t - 1 + exp(-t)). The first guess
        # replaces the last bracket by t^2 / (2 + t), a close lower bound: it is the
        # root of t^2 - 2 m t - 2 goal. It lies left of the true root where the function
        # is concave (s > 0) and right of it where the function is convex, so Newton's
        # method cannot overshoot. Three steps reach the precision of float64 for every
        # s in (-1, 1) and every goal.
        m = goal / 2 - slope_at_zero
        root = tf.sqrt(m**2 + 2 * goal)
        t = tf.where(m > 0, root + m, 2 * goal / (root - m))
        for _ in range(self._NEWTON_STEPS):
            error = t - s * tf.math.expm1(-t) - goal
            t -= error / _slope(t, slope_at_zero)
        return tf.sign(v) * t


def _slope(size, slope_at_zero):
    """`1 + s exp(-size)` as a sum of positive terms, from `1 + s`."""
    return slope_at_zero * tf.exp(-size) - tf.math.expm1(-size)


_BY_NAME = {
    "affine": Affine,
    "additive": Additive,
    "relu": Relu,
    "nlsq": Nlsq,
    "symm_elu": SymmElu,
}


def make_transform(name: str, alpha: float) -> Transform:
    """The transform of a name in `config.flow.TRANSFORMS`; only Affine uses alpha."""
    return Affine(alpha) if name == "affine" else _BY_NAME[name]()
