"""The checks, each a function of a :class:`Bench`, and the two ways to run them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import json
import math
import re
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.checks.bench import (
    Bench,
    Event,
    copied,
    differing,
    first_difference,
    running_statistics,
    same,
    shown,
)
from engram.checks.failure import CheckFailure, require
from engram.checks.small import SKIPPED, SMALL
from engram.checks.streams import tiny_domains, tiny_stream
from engram.core.contract import Batch, Context, Method, Scenario, Step, Terms, Update
from engram.core.network import Network
from engram.errors import ConfigError
from engram.methods import registry
from engram.methods.registry import METHODS, MethodSpec
from engram.networks import Dcgan8, Mlp
from engram.parts.memory import SampleMemory
from engram.protocols.common_start import learn_start
from engram.protocols.session import Session
from engram.streams import Samples, Stream

Factory = Callable[[Any, Context], Method]
Check = Callable[[Bench], None]

#: The checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}
#: Those that depend on the method's options only, not on the stream; run in the first setting alone.
STATIC = {"docstring_names_source_departures_cost", "bad_values_give_one_line"}


def check(function: Check) -> Check:
    """Enter a check under its function's name."""
    CHECKS[function.__name__] = function
    return function


# What stands in the file --------------------------------------------------------------------------
@check
def docstring_names_source_departures_cost(bench: Bench) -> None:
    """The module's docstring names the paper (or source), its departures and its cost."""
    module = sys.modules[type(bench.build()).__module__]
    text = inspect.getdoc(module) or ""
    missing = [
        what
        for what, pattern in (
            ("a source with its year", r"\b(19|20)\d\d\b"),
            ("'Departures'", r"\bDepartures\b"),
            ("'Cost'", r"\bCost\b"),
        )
        if not re.search(pattern, text)
    ]
    require(
        not missing,
        f"the docstring of {module.__name__} names its paper or source, its departures and its cost",
        f"no {', no '.join(missing)}",
        "add a line for each, 'none' where there is none",
    )


# Options ------------------------------------------------------------------------------------------
@check
def builds_from_defaults(bench: Bench) -> None:
    """The options have defaults, and a method can be built from them and from the tested ones."""
    try:
        default = type(bench.spec.config)()
    except TypeError as error:
        raise CheckFailure(
            f"every option has a default; found: {error}; give {type(bench.spec.config).__name__} defaults."
        ) from error
    configs = [default, bench.spec.config]
    if bench.spec.name in METHODS:
        configs.append(registry.entry(bench.spec.name).config)
    for config in configs:
        try:
            made = bench.build(config)
        except ConfigError as error:
            raise CheckFailure(
                f"a method can be built from its default options; found: {error} change the defaults."
            ) from error
        require(
            isinstance(made, Method),
            "the factory makes a Method",
            type(made).__name__,
            "derive from engram.core.contract.Method",
        )


def _numeric(hint: Any) -> bool:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return any(o in (int, float) for o in options)


@check
def bad_values_give_one_line(bench: Bench) -> None:
    """Negative and not-a-number values are refused by a one-line ConfigError that names the option."""
    config = bench.spec.config
    hints = typing.get_type_hints(type(config))
    for name in (f.name for f in dataclasses.fields(config)):
        if not _numeric(hints[name]):
            continue
        bad: list[float] = [math.nan]
        if name not in bench.allow_negative:
            bad.append(-1)
        for value in bad:
            must = f"option {name} = {value!r} is refused with a one-line ConfigError that names it"
            try:
                bench.build(dataclasses.replace(config, **{name: value}))
            except ConfigError as error:
                text = str(error)
                require(
                    "\n" not in text and name in text,
                    must,
                    repr(text),
                    "say what must hold, what was given, what to do",
                )
            except Exception as error:
                raise CheckFailure(
                    f"{must}; found: {type(error).__name__}: {error}; check it with engram.core.values."
                ) from error
            else:
                raise CheckFailure(f"{must}; found: it was accepted; check it with engram.core.values.")


