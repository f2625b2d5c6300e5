"""What a sweep is asked to do, and what can be said about it before any data are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engram.core.options import closest
from engram.errors import ConfigError
from engram.studies.axes import Axis, grid
from engram.studies.settings import VALID_FRACTION, DataSettings, NetworkSettings

if TYPE_CHECKING:
    from engram.methods.registry import MethodSpec

Engine = Literal["grid", "optuna", "ray"]
ENGINES = ("grid", "optuna", "ray")


def found_device(name: str) -> str:
    """``auto`` is cuda where there is an accelerator that PyTorch can use, else cpu."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Plan:
    """What a sweep is asked to do, names resolved.

    Args:
        method: a registered name.
        options: of the method, which all trials share.
        axes: what varies.
        data, network: as for a run; data need a valid_fraction above 0.
        seeds: of each trial.
        engine: grid, optuna, or ray (a grid on a Ray cluster).
        trials: number of trials of optuna, those of an earlier call included.
        sweep_seed: of optuna's sampler.
        choose_on: the rule of choice, None for the default.
        address: of a Ray cluster; None starts one on this machine.
        device, jobs, resume, overwrite, recipe: as for a comparison.
    """

    method: str
    options: Mapping[str, Any]
    axes: tuple[Axis, ...]
    data: DataSettings
    network: NetworkSettings
    seeds: tuple[int, ...] = (0,)
    engine: Engine = "grid"
    trials: int | None = None
    sweep_seed: int = 0
    choose_on: str | None = None
    address: str | None = None
    device: str = "cpu"
    jobs: int | None = None
    resume: bool = False
    overwrite: bool = False
    recipe: str | None = None

    def spec(self, values: Mapping[str, Any]) -> MethodSpec:
        """The method with the options of one trial; ``ConfigError`` for a value out of range."""
        from engram.methods.registry import method

        return method(self.method, {**self.options, **values})

    def check(self) -> None:
        """What can be said before data are read.

        Raises:
            ConfigError: options that contradict each other, or an extra that is not installed.
        """
        if self.engine not in ENGINES:
            raise ConfigError(
                f"engine must be grid, optuna or ray, got {self.engine!r}{closest(str(self.engine), ENGINES)}: "
                "give one of them."
            )
        if self.resume and self.overwrite:
            raise ConfigError("only one of resume and overwrite may be given, got both: leave one out.")
        if self.data.valid_fraction <= 0:
            raise ConfigError(
                f"a sweep chooses on validation data, got valid_fraction {self.data.valid_fraction:g}: give a share "
                f"above 0, for example --valid-fraction {VALID_FRACTION}."
            )
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs must be an integer >= 1, got {self.jobs}: leave it out for one a core.")
        if self.address is not None and self.engine != "ray":
            raise ConfigError(
                f"address is of a Ray cluster, got it with engine {self.engine}: give --engine ray."
            )
        if (self.trials is not None) != (self.engine == "optuna"):
            given = "none" if self.trials is None else str(self.trials)
            raise ConfigError(
                f"trials must be given with engine optuna, and only there, got {given} with engine {self.engine}: "
                "a grid tries all of its values."
            )
        if self.trials is not None and self.trials < 1:
            raise ConfigError(f"trials must be an integer >= 1, got {self.trials}.")
        if self.engine == "optuna":
            from engram.studies.optuna_engine import require

            require()
            for axis in self.axes:
                for value in axis.values or (axis.low, axis.high):
                    self.spec({axis.name: int(value) if axis.whole else value})
        else:
            for values in grid(self.axes):
                self.spec(values)
        if self.engine == "ray":
            from engram.studies.ray_engine import require as require_ray

            require_ray()
