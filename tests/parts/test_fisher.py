"""Fisher information and output sensitivity: closed forms, a double loop, both paths, and that nothing is
disturbed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engram import seeds
from engram.errors import ConfigError
from engram.networks import Dcgan8, Mlp
from engram.parts.fisher import Paths, diagonal_fisher, output_sensitivity
from engram.parts.measuring import measuring

RULES = ("sampled", "exact", "empirical", "predicted")


def named(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


def logistic(n: int = 23, width: int = 4, classes: int = 3) -> tuple[nn.Linear, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    layer = nn.Linear(width, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, width, generator=g))
        layer.bias.copy_(torch.randn(classes, generator=g))
    x = torch.randn(n, width, generator=g, dtype=torch.float64)
    return layer, x, torch.randint(0, classes, (n,), generator=g)


def double_loop(layer: nn.Linear, x: Tensor, labels: str, y: Tensor) -> Tensor:
    """Sample by sample and label by label, with the labels that the named generator draws."""
    u = torch.rand(len(x), 1, generator=seeds.generator(0, "test"), dtype=torch.float64)
    total = torch.zeros_like(layer.weight)
    for n in range(len(x)):
        p = (x[n] @ layer.weight.T + layer.bias).softmax(0)
        weights = {
            "exact": p,
            "empirical": torch.eye(3, dtype=torch.float64)[y[n]],
            "predicted": torch.eye(3, dtype=torch.float64)[p.argmax()],
            "sampled": torch.eye(3, dtype=torch.float64)[int((p.cumsum(0) < u[n]).sum())],
        }[labels]
        for label in range(3):
            for c in range(3):
                g = (float(c == label) - p[c]) * x[n]
                total[c] += weights[label] * g**2
    return (total / len(x)).detach()


@pytest.mark.parametrize("labels", RULES)
def test_logistic_regression_against_a_double_loop_at_two_batch_sizes(labels: Any) -> None:
    layer, x, y = logistic()
    expected = double_loop(layer, x, labels, y)
    for chunk in (1, 5, 500):
        for paths in (None, Paths(vectorised=True), Paths()):
            found = diagonal_fisher(
                layer,
                named(layer),
                x,
                labels=labels,
                y=y,
                generator=seeds.generator(0, "test"),
                chunk=chunk,
                paths=paths,
            )
            torch.testing.assert_close(found["weight"], expected, rtol=1e-12, atol=1e-15)


def test_closed_form_of_the_true_and_the_empirical_fisher() -> None:
    layer, x, y = logistic()
    p = layer(x).softmax(1).detach()
    true = diagonal_fisher(layer, named(layer), x, labels="exact")
    torch.testing.assert_close(true["weight"], (p * (1 - p)).T @ x**2 / len(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(true["bias"], (p * (1 - p)).mean(0), rtol=1e-12, atol=0)
    off = (p - torch.eye(3, dtype=torch.float64)[y]) ** 2
    found = diagonal_fisher(layer, named(layer), x, labels="empirical", y=y)
    torch.testing.assert_close(found["weight"], off.T @ x**2 / len(x), rtol=1e-12, atol=0)


def test_one_sampled_label_is_unbiased_for_the_exact_expectation() -> None:
    layer, x, _ = logistic(n=3)
    true = diagonal_fisher(layer, named(layer), x, labels="exact")["weight"]
    many = diagonal_fisher(layer, named(layer), x.repeat(20000, 1), generator=seeds.generator(1, "draws"))[
        "weight"
    ]
    torch.testing.assert_close(many, true, rtol=0.04, atol=1e-4)


def test_the_empirical_fisher_has_the_true_one_as_its_mean_over_the_models_own_labels() -> None:
    layer, x, _ = logistic(n=1)
    p = layer(x).softmax(1)[0].detach()
    mean = sum(
        p[c] * diagonal_fisher(layer, named(layer), x, labels="empirical", y=torch.tensor([c]))["weight"]
        for c in range(3)
    )
    torch.testing.assert_close(mean, diagonal_fisher(layer, named(layer), x, labels="exact")["weight"])


def test_the_square_of_a_batch_gradient_is_something_else() -> None:
    """What several libraries compute; here it would differ by a factor of about the batch size."""
    layer, x, y = logistic(n=200)
    loss = nn.functional.cross_entropy(layer(x), y)
    (g,) = torch.autograd.grad(loss, [layer.weight])
    true = diagonal_fisher(layer, named(layer), x, labels="empirical", y=y)["weight"]
    assert float(g.square().sum() / true.sum()) < 0.3


# Both paths -------------------------------------------------------------------------------------------------
class Scale(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, n))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Twice(nn.Module):
    """One layer used two times in a pass, and one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.out, self.spare = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.shared(self.shared(x.flatten(1)).tanh()))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, (2, 3), padding=1, dilation=(1, 2), bias=False),
        nn.BatchNorm2d(5),
        nn.LeakyReLU(0.2),
        nn.GroupNorm(1, 5),
        nn.Conv2d(5, 4, 1),
        nn.Flatten(),
        nn.LazyLinear(7),
        Scale(7),
        nn.Dropout(0.5),
        nn.Linear(7, 3),
    )


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)), (8,)),
    "positions": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)), (4, 3)),
    "convolutional": (convolutional, (2, 6, 7)),
    "twice": (Twice, (6,)),
    "mlp": (lambda: nn.Sequential(Mlp((9, 4)).trunk((1, 8, 8)), nn.Linear(4, 3)), (1, 8, 8)),
    "dcgan8": (lambda: nn.Sequential(Dcgan8(n_d=3).trunk((1, 8, 8)), nn.Linear(24, 3)), (1, 8, 8)),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("what", ["exact", "sampled", "mas"])
