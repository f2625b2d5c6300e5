"""`load`: a data set by short name, Hugging Face name, or folder."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engram.core.data_names import SHORT_NAMES
from engram.core.files import os_errors
from engram.core.walking import walk
from engram.errors import ConfigError, DataError, printable
from engram.streams import readers as _readers
from engram.streams.cache import Arrays, cached, default_cache_dir
from engram.streams.decode import Decoder, Encoded
from engram.streams.images import ImageData, check_size, fingerprint, resize
from engram.streams.splits import TEST_SHARE, set_aside
from engram.streams.tables import Columns, Table

_STAND_INS = {
    "mnist_m": "MNIST-M is a stand-in for SVHN (colour digits), not SVHN; its digits are those of MNIST",
    "tiny_imagenet_100_32px": "100 classes of Tiny ImageNet are a stand-in for CIFAR-100, not CIFAR-100",
}
_HUB_NAME = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w.-]+)?")


@dataclass(frozen=True)
class _Source:
    """Something that can be decoded: its name, what identifies its content, and how to read it."""

    name: str
    identity: str
    read: Callable[[], Table]


@os_errors()
def load(
    name_or_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageData:
    """A data set, decoded, from the first of these that fits ``name_or_path``:

    1. ``digits``: the 8x8 grey digits that scikit-learn brings along, values 0..16 scaled to 0..255.
    2. the name of a folder in ``data_dir``.
    3. a short name (see `SHORT_NAMES`), taken from the Hugging Face hub.
    4. the path of a folder on this machine.
    5. a hub name ``user/name`` or ``user/name@config``.

    A folder holds ``train*.parquet`` and ``test*.parquet`` (or ``validation*.parquet``), itself, in ``data/``,
    or in the folder of a configuration, as on the hub; or images as ``train/<class>/*.png`` and
    ``test/<class>/*.png``, or as ``<class>/*.png`` only. Links are followed; names that begin with a dot are
    left out. Where there is no test split, a quarter of each class, the same on every machine, is set aside and
    the notes say so.

    Classes come in the order of their names, whole numbers by value (0, 1, 2, 10), unless the table has an order of
    its own. A suffix ``:FIRST-LAST`` keeps the classes of these labels, renumbered from 0: ``mnist:0-4``.

    Pictures are PNG, JPEG, GIF, BMP, WebP, TIFF, PPM, JPEG 2000, AVIF or QOI with 8 bits a channel, of at most 40
    million pixels as decoded (``$ENGRAM_MAX_PIXELS``); see `engram.streams.decode` for what is done to them. With
    image_size, a JPEG of more than 4 million pixels is decoded at half, a quarter or an eighth of its size while that
    is at least twice image_size. Grey and colour images mixed become colour.

    The first load decodes and stores the pixels under ``cache_dir``; later ones read that. Local folders are
    recognised by path, sizes and times of all files and by where links lead; a hub name by the name alone, so
    that a second load asks no network (the notes give the revision; delete the cached file to renew it).

    Args:
        name_or_path: see above.
        data_dir: folder of data sets; by default ``$ENGRAM_DATA``, and none if that is not set. Only read.
        cache_dir: folder for decoded data; by default ``$ENGRAM_CACHE``, or ``~/.cache/engram``.
        image_size: resize every image to this many pixels squared (bilinear, antialiased, as `resize`).
        image_column, label_column: names of the columns of a table, where it has several candidates.
    Returns:
        The data set, of which every class has train and test samples.
    Raises:
        DataError: nothing has this name, the source cannot be read, or what it holds cannot be used.
        ConfigError: image_size or the class range is not usable.
    """
    if image_size is not None:
        check_size(image_size)
    given = os.fsdecode(name_or_path)
    name, classes = _split_range(given)
    if name == "digits":
        if image_column or label_column:
            raise ConfigError(f"image_column and label_column must be left out, {name} is no table.")
        arrays = _digits()
    else:
        columns = Columns(image_column, label_column)
        source = _find(name, data_dir, columns)
        folder = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        identity = f"{source.identity}/{image_size}/{columns}"
        arrays = cached(folder, source.name, identity, build=lambda: _decode(source, image_size))
    if classes is not None:
        arrays = _restrict(given, arrays, *classes)
    tensors = (arrays.train_x, arrays.train_y, arrays.test_x, arrays.test_y)
    data = ImageData(
        name=given if name in ("digits", *SHORT_NAMES) or _HUB_NAME.fullmatch(name) else Path(given).name,
        train_x=arrays.train_x,
        train_y=arrays.train_y,
        test_x=arrays.test_x,
        test_y=arrays.test_y,
        class_names=arrays.class_names,
        fingerprint=fingerprint(*tensors),
        notes=arrays.notes,
    )
    return data if image_size is None else resize(data, image_size)


@dataclass(frozen=True, eq=False)
class Arrival:
    """Labelled images as they arrive, not decoded yet.

    Args:
        images: gives them, each time anew.
        labels: int64 [N], 0..K-1, in their order.
        class_names: K names.
        notes: what was left out.
    """

    images: Callable[[], Encoded]
    labels: torch.Tensor
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


@os_errors()
def arriving(
    name_or_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Arrival:
    """The training images of a data set, named as for `load`; all of them where it has no test split.

    Nothing is decoded and nothing is kept on disk; of a hub name, the hub's own library keeps what it downloads.

    Raises:
        DataError, ConfigError: as `load`.
    """
    given = os.fsdecode(name_or_path)
    name, classes = _split_range(given)
    if name == "digits":
        found = _digits()
        pixels = found.train_x[:, 0].numpy()

        def digits() -> Encoded:
            return ((f"digits, row {row}", one) for row, one in enumerate(pixels))

        arrival = Arrival(digits, found.train_y, found.class_names, found.notes)
    else:
        source = _find(name, data_dir, Columns(image_column, label_column))
        table = source.read()
        aside = f"its test split of {len(table.test.labels)} images is left aside" if table.test else None
        arrival = Arrival(
            lambda: source.read().train.images,
            torch.tensor(table.train.labels, dtype=torch.int64),
            tuple(map(printable, table.class_names)),
            (*table.notes, *([aside] if aside else ())),
        )
    if classes is None:
        return arrival
    first, last = classes
    _check_range(given, len(arrival.class_names), first, last)
    chosen = (arrival.labels >= first) & (arrival.labels <= last)
    return Arrival(
        lambda: itertools.compress(arrival.images(), chosen.tolist()),
        arrival.labels[chosen] - first,
        arrival.class_names[first : last + 1],
        arrival.notes,
    )


def _split_range(given: str) -> tuple[str, tuple[int, int] | None]:
    match = re.fullmatch(r"(.+):(\d+)-(\d+)", given)
    if match is None or os.path.exists(given):
        return given, None
    return match[1], (int(match[2]), int(match[3]))


def _find(name: str, data_dir: str | os.PathLike[str] | None, columns: Columns) -> _Source:
    # os.path throughout: it takes names that are too long, or hold what no name can, for files that are not there
    root = os.fspath(data_dir) if data_dir is not None else os.environ.get("ENGRAM_DATA")
    if root:
        if not os.path.isdir(os.path.expanduser(root)):
            raise DataError(
                f"data_dir (or ENGRAM_DATA) must be a folder, got {root}: correct it or leave it out."
            )
        local = Path(os.path.expanduser(root)) / name
        if name not in ("", ".", "..") and os.path.isdir(local):
            config = SHORT_NAMES.get(name, "").partition("@")[2]
            return _folder(local, columns, config)
    if name in SHORT_NAMES:
        return _hub(SHORT_NAMES[name], name, columns)
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return _folder(path, columns)
    if name and os.path.exists(path):
        raise DataError(f"a data set must be a folder, got the file {path}: give the folder that holds it.")
    if name.startswith((".", "/", "~")):
        raise DataError(f"data must be a folder that there is, got {name:.200}: correct the path.")
    if _HUB_NAME.fullmatch(name):
        return _hub(name, name, columns)
    raise DataError(
        f'data must be digits, {", ".join(SHORT_NAMES)}, a hub name "user/name" or a folder, got "{name:.200}": '
        "a folder in data_dir goes by its name, any other by its path."
    )


def _folder(root: Path, columns: Columns, config: str | None = None) -> _Source:
    folder = walk(root)
    return _Source(root.name, folder.identity, lambda: _readers.read_folder(folder, config, columns))


def _hub(hub_name: str, name: str, columns: Columns) -> _Source:
    repository, _, config = hub_name.partition("@")
    return _Source(name, f"hub/{hub_name}", lambda: _readers.read_hub(repository, config or None, columns))


def _decode(source: _Source, image_size: int | None) -> Arrays:
    table = source.read()
    splits = {"train": table.train} | ({"test": table.test} if table.test else {})
    for split, rows in splits.items():
        if not rows.labels:
            raise DataError(f"{source.name}: the {split} split must hold at least one image, got none.")
    decoder = Decoder(image_size=image_size)
    images = decoder.decode(rows.images for rows in splits.values())
    labels = [torch.tensor(rows.labels, dtype=torch.int64) for rows in splits.values()]
    notes = [*table.notes, *decoder.notes()]
    if source.name in _STAND_INS:
        notes.insert(0, _STAND_INS[source.name])
    if table.test is None:
        return _with_test_split(images[0], labels[0], table.class_names, notes)
    return Arrays(images[0], labels[0], images[1], labels[1], table.class_names, tuple(notes))


def _with_test_split(x: torch.Tensor, y: torch.Tensor, names: tuple[str, ...], notes: list[str]) -> Arrays:
    kept, held = set_aside(y)
    said = f"the source has no test split: {TEST_SHARE:.0%} of each class set aside, the same every time"
    return Arrays(x[kept], y[kept], x[held], y[held], names, (*notes, said))


def _restrict(given: str, arrays: Arrays, first: int, last: int) -> Arrays:
    n_classes = len(arrays.class_names)
    _check_range(given, n_classes, first, last)
    train, test = ((y >= first) & (y <= last) for y in (arrays.train_y, arrays.test_y))
    return Arrays(
        arrays.train_x[train],
        arrays.train_y[train] - first,
        arrays.test_x[test],
        arrays.test_y[test] - first,
        arrays.class_names[first : last + 1],
        (*arrays.notes, f"only classes {first} to {last} of {n_classes}"),
    )


def _check_range(given: str, n_classes: int, first: int, last: int) -> None:
    if not first <= last < n_classes:
        raise ConfigError(
            f"a class range must lie in 0-{n_classes - 1} with the smaller label first, got {first}-{last} "
            f"in {given}."
        )


def _digits() -> Arrays:
    found = importlib.util.find_spec("sklearn")  # by its file: importing the library takes a second
    try:
        with gzip.open(Path(found.origin or "").parent / "datasets" / "data" / "digits.csv.gz") as file:  # type: ignore[union-attr]
            rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float64))
    except (AttributeError, OSError) as fault:
        raise DataError(
            "digits come with scikit-learn, which must be installed: pip install scikit-learn."
        ) from fault
    # values are whole numbers 0..16, so every product is exact; the one half, 8 * 255 / 16, becomes 128
    x = (rows[:, :-1].reshape(-1, 1, 8, 8) * 255 / 16).round().to(torch.uint8)
    return _with_test_split(x, rows[:, -1].to(torch.int64), tuple(str(k) for k in range(10)), [])
