"""Copy the results of a run or comparison into this folder, without what only its report needs.

    python reproductions/collect.py DIR NAME

Writes ``reproductions/NAME/METHOD.json``: the result file without per-epoch logs, names of files, and places. What
stays: resolved configuration, data fingerprint, class of device, accuracy matrices, intervals, seconds, bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engram.studies.results import find_results, write_result

HERE = Path(__file__).resolve().parent


def slim(result: dict[str, Any]) -> dict[str, Any]:
    """A result without per-epoch logs and file names; the summary is recomputed from the seeds when written."""
    kept = dict(result)
    kept["seeds"] = []
    for seed in result["seeds"]:
        entry = {k: v for k, v in seed.items() if k not in ("samples", "checkpoints")}
        entry["tasks"] = [{k: v for k, v in task.items() if k != "phases"} for task in seed["tasks"]]
        kept["seeds"].append(entry)
    return kept


def main(source: str, name: str) -> None:
    for found in find_results(source):
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        label = found.directory.name if found.directory != Path(source) else str(found.result["method"])
        write_result(folder / f"{label}.json", slim(found.result))
        print(folder.relative_to(HERE) / f"{label}.json")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python reproductions/collect.py DIR NAME")
    main(sys.argv[1], sys.argv[2])
