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
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from engram.core.contract import Context, TaskInfo
from engram.core.samples import Samples
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.fetril import scaled
from engram.methods.registry import method
from engram.methods.ridge import STRENGTHS
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
    ("ridge", {"gamma": 2.0, "projection": 12}),
    ("ridge", {"gamma": 2.0, "balance": "samples", "scatter": "classes"}),
    ("fecam", {}),
    ("fecam", {"beta": 1.0, "a1": 0.5, "a2": 0.0}),
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
    if options.get("scatter") == "classes" or name == "fecam":
        assert torch.equal(after.triangles[:2], before.triangles)


@pytest.mark.parametrize(
    ("name", "options"), [v for v in VARIANTS if v[0] in ("ncm", "fecam") or "scatter" in v[1]]
)
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
    for name, options in (("slda", {}), ("ridge", {"gamma": 1.0}), ("fetril", {}), ("finetune", {})):
        spec = method(name, options)
        made = spec.make(spec.config, Context(Mlp((4,)), (D,), K, "class", 0))
        with pytest.raises(ConfigError, match=r"^a class must [^\n]+ to be (forgotten|removed)[^\n]+$"):
            made.forget(0)


@pytest.mark.parametrize("name", ["ncm", "slda", "ridge", "fecam"])
def test_what_is_kept_does_not_grow_with_samples(name: str) -> None:
    few, many = ([{c: v.repeat(n, 1) for c, v in data().items()}] for n in (1, 3))
    a, b = (learned(name, g, {}).storage_bytes() for g in (few, many))
    assert a == b
    assert a["statistics"] > 0
    assert sum(a.values()) - a["statistics"] <= 8  # a chosen strength


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


# ridge ---------------------------------------------------------------------------------------------------------
def stacked() -> tuple[Any, Any]:
    """All vectors [N, D] and their one-hot rows [N, K], as arrays."""
    x = torch.cat(list(data().values())).double().numpy()
    return x, np.eye(K)[np.repeat(np.arange(K), [len(v) for v in data().values()])]


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("balance", ["samples", "classes"])
def test_ridge_is_scikit_learns(intercept: bool, balance: str) -> None:
    x, y = stacked()
    weights = None if balance == "samples" else (y / y.sum(0)).sum(1)
    ridge = SklearnRidge(alpha=0.3, fit_intercept=intercept).fit(x, y, sample_weight=weights)
    options = {"gamma": 0.3, "intercept": intercept, "balance": balance}
    made = learned("ridge", [pick(0, 1), pick(2, 3, 4)], options)
    want = torch.from_numpy(ridge.predict(questions().double().numpy()))
    close(logits(made), want - want.amax(1, keepdim=True), 1e-6)


def test_ridge_is_what_acils_recursion_ends_with() -> None:
    gamma = 0.1
    made = learned(
        "ridge", [pick(0, 1), pick(2, 3, 4)], {"gamma": gamma, "intercept": False, "balance": "samples"}
    )
    x, y = stacked()
    r, w = np.eye(D) / gamma, np.zeros((D, K))
    for rows in np.array_split(np.arange(len(x)), 9):
        h = x[rows]
        r = r - r @ h.T @ np.linalg.solve(np.eye(len(h)) + h @ r @ h.T, h @ r)
        w = w + r @ h.T @ (y[rows] - h @ w)
    close(made.outputs[0], torch.from_numpy(w), 1e-8)
    assert not made.outputs[1].any()


def test_a_very_strong_ridge_ranks_as_sums_do() -> None:
    made = learned("ridge", [data()], {"gamma": 1e12, "intercept": False, "balance": "samples"})
    x, y = stacked()
    assert torch.equal(logits(made).argmax(1), (questions().double() @ torch.from_numpy(x.T @ y)).argmax(1))


def test_random_features_are_of_the_seed_and_are_kept() -> None:
    made = learned("ridge", [data()], {"gamma": 1.0, "projection": 12})
    assert made.statistics.d == 12
    assert made.expansion.shape == (12, D)
    assert not made.expansion.requires_grad
    assert made.storage_bytes()["weights"] == 4 * 12 * D
    h = (questions().double() @ made.expansion.double().T).relu()
    close(made.features(questions()), h)
    assert bool((h.std(0) > 0).any())


