"""What a model is made of."""

import dataclasses
import math

from tfp_vaeflow.config.checks import Settings
from tfp_vaeflow.errors import UserError

ACTIVATIONS = ("elu", "relu", "leaky_relu")
TRANSFORMS = ("affine", "additive")
CONV1X1_KINDS = ("dense", "lu", "split")
ENCODER_NORMS = ("batch", "group")
PRIORS = ("normal", "flow")


@dataclasses.dataclass(frozen=True)
class CouplingConfig(Settings):
    """What every coupling layer of one level has in common.

    Attributes:
      hidden: width of the coupling network.
      conditioning_dim: length of the conditioning vector; 0 for none.
      activation: `elu`, `relu` or `leaky_relu`.
      transform: elementwise transform of the second part, `affine` or `additive`.
      alpha: range of the affine scale, `1 + alpha tanh(s / 2)`.
      dense: whether inputs are vectors `[B, D]` instead of images `[B, H, W, C]`.
    """

    hidden: int
    conditioning_dim: int = 0
    activation: str = "elu"
    transform: str = "affine"
    alpha: float = 1.0
    dense: bool = False

    def check(self):
        self._choose("activation", ACTIVATIONS)
        self._choose("transform", TRANSFORMS)
        self._at_least("hidden", 1)
        if not 0 < self.alpha <= 1:
            raise UserError(
                f"CouplingConfig.alpha is {self.alpha}; expected 0 < alpha <= 1, "
                "outside of which the affine coupling has no inverse"
            )


def _as_tuple(entry: int | tuple[int, ...]) -> tuple[int, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


@dataclasses.dataclass(frozen=True)
class FlowConfig(Settings):
    """The multi-scale Glow decoder.

    Attributes:
      num_steps: one entry a level, fine to coarse. The first and the last are step
        counts; those between are lists of step counts with a split prior after each.
      hidden: width of the coupling networks, one entry a level.
      factors: split factor of each internal level; a level with factor f hands
        `1 / f` of its channels to the local code after each of its step counts.
      activation: of the coupling networks.
      transform: elementwise transform of the steps' couplings.
      prior_transform: elementwise transform of the split priors' couplings.
      alpha: range of the affine scale.
      conv1x1: kind of the invertible 1x1 convolutions: `dense`, `lu` or `split`.
      heads: (`split` only) channel groups that share one matrix, one entry a level.
    """

    num_steps: tuple[int | tuple[int, ...], ...]
    hidden: tuple[int, ...]
    factors: tuple[int, ...] = ()
    activation: str = "elu"
    transform: str = "affine"
    prior_transform: str = "affine"
    alpha: float = 1.0
    conv1x1: str = "dense"
    heads: tuple[int, ...] = ()

    def check(self):
        self._choose("conv1x1", CONV1X1_KINDS)
        self._choose("prior_transform", TRANSFORMS)
        levels = self.levels
        if levels == 0:
            raise UserError("FlowConfig.num_steps is empty; expected one entry a level")
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
        for field, expected in (("hidden", levels), ("factors", max(levels - 2, 0))):
            if len(getattr(self, field)) != expected:
                raise UserError(
                    f"FlowConfig.{field} has {len(getattr(self, field))} entries; "
                    f"num_steps has {levels} levels, so expected {expected}"
                )
        if (self.conv1x1 == "split") != bool(self.heads):
            raise UserError(
                f"FlowConfig.heads is {self.heads} with conv1x1 = {self.conv1x1!r}; "
                "heads goes with conv1x1 = 'split', one entry a level"
            )
        if self.heads and len(self.heads) != levels:
            raise UserError(
                f"FlowConfig.heads has {len(self.heads)} entries; expected {levels}"
            )
        for level, factor in enumerate(self.factors, start=1):
            counts = len(self.num_steps[level])
            if not 0 < counts < factor:
                raise UserError(
                    f"FlowConfig.num_steps[{level}] has {counts} entries with split "
                    f"factor {factor}; expected 1 to {factor - 1}"
                )
        self.coupling(0, 0)  # checks what the couplings share

    @property
    def levels(self) -> int:
        return len(self.num_steps)

    def coupling(self, level: int, conditioning_dim: int) -> CouplingConfig:
        """The couplings of the steps of one level."""
        return CouplingConfig(
            hidden=self.hidden[level],
            conditioning_dim=conditioning_dim,
            activation=self.activation,
            transform=self.transform,
            alpha=self.alpha,
        )


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Settings):
    """The ResNet that gives the posterior of the global code z.

    Attributes:
      planes: channels of the residual blocks, one entry a level; each level halves
        the resolution.
      out_planes: channels of the last convolution, before the dense layer.
      activation: `elu`, `relu` or `leaky_relu`.
      norm: `batch` or `group`.
      num_groups: (`group` only) groups, one entry a level.
    """

    planes: tuple[int, ...]
    out_planes: int = 8
    activation: str = "elu"
    norm: str = "batch"
    num_groups: tuple[int, ...] = ()

    def check(self):
        self._choose("activation", ACTIVATIONS)
        self._choose("norm", ENCODER_NORMS)
        if not self.planes:
            raise UserError("EncoderConfig.planes is empty; expected one entry a level")
        if min(*self.planes, self.out_planes) < 1:
            raise UserError(
                f"EncoderConfig.planes and out_planes are {self.planes} and "
                f"{self.out_planes}; expected at least 1 everywhere"
            )
        expected = len(self.planes) if self.norm == "group" else 0
        if len(self.num_groups) != expected:
            raise UserError(
                f"EncoderConfig.num_groups has {len(self.num_groups)} entries with "
                f"norm = {self.norm!r}; expected {expected}"
            )
        for planes, groups in zip(self.planes, self.num_groups):
            if groups < 1 or planes % groups:
                raise UserError(
                    f"EncoderConfig.num_groups has {groups} for {planes} planes; "
                    "expected a divisor"
                )


