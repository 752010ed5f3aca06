"""The maths of one batch by a few graphs, each traced once for batches of any size.

A graph of a large model takes as much memory as a batch of images. So there is one for
each network, and one for each direction of the flow, that all methods share; what lies
between them is a few operations, done one by one.
"""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfp_vaeflow.bijectors import StepGraphs
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.stack_traces import WithoutStackTraces


class VAEFlowGraphs(VAEFlowCore):
    """A model that works on one batch by graphs: to be used, not to be trained.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(config, seed)
        self._step_graphs = StepGraphs()
        pixels = tf.TensorSpec([None, *config.image_shape], tf.uint8)
        values = tf.TensorSpec([None, *config.image_shape], tf.float32)
        drawn = tf.TensorSpec([None, 1, *config.image_shape], tf.float32)
        code = [values]
        if config.latent_dim:
            code.append(tf.TensorSpec([None, config.latent_dim], tf.float32))
        self._statistics = self.traced(
            lambda images: self.encoder.statistics(self.noise_free(images)), [pixels]
        )
        self._dequantize = self.traced(self._dequantized_once, [pixels, drawn])
        self._inverse_graph = self.traced(self._inverse_by_layers, code)
        self._forward_graph = self.traced(self.decode_batch, code)
        self._is_by_layers = False
        self._losses = self.traced(self.losses_batch)

    def traced(
        self, function: Callable, signature: list[tf.TensorSpec] | None = None
    ) -> Callable:
        """A `tf.function` that uses this model, not to train it.

        Steps of the flow that are alike share a graph, also with the other functions
        that are made here.
        """

        def run(*args):
            with WithoutStackTraces(), self._step_graphs.used():
                return function(*args)

        return tf.function(run, signature, autograph=False, reduce_retracing=True)

    @contextlib.contextmanager
    def by_layers(self) -> Iterator[None]:
        """Within, codes and images are computed layer by layer, and not by graphs.

        That takes more time, but none of the memory that a graph keeps: for what is
        done now and then beside training. Encoders stay graphs: an eager Keras model
        holds what all of its layers give.
        """
        self._is_by_layers = True
        try:
            yield
        finally:
            self._is_by_layers = False

    def _inverse_by_layers(self, x, z=None):
        return self.flow.inverse_and_log_det(x, z)[0]

    def _inverse(self, x: tf.Tensor, z: tf.Tensor | None) -> tf.Tensor:
        if self._is_by_layers:
            return self._inverse_by_layers(x, z)
        return self._inverse_graph(*_given(x, z))

    def _decode(self, z: tf.Tensor | None, v: tf.Tensor) -> tf.Tensor:
        """`decode` for one batch."""
        if self._is_by_layers:
            return self.decode_batch(v, z)
        return self._forward_graph(*_given(v, z))

    def _dequantized_once(self, images, drawn):
        features = {}
        if self.config.dequantizer is not None:
            features["local"] = self.dequantizer.encoder(self.noise_free(images))
        return self._dequantized(images, drawn, features)[0][:, 0]

    def _posterior(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`posterior` for one batch."""
        normal = self.encoder.posterior(self._statistics(images)).distribution
        return normal.loc, normal.scale

    def _encode(
        self, images: tf.Tensor, u: float, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """`encode` for one batch."""
        z = None
        if self.encoder is not None:
            z, _ = self._posterior(images)
        elif self.prior is not None:
            z = self.prior.codes(labels)
        return z, self._inverse(self.placed(images, u), z)

    def _flow_inputs(
        self,
        first: tf.Tensor,
        images: tf.Tensor,
        labels: tf.Tensor | None = None,
        *,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """`flow_inputs` for one batch, from position `first` on."""
        draws = self.draw_loss_noise(seed, len(images), 1, first)
        z = None
        if self.encoder is not None:
            mean, stddev = self._posterior(images)
            z = mean + stddev * draws.posterior[:, 0]
        elif self.prior is not None:
            z = self.prior.codes(labels)
        return self._dequantize(images, draws.dequantization), z

    def _reconstruct(self, *args, seed: tf.Tensor) -> tf.Tensor:
        """`reconstruct` for one batch; arguments as of `_flow_inputs`."""
        x, z = self._flow_inputs(*args, seed=seed)
        return self._decode(z, self._inverse(x, z))


def _given(value: tf.Tensor, z: tf.Tensor | None) -> list[tf.Tensor]:
    """The arguments of a function that takes no z where there is none."""
    return [value] if z is None else [value, z]
