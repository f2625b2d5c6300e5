"""What arrives: data sets, and streams of tasks made of them. Knows no network, optimiser or epochs."""

from engram.core.data_names import SHORT_NAMES
from engram.streams.builders import class_incremental, permuted, rotated, sequence
from engram.streams.guard import Guard, Reads
from engram.streams.images import ImageData, fingerprint, from_arrays, resize, to_channels
from engram.streams.sources import load
from engram.streams.stream import LabelSpace, Samples, Stream, Task

__all__ = [
    "SHORT_NAMES",
    "Guard",
    "ImageData",
    "LabelSpace",
    "Reads",
    "Samples",
    "Stream",
    "Task",
    "class_incremental",
    "fingerprint",
    "from_arrays",
    "load",
    "permuted",
    "resize",
    "rotated",
    "sequence",
    "to_channels",
]
