"""Golden figures: losses, weights and checkpoint keys of each method on tiny data, as plain text.

    python -m tests.golden.regenerate --reason "why the arithmetic changed" [--methods dgmw ...]

A file's id is permanent. Its figures are compared exactly on the platform named in its header, and within a
tolerance elsewhere; its keys and shapes everywhere. The reason for a change stands in the file.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engram.checks import SMALL, Bench, tiny_stream
from engram.checks.bench import Event
from engram.learning.loop import EpochEnd
from engram.methods.registry import METHODS, method
from engram.networks import Dcgan8, Mlp
from engram.protocols.session import Session

FOLDER = Path(__file__).parent
NETWORK = Dcgan8(n_f=4, n_d=4, n_z=16)
COMPILED = ("si",)  # whose compiled steps have figures of their own, of the first variant and two tasks


def here() -> str:
    """The platform that decides floating-point results: processor, its vector instructions, PyTorch."""
    version = torch.__version__.split("+")[0]
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, torch {version}, 1 thread"


@dataclass
class Golden:
    """What stands in a file."""

    id: str
    platform: str
    reason: str
    losses: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The file's content."""
        lines = [f"id: {self.id}", f"platform: {self.platform}", f"reason: {self.reason}", "", "[losses]"]
        lines += [f"{k} = {v!r}" for k, v in self.losses.items()]
        lines += ["", "[final state, sha256]", *(f"{k} = {v}" for k, v in self.digests.items())]
        lines += ["", "[state keys]", *(f"{k} = {v}" for k, v in self.keys.items())]
        return "\n".join(lines) + "\n"


def read(path: Path) -> Golden:
    """A file's content."""
    head: dict[str, str] = {}
    parts: dict[str, dict[str, str]] = {}
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
            parts[section] = {}
        elif " = " in line and section:
            key, value = line.rsplit(" = ", 1)
            parts[section][key] = value
        elif ": " in line:
            key, value = line.split(": ", 1)
            head[key] = value
    losses = {k: float(v) for k, v in parts["[losses]"].items()}
    return Golden(
        head["id"],
        head["platform"],
        head["reason"],
        losses,
        parts["[final state, sha256]"],
        parts["[state keys]"],
    )


def measured(name: str, reason: str = "", *, compiled: bool = False, plain: bool = False) -> Golden:
    """Train every small variant of a method on one thread and write down what happens.

    Args:
        compiled: what a file of compiled steps holds.
        plain: the same with steps that are not compiled.
    """
    golden = Golden(f"golden-{path_of(name, compiled).stem}", here(), reason)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for variant, options in list(SMALL[name].items())[: 1 if compiled else None]:
            spec, stream = method(name, options), tiny_stream((2, 2) if compiled else (1, 2, 1))
            networks = (NETWORK, Mlp((16,)))  # den has dense layers only
            benches = [Bench(spec, stream, n, scenario) for n in networks for scenario in ("class", "task")]
            bench = next(b for b in benches if b.usable)

            def told(session: Session, event: Event, variant: str = variant) -> None:
                if isinstance(event, EpochEnd):
                    for key, value in event.losses.items():
                        where = f"{variant} task {event.task} {event.phase} epoch {event.epoch} {key}"
                        golden.losses[where] = value

            session = bench.session(on_event=told)
            session.learner.compile = "inductor" if compiled and not plain else "eager"
            state = bench.train(session).state
            digest = hashlib.sha256()
            for key, tensor in sorted(state.items()):
                digest.update(tensor.contiguous().numpy().tobytes())
                golden.keys[f"{variant} {key}"] = f"{str(tensor.dtype)[6:]} {list(tensor.shape)}"
            golden.digests[variant] = digest.hexdigest()
    finally:
        torch.set_num_threads(threads)
    return golden


def path_of(name: str, compiled: bool = False) -> Path:
    """The file of a method."""
    return FOLDER / f"{'compiled-' if compiled else ''}{name}.txt"


def main(arguments: Sequence[str] | None = None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the golden figures anew.")
    parser.add_argument(
        "--reason", required=True, help="why they change; stands in the files and the release notes"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    given = parser.parse_args(arguments)
    if len(given.reason.split()) < 3:
        parser.error(
            '--reason must say why the figures change, such as "critic: bias added to the first layer"'
        )
    for name, compiled in [(n, False) for n in given.methods] + [
        (n, True) for n in COMPILED if n in given.methods
    ]:
        golden = measured(name, " ".join(given.reason.split()), compiled=compiled)
        path_of(name, compiled).write_text(golden.text(), encoding="utf-8")
        print(f"wrote {path_of(name, compiled)}")


if __name__ == "__main__":
    main()
