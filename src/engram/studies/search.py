"""A sweep whose trials are proposed by Optuna: a tree-structured Parzen estimator with median pruning.

Trials come in batches as large as there is room for, and the sampler of a trial is seeded by (sweep_seed, number). A
proposal is therefore a function of the seed, its number and the trials of the batches before, which ``study.json``
holds. So is whether a trial is pruned: a function of its own steps and of the batches before its own. A sweep that was
killed therefore goes on as if it had not been: a trial that was running is continued from its checkpoints, never
proposed anew, and every step of it is judged again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError
from engram.methods.registry import method
from engram.protocols.entry import diverged
from engram.studies.axes import Axis, shown, trial_name
from engram.studies.jobs import Event, Job
from engram.studies.machine import default_jobs
from engram.studies.settings import Settings
from engram.studies.study import Done, Record
from engram.studies.sweep import Sweep
from engram.studies.variants import Variant

if TYPE_CHECKING:
    import optuna

    from engram.studies.planning import Planner

__all__ = ["Search"]

STARTUP = 5  # trials at random before the estimator, and finished trials before pruning
DIGITS = 6  # significant ones of a proposed number


@dataclass
class _Trial:
    """A proposal.

    Args:
        options: proposed values.
        batch: number of trials in the batches before its own.
        state: RUNNING until all its seeds have ended, then COMPLETE, FAIL or PRUNED.
        steps: by number of tasks learned, the score of all seeds so far.
        score: once it is known.
    """

    options: Mapping[str, Any]
    batch: int = 0
    state: str = "RUNNING"
    steps: dict[int, float] = field(default_factory=dict)
    score: float | None = None

    @property
    def name(self) -> str:
        return trial_name(self.options)


class Search(Sweep):
    """Trials proposed by Optuna.

    Args:
        settings, method, axes, options, choose_on: as for `Sweep`; axes may be ranges.
        trials: how many, those of earlier calls included.
        sweep_seed: of the proposals.
    """

    def __init__(
        self,
        settings: Settings,
        method: str,
        axes: Sequence[Axis],
        options: Mapping[str, Any],
        *,
        trials: int,
        sweep_seed: int = 0,
        choose_on: str | None = None,
    ) -> None:
        super().__init__(settings, method, axes, options, choose_on=choose_on, engine="optuna")
        self.n_trials, self.sweep_seed = trials, sweep_seed
        self.history: list[_Trial] = []
        self.valid: dict[tuple[str, int], list[list[float]]] = {}  # rows so far, by trial and seed
        self.done: Done = {}

    def check(self) -> None:
        _optuna()
        for axis in self.axes:
            for value in axis.values or (axis.low, axis.high):
                given = int(value) if axis.whole else value
                method(self.method, {**self.options, axis.name: given})

    def describe_engine(self) -> dict[str, Any]:
        return {
            "name": "optuna",
            "sampler": "tpe",
            "pruner": "median",
            "trials": self.n_trials,
            "seed": self.sweep_seed,
        }

    def begin(self, planner: Planner, records: Sequence[Record], found: Mapping[str, Any]) -> None:
        """A folder may be used again with more trials; proposals depend on everything else."""
        super().begin(planner, records, found)
        limit = self.settings.jobs or default_jobs(planner.settings.device)
        self.room = max(1, limit // len(self.settings.seeds))
        self.history = []
        if not found:
            return
        given = {"over": self.asked()["over"], "seed": self.sweep_seed}
        given |= {"rule": self.rule.name, "seeds": list(self.settings.seeds)}
        stored = {"over": found["over"], "seed": found["engine"].get("seed")}
        stored |= {"rule": found["rule"]["name"], "seeds": found["seeds"]}
        for key, value in stored.items():
            if value != given[key]:
                raise self.another(f"{key}: {value} there, {given[key]} now")
        varied = {record["label"]: record["varied"] for record in records}
        numbered = {number: trial for trial in found["trials"] for number in trial.get("numbers", [])}
        for number, trial in sorted(numbered.items()):
            state = "PRUNED" if trial.get("pruned") else "RUNNING"
            steps = {int(step): value for step, value in trial.get("steps", {}).items()}
            known = _Trial(varied.get(trial["name"], {}), trial.get("batch", number), state, steps)
            if known.name != trial["name"] or not self._fits(known):
                raise self.another(f"trial {trial['name']} is none of this search")
            self.history.append(known)

    def _fits(self, trial: _Trial) -> bool:
        try:
            self._frozen(trial)
        except (ValueError, KeyError):  # a value that no axis has
            return False
        return True

    def wanted(self, done: Done) -> list[Variant]:
        self.done = done
        while True:
            for trial in self.history:
                self._settle(trial, done)
            new = [t for t in self.history if t.state == "RUNNING" and t.name not in self.labels]
            if new or len(self.history) >= self.n_trials:
                break
            before = len(self.history)
            for _ in range(min(self.room, self.n_trials - before)):
                self.history.append(_Trial(self._proposed(), before))
        kept = [t for t in self.history if t.state != "PRUNED" or t.name in self.labels]
        return list({t.name: self.variant(t.options) for t in kept}.values())

    def _settle(self, trial: _Trial, done: Done) -> None:
        """Take in the results of a trial of which every seed has ended; one whose worker died stays open."""
        first = next(t for t in self.history if t.name == trial.name)
        if first is not trial:  # proposed before
            trial.state, trial.steps, trial.score = first.state, first.steps, first.score
        entries = [done.get(trial.name, {}).get(s) for s in self.settings.seeds]
        ended = [e for e in entries if e is not None and (e["status"] == "done" or diverged(e))]
        if trial.state != "RUNNING" or len(ended) < len(entries):
            return
        self._judge(trial)
        if trial.state != "RUNNING":
            return
        scores = [self.rule.score(e.get("valid_matrix") or []) for e in ended if e["status"] == "done"]
        known = [s for s in scores if s is not None]
        if len(known) < len(entries):
            trial.state = "FAIL"
            return
        trial.state, trial.score = "COMPLETE", sum(known) / len(known)

    def _judge(self, trial: _Trial) -> None:
        """Note the score after each task that all seeds have learned; prune at the first one that is too low.

        The pruner is not asked after the first task, which knows nothing of forgetting, nor after the last, when the
        trial is complete.
        """
        rows = [self._rows(trial.name, seed) for seed in self.settings.seeds]
        for step in range(len(trial.steps) + 1, min(map(len, rows)) + 1):
            scores = [self.rule.so_far(matrix[:step]) for matrix in rows]
            known = [s for s in scores if s is not None]
            if len(known) < len(scores):
                return
            trial.steps[step] = sum(known) / len(known)
            study = self._study(0, self.history[: trial.batch])
            if step < self.rule.n_tasks and study.pruner.prune(study, self._frozen(trial)):
                for same in self.history:
                    if same.name == trial.name:
                        same.state, same.steps = "PRUNED", trial.steps
                return

    def _rows(self, name: str, seed: int) -> Sequence[Sequence[Any]]:
        """Accuracies on validation samples after each task that a seed has learned."""
        entry = self.done.get(name, {}).get(seed)
        if entry is not None and entry["status"] == "done":
            return entry.get("valid_matrix") or []
        return self.valid.get((name, seed), [])

    def hear(self, event: Event) -> None:
        """Prune a trial where the score so far says so."""
        key = event.job.label, event.job.seed
        if event.kind == "start":
            self.valid[key] = list(event.data["valid"])
        elif event.kind == "task":
            self.valid[key].append(event.data["valid"])
        else:
            return
        trial = next(t for t in self.history if t.name == key[0])
        if trial.state == "RUNNING":
            self._judge(trial)

    def dropped(self, job: Job) -> bool:
        return any(t.state == "PRUNED" and t.name == job.label for t in self.history)

    def of_trial(self, label: str) -> dict[str, Any]:
        same = {n: t for n, t in enumerate(self.history) if t.name == label}
        first = next(iter(same.values()), None)
        pruned = {"pruned": True, "steps": first.steps} if first and first.state == "PRUNED" else {}
        batch = {"batch": first.batch} if first else {}
        return {"numbers": list(same), **batch, **pruned}

    def _proposed(self) -> dict[str, Any]:
        """The options of the next trial."""
        trial = self._study(len(self.history), self.history).ask()
        values: dict[str, Any] = {}
        for axis in self.axes:
            if axis.values:
                by_text = {shown(v): v for v in axis.values}
                values[axis.name] = by_text[str(trial.suggest_categorical(axis.name, list(by_text)))]
            elif axis.whole:
                values[axis.name] = trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
            else:
                drawn = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
                values[axis.name] = min(max(float(f"{drawn:.{DIGITS}g}"), axis.low), axis.high)
        return values

    def _study(self, number: int, known: Sequence[_Trial]) -> optuna.Study:
        """Optuna's study of these trials, with the sampler of the trial ``number``."""
        from engram import seeds  # with torch, which a sweep that has finished does without

        optuna = _optuna()
        seed = seeds.derive(self.sweep_seed, "sweep", number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, constant_liar=True, seed=seed)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        study.add_trials([self._frozen(trial) for trial in known])
        return study

    def _frozen(self, trial: _Trial) -> optuna.trial.FrozenTrial:
        optuna = _optuna()
        of = optuna.distributions
        spaces: dict[str, Any] = {}
        for axis in self.axes:
            if axis.values:
                spaces[axis.name] = of.CategoricalDistribution([shown(v) for v in axis.values])
            elif axis.whole:
                spaces[axis.name] = of.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
            else:
                spaces[axis.name] = of.FloatDistribution(axis.low, axis.high, log=axis.log)
        listed = {axis.name for axis in self.axes if axis.values}
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState[trial.state],
            value=trial.score,
            params={k: shown(v) if k in listed else v for k, v in trial.options.items()},
            distributions=spaces,
            intermediate_values=trial.steps,
        )


def _optuna() -> Any:
    """Optuna, which takes a second to import and is not there without its extra; ``ConfigError`` then."""
    try:
        import optuna  # an extra
    except ImportError as error:
        raise ConfigError(
            "engine optuna needs Optuna, it is not installed: pip install engram[optuna]."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
