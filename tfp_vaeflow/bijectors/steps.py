"""Steps: the fixed sequences of layers that a flow repeats."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.base import FlowBijector, Sequential, added
from tfp_vaeflow.bijectors.conv1x1 import Conv1x1
from tfp_vaeflow.bijectors.coupling import ChannelSplit, Coupling
from tfp_vaeflow.bijectors.masked_conv import MaCowUnit
from tfp_vaeflow.bijectors.step_graphs import recomputing, run_shared
from tfp_vaeflow.config import CouplingConfig
from tfp_vaeflow.networks import conditioning_ndims
from tfp_vaeflow.noise import Initializer


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What the steps of one level have in common.

    Attributes:
      coupling: their coupling layers.
      conv1x1, heads: their 1x1 convolutions.
      kernel_size: (MaCow) `(kh, kw)` of their masked convolutions.
    """

    coupling: CouplingConfig
    conv1x1: str = "dense"
    heads: int = 1
    kernel_size: tuple[int, int] = (2, 3)


def _kind(config: StepConfig, *settings) -> tuple | None:
    """What steps that may share a graph have in common."""
    # In training batch norm changes its statistics; functions of tensors cannot.
    return None if config.coupling.norm == "batch" else (config, *settings)


def _step_members(
    channels: int,
    config: StepConfig,
    init: Initializer,
    name: str,
    units: Callable[[int], list[FlowBijector]] = lambda half: [],
) -> list[FlowBijector]:
    """The layers of a step; `units(1)`, `units(2)` precede its pairs of couplings."""
    event_ndims = 1 if config.coupling.dense else 3

    def actnorm(suffix):
        return ActNorm(channels, init, event_ndims, name=f"{name}_{suffix}")

    def coupling(pattern, order):
        split = ChannelSplit(pattern, order)
        label = f"{name}_coupling_{pattern}_{order}"
        return Coupling(channels, config.coupling, split, init, name=label)

    return [
        actnorm("actnorm1"),
        Conv1x1(
            channels,
            init,
            config.conv1x1,
            config.heads,
            event_ndims,
            name=f"{name}_conv1x1",
        ),
        *units(1),
        coupling("continuous", "up"),
        coupling("continuous", "down"),
        actnorm("actnorm2"),
        *units(2),
        coupling("skip", "up"),
        coupling("skip", "down"),
    ]


class _Step(Sequential):
    """A step; those built alike share a graph where there are `StepGraphs`.

    Attributes:
      kind: what those have in common; None for one that shares none.
    """

    def __init__(self, channels, config, init, name, units=lambda half: []):
        members = _step_members(channels, config, init, name, units)
        super().__init__(members, 1 if config.coupling.dense else 3, name, init.dtype)
        self.kind = _kind(config, type(self), channels)

    def forward_and_log_det_map(self, v, conditioning=None):
        return run_shared(
            self, self.kind, Sequential.forward_and_log_det_map, v, conditioning
        )

    def inverse_and_log_det_map(self, x, conditioning=None):
        value, maps = x, []
        for number, part in enumerate(self._parts()):
            kind = None if self.kind is None else (*self.kind, number)
            value, log_det_map = run_shared(
                part, kind, Sequential.inverse_and_log_det_map, value, conditioning
            )
            maps.append(log_det_map)
        return value, added(maps, self.dtype)

    def _parts(self) -> list[Sequential]:
        """What has a graph of its own: the step, or what one network belongs to.

        Recomputation keeps the input of each part, and while its gradient is computed
        all that is inside it. Inputs are small, insides large.
        """
        if not recomputing():
            return [self]
        groups = [[]]
        for member in self.members:
            groups[-1].append(member)
            if isinstance(member, (Coupling, MaCowUnit)):
                groups.append([])
        return [
            Sequential(group, self.forward_min_event_ndims, self.name, self.dtype)
            for group in groups[:-1]
        ]


class GlowStep(_Step):
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
        super().__init__(channels, config, init, name)


class MaCowStep(_Step):
    """One step of MaCow, on images: two units before each pair of couplings.

        x -> ActNorm -> 1x1 convolution
          -> unit -> unit -> coupling continuous/up -> continuous/down
          -> ActNorm
          -> unit -> unit -> coupling skip/up -> skip/down -> v

    Reference: Ma, Kong, Zhang, Hovy, *MaCow*, arXiv 1902.04208, section 3; paper,
    appendix.

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
        name: str = "macow_step",
    ):
        def units(half):
            return [
                MaCowUnit(
                    channels,
                    config.coupling,
                    config.kernel_size,
                    init,
                    name=f"{name}_units{half}_{number}",
                )
                for number in range(2)
            ]

        super().__init__(channels, config, init, name, units)


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
        super().__init__(3, name, init.dtype, conditioning_ndims(config.coupling))
        split = ChannelSplit("continuous", "up", factor)
        self.leaving = leaving
        self.kind = _kind(config, type(self), channels, factor, leaving)
        self.conv1x1 = Conv1x1(
            channels, init, config.conv1x1, config.heads, name=f"{name}_conv1x1"
        )
        self.coupling = Coupling(
            channels, config.coupling, split, init, name=f"{name}_coupling"
        )
        self.actnorm = ActNorm(leaving, init, name=f"{name}_actnorm")

    def forward_and_log_det_map(self, v, conditioning=None):
        return run_shared(self, self.kind, SplitPrior._run_forward, v, conditioning)

    def _run_forward(self, v, conditioning):
        kept, leaving = split_off(v, self.leaving)
        leaving, map_a = self.actnorm.forward_and_log_det_map(leaving)
        whole = tf.concat([kept, leaving], -1)
        whole, map_b = self.coupling.forward_and_log_det_map(whole, conditioning)
        x, map_c = self.conv1x1.forward_and_log_det_map(whole)
        return x, map_a + map_b + map_c

    def inverse_and_log_det_map(self, x, conditioning=None):
        return run_shared(self, self.kind, SplitPrior._run_inverse, x, conditioning)

    def _run_inverse(self, x, conditioning):
        whole, map_a = self.conv1x1.inverse_and_log_det_map(x)
        whole, map_b = self.coupling.inverse_and_log_det_map(whole, conditioning)
        kept, leaving = split_off(whole, self.leaving)
        leaving, map_c = self.actnorm.inverse_and_log_det_map(leaving)
        return tf.concat([kept, leaving], -1), map_a + map_b + map_c

    def initialize_on(self, values, conditioning):
        for layer in (self.conv1x1, self.coupling):
            layer.initialize_on(values, conditioning)
        leaving = take_off(values, self.leaving)
        self.actnorm.initialize_on(leaving, conditioning)
        put_back(values, leaving)


def split_off(x: tf.Tensor, last: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`[..., C]` -> the first `C - last` channels and the last `last` ones."""
    return tuple(tf.split(x, [x.shape[-1] - last, last], axis=-1))


def take_off(values: list[tf.Tensor], last: int) -> list[tf.Tensor]:
    """Takes the last channels of each value off, and returns them."""
    leaving = []
    for number, value in enumerate(values):
        values[number], part = split_off(value, last)
        leaving.append(part)
    return leaving


def put_back(values: list[tf.Tensor], leaving: list[tf.Tensor]) -> None:
    """The inverse of `take_off`."""
    for number, part in enumerate(leaving):
        values[number] = tf.concat([values[number], part], -1)
