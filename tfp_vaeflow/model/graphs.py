"""The maths of one batch as graphs, each traced once for batches of any size."""

from collections.abc import Callable

import tensorflow as tf

from tfp_vaeflow.bijectors import StepGraphs
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model.core import VAEFlowCore


class VAEFlowGraphs(VAEFlowCore):
    """The functions of a model that is used, not trained, as graphs.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(config, seed)
        self._step_graphs = StepGraphs()
        images = tf.TensorSpec([None, *config.image_shape], tf.uint8)
        v = tf.TensorSpec([None, *config.image_shape], tf.float32)
        z, labels = [], []
        if config.latent_dim:
            z = [tf.TensorSpec([None, config.latent_dim], tf.float32)]
        if config.is_class_conditional:
            labels = [tf.TensorSpec([None], tf.int64)]
        scalar = tf.TensorSpec([], tf.float32)
        noise_of = [tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int64)]
        self._encode = self.traced(self.encode_batch, [images, scalar, *labels])
        self._decode_codes = self.traced(self.decode_batch, [v, *z])
        self._posterior = self.traced(self.posterior_batch, [images])
        self._losses = self.traced(self.losses_batch)
        sampled = [images, *noise_of, *labels]
        self._flow_inputs = self.traced(self.flow_inputs_batch, sampled)
        self._reconstruct = self.traced(self.reconstruct_batch, sampled)

    def traced(
        self, function: Callable, signature: list[tf.TensorSpec] | None = None
    ) -> Callable:
        """A `tf.function` that uses this model, not to train it.

        Steps of the flow that are alike share a graph, also with the other functions
        that are made here.
        """

        def run(*args):
            with self._step_graphs.used():
                return function(*args)

        return tf.function(run, signature, autograph=False, reduce_retracing=True)

    def _decode(self, z: tf.Tensor | None, v: tf.Tensor) -> tf.Tensor:
        return self._decode_codes(v) if z is None else self._decode_codes(v, z)
