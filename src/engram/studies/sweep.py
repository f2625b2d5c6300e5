"""A sweep: one method with several values of its options, and the choice of one of them on validation data.

A trial is named by its options and its identity is (options, seed): a finished one is never run again, whichever engine
or process finished it. A seed that diverged is a result like others; a trial that lacks a seed is never chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engram.core.options import closest
from engram.errors import ConfigError
from engram.studies.axes import Axis, grid, trial_name
from engram.studies.choosing import conclude
from engram.studies.folders import folder_name
from engram.studies.rules import rule
from engram.studies.settings import VALID_FRACTION, Settings, plain
from engram.studies.study import Done, Problem, Record, Study
from engram.studies.variants import Variant

if TYPE_CHECKING:
    from engram.studies.planning import Planner

__all__ = ["ENGINES", "SIGNS", "Sweep"]

ENGINES = ("grid", "optuna", "ray")
TRIALS = "trials"  # the folder that holds those of the trials
SIGNS = "=,+"  # that stay in the name of a trial's folder


class Sweep(Study):
    """The product of some values of a method's options.

    Args:
        settings: data need a valid_fraction above 0.
        method: a registered name.
        axes: what varies.
        options: of the method, which all trials share.
        choose_on: name of the rule of choice, None for the default.
        engine: grid, or ray (the grid on a Ray cluster).
        address: of a Ray cluster; None starts one on this machine.

    Raises:
        ConfigError: options that contradict each other.
    """

    kind = "sweep"
    record_valid = True
    keeps_diverged = True

    def __init__(
        self,
        settings: Settings,
        method: str,
        axes: Sequence[Axis],
        options: Mapping[str, Any],
        *,
        choose_on: str | None = None,
        engine: str = "grid",
        address: str | None = None,
    ) -> None:
        self.trials = [] if engine == "optuna" else grid(axes)
        super().__init__(settings, [method] * (len(self.trials) or 1))
        self.method, self.axes, self.options = method, tuple(axes), dict(options)
        self.choose_on, self.engine, self.address = choose_on, engine, address
        self.on_ray = engine == "ray"
        if settings.data.valid_fraction <= 0:
            raise ConfigError(
                f"a sweep chooses on validation data, got valid_fraction {settings.data.valid_fraction:g}: give a "
                f"share above 0, for example --valid-fraction {VALID_FRACTION}."
            )
        if address is not None and engine != "ray":
            raise ConfigError(f"address is of a Ray cluster, got it with engine {engine}: give --engine ray.")

    def variant(self, values: Mapping[str, Any]) -> Variant:
        """A trial."""
        label = trial_name(values)
        folder = f"{TRIALS}/{folder_name(label, SIGNS)}"
        return Variant(label, folder, self.method, {**self.options, **values}, values)

    def wanted(self, done: Done) -> list[Variant]:
        return [self.variant(values) for values in self.trials]

    def asked(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "over": {axis.name: axis.describe() for axis in self.axes},
            "options": self.options,
            "choose_on": self.choose_on,
            "engine": self.describe_engine(),
        }

    def describe_engine(self) -> dict[str, Any]:
        """The engine as JSON."""
        return {"name": self.engine}

    def territory(self) -> list[str]:
        return [TRIALS]

    def common(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        swept = {axis.name for axis in self.axes}
        of = identity["method"]
        options = {k: v for k, v in of["options"].items() if k not in swept}
        return {**identity, "method": {**of, "options": options}}

    def begin(self, planner: Planner, records: Sequence[Record], found: Mapping[str, Any]) -> None:
        """A folder may be used again by the same sweep, with more values or seeds, or another rule."""
        self.rule = rule(self.choose_on, planner.stream.n_tasks)
        names = [axis.name for axis in self.axes]
        if not found:
            return
        if sorted(found["over"]) != sorted(names):
            raise self.another(f"over {', '.join(found['over'])} there, {', '.join(names)} now")
        for axis in self.axes:
            values = plain(axis.values)
            lost = [v for v in found["over"][axis.name].get("values", []) if v not in values]
            if lost:
                raise self.another(f"{axis.name}: value {json.dumps(lost[0])} there, not now")
        for seed in found["seeds"]:
            if seed not in self.settings.seeds:
                raise self.another(f"seed {seed} there, not now")

    def another(self, difference: str) -> ConfigError:
        """The error of a folder that holds another sweep."""
        return ConfigError(
            f"{self.settings.out} must hold the same sweep or none, it holds another ({difference}): "
            "give another --out, or --overwrite to replace it."
        )

    def read(self, records: Mapping[str, Record], done: Done) -> dict[str, Any]:
        """See `engram.studies.choosing.conclude`."""
        order = {label: i for i, label in enumerate(self.labels)}
        asked = {
            "method": self.method,
            "over": {axis.name: axis.describe() for axis in self.axes},
            "engine": self.describe_engine(),
            "seeds": self.settings.seeds,
            "rule": self.rule.describe(),
            "trials": [{"name": label, **self.of_trial(label)} for label in records],
        }
        names = sorted(records, key=lambda name: order.get(name, len(order)))
        return conclude(asked, {name: records[name] for name in names}, done)

    def of_trial(self, label: str) -> dict[str, Any]:
        """What else there is to say of a trial."""
        return {}

    def answered(self, found: Mapping[str, Any], problems: Sequence[Problem]) -> bool:
        return found.get("chosen") is not None


def check_engine(engine: str, trials: int | None) -> None:
    """``ConfigError`` unless there is such an engine and ``trials`` is given where it is needed."""
    if engine not in ENGINES:
        raise ConfigError(
            f"engine must be grid, optuna or ray, got {engine!r}{closest(str(engine), ENGINES)}: give one of them."
        )
    if (trials is not None) != (engine == "optuna"):
        given = "none" if trials is None else str(trials)
        raise ConfigError(
            f"trials must be given with engine optuna, and only there, got {given} with engine {engine}: "
            "a grid tries all of its values."
        )
    if trials is not None and trials < 1:
        raise ConfigError(f"trials must be an integer >= 1, got {trials}.")
