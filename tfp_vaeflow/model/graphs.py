"""The maths of one batch in a few graphs, each traced once for batches of any size.

A graph of a large model takes as much memory as a batch of images. So all methods share
one graph per network and one per direction of the flow. The few operations between the
graphs run one by one.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model.core import VAEFlowCore, first_sample
from tfp_vaeflow.model.draws import CodeNoise, LossNoise


class VAEFlowGraphs(VAEFlowCore):
    """A model that computes one batch by graphs; for use, not for training.

    Args:
      config: the architecture.
      seed: of the initial weights.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(config, seed)
        self._graphs = compute.SharedGraphs()
        pixels = tf.TensorSpec([None, *config.image_shape], tf.uint8)
        values = tf.TensorSpec([None, *config.image_shape], tf.float32)
        drawn = tf.TensorSpec([None, 1, *config.image_shape], tf.float32)
        label = [tf.TensorSpec([None], tf.int64)] * config.is_class_conditional
        z = [tf.TensorSpec([None, config.latent_dim], tf.float32)]
        codes = [*(z if config.latent_dim else []), values]
        self._inferred = self.traced(self._infer, [pixels, *label], "the encoder")
        self._placed = tf.function(
            self.placed, [pixels, tf.TensorSpec([])], autograph=False
        )
        self._dequantize = self.traced(
            self._dequantized_once, [pixels, drawn], "dequantization"
        )
        self._inverse_graph = self.traced(
            lambda *z_and_x: self._inverse_by_layers(*_both(*z_and_x)),
            codes,
            "the flow from images to codes",
        )
        self._forward_graph = self.traced(
            lambda *codes: self.decode_batch(*_both(*codes)),
            codes,
            "the flow from codes to images",
        )
        self._codes_graph = self.traced(self.codes_given_noise, name="codes from noise")
        self._is_by_layers = False
        # Together, what needs no z runs beside the encoder.
        self._encode_graph = tf.function(
            self._encode_in_pieces,
            [pixels, tf.TensorSpec([]), *label],
            autograph=False,
        )
        self._losses = self.traced(self.losses_batch, name="the losses")
        self._scores = self.traced(self._scores_once, name="the scores")
        self._maps = self.traced(self._maps_once, name="maps of the likelihood")

    def traced(
        self,
        function: Callable,
        signature: list[tf.TensorSpec] | None = None,
        name: str = "what is measured",
    ) -> Callable:
        """Makes a `tf.function` that uses this model, but does not train it.

        Steps of the flow that are alike share a graph, also with the other functions
        that this method makes. On a GPU, XLA compiles the function after many batches
        of one size.

        Args:
          function: takes tensors.
          signature: of its arguments, to use one trace for all shapes.
          name: says what it computes.
        """

        @functools.wraps(function)  # else TensorFlow takes all of them for one
        def run(*args):
            with compute.WithoutStackTraces(), compute.using(graphs=self._graphs):
                return function(*args)

        graph = tf.function(run, signature, autograph=False, reduce_retracing=True)
        if compute.has_gpu():
            return compute.compiled_for_use(function, signature, graph, name)
        return graph

    @contextlib.contextmanager
    def by_layers(self) -> Iterator[None]:
        """Computes codes and images layer by layer, not by graphs, within this context.

        This takes more time, but saves the memory that a graph keeps. It suits work
        that is done now and then beside training. Encoders stay graphs, because an
        eager Keras model keeps the outputs of all its layers.
        """
        self._is_by_layers = True
        try:
            yield
        finally:
            self._is_by_layers = False

    def _inverse_by_layers(self, z, x):
        return self.flow.inverse_and_log_det_map(x, z)[0]

    def _inverse(self, z: tf.Tensor | None, x: tf.Tensor) -> tf.Tensor:
        """v of x."""
        if self._is_by_layers:
            return self._inverse_by_layers(z, x)
        return self._inverse_graph(*_given(z, x))

    def _decode(self, z: tf.Tensor | None, v: tf.Tensor) -> tf.Tensor:
        """`decode` for one batch."""
        if self._is_by_layers:
            return self.decode_batch(z, v)
        return self._forward_graph(*_given(z, v))

    def _infer(self, images, labels=None):
        """The statistics of z, and its mean."""
        x = self.noise_free(images)
        statistics = self.global_code.statistics(x, labels=labels)
        return statistics, self.global_code.mean(statistics)

    def _codes(
        self, draws: CodeNoise, temperature: float, labels: tf.Tensor | None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """`codes_given_noise` for one batch."""
        if self._is_by_layers:
            return self.codes_given_noise(draws, temperature, labels)
        return self._codes_graph(draws, tf.constant(temperature, tf.float32), labels)

    def _dequantized_once(self, images, drawn):
        statistics = self.dequantizer.statistics(self.noise_free(images))
        x, _ = self.dequantized(images, statistics, LossNoise(drawn, None))
        return first_sample(x)

    def _scores_once(self, images, seed, first, num_samples, labels=None):
        draws = self.draw_loss_noise(seed, tf.shape(images)[0], num_samples, first)
        return self.scores_given_noise(images, draws, labels)

    def _maps_once(self, images, seed, first, num_samples, labels=None):
        draws = self.draw_loss_noise(seed, tf.shape(images)[0], num_samples, first)
        return self.maps_given_noise(images, draws, labels)

    def _posterior(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`posterior` for one batch."""
        statistics, _ = self._inferred(images)
        normal = self.encoder.posterior(statistics["posterior"]).distribution
        return normal.loc, normal.scale

    def _encode(
        self, images: tf.Tensor, u: float, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """`encode` for one batch."""
        # On a GPU each piece is compiled for itself.
        in_pieces = self._is_by_layers or compute.has_gpu()
        encode = self._encode_in_pieces if in_pieces else self._encode_graph
        return encode(images, tf.constant(u, tf.float32), *_given(labels))

    def _encode_in_pieces(self, images, u, *labels):
        _, z = self._inferred(images, *labels)
        return z, self._inverse(z, self._placed(images, u))

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
        statistics, _ = self._inferred(*_given(images, labels))
        z = first_sample(self.global_code.sample(statistics, draws.posterior))
        return self._dequantize(images, draws.dequantization), z

    def _reconstruct(self, *args, seed: tf.Tensor) -> tf.Tensor:
        """`reconstruct` for one batch; arguments as of `_flow_inputs`."""
        x, z = self._flow_inputs(*args, seed=seed)
        return self._decode(z, self._inverse(z, x))


def _given(*values: tf.Tensor | None) -> list[tf.Tensor]:
    """The arguments of a graph: it has no argument for a missing z or label."""
    return [value for value in values if value is not None]


def _both(*z_and_value: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor]:
    """(z, value), with None for a missing z: the inverse of `_given`."""
    return z_and_value if len(z_and_value) == 2 else (None, *z_and_value)
