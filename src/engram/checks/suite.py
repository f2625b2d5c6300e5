"""Running the checks: for a test runner, or all at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from engram.checks.bench import CHECKS, Bench
from engram.checks.failure import CheckFailure
from engram.checks.small import SKIPPED, SMALL
from engram.checks.streams import tiny_domains, tiny_stream
from engram.core.contract import Context, Method, Scenario
from engram.core.network import Network
from engram.errors import ConfigError
from engram.methods import registry
from engram.methods.registry import MethodSpec
from engram.networks import Dcgan8, Mlp
from engram.streams import Stream

# Their checks run in this order.
from engram.checks import config, repeating, learning, answers, state, strictness  # noqa: F401  # isort: skip

Factory = Callable[[Any, Context], Method]

#: Checks that depend on the method's options only, not on the stream; run in the first setting alone.
STATIC = {"docstring_names_source_departures_cost", "bad_values_give_one_line"}


def _spec(method: MethodSpec | Factory | str, options: Mapping[str, Any]) -> MethodSpec:
    if isinstance(method, str):
        return registry.method(method, options)
    if isinstance(method, MethodSpec):
        return dataclasses.replace(method, config=dataclasses.replace(method.config, **options))
    made = getattr(method, "Config", None)
    if made is None:
        raise ConfigError(
            f"a factory must have a Config with its options, {method!r} has none: give a MethodSpec instead."
        )
    return MethodSpec(getattr(method, "__name__", "method").lower(), method, made(**options))


@functools.cache
def _streams() -> tuple[Stream, Stream, Stream, Stream]:
    """One class a task, several, tasks that are known, domains: a batch and a half of every class."""
    n = 8
    return (
        tiny_stream((1, 1, 1), n_train=n),
        tiny_stream((2, 1, 2), seed=1, n_train=n),
        tiny_stream((2, 2), seed=2, n_train=n),
        tiny_domains(2, n_train=n),
    )


def _settings(
    spec: MethodSpec,
    stream: Stream | None,
    network: Network | None,
    scenario: Scenario | None,
    allow_negative: Collection[str],
    device: str,
) -> dict[str, Bench]:
    """Benches by name: the two streams, two networks and further scenarios that the method can use."""
    made: dict[str, Bench] = {}

    def add(name: str, stream: Stream, networks: list[Network], scenario: Scenario) -> bool:
        for one in networks:
            bench = Bench(spec, stream, one, scenario, allow_negative, device)
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
    once, multi, task, domain = _streams()
    small: list[Network] = [network] if network is not None else [Dcgan8(n_f=4, n_d=4, n_z=16), Mlp((16,))]
    if scenario in (None, "class"):
        add("single", once, small, "class")
        add("multi", multi, small[::-1], "class")
    if scenario in (None, "task"):
        add("task", task, small, "task")
    if scenario in (None, "domain"):
        add("domain", domain, small[::-1], "domain")
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
    device: str = "cpu",
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
        device: cpu or cuda.
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
        for setting, bench in _settings(spec, stream, network, scenario, allow_negative, device).items():
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
    device: str = "cpu",
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
        device=device,
    ):
        try:
            function()
        except CheckFailure as failure:
            raise CheckFailure(f"{name}: {failure}") from failure
