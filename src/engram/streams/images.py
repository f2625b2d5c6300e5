"""A labelled data set, of images held as bytes or of feature vectors, and the operations that keep it one.

Shape legend: ``N`` samples, ``C`` channels (1 grey, 3 colour), ``H`` and ``W`` pixels, ``K`` classes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engram.core.samples import Shape
from engram.errors import ConfigError, DataError, printable, reason
from engram.streams.labels import number
from engram.streams.resizing import resize_pixels

_FLOATS = 1 << 24  # pixels that are held as floats at a time

Layout = Literal["NHW", "NHWC", "NCHW"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set with a train and a test split; valid by construction.

    Args:
        name: as given to `load`.
        train_x, test_x: uint8 [N, C, H, W], or feature vectors float32 [N, D]; one shape in both.
        train_y, test_y: int64 [N], labels 0..K-1; every class occurs in both splits.
        class_names: K names, by label, no two alike; what is not printable in them becomes escapes.
        fingerprint: `fingerprint` of the four tensors.
        notes: what a reader of results should know (how the test split was made, lossy pixels, ...).
    Raises:
        DataError: any of the above does not hold.
    """

    name: str
    train_x: Tensor = field(repr=False)
    train_y: Tensor = field(repr=False)
    test_x: Tensor = field(repr=False)
    test_y: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(str(self.name)))
        for texts in ("class_names", "notes"):
            object.__setattr__(self, texts, tuple(map(printable, getattr(self, texts))))
        twice = next((n for k, n in enumerate(self.class_names) if n in self.class_names[:k]), None)
        if twice is not None:
            raise DataError(f'{self.name}: class names must differ, got "{twice}" twice: rename one.')
        for split, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            _check_split(self.name, split, x, y, self.class_names)
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise DataError(
                f"{self.name}: train and test images must have one shape, got {list(self.train_x.shape[1:])} "
                f"and {list(self.test_x.shape[1:])} [C, H, W]: resize or convert one of them."
            )

    @property
    def n_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of every image, or (D,) of every vector."""
        return tuple(self.train_x.shape[1:])

    def check_images(self, what: str) -> None:
        """Raise ``ConfigError`` where samples are feature vectors, which ``what`` cannot work on."""
        if len(self.image_shape) != 3:
            raise ConfigError(
                f"{what} needs images [C, H, W], {self.name} holds feature vectors: leave it out."
            )


def fingerprint(*tensors: Tensor) -> str:
    """sha256, as hex, over type, shape and bytes of each tensor in turn."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


def from_arrays(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    layout: Layout | None = None,
    value_range: tuple[float, float] | None = None,
) -> ImageData:
    """An `ImageData` from NumPy arrays or tensors, which are copied.

    Args:
        train_x, test_x: uint8, or float in [0, 1] (rounded to 0..255, said in the notes), or any numbers in
            value_range; [N, H, W], [N, H, W, C] or [N, C, H, W]; or feature
            vectors, floats [N, D] that are finite in float32, as which they are kept.
        train_y, test_y: [N] whole numbers of any value, truth values, or text; mapped to 0..K-1, whole numbers
            by value and then all others as text.
        class_names: K names in sorted order of the labels; by default the labels themselves.
        name: used in messages and results.
        layout: where the channels are. None finds out: three axes are "NHW"; of four axes, the one among the
            second and the last that has length 1 or 3 is the channels, and both or neither is an error.
        value_range: of images, the values of black and white, such as (0, 65535), scaled to 0..255. Values that
            lie outside by less than half a step of 1/255 are rounding errors, and are clipped.
    Raises:
        DataError: a shape, type or value other than above, an empty split, or a class missing from a split.
        ConfigError: layout or value_range is not usable.
    """
    if layout not in (None, "NHW", "NHWC", "NCHW"):
        raise ConfigError(f'layout must be "NHW", "NHWC" or "NCHW", got {layout!r}.')
    if value_range is not None:
        check_range(value_range)
    notes: list[str] = []
    arrays = {
        f"{name}: {split}": as_array(f"{name}: {split}", values)
        for split, values in (
            ("train_x", train_x),
            ("test_x", test_x),
            ("train_y", train_y),
            ("test_y", test_y),
        )
    }
    columns = dict(list(arrays.items())[2:])
    for what, y in columns.items():
        if y.ndim != 1:
            raise DataError(
                f"{what} must hold one label an image, [N], got {list(y.shape)}: reshape it first."
            )
    labels, names = number({what: y.tolist() for what, y in columns.items()})
    if class_names is not None and (isinstance(class_names, str) or not isinstance(class_names, Sequence)):
        raise DataError(f"{name}: class_names must be a list of names, got {class_names!r}.")
    if class_names is not None and len(class_names) != len(names):
        raise DataError(
            f"{name}: class_names must hold one name for each of the {len(names)} labels, "
            f"got {len(class_names)}: give them in sorted order of the labels."
        )
    if class_names is not None and not all(str(one).strip() for one in class_names):
        raise DataError(f"{name}: class_names must not be empty, got {list(class_names)}: name every class.")
    pixels = [pixels_of(what, x, layout, value_range, notes) for what, x in list(arrays.items())[:2]]
    ours = [torch.tensor(column, dtype=torch.int64) for column in labels]
    return ImageData(
        name=name,
        train_x=pixels[0],
        train_y=ours[0],
        test_x=pixels[1],
        test_y=ours[1],
        class_names=names if class_names is None else tuple(map(str, class_names)),
        fingerprint=fingerprint(pixels[0], ours[0], pixels[1], ours[1]),
        notes=tuple(dict.fromkeys(notes)),
    )


