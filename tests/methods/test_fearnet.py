"""FearNet: what HC, mPFC and BLA say, imagined vectors, sleep, and that no real vector outlasts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engram import seeds
from engram.checks.comparing import copied, differing, same
from engram.core.contract import Batch, Context, Step, TaskInfo
from engram.core.samples import Samples
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.fearnet import Mpfc, activations
from engram.methods.registry import method
from engram.networks import Mlp

D, N = 6, 40
SMALL = {
    "hidden": [10],
    "code": 4,
    "base_epochs": 30,
    "sleep_epochs": 10,
    "bla_epochs": 10,
    "batch_size": 20,
    "lr": 0.01,
    "decoder_rate": 1.0,
}


def data(label: int) -> Samples:
    """Vectors [N, D] of a class, far from the others and from 0."""
    g = torch.Generator().manual_seed(label)
    x = 5.0 + 4.0 * F.one_hot(torch.tensor(label), D) + 0.5 * torch.randn(N, D, generator=g)
    return Samples(x, torch.full((N,), label))


def learned(n: int, **options: Any) -> Any:
    """FearNet after ``n`` tasks of one class."""
    spec = method("fearnet", {**SMALL, **options})
    made, state = spec.make(spec.config, Context(Mlp((4,)), (D,), None, "class", 0)), LoopState()
    for i in range(n):
        train_task(made, TaskInfo.of(i, i, i + 1, "class"), data(i), state, 0)
    return made


def held(made: Any, x: Tensor) -> bool:
    """Whether any state tensor has a row that is one of ``x`` [N, D], as it is or as FearNet reads it."""
    rows = [
        t.reshape(-1, D) for t in made.state_dict().values() if t.numel() % D == 0 and t.is_floating_point()
    ]
    return any(
        bool((torch.cdist(r, form) < 1e-4).any()) for r in rows if len(r) for form in (x, made.vectors(x))
    )


def test_no_real_vector_outlasts_its_task_where_every_task_ends_in_sleep() -> None:
    for n in (1, 3):
        made = learned(n)
        assert (len(made.hc), made.storage_bytes()["exemplars"], made.bla) == (0, 0, None)
        assert made.reads == "task"
        assert not any(held(made, data(i).x) for i in range(n))
    # With longer days they do, until it sleeps.
    for n, stored in ((1, []), (2, [1]), (3, [1, 2]), (4, [])):
        made = learned(n, sleep_every=3)
        assert made.hc.labels.tolist() == [i for i in stored for _ in range(N)]
        assert made.storage_bytes()["exemplars"] == len(stored) * N * (4 * D + 8)
        assert made.reads == "memory"
        assert [held(made, data(i).x) for i in range(n)] == [i in stored for i in range(n)]


def test_hc_is_its_equation_and_what_it_says_sums_to_one() -> None:
    made = learned(3, sleep_every=3)
    x = torch.cat([data(i).x[:5] + 0.1 for i in range(4)])
    p = made.log_p_hc(made.vectors(x)).exp()
    distances = [torch.cdist(made.vectors(x), made.vectors(data(i).x)).min(1).values for i in (1, 2)]
    beta = torch.stack([1.0 / (made.config.eps + d) for d in distances], 1)
    torch.testing.assert_close(p, torch.cat([torch.zeros(20, 1), beta / beta.sum(1, keepdim=True)], 1))
    torch.testing.assert_close(p.sum(1), torch.ones(20))


def test_the_answer_is_that_of_the_memory_that_bla_favours() -> None:
    made = learned(4, sleep_every=2)  # task 3 is in HC
    x = torch.cat([data(i).x for i in range(4)]) + torch.randn(4 * N, D, generator=seeds.generator(0))
    z = made.vectors(x)
    a, hc = made.log_odds(z).sigmoid(), made.log_p_hc(z).exp()
    own = made.mpfc.head(made.mpfc.encode(z), (0, 3)).softmax(1)
    psi = a / (1.0 - a) * hc.max(1).values
    expected = torch.where(psi > own.max(1).values, hc.argmax(1), own.argmax(1))
    assert same(made.predict(x).argmax(1), expected)
    torch.testing.assert_close(made.predict(x).exp().sum(1), torch.ones(len(x)))
    assert 0 < int((expected == 3).sum()) < len(x)


def test_a_sure_bla_leaves_the_nearest_neighbour_or_mpfc_alone() -> None:
    made = learned(3, sleep_every=3)
    x = torch.cat([data(i).x + 0.3 for i in range(3)])
    z, stored = made.vectors(x), made.vectors(made.hc.images)
    for odds, expected in (
        (200.0, made.hc.labels[torch.cdist(z, stored).argmin(1)]),
        (-200.0, made.mpfc.head(made.mpfc.encode(z), (0, 1)).argmax(1)),
    ):
        with torch.no_grad():
            made.bla[2].weight.zero_()
            made.bla[2].bias.fill_(odds)
        assert same(made.predict(x).argmax(1), expected)


def test_bla_learns_what_hc_holds_against_as_much_that_mpfc_imagines() -> None:
    made = learned(2, sleep_every=3)
    pool = made.pools(TaskInfo.of(2, 2, 3, "class"), "bla", 0, data(2))["recent or not"]
    assert pool.y.tolist() == [1] * 2 * N + [0] * 2 * N
    assert same(pool.x[: 2 * N], made.vectors(torch.cat([data(2).x, data(1).x])))
    found = made.bla_loss(Batch(pool.x, pool.y, {}), step(2))["ce"]
    a = made.bla(pool.x).squeeze(1).sigmoid()
    torch.testing.assert_close(found, -torch.cat([a[: 2 * N].log(), (1 - a[2 * N :]).log()]).mean())


def step(index: int) -> Step:
    return Step(TaskInfo.of(index, index, index + 1, "class"), "sleep", 0, 1, 0, 1)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_imagined_codes_have_the_stored_mean_and_covariance(covariance: str) -> None:
    made = learned(2, covariance=covariance, jitter=1e-6)
    mpfc, y = made.mpfc, torch.arange(2).repeat_interleave(20_000)
    mpfc.decoder = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    with torch.no_grad():  # an ELU leaves positive codes as they are
        mpfc.means += 100.0
    codes = mpfc.imagine(y, seeds.generator(0))
    for label in (0, 1):
        own, kept = codes[y == label].double(), mpfc.covariances[label].double()
        size = float(kept.abs().max())
        torch.testing.assert_close(
            own.mean(0), mpfc.means[label].double(), atol=4 * (size / 20_000) ** 0.5, rtol=0
        )
        drawn = torch.cov(own.T) if covariance == "full" else own.var(0)
        torch.testing.assert_close(drawn, kept, atol=0.06 * size, rtol=0)


def test_kept_are_mean_and_covariance_of_each_class_and_count_as_statistics() -> None:
    made, full = learned(1), learned(2)
    codes = made.mpfc.encode(made.vectors(data(0).x)).double()
    torch.testing.assert_close(made.mpfc.means[0].double(), codes.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        made.mpfc.covariances[0].double(), torch.cov(codes.T, correction=0), atol=1e-4, rtol=1e-3
    )
    for one in full.mpfc.covariances.double():
        assert float(torch.linalg.eigvalsh(one)[0]) > -1e-5
    assert full.storage_bytes()["statistics"] == 4 * (2 * (4 + 4 * 4) + D + 1)
    assert learned(2, covariance="diagonal").storage_bytes()["statistics"] == 4 * (2 * (4 + 4) + D + 1)


def test_sleep_mixes_hc_with_as_much_of_each_older_class() -> None:
    for given, n in ((None, N), (7, 7)):
        made = learned(2, sleep_every=2, pseudo_per_class=given)
        task = TaskInfo.of(2, 2, 3, "class")
        made.begin_task(task, data(2))
        pool = made.pools(task, "sleep", 0, data(2))["all"]
        assert pool.y.tolist() == [2] * N + [1] * N + [0] * n
        assert same(pool.x[: 2 * N], made.vectors(torch.cat([data(2).x, data(1).x])))
        with torch.no_grad():  # what mPFC becomes meanwhile does not decide what it was
            made.mpfc.decoder[0].weight.add_(1.0)
        assert same(made.pools(task, "sleep", 3, data(2))["all"].x, pool.x)


def test_the_loss_is_cross_entropy_and_reconstruction_of_every_layer() -> None:
    made = learned(2, hidden=[10, 8], input_weight=0.7, layer_weight=0.2)
    z, y = made.vectors(torch.cat([data(0).x[:6], data(1).x[:6]])), torch.tensor([0] * 6 + [1] * 6)
    h1 = F.elu(made.mpfc.encoder[0](z))
    h2 = F.elu(made.mpfc.encoder[1](h1))
    code = made.mpfc.encoder[2](h2)
    g2 = F.elu(made.mpfc.decoder[0](code))
    g1 = F.elu(made.mpfc.decoder[1](g2))
    distances = [(a - b).square().mean() for a, b in ((z, made.mpfc.decoder[2](g1)), (h1, g1), (h2, g2))]
    terms = made.loss(Batch(z, y, {}), step(1))
    wanted = 0.7 * distances[0] + 0.2 * (distances[1] + distances[2])
    torch.testing.assert_close(terms["reconstruction"], wanted)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(made.mpfc.head(code, (0, 2)), y))
    assert same(made.decoder_loss(Batch(z, y, {}), step(1))["reconstruction"], terms["reconstruction"])
    assert len(activations(z, made.mpfc.encoder)) == 4


def test_a_day_leaves_mpfc_as_it_was_and_sleep_moves_it() -> None:
    made, state = learned(1, sleep_every=2), LoopState()
    state.cursor.task = 1
    before = copied(made.mpfc.state_dict())
    train_task(made, TaskInfo.of(1, 1, 2, "class"), data(1), state, 0)
    grown = {"head.parts.0.weight", "head.parts.0.bias"}
    assert set(differing(before, copied(made.mpfc.state_dict()))) == grown
    assert same(made.mpfc.head.parts[0].weight[:1], before["head.parts.0.weight"])
    train_task(made, TaskInfo.of(2, 2, 3, "class"), data(2), state, 0)
    assert "encoder.0.weight" in differing(before, copied(made.mpfc.state_dict()))


def test_vectors_are_centred_and_scaled_by_the_first_task_alone() -> None:
    made = learned(3)
    x = made.vectors(data(0).x)
    torch.testing.assert_close(x.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.square().mean(), torch.tensor(1.0))


def accuracy(made: Any, n: int) -> float:
    return sum(float((made.predict(data(i).x).argmax(1) == i).double().mean()) for i in range(n)) / n


@pytest.mark.parametrize("options", [{}, {"sleep_every": 2}])
def test_it_remembers_what_fine_tuning_forgets(
    options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accuracy(learned(4, **options), 4) > 0.85
    # Where it imagines what no class looks like, it does not.
    monkeypatch.setattr(Mpfc, "imagine", lambda mpfc, y, generator: torch.full((len(y), D), 50.0))
    assert accuracy(learned(4, **options), 4) < 0.6


def test_domain_incremental_streams_are_refused() -> None:
    spec = method("fearnet")
    with pytest.raises(ConfigError, match="scenario must be one of class, task"):
        spec.make(spec.config, Context(Mlp((4,)), (D,), 2, "domain", 0))
