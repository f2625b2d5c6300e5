"""The folder of a run or a comparison: what it may hold before, who uses it, and what is replaced."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from engram.errors import ConfigError, EngramError
from engram.studies.results import RESULT_FILE, SWEEP_FILE, TRADEOFF_FILE, find_results, read_result

CONFIG_FILE = "config.yaml"
CONFIG_HEAD = "# Resolved settings."
LOCK = ".lock"

# What engram writes below a run's folder: names of files in seed-N, seed-N/checkpoints and tensorboard/seed-N.
TEMPORARY = r"\..+\.\d+\.tmp"
SEED_FILE = (
    r"job\.json|result\.json|worker\.log|samples\.safetensors|artifacts\.safetensors|\.task\.lock|"
    + TEMPORARY
)
CHECKPOINT = r"\d{8}\.(json|safetensors)|" + TEMPORARY
EVENTS = r"events\.out\.tfevents\..+"

State = Literal["new", "unfinished", "finished"]


def folder_name(label: str) -> str:
    """A label as the name of a folder: ``dgmw:solver=shared`` is ``dgmw-solver-shared``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")


def state_of(folder: Path, identity: Mapping[str, Any], seeds: list[int], *, overwrite: bool) -> State:
    """What ``folder`` holds of the run with this identity.

    Raises:
        ConfigError: it holds another run, and ``overwrite`` was not asked for.
    """
    if overwrite:
        return "new"
    try:
        stored = read_result(folder) if (folder / RESULT_FILE).exists() else None
    except EngramError as error:
        raise ConfigError(f"{error} Give --overwrite to replace it, or another --out.") from error
    if stored is None:
        if any(folder.glob("seed-*/checkpoints/*.json")):
            return "unfinished"
        return "new"
    difference = first_difference(identity_of(stored), identity)
    if difference:
        raise ConfigError(
            f"{folder} must hold the same run or none, it holds another ({difference}): "
            "give another --out, or --overwrite to replace it."
        )
    done = {s["seed"] for s in stored["seeds"] if s["status"] == "done"}
    return "finished" if done >= set(seeds) else "unfinished"


def identity_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a result this run: its configuration without seeds, its data and its device."""
    config = {k: v for k, v in result["config"].items() if k not in ("seeds", "recipe", "device")}
    return {
        **config,
        "fingerprint": result["data"].get("fingerprint"),
        "device": result["device"].get("class"),
    }


def check_neighbours(root: Path, folders: set[Path], identity: Mapping[str, Any]) -> None:
    """A comparison's folder may hold other methods' results, if they are of the same data and scenario.

    Raises:
        ConfigError: they are of other data, or the folder itself holds a run.
    """
    for name, what in ((SWEEP_FILE, "sweep"), (TRADEOFF_FILE, "trade-off")):
        if (root / name).exists():
            raise ConfigError(f"{root} must hold no {what}, it holds one: give another --out.")
    if (root / RESULT_FILE).exists() and root not in folders:
        raise ConfigError(f"{root} must be the folder of a comparison, it holds a run: give another --out.")
    if not any(root.glob(f"*/{RESULT_FILE}")):
        return
    if root in folders:
        raise ConfigError(f"{root} must be the folder of a run, it holds a comparison: give another --out.")
    for found in find_results(root):
        if found.directory in folders:
            continue
        stored = identity_of(found.result)
        difference = first_difference(
            {k: stored.get(k) for k in ("data", "fingerprint")},
            {k: identity.get(k) for k in ("data", "fingerprint")},
        )
        if difference:
            raise ConfigError(
                f"{root} must hold results of the same data, those of {found.directory.name} are of "
                f"other data ({difference}): give another --out."
            )


def first_difference(stored: Any, given: Any, where: str = "") -> str:
    """The first place where two JSON values differ, in words; empty when they are equal."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        for key in dict.fromkeys([*stored, *given]):
            found = first_difference(stored.get(key), given.get(key), f"{where}.{key}" if where else str(key))
            if found:
                return found
        return ""
    if stored == given:
        return ""

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else text[:37] + "..."

    return f"{where}: {short(stored)} there, {short(given)} now"


def is_ours(folder: Path) -> bool:
    """Whether engram has written a run into this folder: a result, settings, or a seed's job."""
    return _is_result(folder / RESULT_FILE) or _is_config(folder / CONFIG_FILE) or any(_seed_folders(folder))


def check_ours(root: Path, folders: Iterable[Path] = (), *, below: tuple[str, ...] = ("*",)) -> None:
    """Only what engram wrote may be overwritten; an empty folder, or none, is fine.

    Args:
        root: the folder of a run, a comparison or a sweep.
        folders: those that are cleared.
        below: patterns of the folders of runs within ``root``.

    Raises:
        ConfigError: one of them holds files, and none that engram wrote.
    """
    runs = [path for pattern in below for path in root.glob(pattern) if path.is_dir()]
    if _holds_files(root) and not any(is_ours(path) for path in (root, *runs)):
        raise _not_ours(root)
    for folder in folders:
        if _holds_files(folder) and not is_ours(folder):
            raise _not_ours(folder)


def clear(folder: Path) -> None:
    """Remove what engram wrote into the folder of one method, and nothing else.

    Figures stay: they are replaced when the report is written, and the page embeds its own.
    """
    if is_ours(folder):
        (folder / "report.html").unlink(missing_ok=True)
    for seed in _seed_folders(folder):
        clear_checkpoints(seed)
        _clear_files(folder / "tensorboard" / seed.name, EVENTS)
        _clear_files(seed, SEED_FILE)
    for path in folder.glob("seed-*"):
        if re.fullmatch(r"seed-\d+", path.name):
            with contextlib.suppress(OSError):  # not empty, or no folder: not ours
                path.rmdir()
    with contextlib.suppress(OSError):
        (folder / "tensorboard").rmdir()
    if _is_config(folder / CONFIG_FILE):
        (folder / CONFIG_FILE).unlink()
    (folder / RESULT_FILE).unlink(missing_ok=True)


def clear_checkpoints(seed: Path) -> None:
    """Remove the checkpoints of one seed."""
    _clear_files(seed / "checkpoints", CHECKPOINT)


def _seed_folders(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.glob("seed-*"))
        if re.fullmatch(r"seed-\d+", path.name) and not path.is_symlink() and (path / "job.json").is_file()
    ]


def _clear_files(folder: Path, known: str) -> None:
    """Remove the files whose names match ``known`` in full, the job last, and the folder where it is empty then."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in sorted(folder.iterdir(), key=lambda p: p.name == "job.json"):
        if re.fullmatch(known, path.name) and (path.is_symlink() or path.is_file()):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())


def _is_result(path: Path) -> bool:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and "schema" in stored and "seeds" in stored


def _is_config(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().startswith(CONFIG_HEAD)
    except (OSError, ValueError):
        return False


def _not_ours(folder: Path) -> ConfigError:
    return ConfigError(
        f"--overwrite must name a folder that engram wrote, {folder} holds other files and no result: "
        "give another --out."
    )
