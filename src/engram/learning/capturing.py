"""A step of the loop as a CUDA graph: the kernels of one update are recorded once, and launched together in every step.

The kernels are those of the step as it is; what is saved is the time in which the processor launches them one by one,
which is most of a step where tensors are small. A graph holds addresses and numbers, so a step can be recorded only
where nothing but the contents of tensors changes from step to step:

- the batch is copied to one place, and the learning rate is a tensor;
- ``epoch`` and ``step`` are a :class:`Number` each: what is computed from them reaches tensors through one place as
  well, and what is decided by them decides which graph a step belongs to;
- a step that asks the device for a value, or copies between devices, is refused before it is recorded;
- so is one that does other operations, or with other numbers, when it is taken twice;
- so is one that puts new tensors in the place of the method's state. Where that has happened between two epochs, the
  step is recorded anew.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from engram.errors import ConfigError, reason

if TYPE_CHECKING:
    from engram.core.contract import Batch, Method, Player, Step, Terms, Update
    from engram.learning.optimisers import Stepper

TakeStep = Callable[["Method", "Update", "Player", "Stepper", "Batch", "Step"], "Terms"]
T = TypeVar("T")

READS = frozenset(
    f"aten::{name}" for name in ("_local_scalar_dense", "equal", "masked_select", "nonzero", "_unique2")
)


class NotStatic(Exception):
    """A step that a graph cannot hold; the message says why."""


def _line() -> str:
    """Where engram's own code is at this moment."""
    frames = [f for f in traceback.extract_stack() if "engram" in f.filename and f.filename != __file__]
    return f"{frames[-1].filename.rsplit('engram', 1)[1][1:]}:{frames[-1].lineno}" if frames else "a step"


class Numbers:
    """What a graph depends on beside tensors: numbers that tensors meet, and decisions.

    Attributes:
        at: the present step.
        slots: for each number that meets a tensor, a tensor [] and what its value is in a step.
        decisions: for each condition, what it is in a step and how it was answered.
    """

    def __init__(self, at: Step, device: torch.device) -> None:
        self.at, self.device = at, device
        self.slots: list[tuple[Tensor, Callable[[Step], Any]]] = []
        self.decisions: list[tuple[Callable[[Step], Any], bool]] = []
        self.used = 0

    def again(self) -> None:
        """The same step once more: its numbers come in the same order."""
        self.used, self.decisions = 0, []

    def feed(self, at: Step) -> None:
        """The values of a step, for the graph to read."""
        for tensor, value in self.slots:
            tensor.fill_(value(at))

    def fit(self, at: Step) -> bool:
        """Whether a step decides as the recorded one."""
        return all(bool(value(at)) == answer for value, answer in self.decisions)

    def slot(self, value: Callable[[Step], Any]) -> Tensor:
        """The tensor through which a number reaches the graph."""
        if self.used == len(self.slots):
            now = value(self.at)
            kind = torch.float32 if isinstance(now, float) else torch.int64
            self.slots.append((torch.full((), now, dtype=kind, device=self.device), value))
        self.used += 1
        return self.slots[self.used - 1][0]


class Number:
    """A number that is another one in every step: code may compute with it, decide by it, and give it to tensors.

    Args:
        numbers: where its use is noted.
        value: what it is in a step.
    """

    def __init__(self, numbers: Numbers, value: Callable[[Step], Any]) -> None:
        self.numbers, self.value = numbers, value

    def __bool__(self) -> bool:
        answer = bool(self.value(self.numbers.at))
        self.numbers.decisions.append((self.value, answer))
        return answer

    def __neg__(self) -> Number:
        return Number(self.numbers, lambda at: -self.value(at))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def known(leaf: Any) -> Any:
            return leaf.numbers.slot(leaf.value) if isinstance(leaf, Number) else leaf

        return func(*tree_map(known, args), **tree_map(known, kwargs or {}))

    def _read(self, *_: object) -> NoReturn:
        raise NotStatic(f"{_line()} reads the number of the step")

    __int__ = __float__ = __index__ = __hash__ = __repr__ = __format__ = _read


