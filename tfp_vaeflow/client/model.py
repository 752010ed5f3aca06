"""The client: methods that send arrays to a served model, and what comes back."""

import io
import os
from collections.abc import Sequence

import numpy as np

from tfp_vaeflow.client.transports import (
    GrpcTransport,
    LocalTransport,
    RestTransport,
    Transport,
)
from tfp_vaeflow.common import arguments
from tfp_vaeflow.common.errors import UserError, missing_extra

_FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]  # those of training
_SENT_AS_THEY_ARE = ["JPEG", "MPO", "PNG"]  # MPO: several JPEGs, as phones make them
_POSITION_BIT = 31  # a row's seed has the position from this bit on


def _as_sent(picture: bytes) -> bytes:
    """A picture file for the server: PNG or JPEG, without a turn by EXIF data."""
    from PIL import ExifTags, Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture), formats=_FORMATS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
            if image.format in _SENT_AS_THEY_ARE and not turned:
                return picture
            image = ImageOps.exif_transpose(image)
            if image.mode == "CMYK":  # PNG has no CMYK
                image = image.convert("RGB")
            data = io.BytesIO()
            image.save(data, "PNG", exif=b"")
    except Exception:  # Pillow raises all kinds
        return picture  # the server may read it, or say what is wrong
    return data.getvalue()


