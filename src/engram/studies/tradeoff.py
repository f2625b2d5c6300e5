"""Trade-off curves of several methods between a source and a target task, compared by two measures.

J. Lee et al., "Residual Continual Learning" (AAAI 2020): a method's own option trades the accuracy of the source task
for that of the target task, so what is compared are curves over it; see `engram.protocols.tradeoff`.

Each method has a folder, with one a point of its curve; a method without such an option is one point. Points that the
folder holds from an earlier call stay on the curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engram.core.options import closest
from engram.core.values import split_variant
from engram.errors import ConfigError
from engram.methods.registry import about, check_name, entry, method
from engram.studies import curves
from engram.studies.axes import Axis, parse_over, trial_name
from engram.studies.folders import folder_name
from engram.studies.settings import FINETUNE, POINTS, VALID_FRACTION, WIDEN, DataSettings, Settings
from engram.studies.study import Done, Problem, Record, Study
from engram.studies.sweep import SIGNS
from engram.studies.variants import Variant, check_distinct

if TYPE_CHECKING:
    from engram.studies.planning import Planner

__all__ = ["Tradeoff", "checked_grid", "log_value", "pair_of", "parse_grids"]

DECADES = 4  # of a logarithmic grid before it is widened
LEAST = 3  # points of a curve
LINEAR = tuple(round(0.1 * i, 1) for i in range(11))
EXAMPLE = "give for example --over lwf.strength=0.1,0.3,1,3"


@dataclass
class _Curve:
    """One method, and the option of it that is varied.

    Args:
        method: the method, its label and its folder.
        option: what is varied; None for a method without a trade-off, which is one point.
        scale: log, linear or by_hand; None for one point.
        centre: of a logarithmic grid.
        values: so far.
    """

    method: Variant
    option: str | None = None
    scale: str | None = None
    centre: float | None = None
    values: list[Any] = field(default_factory=list)

    def variants(self) -> list[Variant]:
        """The points, by value."""
        m = self.method
        said = {
            "label": m.label,
            "folder": m.folder,
            "option": self.option,
            "scale": self.scale,
            "centre": self.centre,
            "own": self.option is not None and self.option == about(m.method).tradeoff,
        }
        if self.option is None:
            return [Variant(m.label, m.folder, m.method, m.options, {}, said)]
        points = []
        for value in sorted(self.values):
            varied = {self.option: value}
            name = trial_name(varied)
            folder = f"{m.folder}/{folder_name(name, SIGNS)}"
            points.append(
                Variant(f"{m.label} {name}", folder, m.method, {**m.options, **varied}, varied, said)
            )
        return points

    def widen(self, points: int, most: int, *, stable: bool) -> None:
        """Add a decade at an end of a logarithmic grid, as dense as the grid; nothing beyond ``most`` decades.

        Args:
            points: of the grid.
            most: decades at each end.
            stable: the end of large values; else that of small ones.
        """
        if self.scale != "log" or self.centre is None:
            return
        steps = (points - 1) / DECADES  # of a decade
        places = range(1, math.floor(steps * most + 1e-9) + 1)
        if stable:
            values = [log_value(self.centre, points, points - 1 + i) for i in places]
            beyond = [v for v in values if v > max(self.values)]
        else:
            values = [log_value(self.centre, points, -i) for i in places]
            beyond = [v for v in values if v < min(self.values)]
        self.values += beyond[: max(1, round(steps))]


def log_value(centre: float, points: int, index: int) -> float:
    """The index-th value of ``points`` over four decades around ``centre``, to three digits; any index."""
    return float(f"{centre * 10 ** (DECADES * (index / (points - 1) - 0.5)):.3g}")


class Tradeoff(Study):
    """Curves of several methods.

    Args:
        settings: data are two data sets, scenario task, and a valid_fraction above 0.
        methods: fine-tuning among them.
        grids: by method, the option and its values given by hand.
        points: of a logarithmic grid.
        widen: most decades that are added at each end of it.
        required: further required target accuracies, in percent.
        beside: fine-tuning was not asked for.

    Raises:
        ConfigError: what can be said before data are read.
    """

    kind = "tradeoff"
    record_valid = True
    keeps_diverged = True

    def __init__(
        self,
        settings: Settings,
        methods: Sequence[Variant],
        *,
        grids: Mapping[str, Axis],
        points: int = POINTS,
        widen: int = WIDEN,
        required: Sequence[float] = (),
        beside: bool = False,
    ) -> None:
        super().__init__(settings, [m.method for m in methods])
        check_distinct(methods)
        self.methods, self.grids = list(methods), dict(grids)
        self.points, self.widen = points, widen
        self.required, self.beside = tuple(map(float, required)), beside
        self.curves: list[_Curve] = []
        self._check_settings()
        self._check_grids()

    def _check_settings(self) -> None:
        if self.points < LEAST:
            raise ConfigError(
                f"points must be an integer >= {LEAST}, a curve needs three, got {self.points}."
            )
        if self.widen < 0:
            raise ConfigError(
                f"widen must be an integer >= 0, got {self.widen}: 0 leaves the grids as they are."
            )
        for tau in self.required:
            if not 0 < tau <= 100:
                raise ConfigError(
                    f"required must be target accuracies in percent, above 0 to 100, got {tau:g}: "
                    "give for example 97.5."
                )
        data = self.settings.data
        if data.valid_fraction <= 0:
            raise ConfigError(
                f"settings are also chosen on validation data, got valid_fraction {data.valid_fraction:g}: "
                f"give a share above 0, for example --valid-fraction {VALID_FRACTION}."
            )
        if len(data.sets) != 2 or data.scenario != "task":
            raise ConfigError(
                f"a trade-off needs two data sets with task labels, a source and a target, got {data.data} with "
                f"scenario {data.scenario}: give --source and --target."
            )

    def _check_grids(self) -> None:
        names = {m.method for m in self.methods}
        for name, axis in self.grids.items():
            if name not in names:
                raise ConfigError(
                    f"over must name a method that is run, got {name!r}{closest(name, names)}: {EXAMPLE}."
                )
            if name == FINETUNE:
                raise ConfigError(
                    f"{FINETUNE} must be one point, the required target accuracies come from it, got values of its "
                    f"{axis.name}: give one with --{FINETUNE}.{axis.name}, or name variants."
                )
        for m in self.methods:
            option = self._option(m)
            if option is not None and option in split_variant(m.label)[1]:
                raise ConfigError(
                    f"a variant must leave open what its curve varies, got {m.label} with curves over {option}: "
                    f"leave {option} out."
                )

    def _option(self, m: Variant) -> str | None:
        return self.grids[m.method].name if m.method in self.grids else about(m.method).tradeoff

    def asked(self) -> dict[str, Any]:
        return {
            "methods": [vars(m) for m in self.methods],
            "over": {name: {axis.name: axis.values} for name, axis in self.grids.items()},
            "points": self.points,
            "widen": self.widen,
            "required": self.required,
            "beside": self.beside,
        }

    def territory(self) -> list[str]:
        return [m.folder for m in self.methods]

    def common(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        return {k: identity.get(k) for k in ("data", "fingerprint", "network", "device")}

    def begin(self, planner: Planner, records: Sequence[Record], found: Mapping[str, Any]) -> None:
        """Make the grids; values that the folder holds of a curve stay on it."""
        self.curves = [self._curve(m, planner.stream.tasks[1].n_train) for m in self.methods]
        for curve in self.curves:
            for record in records:
                if record["curve"]["label"] != curve.method.label:
                    continue
                if record["curve"]["option"] != curve.option:
                    raise ConfigError(
                        f"{self.settings.out / curve.method.folder} must hold the same curve or none, it holds another "
                        f"({record['curve']['option']} varied there, {curve.option} now): give another --out."
                    )
                curve.values += [v for v in record["varied"].values() if v not in curve.values]

    def _curve(self, m: Variant, n_target: int) -> _Curve:
        """The first grid of a method, for a target task of ``n_target`` training samples."""
        option, make = self._option(m), entry(m.method).make
        if option is None:
            return _Curve(m)
        if m.method in self.grids:
            return _Curve(m, option, "by_hand", None, list(self.grids[m.method].values))
        of: Any = make  # a class with a trade-off
        if of.tradeoff.scale == "linear":
            return _Curve(m, option, "linear", None, list(LINEAR))
        centre = float(of.tradeoff_centre(method(m.method, m.options).config, n_target))
        if not 0 < centre < math.inf:
            raise ConfigError(
                f"the middle of a logarithmic grid must be above 0, got {centre:g} of {m.label}: give its values, "
                f"--over {m.method}.{option}=..."
            )
        values = [log_value(centre, self.points, i) for i in range(self.points)]
        return _Curve(m, option, "log", centre, values)

    def wanted(self, done: Done) -> list[Variant]:
        if self.labels:
            self._widen(done)
        return [point for curve in self.curves for point in curve.variants()]

    def _widen(self, done: Done) -> None:
        """Widen the ends of curves that are not saturated; not one that diverged or is not known."""
        entries: list[dict[str, Any]] = []
        for curve in self.curves:
            points = [curves.point(v, done, self.settings.seeds) for v in map(vars, curve.variants())]
            entries.append({"label": curve.method.label, "method": curve.method.method, "points": points})
            entries[-1]["option"] = curve.option
        for curve, found in zip(self.curves, curves.measured(entries, self.required)["methods"], strict=True):
            ends, points = found["saturated"], found["points"]
            if ends is not None:
                for end, last, stable in (("plastic", points[0], False), ("stable", points[-1], True)):
                    if not ends[end] and last["status"] == "done":
                        curve.widen(self.points, self.widen, stable=stable)

    def read(self, records: Mapping[str, Record], done: Done) -> dict[str, Any]:
        """See `engram.studies.curves.conclude`."""
        source, target = self.settings.data.sets
        seeds = self.settings.seeds
        asked = {
            "source": source,
            "target": target,
            "seeds": seeds,
            "points": self.points,
            "widen": self.widen,
            "required": self.required,
            "finetune_beside": self.beside,
            "recipe": self.settings.recipe,
            "methods": [{"label": m.label, "seeds": seeds} for m in self.methods],
        }
        return curves.conclude(asked, records, done)

    def answered(self, found: Mapping[str, Any], problems: Sequence[Problem]) -> bool:
        return all(m["m1"] for m in found["methods"])


# What is asked for ------------------------------------------------------------------------------------------
def pair_of(source: str | None, target: str | None, fields: Mapping[str, Any]) -> DataSettings:
    """The data settings of a pair; what is not named comes from ``fields["data"]``, if that is a pair.

    Raises:
        ConfigError: there are not exactly two data sets.
    """
    pair = str(fields.get("data", "")).split("+")
    if source is None or target is None:
        if len(pair) != 2:
            raise ConfigError(
                "source and target must be given where the recipe names no pair of data sets, got "
                f"{fields.get('data', 'none')}: give for example --source mnist:0-4 --target mnist_m:5-9."
            )
        source, target = source or pair[0], target or pair[1]
    for name, value in (("source", source), ("target", target)):
        if "+" in value:
            raise ConfigError(f"{name} must be one data set, got {value}: a trade-off is between two tasks.")
    if fields.get("scenario", "task") != "task":
        raise ConfigError(
            f"scenario must be left out, a trade-off has task labels, got {fields['scenario']!r}: leave it out."
        )
    return DataSettings(**{**fields, "data": f"{source}+{target}", "scenario": "task"})


def parse_grids(texts: Sequence[str]) -> dict[str, Axis]:
    """The grids that ``--over METHOD.option=v1,v2,...`` gives, by method.

    Raises:
        ConfigError: no method, an unknown one or an unknown option, a method twice, no numbers, fewer than three.
    """
    grids: dict[str, Axis] = {}
    for text in texts:
        name, dot, rest = text.partition(".")
        if not dot or "=" in name or not rest:
            raise ConfigError(f"over must be written METHOD.option=v1,v2,..., got {text!r}: {EXAMPLE}.")
        check_name(name)
        if name in grids:
            raise ConfigError(
                f"over must name every method once, got {name} twice: a curve varies one option."
            )
        grids[name] = checked_grid(name, parse_over(name, [rest])[0])
    return grids


def checked_grid(method: str, axis: Axis) -> Axis:
    """The axis, if a curve can be made of it; ``ConfigError`` otherwise."""
    where = f"{method}.{axis.name}"
    if not axis.values:
        raise ConfigError(f"over must list the values of {where}, got a range: {EXAMPLE}.")
    if any(
        isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in axis.values
    ):
        raise ConfigError(
            f"over must give numbers, so that a curve has two ends, got others for {where}: {EXAMPLE}."
        )
    if len(axis.values) < LEAST:
        raise ConfigError(f"a curve needs three values, got {len(axis.values)} of {where}: {EXAMPLE}.")
    return axis
