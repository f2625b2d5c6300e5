"""Kill runs at random and see that resuming loses nothing: final weights must be the uninterrupted ones.

    python benchmarks/kill.py --kills 20 [--methods dgmw finetune] [--seed 0]

For each method and small variant a run is started as a child process with checkpoints, killed with SIGKILL
after a random time, resumed, killed again, and so on until it is done; its weights and results are then
compared bit by bit with those of a run that nobody interrupted. Prints one line a method; exit code 1 where
any differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from engram.checks import SMALL, Bench, tiny_stream
from engram.checks.comparing import differing, first_difference, timeless
from engram.core.contract import Scenario
from engram.learning import checkpoint
from engram.methods.registry import METHODS, method
from engram.networks import Dcgan8, Mlp
from engram.protocols.protocol import Protocol
from engram.protocols.session import run

# Children are forked from a process that has loaded torch.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engram.checks"])
NETWORK = Dcgan8(n_f=4, n_d=4, n_z=16)


def learn(name: str, variant: str, out: Path, told: Connection | None = None) -> dict[str, Any]:
    """One small run with checkpoints, resumed where there are some; its start and every event are told."""

    def tell(event: object) -> None:
        if told is not None:
            told.send(type(event).__name__)

    checkpoint.LEAST_SECONDS, checkpoint.SHARE = 0.0, float("inf")  # every epoch, so that each life gets on
    spec = method(name, SMALL[name][variant] | ({"epochs": 3} if "epochs" in SMALL[name][variant] else {}))
    stream = tiny_stream((1, 2, 1), n_train=24)
    scenarios: tuple[Scenario, ...] = ("class", "task")
    networks = (NETWORK, Mlp((16,)))  # den has dense layers only
    benches = (Bench(spec, stream, n, s) for n in networks for s in scenarios)
    network, scenario = next((b.network, b.scenario) for b in benches if b.usable)
    tell(None)
    return run(
        stream,
        network,
        spec,
        Protocol(scenario, generated_per_class=0),
        out=out,
        resume=True,
        observer=tell,
    )


@contextlib.contextmanager
def running(name: str, variant: str, out: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """A run in a process of its own that has begun, and what it tells; killed in the end, whatever happens."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=learn, args=(name, variant, out, there))
    process.start()
    there.close()
    try:
        here.recv()  # it has begun; raises EOFError where it could not
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def killed_at_event(name: str, variant: str, out: Path, n: int) -> bool:
    """Start or resume a run and kill it when it tells its n-th event (from 1); False when it ended before."""
    with running(name, variant, out) as (_, told):
        try:
            for _ in range(n):
                told.recv()
        except EOFError:
            return False
        return True


def ended(process: BaseProcess, seconds: float | None = None) -> bool:
    """Wait so long for a run's end; whether it came."""
    process.join(seconds)
    if process.exitcode:
        raise RuntimeError(f"a run ended with exit status {process.exitcode}; standard error says why")
    return process.exitcode is not None


def killed_at_time(name: str, variant: str, out: Path, seconds: float) -> bool:
    """Start or resume a run and kill it ``seconds`` after it began; False when it ended before."""
    with running(name, variant, out) as (process, _):
        return not ended(process, seconds)


class Outcome(NamedTuple):
    """What a finished run left: the newest checkpoint's tensors, and its results without times."""

    tensors: dict[str, Any]
    record: dict[str, Any]


def outcome(out: Path) -> Outcome:
    """Read a finished run's folder."""
    newest = max((out / "checkpoints").glob("*.json"))
    record = timeless(
        json.loads(newest.read_bytes())["record"] | {"tasks": json.loads(newest.read_bytes()).get("tasks")}
    )
    record.pop("peak", None)
    return Outcome(load_file(newest.with_suffix(".safetensors")), record)


def finish(name: str, variant: str, out: Path) -> None:
    """Resume a run in a process of its own and let it end."""
    with running(name, variant, out) as (process, _):
        ended(process)


def difference(a: Outcome, b: Outcome) -> str:
    """Where two outcomes differ, in words; empty when they are the same bit for bit."""
    names = differing(a.tensors, b.tensors)
    if names:
        return f"{len(names)} tensors, first {names[0]}"
    return first_difference(a.record, b.record)


def attack(name: str, variant: str, kills: int, rng: random.Random) -> tuple[int, int, list[str]]:
    """Kill ``kills`` times at random; (kills that hit, runs finished, differences)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with running(name, variant, root / "whole") as (process, _):
            began = time.perf_counter()
            ended(process)
        duration = time.perf_counter() - began
        whole = outcome(root / "whole")
        hits = runs = 0
        found: list[str] = []
        while hits < kills:
            out = root / f"run{runs}"
            while hits < kills and killed_at_time(name, variant, out, rng.uniform(0.0, duration)):
                hits += 1
            finish(name, variant, out)
            runs += 1
            where = difference(whole, outcome(out))
            if where:
                found.append(where)
        return hits, runs, found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20, help="kills a method")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which runs are killed")
    given = parser.parse_args(arguments)
    failed = False
    for name in given.methods:
        variants = list(SMALL[name])
        rng = random.Random(f"{given.seed} {name}")
        share = [
            given.kills // len(variants) + (i < given.kills % len(variants)) for i in range(len(variants))
        ]
        began = time.perf_counter()
        results = [attack(name, v, n, rng) for v, n in zip(variants, share, strict=True) if n]
        hits, runs = sum(r[0] for r in results), sum(r[1] for r in results)
        bad = [where for r in results for where in r[2]]
        verdict = "bit-identical" if not bad else f"{len(bad)} DIFFER ({bad[0]})"
        print(
            f"{name:10} {hits:3} kills, {runs:2} runs: {verdict}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        failed = failed or bool(bad)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