# Repeating ----------------------------------------------------------------------------------------
@check
def same_seed_same_run(bench: Bench) -> None:
    """The same seed gives the same weights and metrics bit for bit, whatever the global generator's state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)
        again = bench.train()
    bench.compare(
        again,
        "the same seed gives the same run bit for bit",
        "draw from batch.noise, or from a generator named by engram.seeds",
    )


@check
def another_seed_another_run(bench: Bench) -> None:
    """Another seed gives other weights."""
    other = bench.train(seed=1)
    floats = [k for k, v in other.state.items() if v.is_floating_point()]
    changed = set(differing(bench.reference.state, other.state))
    require(
        any(k in changed for k in floats),
        "another seed gives another run",
        "the same weights",
        "name generators by context.seed",
    )


@check
def resumed_run_is_the_same(bench: Bench) -> None:
    """Stopped after every epoch and every task and resumed, a run is bit for bit the uninterrupted one."""
    n = bench.reference.n_events
    advice = "keep what lasts in parameters, buffers and structure()"
    try:
        _stopped_at(
            bench, range(1, n), "a run stopped after every event and resumed is the same bit for bit", advice
        )
    except CheckFailure as all_cuts:
        for k in range(1, n):
            _stopped_at(
                bench,
                [k],
                f"a run stopped after event {k} of {n} and resumed is the same bit for bit",
                advice,
            )
        raise all_cuts


def _stopped_at(bench: Bench, cuts: Collection[int], must: str, advice: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = 0

        def leave(_: Event) -> bool:
            nonlocal seen
            seen += 1
            return seen in cuts

        try:
            for _ in range(len(cuts)):
                bench.session(out=Path(folder), resume=True).go(leave)
            trained = bench.train(bench.session(out=Path(folder), resume=True))
        except (RuntimeError, ValueError, KeyError) as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise CheckFailure(f"{must}; found: {found}; {advice}.") from error
    bench.compare(trained, must, advice)


@check
def tradeoff_option_matters_after_its_fork_only(bench: Bench) -> None:
    """Runs that differ in the declared trade-off option only are bit for bit the same up to the fork."""
    tradeoff = bench.build().tradeoff
    if tradeoff is None:
        return
    require(
        hasattr(bench.spec.config, tradeoff.option),
        "the trade-off option is an option of the method",
        f"{tradeoff.option!r}",
        "name the option by which old tasks are traded for new ones",
    )
    given = float(getattr(bench.spec.config, tradeoff.option) or 1.0)
    values = (0.25, 0.75) if tradeoff.scale == "linear" else (given, 0.0, 10.0 * given)
    tensors, rest = _up_to_the_fork(bench, tradeoff.option, values[0])
    where = "the second task" if tradeoff.after is None else f"the end of phase {tradeoff.after!r}"
    must = f"nothing depends on the trade-off option {tradeoff.option} before {where}"
    for value in values[1:]:
        others, other = _up_to_the_fork(bench, tradeoff.option, value)
        names = differing(tensors, others)
        require(
            not names,
            must,
            f"{values[0]!r} and {value!r} give other tensors ({shown(names)})",
            "let Tradeoff.after name the last phase of the second task that does not depend on it",
        )
        found = first_difference(rest, other)
        require(not found, must, f"records differ at {found}", "record what does not depend on it before")


def _up_to_the_fork(bench: Bench, option: str, value: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A run's tensors, those of optimisers included, and the rest of its state without times, at the fork."""
    spec = dataclasses.replace(bench.spec, config=dataclasses.replace(bench.spec.config, **{option: value}))
    session = dataclasses.replace(bench, spec=spec).session()
    learn_start(session)
    tensors = copied(session.method.state_dict())
    for player, by_name in session.state.optimisers.items():
        for name, entries in by_name.items():
            tensors |= {f"optimiser {player}/{name}/{k}": v.clone() for k, v in entries.items()}
    tasks = [{k: v for k, v in task.items() if k != "seconds"} for task in session.record["tasks"]]
    rest = {
        "cursor": vars(session.state.cursor),
        "structure": session.method.structure(),
        "rows": session.record["rows"],
        "tasks": tasks,
        "phases": session.phases,
    }
    return tensors, json.loads(json.dumps(rest))


