"""Which validation data choose the best trial of a sweep. Test data never do.

V[i][j] is the accuracy on validation samples of task j after learning task i (``valid_matrix`` of a seed).

- ``first_tasks:K`` (default): the mean of V[K-1][:K]. The first K tasks are the tuning part of the stream, as in the
  learning protocol of Chaudhry et al., Efficient Lifelong Learning with A-GEM, ICLR 2019 (there three tasks, which
  are left out of the evaluation; here they stay in it). No later task has a say.
- ``valid_current``: the mean of V[t][t]: every task's validation samples are read only while it is current, the
  strictest rule. It cannot see forgetting, so of a strength that trades new tasks for old ones it prefers the weakest.
- ``valid_all``: the mean of V[T-1][:]: validation samples of all tasks, kept to the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engram.core.options import closest
from engram.errors import ConfigError

__all__ = ["Rule", "rule"]

NAMES = ("first_tasks", "valid_current", "valid_all")
TUNING_TASKS = 3  # as in A-GEM
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Rule:
    """A rule of choice, made for a stream of ``n_tasks`` tasks; ``tasks`` is K of ``first_tasks:K``."""

    kind: str
    n_tasks: int
    tasks: int = 0

    @property
    def name(self) -> str:
        """As given to ``--choose-on``."""
        return f"first_tasks:{self.tasks}" if self.kind == "first_tasks" else self.kind

    @property
    def words(self) -> str:
        """What data choose."""
        if self.kind == "valid_current":
            return (
                "validation samples of each task right after it was learned; old tasks have no say, so forgetting "
                "is not seen"
            )
        if self.kind == "valid_all" or self.tasks == self.n_tasks:
            return "validation samples of all tasks after the last one: uses validation data of all tasks, not strict"
        return (
            f"validation samples of the first {self.tasks} of {self.n_tasks} tasks after task {self.tasks}; "
            "later tasks have no say"
        )

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        old = {"valid_current": 1, "valid_all": self.n_tasks}.get(self.kind, self.tasks)
        return {"name": self.name, "words": self.words, "strict": old == 1, "tasks_read_together": old}

    def score(self, valid: Rows) -> float | None:
        """The score of a validation matrix with at least as many rows as the rule needs; None with fewer."""
        if self.kind == "valid_current":
            return _mean([row[t] for t, row in enumerate(valid)]) if len(valid) == self.n_tasks else None
        last = self.tasks if self.kind == "first_tasks" else self.n_tasks
        return _mean(list(valid[last - 1][:last])) if len(valid) >= last else None

    def so_far(self, valid: Rows) -> float | None:
        """The same rule on the tasks learned so far, for pruning; None once a task adds nothing to the score."""
        t = len(valid)
        if t > self.steps:
            return None
        part = Rule("valid_all" if self.kind == "first_tasks" else self.kind, t)
        return part.score(valid)

    @property
    def steps(self) -> int:
        """Tasks after which the score is known."""
        return self.tasks if self.kind == "first_tasks" else self.n_tasks


def _mean(values: list[Any]) -> float | None:
    if any(v is None for v in values):
        return None
    return sum(values) / len(values)


def rule(text: str | None, n_tasks: int) -> Rule:
    """The rule called ``text`` for a stream; None is ``first_tasks:3``, fewer where the stream is short.

    Raises:
        ConfigError: there is none, or it needs more tasks than there are.
    """
    if text is None:
        return Rule("first_tasks", n_tasks, min(TUNING_TASKS, max(2, n_tasks - 1), n_tasks))
    kind, _, number = str(text).partition(":")
    if kind not in NAMES or bool(number) != (kind == "first_tasks"):
        known = ["first_tasks:K", *NAMES[1:]]
        raise ConfigError(
            f"choose-on must be {', '.join(known[:-1])} or {known[-1]}, got {text!r}{closest(kind, NAMES)}: "
            "give one of them, for example first_tasks:3."
        )
    if kind != "first_tasks":
        return Rule(kind, n_tasks)
    if not re.fullmatch(r"[0-9]+", number) or not 1 <= int(number) <= n_tasks:
        raise ConfigError(f"first_tasks:K needs K in 1..{n_tasks}, the tasks of the stream, got {text!r}.")
    return Rule(kind, n_tasks, int(number))


def all_rules(chosen: Rule) -> list[Rule]:
    """The rule that chooses first, then the others of the stream, for comparison."""
    others = [
        rule(None, chosen.n_tasks),
        Rule("valid_current", chosen.n_tasks),
        Rule("valid_all", chosen.n_tasks),
    ]
    return list({r.name: r for r in [chosen, *others]}.values())


def parts(rows: Rows) -> dict[str, float | None]:
    """Test accuracy of a finished seed: average, on new tasks (mean of R[t][t]), on old ones at the end."""
    n = len(rows)
    return {
        "average": _mean(list(rows[-1])),
        "new": _mean([rows[t][t] for t in range(n)]),
        "old": _mean(list(rows[-1][: n - 1])) if n > 1 else None,
    }
