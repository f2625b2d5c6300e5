"""Classifiers in closed form: equal to their batch solutions, to scikit-learn, and to never having seen what they
forget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from engram.core.contract import Context, TaskInfo
from engram.core.samples import Samples
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Mlp
from engram.parts.class_statistics import ClassStatistics

D, K = 7, 5
EXACT: dict[str, Any] = {"precision": "float64"}


@cache
def data(
    seed: int = 0, sizes: tuple[int, ...] = (30, 41, 9, 17, 25), offset: float = 3.0
) -> dict[int, Tensor]:
    """Correlated vectors [n, D] of each class, float32, far from 0."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=g)
    centres = offset + 2.0 * torch.randn(len(sizes), D, generator=g)
    return {c: centres[c] + torch.randn(n, D, generator=g) @ mix for c, n in enumerate(sizes)}


def learned(
    name: str,
    groups: Sequence[Mapping[int, Tensor]],
    options: Mapping[str, Any],
    *,
    order: int | None = None,
    n_classes: int = K,
) -> Any:
    """A method that has learned groups of classes, their samples in a random order, as labels 0, 1, ... of arrival."""
    spec = method(name, {**EXACT, **options})
    made = spec.make(spec.config, Context(Mlp((4,)), (D,), n_classes, "class", 0))
    state, seen = LoopState(), 0
    for t, group in enumerate(groups):
        x = torch.cat(list(group.values()))
        y = torch.cat([torch.full((len(v),), seen + i) for i, v in enumerate(group.values())])
        if order is not None:
            rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(order))
            x, y = x[rows], y[rows]
        task = TaskInfo.of(t, seen, seen + len(group), "class")
        train_task(made, task, Samples(x, y), state, 0)
        seen += len(group)
    return made


def pick(*classes: int) -> dict[int, Tensor]:
    return {c: data()[c] for c in classes}


def questions() -> Tensor:
    return torch.cat(list(data(1, offset=2.5).values()))


def kept(made: Any) -> dict[str, Tensor]:
    """The statistics by name, those that there are."""
    return {key: value for key, value in made.statistics.named_buffers() if value.numel()}


def logits(made: Any) -> Tensor:
    """Float64, so that rounding of the answer is not what is compared."""
    found: Tensor = made.predict(questions().double())
    return found


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("ncm", {}),
    ("slda", {}),
    ("slda", {"scatter": "classes"}),
    ("slda", {"balance": "classes", "shrinkage": "oas"}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_order_batches_and_tasks_do_not_matter(name: str, options: dict[str, Any]) -> None:
    whole = learned(name, [data()], options)
    for groups in ([pick(0), pick(1), pick(2), pick(3), pick(4)], [pick(0, 1), pick(2, 3, 4)]):
        for batch, order in ((1, 5), (13, 6), (1000, None)):
            other = learned(name, groups, {**options, "batch_size": batch}, order=order)
            close(logits(other), logits(whole))
            for key, value in kept(whole).items():
                close(kept(other)[key], value)


def test_float32_products_are_of_deviations_and_lose_little() -> None:
    far = {c: v + 1000.0 for c, v in data().items()}
    for batch in (3, 1000):
        rough = learned("slda", [far], {"precision": "float32", "batch_size": batch}).statistics
        exact = learned("slda", [far], {"batch_size": 50}).statistics
        close(rough.means, exact.means, 1e-12)
        close(rough.triangles, exact.triangles, 2e-6)  # products of raw values would be off by 1e-7 * 1000^2


def test_statistics_are_those_of_their_definition_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram.parts.class_statistics.ROWS", 3)
    for scatter in ("pooled", "classes"):
        s = ClassStatistics(D, scatter, "float64", 1.0, None)
        s.grow(K)
        for c, v in data().items():
            s.add(v, torch.full((len(v),), c))
        parts = [np.cov(v.double().numpy().T, bias=True) * len(v) for v in data().values()]
        np.testing.assert_allclose(s.within().numpy(), sum(parts), rtol=1e-12)
        if scatter == "classes":
            np.testing.assert_allclose(s.within(2).numpy(), parts[2], rtol=1e-12)
        assert s.counts.tolist() == [len(v) for v in data().values()]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_new_class_leaves_the_others_as_they_are(name: str, options: dict[str, Any]) -> None:
    before = learned(name, [pick(0, 1)], options).statistics
    after = learned(name, [pick(0, 1), pick(2)], options).statistics
    assert torch.equal(after.means[:2], before.means)
    if options.get("scatter") == "classes":
        assert torch.equal(after.triangles[:2], before.triangles)


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] == "ncm" or "scatter" in v[1]])
def test_a_class_forgotten_was_never_seen(name: str, options: dict[str, Any]) -> None:
    made = learned(name, [pick(0), pick(1), pick(2, 3)], options)
    without = learned(name, [pick(0), pick(2, 3)], options)
    made.predict(questions())  # what follows from the statistics is found anew
    made.forget(1)
    rows = [0, 2, 3]
    assert bool((logits(made)[:, 1] == -torch.inf).all())
    assert torch.equal(logits(made)[:, rows], logits(without))
    for key, value in kept(made).items():
        assert not value[1].any()
        assert torch.equal(value[rows], kept(without)[key])
    # With classes of the same task that were read in the same batches: but for rounding.
    made = learned(name, [pick(0, 1), pick(2, 3)], {**options, "batch_size": 8}, order=1)
    made.forget(1)
    close(logits(made)[:, rows], logits(without))