# Losses and updates -------------------------------------------------------------------------------
def _probe_losses(method: Method, probe: Callable[[Update, Batch, Step], Terms]) -> None:
    """Have ``probe`` stand in for every loss of ``method`` that is differentiated."""
    phases = method.phases

    def probed(*args: Any) -> Any:
        return tuple(
            dataclasses.replace(
                phase,
                updates=tuple(
                    update
                    if update.player is None
                    else dataclasses.replace(update, loss=functools.partial(probe, update))
                    for update in phase.updates
                ),
            )
            for phase in phases(*args)
        )

    method.phases = probed  # type: ignore[method-assign, assignment]


@check
def losses_are_pure_and_finite(bench: Bench) -> None:
    """Every loss gives the same finite terms twice and changes nothing but running statistics."""

    def prepare(method: Method) -> None:
        def probe(update: Update, batch: Batch, step: Step) -> Terms:
            where = f"the loss of update {update.name!r} (task {step.task.index}, phase {step.phase!r})"
            before, rng = copied(method.state_dict()), torch.get_rng_state()
            inputs = [batch.x, batch.y, *batch.noise.values()]
            held = [t.clone() for t in inputs]
            structure = json.dumps(method.structure(), sort_keys=True)
            first = {k: v.detach().clone() for k, v in update.loss(batch, step).items()}
            after = copied(method.state_dict())
            statistics = running_statistics(method)
            moved = [k for k in differing(before, after) if k not in statistics]
            require(
                not moved and structure == json.dumps(method.structure(), sort_keys=True),
                f"{where} changes no state but running statistics",
                f"changed: {shown(moved) or 'the structure'}",
                "change state at the six moments only",
            )
            require(
                all(same(a, b) for a, b in zip(inputs, held, strict=True)),
                f"{where} leaves its batch as it is",
                "the batch was written to",
                "use out-of-place operations on batch.x, batch.y and noise",
            )
            with torch.no_grad():
                for name, buffer in statistics.items():
                    buffer.copy_(before[name])
            torch.set_rng_state(rng)
            terms = update.loss(batch, step)
            found = {k: v.detach() for k, v in terms.items()}
            require(
                set(first) == set(found) and all(same(first[k], found[k]) for k in found),
                f"{where} is a function of batch, step and state",
                f"{_numbers(first)} and then {_numbers(found)} for the same arguments",
                "draw from batch.noise, keep no counters",
            )
            require(
                all(v.dim() == 0 and bool(torch.isfinite(v)) for v in found.values()) and bool(found),
                f"{where} gives finite scalars",
                str(_numbers(found)),
                "guard logarithms, roots and divisions",
            )
            return terms

        _probe_losses(method, probe)

    bench.train(bench.session(prepare=prepare))


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, Any]:
    return {k: v.tolist() for k, v in terms.items()}


@check
def updates_move_their_player_only(bench: Bench) -> None:
    """An update moves parameters of its player, and no others."""

    def prepare(method: Method) -> None:
        held: dict[str, Any] = {}

        def verify(allowed: Collection[str]) -> None:
            if not held:
                return
            now = {n: p.detach() for n, p in method.named_parameters()}
            moved = [n for n in differing(held["before"], now) if n not in allowed]
            require(
                not moved,
                f"update {held['update'].name!r} moves parameters of player {held['update'].player!r} only",
                f"moved: {shown(moved)}",
                "name in players() what an update may move, and change other state at the end moments",
            )
            held.clear()

        def probe(update: Update, batch: Batch, step: Step) -> Terms:
            verify(())  # the update before this one did not step, so that nothing may have moved
            held.update(
                update=update,
                before={n: p.detach().clone() for n, p in method.named_parameters()},
                allowed=set(method.players(step.task, step.phase)[str(update.player)].parameters),
            )
            return update.loss(batch, step)

        _probe_losses(method, probe)
        after_step = method.after_step

        def stepped(player: str, step: Step) -> None:
            after_step(player, step)
            verify(held["allowed"])

        method.after_step = stepped  # type: ignore[method-assign]

    bench.train(bench.session(prepare=prepare))


