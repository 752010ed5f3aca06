"""Crops and resizes many images once: tools/prepare_images.py --source=X --output=DIR

For data sets whose images are larger than the model's, so that training does not decode
them anew at every step. The source is a folder (searched through), a .zip or .tar
archive, or a LMDB directory as LSUN distributes them. Images are cropped to the square
in their middle, resized, and written as PNG to DIR/PART, which --data_dir=DIR takes.

CelebA-HQ 256x256, from the images of CelebAMask-HQ:

  tools/prepare_images.py --source=CelebA-HQ-img --output=celeba_hq --size=256

LSUN bedrooms at 128x128, from the archives of lsun.cs.princeton.edu, unpacked:

  tools/prepare_images.py --source=bedroom_train_lmdb --output=bedroom --size=128
  tools/prepare_images.py --source=bedroom_val_lmdb --output=bedroom --size=128 \\
    --part=test

What is there already is not made again: the same command goes on after a stop.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from tfp_vaeflow import command

command.define_path("source", "Folder, archive or LMDB directory.", required=True)
command.define_path("output", "Where to write.", required=True)
flags.DEFINE_integer("size", None, "Pixels a side of what is written.", required=True)
flags.DEFINE_enum(
    "part", "train", ["train", "validation", "test"], "Which part these images are."
)

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_CHUNK = 256  # images in work at a time
_NAMED = 10  # damaged images to name


def _from_folder(root: Path):
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            yield str(path.relative_to(root)), path.read_bytes


def _from_zip(path: Path):
    import zipfile

    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.lower().endswith(_SUFFIXES):
                content = archive.read(name)
                yield name, lambda content=content: content


def _from_tar(path: Path):
    import tarfile

    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.lower().endswith(_SUFFIXES):
                content = archive.extractfile(member).read()
                yield member.name, lambda content=content: content


def _from_lmdb(root: Path):
    import lmdb

    with (
        lmdb.open(str(root), readonly=True, lock=False) as database,
        database.begin() as transaction,
    ):
        for key, content in transaction.cursor():
            yield key.decode(errors="replace"), lambda content=content: content


def _images(source: Path):
    """Pairs of an image's name and a function that gives its bytes."""
    import tarfile
    import zipfile

    from tfp_vaeflow.errors import UserError

    if (source / "data.mdb").is_file():
        return _from_lmdb(source)
    if source.is_dir():
        return _from_folder(source)
    if source.is_file() and zipfile.is_zipfile(source):
        return _from_zip(source)
    if source.is_file() and tarfile.is_tarfile(source):
        return _from_tar(source)
    raise UserError(
        f"{source} is no folder, no .zip or .tar archive and no LMDB directory"
    )


def main() -> None:
    import concurrent.futures
    import io
    import itertools

    from tqdm import tqdm

    from tfp_vaeflow import figures
    from tfp_vaeflow.data.pictures import THREADS, decode
    from tfp_vaeflow.errors import UserError

    flag = command.FLAGS
    if flag.size < 1:
        raise UserError(f"--size is {flag.size}; expected at least 1")
    directory = Path(flag.output) / flag.part
    shape = (flag.size, flag.size, 3)
    damaged, made, kept = [], 0, 0

    def prepare(name, read, path):
        try:
            pixels = decode(io.BytesIO(read()), shape)
        except Exception as error:  # Pillow raises all kinds
            return f"{name}: {type(error).__name__}: {error}".splitlines()[0]
        figures.write_png(path, pixels)
        return None

    images = iter(_images(Path(flag.source)))
    with (
        concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
        tqdm(unit=" images", disable=None) as bar,
    ):
        while chunk := list(itertools.islice(images, _CHUNK)):
            bar.update(len(chunk))
            work = []
            for name, read in chunk:
                stem = str(Path(name).with_suffix("")).strip("/").replace("/", "-")
                path = directory / f"{stem}.png"
                if path.exists():
                    kept += 1
                else:
                    work.append((name, read, path))
            faults = list(pool.map(lambda arguments: prepare(*arguments), work))
            damaged += [fault for fault in faults if fault]
            made += faults.count(None)
    if not made + kept:
        raise UserError(
            f"{flag.source} holds no image that can be read; expected files ending in "
            f"{', '.join(_SUFFIXES)}, or a LMDB of images"
        )
    for fault in damaged[:_NAMED]:
        print(f"cannot be read: {fault}")
    print(
        f"{directory}: {made} images made, {kept} were there, {len(damaged)} cannot be "
        "read"
    )


if __name__ == "__main__":
    command.run_main(main, __doc__)
