"""Crops and resizes many images once: tools/prepare_images.py --source=X --output=DIR

For data sets whose images are larger than the model's, so that training does not decode
the large ones again at every step. The source is a folder (with its subfolders), a .zip
or .tar archive, or a LMDB directory as LSUN distributes them. Images are cropped to the
square in their middle, resized, and written as PNG to DIR/PART. Every command takes DIR
as --data_dir.

The folders of the source are kept, except those that all images share, so folders of
classes stay labels. If one of the topmost kept folders is called train, these are the
parts, as in training. Hidden files and those of other programs are left out. If two
names differ only in the suffix (a.jpg and a.png), both keep it: a.jpg.png, a.png.png.

CelebA-HQ 256x256, from the images of CelebAMask-HQ:

  tools/prepare_images.py --source=CelebA-HQ-img --output=celeba_hq --size=256

LSUN bedrooms at 128x128, from the archives of lsun.cs.princeton.edu, unpacked:

  tools/prepare_images.py --source=bedroom_train_lmdb --output=bedroom --size=128
  tools/prepare_images.py --source=bedroom_val_lmdb --output=bedroom --size=128 \\
    --part=test

Images that exist already are not made again, so the same command goes on after a stop.
"""

import collections
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from tfp_vaeflow import command

command.define_path("source", "Folder, archive or LMDB directory.", required=True)
command.define_path("output", "Where to write.", required=True)
flags.DEFINE_integer("size", None, "Pixels a side of what is written.", required=True)
flags.DEFINE_enum(
    "part",
    None,
    ["train", "validation", "test"],
    "Which part these images are; default: train, or the parts that the source has.",
)

_CHUNK = 256  # images that are processed at a time
_NAMED = 10  # damaged images to name


def _is_wanted(name: str) -> bool:
    """Whether to read a file of an archive, by its name."""
    from tfp_vaeflow.data import listing

    ignored = any(map(listing.ignored_kind, PurePosixPath(name).parts))
    return listing.named_as_picture(name) and not ignored