def _of_type(name: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """An input in the type that a signature takes; only floats lose digits."""
    value = np.asarray(value)
    if dtype.kind == "O":  # bytes
        return value
    casting = "same_kind" if dtype.kind == "f" else "safe"
    if not np.can_cast(value.dtype, dtype, casting):
        raise UserError(f"{name} is {value.dtype}; expected {dtype}")
    return value.astype(dtype, copy=False)


def row_seeds(seed: int, positions: np.ndarray) -> np.ndarray:
    """The seed of each row: of all rows, and the row's position, below 2**32."""
    if not 0 <= seed < 1 << _POSITION_BIT:
        raise UserError(f"seed is {seed}; expected 0 to {(1 << _POSITION_BIT) - 1}")
    return seed + (np.asarray(positions, np.int64) << _POSITION_BIT)


class Client:
    """A model behind a transport, with the methods of `VAEFlow`.

    Rows are sent `batch_size` at a time, 32 at most to a server. Apart from rounding,
    no result depends on it. Wrong arguments raise `UserError`; failures on the way or
    in the server raise `ServerError`.

    Attributes:
      image_shape: `(H, W, C)`.
      latent_dim: length D of z; 0 for a model without z.
      needs_labels: whether the model is class-conditional.
      methods: names of the signatures that the model has.
      batch_size: rows per request.
      address: of the model.
      name: the address, with the version of a server's model.

    Args:
      transport: sends the requests; `connect` chooses one by the address.
      batch_size: rows per request; None for the largest number that the transport
        takes, which more count as.
    """

    def __init__(self, transport: Transport, batch_size: int | None = None):
        largest = transport.largest_batch
        if batch_size is not None:
            arguments.check_at_least_one("batch_size", batch_size)
        self.batch_size = min(batch_size or largest, largest)
        self.address = transport.address
        self._transport = transport
        self._inputs = transport.inputs()
        self.name = self.address
        if transport.version:
            self.name = f"version {transport.version} of {self.address}"
        missing = {"encode", "decode"} - set(self._inputs)
        if missing:
            raise UserError(
                f"{transport.address} serves no model of tfp_vaeflow: it has the "
                f"signatures {sorted(self._inputs)}"
            )
        self.methods = sorted(self._inputs)
        self.image_shape = tuple(self._inputs["encode"]["image"].shape[1:])
        z = self._inputs["decode"].get("z")
        self.latent_dim = 0 if z is None else z.shape[1]
        self.needs_labels = "label" in self._inputs["encode"]

    def encode(
        self, images: np.ndarray, labels: Sequence[int] | None = None
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Codes of uint8 images: z `[B, D]` (None without z) and v `[B, H, W, C]`."""
        images = self._images(images)
        found = self._run("encode", image=images, **self._labels(labels, len(images)))
        return found.get("z"), found["v"]

    def encode_bytes(
        self, pictures: Sequence[bytes], labels: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Codes of picture files of any size.

        Each file is sent in a request of its own, so that an unreadable one spoils no
        other. The server reads PNG and JPEG. Before sending, photographs are turned as
        their EXIF data say, and WebP, TIFF, BMP and GIF are converted to PNG.

        Args:
          pictures: the files' contents.
          labels: `[B]`, for a class-conditional model.

        Returns:
          The images as the model sees them, uint8 `[B, H, W, C]`; z; v.
        """
        for number, picture in enumerate(pictures):
            if not isinstance(picture, bytes):
                raise UserError(
                    f"picture {number} is {type(picture).__name__}; expected the bytes "
                    "of a PNG or JPEG file"
                )
        rows = {
            "image_bytes": np.array([_as_sent(p) for p in pictures], object),
            **self._labels(labels, len(pictures)),
        }
        found = self._run_rows("encode_bytes", rows, 1)
        return found["image"], found.get("z"), found["v"]

    def decode(self, z: np.ndarray | None, v: np.ndarray) -> np.ndarray:
        """Codes -> uint8 images `[B, H, W, C]`; z is None for a model without z."""
        codes = {
            name: np.asarray(code, np.float32)
            for name, code in (("z", z), ("v", v))
            if code is not None
        }
        arguments.check_codes(
            codes.get("z"), codes["v"], self.latent_dim, self.image_shape
        )
        for name, code in codes.items():
            arguments.check_finite(name, bool(np.isfinite(code).all()))
        return self._run("decode", **codes)["image"]

    def sample(
        self,
        num_images: int,
        temperature: float = 1.0,
        seed: int = 0,
        labels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Images from the model, uint8 `[num_images, H, W, C]`.

        `VAEFlow.sample` gives the same images. `sample(16, seed=1)[:8]` equals
        `sample(8, seed=1)`.

        Args:
          num_images: how many.
          temperature: factor on the local code v; z keeps temperature 1.
          seed: of the codes, below 2**31.
          labels: what to show, for a class-conditional model; drawn at random if None.
        """
        arguments.check_at_least_one("num_images", num_images)
        arguments.check_temperature(temperature)
        if self.needs_labels and labels is None:
            labels = np.full(num_images, -1)
        return self._run(
            "sample",
            seed=self._seeds(seed, num_images),
            temperature=np.full(num_images, temperature, np.float32),
            **self._labels(labels, num_images),
        )["image"]

    def reconstruct(
        self, images: np.ndarray, seed: int = 0, labels: Sequence[int] | None = None
    ) -> np.ndarray:
        """Encodes with sampled z and u, decodes with the same z; uint8 images."""
        return self._of_images("reconstruct", images, seed, labels)["image"]

    def score(
        self, images: np.ndarray, seed: int = 0, labels: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """How likely each image is: bits/dim, its terms and more, each `[B]`.

        The names are those of `VAEFlow.score`.

        The number of samples per image was fixed when the model was exported.
        """
        found = self._of_images("score", images, seed, labels)
        return {name: value for name, value in found.items() if name != "is_finite"}

    def likelihood_map(
        self, images: np.ndarray, seed: int = 0, labels: Sequence[int] | None = None
    ) -> np.ndarray:
        """The share of each pixel in log p(x | z), in nats, `[B, H, W]`.

        The number of samples per image was fixed when the model was exported.
        """
        found = self._of_images("likelihood_map", images, seed, labels)
        return found["likelihood_map"]

    def switch(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(z of a with v of b, z of b with v of a), each uint8 `[B, H, W, C]`."""
        found = self._run("switch", image_a=self._images(a), image_b=self._images(b))
        return found["z_a_v_b"], found["z_b_v_a"]

    def direction(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """The direction in z from other images to images, `[D]`: the difference of mean
        z; see `VAEFlow.direction`."""
        self._check_z("direction")
        ours, theirs = (self.encode(group)[0].mean(0) for group in (images, others))
        return ours - theirs

    def move(
        self, images: np.ndarray, direction: np.ndarray, strengths: Sequence[float]
    ) -> np.ndarray:
        """Images with z moved along a direction, uint8 `[B, S, H, W, C]`; see
        `VAEFlow.move`."""
        self._check_z("move")
        z, v = self.encode(images)
        made = self.decode(*arguments.moved(z, v, direction, strengths))
        return made.reshape(len(z), -1, *self.image_shape)

    def interpolate(
        self,
        a: np.ndarray,
        b: np.ndarray,
        alphas: Sequence[float],
        betas: Sequence[float],
    ) -> np.ndarray:
        """Between two images: z by alpha, v by beta, 0 being a and 1 being b.

        Args:
          a, b: uint8 images `[H, W, C]`.
          alphas, betas: positions along z and along v.

        Returns:
          uint8 `[len(alphas), len(betas), H, W, C]`.
        """
        pairs = arguments.grid_of(alphas, betas)
        alpha, beta = np.array(pairs, np.float32).T
        first, second = (
            np.repeat(self._images(np.asarray(image)[np.newaxis]), len(pairs), 0)
            for image in (a, b)
        )
        images = self._run(
            "interpolate", image_a=first, image_b=second, alpha=alpha, beta=beta
        )["image"]
        return images.reshape(len(alphas), len(betas), *self.image_shape)

    # Helpers.

    def _check_z(self, method: str) -> None:
        if "switch" not in self.methods:
            raise UserError(
                f"{method} needs a z inferred from images; this model has none"
            )

    def _of_images(self, signature, images, seed, labels) -> dict[str, np.ndarray]:
        """Runs a signature that takes images and draws noise for them."""
        images = self._images(images)
        return self._run(
            signature,
            image=images,
            seed=self._seeds(seed, len(images)),
            **self._labels(labels, len(images)),
        )

    def _images(self, images) -> np.ndarray:
        images = np.asarray(images)
        arguments.check_images(images, self.image_shape)
        return images

    def _labels(self, labels, count: int) -> dict[str, np.ndarray]:
        if labels is not None:
            labels = np.asarray(labels)
        arguments.check_labels(labels, count, self.needs_labels)
        return {} if labels is None else {"label": labels.astype(np.int64)}

    @staticmethod
    def _seeds(seed: int, count: int) -> np.ndarray:
        return row_seeds(seed, np.arange(count))

    def _run(self, signature: str, **rows: np.ndarray) -> dict[str, np.ndarray]:
        return self._run_rows(signature, rows, self.batch_size)

    def _run_rows(self, signature, rows, batch_size) -> dict[str, np.ndarray]:
        found = self.run(signature, rows, batch_size)
        bad = np.flatnonzero(~found["is_finite"])
        if len(bad):
            raise UserError(
                f"{signature}: a value is NaN, infinite or out of range in row "
                f"{', '.join(map(str, bad[:10]))}; see the model's signatures.md"
            )
        return found

    def inputs(self, signature: str) -> list[str]:
        """The names of a signature's inputs."""
        return list(self._inputs[signature])

    def run(
        self, signature: str, rows: dict[str, np.ndarray], batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Runs a signature of the model, and leaves it to the caller to look at rows.

        Args:
          signature: its name.
          rows: its inputs, see the model's signatures.md.
          batch_size: rows per request.

        Returns:
          Its outputs; `is_finite` is False for rows that could not be computed.
        """
        batch_size = batch_size or self.batch_size
        expected = self._inputs.get(signature)
        if expected is None:
            raise UserError(
                f"this model has no {signature}; it has {', '.join(self.methods)}"
            )
        rows = {
            name: _of_type(name, value, expected[name].dtype)
            if name in expected
            else value
            for name, value in rows.items()
        }
        counts = {name: len(value) for name, value in rows.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"the arguments have different numbers of rows: {counts}")
        count = max(counts.values())
        if count == 0:
            raise UserError(
                f"{signature} got an empty batch; expected at least one row"
            )
        parts = [
            self._transport.predict(
                signature,
                {name: value[at : at + batch_size] for name, value in rows.items()},
            )
            for at in range(0, count, batch_size)
        ]
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }


def connect(
    address: str | os.PathLike,
    batch_size: int | None = None,
    timeout: float = 60.0,
    retries: int = 3,
) -> Client:
    """Connects to a served model, or loads one into this process.

    The answer to a request depends on its inputs alone. So a request that finds no
    server, an overloaded one or none in time is sent again, after a growing pause.

    Args:
      address: `http://HOST:PORT/v1/models/NAME[/versions/V]` (or https), the address of
        TensorFlow Serving's REST API; `grpc://HOST:PORT/NAME[/V]`; or a directory with
        a SavedModel or with its versions, of which the last is loaded.
      batch_size: rows per request, 32 at most; None for 32.
      timeout: seconds for one request.
      retries: how often a request is sent again.

    Raises:
      UserError: if the address is none of these, or needs a package that is missing.
      ServerError: if there is no such server or model.
    """
    text = os.fspath(address)
    try:
        if text.startswith(("http://", "https://")):
            transport = RestTransport(text, timeout, retries)
        elif text.startswith("grpc://"):
            transport = GrpcTransport(text, timeout, retries)
        else:
            transport = LocalTransport(text)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        raise missing from error
    return Client(transport, batch_size)
