"""Steps: the fixed sequences of layers that a flow repeats."""

from collections.abc import Callable

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.base import FlowBijector, added
from tfp_vaeflow.bijectors.channels import ChannelSplit, OnChannels
from tfp_vaeflow.bijectors.conv1x1 import Conv1x1
from tfp_vaeflow.bijectors.coupling import make_coupling
from tfp_vaeflow.bijectors.masked_conv import MaCowUnit
from tfp_vaeflow.bijectors.parametrized import Parametrized
from tfp_vaeflow.bijectors.sequences import Layers, Sequential
from tfp_vaeflow.config import StepConfig
from tfp_vaeflow.networks import Initializer


class FlowStep(Layers):
    """A step of the flow; steps built alike share a graph (see `compute.shared`).

    Args:
      layers, event_ndims, name, dtype: see `Layers`.
    """

    def forward_and_log_det_map(self, v, conditioning=None):
        return compute.shared(self, Sequential.forward_and_log_det_map, v, conditioning)

    def inverse_and_log_det_map(self, x, conditioning=None):
        value, maps = x, []
        for part in self._parts():
            value, log_det_map = compute.shared(
                part, Sequential.inverse_and_log_det_map, value, conditioning
            )
            maps.append(log_det_map)
        return value, added(maps, self.dtype)

    def _parts(self) -> list[Sequential]:
        """The parts with their own graphs: the step, or one per layer with networks.

        Recomputation keeps only the input of each part, which is small. It keeps the
        large values inside a part only while it computes the gradient of this part.
        """
        if not compute.mode().recompute:
            return [self]
        groups, rest = [], []
        for member in self.members:
            rest.append(member)
            if any(isinstance(m, Parametrized) for m in (member, *member.submodules)):
                groups.append(rest)
                rest = []
        groups[-1] += rest
        return [
            Sequential(group, self.forward_min_event_ndims, self.name, self.dtype)
            for group in groups
        ]


def _step_layers(
    channels: int,
    config: StepConfig,
    init: Initializer | int,
    name: str,
    units: Callable[[int], list[FlowBijector]] = lambda half: [],
) -> dict[str, FlowBijector]:
    """The layers of a step; `units(1)`, `units(2)` precede its pairs of couplings."""
    event_ndims = 1 if config.coupling.dense else 3
    layers = {}
    for half, pattern in ((1, "continuous"), (2, "skip")):
        layers[f"actnorm{half}"] = ActNorm(
            channels, init, event_ndims, name=f"{name}_actnorm{half}"
        )
        if half == 1:
            layers["conv1x1"] = Conv1x1(
                channels,
                init,
                config.conv1x1,
                config.heads,
                event_ndims,
                name=f"{name}_conv1x1",
            )
        for number, unit in enumerate(units(half)):
            layers[f"units{half}.{number}"] = unit
        for order in ("up", "down"):
            layers[f"coupling{half}_{order}"] = make_coupling(
                channels,
                config.coupling,
                ChannelSplit(pattern, order),
                init,
                name=f"{name}_coupling_{pattern}_{order}",
            )
    return layers


class GlowStep(FlowStep):
    """One step of the paper's Glow, on images or vectors.

        x -> ActNorm -> 1x1 convolution -> coupling continuous/up -> continuous/down
          -> ActNorm -> coupling skip/up -> skip/down -> v

    The four couplings of a step transform every channel twice, under two different
    partitions. Paper, section 3.2 and appendix.

    Example:

        >>> step = GlowStep(6, StepConfig(CouplingConfig(hidden=16)), init=0)
        >>> x = tf.random.normal([2, 4, 4, 6])
        >>> v, log_det = step.inverse_and_log_det(x)
        >>> log_det.shape  # of each image
        TensorShape([2])

    Args:
      channels: C.
      config: the layers' settings.
      init: source of initial weights, or a seed.
      name: prefix of the layers' names.
    """

    def __init__(
        self,
        channels: int,
        config: StepConfig,
        init: Initializer | int,
        name: str = "glow_step",
    ):
        init = Initializer.of(init)
        layers = _step_layers(channels, config, init, name)
        super().__init__(layers, 1 if config.coupling.dense else 3, name, init.dtype)


class MaCowStep(FlowStep):
    """One step of MaCow, on images: two units before each pair of couplings.

        x -> ActNorm -> 1x1 convolution
          -> unit -> unit -> coupling continuous/up -> continuous/down
          -> ActNorm
          -> unit -> unit -> coupling skip/up -> skip/down -> v

    Example:

        >>> step = MaCowStep(4, StepConfig(CouplingConfig(hidden=8)), init=0)
        >>> step.inverse(tf.random.normal([2, 4, 4, 4])).shape
        TensorShape([2, 4, 4, 4])

    Reference: Ma, Kong, Zhang, Hovy, *MaCow*, arXiv 1902.04208, section 3; paper,
    appendix.

    Args:
      channels: C.
      config: the layers' settings.
      init: source of initial weights, or a seed.
      name: prefix of the layers' names.
    """

    def __init__(
        self,
        channels: int,
        config: StepConfig,
        init: Initializer | int,
        name: str = "macow_step",
    ):
        init = Initializer.of(init)

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

        layers = _step_layers(channels, config, init, name, units)
        super().__init__(layers, 3, name, init.dtype)


class SplitPrior(FlowStep):
    """Prepares channels to leave the flow as part of the local code.

        x -> 1x1 convolution -> coupling continuous/up with `factor` -> [kept, leaving]
        v = [kept, ActNorm(leaving)]

    The coupling transforms the last `C // factor` channels given the others, then
    ActNorm normalises the last `leaving` channels. Together they model
    p(leaving | kept, z). The flow around this layer takes the leaving channels off.
    Paper, appendix; arXiv 1902.04208, section 3.

    Example:

        >>> config = StepConfig(CouplingConfig(hidden=16))
        >>> prior = SplitPrior(8, config, factor=2, leaving=4, init=0)
        >>> prior.kept
        4

    Attributes:
      kept: number of channels that stay; they come first.

    Args:
      channels: C.
      config: the layers' settings (the coupling has the prior's transform).
      factor: the split factor.
      leaving: number of channels that leave.
      init: source of initial weights, or a seed.
      name: prefix of the layers' names.
    """

    def __init__(
        self,
        channels: int,
        config: StepConfig,
        factor: int,
        leaving: int,
        init: Initializer | int,
        name: str = "split_prior",
    ):
        init = Initializer.of(init)
        split = ChannelSplit("continuous", "up", factor)
        self.kept = channels - leaving
        layers = {
            "conv1x1": Conv1x1(
                channels, init, config.conv1x1, config.heads, name=f"{name}_conv1x1"
            ),
            "coupling": make_coupling(
                channels, config.coupling, split, init, name=f"{name}_coupling"
            ),
            "leaving": OnChannels(
                ActNorm(leaving, init, name=f"{name}_actnorm"),
                self.kept,
                leaving,
                name=f"{name}_leaving",
            ),
        }
        super().__init__(layers, 3, name, init.dtype)
