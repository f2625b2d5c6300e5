"""Which runs a table or figure of a paper still needs, given the results that are there, wherever they were made.

A reproduction asks for studies as a study asks for runs:

    while studies := reproduction.missing(): execute(...)

A result counts where its method's options, its data and its network are those that the recipe gives today; the device
and the recipe's name do not matter. An option that a file does not know yet must have its default today, or what runs
did before it was there. Seeds of one method may come from different folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram import networks
from engram.core.files import parsed, read_regular
from engram.core.options import Option
from engram.errors import EngramError, reason
from engram.methods.registry import about
from engram.recipes import Recipe, recipe
from engram.recipes.targets import Part, Row
from engram.studies import curves
from engram.studies.folders import STUDY_FILE
from engram.studies.results import FoundResult, read, read_result, read_tradeoff, summarise
from engram.studies.settings import FINETUNE, DataSettings, NetworkSettings, Settings, plain
from engram.studies.study import Comparison, Study
from engram.studies.tradeoff import LEAST, Tradeoff, parse_grids
from engram.studies.variants import Variant, variant

__all__ = ["Gathered", "PartFound", "found", "gather", "missing", "seeds_of"]

Result = dict[str, Any]

#: Keys of a result; a sweep has all but the tasks, and "over".
RESULT = {"method", "seeds", "config", "tasks"}

#: What runs did before an option was there, where that is not its default today.
BEFORE = {"label": "within_stream"}


@dataclass
class Gathered:
    """Everything that lies in some folders: results of single methods, and what trade-offs concluded.

    ``empty`` are the folders with neither.
    """

    results: list[FoundResult] = field(default_factory=list)
    tradeoffs: list[Mapping[str, Any]] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class PartFound:
    """What there is of a part.

    Args:
        part: which.
        results: by name of row, the seeds that are asked for, merged; rows without a finished seed are left out.
        files: by name of row, where they were read from.
        unused: by name of row, folders of other results of seeds that were found before.
        curves: of a trade-off, as :func:`engram.studies.curves.measured` has it; empty where fine-tuning is missing.
    """

    part: Part
    results: Mapping[str, Result]
    files: Mapping[str, tuple[FoundResult, ...]]
    curves: Mapping[str, Any]
    unused: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


def gather(folders: Iterable[Path], *, accept_edited: bool = False) -> Gathered:
    """What lies in folders and those below: studies, and files that hold a result alone.

    Raises:
        EngramError: a folder is none, or a file of engram in it cannot be used.
    """
    out = Gathered()
    for folder in folders:
        if not folder.is_dir():
            raise EngramError(f"results must lie in folders, {folder} is none: name one that is there.")
        before = len(out.results), len(out.tradeoffs)
        _gather(folder, out, accept_edited, set())
        if before == (len(out.results), len(out.tradeoffs)):
            out.empty.append(folder)
    return out


def _gather(folder: Path, out: Gathered, accept_edited: bool, seen: set[Path]) -> None:
    if folder.resolve() in seen:  # by a link
        return
    seen.add(folder.resolve())
    if (folder / STUDY_FILE).is_file():
        study = read(folder, accept_edited=accept_edited)
        out.results += study.results if study.kind != "tradeoff" else []
        out.tradeoffs += [study.found] if study.kind == "tradeoff" else []
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            _gather(path, out, accept_edited, seen)
        elif path.suffix == ".json":
            kind = _kind(path)
            if kind == "result":
                out.results.append(FoundResult(folder, read_result(path, accept_edited=accept_edited)))
            elif kind == "tradeoff":
                out.tradeoffs.append(read_tradeoff(path, accept_edited=accept_edited))


def _kind(path: Path) -> str:
    """What a file holds: a result, a trade-off, or something else, which is left alone."""
    try:
        value = parsed(read_regular(path))
    except (OSError, ValueError) as error:
        raise EngramError(
            f"{path} must be JSON that can be read, it is not ({reason(error)}): take it away."
        ) from error
    if not isinstance(value, dict):
        return ""
    if {"source", "target", "methods"} <= value.keys():
        return "tradeoff"
    # A damaged one too, which is then refused.
    return "result" if len(RESULT & value.keys()) >= 3 and "over" not in value else ""


# What a part asks for -----------------------------------------------------------------------------------------
def data_of(part: Part, data_dir: str | None = None) -> DataSettings:
    """The data settings of a part."""
    return DataSettings(**{**recipe(part.recipe).data, **part.data, "data_dir": data_dir})


def variant_of(part: Part, row: Row) -> Variant:
    """The row's method with the recipe's options and its own."""
    own = recipe(part.recipe)
    return variant(row.variant, own.methods.get(row.variant.partition(":")[0], {}))


def found(part: Part, seeds: Sequence[int], gathered: Gathered) -> PartFound:
    """What there is of a part.

    Raises:
        EngramError: results of it are of different data.
    """
    if part.tradeoff:
        return PartFound(part, {}, {}, _curves(part, seeds, gathered.tradeoffs))
    own, results, files, unused = recipe(part.recipe), {}, {}, {}
    prints: dict[str, Path] = {}
    for row in part.rows:
        wanted = variant_of(part, row)
        same = [f for f in gathered.results if _is_of(f.result, part, own, wanted)]
        entries: dict[int, Any] = {}
        used, spare = [], []
        for f in same:
            there = {s["seed"]: s for s in f.result["seeds"] if s["status"] == "done" and s["seed"] in seeds}
            if there.keys() - entries.keys():
                used.append(f)
            if any(there[s] != entries[s] for s in there.keys() & entries.keys()):
                spare.append(f.directory)
            entries = there | entries
        if not entries:
            continue
        for f in same:
            prints.setdefault(f.result["data"].get("fingerprint", ""), f.directory)
        merged = {**used[0].result, "label": row.name, "seeds": [entries[s] for s in sorted(entries)]}
        results[row.name] = {**merged, "summary": summarise(merged["seeds"])}
        files[row.name] = tuple(used)
        if spare:
            unused[row.name] = tuple(spare)
    if len(prints) > 1:
        first, second, *_ = prints.values()
        raise EngramError(
            f"results of {part.name} must be of the same data, those in {first} and {second} are not: leave one out."
        )
    return PartFound(part, results, files, {}, unused)


def missing(found: PartFound, settings: Settings) -> list[Study]:
    """The studies that are needed to complete a part, in its folder in that of ``settings``, which name the seeds."""
    part, own = found.part, recipe(found.part.recipe)

    def told(left: Sequence[int]) -> Settings:
        return Settings(
            settings.out / part.name,
            data_of(part, settings.data.data_dir),
            NetworkSettings(own.network, dict(own.network_options)),
            left,
            settings.device,
            settings.jobs,
            resume=True,
            recipe=own.name,
            accept_edited=settings.accept_edited,
        )

    by_seeds: dict[tuple[int, ...], list[Variant]] = {}
    for row in part.rows:
        have = seeds_of(found, row)
        left = tuple(s for s in settings.seeds if s not in have)
        if left:
            by_seeds.setdefault(left, []).append(variant_of(part, row))
    if not part.tradeoff:
        return [Comparison(told(left), variants) for left, variants in by_seeds.items()]
    studies: list[Study] = []
    for left, variants in by_seeds.items():
        named = {v.method for v in variants}
        beside = FINETUNE not in named
        if beside:  # a trade-off has fine-tuning in it
            variants = [*variants, variant(FINETUNE, own.methods.get(FINETUNE, {}))]
        over = [f"{o}={','.join(map(str, v))}" for o, v in part.over.items() if o.partition(".")[0] in named]
        studies.append(Tradeoff(told(left), variants, grids=parse_grids(over), widen=0, beside=beside))
    return studies


def seeds_of(found: PartFound, row: Row) -> set[int]:
    """The seeds of a row that have finished."""
    if not found.part.tradeoff:
        return set(found.results.get(row.name, {"summary": {"seeds": []}})["summary"]["seeds"])
    own = [m for m in found.curves.get("methods", ()) if m["label"] == row.variant]
    return {s for m in own for s in m["seeds"]}


# Whether a result is what is asked for --------------------------------------------------------------------------
def _is_of(result: Mapping[str, Any], part: Part, own: Recipe, wanted: Variant) -> bool:
    config = result["config"]
    if (
        result["method"] != wanted.method
        or config.get("features")
        or (config.get("method") or {}).get("source")
    ):
        return False
    return _has_setting(config, part, own) and _agree(
        about(wanted.method).options, wanted.options, (config.get("method") or {}).get("options", {})
    )


def _has_setting(config: Mapping[str, Any], part: Part, own: Recipe) -> bool:
    """Whether data and network are the part's."""
    data = {k: v for k, v in data_of(part).what().items() if k != "tasks" or v is not None}
    there = {**DataSettings().what(), **config.get("data", {})}
    if any(there[k] != v for k, v in data.items()):
        return False
    net = config.get("network") or {}
    return own.network is None or (
        net.get("name") == own.network
        and not net.get("source")
        and _agree(networks.about(own.network).options, own.network_options, net.get("options", {}))
    )


