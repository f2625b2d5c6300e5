"""A method whose trunk is one parameter of any shape, and a way to feed it gradients by hand: theory as
tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engram.core.contract import Context, Method, Samples, Step, TaskInfo
from engram.core.network import Network, Norm
from engram.core.samples import Shape
from engram.learning.optimisers import Stepper
from engram.methods.registry import method

THETA = "net.trunk.theta"
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

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
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

    @property
    def task_info(self) -> TaskInfo:
        """The task being learned, or the next one; all have the same two classes."""
        return TaskInfo(self.index, 0, 2, 2, (0, 2))

    def begin(self) -> None:
        self.method.begin_task(self.task_info, NOTHING)
        self.method.double()
        self.optimiser = Stepper.of(self.method.players(self.task_info, "fit")["net"])

    def run(self, gradient: Callable[[Tensor], Tensor], n_steps: int) -> list[Tensor]:
        """Steps with gradient(theta); the path of theta, its start included."""
        path = [self.theta.clone()]
        for i in range(n_steps):
            step = Step(self.task_info, "fit", 0, 1, i, n_steps)
            grads = {THETA: gradient(self.theta).clone()}
            self.method.after_backward("net", grads, step)
            self.optimiser.step(grads)
            self.method.after_step("net", step)
            path.append(self.theta.clone())
        return path

    def end(self) -> None:
        self.method.end_task(self.task_info, NOTHING)
        self.index += 1

    def task(self, gradient: Callable[[Tensor], Tensor], n_steps: int) -> list[Tensor]:
        self.begin()
        path = self.run(gradient, n_steps)
        self.end()
        return path
