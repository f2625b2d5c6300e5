"""A sweep's trials proposed by Optuna: a tree-structured Parzen estimator with median pruning.

The study lies in ``optuna.db`` (SQLite) in the sweep's folder. Trials come in batches as large as there is room for;
their scores are told in the order of their numbers, and the sampler of a trial is seeded by (sweep_seed, number). A
proposal is therefore a function of the seed, its number and the batches before, and a sweep that was killed goes on
as if it had not been: a trial found running is continued from its checkpoints, never proposed anew.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from engram import seeds
from engram.errors import ConfigError
from engram.studies.axes import Axis, shown, trial_name
from engram.studies.processes import Event, default_jobs
from engram.studies.settings import Job
from engram.studies.sweep_file import STUDY

if TYPE_CHECKING:
    import optuna

    from engram.studies.sweep import State

STARTUP = 5  # trials at random before the estimator, and finished trials before pruning
DIGITS = 6  # significant ones of a proposed number


def require() -> None:
    """``ConfigError`` where Optuna is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "engine optuna needs Optuna, it is not installed: pip install engram[optuna]."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def drive(state: State) -> None:
    """Run trials until there are as many as were asked for."""
    storage = _storage(state)
    try:
        _drive(state, _study(storage))
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _drive(state: State, study: optuna.Study) -> None:
    import optuna

    plan = state.plan
    room = max(1, (plan.jobs or default_jobs(plan.device)) // len(plan.seeds))
    wanted = plan.trials or 0
    kinds = optuna.trial.TrialState
    for start in range(0, wanted, room):
        batch: list[_Trial] = []
        for number in range(start, min(start + room, wanted)):
            stored = study.get_trials(deepcopy=False)
            study.sampler = _sampler(plan.sweep_seed, number)
            if number < len(stored):
                found = optuna.trial.Trial(study, stored[number]._trial_id)
                over = stored[number].state.is_finished()
            else:
                found, over = study.ask(), False
            trial = _Trial(found, number, _values(found, plan.axes), over)
            trial.pruned = number < len(stored) and stored[number].state == kinds.PRUNED
            batch.append(trial)
        _run(state, study, batch)


class _Trial:
    """A trial of the study and what its seeds have measured."""

    def __init__(self, trial: optuna.trial.Trial, number: int, options: dict[str, Any], over: bool) -> None:
        self.trial, self.number, self.options, self.over = trial, number, options, over
        self.name = trial_name(options)
        self.pruned = False
        self.valid: dict[int, list[list[float]]] = {}


def _run(state: State, study: optuna.Study, batch: list[_Trial]) -> None:
    """Run the jobs of a batch that are left, prune, and tell the study the scores."""
    import optuna

    unique = {trial.name: trial for trial in reversed(batch)}  # of equal proposals the first is run
    jobs = state.open([t.options for t in unique.values() if not t.over])
    state.open([t.options for t in unique.values() if t.over], over=True)
    for trial in batch:
        entry = state.trials[trial.name]
        entry["numbers"] = sorted({*entry.get("numbers", []), trial.number})
        if trial.pruned:
            entry["pruned"] = True

    def dropped(job: Job) -> bool:
        return unique[job.label].pruned

    def heard(event: Event) -> None:
        trial, seed = unique[event.job.label], event.job.seed
        if event.kind == "start":
            trial.valid[seed] = list(event.data["valid"])
        elif event.kind == "task":
            trial.valid[seed].append(event.data["valid"])
        else:
            return
        _prune(state, trial)

    state.run(jobs, heard=heard, dropped=dropped)
    died = {(p.label, p.seed) for p in state.outcome.problems if not p.expected}
    kinds = optuna.trial.TrialState
    for trial in batch:
        if trial.over or any((trial.name, s) in died for s in state.plan.seeds):
            continue  # one whose worker died stays open: resume continues it
        first = unique[trial.name]
        entries = state.books[trial.name].entries
        scores = [state.rule.score(entries[s].get("valid_matrix") or []) for s in state.plan.seeds]
        if first.pruned or state.trials[trial.name].get("pruned"):
            study.tell(trial.number, state=kinds.PRUNED)
        elif any(score is None for score in scores):
            study.tell(trial.number, state=kinds.FAIL)
        else:
            study.tell(trial.number, sum(s for s in scores if s is not None) / len(scores))
    state.write()


def _prune(state: State, trial: _Trial) -> None:
    """Report the score after each task that all seeds have learned; mark the trial when the pruner says so.

    The first task knows nothing of forgetting, so nothing is pruned after it.
    """
    if len(trial.valid) < len(state.plan.seeds) or trial.pruned:
        return
    reported = trial.trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for step in range(1, min(map(len, trial.valid.values())) + 1):
        scores = [state.rule.so_far(rows[:step]) for rows in trial.valid.values()]
        if step in reported or any(score is None for score in scores):
            continue
        trial.trial.report(sum(s for s in scores if s is not None) / len(scores), step)
        if trial.trial.should_prune():
            trial.pruned = True
            state.trials[trial.name]["pruned"] = True
            return


def _values(trial: optuna.trial.Trial, axes: tuple[Axis, ...]) -> dict[str, Any]:
    """The options of a trial; those that the study has not drawn yet are drawn."""
    values: dict[str, Any] = {}
    for axis in axes:
        if axis.values:
            by_text = {shown(v): v for v in axis.values}
            values[axis.name] = by_text[str(trial.suggest_categorical(axis.name, list(by_text)))]
        elif axis.whole:
            values[axis.name] = trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
        else:
            drawn = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
            values[axis.name] = float(f"{drawn:.{DIGITS}g}")
    return values


def _storage(state: State) -> optuna.storages.RDBStorage:
    import optuna
    from sqlalchemy import URL

    path = (state.out / STUDY).resolve()
    return optuna.storages.RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())


def _study(storage: optuna.storages.RDBStorage) -> optuna.Study:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            study_name="engram",
            storage=storage,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2),
            load_if_exists=True,
        )


def _sampler(sweep_seed: int, number: int) -> optuna.samplers.TPESampler:
    import optuna

    seed = seeds.derive(sweep_seed, "sweep", number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)
