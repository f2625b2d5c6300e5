"""engram in Python: runs, and studies that end with their page. The command line ends its studies here too.

Whatever can be named can be given as an object. Below, `Method` is a name, a variant such as ``"dgmw:solver=shared"``,
``engram.method(name, option=...)``, or a class with its default options. `Network` is a name, settings, an object, a
torch module that maps images to features, its class, or a function that makes it (:mod:`engram.networks.modules`).
`Features` is a name (``"none"`` leaves those of a recipe out), settings, a `Features` object, or a module as above
(`engram.features`). `Data` is a name, `DataSettings`, a stream, a data set, arrays or a torch `Dataset`
(:func:`engram.streams.given.as_data`); ``DataSettings(data=...)`` takes objects too. Runs with objects are forked from
this process (:mod:`engram.studies.processes`): no main guard is needed, and classes may be defined in a notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram import features as fixed
from engram import networks
from engram.core.files import os_errors
from engram.core.options import Compile, Precision, closest
from engram.core.values import split_variant
from engram.errors import ConfigError, EngramError
from engram.methods.registry import METHODS, MethodSpec, entry, registered
from engram.recipes import Recipe, chosen_recipe
from engram.report.drawing import Drawing
from engram.studies.axes import Axis, axes_of, not_both
from engram.studies.conduct import execute
from engram.studies.folders import folder_name
from engram.studies.jobs import Event, Job, Listener, told
from engram.studies.search import Search
from engram.studies.settings import (
    FINETUNE,
    POINTS,
    RECIPE,
    VALID_FRACTION,
    WIDEN,
    DataSettings,
    FeatureSettings,
    NetworkSettings,
    Settings,
)
from engram.studies.study import Comparison, Outcome, Study
from engram.studies.sweep import Sweep, check_engine
from engram.studies.tradeoff import Tradeoff, checked_grid, pair_of
from engram.studies.variants import Variant, variant

if TYPE_CHECKING:
    from engram.core.contract import Method as MethodClass
    from engram.learning.loop import EpochEnd
    from engram.protocols.protocol import Protocol
    from engram.protocols.session import Observer, TaskEnd
    from engram.recipes.targets import Part
    from engram.report.reproduction import Conclusion
    from engram.studies.trackers import Tracker

    Method = str | MethodSpec | type[MethodClass]
    Network = Any
    Features = Any
    Data = Any

__all__ = ["Reproduced", "compare", "conclude", "reproduce", "run", "sweep", "sweep_study", "tradeoff"]


def run(
    data: Data,
    network: Network = None,
    spec: Method = "dgmw",
    protocol: Protocol | str | None = None,
    *,
    features: Features = None,
    seed: int = 0,
    device: str = "cpu",
    compile: Compile = "eager",
    precision: Precision = "float32",
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
    observer: Observer | None = None,
    stop_after: Callable[[EpochEnd | TaskEnd], bool] | None = None,
) -> dict[str, Any]:
    """Learn a stream with one method and one seed in this process, see :func:`engram.protocols.session.run`.

    Args:
        data: a stream, or any `Data` of `engram.api`; without settings a task a class, at most 10.
        network: any `Network` of `engram.api`; None for the one that fits.
        spec: the method, any `Method` of `engram.api`.
        protocol: a scenario's name (class, task, domain) or a `Protocol`; None is that of the settings, else class.
        features: any `Features` of `engram.api`; None for the images themselves.
        progress: say what is going on; None where somebody watches: in a terminal and in a notebook.
        seed, device, compile, precision, out, resume, observer, stop_after: as there.

    Returns:
        The seed's entry of a result file.

    Raises:
        EngramError: as there, or data that cannot be used.
    """
    # Torch comes with these.
    from engram.core.network import Network as NetworkObject
    from engram.protocols import session
    from engram.studies.building import prepare
    from engram.studies.progress import Progress, somebody_watches

    settings, held = _data(data, None)
    given = network if isinstance(network, NetworkObject) else _network(network, None)
    stream, fitting = prepare(settings, given, held, _features(features, None))
    name = split_variant(spec)[0] if isinstance(spec, str) else registered(spec).name
    job = Job(settings, NetworkSettings(None), name, {}, seed, device, str(out or ""), label=name)
    with Progress(quiet=not (somebody_watches() if progress is None else progress)) as shown:

        def heard(event: EpochEnd | TaskEnd) -> None:
            shown(Event(job, *told(event)))
            if observer is not None:
                observer(event)

        shown(Event(job, "spawn"))
        shown(Event(job, "start", {"rows": [], "seconds": [], "n_tasks": stream.n_tasks, "epochs_done": 0}))
        return session.run(
            stream,
            fitting,
            spec,
            protocol or settings.protocol(),
            seed=seed,
            device=device,
            compile=compile,
            precision=precision,
            out=out,
            resume=resume,
            observer=heard,
            stop_after=stop_after,
        )


@os_errors()
def conclude(study: Study, listener: Listener | None = None) -> Outcome:
    """Run a study and draw its page, if the page would not be the one that is there.

    Raises:
        EngramError: whatever can be known before training; nothing in the folder has been touched then.
    """
    with Drawing() as drawing:
        outcome = execute(study, listener=drawing.beside(listener))
        if outcome.interrupted:
            return outcome
        try:
            outcome.report = drawing.page(outcome.out, accept_edited=study.settings.accept_edited)
        except (EngramError, KeyboardInterrupt) as error:
            why = "you stopped it" if isinstance(error, KeyboardInterrupt) else str(error).rstrip(".")
            outcome.unwritten.append(
                f"the page must be drawn, it is not ({why}): engram report {outcome.out} draws it."
            )
    return outcome


def _watched(
    study: Study, progress: bool | None, track: Sequence[str | Tracker], listener: Listener | None
) -> Outcome:
    """Conclude a study while its progress is shown, trackers are told, and a listener of the caller's."""
    from engram.studies.progress import (  # with rich, which a command loads when it starts
        Progress,
        somebody_watches,
    )

    with Progress(quiet=not (somebody_watches() if progress is None else progress), track=track) as shown:

        def heard(event: Event) -> None:
            shown(event)
            if listener is not None:
                listener(event)

        return conclude(study, heard)


