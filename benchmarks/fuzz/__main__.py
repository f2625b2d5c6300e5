"""Mutated inputs of every kind: each must be read rightly or refused in one line.

    python -m fuzz [--inputs 10000] [--kinds images yaml] [--seed 0]      (from benchmarks/)

Inputs are numbered and a function of kind, seed and number. A process reads one after another; where one takes more
than 30 seconds it is killed and another goes on. Prints a line a kind: inputs, how many were read and refused, faults,
and the peak of memory above the idle process; exit code 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from fuzz.attack import attack

MEBIBYTES = 500  # above the idle process
# Shares of the inputs: what is slow gets fewer.
SHARES = {
    "images": 12, "tables": 15, "arrays": 21, "yaml": 20, "checkpoints": 13, "results": 5, "studies": 10, "sweeps": 4,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, shared out among the kinds")
    parser.add_argument("--kinds", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    failed, total = False, sum(SHARES[name] for name in given.kinds)
    for name in given.kinds:
        began = time.perf_counter()
        found = attack(name, given.seed, max(1, given.inputs * SHARES[name] // total))
        counts = Counter(said.outcome for _, said in found)
        peak, at = max((said.memory, number) for number, said in found)
        good = f"{counts['read']} read, {counts['refused']} refused"
        bad = f"{counts['traceback']} tracebacks, {counts['hang']} hangs, {counts['silent']} silent"
        spent = f"{peak:.0f} MiB above idle (input {at}), {time.perf_counter() - began:.0f} s"
        print(f"{name:12} {len(found):5} inputs: {good}, {bad}; {spent}", flush=True)
        faults = [(number, said) for number, said in found if said.outcome not in ("read", "refused")]
        for number, said in faults[:20]:
            print(f"  {name} {given.seed} {number}: {said.outcome}: {said.why.strip()}", flush=True)
        failed = failed or bool(faults) or peak > MEBIBYTES
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