def test_factorised_equals_torch_func_and_a_loop_over_samples(name: str, what: Any) -> None:
    make, shape = NETWORKS[name]
    with seeds.seeded(3, name):
        module = make()
        module(torch.randn(4, *shape))
        module.double()
        x = torch.randn(9, *shape, dtype=torch.float64)

    def both(**more: Any) -> dict[str, Tensor]:
        if what == "mas":
            return output_sensitivity(module, named(module), x, **more)
        return diagonal_fisher(
            module, named(module), x, labels=what, generator=seeds.generator(0, "l"), **more
        )

    direct = both(chunk=4)
    for other in (both(paths=Paths(vectorised=True), chunk=9), both(chunk=1), both()):
        for key in direct:
            torch.testing.assert_close(direct[key], other[key], rtol=1e-9, atol=1e-14)
    if what != "sampled":
        loop = one_by_one(module, x, what)
        for key in direct:
            torch.testing.assert_close(direct[key], loop[key], rtol=1e-9, atol=1e-14)
    assert name != "twice" or not bool(direct["spare.weight"].any())


def one_by_one(module: nn.Module, x: Tensor, what: str) -> dict[str, Tensor]:
    parameters = named(module)
    total = {k: torch.zeros_like(p) for k, p in parameters.items()}
    with measuring(module):
        for one in x:
            logits = module(one[None])[0]
            p = logits.softmax(0).detach()
            scores = [logits.square().sum()] if what == "mas" else list(logits.log_softmax(0))
            for i, s in enumerate(scores):
                grads = torch.autograd.grad(
                    s, list(parameters.values()), retain_graph=True, allow_unused=True
                )
                for key, g in zip(parameters, grads, strict=True):
                    if g is not None:
                        total[key] += g.abs() if what == "mas" else p[i] * g.square()
    return {k: (t / len(x)).detach() for k, t in total.items()}


# MAS --------------------------------------------------------------------------------------------------------
def test_output_sensitivity_of_a_linear_map() -> None:
    layer, x, _ = logistic()
    with torch.no_grad():
        layer.bias.zero_()
    f = layer(x).detach()
    found = output_sensitivity(layer, named(layer), x, chunk=7)
    torch.testing.assert_close(found["weight"], (2 * f.abs()).T @ x.abs() / len(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["bias"], (2 * f.abs()).mean(0), rtol=1e-12, atol=0)


def test_output_sensitivity_scales_with_the_square_of_the_output() -> None:
    g = torch.Generator().manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(11, 5, generator=g, dtype=torch.float64)
    before = output_sensitivity(module, named(module), x)
    with torch.no_grad():
        module[2].weight.mul_(3.0)
        module[2].bias.mul_(3.0)
    after = output_sensitivity(module, named(module), x)
    torch.testing.assert_close(after["0.weight"], 9.0 * before["0.weight"])
    # The scaled layer's own weights: f is 9 times as sensitive to a unit that is 3 times as large, per unit 3
    # times.
    torch.testing.assert_close(after["2.weight"], 3.0 * before["2.weight"])


# Nothing is disturbed ---------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_modes_statistics_gradients_and_generators_are_as_before() -> None:
    module = convolutional()
    x = torch.randn(6, 2, 6, 7)
    module(x)
    module.train()
    module[3].eval()
    module[0].weight.requires_grad_(False)
    module[2].weight.grad = torch.ones_like(module[2].weight)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    rng = torch.get_rng_state()
    with torch.no_grad():
        first = diagonal_fisher(module, named(module), x, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert modes == [m.training for m in module.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    assert not module[0].weight.requires_grad
    assert module[0].weight.grad is None
    assert torch.equal(module[2].weight.grad, torch.ones_like(module[2].weight))
    assert bool((first["0.weight"] > 0).any())
    assert not any(t.requires_grad for t in first.values())
    again = diagonal_fisher(module, named(module), x, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_modes_come_back_after_a_failure() -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        diagonal_fisher(module, named(module), torch.zeros(2, 5))
    assert module.training
    assert module[0].weight.requires_grad


def test_bad_input_gives_one_line() -> None:
    layer, x, y = logistic()
    for call, words in (
        (lambda: diagonal_fisher(layer, named(layer), x[:0]), "at least one sample"),
        (lambda: output_sensitivity(layer, named(layer), x[:0]), "at least one sample"),
        (
            lambda: diagonal_fisher(layer, named(layer), x, labels="argmax"),
            "sampled, exact, empirical, predicted",
        ),  # type: ignore[arg-type]
        (lambda: diagonal_fisher(layer, named(layer), x, labels="empirical"), "none"),
        (lambda: diagonal_fisher(layer, named(layer), x, labels="empirical", y=y[:2]), "got 2"),
    ):
        with pytest.raises(ConfigError, match=rf"^[^\n]*{words}[^\n]*$"):
            call()
