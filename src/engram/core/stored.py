"""The form of every JSON file that engram reads back: keys, types and ranges, in one place.

A class here is a description, never an instance that anybody keeps: :func:`check` holds what was read against it. A
field with a default may be missing; keys that no field names are let be, so that a later version may add some.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from engram.errors import EngramError

__all__ = ["check", "fits"]

MOST = 2**62  # of a count, and 1e15 of an amount: more was never measured

Count = Annotated[int, Meta(ge=0, le=MOST)]
Seed = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
Object = dict[str, Any]
Matrix = list[list[Share | None]]
Place = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
Losses = Annotated[list[Number], Meta(min_length=1)]
Values = dict[str, bool | int | float | str | list[Any] | None]  # of options


# A seed ------------------------------------------------------------------------------------------------------
class Epoch(Struct, kw_only=True):
    epoch: Count = 0
    losses: dict[str, Number | None] = {}
    measures: Object = {}


class PhaseLog(Struct, kw_only=True):
    phase: str
    epochs: list[Epoch]


class TaskLog(Struct, kw_only=True):
    """What was logged of a task; a method may add what it likes, see `engram.core.contract.Method.report`."""

    task: Count = 0
    seconds: Amount = 0.0
    phases: list[PhaseLog] = []


class Entry(Struct, kw_only=True):
    """A seed of a result, and ``seed.json`` beside its identity."""

    seed: Seed
    status: Literal["done", "failed", "unfinished"]
    error: str | None = None
    accuracy_matrix: Matrix
    average_accuracy: list[Share | None] = []
    final_average_accuracy: Share | None = None
    forgetting: list[Number | None] = []
    final_forgetting: Number | None = None
    backward_transfer: Number | None = None
    seconds: Amount | None = None
    seconds_per_task: list[Amount] = []
    seconds_other: Amount | None = None
    seconds_checkpoints: Amount | None = None
    peak_memory_bytes: Count | None = None
    stored_real_samples: Count = 0
    storage_bytes: dict[str, Count] = {}
    acc_gen: list[Share | None] | None = None
    top5: list[Share] | UnsetType = UNSET
    confusion: list[list[Count]] | None = None
    tasks: list[TaskLog] = []
    samples: Place | None = None
    mistakes: Place | UnsetType = UNSET
    valid_matrix: Matrix | UnsetType = UNSET
    identity: str = ""


# What figures draw of a method's own logs, where they have this form --------------------------------------------
class Growth(Struct, kw_only=True):
    weights: Amount
    reserved: list[Amount] | None = None


class MaskUse(Struct, kw_only=True):
    size: Amount
    used: Amount
    newly: Amount


class Gates(Struct, kw_only=True):
    mean: Number
    on: Number
    hist: Annotated[list[Amount], Meta(min_length=10, max_length=10)]


# A study -----------------------------------------------------------------------------------------------------
class Data(Struct, kw_only=True):
    name: str
    stream: str = ""
    fingerprint: str = ""
    n_classes: Count = 0
    class_names: list[str] = []
    image_shape: list[Count] = []
    notes: list[str] = []


class Task(Struct, kw_only=True):
    name: str = ""
    classes: list[int] = []
    class_names: list[str] = []
    n_train: Count = 0
    n_test: Count = 0


class Method(Struct, kw_only=True):
    name: str
    options: Object = {}


class Config(Struct, kw_only=True):
    method: Method | UnsetType = UNSET
    data: Object = {}


class Protocol(Struct, kw_only=True):
    scenario: str = ""
    reads: str = ""
    selection: str = ""


class Device(Struct, kw_only=True, rename={"kind": "class"}):
    kind: str


class Curve(Struct, kw_only=True, frozen=True):
    label: str = ""
    folder: Place = ""
    option: str | None = None
    scale: str | None = None
    centre: Number | None = None
    own: bool = False


class Variant(Struct, kw_only=True):
    label: str
    folder: Place
    method: str
    config: Config
    protocol: Protocol
    device: Device
    facts: Object
    identity: str
    seeds: list[Seed]
    engram: str
    varied: Values = {}
    curve: Curve = Curve()


class Last(Struct, kw_only=True):
    asked: str
    labels: list[str]
    complete: bool


class Study(Struct, kw_only=True):
    """``study.json``."""

    schema: Literal[2]
    kind: Literal["run", "comparison", "sweep", "tradeoff"]
    data_settings: Object
    data: Data
    tasks: Annotated[list[Task], Meta(min_length=1)]
    variants: Annotated[list[Variant], Meta(min_length=1)]
    found: Object
    last: Last | UnsetType = UNSET
    edited: list[str] = []
    no_checksum: list[str] = []


class Axis(Struct, kw_only=True):
    values: list[Any] = []
    low: Number = 0.0
    high: Number = 0.0
    log: bool = False
    whole: bool = False


class Engine(Struct, kw_only=True):
    name: str
    seed: Seed = 0


class Rule(Struct, kw_only=True):
    name: str


class Trial(Struct, kw_only=True):
    name: str
    numbers: list[Count] = []
    batch: Count = 0
    pruned: bool = False
    steps: dict[str, Share] = {}
    folder: Place = ""
    options: Values = {}


class SweepFound(Struct, kw_only=True):
    """What a sweep says of itself; the rest of what it found follows from its seeds."""

    method: str
    over: Annotated[dict[str, Axis], Meta(min_length=1)]
    engine: Engine
    seeds: Annotated[list[Seed], Meta(min_length=1)]
    rule: Rule
    trials: list[Trial]


class Point(Struct, kw_only=True):
    name: str
    folder: Place
    value: int | float | None = None


class CurveFound(Struct, kw_only=True):
    label: str
    method: str
    folder: Place
    option: str | None = None
    scale: str | None = None
    centre: Number | None = None
    options: Object = {}
    facts: Object = {}
    seeds: list[Seed] | UnsetType = UNSET
    points: list[Point] = []


class TradeoffFound(Struct, kw_only=True):
    """What a trade-off says of itself, as above."""

    source: str
    target: str
    seeds: Annotated[list[Seed], Meta(min_length=1)]
    points: Count
    widen: Count
    required: list[Number]
    finetune_beside: bool
    recipe: str | None = None
    methods: list[CurveFound]


# Schema 1 ----------------------------------------------------------------------------------------------------
class MeasuredPoint(Struct, kw_only=True):
    name: str
    folder: Place
    value: int | float | None = None
    status: str
    seeds: list[Seed]
    source: list[Share]
    target: list[Share]
    source_network: list[Share]
    valid_source: list[Share] = []
    valid_target: list[Share] = []


class MeasuredCurve(Struct, kw_only=True):
    label: str
    method: str
    folder: Place
    option: str | None = None
    options: Object = {}
    points: Annotated[list[MeasuredPoint], Meta(min_length=1)]


class TradeoffFile(Struct, kw_only=True):
    """A ``tradeoff.json`` without the results that it came from."""

    schema: Literal[1]
    source: str
    target: str
    methods: list[MeasuredCurve]


class OldResult(Struct, kw_only=True):
    """``results.json``."""

    schema: Literal[1]
    method: str
    label: str | UnsetType = UNSET
    engram: str = ""
    config: Config
    protocol: Protocol
    data: Data
    tasks: Annotated[list[Task], Meta(min_length=1)]
    device: Device
    facts: Object = {}
    seeds: list[Entry]
    edited: list[str] = []
    no_checksum: list[str] = []


# Memories ----------------------------------------------------------------------------------------------------
class Memorisation(Struct, kw_only=True):
    generated: Amount
    held_out: Amount
    nearer: Share


class OfClass(Struct, kw_only=True):
    images: Count
    held_out: Count
    right: Count
    memorisation: Memorisation | None = None


class Membership(Struct, kw_only=True):
    auc: Share
    low: Share
    high: Share
    training: Count
    held_out: Count


class Call(Struct, kw_only=True):
    """What a `learn` did."""

    date: str
    seconds: Amount
    classes: dict[str, OfClass]
    refined: list[str]
    storage: dict[str, Count]
    membership: Membership | None = None


class Audited(Struct, kw_only=True):
    images: Count
    tensors: Count
    rows: Count
    found: Count
    where: list[str]
    files: dict[str, str]


class Known(Struct, kw_only=True):
    settings: Object
    shape: list[Count]
    classes: list[str]
    calls: list[Call]
    temperature: Annotated[float, Meta(gt=0, le=1e15)]


class MemoryState(Struct, kw_only=True):
    """The record of a memory's state."""

    number: Count
    parent: Count
    date: str
    action: str
    data: str
    versions: dict[str, str]
    known: Known
    audit: Audited | None = None