def compare(
    methods: Sequence[Method],
    data: Data = None,
    network: Network = None,
    *,
    features: Features = None,
    out: str | PathLike[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    compile: Compile = "eager",
    precision: Precision = "float32",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accept_edited: bool = False,
    progress: bool | None = None,
    track: Sequence[str | Tracker] = (),
    listener: Listener | None = None,
) -> Outcome:
    """Learn one stream with several methods and seeds, and write the report.

    Args:
        methods: each a `Method` of `engram.api`; no two of one name.
        data: any `Data` of `engram.api`; None takes the recipe's, else digits.
        network: any `Network` of `engram.api`; None for the recipe's, or the one that fits.
        features: any `Features` of `engram.api`; None for the recipe's, or the images themselves.
        out: folder of the comparison.
        options: by method name, on top of the recipe's.
        recipe: a name, ``"none"``, or None for the data's default recipe.
        seeds: distinct integers >= 0.
        device: cpu, cuda, or auto for cuda where there is an accelerator.
        compile: ``inductor`` or ``cudagraphs`` makes graphs of training steps, see :mod:`engram.learning.compiling`.
        precision: what losses are computed with, see :mod:`engram.learning.precision`.
        jobs: processes side by side; None is the number of cores on a CPU, 1 on an accelerator.
        resume: continue what ``out`` holds; finished seeds are not repeated.
        overwrite: replace what ``out`` holds of these methods.
        accept_edited: take files of ``out`` that do not match their checksum as they are, see `engram.studies.results`.
        progress: say what is going on; None where somebody watches: in a terminal and in a notebook.
        track: experiment trackers (`engram.studies.trackers`): tensorboard, mlflow, wandb, or objects of your own.
        listener: told what the workers say.

    Returns:
        The results, the page, and what went wrong.

    Raises:
        EngramError: whatever can be known before training; nothing in ``out`` has been touched then.
    """
    chosen = chosen_recipe(recipe, _name(data), features)
    arriving, held = _data(data, chosen)
    settings = Settings(
        _folder(out),
        arriving,
        _network(network, chosen),
        seeds,
        device,
        jobs,
        resume,
        overwrite,
        _of(chosen),
        held,
        _features(features, chosen),
        accept_edited,
        compile,
        precision,
    )
    return _watched(Comparison(settings, _variants(methods, chosen, options)), progress, track, listener)


def sweep(
    method: Method,
    over: Mapping[str, Sequence[Any] | str],
    data: Data = None,
    network: Network = None,
    *,
    features: Features = None,
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
    compile: Compile = "eager",
    precision: Precision = "float32",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accept_edited: bool = False,
    progress: bool | None = None,
    track: Sequence[str | Tracker] = (),
    listener: Listener | None = None,
) -> Outcome:
    """Learn one stream with several values of a method's options, and choose among them on validation data.

    Args:
        method: a `Method` of `engram.api`.
        over: by option, the values to try, or a range such as ``"0.001..10:log"`` for engine optuna.
        data: as for `compare`; without a valid_fraction it becomes 0.1.
        options: of the method, on top of the recipe's.
        engine: grid, optuna (TPE with median pruning), or ray (the grid on a Ray cluster).
        trials: number of trials of optuna, those of earlier calls included.
        sweep_seed: of optuna's proposals.
        choose_on: ``first_tasks:K``, ``valid_current`` or ``valid_all``; None is ``first_tasks:3``.
        address: of a Ray cluster; None starts one on this machine.
        seeds: of every trial.
        network, features, out, recipe, device, compile, precision, jobs, resume, overwrite, accept_edited, progress,
            track, listener: as for `compare`.

    Returns:
        The trials' results, the choice (``outcome.chosen``), the page, and what went wrong.

    Raises:
        EngramError: as `compare`.
    """
    named, given = split_variant(method) if isinstance(method, str) else (registered(method).name, {})
    given = {**given, **(options or {})}
    chosen = chosen_recipe(recipe, _name(data), features)
    base = _variant(method, chosen, {named: options or {}})
    arriving, held = _data(data, chosen, valid_fraction=VALID_FRACTION)
    settings = Settings(
        _folder(out),
        arriving,
        _network(network, chosen),
        seeds,
        device,
        jobs,
        resume,
        overwrite,
        _of(chosen),
        held,
        _features(features, chosen),
        accept_edited,
        compile,
        precision,
    )
    axes = axes_of(named, over)
    for axis in axes:
        if axis.name in given:
            raise not_both(axis.name)
    study = sweep_study(
        settings,
        named,
        axes,
        base.options,
        engine,
        trials,
        sweep_seed=sweep_seed,
        choose_on=choose_on,
        address=address,
    )
    return _watched(study, progress, track, listener)


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
    methods: Sequence[Method],
    source: Data = None,
    target: Data = None,
    *,
    out: str | PathLike[str],
    data: Mapping[str, Any] | None = None,
    network: Network = None,
    features: Features = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    over: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    points: int = POINTS,
    widen: int = WIDEN,
    required: Sequence[float] = (),
    recipe: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    compile: Compile = "eager",
    precision: Precision = "float32",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accept_edited: bool = False,
    progress: bool | None = None,
    track: Sequence[str | Tracker] = (),
    listener: Listener | None = None,
) -> Outcome:
    """Draw the trade-off curves of several methods between two data sets, and measure them.

    Args:
        methods: each a `Method` of `engram.api`, such as ``"lwf:distil=joint"``; fine-tuning is run beside them.
        source, target: the data sets, names such as ``"mnist:0-4"`` or objects, no streams; None takes the recipe's.
        data: further fields of `DataSettings`, on top of the recipe's.
        options: by method name, on top of the recipe's.
        over: by method name, one option and its values, at least three; other methods get a grid.
        points: values of a logarithmic grid over four decades.
        widen: most decades that are added at an end that is not saturated.
        required: further required target accuracies, in percent.
        recipe: a name, ``"none"``, or None for ``tradeoff-small``.
        seeds: distinct integers >= 0; a source network each.
        out, network, features, device, compile, precision, jobs, resume, overwrite, accept_edited, progress, track,
            listener: as for `compare`.

    Returns:
        Curves and measures (``outcome.found["methods"]``), the page, and what went wrong.

    Raises:
        EngramError: as `compare`.
    """
    chosen = chosen_recipe(recipe or RECIPE, "")
    variants = _variants(methods, chosen, options, beside=FINETUNE)
    beside = bool(variants) and all(v.label != FINETUNE for v in variants)
    variants += [_variant(FINETUNE, chosen, options)] if beside else []
    grids = {}
    for name, given in (over or {}).items():
        if len(given) != 1:
            raise ConfigError(f"over must name one option of {name}, got {', '.join(given) or 'none'}.")
        grids[name] = checked_grid(name, axes_of(name, given)[0])
    fields = {"valid_fraction": VALID_FRACTION, **(chosen.data if chosen else {}), **(data or {})}
    held: dict[str, Any] = {}
    source, target = _pair_name("source", source, held), _pair_name("target", target, held)
    settings = Settings(
        _folder(out),
        pair_of(source, target, fields),
        _network(network, chosen),
        seeds,
        device,
        jobs,
        resume,
        overwrite,
        _of(chosen),
        held,
        _features(features, chosen),
        accept_edited,
        compile,
        precision,
    )
    study = Tradeoff(
        settings,
        variants,
        grids=grids,
        points=points,
        widen=widen,
        required=required,
        beside=beside,
    )
    return _watched(study, progress, track, listener)