# Answers ------------------------------------------------------------------------------------------
@check
def predict_changes_nothing(bench: Bench) -> None:
    """Predicting gives logits of the classes seen and changes neither state, modes nor generators."""

    def look(session: Session, index: int) -> None:
        method, x = session.method, bench.inputs(index)
        given = session.protocol.task(session.stream, index)
        task = given if bench.scenario == "task" else None
        modules = list(method.modules())
        for m in modules:
            m.training = index % 2 == 0 or m is method
        if index % 2:
            for m in modules[::2]:
                m.training = True
        modes = [m.training for m in modules]
        before, rng, kept = copied(method.state_dict()), torch.get_rng_state(), x.clone()
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
            same(rng, torch.get_rng_state()),
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

    bench.train(bench.session(on_task=look))


@check
def each_image_is_answered_alone(bench: Bench) -> None:
    """An image's logits do not depend on the other images of its batch, which may give the task away."""

    def look(session: Session, index: int) -> None:
        given = session.protocol.task(session.stream, index)
        task = given if bench.scenario == "task" else None
        x = bench.inputs(index)
        with torch.no_grad():
            together = session.method.predict(x, task=task)
            alone = torch.cat([session.method.predict(image[None], task=task) for image in x])
        require(
            torch.allclose(together, alone, rtol=1e-3, atol=1e-4),
            "an image's logits do not depend on the rest of its batch",
            f"they differ by up to {float((together - alone).nan_to_num().abs().max()):.2g}",
            "predict with stored statistics, image by image",
        )

    bench.train(bench.session(on_task=look))


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
    other = Bench(bench.spec, changed, bench.network, bench.scenario).train()
    names = differing(bench.reference.state, other.state)
    require(
        not names,
        "what is learned does not depend on test samples",
        f"{len(names)} state tensors differ ({shown(names)})",
        "keep nothing in predict",
    )


@check
def observing_changes_nothing(bench: Bench) -> None:
    """Facts, measures, report and storage are JSON and change nothing; bytes are whole numbers."""

    def look(session: Session, event: Event) -> None:
        method = session.method
        before, rng = copied(method.state_dict()), torch.get_rng_state()
        for name, value in (("facts", method.facts()), ("storage_bytes", method.storage_bytes())):
            _json(value, f"{name}()")
        kinds = {"weights", "masks", "norms_and_heads", "exemplars", "other"}
        bytes_ = method.storage_bytes()
        require(
            set(bytes_) == kinds and all(isinstance(v, int) and v >= 0 for v in bytes_.values()),
            f"storage_bytes() gives whole numbers of bytes for {', '.join(sorted(kinds))}",
            str(bytes_),
            "give all five kinds",
        )
        if hasattr(event, "measures"):
            _json(event.measures, "measures()")
        else:
            _json(method.report(), "report()")
        moved = differing(before, method.state_dict())
        require(
            not moved and same(rng, torch.get_rng_state()),
            "observing a method changes nothing",
            f"changed: {shown(moved) or 'the global random generator'}",
            "let facts, measures, report and storage_bytes only read",
        )

    session = bench.session(on_event=look)
    measures = session.method.measures

    def watched(step: Step) -> dict[str, Any]:
        before, rng = copied(session.method.state_dict()), torch.get_rng_state()
        found = measures(step)
        moved = differing(before, session.method.state_dict())
        require(
            not moved and same(rng, torch.get_rng_state()),
            "measures() changes nothing",
            f"changed: {shown(moved) or 'the global random generator'}",
            "let measures only read",
        )
        return found

    session.method.measures = watched  # type: ignore[method-assign]
    bench.train(session)


def _json(value: Any, what: str) -> Any:
    """The value after a trip through JSON as checkpoints make it; raises where it does not survive."""
    try:
        text = json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckFailure(
            f"{what} is JSON; found: {error}; use numbers, strings, lists and mappings."
        ) from error
    back = json.loads(text)
    plain = first_difference(json.loads(json.dumps(value)), back)
    require(not plain, f"{what} survives JSON", plain, "use string keys and lists")
    return back


