"""engram in Python: studies that end with their page. The command line ends its studies here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from engram.errors import ConfigError
from engram.methods.registry import MethodSpec, check_name, entry
from engram.recipes import Recipe, chosen_recipe
from engram.report.drawing import Drawing
from engram.studies.axes import Axis, axes_of, not_both
from engram.studies.conduct import execute
from engram.studies.folders import folder_name
from engram.studies.jobs import Listener
from engram.studies.search import Search
from engram.studies.settings import (
    POINTS,
    RECIPE,
    VALID_FRACTION,
    WIDEN,
    DataSettings,
    NetworkSettings,
    Settings,
)
from engram.studies.study import Comparison, Outcome, Study
from engram.studies.sweep import Sweep, check_engine
from engram.studies.tradeoff import Tradeoff, checked_grid, pair_of, with_finetune
from engram.studies.variants import Variant, variant

__all__ = ["compare", "conclude", "sweep", "sweep_study", "tradeoff"]


def conclude(study: Study, listener: Listener | None = None) -> Outcome:
    """Run a study and draw its page, if the page would not be the one that is there.

    Raises:
        EngramError: whatever can be known before training; nothing in the folder has been touched then.
    """
    with Drawing() as drawing:
        outcome = execute(study, listener=drawing.beside(listener))
        if not outcome.interrupted:
            outcome.report = drawing.page(outcome.out)
    return outcome


def compare(
    methods: Sequence[str | MethodSpec],
    data: DataSettings | str | None = None,
    network: NetworkSettings | str | None = None,
    *,
    out: str | PathLike[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Learn one stream with several methods and seeds, and write the report.

    Args:
        methods: names, variants such as ``"dgmw:solver=shared"``, or ``engram.method(name, option=...)``.
        data: settings, or the name of the data; None takes the recipe's, else digits.
        network: settings or a name; None for the recipe's, or the one that fits.
        out: folder of the comparison.
        options: by method name, on top of the recipe's.
        recipe: a name, ``"none"``, or None for the data's default recipe.
        seeds: distinct integers >= 0.
        device: cpu, cuda, or auto for cuda where there is an accelerator.
        jobs: processes side by side; None is the number of cores on a CPU, 1 on an accelerator.
        resume: continue what ``out`` holds; finished seeds are not repeated.
        overwrite: replace what ``out`` holds of these methods.
        listener: told what the workers say.

    Returns:
        The results, the page, and what went wrong.

    Raises:
        EngramError: whatever can be known before training; nothing in ``out`` has been touched then.
    """
    chosen = chosen_recipe(recipe, _name(data) or "digits")
    settings = Settings(
        Path(out),
        _data(data, chosen),
        _network(network, chosen),
        seeds,
        device,
        jobs,
        resume,
        overwrite,
        _of(chosen),
    )
    merged = _merged(chosen, options)
    return conclude(Comparison(settings, [_variant(m, merged) for m in methods]), listener)