@dataclass
class Reproduced:
    """What came of a reproduction.

    Args:
        out: its folder, with ``table.md``, ``reproduction.json``, ``figures/``, ``results/``, and a study a part.
        conclusion: tables and values.
        figures: what was drawn.
        undrawn: names of figures of the target that no result here can be drawn from.
        outcomes: of the studies that were run for it.
        empty: folders of ``results`` that hold none.
    """

    out: Path
    conclusion: Conclusion
    figures: list[Path]
    undrawn: list[str]
    outcomes: list[Outcome]
    empty: list[Path]

    @property
    def exit_code(self) -> int:
        """The first of its studies' that is not 0; see `Outcome`."""
        return next((o.exit_code for o in self.outcomes if o.exit_code), 0)


@os_errors()
def reproduce(
    target: str,
    *,
    budget: str = "quick",
    out: str | PathLike[str] | None = None,
    results: Sequence[str | PathLike[str]] = (),
    seeds: Sequence[int] | None = None,
    run: bool = True,
    data_dir: str | None = None,
    device: str = "cpu",
    jobs: int | None = None,
    accept_edited: bool = False,
    listener: Listener | None = None,
) -> Reproduced:
    """A table or figure of a paper: run what is missing, and set ours beside what is published, with verdicts.

    Args:
        target: see :data:`engram.recipes.targets.TARGETS`.
        budget: ``quick``, a stated smaller setting, or ``full``, the paper's.
        out: its folder, which is continued where it is there; None is ``runs/reproduce-TARGET-BUDGET``.
        results: further folders of results, wherever they were made; those of the same settings count as run here.
        seeds: of every row; None are the target's.
        run: False trains nothing: verdicts on what is there.
        data_dir: folder with data sets.
        device, jobs, accept_edited, listener: as for `compare`.

    Raises:
        EngramError: an unknown target or budget, results that cannot be used, data that cannot be had.
    """
    # With every table and figure, which other calls do without.
    from engram.recipes import targets
    from engram.report import reproduction as concluding
    from engram.studies import reproduction

    wanted = targets.target(target)
    plan = targets.plan(wanted, budget)
    root = _folder(out if out is not None else Path("runs") / f"reproduce-{target}-{budget}")
    concluding.check_folder(root, target, budget, [part.name for part in plan.parts])
    Settings(root, DataSettings(), NetworkSettings(), tuple(seeds or (0,)), device, jobs)  # checks them
    gathered = reproduction.gather(map(Path, results), accept_edited=accept_edited)
    outcomes, found = [], []
    for part in plan.parts:
        asked = tuple(part.seeds if seeds is None else seeds)
        settings = Settings(
            root,
            DataSettings(data_dir=data_dir),
            NetworkSettings(),
            asked,
            device,
            jobs,
            accept_edited=accept_edited,
        )

        def look(part: Part = part, asked: Sequence[int] = asked) -> reproduction.PartFound:
            # Parts share their runs.
            here = [folder for folder in (root / p.name for p in plan.parts) if folder.is_dir()]
            own = reproduction.gather(here, accept_edited=accept_edited)
            both = reproduction.Gathered(
                own.results + gathered.results, [*own.tradeoffs, *gathered.tradeoffs]
            )
            return reproduction.found(part, asked, both)

        for study in reproduction.missing(look(), settings) if run else ():
            outcomes.append(conclude(study, listener))
            if outcomes[-1].interrupted:
                run = False  # the parts after this one are shown as they stand
                break
        found.append(look())
    concluded = concluding.conclude(wanted, budget, found)
    written = concluding.write(root, wanted, found, concluded, run=run)
    return Reproduced(root, concluded, *written, outcomes, gathered.empty)