@check
def generating_is_repeatable(bench: Bench) -> None:
    """Generative methods only: the same generator gives the same images, and nothing changes."""

    def look(session: Session, index: int) -> None:
        method, task = session.method, session.protocol.task(session.stream, index)
        y = torch.arange(task.n_seen).repeat(3)
        before, rng = copied(method.state_dict()), torch.get_rng_state()
        first = method.generate(y, generator=seeds.generator(1, "check"))
        again = method.generate(y, generator=seeds.generator(1, "check"))
        require(
            same(first, again),
            "generate is a function of labels and generator",
            "images differ",
            "draw from it only",
        )
        require(
            tuple(first.shape) == (len(y), *bench.stream.image_shape) and bool(torch.isfinite(first).all()),
            "generate gives finite images [N, C, H, W]",
            f"{tuple(first.shape)}, finite: {bool(torch.isfinite(first).all())}",
            "make one image a label",
        )
        moved = differing(before, method.state_dict())
        require(
            not moved and same(rng, torch.get_rng_state()),
            "generate changes nothing",
            f"changed: {shown(moved) or 'the global random generator'}",
            "generate with stored statistics, from the given generator",
        )

    if bench.build().generative:
        bench.train(bench.session(on_task=look))


# Data ---------------------------------------------------------------------------------------------
@check
def data_are_not_modified(bench: Bench) -> None:
    """The samples handed to a method are as they were when it has learned them."""

    def look(session: Session, index: int) -> None:
        found, fresh = session.stream.train(index), bench.stream.to("cpu").train(index)
        require(
            same(found.x, fresh.x) and same(found.y, fresh.y),
            "training samples are left as they are",
            f"those of task {index} were written to",
            "copy before you write",
        )

    before = [p.train_x.clone() for p in bench.stream.pools]
    bench.train(bench.session(on_task=look))
    require(
        all(same(p.train_x, x) for p, x in zip(bench.stream.pools, before, strict=True)),
        "the data set is left as it is",
        "it was written to",
        "copy before you write",
    )


@check
def any_labels_and_task_sizes_work(bench: Bench) -> None:
    """Original labels may be any integers in any order, and tasks may differ in size."""
    if bench.stream.label_space == "shared":
        return
    groups = (2, 1, 2)
    other = dataclasses.replace(bench, stream=tiny_stream(groups, seed=3))
    if bench.stream.image_shape != other.stream.image_shape:
        return
    must, advice = (
        "tasks may have any number of classes",
        "take the classes of a task from task.start and task.stop",
    )
    try:
        confusion = torch.tensor(other.train().result["confusion"])
    except CheckFailure:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckFailure(f"{must}; found: {type(error).__name__}: {error}; {advice}.") from error
    y = torch.cat([other.stream.test(t).y for t in range(len(groups))])
    counts = y.bincount(minlength=other.stream.n_classes)
    require(
        bool((confusion.sum(1) == counts).all()),
        "every test sample of every class seen gets an answer",
        f"{confusion.sum(1).tolist()} answers for {counts.tolist()} samples",
        "answer for all classes seen",
    )


@check
def growing_keeps_old_logits(bench: Bench) -> None:
    """When a new task begins, logits of the old classes are what they were."""

    def prepare(method: Method) -> None:
        begin = method.begin_task

        def begun(task: Any, data: Samples) -> None:
            if task.index == 0:
                begin(task, data)
                return
            x = bench.inputs(0)
            old = bench.session().protocol.task(bench.stream, 0) if bench.scenario == "task" else None
            before = method.predict(x, task=old)
            begin(task, data)
            after = method.predict(x, task=old)
            kept = after[:, : before.shape[1]]
            require(
                kept.shape == before.shape and bool(torch.allclose(kept, before, rtol=1e-4, atol=1e-6)),
                "growing for new classes keeps the logits of the old ones",
                f"they changed when task {task.index} began",
                "append rows and keep the old ones, or name the reason in skip",
            )

        method.begin_task = begun  # type: ignore[method-assign]

    bench.train(bench.session(prepare=prepare))


