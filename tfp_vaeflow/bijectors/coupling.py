"""Coupling layers: one part of the channels decides how the other is transformed."""

import dataclasses

import keras
import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector, check_conditioning
from tfp_vaeflow.bijectors.elementwise import make_transform
from tfp_vaeflow.bijectors.step_graphs import run_shared
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.errors import UserError
from tfp_vaeflow.networks import CouplingNetwork, conditioning_ndims
from tfp_vaeflow.noise import Initializer


@dataclasses.dataclass(frozen=True)
class ChannelSplit:
    """Which channels condition and which are transformed.

    Attributes:
      pattern: `continuous` (first part / second part) or `skip` (even / odd channels;
        falls back to `continuous` for an odd number of channels).
      order: `up` (the first part conditions) or `down` (the second one does).
      factor: the transformed part has `channels // factor` channels (`skip`: 2).
    """

    pattern: str = "continuous"
    order: str = "up"
    factor: int = 2

    def transformed(self, channels: int) -> int:
        """Number of transformed channels."""
        return channels // self.factor

    def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[..., C]` -> (conditioning part, transformed part)."""
        channels = x.shape[-1]
        if self._interleaved(channels):
            pairs = tf.reshape(x, [*keras.ops.shape(x)[:-1], channels // 2, 2])
            first, second = tf.unstack(pairs, axis=-1)
        else:
            first, second = tf.split(x, self._sizes(channels), axis=-1)
        return (first, second) if self.order == "up" else (second, first)

    def join(self, condition: tf.Tensor, transformed: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`."""
        up = self.order == "up"
        parts = (condition, transformed) if up else (transformed, condition)
        channels = condition.shape[-1] + transformed.shape[-1]
        if not self._interleaved(channels):
            return tf.concat(parts, axis=-1)
        shape = [*keras.ops.shape(condition)[:-1], channels]
        return tf.reshape(tf.stack(parts, axis=-1), shape)

    def _interleaved(self, channels: int) -> bool:
        return self.pattern == "skip" and channels % 2 == 0

    def _sizes(self, channels: int) -> list[int]:
        transformed = self.transformed(channels)
        sizes = [channels - transformed, transformed]
        return sizes if self.order == "up" else sizes[::-1]


class Coupling(FlowBijector):
    """Transforms one part of the channels, given the other part and z.

        inverse:  v_a = x_a
                  v_b = transform(x_b; network(x_a, conditioning))
        forward:  x_a = v_a
                  x_b = transform^-1(v_b; network(v_a, conditioning))
        inverse log-det:  sum over b of the transform's log-derivative

    Data-dependent initialisation scales the network's output to zero, so that a fresh
    coupling is the identity: there the network need not run.

    Shapes: `[B, H, W, C]` (or `[B, C]`), conditioning `[B, D]` (`local_linear`:
    `[B, H, W, F]`).

    Reference: Dinh et al., *Real NVP*, arXiv 1605.08803; conditioned on z as in the
    paper, section 3.2.

    Attributes:
      transform: the elementwise transform.
      kind: of its network, see `run_shared`.

    Args:
      channels: C.
      config: network and transform.
      split: which channels condition.
      init: source of initial weights.
      name: names the layer.

    Raises:
      UserError: if there are too few channels to split in two.
    """

    def __init__(
        self,
        channels: int,
        config: CouplingConfig,
        split: ChannelSplit,
        init: Initializer,
        name: str = "coupling",
    ):
        super().__init__(
            1 if config.dense else 3, name, init.dtype, conditioning_ndims(config)
        )
        transformed = split.transformed(channels)
        if not 0 < transformed < channels:
            raise UserError(
                f"{name}: {channels} channels cannot be split with factor "
                f"{split.factor}; expected at least one channel on either side"
            )
        self._split = split
        self._conditioned = config.conditioning_dim > 0
        self.transform = make_transform(config.transform, config.alpha)
        outputs = self.transform.num_parameters * transformed
        sizes = channels - transformed, outputs
        self.network = CouplingNetwork(config, *sizes, init)
        self.kind = None if config.norm == "batch" else (config, *sizes)

    def _check(self, conditioning) -> None:
        check_conditioning(self.name, self._conditioned, conditioning)

    def _params(self, condition, conditioning):
        return run_shared(
            self.network,
            self.kind,
            CouplingNetwork.__call__,
            condition,
            conditioning,
        )

    def _run(self, transform, value, conditioning):
        """Either direction, `transform` being that of the elementwise transform."""
        self._check(conditioning)
        condition, rest = self._split.split(value)
        params = self._params(condition, conditioning)
        rest, log_derivative = transform(rest, params)
        joined = self._split.join(condition, rest)
        return joined, tf.reduce_sum(log_derivative, axis=-1)

    def forward_and_log_det_map(self, v, conditioning=None):
        transform = self.transform.forward_and_log_derivative
        return self._run(transform, v, conditioning)

    def inverse_and_log_det_map(self, x, conditioning=None):
        transform = self.transform.inverse_and_log_derivative
        return self._run(transform, x, conditioning)

    def initialize_on(self, values, conditioning):
        for given in conditioning:
            self._check(given)
        self.network.last.initialize_to_zero()  # which leaves the values as they are