def _agree(
    options: Iterable[Option], given: Mapping[str, Any], there: Mapping[str, Any], skip: Iterable[str] = ()
) -> bool:
    """Whether the options in a file are those given and defaults, see the module docstring."""
    for option in options:
        if option.name in skip:
            continue
        value = plain(given.get(option.name, option.default))
        if there.get(option.name, BEFORE.get(option.name, plain(option.default))) != value:
            return False
    return True


# Trade-offs -----------------------------------------------------------------------------------------------------
def _curves(part: Part, seeds: Sequence[int], tradeoffs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves of the rows, their points merged over seeds, with both measures; empty without fine-tuning."""
    (source, target), own = data_of(part).sets, recipe(part.recipe)
    entries = []
    for row in part.rows:
        wanted = variant_of(part, row)
        same = [
            m
            for t in tradeoffs
            if (t["source"], t["target"]) == (source, target)
            for m in t["methods"]
            if m["label"] == row.variant
            # Files from before it was written down are told by source, target and options alone.
            and ("setting" not in m or _has_setting(m["setting"], part, own))
            and _agree(about(wanted.method).options, wanted.options, m["options"], skip=[str(m["option"])])
        ]
        merged = _merged(same, seeds)
        least = 1 if merged and merged["option"] is None else LEAST
        if merged and len(merged["points"]) >= least:
            entries.append(merged)
    if not any(e["label"] == FINETUNE for e in entries):
        return {}
    asked = {"source": source, "target": target, "recipe": part.recipe, "finetune_beside": False}
    common = sorted(set.intersection(*(set(e["seeds"]) for e in entries)))
    if not common:
        return {}
    entries = [_merged([e], common) for e in entries]
    return {**asked, "seeds": common, "points": 0, "widen": 0, "required": [], **curves.measured(entries, ())}


COLUMNS = ("source", "target", "source_network", "valid_source", "valid_target")


def _merged(same: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """One curve: the points that have finished with all seeds that most of them have."""
    by_value: dict[Any, dict[int, tuple[Mapping[str, Any], int]]] = {}
    for m in same:
        for p in m["points"]:
            at = by_value.setdefault(p["value"], {})
            at |= {s: (p, i) for i, s in enumerate(p["seeds"]) if s in seeds and s not in at}
    counts = Counter(s for at in by_value.values() for s in at)
    have = sorted(s for s, n in counts.items() if n == max(counts.values()))
    points = []
    for value in sorted(by_value, key=lambda v: (v is not None, v)):
        at = by_value[value]
        if have and at.keys() >= {*have}:
            first = at[have[0]][0]
            columns = {k: [p[k][i] for p, i in (at[s] for s in have) if p[k]] for k in COLUMNS}
            points.append({**first, "status": "done", "error": None, "seeds": have, **columns})
    return {**same[0], "points": points, "seeds": have} if points else {}
