"""Fisher information and output sensitivity: closed forms, a double loop on any network, the proof of each path, and
that nothing is disturbed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from engram import seeds
from engram.core.contract import Context, Samples, TaskInfo
from engram.core.network import Network, Norm
from engram.errors import ConfigError
from engram.methods.imm import LEAST_FISHER
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp
from engram.parts.fisher import Paths, diagonal_fisher, output_sensitivity, prove
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


# Any network ------------------------------------------------------------------------------------------------
class Net(nn.Module):
    """Layers, and a function of them and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Scale(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, n))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Pixels(nn.Module):
    """Attention over positions."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.out(made.mean(1))


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


def stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


def tied() -> nn.Module:
    net = Net(
        lambda m, x: m.out(m.back(m.there(x).tanh()).tanh()), there=nn.Linear(6, 6), back=nn.Linear(6, 6)
    )
    net.out, net.back.weight = nn.Linear(6, 3), net.there.weight
    return net


def reused(share: float) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.out((m.a(x) + share * F.linear(x, m.a.weight.t())).tanh())

    return Net(forward, a=nn.Linear(6, 6), out=nn.Linear(6, 3))


def folded(layer: nn.Module, *shape: int) -> nn.Module:
    """``layer`` sees parts of an image as samples."""
    return Net(
        lambda m, x: m.out(m.layer(x.reshape(-1, *shape)).tanh().reshape(len(x), -1)),
        layer=layer,
        out=nn.LazyLinear(3),
    )


def time_first(m: Any, x: Tensor) -> Tensor:
    return m.out(m.layer(x.transpose(0, 1)).tanh().mean(0))


def in_pieces(m: Any, x: Tensor) -> Tensor:
    return torch.cat([m.layer(part) for part in x.split(4)])


def patches(m: Any, x: Tensor) -> Tensor:
    parts = F.unfold(x, 4, stride=4).transpose(1, 2)  # [B, 4, 16]
    return m.out(m.layer(parts.reshape(-1, 16)).relu().reshape(len(x), 4, -1).mean(1))


FACTORISED, VECTORISED, ONE_BY_ONE = "factorised", "vectorised", "one by one"
#: Network, shape of an image, and the path that at least one of its parameters must take.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda: stack(nn.Linear(8, 5)), (8,), FACTORISED),
    "positions": (lambda: stack(nn.Linear(3, 5)), (4, 3), FACTORISED),
    "convolutional": (convolutional, (2, 6, 7), VECTORISED),
    "mlp": (lambda: stack(Mlp((9, 4)).trunk((1, 8, 8))), (1, 8, 8), FACTORISED),
    "dcgan8": (lambda: stack(Dcgan8(n_d=3).trunk((1, 8, 8))), (1, 8, 8), FACTORISED),
    "by keyword": (lambda: stack(Net(lambda m, x: m.a(input=x), a=nn.Linear(6, 4))), (6,), FACTORISED),
    "folded linear": (lambda: folded(nn.Linear(4, 5), 4), (3, 4), VECTORISED),
    "folded convolution": (lambda: folded(nn.Conv2d(1, 2, 3), 1, 5, 5), (3, 5, 5), VECTORISED),
    "folded norm": (lambda: folded(nn.BatchNorm1d(4), 4), (3, 4), VECTORISED),
    "patches": (lambda: Net(patches, layer=nn.Linear(16, 5), out=nn.Linear(5, 3)), (1, 8, 8), VECTORISED),
    "time first": (lambda: Net(time_first, layer=nn.Linear(4, 5), out=nn.Linear(5, 3)), (5, 4), VECTORISED),
    "used twice": (
        lambda: Net(
            lambda m, x: m.out(m.a(m.a(x).tanh())),
            a=nn.Linear(6, 6),
            out=nn.Linear(6, 3),
            spare=nn.Linear(6, 3),
        ),
        (6,),
        VECTORISED,
    ),
    "in pieces": (lambda: Net(in_pieces, layer=nn.Linear(6, 3)), (6,), FACTORISED),
    "tied": (tied, (6,), VECTORISED),
    "reused": (lambda: reused(1.0), (6,), VECTORISED),
    "reused a little": (lambda: reused(1e-6), (6,), VECTORISED),
    "old weight norm": (
        lambda: stack(old_weight_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 4)),
        (6,),
        VECTORISED,
    ),
    "weight norm": (lambda: stack(weight_norm(nn.Conv2d(1, 3, 3))), (1, 5, 5), VECTORISED),
    "spectral norm": (lambda: stack(spectral_norm(nn.Linear(6, 4))), (6,), VECTORISED),
    "gru": (
        lambda: Net(
            lambda m, x: m.out(m.r(x)[0][:, -1]), r=nn.GRU(3, 4, batch_first=True), out=nn.Linear(4, 3)
        ),
        (4, 3),
        ONE_BY_ONE,
    ),
    "lstm": (
        lambda: Net(
            lambda m, x: m.out(m.r(x)[0][:, -1]), r=nn.LSTM(3, 4, batch_first=True), out=nn.Linear(4, 3)
        ),
        (4, 3),
        ONE_BY_ONE,
    ),
    "rnn": (
        lambda: Net(lambda m, x: m.out(m.r(x.transpose(0, 1))[1][0]), r=nn.RNN(3, 4), out=nn.Linear(4, 3)),
        (4, 3),
        ONE_BY_ONE,
    ),
    "attention": (lambda: Pixels(nn.MultiheadAttention(4, 2, batch_first=True)), (5, 4), VECTORISED),
    "transformer": (
        lambda: Pixels(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)),
        (5, 4),
        VECTORISED,
    ),
    "grouped convolution": (lambda: stack(nn.Conv2d(4, 6, 3, groups=2)), (4, 5, 5), VECTORISED),
    "dilated convolution": (lambda: stack(nn.Conv2d(2, 3, 3, dilation=2, padding=2)), (2, 5, 5), FACTORISED),
    "same padding": (lambda: stack(nn.Conv2d(2, 3, 3, padding="same")), (2, 5, 5), VECTORISED),
    "reflected": (
        lambda: stack(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")),
        (2, 5, 5),
        VECTORISED,
    ),
    "1-d convolution": (lambda: stack(nn.Conv1d(2, 3, 3)), (2, 7), VECTORISED),
    "transposed convolution": (lambda: stack(nn.ConvTranspose2d(2, 3, 3, stride=2)), (2, 3, 3), VECTORISED),
    "batch norm 1d": (lambda: stack(nn.Linear(4, 5), nn.BatchNorm1d(5)), (4,), FACTORISED),
    "batch norm 2d": (lambda: stack(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)), (2, 5, 5), FACTORISED),
    "batch norm 3d": (lambda: stack(nn.BatchNorm3d(2)), (2, 3, 3, 3), VECTORISED),
    "batch norm alone": (
        lambda: stack(nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 3, 3)),
        (2, 5, 5),
        FACTORISED,
    ),
    "layer norm": (lambda: stack(nn.LayerNorm((2, 5))), (2, 5), VECTORISED),
    "group norm": (lambda: stack(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), (2, 5, 5), FACTORISED),
    "instance norm": (
        lambda: stack(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)),
        (2, 5, 5),
        VECTORISED,
    ),
    "tracked instance norm": (
        lambda: stack(nn.InstanceNorm2d(2, affine=True, track_running_stats=True)),
        (2, 5, 5),
        VECTORISED,
    ),
}


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of NETWORKS with its images [9, ...] and labels [9], in float64, with statistics."""
    make, shape, _ = NETWORKS[name]
    with seeds.seeded(3, name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy layers, and the old weight norm, are announced
        module = make()
        module(torch.randn(4, *shape))
        module.double()
        module(torch.randn(4, *shape).double())
        return module, torch.randn(9, *shape).double(), torch.randint(0, 3, (9,))


@pytest.mark.parametrize("name", NETWORKS)
def test_importances_are_those_of_a_double_loop(name: str) -> None:
    module, x, y = built(name)
    for what in ("exact", "sampled", "empirical", "mas"):
        expected = double_loop_of(module, x, y, what)
        found = importance(module, x, y, what, chunk=4)
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_takes_the_fastest_path_that_is_right(name: str) -> None:
    module, x, _ = built(name)
    paths = prove(module, x)
    owned = {n for layer in paths.layers for n, _ in module.get_submodule(layer).named_parameters(layer)}
    left = VECTORISED if paths.vectorised else ONE_BY_ONE
    taken = FACTORISED if owned == set(named(module)) else left
    assert taken == NETWORKS[name][2]


def importance(module: nn.Module, x: Tensor, y: Tensor, what: Any, **more: Any) -> dict[str, Tensor]:
    if what == "mas":
        return output_sensitivity(module, named(module), x, **more)
    return diagonal_fisher(
        module, named(module), x, labels=what, y=y, generator=seeds.generator(0, "l"), **more
    )


def double_loop_of(
    module: nn.Module, x: Tensor, y: Tensor, what: str, u: Tensor | None = None
) -> dict[str, Tensor]:
    """Sample by sample and label by label, by autograd."""
    parameters = named(module)
    u = torch.rand(len(x), 1, generator=seeds.generator(0, "l"), dtype=torch.float64) if u is None else u
    total = {k: torch.zeros_like(p, requires_grad=False) for k, p in parameters.items()}
    with measuring(module):
        for n in range(len(x)):
            logits = module(x[n : n + 1])[0]
            p = logits.softmax(0).detach()
            one = torch.eye(len(p), dtype=p.dtype)
            scores = logits.square().sum()[None] if what == "mas" else logits.log_softmax(0)
            weights = {
                "mas": [1.0],
                "exact": p,
                "empirical": one[y[n]],
                "sampled": one[int((p.cumsum(0) < u[n]).sum())],
            }[what]
            for s, weight in zip(scores, weights, strict=True):
                grads = torch.autograd.grad(
                    s, list(parameters.values()), retain_graph=True, allow_unused=True
                )
                for key, g in zip(parameters, grads, strict=True):
                    if g is not None:
                        total[key] += weight * (g.abs() if what == "mas" else g.square())
    return {k: t / len(x) for k, t in total.items()}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("folded linear", "layer"),
        ("patches", "layer"),
        ("time first", "layer"),
        ("reused", "a"),
        ("tied", "there"),
        ("old weight norm", "0"),
    ],
)
def test_without_its_proof_the_factorised_path_is_wrong(name: str, layer: str) -> None:
    module, x, y = built(name)
    layers = (layer, *prove(module, x).layers)
    right = importance(module, x, y, "empirical")
    wrong = importance(module, x, y, "empirical", paths=Paths(layers, True))
    assert any(not torch.allclose(right[n], wrong[n], rtol=0.01) for n in right)


