"""The settings of a flow on images."""

import dataclasses

from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config.checks import Settings

ACTIVATIONS = ("elu", "relu", "leaky_relu")
TRANSFORMS = ("affine", "additive", "relu", "nlsq", "symm_elu")
CONDITIONINGS = ("global_linear", "local_linear", "global_attn", "code_map")
COUPLING_NORMS = ("none", "batch", "group", "instance")
CONV1X1_KINDS = ("dense", "lu", "split")
STEPS = ("glow", "macow")


@dataclasses.dataclass(frozen=True)
class CouplingConfig(Settings):
    """The settings that all coupling layers of one level share.

    Attributes:
      hidden: width of the coupling network.
      conditioning_dim: length of the conditioning vector, or channels of the
        conditioning map; 0 for none.
      conditioning: how the conditioning enters: `global_linear` (a vector, the same
        at every position), `global_attn` (a vector, attended to by the input),
        `code_map` (a vector that holds a small map, brought to the input's size) or
        `local_linear` (a map of the input's height and width).
      map_size: (`code_map` only) side of the small map.
      activation: `elu`, `relu` or `leaky_relu`.
      norm: inside the network: `none`, `batch`, `group` or `instance`.
      num_groups: (`group` only) a divisor of `hidden`.
      transform: elementwise transform of the second part: `affine`, `additive`,
        `relu`, `nlsq` or `symm_elu`; see `bijectors/elementwise.py`.
      alpha: range of the affine scale, `1 + alpha tanh(s / 2)`.
      dense: whether inputs are vectors `[B, D]` instead of images `[B, H, W, C]`.
    """

    hidden: int
    conditioning_dim: int = 0
    conditioning: str = "global_linear"
    map_size: int = 8
    activation: str = "elu"
    norm: str = "none"
    num_groups: int = 0
    transform: str = "affine"
    alpha: float = 1.0
    dense: bool = False

    def check(self):
        self._choose("conditioning", CONDITIONINGS)
        self._choose("activation", ACTIVATIONS)
        self._choose("norm", COUPLING_NORMS)
        self._choose("transform", TRANSFORMS)
        self._at_least("hidden", 1)
        self._at_least("conditioning_dim", 0)
        self._at_least("map_size", 1)
        cells = self.map_size**2
        if self.conditioning == "code_map" and (
            self.dense or self.conditioning_dim % cells
        ):
            raise UserError(
                f"CouplingConfig.conditioning_dim is {self.conditioning_dim} and dense "
                f"is {self.dense} with a code_map; expected a multiple of {cells}, the "
                "cells of the map, and images"
            )
        if self.norm == "group" and (
            self.num_groups < 1 or self.hidden % self.num_groups
        ):
            raise UserError(
                f"CouplingConfig.num_groups is {self.num_groups} for {self.hidden} "
                "channels; expected a divisor"
            )
        if not 0 < self.alpha <= 1:
            raise UserError(
                f"CouplingConfig.alpha is {self.alpha}; expected 0 < alpha <= 1, "
                "outside of which the affine coupling has no inverse"
            )


def _check_kernel_size(config: "StepConfig | FlowConfig") -> None:
    height, width = config.kernel_size
    if height < 1 or width < 1 or width % 2 == 0:
        raise UserError(
            f"{type(config).__name__}.kernel_size is {config.kernel_size}; expected "
            "(height, width) of at least 1, the width odd"
        )


@dataclasses.dataclass(frozen=True)
class StepConfig(Settings):
    """The settings that all steps of one level share.

    Attributes:
      coupling: of their couplings.
      conv1x1: kind of their 1x1 convolutions: `dense`, `lu` or `split`.
      heads: (`split` only) channel groups that share one matrix.
      kernel_size: (MaCow only) `(kh, kw)` of their masked convolutions.
    """

    coupling: CouplingConfig
    conv1x1: str = "dense"
    heads: int = 1
    kernel_size: tuple[int, int] = (2, 3)

    def check(self):
        self._choose("conv1x1", CONV1X1_KINDS)
        self._at_least("heads", 1)
        _check_kernel_size(self)


