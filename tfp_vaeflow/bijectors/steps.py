"""Steps: the fixed sequences of layers that a flow repeats."""

import dataclasses

import tensorflow as tf

from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.base import FlowBijector, Sequential
from tfp_vaeflow.bijectors.conv1x1 import Conv1x1
from tfp_vaeflow.bijectors.coupling import ChannelSplit, Coupling
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.noise import Initializer


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What the steps of one level have in common.

    Attributes:
      coupling: their coupling layers.
      conv1x1, heads: their 1x1 convolutions.
    """

    coupling: CouplingConfig
    conv1x1: str = "dense"
    heads: int = 1


class GlowStep(Sequential):
    """One step of the paper's Glow, on images or vectors.

        x -> ActNorm -> 1x1 convolution -> coupling continuous/up -> continuous/down
          -> ActNorm -> coupling skip/up -> skip/down -> v

    Four couplings a step let every channel be transformed twice, under two different
    partitions. Paper, section 3.2 and appendix.

    Args:
      channels: C.
      config: the layers' settings.
      init: source of initial weights.
      name: begins the names of the layers.
    """

    def __init__(
        self,
        channels: int,
        config: StepConfig,
        init: Initializer,
        name: str = "glow_step",
    ):
        event_ndims = 1 if config.coupling.dense else 3

        def actnorm(suffix):
            return ActNorm(channels, init, event_ndims, name=f"{name}_{suffix}")

        def coupling(pattern, order):
            split = ChannelSplit(pattern, order)
            label = f"{name}_coupling_{pattern}_{order}"
            return Coupling(channels, config.coupling, split, init, name=label)

        super().__init__(
            [
                actnorm("actnorm1"),
                Conv1x1(
                    channels,
                    init,
                    config.conv1x1,
                    config.heads,
                    event_ndims,
                    name=f"{name}_conv1x1",
                ),
                coupling("continuous", "up"),
                coupling("continuous", "down"),
                actnorm("actnorm2"),
                coupling("skip", "up"),
                coupling("skip", "down"),
            ],
            event_ndims,
            name,
            init.dtype,
        )


class SplitPrior(FlowBijector):
    """Prepares channels to leave the flow as part of the local code.

        x -> 1x1 convolution -> coupling continuous/up with `factor` -> [kept, leaving]
        v = [kept, ActNorm(leaving)]

    The coupling transforms the last `C // factor` channels given the others, then the
    last `leaving` channels are normalised: together p(leaving | kept, z). Whoever holds
    this layer takes them off. Paper, appendix; arXiv 1902.04208, section 3.

    Args:
      channels: C.
      config: the layers' settings (the coupling has the prior's transform).
      factor: the split factor.
      leaving: number of channels that leave.
      init: source of initial weights.
      name: begins the names of the layers.
    """

    def __init__(
        self,
        channels: int,
        config: StepConfig,
        factor: int,
        leaving: int,
        init: Initializer,
        name: str = "split_prior",
    ):
        super().__init__(3, name, init.dtype)
        split = ChannelSplit("continuous", "up", factor)
        self.leaving = leaving
        self.conv1x1 = Conv1x1(
            channels, init, config.conv1x1, config.heads, name=f"{name}_conv1x1"
        )
        self.coupling = Coupling(
            channels, config.coupling, split, init, name=f"{name}_coupling"
        )
        self.actnorm = ActNorm(leaving, init, name=f"{name}_actnorm")

    def forward_and_log_det(self, x, conditioning=None):
        kept, leaving = split_off(x, self.leaving)
        leaving, log_det_a = self.actnorm.forward_and_log_det(leaving)
        x = tf.concat([kept, leaving], -1)
        x, log_det_b = self.coupling.forward_and_log_det(x, conditioning)
        y, log_det_c = self.conv1x1.forward_and_log_det(x)
        return y, log_det_a + log_det_b + log_det_c

    def inverse_and_log_det(self, y, conditioning=None):
        y, log_det_a = self.conv1x1.inverse_and_log_det(y)
        y, log_det_b = self.coupling.inverse_and_log_det(y, conditioning)
        kept, leaving = split_off(y, self.leaving)
        leaving, log_det_c = self.actnorm.inverse_and_log_det(leaving)
        return tf.concat([kept, leaving], -1), log_det_a + log_det_b + log_det_c

    def initialize(self, y, conditioning=None):
        y = self.coupling.initialize(self.conv1x1.initialize(y), conditioning)
        kept, leaving = split_off(y, self.leaving)
        return tf.concat([kept, self.actnorm.initialize(leaving)], -1)


def split_off(x: tf.Tensor, last: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`[..., C]` -> the first `C - last` channels and the last `last` ones."""
    return x[..., :-last], x[..., -last:]