def resize(data: ImageData, size: int) -> ImageData:
    """All images at ``size`` x ``size``: bilinear, antialiased when shrinking, rounded to bytes.

    The aspect ratio is not kept. Raises ConfigError when size is not an integer >= 1.
    """
    check_size(size)
    data.check_images("resize")
    height, width = data.image_shape[1:]
    if (height, width) == (size, size):
        return data
    note = f"resized from {width}x{height} to {size}x{size} pixels (bilinear)"
    return _with_pixels(data, resize_pixels(data.train_x, size), resize_pixels(data.test_x, size), note)


def to_channels(data: ImageData, n_channels: int = 3) -> ImageData:
    """Grey images with the grey value repeated over ``n_channels``; unchanged where that is the number
    already.

    Raises ConfigError when the images are colour and n_channels differs: colour is never thrown away unsaid.
    """
    data.check_images("to_channels")
    have = data.image_shape[0]
    if have == n_channels:
        return data
    if have != 1 or not isinstance(n_channels, int) or n_channels < 1:
        raise ConfigError(
            f"to_channels repeats grey images (1 channel) an integer number of times, got {data.name} with "
            f"{have} "
            f"channels and n_channels={n_channels!r}: convert the other data set instead."
        )
    widened = [x.expand(-1, n_channels, -1, -1).contiguous() for x in (data.train_x, data.test_x)]
    return _with_pixels(data, widened[0], widened[1], f"grey repeated over {n_channels} channels")


def check_size(size: object) -> None:
    """Raise ConfigError unless size is a plausible edge length in pixels."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"image_size must be an integer >= 1, got {size!r}.")


def _with_pixels(data: ImageData, train_x: Tensor, test_x: Tensor, note: str) -> ImageData:
    return dataclasses.replace(
        data,
        train_x=train_x,
        test_x=test_x,
        fingerprint=fingerprint(train_x, data.train_y, test_x, data.test_y),
        notes=(*data.notes, note),
    )


def _check_split(name: str, split: str, x: Tensor, y: Tensor, class_names: tuple[str, ...]) -> None:
    wanted = {2: torch.float32, 4: torch.uint8}.get(x.ndim)
    if x.dtype != wanted or min(x.shape[1:]) < 1:
        raise DataError(
            f"{name}: {split} images must be uint8 [N, C, H, W] or vectors float32 [N, D], got "
            f"{x.dtype} {list(x.shape)}: use from_arrays, which converts."
        )
    if y.ndim != 1 or y.dtype != torch.int64 or len(y) != len(x):
        raise DataError(
            f"{name}: {split} labels must be int64 [N], one an image, got {y.dtype} {list(y.shape)} "
            f"for {len(x)} images."
        )
    if len(x) == 0:
        raise DataError(f"{name}: the {split} split must hold at least one image, got none.")
    if int(y.min()) < 0 or int(y.max()) >= len(class_names):
        raise DataError(
            f"{name}: {split} labels must lie in 0..{len(class_names) - 1}, one a class name, "
            f"got {int(y.min())}..{int(y.max())}."
        )
    counts = torch.bincount(y, minlength=len(class_names))
    missing = [class_names[label] for label in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        shown = ", ".join(f'"{n}"' for n in missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise DataError(
            f"{name}: every class needs a sample in train and in test, {len(missing)} of {len(class_names)} "
            f"have no {split} sample ({shown}): add samples, or leave these classes out (a class range such "
            "as NAME:0-4)."
        )


def check_range(value_range: Any) -> None:
    """Raise ConfigError unless value_range is two finite numbers, the smaller first."""
    try:
        low, high = map(float, value_range)
        usable = -np.inf < low < high < np.inf and not any(isinstance(v, str) for v in value_range)
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise ConfigError(
            f"value_range must be two finite numbers, black and white, the smaller first, got {value_range!r}: "
            "give such as (0, 255)."
        )


def as_array(what: str, values: Any) -> NDArray[Any]:
    """Values of any array library, on the CPU and in this machine's byte order."""
    try:
        if np.ma.is_masked(values):
            raise ValueError("masked values")
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values  # which NumPy does not know
            values = values.numpy(force=True)
        array = np.asarray(values)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    except Exception as fault:  # each array library has its own
        raise DataError(
            f"{what} must be an array or a tensor, got {type(values).__name__} ({reason(fault)}): make a plain NumPy "
            "array of it, all images of one size."
        ) from fault


