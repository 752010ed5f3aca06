"""Multi-scale assembly: from a `FlowConfig` to one bijector on images."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector
from tfp_vaeflow.bijectors.channels import OnChannels
from tfp_vaeflow.bijectors.conditioned import ConditionedThrough
from tfp_vaeflow.bijectors.sequences import Repeated, Sequential
from tfp_vaeflow.bijectors.squeeze import Squeezed
from tfp_vaeflow.bijectors.steps import FlowStep, GlowStep, MaCowStep, SplitPrior
from tfp_vaeflow.config import FlowConfig
from tfp_vaeflow.networks import Initializer, Linear


class Block(NamedTuple):
    """Steps of one level, and the split prior after them, if there is one."""

    steps: Sequence[FlowStep]
    split_prior: SplitPrior | None


class MultiScaleFlow(Sequential):
    """The decoder's flow, v -> x, both `[B, H, W, C]`.

                 level 0                 an internal level                  top level
        x -> num_steps[0] steps -> squeeze -> [steps -> split prior] ... -> squeeze
          -> num_steps[-1] steps -> ... unsqueezed back -> v

    At an internal level, a split prior follows each group of steps. It takes off
    `1 / factor` of the remaining channels, and the factor drops by one each time. v
    holds all channels, un-squeezed: first those that stayed, then those that left.
    Paper, appendix; MaCow, arXiv 1902.04208, section 3.3 (the fine-grained multi-scale
    architecture).

    Example:

        >>> config = FlowConfig(num_steps=[1, [1], 1], hidden=[8, 8, 8], factors=[4])
        >>> flow = MultiScaleFlow(config, channels=3, conditioning_dim=8, init=0)
        >>> x, z = tf.random.normal([2, 8, 8, 3]), tf.random.normal([2, 8])
        >>> v = flow.inverse(x, conditioning=z)
        >>> again = flow.forward(tf.identity(v), conditioning=z)
        >>> np.allclose(again, x, atol=1e-3)
        True

    Attributes:
      levels: for each level, its list of `Block`s.

    Args:
      config: the architecture.
      channels: C of the images.
      conditioning_dim: length of z, or channels of a conditioning map; 0 for no
        conditioning.
      init: source of initial weights, or a seed.
      before: bijectors that x passes before the first level; they see z itself.
      name: names the layer.

    Raises:
      UserError: if a level has too few channels to split.
    """

    def __init__(
        self,
        config: FlowConfig,
        channels: int,
        conditioning_dim: int,
        init: Initializer | int,
        before: Sequence[FlowBijector] = (),
        name: str = "flow",
    ):
        init = Initializer.of(init)
        step_class = {"glow": GlowStep, "macow": MaCowStep}[config.step]
        top = config.levels - 1
        levels = []
        for level, counts in enumerate(config.num_steps):
            if level > 0:
                channels *= 4
            internal = 0 < level < top
            step_config = config.steps(level, conditioning_dim)
            prior_coupling = dataclasses.replace(
                step_config.coupling, transform=config.prior_transform
            )
            prior_config = dataclasses.replace(step_config, coupling=prior_coupling)
            blocks = []
            factor = config.factors[level - 1] if internal else 0
            leaving = channels // factor if internal else 0
            for number, count in enumerate(counts if internal else [counts]):
                label = f"{name}_level{level}_block{number}"

                def step(number, channels=channels, label=label, config=step_config):
                    name = f"{label}_step{number}"
                    return step_class(channels, config, init, name=name)

                steps = Repeated(step, count, 3, f"{label}_steps", init.dtype)
                split_prior = None
                if internal:
                    split_prior = SplitPrior(
                        channels,
                        prior_config,
                        factor - number,
                        leaving,
                        init,
                        name=f"{label}_split_prior",
                    )
                    channels -= leaving
                blocks.append((steps, split_prior))
            levels.append(blocks)
        members = self._assemble(levels, init, name)
        if conditioning_dim and config.conditioning == "code_map":
            shape = conditioning_dim, config.map_length
            code_map = Linear(shape, init, bias="zeros")
            inner = Sequential(members, 3, f"{name}_given_map", init.dtype)
            members = [ConditionedThrough(inner, code_map)]
        super().__init__([*before, *members], 3, name, init.dtype)
        self.levels = [
            [Block(steps.members, split_prior) for steps, split_prior in blocks]
            for blocks in levels
        ]

    def by_level(self, v: tf.Tensor) -> list[tf.Tensor]:
        """The parts of v by the level at which they left the flow, fine to coarse.

        Args:
          v: `[B, H, W, C]`.

        Returns:
          For each internal level, what its split priors took off; then what came out
          of the top level. Each `[B, h, w, c]`, at the resolution of its level.
        """
        parts = []
        for blocks in self.levels[1:-1]:
            v = tf.nn.space_to_depth(v, 2)
            kept = blocks[-1].split_prior.kept
            parts.append(v[..., kept:])
            v = v[..., :kept]
        if len(self.levels) > 1:
            v = tf.nn.space_to_depth(v, 2)
        return [*parts, v]

    @staticmethod
    def _assemble(levels, init, name) -> list[FlowBijector]:
        """Nests the levels into one another, from the top level down."""
        [(first, _)] = levels[0]
        if len(levels) == 1:
            return [first]
        [(inner, _)] = levels[-1]
        for level in range(len(levels) - 2, 0, -1):
            inner = Squeezed(inner, f"{name}_squeezed{level + 1}")
            for number, (steps, split_prior) in reversed(
                list(enumerate(levels[level]))
            ):
                label = f"{name}_level{level}_block{number}"
                kept = OnChannels(inner, 0, split_prior.kept, f"{label}_kept")
                members = [steps, split_prior, kept]
                inner = Sequential(members, 3, label, init.dtype)
        return [first, Squeezed(inner, f"{name}_squeezed1")]