# State --------------------------------------------------------------------------------------------
@check
def structure_rebuilds_the_state(bench: Bench) -> None:
    """Always, structure() is JSON and rebuild() makes a method of the same keys and shapes."""

    def look(session: Session, event: Event) -> None:
        method = session.method
        structure = _json(method.structure(), "structure()")
        fresh = bench.build()
        must = "rebuild(structure()) makes a fresh method with the same state keys, shapes and types"
        try:
            fresh.rebuild(structure)
        except Exception as error:
            raise CheckFailure(
                f"{must}; found: {type(error).__name__}: {error}; see Method.rebuild."
            ) from error
        want = {k: (v.dtype, tuple(v.shape)) for k, v in method.state_dict().items()}
        have = {k: (v.dtype, tuple(v.shape)) for k, v in fresh.state_dict().items()}
        wrong = [k for k in {**want, **have} if want.get(k) != have.get(k)]
        require(not wrong, must, f"they differ in {shown(wrong)}", "give structure() all sizes that change")
        frozen = {n: p.requires_grad for n, p in method.named_parameters()}
        thawed = {n: p.requires_grad for n, p in fresh.named_parameters()}
        require(
            frozen == thawed,
            "rebuild() makes the same parameters trainable",
            f"requires_grad differs in {shown([n for n in frozen if frozen[n] != thawed[n]])}",
            "freeze in rebuild() what is frozen",
        )
        require(
            not first_difference(structure, _json(fresh.structure(), "structure()")),
            "a rebuilt method has the structure that it was rebuilt from",
            first_difference(structure, _json(fresh.structure(), "structure()")),
            "restore all of it in rebuild()",
        )

    bench.train(bench.session(on_event=look))


@check
def state_is_tensors(bench: Bench) -> None:
    """State is in tensors that survive safetensors strictly; none hides in a plain attribute."""

    def look(session: Session, index: int) -> None:
        method = session.method
        hidden = [
            f"{name}.{key}".lstrip(".")
            for name, module in method.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in ("config", "context") and _holds_tensor(value)
        ]
        require(
            not hidden,
            "what lasts is a parameter, a buffer or a submodule",
            f"tensors in plain attributes {shown(hidden)}",
            "use register_buffer, or a leading underscore for what can be recomputed",
        )
        content = save_tensors({k: v.detach().contiguous().clone() for k, v in method.state_dict().items()})
        fresh = bench.build()
        fresh.rebuild(json.loads(json.dumps(method.structure(), sort_keys=True)))
        fresh.load_state_dict(load_tensors(content), strict=True)
        wrong = differing(method.state_dict(), fresh.state_dict())
        require(not wrong, "the state survives safetensors", f"{shown(wrong)} differ", "keep plain tensors")
        task = session.protocol.task(session.stream, index) if bench.scenario == "task" else None
        x = bench.inputs(index)
        require(
            same(method.predict(x, task=task), fresh.predict(x, task=task)),
            "a method loaded from its structure and tensors predicts as before",
            "its logits differ",
            "keep all that predict uses in the state",
        )

    bench.train(bench.session(on_task=look))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (Tensor, nn.Module)):
        return True
    if isinstance(value, Mapping):
        return any(_holds_tensor(v) for v in value.values())
    return isinstance(value, (list, tuple, set)) and any(_holds_tensor(v) for v in value)


@check
def state_moves(bench: Bench) -> None:
    """A trained method predicts the same in float64, and on an accelerator where there is one."""
    held: list[Session] = []
    bench.train(bench.session(on_task=lambda session, _: held.append(session)))
    session = held[0]
    method, last = session.method, bench.stream.n_tasks - 1
    task = session.protocol.task(session.stream, last) if bench.scenario == "task" else None
    x = bench.inputs(last)
    logits = method.predict(x, task=task)
    wide = copy.deepcopy(method).double()
    try:
        found = wide.predict(x.double(), task=task)
    except RuntimeError as error:
        raise CheckFailure(
            f"a method survives .double(); found: {error}; make new tensors like old ones."
        ) from error
    require(
        found.dtype == torch.float64 and bool(torch.allclose(found.float(), logits, rtol=1e-3, atol=1e-4)),
        "a method predicts the same in float64",
        f"{found.dtype}, largest difference {_distance(found, logits):.3g}",
        "make new tensors in the type of old ones",
    )
    if torch.cuda.is_available():
        found = copy.deepcopy(method).to("cuda").predict(x.to("cuda"), task=task)
        require(
            found.device.type == "cuda" and bool(torch.allclose(found.cpu(), logits, rtol=1e-2, atol=1e-2)),
            "a method predicts the same on another device",
            f"on {found.device}",
            "make new tensors on the device of old ones",
        )


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.detach().float() - b.detach()).nan_to_num().abs().max())