@pytest.mark.parametrize("intercept", [False, True])
def test_gamma_has_the_least_squared_error_on_every_fifth_sample(intercept: bool) -> None:
    groups, options = [pick(0, 1), pick(2, 3)], {"intercept": intercept, "balance": "samples"}
    made = learned("ridge", groups, options, n_classes=4, order=3)
    x, y = (
        torch.cat(list(pick(2, 3).values())),
        torch.cat([torch.full((len(data()[c]),), c) for c in (2, 3)]),
    )
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(3))
    x, y = x[rows].double(), y[rows]
    out = torch.arange(len(y)) % 5 == 4
    old = torch.cat(list(pick(0, 1).values())).double()
    fit = torch.cat([old, x[~out]]).numpy()
    label = torch.cat([torch.arange(2).repeat_interleave(torch.tensor([30, 41])), y[~out]]).numpy()
    errors = {}
    for gamma in STRENGTHS:
        ridge = SklearnRidge(alpha=gamma, fit_intercept=intercept).fit(fit, np.eye(4)[label])
        errors[gamma] = ((ridge.predict(x[out].numpy()) - np.eye(4)[y[out].numpy()]) ** 2).sum()
    best = min(errors, key=lambda g: errors[g])
    assert made.report()["gamma"] == best
    assert len(set(errors.values())) > 5
    # And what was held out is learned in the end.
    same = learned("ridge", groups, {**options, "gamma": best}, n_classes=4)
    close(logits(made), logits(same), 1e-7)
    assert made.storage_bytes() == {**same.storage_bytes()}
    with pytest.raises(ConfigError, match=r"^gamma must be given for a class to be forgotten[^\n]+$"):
        made.forget(0)


# fecam ---------------------------------------------------------------------------------------------------------
def test_fecam_is_its_equations() -> None:
    beta, a1, a2 = 0.5, 1.0, 2.0
    made = learned("fecam", [pick(0, 1), pick(2, 3, 4)], {"beta": beta, "a1": a1, "a2": a2})

    def tukey(x: Tensor) -> Any:
        x = x.double().numpy()
        return np.sign(x) * np.abs(x) ** beta

    def unit(x: Any) -> Any:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    wanted = []
    for v in data().values():
        z = tukey(v)
        sigma, one = np.cov(z.T), np.eye(D)
        beside = sigma[~one.astype(bool)].mean()
        sigma = sigma + a1 * np.trace(sigma) / D * one + a2 * beside * (1 - one)
        root = np.sqrt(np.diag(sigma))
        away = unit(tukey(questions())) - unit(z.mean(0))
        wanted.append(-np.einsum("ni,ij,nj->n", away, np.linalg.inv(sigma / np.outer(root, root)), away))
    want = torch.from_numpy(np.stack(wanted, 1))
    close(logits(made), want - want.amax(1, keepdim=True))


def test_fecam_answers_where_a_class_has_one_sample() -> None:
    made = learned("fecam", [pick(0, 1), {2: data()[2][:1]}], {})
    assert made.predict(data()[2][:1]).argmax(1).tolist() == [2]


# fetril --------------------------------------------------------------------------------------------------------
def test_fetril_moves_features_of_the_most_similar_new_class() -> None:
    made = learned("fetril", [pick(0, 1), pick(2, 3)], {"epochs": 1, "samples": 50}, n_classes=4)
    x = torch.cat([data()[2], data()[3]])
    y = torch.tensor([2] * len(data()[2]) + [3] * len(data()[3]))
    pool = made.pools(TaskInfo.of(1, 2, 4, "class"), "head", 0, Samples(x, y))["features"]
    assert pool.y.tolist() == [c for c in range(4) for _ in range(50)]
    means = made.statistics.means
    for c in range(4):
        k = c if c > 1 else 2 + int(torch.cosine_similarity(means[c], means[2:]).argmax())
        moved = scaled(data()[k].double() - means[k] + means[c])
        found = pool.x[pool.y == c].double()
        assert float(torch.cdist(found, moved).min(1).values.max()) < 1e-5
        assert len({tuple(row) for row in found.tolist()}) > 5


def test_fetril_remembers_what_fine_tuning_forgets() -> None:
    apart = {c: v + 12.0 * torch.eye(D)[c] for c, v in data().items()}
    made = learned("fetril", [{c: v} for c, v in apart.items()], {"epochs": 30, "lr": 0.02})
    right = [float((made.predict(v).argmax(1) == c).double().mean()) for c, v in apart.items()]
    assert sum(right) / K > 0.9
