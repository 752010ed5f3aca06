"""Reading pictures as people have them: any size and mode, in six formats."""

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from tfp_vaeflow.common import files
from tfp_vaeflow.data.splits import LostImageError, Split, from_numpy

THREADS = os.cpu_count() or 1
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
HEAD = 32  # bytes that tell the format of a file
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # their sizes
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def format_of(head: bytes) -> str | None:
    """The format of a file by its first bytes; None if it is not one of `FORMATS`.

    Args:
      head: the first `HEAD` bytes or more.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # Two letters are not enough: many texts begin with them.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return next((f for start, f in _SIGNATURES.items() if head.startswith(start)), None)


def _turned(image: Image.Image) -> Image.Image:
    """An image, turned as its EXIF data says if that can be read."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises all kinds
        return image
    return image if turn is None else image.transpose(turn)


def _opened(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        image.load()
        return _turned(image)


def _png_without_metadata(data: bytes, with_exif: bool) -> bytes:
    """A PNG file with only the chunks that its pixels need."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind[:1].isupper() or kind == b"tRNS" or (with_exif and kind == b"eXIf"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _jpeg_without_metadata(data: bytes, with_exif: bool) -> bytes:
    """A JPEG file with only the data that its pixels and colours need."""
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        marker = data[at + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        needed = marker not in (*range(0xE1, 0xF0), 0xFE) or marker == 0xEE
        if needed or (with_exif and data[at + 4 : at + 10] == b"Exif\0\0"):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _jpeg_without_end(data: bytes) -> Image.Image:
    """Reads a JPEG file that lacks its end marker, and nothing else.

    The decoder makes missing rows grey without an error. So the file is decoded with an
    end marker twice, once with meaningless bytes before the marker: they change the
    picture if rows are missing. In a progressive file every scan has all rows, so its
    scans are checked too.

    Raises:
      ValueError: if rows or scans are missing.
    """
    data = data.rstrip(b"\xff")  # half of the end marker
    image, other = (
        _opened(data + filling + b"\xff\xd9")
        for filling in (b"", bytes(range(1, 255)) * 4)
    )
    if image.tobytes() != other.tobytes():
        raise ValueError("the last rows are missing")
    if image.info.get("progressive") and not _has_all_scans(data, image):
        raise ValueError("the last scans are missing")
    return image


def _has_all_scans(data: bytes, image: Image.Image) -> bool:
    """Whether a JPEG file has each coefficient of each channel to its last bit."""
    exact = collections.defaultdict(set)
    data = _jpeg_without_metadata(data, with_exif=False)
    at = data.find(b"\xff\xda")
    while at >= 0:
        ends = at + 5 + 2 * data[at + 4]
        first, last, bits = data[ends : ends + 3]
        if bits % 16 == 0:
            for channel in data[at + 5 : ends : 2]:
                exact[channel].update(range(first, last + 1))
        at = data.find(b"\xff\xda", ends)
    whole = [channel for channel, found in exact.items() if len(found) == 64]
    return len(whole) == len(image.getbands())


def _attempts(data: bytes) -> Iterator[Callable[[], Image.Image]]:
    """Ways to read a file; each later one is for files with worse metadata."""
    yield lambda: _opened(data)
    kind = format_of(data)
    if kind == "JPEG":
        yield lambda: _jpeg_without_end(data)
    shorten = {"PNG": _png_without_metadata, "JPEG": _jpeg_without_metadata}.get(kind)
    if shorten is not None:
        for with_exif in (True, False):
            short = shorten(data, with_exif)
            yield lambda short=short: _opened(short)
            if kind == "JPEG":
                yield lambda short=short: _jpeg_without_end(short)


def _read(data: bytes) -> Image.Image:
    """The first picture in a file, turned; metadata that cannot be read is ignored."""
    if format_of(data) is None:
        raise ValueError(f"is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file")
    attempts = _attempts(data)
    try:
        return next(attempts)()
    except Image.DecompressionBombError:
        raise
    except Exception:
        for attempt in attempts:
            with contextlib.suppress(Exception):
                return attempt()
        raise


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales a channel of more than 8 bits to 8; leaves other images as they are."""
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its pixels run from {values.min()} to {values.max()}; expected 0 to 65535"
        )
    return Image.fromarray((values // 257).astype(np.uint8))


def decode(
    source: str | os.PathLike | BinaryIO, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Reads one image: turned as its EXIF says, cropped to shape, resized.

    The content of the file decides its format, not the name. The first frame of an
    animation is taken. Transparent pixels are laid on white, 16 bits per channel are
    scaled to 8, CMYK and palettes are converted. A colour image becomes grey for a grey
    model. Metadata that cannot be read is ignored, and so is a missing end marker.

    Args:
      source: a file of one of `FORMATS`, or its path, remote or not.
      image_shape: `(H, W, C)` to crop and resize to, C = 1 or 3.

    Returns:
      uint8 `[H, W, C]`.

    Raises:
      OSError, SyntaxError, ValueError or other errors of Pillow: if pixels are damaged
        or missing, or the file is no image.
    """
    height, width, channels = image_shape
    if isinstance(source, (str, os.PathLike)):
        data = files.read_bytes(source)
    else:
        data = source.read()
    image = _eight_bits(_read(data))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        # The largest part in the middle that has the model's proportions.
        scale = min(image.width / width, image.height / height)
        crop_width = max(1, round(scale * width))
        crop_height = max(1, round(scale * height))
        left = (image.width - crop_width) // 2
        top = (image.height - crop_height) // 2
        image = image.crop((left, top, left + crop_width, top + crop_height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image_shape)


def fault(error: Exception) -> str:
    """What is wrong with a file that `decode` cannot read, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):  # its text is an address
        return "its header cannot be read"
    return " ".join(str(error).split()) or type(error).__name__


def from_files(
    paths: list[str],
    image_shape: tuple[int, int, int],
    labels: np.ndarray | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Split:
    """A split of files that are decoded when they are read.

    The caller has checked that all can be read: a failure raises a `LostImageError`.
    """
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)

    def read_one(index):
        path = paths[index]
        try:
            return decode(path, image_shape)
        except Exception as error:  # Pillow raises all kinds
            raise LostImageError(
                f"{files.printable(path)} cannot be read any more: {fault(error)}"
            ) from error

    def read(indices):
        images = list(pool.map(read_one, indices))
        return np.array(images, np.uint8).reshape(-1, *image_shape)

    read_labels = None if labels is None else lambda: labels
    return from_numpy(len(paths), read, image_shape, read_labels, class_names)