def test_who_cannot_forget_says_so() -> None:
    for name, options in (("slda", {}), ("finetune", {"epochs": 1})):
        spec = method(name, options)
        made = spec.make(spec.config, Context(Mlp((4,)), (D,), K, "class", 0))
        with pytest.raises(ConfigError, match=r"^a class must have [^\n]+ to be (forgotten|removed)[^\n]+$"):
            made.forget(0)


@pytest.mark.parametrize("name", ["ncm", "slda"])
def test_what_is_kept_does_not_grow_with_samples(name: str) -> None:
    few, many = ([{c: v.repeat(n, 1) for c, v in data().items()}] for n in (1, 3))
    a, b = (learned(name, g, {}).storage_bytes() for g in (few, many))
    assert a == b
    assert a["statistics"] == sum(a.values()) > 0


def test_too_much_memory_is_refused_before_anything_is_computed() -> None:
    for n_classes, options in ((10, {}), (10, {"scatter": "classes"}), (None, {"scatter": "classes"})):
        spec = method("slda", options)
        context = Context(Mlp((4,)), (20_000,), n_classes, "class", 0)
        with pytest.raises(
            ConfigError, match=r"20000 entries must fit memory_limit = 4 GiB[^\n]+ bytes[^\n]+$"
        ):
            spec.make(spec.config, context)
    spec = method("slda", {"scatter": "classes", "memory_limit": 0.01})
    made: Any = spec.make(spec.config, Context(Mlp((4,)), (200,), None, "class", 0))
    made.begin_task(
        TaskInfo.of(0, 0, 2, "class"), Samples(torch.zeros(0, 200), torch.zeros(0, dtype=torch.int64))
    )
    with pytest.raises(ConfigError, match=r"for 200 classes they take [\d,]+ bytes"):
        made.statistics.grow(200)


# ncm -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_nearest_mean_is_the_nearest(metric: str) -> None:
    made = learned("ncm", [pick(0, 1), pick(2, 3, 4)], {"metric": metric})
    means = torch.stack([v.double().mean(0) for v in data().values()])
    q = questions().double()
    if metric == "cosine":
        means, q = (t / t.norm(dim=1, keepdim=True) for t in (means, q))
    assert torch.equal(logits(made).argmax(1), torch.cdist(q, means).argmin(1))


# slda ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shrinkage", [1e-4, 0.1, 1.0])
def test_slda_is_scikit_learns_lda(shrinkage: float) -> None:
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[1 / K] * K)
    x = torch.cat(list(data().values())).double().numpy()
    lda.fit(x, np.repeat(np.arange(K), [len(v) for v in data().values()]))
    made = learned("slda", [pick(0, 1), pick(2, 3, 4)], {"eps": shrinkage, "balance": "classes"})
    want = torch.from_numpy(lda.decision_function(questions().double().numpy()))
    close(logits(made), want - want.amax(1, keepdim=True), 1e-6)


def test_slda_shrinks_as_oas_and_as_the_released_code() -> None:
    x = torch.cat([v.double() - v.double().mean(0) for v in data().values()]).numpy()
    sigma = x.T @ x / len(x)
    means = torch.stack([v.double().mean(0) for v in data().values()])
    wanted = {
        "oas": oas(x, assume_centered=True)[0],
        "absolute": (1 - 1e-4) * sigma + 1e-4 * np.eye(D),
        "relative": (1 - 1e-4) * sigma + 1e-4 * np.trace(sigma) / D * np.eye(D),
    }
    for shrinkage, matrix in wanted.items():
        made = learned("slda", [data()], {"shrinkage": shrinkage, "eps": 1e-4})
        w = torch.from_numpy(np.linalg.solve(matrix, means.numpy().T))
        scores = questions().double() @ w - 0.5 * (means.T * w).sum(0)
        close(logits(made), scores - scores.amax(1, keepdim=True), 1e-8)


def test_one_sample_a_class_and_constant_entries_are_answered() -> None:
    few = [{c: v[:1] for c, v in data().items()}]
    for options in ({}, {"shrinkage": "oas"}):
        made = learned("slda", few, options)
        assert torch.equal(made.predict(torch.cat(list(few[0].values()))).argmax(1), torch.arange(K))
    with pytest.raises(ConfigError, match=r"^eps must be > 0[^\n]+$"):
        learned("slda", [data()], {"eps": 0.0})
