"""What `engram tradeoff` is asked to do: methods, the values of each one's option, and what must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from engram.core.options import closest, split_variant
from engram.errors import ConfigError
from engram.studies.axes import Axis, parse_over
from engram.studies.planning import check_labels, check_seeds
from engram.studies.settings import (
    FINETUNE,
    POINTS,
    RECIPE,
    VALID_FRACTION,
    WIDEN,
    DataSettings,
    NetworkSettings,
)

if TYPE_CHECKING:
    from engram.core.contract import Tradeoff
    from engram.methods.registry import MethodSpec

__all__ = ["DECADES", "FINETUNE", "POINTS", "RECIPE", "WIDEN", "Member", "Plan", "log_value", "parse_grids"]

DECADES = 4  # of a logarithmic grid before it is widened
LEAST = 3  # points of a curve
LINEAR = tuple(round(0.1 * i, 1) for i in range(11))
EXAMPLE = "give for example --over lwf.strength=0.1,0.3,1,3"


def log_value(centre: float, points: int, index: int) -> float:
    """The index-th value of ``points`` over four decades around ``centre``, to three digits; any index."""
    return float(f"{centre * 10 ** (DECADES * (index / (points - 1) - 0.5)):.3g}")


@dataclass(frozen=True)
class Member:
    """One method, and the option of it that is varied.

    Args:
        label: as named, a variant such as ``lwf:temperature_squared=true`` included.
        spec: the method with its options.
        option: what is varied; None for a method without a trade-off, which is one point.
        scale: log, linear or by_hand.
        values: of the first round.
        centre: of a logarithmic grid.
        points: of a logarithmic grid.
    """

    label: str
    spec: MethodSpec
    option: str | None = None
    scale: str = "by_hand"
    values: tuple[Any, ...] = ()
    centre: float | None = None
    points: int = POINTS

    @property
    def options(self) -> dict[str, Any]:
        """All options but the varied one and those that the name fixes."""
        from engram.methods.registry import entry

        skip = {self.option, *entry(self.spec.name).fixed}
        return {k: v for k, v in asdict(self.spec.config).items() if k not in skip}

    @property
    def epochs(self) -> int:
        """About how many epochs a run has: a guess, for the order of starts."""
        given = self.options
        first = given.get("epochs") or 1
        later = given.get("later_epochs") or first
        more = [v for k, v in given.items() if k.endswith("_epochs") and k != "later_epochs"]
        return int(first + later + sum(later if v is None else v for v in more))

    def wider(self, tried: Sequence[float], widen: int, *, stable: bool) -> list[float]:
        """One further decade at an end of a logarithmic grid, as dense as the grid; nothing beyond ``widen`` decades.

        Args:
            tried: values so far.
            widen: most decades at each end.
            stable: the end of large values; else that of small ones.
        """
        if self.scale != "log" or self.centre is None:
            return []
        steps = (self.points - 1) / DECADES  # of a decade
        per_decade = max(1, round(steps))
        places = range(1, math.floor(steps * widen + 1e-9) + 1)
        if stable:
            values = [log_value(self.centre, self.points, self.points - 1 + i) for i in places]
            return [v for v in values if v > max(tried)][:per_decade]
        values = [log_value(self.centre, self.points, -i) for i in places]
        return [v for v in values if v < min(tried)][:per_decade]


@dataclass(frozen=True)
class Plan:
    """What is asked, names resolved.

    Args:
        methods: label and method, fine-tuning among them.
        data: two data sets, scenario task.
        network: as for a run.
        grids: by method, the option and its values given by hand.
        points: of a logarithmic grid.
        widen: most decades that are added at each end of it.
        required: further required target accuracies, in percent.
        beside: fine-tuning was not asked for.
        seeds, device, jobs, resume, overwrite, recipe: as for a comparison.
    """

    methods: tuple[tuple[str, MethodSpec], ...]
    data: DataSettings
    network: NetworkSettings
    grids: Mapping[str, Axis] = field(default_factory=dict)
    points: int = POINTS
    widen: int = WIDEN
    required: tuple[float, ...] = ()
    beside: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "cpu"
    jobs: int | None = None
    resume: bool = False
    overwrite: bool = False
    recipe: str | None = None

    def check(self) -> None:
        """What can be said before data are read; ``ConfigError``."""
        check_labels([label for label, _ in self.methods])
        check_seeds(self.seeds)
        if self.resume and self.overwrite:
            raise ConfigError("only one of resume and overwrite may be given, got both: leave one out.")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs must be an integer >= 1, got {self.jobs}: leave it out for one a core.")
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
        if self.data.valid_fraction <= 0:
            raise ConfigError(
                f"settings are also chosen on validation data, got valid_fraction {self.data.valid_fraction:g}: "
                f"give a share above 0, for example --valid-fraction {VALID_FRACTION}."
            )
        if len(self.data.sets) != 2 or self.data.scenario != "task":
            raise ConfigError(
                f"a trade-off needs two data sets with task labels, a source and a target, got {self.data.data} with "
                f"scenario {self.data.scenario}: give --source and --target."
            )
        names = {spec.name for _, spec in self.methods}
        for name in self.grids:
            if name not in names:
                raise ConfigError(
                    f"over must name a method that is run, got {name!r}{closest(name, names)}: {EXAMPLE}."
                )
            if name == FINETUNE:
                raise ConfigError(
                    f"{FINETUNE} must be one point, the required target accuracies come from it, got values of its "
                    f"{self.grids[name].name}: give one with --{FINETUNE}.{self.grids[name].name}, or name variants."
                )

    def members(self, n_target: int) -> list[Member]:
        """Each method with its grid, for a target task of ``n_target`` training samples; ``ConfigError``."""
        return [self._member(label, spec, n_target) for label, spec in self.methods]

    def _member(self, label: str, spec: MethodSpec, n_target: int) -> Member:
        from engram.methods.registry import entry

        cls = entry(spec.name).make
        known: Tradeoff | None = getattr(cls, "tradeoff", None)
        axis = self.grids.get(spec.name)
        option = axis.name if axis is not None else known.option if known is not None else None
        if option is None:
            return Member(label, spec)
        if option in split_variant(label)[1]:
            raise ConfigError(
                f"a variant must leave open what its curve varies, got {label} with curves over {option}: "
                f"leave {option} out."
            )
        if axis is not None:
            return Member(label, spec, option, "by_hand", tuple(sorted(axis.values)))
        if known is not None and known.scale == "linear":
            return Member(label, spec, option, "linear", LINEAR)
        centre = float(cls.tradeoff_centre(spec.config, n_target))  # type: ignore[attr-defined]
        if not 0 < centre < math.inf:
            raise ConfigError(
                f"the middle of a logarithmic grid must be above 0, got {centre:g} of {label}: give its values, "
                f"--over {spec.name}.{option}=..."
            )
        values = tuple(log_value(centre, self.points, i) for i in range(self.points))
        return Member(label, spec, option, "log", values, centre, self.points)


def parse_grids(texts: Sequence[str]) -> dict[str, Axis]:
    """The grids that ``--over METHOD.option=v1,v2,...`` gives, by method.

    Raises:
        ConfigError: no method, an unknown one or an unknown option, a method twice, no numbers, fewer than three.
    """
    from engram.methods.registry import check_name

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
