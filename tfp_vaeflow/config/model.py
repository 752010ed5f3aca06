"""The settings of a model."""

import dataclasses
import math

from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config.checks import Settings
from tfp_vaeflow.config.flow import ACTIVATIONS, CouplingConfig, FlowConfig, StepConfig

ENCODER_NORMS = ("batch", "group")
# A coarse picture has at most this many numbers: their covariance is a square matrix.
_LARGEST_COARSE = 4096
# Images that principal components are found from, at least.
_IMAGES_PER_COMPONENT = 2
PRIORS = ("normal", "flow", "categorical")


def check_enough_images(images: int, components: int) -> None:
    """Checks that principal components can be found from so many images.

    Raises:
      UserError: if there are less than two images per component.
    """
    least = _IMAGES_PER_COMPONENT * components
    if images < least:
        raise UserError(
            f"{images} images are there to find {components} principal components; "
            f"expected at least {least}: lower ModelConfig.principal_components"
        )


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Settings):
    """A ResNet for the posterior of the global code, or for a dequantizer's map.

    Attributes:
      planes: channels of the residual blocks, one entry per level; each level halves
        the resolution.
      out_planes: channels of the last convolution, before the dense layer; in a
        dequantizer's encoder, channels of the feature map.
      activation: `elu`, `relu` or `leaky_relu`.
      norm: `batch` or `group`.
      num_groups: (`group` only) groups, one entry per level.
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
            raise UserError(
                "EncoderConfig.planes is empty; expected an entry per level"
            )
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
    """The prior p(z): a standard normal, a flow on top of one, or a code per class.

    Attributes:
      kind: `normal`, `flow` or `categorical`. With the last the model is
        class-conditional: z is a function of the label, and there is no encoder.
      num_steps: (`flow`) steps of the flow.
      hidden: (`flow`) width of its coupling networks.
      activation: (`flow`, `categorical`) as in `FlowConfig`.
      transform, alpha: (`flow`) as in `FlowConfig`.
      num_classes: (`categorical`) number of labels, which are 0 to num_classes - 1.
      class_probabilities: (`categorical`) p(label), one entry per class; without them
        all classes are equally probable.
    """

    kind: str = "flow"
    num_steps: int = 2
    hidden: int = 256
    activation: str = "elu"
    transform: str = "affine"
    alpha: float = 1.0
    num_classes: int = 0
    class_probabilities: tuple[float, ...] = ()

    def check(self):
        self._choose("kind", PRIORS)
        self._at_least("num_steps", 1)
        self.steps()
        if (self.kind == "categorical") != (self.num_classes > 0):
            raise UserError(
                f"PriorConfig.num_classes is {self.num_classes} with kind = "
                f"{self.kind!r}; expected the number of labels with 'categorical', "
                "otherwise 0"
            )
        if not self.class_probabilities:
            return
        probabilities = self.class_probabilities
        if len(probabilities) != self.num_classes:
            raise UserError(
                f"PriorConfig.class_probabilities has {len(probabilities)} entries; "
                f"expected {self.num_classes}, one per class"
            )
        total = math.fsum(probabilities)
        if not (min(probabilities) > 0 and math.isclose(total, 1, rel_tol=1e-4)):
            raise UserError(
                f"PriorConfig.class_probabilities are {probabilities} with the sum "
                f"{total}; expected positive numbers with the sum 1"
            )

    def steps(self) -> StepConfig:
        """The settings of the steps of a prior flow."""
        coupling = CouplingConfig(
            hidden=self.hidden,
            activation=self.activation,
            transform=self.transform,
            alpha=self.alpha,
            dense=True,
        )
        return StepConfig(coupling)


@dataclasses.dataclass(frozen=True)
class DequantizerConfig(Settings):
    """A variational dequantizer: q(u | x) is a flow, given a map of the image.

    Attributes:
      flow: from noise to u, conditioned `local_linear`.
      encoder: gives the map, of `out_planes` channels.
    """

    flow: FlowConfig
    encoder: EncoderConfig

    def check(self):
        if self.flow.conditioning != "local_linear":
            raise UserError(
                f"DequantizerConfig.flow has conditioning = "
                f"{self.flow.conditioning!r}; expected 'local_linear'"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Settings):
    """Everything that a model is built from.

    Attributes:
      image_shape: `(height, width, channels)`, with 1 channel (grey) or 3 (RGB).
      n_bins: number of levels of a quantised pixel: 256 for 8 bits, 32 for 5 bits, or
        any integer from 2 to 256.
      latent_dim: length of the global code z; 0 builds the flow alone (plain Glow).
      flow: the decoder.
      encoder, prior: posterior and prior of z; unused when `latent_dim` is 0. A
        categorical prior needs no encoder.
      dequantizer: q(u | x); None for uniform noise.
      principal_components: how many of the first entries of z start as principal
        components of coarse pictures; 0 for none. The decoder then adds the coarse
        picture of z to what its flow gives, so that z holds the layout and the colours
        of an image. See `bijectors.CoarsePicture`.
      coarse_block: a coarse picture has the means of blocks of this many pixels a side.
    """

    image_shape: tuple[int, int, int]
    n_bins: int
    latent_dim: int
    flow: FlowConfig
    encoder: EncoderConfig | None = None
    prior: PriorConfig | None = None
    dequantizer: DequantizerConfig | None = None
    principal_components: int = 0
    coarse_block: int = 2

    def check(self):
        if min(self.image_shape) < 1 or self.image_shape[2] not in (1, 3):
            raise UserError(
                f"ModelConfig.image_shape is {self.image_shape}; expected (height, "
                "width, channels) with 1 channel (grey) or 3 (RGB)"
            )
        if not 2 <= self.n_bins <= 256:
            raise UserError(
                f"ModelConfig.n_bins is {self.n_bins}; expected an integer from 2 to "
                "256 (2**bits, or the levels of the data)"
            )
        self._at_least("latent_dim", 0)
        if self.latent_dim and self.prior is None:
            raise UserError(
                f"ModelConfig.latent_dim is {self.latent_dim}, but there is no prior; "
                "give one, or latent_dim = 0 for a model without z"
            )
        if self.has_posterior and self.encoder is None:
            raise UserError(
                f"ModelConfig.latent_dim is {self.latent_dim}, but there is no "
                "encoder; give one, or a categorical prior, or latent_dim = 0 for a "
                "model without z"
            )
        if self.flow.conditioning == "local_linear":
            raise UserError(
                "FlowConfig.conditioning is 'local_linear', but z is a vector; "
                "expected 'global_linear', 'global_attn' or 'code_map' (a "
                "dequantizer's flow takes maps)"
            )
        self._check_halvings("FlowConfig.num_steps", self.flow.levels - 1)
        self._check_map()
        self._check_components()
        if self.has_posterior:
            self._check_halvings("EncoderConfig.planes", len(self.encoder.planes))
        self._check_grey("FlowConfig", self.flow)
        if self.dequantizer is not None:
            part = "DequantizerConfig"
            flow, encoder = self.dequantizer.flow, self.dequantizer.encoder
            self._check_halvings(f"{part}.flow.num_steps", flow.levels - 1)
            self._check_halvings(f"{part}.encoder.planes", len(encoder.planes))
            self._check_grey(f"{part}.flow", flow)

    def _check_map(self) -> None:
        size = self.flow.map_size
        if self.flow.conditioning != "code_map" or not self.latent_dim:
            return
        for level in range(self.flow.levels):
            for side in self.image_shape[:2]:
                side //= 2**level
                if side % size and size % side:
                    raise UserError(
                        f"FlowConfig.map_size is {size}, but a side of the images is "
                        f"{side} pixels at level {level}; expected a divisor or a "
                        "multiple of it"
                    )

    def _check_components(self) -> None:
        count, block = self.principal_components, self.coarse_block
        self._at_least("principal_components", 0)
        self._at_least("coarse_block", 1)
        if not count:
            return
        if not self.has_posterior:
            raise UserError(
                f"ModelConfig.principal_components is {count}, but no encoder infers "
                "z; expected 0"
            )
        height, width, channels = self.image_shape
        if height % block or width % block:
            raise UserError(
                f"ModelConfig.coarse_block is {block} for images of {height}x{width}; "
                "expected a divisor of both sides"
            )
        size = height // block * (width // block) * channels
        most = min(self.latent_dim, size - 1)
        if count > most:
            raise UserError(
                f"ModelConfig.principal_components is {count}, with latent_dim = "
                f"{self.latent_dim} and coarse pictures of {size} numbers; expected at "
                f"most {most}"
            )
        if size > _LARGEST_COARSE:
            raise UserError(
                f"ModelConfig.coarse_block is {block}, which makes coarse pictures of "
                f"{size} numbers; expected at most {_LARGEST_COARSE}: take larger "
                "blocks"
            )

    def _check_grey(self, name: str, flow: FlowConfig) -> None:
        if self.image_shape[2] == 1 and flow.num_steps[0] > 0:
            raise UserError(
                f"{name}.num_steps[0] is {flow.num_steps[0]} on grey images: "
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
    def is_class_conditional(self) -> bool:
        """Whether z is a function of the label."""
        return self.latent_dim > 0 and self.prior.kind == "categorical"

    @property
    def has_posterior(self) -> bool:
        """Whether z has a posterior q(z | x), given by the encoder."""
        return self.latent_dim > 0 and not self.is_class_conditional

    @property
    def least_images(self) -> int:
        """Images that principal components are found from, at least."""
        return _IMAGES_PER_COMPONENT * self.principal_components

    @property
    def num_dims(self) -> int:
        """D = height x width x channels."""
        return math.prod(self.image_shape)


def model_config_from_dict(values: dict) -> ModelConfig:
    """The inverse of `dataclasses.asdict` for a `ModelConfig` (from JSON)."""
    parts = {"flow": FlowConfig, "encoder": EncoderConfig, "prior": PriorConfig}

    def build(values: dict) -> dict:
        made = {
            field: part(**values[field])
            for field, part in parts.items()
            if values.get(field) is not None
        }
        return {**values, **made}

    try:
        values = build(values)
        if values.get("dequantizer") is not None:
            values["dequantizer"] = DequantizerConfig(**build(values["dequantizer"]))
        return ModelConfig(**values)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"not the description of a model: {error}") from error
