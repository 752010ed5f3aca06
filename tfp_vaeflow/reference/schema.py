"""The reference's `config.json` as a `ModelConfig`."""

import json
import math
from pathlib import Path

from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import (
    DequantizerConfig,
    EncoderConfig,
    FlowConfig,
    ModelConfig,
    PriorConfig,
)

_REQUIRED = object()
_NORMS = {
    None: "none",
    "batch_norm": "batch",
    "group_norm": "group",
    "instance_norm": "instance",
}


class _Section:
    """One object of the file, whose keys are taken one by one.

    Args:
      name: its place in the file, such as `generator.flow`.
      values: the parsed object.
    """

    def __init__(self, name: str, values: object):
        if not isinstance(values, dict):
            raise UserError(
                f"{name or 'the file'} is {values!r}; expected an object with keys"
            )
        self.name = name
        self._values = dict(values)

    def take(self, key: str, default=_REQUIRED):
        """The value of a key; the default, if there is one, for a missing key."""
        value = self._values.pop(key, default)
        if value is _REQUIRED:
            raise UserError(f"{self.name or 'the file'} has no key {key}")
        return value

    def choose(self, key: str, allowed: dict | list, default=_REQUIRED):
        """The value of a key, one of `allowed`; translated if `allowed` is a dict."""
        value = self.take(key, default)
        if value not in list(allowed):
            raise UserError(
                f"{self.name}.{key} = {value!r} is not supported; expected one of "
                f"{list(allowed)}"
            )
        return allowed[value] if isinstance(allowed, dict) else value

    def section(self, key: str) -> "_Section":
        name = f"{self.name}.{key}" if self.name else key
        return _Section(name, self.take(key))

    def end(self, *unused: str) -> None:
        """Checks that no keys are left except these, which have no effect."""
        left = sorted(set(self._values) - set(unused))
        if left:
            raise UserError(f"{self.name or 'the file'} has an unknown key {left[0]}")


def _flow(section: _Section, inverse: bool) -> tuple[FlowConfig, int]:
    """A flow, and the channels of its images."""
    step = section.choose("type", ["glow", "macow"])
    norm = section.choose("normalize", _NORMS, None)
    groups = section.take("num_groups", ())
    values = {
        "num_steps": section.take("num_steps"),
        "hidden": section.take("hidden_channels"),
        "factors": section.take("factors"),
        "step": step,
        "activation": section.take("activation", "relu"),
        "transform": section.take("transform", "affine"),
        "prior_transform": section.take("prior_transform", "affine"),
        "alpha": section.take("alpha", 1.0),
        "norm": norm,
        # The paper's files give groups to norms that have none.
        "num_groups": groups if norm == "group" else (),
    }
    if step == "macow":
        values["kernel_size"] = section.take("kernel_size", (2, 3))
    kinds = ["global_linear", "global_attn"] if inverse else ["local_linear"]
    conditioning = section.choose("h_type", [*kinds, None] if inverse else kinds, None)
    if conditioning is not None:
        values["conditioning"] = conditioning
    section.choose("inverse", [inverse], False)
    section.choose("coupling_type", ["conv"], "conv")
    section.choose("levels", [len(values["num_steps"])])
    channels = section.take("in_channels")
    section.end("h_channels")
    return FlowConfig(**values), channels


def _encoder(section: _Section, scope: str) -> EncoderConfig:
    kinds = {f"{scope}_resnet_bn": "batch", f"{scope}_resnet_gn": "group"}
    norm = section.choose("type", kinds)
    groups = section.take("num_groups") if norm == "group" else ()
    config = EncoderConfig(
        section.take("hidden_planes"),
        section.take("out_planes"),
        section.take("activation"),
        norm,
        groups,
    )
    section.choose("levels", [len(config.planes)])
    section.end("in_planes")
    return config


def _prior(section: _Section) -> PriorConfig:
    if section.choose("type", ["flow", "normal"]) == "normal":
        section.end()
        return PriorConfig("normal")
    config = PriorConfig(
        "flow",
        section.take("num_steps"),
        section.take("hidden_features"),
        section.take("activation", "elu"),
        section.take("transform", "affine"),
        section.take("alpha", 1.0),
    )
    section.choose("coupling_type", ["mlp"], "mlp")
    section.end("in_features")
    return config


def _classes(section: _Section) -> PriorConfig:
    count = section.take("num_events")
    probabilities = section.take("probs", None) or ()
    logits = section.take("logits", None)
    if logits:
        probabilities = [math.exp(value - max(logits)) for value in logits]
    total = math.fsum(probabilities)
    return PriorConfig(
        "categorical",
        activation=section.take("activation", "relu"),
        num_classes=count,
        class_probabilities=tuple(value / total for value in probabilities),
    )


def _image_shape(
    given: tuple[int, int] | None, channels: int, levels: int, features: int | None
) -> tuple[int, int, int]:
    """The given shape, or a guess from the file.

    Args:
      given: `(H, W)`, or None.
      channels: of the images.
      levels: of the decoder.
      features: positions at the encoder's dense layer times 4^(levels of the encoder),
        which is the number of pixels; None without an encoder.
    """
    if given is None:
        # Without an encoder: the paper's flows have as many levels as leave 4x4.
        side = 2 ** (levels + 1) if features is None else math.isqrt(features)
        given = (side, side)
    height, width = given
    if features is not None and height * width != features:
        raise UserError(
            f"images of {height}x{width} do not fit discriminator.in_dim, which is for "
            f"{features} pixels; give the size with --image_size=HEIGHTxWIDTH"
        )
    return height, width, channels


def read_config(
    path: str | Path, image_size: tuple[int, int] | None = None, n_bins: int = 256
) -> ModelConfig:
    """The reference's `config.json` as a `ModelConfig`.

    Args:
      path: of `config.json`.
      image_size: `(H, W)`; the file does not hold it. None means the square that fits
        the encoder's dense layer; without an encoder, `2^(levels + 1)` pixels per side.
      n_bins: levels of a pixel; the file does not hold it either.

    Raises:
      UserError: if a setting is not supported, naming the key.
    """
    try:
        root = _Section("", json.loads(Path(path).read_text(encoding="utf-8")))
        return _read(root, image_size, n_bins)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def _read(root: _Section, image_size, n_bins) -> ModelConfig:
    generator = root.section("generator")
    flow, channels = _flow(generator.section("flow"), inverse=True)
    generator.end()
    discriminator = root.section("discriminator")
    kind = discriminator.choose("type", ["gaussian", "categorical", "base"])
    latent_dim, encoder, prior, features = 0, None, None, None
    if kind == "gaussian":
        latent_dim = discriminator.take("dim")
        encoder = _encoder(discriminator.section("encoder"), "global")
        prior = _prior(discriminator.section("prior"))
        positions = discriminator.take("in_dim") // encoder.out_planes
        features = positions * 4 ** len(encoder.planes)
    elif kind == "categorical":
        latent_dim = discriminator.take("dim")
        prior = _classes(discriminator)
    discriminator.end()
    dequantizer, section = None, root.section("dequantizer")
    if section.choose("type", ["uniform", "flow"]) == "flow":
        u_flow, _ = _flow(section.section("flow"), inverse=False)
        dequantizer = DequantizerConfig(
            u_flow, _encoder(section.section("encoder"), "local")
        )
    section.end()
    root.end()
    shape = _image_shape(image_size, channels, flow.levels, features)
    return ModelConfig(shape, n_bins, latent_dim, flow, encoder, prior, dequantizer)