def pixels_of(
    what: str,
    x: NDArray[Any],
    layout: Layout | None,
    value_range: tuple[float, float] | None,
    notes: list[str],
) -> Tensor:
    """uint8 [N, C, H, W], or float32 [N, D], a contiguous copy of what `from_arrays` takes; adds to the notes."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} must be an array or tensor of numbers, got {x.dtype}: convert it first.")
    if layout is None and x.ndim == 2 and x.dtype.kind == "f":
        if value_range is not None:
            raise ConfigError(
                f"value_range must be left out with vectors, which are kept as they are, got {value_range!r} for "
                f"{what}: leave it out."
            )
        if not np.isfinite(x).all():
            raise DataError(f"{what} must be finite, got nan or infinity: leave such samples out.")
        with np.errstate(over="ignore"):  # said below
            vectors = torch.from_numpy(x.astype(np.float32))
        if not vectors.isfinite().all():
            most = np.finfo(np.float32).max
            raise DataError(
                f"{what} must lie within -{most:.3g} and {most:.3g}, since vectors are kept as float32, got "
                f"{x.min():.3g}..{x.max():.3g}: scale them."
            )
        return vectors
    if x.ndim not in (3, 4) or (layout is not None and x.ndim != len(layout)):
        wanted = layout or "[N, H, W], [N, H, W, C], [N, C, H, W] or float vectors [N, D]"
        raise DataError(f"{what} must be {wanted}, got {list(x.shape)}: reshape it first.")
    if x.ndim == 3:
        x = x[:, None]
    else:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if layout is None and first == last:
            raise DataError(
                f"{what} must show which axis is the channels (1 or 3 long), got {list(x.shape)}: "
                'say layout="NCHW" or layout="NHWC".'
            )
        if layout == "NHWC" or (layout is None and last):
            x = x.transpose(0, 3, 1, 2)
    if x.dtype != np.uint8 or value_range is not None:
        x = _scaled(what, x, value_range, notes)
    return torch.from_numpy(np.array(x, order="C"))


def _scaled(
    what: str, x: NDArray[Any], value_range: tuple[float, float] | None, notes: list[str]
) -> NDArray[np.uint8]:
    """Numbers in value_range, floats in [0, 1] where there is none, rounded to 0..255."""
    if value_range is None and x.dtype.kind != "f":
        raise DataError(
            f"{what} must be uint8 in 0..255 or float in [0, 1], got {x.dtype}: convert it first, or give "
            "value_range=(low, high), the values of black and white."
        )
    low, high = map(float, value_range or (0, 1))
    half_a_step = (high - low) / 510
    out = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), 1024):  # in parts, since the arithmetic needs eight bytes a pixel
        part = x[start : start + 1024].astype(np.float64)
        if part.size and not bool(((part > low - half_a_step) & (part < high + half_a_step)).all()):
            if not np.isfinite(part).all():
                raise DataError(f"{what} must hold finite numbers, got nan or inf: replace these values.")
            raise DataError(
                f"{what} must lie in [{low:g}, {high:g}], got {part.min():g}..{part.max():g}: give "
                "value_range=(low, high), the values of black and white, or uint8."
            )
        out[start : start + 1024] = ((part - low) * 255 / (high - low)).round().clip(0, 255)
    notes.append(
        "float pixels in [0, 1] rounded to bytes"
        if value_range is None
        else f"pixels in [{low:g}, {high:g}] scaled to 0..255 and rounded"
    )
    return out