def sweep(
    method: str,
    over: Mapping[str, Sequence[Any] | str],
    data: DataSettings | str | None = None,
    network: NetworkSettings | str | None = None,
    *,
    out: str | PathLike[str],
    options: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (0,),
    engine: Literal["grid", "optuna", "ray"] = "grid",
    trials: int | None = None,
    sweep_seed: int = 0,
    choose_on: str | None = None,
    address: str | None = None,
    device: str = "auto",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Learn one stream with several values of a method's options, and choose among them on validation data.

    Args:
        method: a registered name.
        over: by option, the values to try, or a range such as ``"0.001..10:log"`` for engine optuna.
        data: as for `compare`; without a valid_fraction it becomes 0.1.
        options: of the method, on top of the recipe's.
        engine: grid, optuna (TPE with median pruning), or ray (the grid on a Ray cluster).
        trials: number of trials of optuna, those of earlier calls included.
        sweep_seed: of optuna's proposals.
        choose_on: ``first_tasks:K``, ``valid_current`` or ``valid_all``; None is ``first_tasks:3``.
        address: of a Ray cluster; None starts one on this machine.
        network, out, recipe, seeds, device, jobs, resume, overwrite, listener: as for `compare`; seeds of every trial.

    Returns:
        The trials' results, the choice (``outcome.chosen``), the page, and what went wrong.

    Raises:
        EngramError: as `compare`.
    """
    check_name(method)
    chosen = chosen_recipe(recipe, _name(data) or "digits")
    settings = Settings(
        Path(out),
        _data(data, chosen, valid_fraction=VALID_FRACTION),
        _network(network, chosen),
        seeds,
        device,
        jobs,
        resume,
        overwrite,
        _of(chosen),
    )
    axes = axes_of(method, over)
    for axis in axes:
        if axis.name in (options or {}):
            raise not_both(axis.name)
    base = _merged(chosen, {method: options or {}})[method]
    study = sweep_study(
        settings,
        method,
        axes,
        base,
        engine,
        trials,
        sweep_seed=sweep_seed,
        choose_on=choose_on,
        address=address,
    )
    return conclude(study, listener)


def sweep_study(
    settings: Settings,
    method: str,
    axes: Sequence[Axis],
    options: Mapping[str, Any],
    engine: str,
    trials: int | None,
    *,
    sweep_seed: int,
    choose_on: str | None,
    address: str | None,
) -> Sweep:
    """The sweep of an engine; arguments as for `sweep`, names resolved. ``ConfigError`` where they contradict."""
    check_engine(engine, trials)
    if trials is None or address is not None:
        return Sweep(settings, method, axes, options, choose_on=choose_on, engine=engine, address=address)
    return Search(settings, method, axes, options, choose_on=choose_on, trials=trials, sweep_seed=sweep_seed)


def tradeoff(
    methods: Sequence[str],
    source: str | None = None,
    target: str | None = None,
    *,
    out: str | PathLike[str],
    data: Mapping[str, Any] | None = None,
    network: NetworkSettings | str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    over: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    points: int = POINTS,
    widen: int = WIDEN,
    required: Sequence[float] = (),
    recipe: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Draw the trade-off curves of several methods between two data sets, and measure them.

    Args:
        methods: names or variants such as ``"lwf:temperature_squared=true"``; fine-tuning is run beside them.
        source, target: names of the data sets, such as ``"mnist:0-4"``; None takes the recipe's.
        data: further fields of `DataSettings`, on top of the recipe's.
        options: by method name, on top of the recipe's.
        over: by method name, one option and its values, at least three; other methods get a grid.
        points: values of a logarithmic grid over four decades.
        widen: most decades that are added at an end that is not saturated.
        required: further required target accuracies, in percent.
        recipe: a name, ``"none"``, or None for ``tradeoff-small``.
        seeds: distinct integers >= 0; a source network each.
        out, network, device, jobs, resume, overwrite, listener: as for `compare`.

    Returns:
        Curves and measures (``outcome.found["methods"]``), the page, and what went wrong.

    Raises:
        EngramError: as `compare`.
    """
    chosen = chosen_recipe(recipe or RECIPE, "")
    named, beside = with_finetune(methods)
    grids = {}
    for name, given in (over or {}).items():
        if len(given) != 1:
            raise ConfigError(f"over must name one option of {name}, got {', '.join(given) or 'none'}.")
        grids[name] = checked_grid(name, axes_of(name, given)[0])
    fields = {"valid_fraction": VALID_FRACTION, **(chosen.data if chosen else {}), **(data or {})}
    settings = Settings(
        Path(out),
        pair_of(source, target, fields),
        _network(network, chosen),
        seeds,
        device,
        jobs,
        resume,
        overwrite,
        _of(chosen),
    )
    merged = _merged(chosen, options)
    study = Tradeoff(
        settings,
        [_variant(m, merged) for m in named],
        grids=grids,
        points=points,
        widen=widen,
        required=required,
        beside=beside,
    )
    return conclude(study, listener)


def _of(recipe: Recipe | None) -> str | None:
    return recipe.name if recipe else None


def _name(data: DataSettings | str | None) -> str | None:
    return data.data if isinstance(data, DataSettings) else data


def _data(data: DataSettings | str | None, recipe: Recipe | None, **default: Any) -> DataSettings:
    if isinstance(data, DataSettings):
        return data
    named = {"data": data} if data else {}
    return DataSettings(**{**default, **(recipe.data if recipe else {}), **named})


def _network(network: NetworkSettings | str | None, recipe: Recipe | None) -> NetworkSettings:
    if isinstance(network, NetworkSettings):
        return network
    if network is None and recipe is not None:
        return NetworkSettings(recipe.network, dict(recipe.network_options))
    return NetworkSettings(network)


def _merged(
    recipe: Recipe | None, options: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Options by method: the recipe's, and those given on top."""
    merged = {m: dict(o) for m, o in (recipe.methods if recipe else {}).items()}
    for name, values in (options or {}).items():
        merged.setdefault(name, {}).update(values)
    return merged


def _variant(method: str | MethodSpec, options: Mapping[str, Mapping[str, Any]]) -> Variant:
    if isinstance(method, str):
        return variant(method, options.get(method.partition(":")[0]))
    given = {k: v for k, v in asdict(method.config).items() if k not in entry(method.name).fixed}
    return Variant(method.name, folder_name(method.name), method.name, given)