# Strictness ---------------------------------------------------------------------------------------
@check
def past_data_are_not_read_unless_declared(bench: Bench) -> None:
    """Overwriting a task's samples once it is learned changes nothing, unless all are declared."""

    def poison(session: Session, index: int) -> None:
        for i in range(index + 1):
            session.stream.overwrite_train(i, seeds.generator(5, "poison", i))

    reads = bench.build().reads
    poisoned = None
    # Random labels of classes still to come may well make a method that reads them fail.
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


@check
def real_samples_are_in_memories_only(bench: Bench) -> None:
    """No state tensor holds a training image, in any of its forms, outside of a SampleMemory."""

    def look(session: Session, index: int) -> None:
        images = torch.cat([bench.stream.train(i).x for i in range(index + 1)]).flatten(1)
        images = images[images.float().std(1) > 0]
        memories = [m for m in session.method.modules() if isinstance(m, SampleMemory)]
        stored = {id(t) for m in memories for t in m.buffers()}
        tensors = dict(session.method.state_dict(keep_vars=True))
        for name, module in session.method.named_modules():
            for key, value in vars(module).items():
                for i, tensor in enumerate(_tensors(value)):
                    if not key.startswith("_"):
                        tensors[f"{name}.{key}[{i}]".lstrip(".")] = tensor
        forms = {
            "bytes": images.double(),
            "pixels in [0, 1]": images.double() / 255.0,
            "the network's range": bench.network.normalise(images).double(),
        }
        for name, tensor in tensors.items():
            if id(tensor) in stored:
                continue
            for form, rows in forms.items():
                require(
                    not _contains(tensor.detach(), rows),
                    "real samples are kept in a SampleMemory only",
                    f"{name} holds a training image as {form} after task {index}",
                    'keep it in engram.parts.memory.SampleMemory and declare reads = "memory"',
                )

    bench.train(bench.session(on_task=look))


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


@check
def memory_stays_within_budget(bench: Bench) -> None:
    """Stored real samples are declared, consistent, and never more than the budget."""

    def look(session: Session, event: Event) -> None:
        for name, memory in session.method.named_modules():
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
                n == 0 or session.method.reads in ("memory", "all"),
                'a method that keeps real samples declares reads = "memory"',
                f"{n} samples with reads = {session.method.reads!r}",
                "declare it",
            )

    bench.train(bench.session(on_event=look))


# Running them -------------------------------------------------------------------------------------
def _spec(method: MethodSpec | Factory | str, options: Mapping[str, Any]) -> MethodSpec:
    if isinstance(method, str):
        return registry.method(method, options)
    if isinstance(method, MethodSpec):
        return dataclasses.replace(method, config=dataclasses.replace(method.config, **options))
    config = getattr(method, "Config", None)
    if config is None:
        raise ConfigError(
            f"a factory must have a Config with its options, {method!r} has none: give a MethodSpec instead."
        )
    return MethodSpec(getattr(method, "__name__", "method").lower(), method, config(**options))