def test_a_head_that_starts_at_zero_proves_nothing() -> None:
    module, x, _ = built("folded linear")
    with torch.no_grad():
        module.out.weight.zero_()
        module.layer.bias.fill_(-1e3)
    assert prove(module, x).layers == ("out",)


def test_every_path_gives_the_same() -> None:
    module, x, y = built("convolutional")
    direct = importance(module, x, y, "exact", chunk=4)
    for paths in (Paths(vectorised=True), Paths()):
        for key, value in importance(module, x, y, "exact", paths=paths).items():
            torch.testing.assert_close(direct[key], value, rtol=1e-9, atol=1e-14)


class Insists(nn.Module):
    """Computes in float32 whatever it is given, keeps its last features, and holds a lock, which nothing can copy."""

    def __init__(self, copyable: bool) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.lock = None if copyable else threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.a(x.reshape(-1, 4).float()).tanh()
        return self.out(self.last.reshape(len(x), -1, 5).sum(1))


@pytest.mark.parametrize("copyable", [True, False])
def test_a_network_that_cannot_be_proved_takes_the_definition(copyable: bool) -> None:
    with seeds.seeded(0, "insists"):
        module, x, y = Insists(copyable), torch.randn(7, 3, 4), torch.zeros(7, dtype=torch.int64)
    assert prove(module, x).layers == ()
    expected = double_loop_of(module, x, y, "exact")
    for key, value in importance(module, x, y, "exact").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-7)