# Checkpoints -------------------------------------------------------------------------------------------------
class Position(Struct, kw_only=True, forbid_unknown_fields=True):
    task: Count
    phase: Count
    epochs: Count


class Learned(Struct, kw_only=True):
    classes: list[str]
    n_samples: Count
    fingerprint: str


class Best(Struct, kw_only=True):
    valid: Share
    row: list[Share]
    confusion: list[list[Count]]
    epoch: Count
    valid_row: list[Share] = []


class LearnerRecord(Struct, kw_only=True):
    """The record of a learner."""

    learned: list[Learned]


class RunRecord(Struct, kw_only=True):
    """And that of a run."""

    rows: Matrix
    tasks: list[TaskLog]
    seconds: list[Amount]
    acc_gen: list[Share | None]
    peak: Count
    phases: list[PhaseLog]
    confusion: list[list[Count]] | None
    elapsed: Amount = 0.0
    other: Amount = 0.0
    checkpoints: Amount = 0.0
    valid: Matrix = []
    top5: list[Share] = []
    best: Best | UnsetType = UNSET


class Checkpoint(Struct, kw_only=True):
    """The JSON of a checkpoint, its seal taken off."""

    identity: Object
    structure: Object
    cursor: Position
    record: Object
    tensors_sha256: str
    tasks: list[TaskLog] = []


def fits(value: Any, form: Any) -> bool:
    """Whether a JSON value has a form."""
    try:
        convert(value, form)
    except (ValidationError, UnicodeError):
        return False
    return True


def check(value: Any, form: Any, what: str, error: type[EngramError] = EngramError) -> Any:
    """The value, if it has the form.

    Args:
        what: begins the message, such as the name of a file.
        error: what is raised.
    """
    try:
        convert(value, form)
    except (ValidationError, UnicodeError) as fault:  # halves of characters
        why, _, where = str(fault).replace("`", "").partition(" - at $")
        at = f" at {where.lstrip('.')}" if where else ""
        raise error(f"{what}: {why[0].lower()}{why[1:]}{at}.") from fault
    return value