class _Folder:
    """Images in a folder.

    Attributes:
      names: of the images, relative to the folder.
    """

    def __init__(self, root: Path):
        from tfp_vaeflow.data import listing
        from tfp_vaeflow.data.folder import is_picture

        self._root = root
        left_out = listing.LeftOut(str(root))
        paths = listing.candidates(str(root), left_out)
        self.names = [
            str(Path(path).relative_to(root)) for path in paths if is_picture(path)
        ]
        for line in left_out.lines():
            print(line, flush=True)

    def images(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Pairs of an image's name and a function that gives its bytes."""
        for name in sorted(self.names):
            yield name, (self._root / name).read_bytes


class _Zip:
    """Images in a .zip archive; see `_Folder`."""

    def __init__(self, path: Path):
        import zipfile

        self._archive = zipfile.ZipFile(path)
        self.names = list(filter(_is_wanted, self._archive.namelist()))

    def images(self):
        for name in sorted(self.names):
            yield name, functools.partial(self._archive.read, name)


class _Tar:
    """Images in a .tar archive, compressed or not; see `_Folder`."""

    def __init__(self, path: Path):
        self._path = path
        self.names = [member.name for _, member in self._members()]

    def _members(self):
        import tarfile

        with tarfile.open(self._path) as archive:
            for member in archive:
                if member.isfile() and _is_wanted(member.name):
                    yield archive, member

    def images(self):
        for archive, member in self._members():  # in the file's order: it has no index
            content = archive.extractfile(member).read()
            yield member.name, lambda content=content: content


class _Lmdb:
    """Images in a LMDB directory, by their keys; see `_Folder`."""

    def __init__(self, root: Path):
        self._root = root
        self.names = [key for key, _ in self._items(values=False)]

    def _items(self, values: bool):
        import lmdb

        with (
            lmdb.open(str(self._root), readonly=True, lock=False) as database,
            database.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            for item in cursor.iternext(values=values):
                key, content = item if values else (item, None)
                yield key.decode(errors="backslashreplace"), content

    def images(self):
        for name, content in self._items(values=True):
            yield name, lambda content=content: content


def _opened(source: Path):
    """The images of a folder, an archive or a LMDB directory."""
    import tarfile
    import zipfile

    from tfp_vaeflow.common.errors import UserError

    if (source / "data.mdb").is_file():
        return _Lmdb(source)
    if source.is_dir():
        return _Folder(source)
    if source.is_file() and zipfile.is_zipfile(source):
        return _Zip(source)
    if source.is_file() and tarfile.is_tarfile(source):
        return _Tar(source)
    raise UserError(
        f"{source} is no folder, no .zip or .tar archive and no LMDB directory"
    )


def _targets(names: list[str], part: str | None) -> dict[str, PurePosixPath]:
    """The path of each image below the output; no two images share one.

    Args:
      names: of the images in the source.
      part: the part of all images; None for the source's parts, or else `train`.

    Raises:
      UserError: if a part is given, and the source has parts of its own.
    """
    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.data import listing
    from tfp_vaeflow.data.folder import part_named

    # Names in an archive may lead outside of the output.
    words = {
        name: [w for w in PurePosixPath(name).parts if w not in ("/", "..")]
        for name in sorted(names)
    }
    folders = [folder[:-1] for folder in words.values()]
    shared = len(os.path.commonprefix(folders))
    has_parts = any(
        len(folder) > shared and part_named(folder[shared]) == "train"
        for folder in folders
    )
    if has_parts and part is not None:
        raise UserError(
            "the source has a folder called train, so its folders are the parts; leave "
            "out --part, or name one of these folders with --source"
        )

    def stem(name):
        path = PurePosixPath(*words[name][shared:])
        is_suffix = path.suffix.lower() in listing.SUFFIXES
        return path.with_suffix("") if is_suffix else path

    counts = collections.Counter(str(stem(name)).casefold() for name in words)
    targets, taken = {}, set()
    for name in words:
        target = stem(name)
        if counts[str(target).casefold()] > 1:
            target = PurePosixPath(*words[name][shared:])
        while str(target).casefold() in taken:
            target = target.with_name(f"{target.name}-")
        taken.add(str(target).casefold())
        folder = part or "train"
        if has_parts:
            top, *rest = target.parts
            if not rest or part_named(top) is None:
                continue  # beside the parts
            folder, target = part_named(top), PurePosixPath(*rest)
        targets[name] = PurePosixPath(folder, f"{target}.png")
    return targets


def main() -> None:
    import concurrent.futures
    import io
    import itertools
    import tarfile
    import zipfile
    import zlib

    from tqdm import tqdm

    from tfp_vaeflow.common.errors import UserError
    from tfp_vaeflow.data import listing
    from tfp_vaeflow.data.pictures import THREADS, decode, fault
    from tfp_vaeflow.evaluation import figures

    flag = command.FLAGS
    if flag.size < 1:
        raise UserError(f"--size is {flag.size}; expected at least 1")
    output = Path(flag.output)
    shape = (flag.size, flag.size, 3)
    damaged, made, kept, beside = [], 0, 0, 0

    def prepare(name, read, path):
        try:
            pixels = decode(io.BytesIO(read()), shape)
        except Exception as error:  # Pillow raises all kinds
            return f"{name}: {fault(error)}"
        figures.write_png(path, pixels)
        return None

    try:
        source = _opened(Path(flag.source))
        targets = _targets(source.names, flag.part)
        images = source.images()
        with (
            concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
            tqdm(unit=" images", disable=None) as bar,
        ):
            while chunk := list(itertools.islice(images, _CHUNK)):
                bar.update(len(chunk))
                work = []
                for name, read in chunk:
                    if name not in targets:
                        beside += 1
                    elif (path := output / targets[name]).exists():
                        kept += 1
                    else:
                        work.append((name, read, path))
                faults = list(pool.map(lambda arguments: prepare(*arguments), work))
                damaged += [found for found in faults if found]
                made += faults.count(None)
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{flag.source} is damaged: {error}") from error
    if not made + kept:
        raise UserError(
            f"{flag.source} holds no image that can be read; expected files ending in "
            f"{', '.join(listing.SUFFIXES)}, or a LMDB of images"
        )
    for found in damaged[:_NAMED]:
        print(f"cannot be read: {found}")
    if beside:
        print(f"{beside} images beside the folders of the parts are left out")
    parts = sorted({target.parts[0] for target in targets.values()})
    where = ", ".join(str(output / part) for part in parts)
    print(
        f"{where}: {made} images made, {kept} were there, {len(damaged)} cannot be read"
    )


if __name__ == "__main__":
    command.run_main(main, __doc__)