def _folder(out: str | PathLike[str]) -> Path:
    if not isinstance(out, (str, PathLike)) or not str(out):
        raise ConfigError(f"out must be the path of a folder, got {out!r}: give one.")
    return Path(out)


def _of(recipe: Recipe | None) -> str | None:
    return recipe.name if recipe else None


def _name(data: Data) -> str:
    """By which the default recipe is found; objects have none."""
    given = data.data if isinstance(data, DataSettings) else data
    return "digits" if given is None else given if isinstance(given, str) else ""


def _data(data: Data, recipe: Recipe | None, **default: Any) -> tuple[DataSettings, Mapping[str, Any]]:
    """The settings, and what they name that is no file's."""
    settings = data if isinstance(data, DataSettings) else None
    given = data.data if isinstance(data, DataSettings) else data
    if given is None or isinstance(given, str):
        named = {"data": given} if given else {}
        return settings or DataSettings(**{**default, **(recipe.data if recipe else {}), **named}), {}
    # Torch comes with these; data by name need it in the workers alone.
    from engram.streams.stream import Stream
    from engram.studies.building import hold

    if settings is None and not isinstance(given, Stream):
        settings = DataSettings(**{**default, **(recipe.data if recipe else {})})
    return hold(given, settings)


def _pair_name(end: str, given: Data, held: dict[str, Any]) -> str | None:
    """The name of the source or target of a trade-off; an object is held under it."""
    if given is None or isinstance(given, str):
        return given
    from engram.streams.stream import Stream  # as above
    from engram.studies.building import hold

    settings, found = hold(given, None, end)
    if isinstance(found[settings.data], Stream):
        raise ConfigError(f"{end} must be one data set, got a stream: give what it is made of.")
    held |= found
    return settings.data


