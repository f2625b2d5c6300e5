"""What a memory is and holds, in words and tables, for a terminal and for a page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engram import features, networks
from engram.core.options import Option, shown
from engram.memory.memory import Memory, State, audit_words, verify
from engram.methods import registry
from engram.protocols.evaluation import sample_grid

PER_CLASS = 8  # generated samples


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Facts:
    """What there is to say of a memory.

    Args:
        about: by name, in words.
        tables: classes, states, sizes, growth.
        command: a run that learns the same, with DATA for what was learned; None where there is none.
        samples: generated images uint8 [classes, n, C, H, W], where the method has a generator.
    """

    about: Mapping[str, str]
    tables: tuple[Table, ...]
    command: str | None
    samples: Tensor | None


def facts_of(memory: Memory) -> Facts:
    """Look at a memory and at all states that are kept."""
    model, settings = memory.model, memory.model.settings
    assert model.learner is not None
    about = {
        "method": f"{settings.method}: {registry.about(settings.method).summary}",
        "features": settings.features or "none, it learns from the images",
        "images": str(model.rule),
        "held out": f"{100 * settings.valid_fraction:g} % of each class, at least one image",
        "audit": audit_words(memory),
        "probabilities": f"softmax of scores divided by {model.temperature:.3g}, from what was held out last"
        if not model.uncalibrated
        else f"not calibrated: {model.uncalibrated}",
        "seed": str(settings.seed),
        "states kept": str(settings.keep),
        "written by": ", ".join(f"{k} {v}" for k, v in memory.record["versions"].items()),
        **model.learner.method.facts(),
    }
    begun = memory.unfinished()
    if begun is not None:
        about["unfinished"] = f"a learn of {', '.join(begun['classes'])} since {begun['since']}"
    samples = None
    if model.learner.method.generative:
        samples = sample_grid(model.learner.method, len(model.classes), PER_CLASS, settings.seed)["images"]
    return Facts(
        about,
        (_classes(memory), _states(memory), _sizes(memory), _growth(memory), *_privacy(memory)),
        command(memory),
        samples,
    )


def accuracy(call: Mapping[str, Any]) -> str:
    """The share of a class's images held out that was right, in words."""
    n = call["held_out"]
    return f"{100 * call['right'] / n:.1f} %" if n else "not measured"


def size(n: int) -> str:
    """A number of bytes in words."""
    return f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n:,} bytes"


def _classes(memory: Memory) -> Table:
    rows = [
        (
            name + (" (again)" if name in call["refined"] else ""),
            call["date"][:10],
            str(one["images"]),
            str(one["held_out"]),
            accuracy(one),
        )
        for call in memory.calls
        for name, one in call["classes"].items()
    ]
    return Table("Classes", ("class", "learned", "images", "held out", "accuracy when learned"), tuple(rows))


def _states(memory: Memory) -> Table:
    return state_table(verify(memory.path))


def state_table(states: Iterable[State]) -> Table:
    """States that are kept, as `verify` finds them."""
    rows = [
        (
            str(one.number),
            one.date.replace("T", " ")[:16],
            one.action,
            str(one.n_classes),
            size(one.n_bytes),
            ("current, " if one.current else "") + (one.fault or "whole"),
            one.audit,
        )
        for one in states
    ]
    return Table("States", ("state", "date", "made by", "classes", "size", "is", "audit"), tuple(rows))


def copying(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classes whose generated samples lie too near to training images, in words: half of them are nearer than 95 % of
    the images held out.
    """
    return [
        f"{name}: {100 * one['memorisation']['nearer']:.0f} % of its generated samples lie nearer to a training image "
        "than 95 % of the images held out: they may be copies"
        for call in calls
        for name, one in call["classes"].items()
        if one.get("memorisation") and one["memorisation"]["nearer"] >= 0.5
    ]


def membership_words(call: Mapping[str, Any]) -> str:
    """How well images learned in a call can be told from those held out."""
    m = call.get("membership")
    return f"{m['auc']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" if m else "not measured"


def _privacy(memory: Memory) -> list[Table]:
    rows = [(call["date"][:10], ", ".join(call["classes"]), membership_words(call)) for call in memory.calls]
    columns = ("date", "learned", "training images told from held-out ones, AUC [95 %]")
    tables = [Table("Membership", columns, tuple(rows))]
    copies = [
        (name, f"{m['generated']:.1f}", f"{m['held_out']:.1f}", f"{100 * m['nearer']:.0f} %")
        for call in memory.calls
        for name, one in call["classes"].items()
        if (m := one.get("memorisation"))
    ]
    if copies:
        heads = ("class", "generated samples", "images held out", "generated nearer than 95 % of held out")
        tables.append(Table("Distance to the nearest training image, median", heads, tuple(copies)))
    return tables


def _sizes(memory: Memory) -> Table:
    rows = [(kind.replace("_", " "), size(n)) for kind, n in memory.model.storage().items() if n]
    return Table("Size in parts", ("part", "size"), tuple(rows))


def _growth(memory: Memory) -> Table:
    rows, n = [], 0
    for call in memory.calls:
        n += len(call["classes"]) - len(call["refined"])
        rows.append(
            (call["date"][:10], ", ".join(call["classes"]), str(n), size(sum(call["storage"].values())))
        )
    return Table("Growth", ("date", "learned", "classes then", "size then"), tuple(rows))


def command(memory: Memory) -> str | None:
    """The `engram run` that learns the same bit for bit, over DATA that holds the images of all calls.

    None where nothing does: a class was forgotten or refined, or vectors were learned.
    """
    model, s = memory.model, memory.model.settings
    assert model.learner is not None
    assert model.rule is not None
    if any(call["refined"] for call in memory.calls):
        return None
    if model.learner.classes != model.classes or len(model.rule.shape) == 1:
        return None
    words = [
        "engram",
        "run",
        s.method,
        "--data",
        "DATA",
        "--recipe",
        "none",
        "--image-size",
        str(s.image_size),
    ]
    words += ["--groups", *(str(len(call["classes"])) for call in memory.calls)]
    words += ["--class-order", *model.classes, "--valid-fraction", shown(s.valid_fraction)]
    words += ["--seeds", str(s.seed), "--stream-seed", str(s.seed), "--network", str(s.network)]
    words += ["--features", s.features or "none"]
    for name, about, given in (
        (s.method, registry.about(s.method), s.method_options),
        (s.network, networks.about(str(s.network)), s.network_options),
        (s.features, features.about(s.features) if s.features else None, s.features_options),
    ):
        words += _changed(str(name), about.options if about else (), given)
    return shlex.join(words)


def _changed(owner: str, options: Iterable[Option], given: Mapping[str, Any]) -> list[str]:
    """The words of the options that differ from the defaults."""
    words = []
    for option in options:
        if given.get(option.name, option.default) != option.default:
            words += [f"--{owner}.{option.name}", shown(given[option.name])]
    return words
