"""Data given as objects: streams, data sets, arrays, and the map-style data sets of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from engram.errors import ConfigError, DataError, reason
from engram.streams.images import ImageData, fingerprint, from_arrays
from engram.streams.splits import TEST_SHARE, set_aside
from engram.streams.stream import Stream

FORMS = (
    "a stream, a data set, arrays (x, y) or (x, y, test_x, test_y), or a torch Dataset or two (train, test)"
)


def as_data(given: Any, name: str) -> ImageData | Stream:
    """What is given as a data set or stream; one of ours as it is.

    Args:
        given: besides, arrays ``(x, y)`` or ``(x, y, test_x, test_y)`` as :func:`engram.from_arrays` takes them, or a
            map-style `Dataset` of (image, label), read once, or two of them, for training and for test. Without test
            samples a quarter of each class is set aside, the same every time, and the notes say so.
        name: of arrays in results.

    Raises:
        ConfigError: it is none of these.
        DataError: as `from_arrays`, or a data set cannot be read.
    """
    if isinstance(given, (Stream, ImageData)):
        return given
    parts = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if all(isinstance(part, Dataset) for part in parts) and 0 < len(parts) < 3:
        parts = tuple(column for part in parts for column in _columns(part))
    if len(parts) not in (2, 4):
        raise ConfigError(
            f"data must be a name, settings, {FORMS}, got {type(given).__name__}: give one of them."
        )
    data = from_arrays(*parts, *(parts if len(parts) == 2 else ()), name=name)
    return data if len(parts) == 4 else _with_test_split(data)


def _columns(data: Any) -> tuple[Any, list[Any]]:
    """Images and labels of a `Dataset`, each read once."""
    name = type(data).__name__
    if not hasattr(data, "__len__"):
        raise DataError(
            f"{name} must have a length, so that each sample is read once: give a map-style Dataset."
        )
    try:
        images, labels = zip(*(data[i] for i in range(len(data))), strict=True)
        return np.stack([np.asarray(image) for image in images]), [np.asarray(k).item() for k in labels]
    except Exception as error:  # whatever the code of others raises
        raise DataError(
            f"{name} must give (image, label), all images of one shape, it stops with {reason(error)}."
        ) from error


def _with_test_split(data: ImageData) -> ImageData:
    kept, held = set_aside(data.train_y)
    parts = data.train_x[kept], data.train_y[kept], data.train_x[held], data.train_y[held]
    note = f"no test samples were given: {TEST_SHARE:.0%} of each class set aside, the same every time"
    return ImageData(data.name, *parts, data.class_names, fingerprint(*parts), (*data.notes, note))