@dataclasses.dataclass(frozen=True)
class PriorConfig(Settings):
    """The prior p(z): a standard normal, or a flow on top of one.

    Attributes:
      kind: `normal` or `flow`.
      num_steps: (`flow`) steps of the flow.
      hidden: (`flow`) width of its coupling networks.
      activation, transform, alpha: (`flow`) as in `FlowConfig`.
    """

    kind: str = "flow"
    num_steps: int = 2
    hidden: int = 256
    activation: str = "elu"
    transform: str = "affine"
    alpha: float = 1.0

    def check(self):
        self._choose("kind", PRIORS)
        self._at_least("num_steps", 1)
        self.coupling()

    def coupling(self) -> CouplingConfig:
        return CouplingConfig(
            hidden=self.hidden,
            activation=self.activation,
            transform=self.transform,
            alpha=self.alpha,
            dense=True,
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Settings):
    """Everything that a model is built from.

    Attributes:
      image_shape: `(height, width, channels)`.
      n_bins: levels a pixel is quantised to: 256 for 8 bits, 32 for 5 bits, or any
        integer from 2 to 256.
      latent_dim: length of the global code z; 0 builds the flow alone (plain Glow).
      flow: the decoder.
      encoder, prior: posterior and prior of z; unused when `latent_dim` is 0.
      allow_tf32: let GPUs use TF32 in convolutions and matrix products. Faster, but
        `decode(encode(x))` is then no longer exact.
    """

    image_shape: tuple[int, int, int]
    n_bins: int
    latent_dim: int
    flow: FlowConfig
    encoder: EncoderConfig | None = None
    prior: PriorConfig | None = None
    allow_tf32: bool = False

    def check(self):
        if min(self.image_shape) < 1:
            raise UserError(
                f"ModelConfig.image_shape is {self.image_shape}; "
                "expected (height, width, channels)"
            )
        if not 2 <= self.n_bins <= 256:
            raise UserError(
                f"ModelConfig.n_bins is {self.n_bins}; expected an integer from 2 to "
                "256 (2**bits, or the levels of the data)"
            )
        self._at_least("latent_dim", 0)
        if self.latent_dim and (self.encoder is None or self.prior is None):
            raise UserError(
                f"ModelConfig.latent_dim is {self.latent_dim}, but there is no encoder "
                "or no prior; give both, or latent_dim = 0 for a model without z"
            )
        self._check_halvings("FlowConfig.num_steps", self.flow.levels - 1)
        if self.latent_dim:
            self._check_halvings("EncoderConfig.planes", len(self.encoder.planes))
        if self.image_shape[2] == 1 and self.flow.num_steps[0] > 0:
            raise UserError(
                f"FlowConfig.num_steps[0] is {self.flow.num_steps[0]} on grey images: "
                "one channel cannot be split in two; expected 0"
            )

    def _check_halvings(self, field: str, halvings: int) -> None:
        height, width, _ = self.image_shape
        if height % 2**halvings or width % 2**halvings:
            raise UserError(
                f"images are {height}x{width}, but {field} halves the sides {halvings} "
                f"times; expected sides divisible by {2**halvings}: resize the images "
                "or take fewer levels"
            )

    @property
    def num_dims(self) -> int:
        """D = height x width x channels."""
        return math.prod(self.image_shape)


def model_config_from_dict(values: dict) -> ModelConfig:
    """The inverse of `dataclasses.asdict` for a `ModelConfig` (from JSON)."""
    parts = {"flow": FlowConfig, "encoder": EncoderConfig, "prior": PriorConfig}
    try:
        values = dict(values)
        for field, part in parts.items():
            if values.get(field) is not None:
                values[field] = part(**values[field])
        return ModelConfig(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"not the description of a model: {error}") from error
