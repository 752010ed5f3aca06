"""Encoders: ResNets that turn an image into a posterior of z or into a map."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow.config import EncoderConfig
from tfp_vaeflow.networks import (
    FixedLinear,
    PrincipalComponents,
    Projection,
    WeightNormLinear,
)
from tfp_vaeflow.networks.initializer import Initializer
from tfp_vaeflow.networks.resnets import (
    build_global_resnet,
    build_local_resnet,
    folded_resnet,
    outputs_of,
    run_resnet,
)

tfd = tfp.distributions

# Standard deviation of the head's outputs after data-dependent initialisation: with
# mean and log-variance both close to 0, z starts at N(0, 1).
INITIAL_SCALE = 0.01


class LocalEncoder(tf.Module):
    """Turns an image into a map, for a dequantizer.

    Args:
      resnet: `[B, H, W, C]` -> `[B, H, W, out_planes]`.
    """

    def __init__(self, resnet: keras.Model):
        super().__init__(name="local_encoder")
        self.resnet = resnet
        # tf.Module does not look into Keras models for variables.
        self._keras_variables = [variable.value for variable in self.resnet.variables]

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[B, H, W, C]` in [-1, 1) -> `[B, H, W, out_planes]`."""
        return run_resnet(self.resnet, x, training)

    def folded(self) -> "LocalEncoder":
        """The same function with less to compute, for a trained model."""
        return LocalEncoder(folded_resnet(self.resnet))


class GaussianEncoder(tf.Module):
    """The posterior `q(z | x) = N(mean(x), std(x)^2)` of the global code.

        [mean, log_variance] = weight-normed dense(resnet(x)) [+ [projection(x), 0]]
        std = exp(log_variance / 2)

    Args:
      resnet: `[B, H, W, C]` -> `[B, F]`.
      head: the dense layer, `[F, 2 D]`.
      projection: adds principal components of coarse pictures to the mean; None for
        nothing.
    """

    def __init__(
        self,
        resnet: keras.Model,
        head: WeightNormLinear | FixedLinear,
        projection: Projection | None = None,
    ):
        super().__init__(name="encoder")
        self.resnet = resnet
        self.head = head
        self.projection = projection
        # tf.Module does not look into Keras models for variables.
        self._keras_variables = [variable.value for variable in self.resnet.variables]

    def statistics(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[B, H, W, C]` in [-1, 1) -> mean and log-variance of z, `[B, 2 D]`."""
        found = self.head(run_resnet(self.resnet, x, training))
        return found if self.projection is None else found + self._projected(x)

    def _projected(self, x: tf.Tensor) -> tf.Tensor:
        """What the projection adds to the statistics, `[B, 2 D]`."""
        return self.projection(x, self.head.bias.shape[0])

    @staticmethod
    def posterior(statistics: tf.Tensor) -> tfd.Independent:
        """`[B, 2 D]` -> a distribution, batch `[B]`, event `[D]`."""
        mean, log_variance = tf.split(statistics, 2, axis=-1)
        return tfd.Independent(tfd.Normal(mean, tf.exp(log_variance / 2)), 1)

    def __call__(self, x: tf.Tensor, training: bool = False) -> tfd.Independent:
        """`[B, H, W, C]` in [-1, 1) -> a distribution, batch `[B]`, event `[D]`."""
        return self.posterior(self.statistics(x, training))

    def initialize(self, batches: list[tf.Tensor]) -> tf.Tensor:
        """Data-dependent initialisation; returns the `statistics` of all images."""
        seen = tf.concat(outputs_of(self.resnet, batches), axis=0)
        found = self.head.initialize(seen, INITIAL_SCALE)
        if self.projection is None:
            return found
        log_variance = self.projection.initialize(batches)
        dim = found.shape[-1] // 2
        more = tf.pad(log_variance, [[dim, dim - log_variance.shape[0]]])
        self.head.bias.assign_add(more)
        return found + more + tf.concat(list(map(self._projected, batches)), axis=0)

    def folded(self) -> "GaussianEncoder":
        """The same function with less to compute, for a trained model."""
        head = self.head.folded(self.head.bias.dtype)
        return GaussianEncoder(folded_resnet(self.resnet), head, self.projection)


def build_local_encoder(
    config: EncoderConfig, image_shape: tuple[int, int, int], init: Initializer
) -> LocalEncoder:
    """The local encoder of a configuration, for images `(H, W, C)`."""
    return LocalEncoder(build_local_resnet(config, image_shape, init))


def build_gaussian_encoder(
    config: EncoderConfig,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    init: Initializer,
    components: PrincipalComponents | None = None,
) -> GaussianEncoder:
    """The global encoder of a configuration.

    Args:
      config: of the ResNet.
      image_shape: `(H, W, C)`.
      latent_dim: D, the length of z.
      init: source of initial weights.
      components: what the first entries of z start as; None for nothing.
    """
    resnet = build_global_resnet(config, image_shape, init)
    head = WeightNormLinear((resnet.output_shape[-1], 2 * latent_dim), init)
    projection = None if components is None else Projection(components, init)
    return GaussianEncoder(resnet, head, projection)
