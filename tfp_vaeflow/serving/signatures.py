"""The signatures of a served model: their inputs, functions and outputs.

Every input and output has the batch dimension first, and row i of the outputs depends
on row i of the inputs alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfp_vaeflow import compute
from tfp_vaeflow.bijectors import FlowBijector
from tfp_vaeflow.common.arguments import between, check_at_least_one
from tfp_vaeflow.config import ModelConfig
from tfp_vaeflow.model.core import VAEFlowCore
from tfp_vaeflow.serving import pictures
from tfp_vaeflow.serving.folding import set_flow
from tfp_vaeflow.serving.rows import Checks, draw

DEFAULT, DEFAULT_IS = "serving_default", "encode"
LARGEST_TEMPERATURE = 100.0
LARGEST_POSITION = 100.0  # of alpha and beta, to either side


class Signature(NamedTuple):
    """One signature.

    Attributes:
      function: from the inputs, as keyword arguments, to a dict of outputs.
      inputs: the inputs' shapes and types.
      summary: what it does, in a line.
    """

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: list[tf.TensorSpec]
    summary: str

    def traced(self) -> Callable[..., dict[str, tf.Tensor]]:
        """The function as one graph, for batches of any size."""
        function = tf.function(self.function, autograph=False)
        return function.get_concrete_function(
            **{spec.name: spec for spec in self.inputs}
        )


class _TracedFlow(FlowBijector):
    """A flow with one traced function per direction, which all signatures call.

    Args:
      flow, config: of the model.
      sizes: batch sizes that XLA compiles the functions for; None without XLA.
    """

    def __init__(
        self, flow: FlowBijector, config: ModelConfig, sizes: Sequence[int] | None
    ):
        super().__init__(3, "traced_flow", flow.dtype, flow.conditioning_ndims)
        specs = [tf.TensorSpec([None, *config.image_shape], flow.dtype)]
        if config.latent_dim:
            specs.append(tf.TensorSpec([None, config.latent_dim], flow.dtype))

        def traced(method):
            if sizes is None:
                return tf.function(method, specs, autograph=False)

            def run(value, *conditioning):
                value, log_det_map = method(value, *conditioning)
                shape = tf.shape(value)[:-1]  # constants get all positions too
                return value, tf.broadcast_to(log_det_map, shape)

            return compute.compiled_in_parts(run, specs, sizes)

        self._flow = flow
        self._forward_function = traced(flow.forward_and_log_det_map)
        self._inverse_function = traced(flow.inverse_and_log_det_map)

    def forward_and_log_det_map(self, v, conditioning=None):
        return self._forward_function(*_given(v, conditioning))

    def inverse_and_log_det_map(self, x, conditioning=None):
        return self._inverse_function(*_given(x, conditioning))

    def position_shares(self, values):
        return self._flow.position_shares(values)


def _given(*values):
    return [value for value in values if value is not None]


class Signatures:
    """The functions behind the signatures of one model.

    Args:
      model: initialised; folded or not. Its flow is replaced by one that is traced
        once.
      num_samples: K, samples per image in `score`.
      compiled_sizes: batch sizes that XLA compiles the flow for; None without XLA.

    Raises:
      UserError: if K is not positive.
    """

    def __init__(
        self,
        model: VAEFlowCore,
        num_samples: int,
        compiled_sizes: Sequence[int] | None = None,
    ):
        check_at_least_one("num_samples", num_samples)
        self._model = model
        self._config = config = model.config
        self._num_samples = num_samples
        set_flow(model, _TracedFlow(model.flow, config, compiled_sizes))

    def all(self) -> dict[str, Signature]:
        """The signatures that this kind of model has, by name."""
        config = self._config

        def rows(name, dtype, *shape):
            return tf.TensorSpec([None, *shape], dtype, name)

        def image(name="image"):
            return rows(name, tf.uint8, *config.image_shape)

        label = [rows("label", tf.int64)] if config.is_class_conditional else []
        seed = rows("seed", tf.int64)
        codes = [rows("z", tf.float32, config.latent_dim)] if config.latent_dim else []
        codes.append(rows("v", tf.float32, *config.image_shape))
        found = {
            "encode": Signature(
                self.encode, [image(), *label], "The codes of an image."
            ),
            "encode_bytes": Signature(
                self.encode_bytes,
                [rows("image_bytes", tf.string), *label],
                "The codes of a PNG or JPEG file of any size, cropped and resized.",
            ),
            "decode": Signature(self.decode, codes, "The image of two codes."),
            "sample": Signature(
                self.sample,
                [seed, rows("temperature", tf.float32), *label],
                "An image from the model.",
            ),
            "reconstruct": Signature(
                self.reconstruct,
                [image(), seed, *label],
                "An image encoded with sampled z and u, and decoded.",
            ),
            "score": Signature(
                self.score,
                [image(), seed, *label],
                "How likely an image is: bits/dim, its terms, the log-likelihood.",
            ),
        }
        found["likelihood_map"] = Signature(
            self.likelihood_map,
            [image(), seed, *label],
            "The share of each pixel of an image in log p(x | z).",
        )
        if config.has_posterior:
            pair = [image("image_a"), image("image_b")]
            found["interpolate"] = Signature(
                self.interpolate,
                [*pair, rows("alpha", tf.float32), rows("beta", tf.float32)],
                "Between two images: z at alpha, v at beta.",
            )
            found["switch"] = Signature(
                self.switch, pair, "Two images with their global codes exchanged."
            )
        found[DEFAULT] = found[DEFAULT_IS]
        return found

    # The functions.

    def encode(self, image, label=None):
        """Images -> codes."""
        checks = Checks(_named(image=image, label=label))
        return self._codes(image, label, checks)

    def encode_bytes(self, image_bytes, label=None):
        """PNG or JPEG files -> the images that the model sees, and their codes."""
        checks = Checks(_named(image_bytes=image_bytes, label=label))
        shape = self._config.image_shape
        image = tf.map_fn(
            lambda data: pictures.read(data, shape),
            image_bytes,
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        )
        return {"image": image, **self._codes(image, label, checks)}

    def decode(self, v, z=None):
        """Codes -> images."""
        checks = Checks(_named(z=z, v=v))
        z = None if z is None else checks.finite(z)
        return _image(self._pixels(z, checks.finite(v), checks), checks)

    def sample(self, seed, temperature, label=None):
        """Images from the model; a label below 0 is drawn."""
        checks = Checks(_named(seed=seed, temperature=temperature, label=label))
        draws = draw(self._code_noise, seed)
        drawn = None
        if label is not None:
            drawn = self._model.prior.labels_from_noise(draws.prior)
            label = self._known(label, checks, low=-1)
            drawn = tf.where(label < 0, drawn, label)
        temperature = checks.within(temperature, 0.0, LARGEST_TEMPERATURE)
        z, v = self._model.codes_given_noise(draws, _as_map(temperature), drawn)
        return _image(self._pixels(z, v, checks), checks)

    def reconstruct(self, image, seed, label=None):
        """Images encoded with sampled z and u, and decoded."""
        checks = Checks(_named(image=image, seed=seed, label=label))
        label = self._known(label, checks)
        z, v = self._model.encode_given_noise(image, self._loss_noise(seed, 1), label)
        return _image(self._pixels(z, v, checks), checks)

    def score(self, image, seed, label=None):
        """bits/dim of images, its terms, and the log-likelihood."""
        checks = Checks(_named(image=image, seed=seed, label=label))
        scores = self._model.scores_given_noise(
            image,
            self._loss_noise(seed, self._num_samples),
            labels=self._known(label, checks),
        )
        outputs = {name: checks.finite(score) for name, score in scores.items()}
        return {**outputs, "is_finite": checks.is_finite}

    def likelihood_map(self, image, seed, label=None):
        """Likelihood maps of images, and those of a dequantizer that is learned."""
        checks = Checks(_named(image=image, seed=seed, label=label))
        maps = self._model.maps_given_noise(
            image,
            self._loss_noise(seed, self._num_samples),
            labels=self._known(label, checks),
        )
        names = ["likelihood_map"]
        if self._config.dequantizer is not None:
            names.append("dequantization_map")
        outputs = {name: checks.finite(one) for name, one in zip(names, maps)}
        return {**outputs, "is_finite": checks.is_finite}

    def interpolate(self, image_a, image_b, alpha, beta):
        """Images between two: z at alpha, v at beta."""
        checks = Checks(
            _named(image_a=image_a, image_b=image_b, alpha=alpha, beta=beta)
        )
        pairs = self._codes_of_pair(image_a, image_b)
        limit = LARGEST_POSITION
        alpha = checks.within(alpha, -limit, limit)[:, tf.newaxis]
        beta = _as_map(checks.within(beta, -limit, limit))
        z, v = between(*pairs, alpha, beta)
        return _image(self._pixels(z, v, checks), checks)

    def switch(self, image_a, image_b):
        """Two images with their global codes exchanged."""
        checks = Checks(_named(image_a=image_a, image_b=image_b))
        z, (v_a, v_b) = self._codes_of_pair(image_a, image_b)
        both = self._flow_output(tf.concat(z, 0), tf.concat([v_b, v_a], 0))
        z_a_v_b, z_b_v_a = (
            self._model.to_pixels(checks.finite(x)) for x in tf.split(both, 2)
        )
        return {
            "z_a_v_b": z_a_v_b,
            "z_a_v_b_bytes": tf.io.encode_png(z_a_v_b),
            "z_b_v_a": z_b_v_a,
            "z_b_v_a_bytes": tf.io.encode_png(z_b_v_a),
            "is_finite": checks.is_finite,
        }

    # Helpers.

    def _known(self, label, checks, low=0):
        """Labels, clamped to the classes that the model has."""
        if label is None:
            return None
        return checks.within(label, low, self._config.prior.num_classes - 1)

    def _code_noise(self, seed, position):
        return self._model.draw_code_noise(seed, 1, position)

    def _loss_noise(self, seeds, num_samples):
        return draw(
            lambda seed, first: self._model.draw_loss_noise(
                seed, 1, num_samples, first
            ),
            seeds,
        )

    def _codes(self, image, label, checks):
        model, outputs = self._model, {}
        label = self._known(label, checks)
        statistics = model.global_code.statistics(model.noise_free(image), labels=label)
        z = model.global_code.mean(statistics)
        v = model.local_code(image, z, 0.5)
        if self._config.has_posterior:
            posterior = model.encoder.posterior(statistics["posterior"])
            outputs["scale"] = checks.finite(posterior.distribution.scale)
        if z is not None:
            outputs["z"] = checks.finite(z)
        return {**outputs, "v": checks.finite(v), "is_finite": checks.is_finite}

    def _codes_of_pair(self, image_a, image_b):
        """`(z_a, z_b), (v_a, v_b)`, in one pass."""
        codes = self._model.encode_batch(tf.concat([image_a, image_b], 0), 0.5)
        return [tf.split(code, 2) for code in codes]

    def _flow_output(self, z, v):
        return self._model.flow.forward_and_log_det(v, z)[0]

    def _pixels(self, z, v, checks):
        return self._model.to_pixels(checks.finite(self._flow_output(z, v)))


def _image(image, checks):
    """The outputs of a signature that makes an image."""
    png = tf.io.encode_png(image)
    return {"image": image, "image_bytes": png, "is_finite": checks.is_finite}


def _named(**inputs):
    """The inputs that this kind of model has."""
    return {name: value for name, value in inputs.items() if value is not None}


def _as_map(factor):
    """`[B]` -> `[B, 1, 1, 1]`."""
    return factor[:, tf.newaxis, tf.newaxis, tf.newaxis]