def _network(network: Network, recipe: Recipe | None) -> NetworkSettings:
    if network is None and recipe is not None:
        return NetworkSettings(recipe.network, dict(recipe.network_options))
    if isinstance(network, NetworkSettings):
        return network
    if network is None or isinstance(network, str):
        return NetworkSettings(network)
    return NetworkSettings(*networks.registered(network))


def _features(given: Features, recipe: Recipe | None) -> FeatureSettings:
    if given is None and recipe is not None:
        return FeatureSettings(recipe.features, dict(recipe.feature_options))
    if isinstance(given, FeatureSettings):
        return given
    if given is None or isinstance(given, str):
        return FeatureSettings(None if given == "none" else given)
    return FeatureSettings(*fixed.registered(given))


def _variants(
    methods: Sequence[Method],
    recipe: Recipe | None,
    options: Mapping[str, Mapping[str, Any]] | None,
    beside: str = "",
) -> list[Variant]:
    """The methods of a study; ``options`` by name must be of a known method, be it run or not."""
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise ConfigError(f"methods must be a list, got {methods!r}: give for example ['finetune'].")
    for_each = {} if options is None else options
    if not isinstance(for_each, Mapping) or not all(isinstance(v, Mapping) for v in for_each.values()):
        raise ConfigError(f"options must be a mapping of method names to options, got {options!r}.")
    variants = [_variant(m, recipe, options) for m in methods]
    names = sorted({v.method for v in variants} | ({beside} if beside else set()))
    for name in for_each:
        if name not in names and name not in METHODS:
            raise ConfigError(
                f"options must be of {', '.join(names)}, got {name!r}{closest(str(name), names)}: use its name."
            )
    return variants


def _variant(
    method: Method, recipe: Recipe | None, options: Mapping[str, Mapping[str, Any]] | None
) -> Variant:
    """A method with the recipe's options, and those given by its name on top; a spec has all of its own."""
    name = split_variant(method)[0] if isinstance(method, str) else registered(method).name
    on_top = (options or {}).get(name, {})
    if isinstance(method, MethodSpec):
        if on_top:
            raise ConfigError(
                f"options of {name} must be left out, its spec has them all, got {dict(on_top)}."
            )
        given = {k: v for k, v in asdict(method.config).items() if k not in entry(name).fixed}
        return Variant(name, folder_name(name), name, given)
    values = {**(recipe.methods.get(name, {}) if recipe else {}), **on_top}
    of_features = {recipe.features: recipe.feature_options} if recipe and recipe.features else {}
    return variant(method if isinstance(method, str) else name, values, of_features=of_features)
