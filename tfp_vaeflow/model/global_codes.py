"""Where the global code z of an image comes from: an encoder, its label, or nowhere."""

import abc

import tensorflow as tf

from tfp_vaeflow.bijectors import CoarsePicture, FlowBijector
from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model.priors import (
    CategoricalPrior,
    FlowPrior,
    NormalPrior,
    build_prior,
    log_ratio,
)
from tfp_vaeflow.networks import Folding, Initializer, PrincipalComponents
from tfp_vaeflow.networks.encoders import GaussianEncoder, build_gaussian_encoder

# Tensors `[B, ...]` by name.
Statistics = dict[str, tf.Tensor]


class GlobalCode(tf.Module, abc.ABC):
    """The global code z of images: K samples of it are `[B, K, D]`.

    The methods start from the statistics of a batch: tensors `[B, ...]` by name. They
    hold all that is known of z before any noise, and everything that depends on the
    whole batch through batch norm.

    Attributes:
      encoder: gives `q(z | x)`; None where z is not inferred.
      prior: `p(z)`; None where there is no z.
    """

    encoder: GaussianEncoder | None = None
    prior: NormalPrior | FlowPrior | CategoricalPrior | None = None

    @abc.abstractmethod
    def statistics(
        self,
        x: tf.Tensor,
        *,
        labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> Statistics:
        """The statistics of images.

        Args:
          x: `[B, H, W, C]` in [-1, 1), without noise.
          labels: `[B]`, for class-conditional models; other models ignore them.
          training: whether batch norm uses (and updates from) the batch.
        """

    @abc.abstractmethod
    def mean(self, statistics: Statistics) -> tf.Tensor | None:
        """The mean of `q(z | x)`, or the code of the label: `[B, D]`."""

    @abc.abstractmethod
    def sample(
        self, statistics: Statistics, drawn: tf.Tensor | None
    ) -> tf.Tensor | None:
        """z `[B, K, D]` for noise of `draw`; `[B, 1, D]` where z is deterministic."""

    @abc.abstractmethod
    def kl(self, statistics: Statistics, z: tf.Tensor | None) -> tf.Tensor:
        """`KL(q(z | x) || p(z))` in nats, `[B]`, or its estimate at samples z."""

    def prior_loss(
        self, statistics: Statistics, drawn: tf.Tensor | None
    ) -> tf.Tensor | None:
        """`-log p(z)` in nats, `[B]`; only the prior's weights have a gradient of it.

        Args:
          statistics: of images.
          drawn: noise of `draw`, the mean over whose samples it is.

        Returns:
          None where p(z) has no weights, or z is not sampled.
        """
        return None

    @abc.abstractmethod
    def log_ratio(self, statistics: Statistics, z: tf.Tensor | None) -> tf.Tensor:
        """`log q(z | x) - log p(z)` in nats at samples z, `[B, K]` or `[B, 1]`."""

    def draw(
        self,
        seed: int | tf.Tensor,
        batch: int | tf.Tensor,
        num_samples: int,
        first: int | tf.Tensor,
    ) -> tf.Tensor | None:
        """The noise behind `sample`, `[B, K, D]`; see `noise.normal`."""
        return None

    def draw_prior(
        self, seed: int | tf.Tensor, batch: int | tf.Tensor, first: int | tf.Tensor
    ) -> tf.Tensor | None:
        """The noise behind `from_noise`, `[B, ...]`."""
        return None

    def from_noise(
        self, drawn: tf.Tensor | None, labels: tf.Tensor | None = None
    ) -> tf.Tensor | None:
        """z `[B, D]` from p(z), for noise of `draw_prior`.

        Args:
          drawn: the noise.
          labels: `[B]`, of a class-conditional model; None to draw them.
        """
        return None

    def initialize(
        self,
        x: list[tf.Tensor],
        labels: tf.Tensor | None,
        drawn: list[tf.Tensor | None],
    ) -> list[tf.Tensor | None]:
        """Data-dependent initialisation.

        Args:
          x: batches of images without noise.
          labels: of all images.
          drawn: noise of `draw` for each batch, one sample per image.

        Returns:
          z of each batch, `[B, D]`.
        """
        return [None] * len(x)

    def decoder_layers(self, init: Initializer) -> list[FlowBijector]:
        """The outermost layers of the decoder: what z alone says of an image."""
        return []

    def statistics_variables(self) -> list[tf.Variable]:
        """The trainable variables that statistics depend on."""
        return []

    def folded(self, folding: Folding) -> "GlobalCode":
        """The same with less to compute, for a trained model."""
        return self


class NoCode(GlobalCode):
    """No z: a plain flow."""

    def __init__(self):
        super().__init__(name="global_code")

    def statistics(self, x, *, labels=None, training=False):
        return {"kl": tf.zeros(tf.shape(x)[:1], x.dtype)}

    def mean(self, statistics):
        return None

    def sample(self, statistics, drawn):
        return None

    def kl(self, statistics, z):
        return statistics["kl"]

    def log_ratio(self, statistics, z):
        return statistics["kl"][:, tf.newaxis]


class InferredCode(GlobalCode):
    """z that an encoder infers from the image: `z ~ q(z | x)`, with a prior p(z).

    Its statistics are `posterior`, `[B, 2 D]`: mean and log-variance of z.

    Args:
      encoder: gives `q(z | x)`.
      prior: `p(z)`.
    """

    def __init__(self, encoder: GaussianEncoder, prior: NormalPrior | FlowPrior):
        super().__init__(name="global_code")
        self.encoder, self.prior = encoder, prior

    def statistics(self, x, *, labels=None, training=False):
        return {"posterior": self.encoder.statistics(x, training)}

    def _posterior(self, statistics):
        """`q(z | x)`, batch `[B, 1]`: the second dimension is for samples."""
        return self.encoder.posterior(statistics["posterior"][:, tf.newaxis])

    def mean(self, statistics):
        return self.encoder.posterior(statistics["posterior"]).distribution.loc

    def sample(self, statistics, drawn):
        normal = self._posterior(statistics).distribution
        return normal.loc + normal.scale * drawn

    def kl(self, statistics, z):
        return self.prior.kl(self._posterior(statistics), z)

    def prior_loss(self, statistics, drawn):
        if not self.prior.trainable_variables:
            return None
        z = tf.stop_gradient(self.sample(statistics, drawn))
        return -tf.reduce_mean(self.prior.distribution.log_prob(z), axis=1)

    def log_ratio(self, statistics, z):
        return log_ratio(self._posterior(statistics), self.prior.distribution, z)

    def draw(self, seed, batch, num_samples, first):
        shape = (num_samples, self.prior.dim)
        return noise.normal(seed, Stream.POSTERIOR, batch, shape, first)

    def draw_prior(self, seed, batch, first):
        return noise.normal(seed, Stream.PRIOR, batch, (self.prior.dim,), first)

    def from_noise(self, drawn, labels=None):
        return self.prior.from_noise(drawn)

    def initialize(self, x, labels, drawn):
        statistics = {"posterior": self.encoder.initialize(x)}
        z = self.sample(statistics, tf.concat(drawn, axis=0))[:, 0]
        self.prior.initialize(z)
        return tf.split(z, [len(batch) for batch in x])

    def decoder_layers(self, init):
        projection = self.encoder.projection
        return [CoarsePicture(projection.components, init)] if projection else []

    def statistics_variables(self):
        return list(self.encoder.trainable_variables)

    def folded(self, folding):
        return InferredCode(self.encoder.folded(), self.prior.folded(folding))


class CodeOfLabel(GlobalCode):
    """z that is a function of the image's label: a class-conditional flow.

    Its statistics are `z`, `[B, D]`, and `kl`, `[B]`: `-log p(label)`.

    Args:
      prior: the function, and p(label).
    """

    def __init__(self, prior: CategoricalPrior):
        super().__init__(name="global_code")
        self.prior = prior

    def statistics(self, x, *, labels=None, training=False):
        return {"z": self.prior.codes(labels), "kl": self.prior.kl(labels)}

    def mean(self, statistics):
        return statistics["z"]

    def sample(self, statistics, drawn):
        return statistics["z"][:, tf.newaxis]

    def kl(self, statistics, z):
        return statistics["kl"]

    def log_ratio(self, statistics, z):
        return statistics["kl"][:, tf.newaxis]

    def draw_prior(self, seed, batch, first):
        return noise.uniform(seed, Stream.LABELS, batch, (), first)

    def from_noise(self, drawn, labels=None):
        if labels is None:
            labels = self.prior.labels_from_noise(drawn)
        return self.prior.codes(labels)

    def initialize(self, x, labels, drawn):
        return tf.split(self.prior.codes(labels), [len(batch) for batch in x])

    def statistics_variables(self):
        return list(self.prior.trainable_variables)


def _components(config: ModelConfig, init: Initializer) -> PrincipalComponents | None:
    """What the first entries of z start as; None for nothing."""
    if not config.principal_components:
        return None
    return PrincipalComponents(
        config.image_shape, config.coarse_block, config.principal_components, init
    )


def build_global_code(config: ModelConfig, init: Initializer) -> GlobalCode:
    """The global code of a configuration."""
    if not config.latent_dim:
        return NoCode()
    encoder = None
    if config.has_posterior:
        encoder = build_gaussian_encoder(
            config.encoder,
            config.image_shape,
            config.latent_dim,
            init,
            _components(config, init),
        )
    prior = build_prior(config.prior, config.latent_dim, init)
    return CodeOfLabel(prior) if encoder is None else InferredCode(encoder, prior)