def _as_tuple(entry: int | tuple[int, ...]) -> tuple[int, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


@dataclasses.dataclass(frozen=True)
class FlowConfig(Settings):
    """A multi-scale flow of Glow or MaCow steps.

    Attributes:
      num_steps: one entry per level, fine to coarse. The first and the last are step
        counts; the others are lists of step counts, with a split prior after each.
      hidden: width of the coupling networks, one entry per level.
      factors: split factor of each internal level; a level with factor f hands
        `1 / f` of its channels to the local code after each of its step counts.
      step: `glow` or `macow`.
      kernel_size: (`macow` only) `(kh, kw)` of the masked convolutions that look up and
        down, kw odd; those that look sideways have `(kw, kh)`.
      activation: of the networks.
      transform: elementwise transform of the steps, as in `CouplingConfig`.
      prior_transform: elementwise transform of the split priors' couplings.
      alpha: range of the affine scale.
      conditioning: as in `CouplingConfig`. A map is squeezed along with the flow. With
        `code_map`, a dense layer makes the small map of z, for all couplings.
      map_size: (`code_map` only) side of the small map. At each level, a side of the
        image divides it or is a multiple of it.
      map_channels: (`code_map` only) of the small map.
      norm: of the coupling networks, as in `CouplingConfig`.
      num_groups: (norm `group` only) groups, one entry per level.
      conv1x1: kind of the invertible 1x1 convolutions: `dense`, `lu` or `split`.
      heads: (`split` only) channel groups that share one matrix, one entry per level.
    """

    num_steps: tuple[int | tuple[int, ...], ...]
    hidden: tuple[int, ...]
    factors: tuple[int, ...] = ()
    step: str = "glow"
    kernel_size: tuple[int, int] = (2, 3)
    activation: str = "elu"
    transform: str = "affine"
    prior_transform: str = "affine"
    alpha: float = 1.0
    conditioning: str = "global_linear"
    map_size: int = 8
    map_channels: int = 4
    norm: str = "none"
    num_groups: tuple[int, ...] = ()
    conv1x1: str = "dense"
    heads: tuple[int, ...] = ()

    def check(self):
        self._choose("step", STEPS)
        self._choose("conv1x1", CONV1X1_KINDS)
        self._choose("prior_transform", TRANSFORMS)
        self._at_least("map_channels", 1)
        self._check_steps()
        self._check_entries("hidden", self.levels)
        self._check_entries("factors", max(self.levels - 2, 0))
        self._check_entries("heads", self.levels, self.conv1x1 == "split")
        self._check_entries("num_groups", self.levels, self.norm == "group")
        _check_kernel_size(self)
        for level, factor in enumerate(self.factors, start=1):
            counts = len(self.num_steps[level])
            if not 0 < counts < factor:
                raise UserError(
                    f"FlowConfig.num_steps[{level}] has {counts} entries with split "
                    f"factor {factor}; expected 1 to {factor - 1}"
                )
        for level in range(self.levels):
            self.steps(level, 0)  # checks what the couplings share

    def _check_steps(self) -> None:
        levels = self.levels
        if levels == 0:
            raise UserError(
                "FlowConfig.num_steps is empty; expected an entry per level"
            )
        for level, steps in enumerate(self.num_steps):
            internal = 0 < level < levels - 1
            if internal != isinstance(steps, tuple):
                kind = "a list of step counts" if internal else "one step count"
                raise UserError(
                    f"FlowConfig.num_steps[{level}] is {steps!r}; expected {kind} "
                    f"(level {level} of {levels})"
                )
        counts = [n for entry in self.num_steps for n in _as_tuple(entry)]
        if min((*counts, *self.hidden, *self.heads, 1)) < 0 or 0 in self.heads:
            raise UserError(
                "FlowConfig.num_steps, hidden and heads are "
                f"{self.num_steps}, {self.hidden}, {self.heads}; expected no negative "
                "number, and heads of at least 1"
            )

    def _check_entries(self, field: str, expected: int, used: bool = True) -> None:
        """Checks the number of entries of a field; an unused field has none."""
        expected = expected if used else 0
        found = len(getattr(self, field))
        if found != expected:
            raise UserError(
                f"FlowConfig.{field} has {found} entries; expected {expected} with "
                f"{self.levels} levels, conv1x1 = {self.conv1x1!r} and norm = "
                f"{self.norm!r}"
            )

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.num_steps)

    @property
    def map_length(self) -> int:
        """The small map of `code_map` as a vector: how many numbers it has."""
        return self.map_size**2 * self.map_channels

    def steps(self, level: int, conditioning_dim: int) -> StepConfig:
        """The settings of the steps of one level.

        Args:
          level: 0 is the finest.
          conditioning_dim: of the whole flow; a map has `4^level` times as many
            channels at that level.
        """
        if self.conditioning == "local_linear":
            conditioning_dim *= 4**level
        if self.conditioning == "code_map" and conditioning_dim:
            conditioning_dim = self.map_length
        coupling = CouplingConfig(
            hidden=self.hidden[level],
            conditioning_dim=conditioning_dim,
            conditioning=self.conditioning,
            map_size=self.map_size,
            activation=self.activation,
            norm=self.norm,
            num_groups=self.num_groups[level] if self.norm == "group" else 0,
            transform=self.transform,
            alpha=self.alpha,
        )
        heads = self.heads[level] if self.heads else 1
        return StepConfig(coupling, self.conv1x1, heads, self.kernel_size)
