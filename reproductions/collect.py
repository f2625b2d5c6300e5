"""Copy the results of a run, of a comparison, or of a reproduction's folder ``results`` into this folder, without what
only their report needs.

    python reproductions/collect.py DIR NAME

Writes ``reproductions/NAME/METHOD.json``: the result file without per-epoch logs, names of files, and places. What
stays: resolved configuration, data fingerprint, class of device, accuracy matrices, intervals, seconds, bytes; and, of
the epochs, the gates of the first seed's last task, which the figure of gates shows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engram.core.files import with_checksum, write_atomically
from engram.studies.folders import folder_name
from engram.studies.reproduction import gather
from engram.studies.results import as_text

HERE = Path(__file__).resolve().parent


def slim(result: dict[str, Any]) -> dict[str, Any]:
    """A result without per-epoch logs and file names; its summary is of the same seeds."""
    kept = dict(result)
    kept["seeds"] = []
    for seed in result["seeds"]:
        entry = {k: v for k, v in seed.items() if k not in ("samples", "checkpoints")}
        entry["tasks"] = [{k: v for k, v in task.items() if k != "phases"} for task in seed["tasks"]]
        kept["seeds"].append(entry)
    first = next((i for i, seed in enumerate(result["seeds"]) if seed["status"] == "done"), None)
    if first is not None and (phases := gates(result["seeds"][first]["tasks"][-1])):
        kept["seeds"][first]["tasks"][-1]["phases"] = phases
    return kept


def gates(task: dict[str, Any]) -> list[dict[str, Any]]:
    """A task's phases that measured gates, without anything else."""
    phases = []
    for phase in task.get("phases") or []:
        of = [(e["epoch"], e["measures"]["gates"]) for e in phase["epochs"] if "gates" in e["measures"]]
        epochs = [{"epoch": n, "losses": {}, "measures": {"gates": g}} for n, g in of]
        phases += [{"phase": phase["phase"], "epochs": epochs}] if epochs else []
    return phases


def main(source: str, name: str) -> None:
    gathered = gather([Path(source)])
    for found in gathered.tradeoffs:
        path = HERE / name / "tradeoff.json"
        write_atomically(path, (as_text(with_checksum({**found, "schema": 1})) + "\n").encode())
        print(path.relative_to(HERE))
    for found in gathered.results:
        path = HERE / name / f"{folder_name(found.result['label'])}.json"
        write_atomically(path, (as_text(with_checksum(slim(found.result))) + "\n").encode())
        print(path.relative_to(HERE))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python reproductions/collect.py DIR NAME")
    main(sys.argv[1], sys.argv[2])