def _between(op: Callable[[Any, Any], Any], *, turned: bool = False) -> Callable[[Number, Any], Any]:
    """An operator of numbers: with a tensor the tensor's, otherwise another number."""
    if turned:
        return lambda self, other: _between(lambda a, b: op(b, a))(self, other)

    def applied(self: Number, other: Any) -> Any:
        if isinstance(other, Tensor):
            return op(self.numbers.slot(self.value), other)
        right = other.value if isinstance(other, Number) else lambda at: other
        return Number(self.numbers, lambda at: op(self.value(at), right(at)))

    return applied


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Number, f"__{_name}__", _between(getattr(operator, _name)))
    setattr(Number, f"__r{_name}__", _between(getattr(operator, _name), turned=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Number, f"__{_name}__", _between(getattr(operator, _name)))


class Watched(TorchDispatchMode):
    """Notes operations with their numbers and shapes; raises :class:`NotStatic` where the device is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, leaves = func._schema.name, tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        picks = name.startswith("aten::index") and any(t.dtype == torch.bool for t in tensors[1:])
        if name in READS or picks:
            raise NotStatic(f"{_line()} waits for the device")
        found = func(*args, **(kwargs or {}))
        among = [*tensors, *(t for t in tree_leaves(found) if isinstance(t, Tensor))]
        if len({t.device for t in among}) > 1:
            raise NotStatic(f"{_line()} copies between devices")
        numbers = (leaf for leaf in leaves if not isinstance(leaf, (Tensor, torch.Generator)))
        self.noted.append((str(func), *(tuple(t.shape) for t in tensors), *numbers))
        return found


def record(steps: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    """What ``steps`` returns, and a function that does all of its kernels again, over the same addresses."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = steps()
    return found, graph.replay


class Captured:
    """The steps of one update that go one way, launched as a graph.

    Args:
        take_step: what is recorded; everything else is as it is given a step. Nothing has moved afterwards.

    Raises:
        NotStatic: a graph cannot hold such a step.
        ConfigError: it turned out while the graph was recorded.
    """

    def __init__(
        self,
        take_step: TakeStep,
        method: Method,
        update: Update,
        player: Player,
        optimiser: Stepper,
        batch: Batch,
        step: Step,
    ) -> None:
        noise = {name: v.clone() for name, v in batch.noise.items()}
        self.batch = replace(batch, x=batch.x.clone(), y=batch.y.clone(), noise=noise)
        self.numbers = numbers = Numbers(step, batch.x.device)
        at = replace(
            step,
            epoch=cast(int, Number(numbers, lambda at: at.epoch)),
            step=cast(int, Number(numbers, lambda at: at.step)),
        )
        before = State(method, optimiser)

        def taken() -> Terms:
            numbers.again()
            before.put_back()
            return take_step(method, update, player, optimiser, self.batch, at)

        taken()  # finds the numbers, and makes the optimiser's state
        self.held = addresses(method, optimiser)
        noted = []
        for _ in range(2):
            with Watched() as watched:
                taken()
            noted.append(watched.noted)
        for one, two in zip(*noted, strict=False):
            if one != two:
                raise NotStatic(f"{one[0]} has other numbers in every step")
        if len(noted[0]) != len(noted[1]):
            raise NotStatic("a step does other operations than the one before")
        moved = [k for k, v in addresses(method, optimiser).items() if self.held[k] != v]
        if moved:
            raise NotStatic(f"every step puts a new tensor in the place of {moved[0]}")
        before.put_back()
        numbers.again()

        def stacked() -> tuple[list[str], Tensor]:
            terms = take_step(method, update, player, optimiser, self.batch, at)
            return list(terms), torch.stack([v.float() for v in terms.values()])

        try:
            (self.names, self.terms), self.replay = record(stacked)
        except Exception as error:
            # PyTorch's stream, memory and generator stay in the middle of the recording.
            raise ConfigError(
                f"steps must do nothing that a CUDA graph cannot hold, those of update {update.name} do "
                f"({reason(error)}), and PyTorch cannot go on after that: give --compile eager."
            ) from error
        before.put_back()

    def stands(self, method: Method, optimiser: Stepper) -> bool:
        """Whether all tensors are still where they were."""
        now = addresses(method, optimiser)
        return all(now.get(key) == value for key, value in self.held.items())

    @torch.no_grad()
    def __call__(
        self,
        method: Method,
        update: Update,
        player: Player,
        optimiser: Stepper,
        batch: Batch,
        step: Step,
    ) -> Terms:
        """As ``take_step``, for a step that fits."""
        self.batch.x.copy_(batch.x)
        self.batch.y.copy_(batch.y)
        for name, noise in self.batch.noise.items():
            noise.copy_(batch.noise[name])
        self.numbers.feed(step)
        self.replay()
        # A copy: the loop adds terms up, and the next step writes here again.
        return dict(zip(self.names, self.terms.clone().unbind(), strict=True))


def tensors_of(method: Method, optimiser: Stepper) -> dict[str, Tensor]:
    """All that a step may move, by name."""
    state = {f"{name} {key}": v for name, held in optimiser.state.items() for key, v in held.items()}
    return {**method.state_dict(), **state}


def addresses(method: Method, optimiser: Stepper) -> dict[str, tuple[int, ...]]:
    """Where all that a step may move lies, and its shape, by name."""
    return {k: (v.data_ptr(), *v.shape) for k, v in tensors_of(method, optimiser).items()}


class State:
    """All that a step may move, as it is now, to be put back after a trial.

    Attributes:
        tensors: copies, by name.
    """

    def __init__(self, method: Method, optimiser: Stepper) -> None:
        self.method, self.optimiser = method, optimiser
        self.tensors = {k: v.detach().clone() for k, v in tensors_of(method, optimiser).items()}
        self.random = torch.get_rng_state()
        device = optimiser.rate.device
        self.random_there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def put_back(self) -> None:
        """Everything as it was; an optimiser's state that was not there yet is as it begins."""
        self.method.forget_cached()
        self.optimiser.laid_out = False
        for key, value in tensors_of(self.method, self.optimiser).items():
            if key in self.tensors:
                value.copy_(self.tensors[key])
            else:
                value.fill_(float(key.endswith(" mu_product")))
        torch.set_rng_state(self.random)
        if self.random_there is not None:
            torch.cuda.set_rng_state(self.random_there, self.optimiser.rate.device)
