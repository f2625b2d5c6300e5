"""What a method may read and keep: no test sample, no past data, no copies outside of a memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engram import seeds
from engram.checks.bench import Bench, Event, Look, check, look
from engram.checks.comparing import differing, same, shown
from engram.checks.failure import CheckFailure, require
from engram.core.contract import n_bytes
from engram.parts.memory import SampleMemory
from engram.protocols.session import Session
from engram.streams import Stream


@check
def test_samples_do_not_matter(bench: Bench) -> None:
    """Other test images, and so other calls of predict, leave the learned weights the same bit for bit."""
    noise = seeds.generator(6, "other test images")
    pools = [
        dataclasses.replace(
            p, test_x=torch.randint(0, 256, p.test_x.shape, dtype=torch.uint8, generator=noise)
        )
        for p in bench.stream.pools
    ]
    facts = {f.name: getattr(bench.stream, f.name) for f in dataclasses.fields(bench.stream)}
    changed = Stream(**{k: v for k, v in facts.items() if not k.startswith("_")} | {"pools": pools})
    other = dataclasses.replace(bench, stream=changed).train()
    names = differing(bench.reference.state, other.state)
    require(
        not names,
        "what is learned does not depend on test samples",
        f"{len(names)} state tensors differ ({shown(names)})",
        "keep nothing in predict",
    )


@look
def data_are_not_modified(seen: Look) -> None:
    """The samples handed to a method are as they were when it has learned them."""

    def after_task(index: int) -> None:
        found, fresh = seen.session.stream.train(index), seen.bench.stream.to("cpu").train(index)
        require(
            same(found.x, fresh.x) and same(found.y, fresh.y),
            "training samples are left as they are",
            f"those of task {index} were written to",
            "copy before you write",
        )

    before = [p.train_x.clone() for p in seen.bench.stream.pools]

    def after_run() -> None:
        require(
            all(same(p.train_x, x) for p, x in zip(seen.bench.stream.pools, before, strict=True)),
            "the data set is left as it is",
            "it was written to",
            "copy before you write",
        )

    seen.each_task(after_task)
    seen.end(after_run)


@check
def past_data_are_not_read_unless_declared(bench: Bench) -> None:
    """Overwriting a task's samples once it is learned changes nothing, unless all are declared."""

    def poison(session: Session, index: int) -> None:
        for i in range(index + 1):
            session.stream.overwrite_train(i, seeds.generator(5, "poison", i))

    reads = bench.build().reads
    poisoned = None
    # Random samples may well make a method that reads them fail.
    with contextlib.suppress(RuntimeError, ValueError, IndexError):
        poisoned = bench.train(bench.session(on_task=poison))
    if reads == "all":
        require(
            poisoned is None
            or bool(differing(bench.reference.state, poisoned.state))
            or bench.stream.n_tasks == 1,
            'a method that declares reads = "all" depends on past data',
            "overwriting them changed nothing",
            'declare reads = "task"',
        )
        return
    must = f"a method that declares reads = {reads!r} does not depend on the stream's past samples"
    advice = 'keep copies in a SampleMemory and declare reads = "memory", or declare "all"'
    if poisoned is None:
        raise CheckFailure(f"{must}; found: it failed with them overwritten; {advice}.")
    bench.compare(poisoned, must, advice)


@look
def real_samples_are_in_memories_only(seen: Look) -> None:
    """No state tensor holds a training image, in any of its forms, outside of a SampleMemory."""

    def after_task(index: int) -> None:
        images = torch.cat([seen.bench.stream.train(i).x for i in range(index + 1)]).flatten(1)
        images = images[images.float().std(1) > 0]
        memories = [m for m in seen.method.modules() if isinstance(m, SampleMemory)]
        stored = {id(t) for m in memories for t in m.buffers()}
        tensors = dict(seen.method.state_dict(keep_vars=True))
        for name, module in seen.method.named_modules():
            for key, value in vars(module).items():
                for i, tensor in enumerate(_tensors(value)):
                    if not key.startswith("_"):
                        tensors[f"{name}.{key}[{i}]".lstrip(".")] = tensor
        forms = {
            "bytes": images.double(),
            "pixels in [0, 1]": images.double() / 255.0,
            "the network's range": seen.bench.network.normalise(images).double(),
        }
        for name, tensor in tensors.items():
            if id(tensor) in stored:
                continue
            for form, rows in forms.items():
                require(
                    not _contains(tensor.detach().cpu(), rows),
                    "real samples are kept in a SampleMemory only",
                    f"{name} holds a training image as {form} after task {index}",
                    'keep it in engram.parts.memory.SampleMemory and declare reads = "memory"',
                )

    seen.each_task(after_task)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in _tensors(v)]
    return []


def _contains(tensor: Tensor, rows: Tensor) -> bool:
    """Whether any row [N, D] occurs as D entries of ``tensor`` one after another, at any place."""
    d = rows.shape[1]
    if tensor.numel() < d or not len(rows):
        return False
    flat = tensor.reshape(-1).double()
    # A random projection finds candidates at every offset; only those are compared.
    r = torch.rand(d, generator=seeds.generator(0, "projection"), dtype=torch.float64) - 0.5
    scores = F.conv1d(flat[None, None], r[None, None]).flatten()
    targets = (rows @ r).sort()
    place = torch.searchsorted(targets.values, scores)
    scale = float(rows.abs().max()) * d * 1e-6
    for shift in (-1, 0):
        i = (place + shift).clamp(0, len(rows) - 1)
        for offset in ((targets.values[i] - scores).abs() <= scale).nonzero().flatten().tolist():
            row = rows[targets.indices[i[offset]]]
            if torch.allclose(flat[offset : offset + d], row, rtol=1e-4, atol=float(rows.abs().max()) * 1e-4):
                return True
    return False


@look
def memory_stays_within_budget(seen: Look) -> None:
    """Stored real samples are declared, consistent, and never more than the budget."""

    def after_event(event: Event) -> None:
        for name, memory in seen.method.named_modules():
            if not isinstance(memory, SampleMemory):
                continue
            n = len(memory)
            require(
                len(memory.images) == n and memory.images.dtype == torch.uint8,
                "a memory holds an uint8 image for each label",
                f"{len(memory.images)} images of {memory.images.dtype} and {n} labels in {name}",
                "use its own methods",
            )
            require(
                memory.budget is None or n <= memory.budget,
                f"a memory holds at most its budget of {memory.budget} samples",
                f"{n} in {name}",
                "make room before adding",
            )
            require(
                n == 0 or seen.method.reads in ("memory", "all"),
                'a method that keeps real samples declares reads = "memory"',
                f"{n} samples with reads = {seen.method.reads!r}",
                "declare it",
            )
            kept, counted = n_bytes(memory.buffers()), seen.method.storage_bytes()["exemplars"]
            require(
                counted >= kept,
                "all that a memory holds, answers stored with samples too, counts as exemplars",
                f"{counted} bytes counted, {kept} in {name}",
                "leave storage_bytes() to the memory",
            )

    seen.each_event(after_event)
