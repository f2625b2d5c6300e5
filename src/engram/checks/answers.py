"""What a method answers and tells: predictions, facts, generated images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from engram import seeds
from engram.checks.bench import Event, Look, look
from engram.checks.comparing import copied, differing, generators, same, shown, through_json
from engram.checks.failure import require
from engram.core.contract import STORAGE, Step


@look
def predict_changes_nothing(seen: Look) -> None:
    """Predicting gives logits of the classes seen and changes neither state, modes nor generators."""

    def after_task(index: int) -> None:
        method, x = seen.method, seen.bench.inputs(index)
        given, task = seen.given(index), seen.asked(index)
        modules = list(method.modules())
        for m in modules:
            m.training = index % 2 == 0 or m is method
        if index % 2:
            for m in modules[::2]:
                m.training = True
        modes = [m.training for m in modules]
        before, rng, kept = copied(method.state_dict()), generators(), x.clone()
        logits = method.predict(x, task=task)
        must = "predict changes nothing"
        moved = differing(before, method.state_dict())
        require(
            not moved, must, f"state {shown(moved)} changed", "predict inside engram.core.contract.evaluating"
        )
        require(
            modes == [m.training for m in modules],
            must,
            "training modes of its modules changed",
            "put every module's own mode back, as engram.core.contract.evaluating does",
        )
        require(
            same(rng, generators()),
            must,
            "the global random generator was used",
            "draw from a generator of your own",
        )
        require(same(x, kept), must, "its input was written to", "use out-of-place operations")
        require(
            tuple(logits.shape) == (len(x), given.n_seen),
            "predict gives logits [B, n_seen]",
            f"{tuple(logits.shape)} for {len(x)} images and {given.n_seen} classes seen",
            "answer for exactly the classes seen so far",
        )
        finite = logits[:, given.active[0] : given.active[1]]
        require(
            bool(torch.isfinite(finite).all()),
            "logits of active labels are finite",
            "some are not",
            "check the loss",
        )
        require(
            same(logits, method.predict(x, task=task)),
            "predict gives the same logits twice",
            "they differ",
            "predict without dropout and with stored statistics",
        )
        method.eval()
        require(
            same(logits, method.predict(x, task=task)),
            "predict gives the same logits in training and in evaluation mode",
            "they differ",
            "predict inside engram.core.contract.evaluating",
        )
        method.train()

    seen.each_task(after_task)


@look
def each_image_is_answered_alone(seen: Look) -> None:
    """An image's logits do not depend on the other images of its batch, which may give the task away."""

    def after_task(index: int) -> None:
        task, x = seen.asked(index), seen.bench.inputs(index)
        with torch.no_grad():
            together = seen.method.predict(x, task=task)
            alone = torch.cat([seen.method.predict(image[None], task=task) for image in x])
        require(
            torch.allclose(together, alone, rtol=1e-3, atol=1e-4),
            "an image's logits do not depend on the rest of its batch",
            f"they differ by up to {float((together - alone).nan_to_num().abs().max()):.2g}",
            "predict with stored statistics, image by image",
        )

    seen.each_task(after_task)


@look
def observing_changes_nothing(seen: Look) -> None:
    """Facts, measures, report and storage are JSON and change nothing; bytes are whole numbers."""

    def after_event(event: Event) -> None:
        method = seen.method
        before, rng = copied(method.state_dict()), generators()
        for name, value in (("facts", method.facts()), ("storage_bytes", method.storage_bytes())):
            through_json(value, f"{name}()")
        bytes_ = method.storage_bytes()
        require(
            set(bytes_) == set(STORAGE) and all(isinstance(v, int) and v >= 0 for v in bytes_.values()),
            f"storage_bytes() gives whole numbers of bytes for {', '.join(STORAGE)}",
            str(bytes_),
            "give all kinds",
        )
        if hasattr(event, "measures"):
            through_json(event.measures, "measures()")
        else:
            through_json(method.report(), "report()")
        moved = differing(before, method.state_dict())
        require(
            not moved and same(rng, generators()),
            "observing a method changes nothing",
            f"changed: {shown(moved) or 'the global random generator'}",
            "let facts, measures, report and storage_bytes only read",
        )

    def measured(measures: Callable[..., dict[str, Any]], step: Step) -> dict[str, Any]:
        before, rng = copied(seen.method.state_dict()), generators()
        found = measures(step)
        moved = differing(before, seen.method.state_dict())
        require(
            not moved and same(rng, generators()),
            "measures() changes nothing",
            f"changed: {shown(moved) or 'the global random generator'}",
            "let measures only read",
        )
        return found

    seen.each_event(after_event)
    seen.around("measures", measured)


@look
def generating_is_repeatable(seen: Look) -> None:
    """Generative methods only: the same generator gives the same images, and nothing changes."""

    def after_task(index: int) -> None:
        method = seen.method
        y = torch.arange(seen.given(index).n_seen, device=seen.bench.device).repeat(3)
        before, rng = copied(method.state_dict()), generators()
        first = method.generate(y, generator=seeds.generator(1, "check", device=seen.bench.device))
        again = method.generate(y, generator=seeds.generator(1, "check", device=seen.bench.device))
        require(
            same(first, again),
            "generate is a function of labels and generator",
            "images differ",
            "draw from it only",
        )
        require(
            tuple(first.shape) == (len(y), *seen.bench.stream.image_shape)
            and bool(torch.isfinite(first).all()),
            "generate gives finite images [N, C, H, W]",
            f"{tuple(first.shape)}, finite: {bool(torch.isfinite(first).all())}",
            "make one image a label",
        )
        moved = differing(before, method.state_dict())
        require(
            not moved and same(rng, generators()),
            "generate changes nothing",
            f"changed: {shown(moved) or 'the global random generator'}",
            "generate with stored statistics, from the given generator",
        )

    if seen.method.generative:
        seen.each_task(after_task)