class Trains(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> Trains:
        return super().train(True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            r"1 \(BatchNorm1d\)",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 3), Trains(3)), r"1 \(Trains\)"),
        (lambda: Net(lambda m, x: m.a(x - x.mean(0)), a=nn.Linear(4, 3)), "Net"),
        (lambda: Net(lambda m, x: m.a(F.batch_norm(x, None, None, training=True)), a=nn.Linear(4, 3)), "Net"),
        (lambda: Net(lambda m, x: m.a(F.dropout(x)), a=nn.Linear(4, 3)), "Net"),
        (lambda: Net(lambda m, x: m.a(x - x.mean(0) if len(x) > 9 else x), a=nn.Linear(4, 3)), "Net"),
    ],
)
def test_what_depends_on_the_batch_is_refused_by_name(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^[^\n]*those of {words} do: [^\n]*$"):
        prove(make(), torch.zeros(1, 4))


# Methods ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Own(Network):
    name: ClassVar[str] = "own"
    kind: str = "gru"

    def trunk(self, image_shape: tuple[int, int, int], *, norm: Norm = "batch") -> nn.Module:
        trunk = {
            "gru": lambda: Net(lambda m, x: m.r(x[:, 0])[0][:, -1], r=nn.GRU(8, 4, batch_first=True)),
            "folded": lambda: Net(
                lambda m, x: m.a(x.reshape(-1, 8)).tanh().reshape(len(x), 8, 4).sum(1), a=nn.Linear(8, 4)
            ),
            "batch": lambda: nn.Sequential(
                nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4, track_running_stats=False)
            ),
        }[self.kind]()
        trunk.n_features = 4
        return trunk