def _settings(
    spec: MethodSpec,
    stream: Stream | None,
    network: Network | None,
    scenario: Scenario | None,
    allow_negative: Collection[str],
) -> dict[str, Bench]:
    """Benches by name: the two streams, two networks and further scenarios that the method can use."""
    made: dict[str, Bench] = {}

    def add(name: str, stream: Stream, networks: list[Network], scenario: Scenario) -> bool:
        for one in networks:
            bench = Bench(spec, stream, one, scenario, allow_negative)
            if bench.usable:
                made[f"{name}-{one.name}"] = bench
                return True
        return False

    if stream is not None:
        shared = stream.label_space == "shared"
        wanted: Scenario = scenario or ("domain" if shared else "class")
        if not add(
            wanted, stream, [network] if network else [Dcgan8(n_f=4, n_d=4, n_z=16), Mlp((16,))], wanted
        ):
            # Build once more for the reason.
            Bench(spec, stream, network or Mlp((16,)), wanted).build()
        return made
    small: list[Network] = [network] if network is not None else [Dcgan8(n_f=4, n_d=4, n_z=16), Mlp((16,))]
    if scenario in (None, "class"):
        add("single", tiny_stream((1, 1, 1)), small, "class")
        add("multi", tiny_stream((2, 1, 2), seed=1), small[::-1], "class")
    if scenario in (None, "task"):
        add("task", tiny_stream((2, 2), seed=2), small, "task")
    if scenario in (None, "domain"):
        add("domain", tiny_domains(2), small[::-1], "domain")
    if not made:
        bench = Bench(spec, tiny_stream(), small[0], scenario or "class")
        bench.network.check(bench.stream.image_shape)
        bench.build()
    return made


def checks_for(
    method: MethodSpec | Factory | str,
    *,
    stream: Stream | None = None,
    network: Network | None = None,
    scenario: Scenario | None = None,
    options: Mapping[str, Any] | None = None,
    variant: str | None = None,
    skip: Mapping[str, str] | None = None,
    allow_negative: Collection[str] = (),
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check of a method as (name, function without arguments), for a test runner.

    Args:
        method: a registered name, a ``MethodSpec``, or a factory (config, context) with a ``Config``.
        stream: 8x8 images are quick; None takes bundled tiny ones: one class a task, several, domains.
        network: None takes those of ``dcgan8`` and ``mlp`` that the method can use.
        scenario: None takes all that the method answers.
        options: small ones, so that a run takes a moment; None takes ``SMALL`` for a registered name.
        variant: of ``SMALL``, for a registered name; None takes all.
        skip: reasons by name of a check that need not hold.
        allow_negative: options for which a negative number makes sense.
    """
    variants: Mapping[str, Mapping[str, Any]] = {"": options or {}}
    if isinstance(method, str) and options is None:
        registry.check_name(method)
        variants = SMALL.get(method, variants)
        if variant is not None:
            variants = {variant: variants[variant]}
    unknown = sorted(set(skip or {}) - set(CHECKS))
    if unknown:
        raise ConfigError(f"skip must name checks, got {unknown[0]!r}: the checks are {', '.join(CHECKS)}.")
    for label, chosen in variants.items():
        spec = _spec(method, chosen)
        skipped = {
            check
            for (name, v, check) in SKIPPED
            if isinstance(method, str) and name == method and v in ("", label)
        }
        skipped |= set(skip or {})
        first = True
        for setting, bench in _settings(spec, stream, network, scenario, allow_negative).items():
            for name, function in CHECKS.items():
                if name in skipped or (name in STATIC and not first):
                    continue
                yield "-".join(filter(None, (label, setting, name))), functools.partial(function, bench)
            first = False


def check_method(
    method: MethodSpec | Factory | str,
    *,
    stream: Stream | None = None,
    network: Network | None = None,
    scenario: Scenario | None = None,
    options: Mapping[str, Any] | None = None,
    skip: Mapping[str, str] | None = None,
    allow_negative: Collection[str] = (),
) -> None:
    """Run every check on a method; the arguments are those of :func:`checks_for`.

    Raises:
        CheckFailure: at the first check that does not hold.
        ConfigError: the method cannot be built in the given setting.
    """
    for name, function in checks_for(
        method,
        stream=stream,
        network=network,
        scenario=scenario,
        options=options,
        skip=skip,
        allow_negative=allow_negative,
    ):
        try:
            function()
        except CheckFailure as failure:
            raise CheckFailure(f"{name}: {failure}") from failure
