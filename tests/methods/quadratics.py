"""A method whose trunk is one parameter of any shape, and a way to feed it gradients by hand: theory as
tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engram.core.contract import Context, Method, Samples, Step, Task
from engram.core.network import Network, Norm
from engram.learning.loop import make_optimiser
from engram.methods.registry import method

THETA = "net.trunk.theta"
TASK = Task(0, 0, 2, 2, (0, 2))
NOTHING = Samples(torch.zeros((0, 1, 1, 1), dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))


class Vector(nn.Module):
    n_features = 1

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1] * self.theta.sum()


@dataclass(frozen=True)
class VectorNetwork(Network):
    name: ClassVar[str] = "vector"
    shape: tuple[int, ...] = (1,)

    def trunk(self, image_shape: tuple[int, int, int], *, norm: Norm = "batch") -> nn.Module:
        return Vector(self.shape)


class Bare:
    """A registered method over one parameter ``theta``, in float64, and steps with gradients given by
    hand."""

    def __init__(self, name: str, start: Tensor, **options: Any) -> None:
        options = {"optimiser": "sgd", "lr": 0.1, **options}
        spec = method(name, options)
        context = Context(VectorNetwork(tuple(start.shape)), (1, 1, 1), 2, "domain", 0)
        self.method: Method = spec.make(spec.config, context).double()
        self.index = 0
        with torch.no_grad():
            self.theta.copy_(start)

    @property
    def theta(self) -> Tensor:
        """The parameter's values, not its graph; written to, they are the parameter's."""
        return self.method.get_parameter(THETA).detach()

    def begin(self) -> None:
        self.method.begin_task(TASK, NOTHING)
        self.method.double()
        self.method.phases(TASK, 1)
        self.optimiser = make_optimiser(self.method.players("fit")["net"])

    def run(self, gradient: Callable[[Tensor], Tensor], n_steps: int) -> list[Tensor]:
        """Steps with gradient(theta); the path of theta, its start included."""
        path = [self.theta.clone()]
        for i in range(n_steps):
            step = Step(self.index, "fit", 0, 1, i, n_steps)
            grads = {THETA: gradient(self.theta).clone()}
            self.method.after_backward("net", grads, step)
            self.method.get_parameter(THETA).grad = grads[THETA]
            self.optimiser.step()
            self.method.after_step("net", step)
            path.append(self.theta.clone())
        return path

    def end(self) -> None:
        self.method.end_task(TASK, NOTHING)
        self.index += 1

    def task(self, gradient: Callable[[Tensor], Tensor], n_steps: int) -> list[Tensor]:
        self.begin()
        path = self.run(gradient, n_steps)
        self.end()
        return path