def method_of(name: str, network: Network, **options: Any) -> Any:
    spec = method(name, options)
    return spec.make(spec.config, Context(network, (1, 8, 8), 3, "domain", 0))


@pytest.mark.parametrize("name", ["ewc", "ewc-online", "mas", "imm-mode"])
def test_methods_refuse_before_training(name: str) -> None:
    with pytest.raises(ConfigError, match=r"2 \(BatchNorm1d\) do"):
        method_of(name, Own("batch"))


@pytest.mark.parametrize("name", ["si", "imm-mean"])
def test_methods_without_importances_refuse_nothing(name: str) -> None:
    method_of(name, Own("batch"))


@pytest.mark.parametrize("kind", ["gru", "folded"])
@pytest.mark.parametrize(
    ("name", "what", "table"),
    [
        ("ewc", "exact", "fishers.0"),
        ("ewc-online", "exact", "fisher"),
        ("mas", "mas", "importance"),
        ("imm-mode", "sampled", "precision"),
    ],
)
def test_methods_hold_the_importances_of_a_double_loop(kind: str, name: str, what: str, table: str) -> None:
    made = method_of(name, Own(kind), **({"fisher_labels": what} if what == "exact" else {}))
    g, task = torch.Generator().manual_seed(0), TaskInfo(0, 0, 3, 3, (0, 3))
    data = Samples(torch.rand(6, 1, 8, 8, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2]))
    made.begin_task(task, data)
    made.double()
    made.end_task(task, data)
    whole = Net(lambda m, x: m.net(x, task.active), net=made.net)
    u = torch.rand(6, 1, generator=seeds.generator(0, "fisher", 0), dtype=torch.float64)
    for key, value in double_loop_of(whole, data.x, data.y, what, u).items():
        floor = LEAST_FISHER if name == "imm-mode" else 0.0
        torch.testing.assert_close(made.get_submodule(table)[key] - floor, value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["ewc", "mas", "imm-mode"])
def test_the_proof_leaves_weights_and_generators_alone(name: str) -> None:
    torch.manual_seed(5)
    rng = torch.get_rng_state()
    made, plain = method_of(name, Own("gru")), method_of("finetune", Own("gru"))
    assert torch.equal(rng, torch.get_rng_state())
    held = plain.net.state_dict()
    assert all(torch.equal(v, held[k]) for k, v in made.net.state_dict().items())


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


def test_tensors_kept_as_attributes_are_those_of_before() -> None:
    module, x, y = built("old weight norm")
    weight = module[0].weight  # computed from two parameters in each pass
    importance(module, x, y, "exact")
    assert module[0].weight is weight


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
