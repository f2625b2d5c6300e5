"""From settings to everything that is checked before a worker starts: stream, network, methods, folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import networks
from engram.core.files import checksum
from engram.errors import ConfigError
from engram.studies import folders
from engram.studies.settings import (
    DataSettings,
    Job,
    NetworkSettings,
    network_options,
    plain,
    prepare,
    section,
)

if TYPE_CHECKING:
    from engram.methods.registry import MethodSpec
    from engram.streams import Stream


SELECTION = {
    "last": "last epoch",
    "val_real_all": "best epoch on real validation data of all tasks, not strict",
}


@dataclass(frozen=True)
class Work:
    """One method of a run or comparison, checked and ready.

    Args:
        label: in tables.
        folder: gets ``results.json``, ``config.yaml`` and a folder a seed.
        state: what the folder holds of it.
        jobs: one a seed.
        skeleton: the result file without its seeds.
        settings: the resolved configuration, as ``--config`` takes it.
        weight: larger runs longer; a guess for the order of starts.
    """

    label: str
    folder: Path
    state: folders.State
    jobs: tuple[Job, ...]
    skeleton: Mapping[str, Any]
    settings: Mapping[str, Any]
    weight: int


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds as a list; ``ConfigError`` unless they are distinct integers >= 0, at least one."""
    if not isinstance(seeds, Iterable):
        raise ConfigError(
            f"seeds must be a list of distinct integers >= 0, got {seeds!r}: give for example [0]."
        )
    numbers = list(seeds)
    good = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in numbers)
    if not numbers or not good or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"seeds must be distinct integers >= 0, at least one, got {numbers}: give for example 0 1 2."
        )
    return numbers


def check_labels(labels: Sequence[str], name: Callable[[str], str] = folders.folder_name) -> None:
    """``ConfigError`` unless the methods of a comparison have names and folders of their own."""
    if not labels:
        raise ConfigError("methods must be named, got none: see engram list.")
    folders = [name(label) for label in labels]
    for label, folder in zip(labels, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError(f"every method must be named once, got {label} twice: leave one out.")


def make(
    methods: Sequence[tuple[str, MethodSpec]],
    data: DataSettings,
    network: NetworkSettings,
    *,
    seeds: Sequence[int],
    out: Path,
    nested: bool,
    device: str,
    resume: bool,
    overwrite: bool,
    recipe: str | None,
    record_valid: bool = False,
    folder_name: Callable[[str], str] = folders.folder_name,
) -> list[Work]:
    """Check everything that can be checked without training; touches no file in ``out``.

    Data are read, and decoded ones are cached for the workers.

    Raises:
        ConfigError: a combination that cannot work, or ``out`` holds something else.
        DataError: the data cannot be used.
        CheckpointError: ``resume`` meets checkpoints of another run.
    """
    from engram.protocols.session import Session, check_device, resolve

    check_device(device)
    numbers = check_seeds(seeds)
    check_labels([label for label, _ in methods], folder_name)
    if resume and overwrite:
        raise ConfigError("only one of resume and overwrite may be given, got both: leave one out.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out must be a folder, got the file {out}: give another --out.")
    stream, built = prepare(data, network)
    judged = replace(data.protocol(), record_valid=record_valid)
    if data.groups is None and data.angles is None:
        data = replace(data, tasks=stream.n_tasks)
    source = networks.source_of(network.name or built.name)
    network = NetworkSettings(network.name if source else built.name, network_options(built))
    where = device_facts(device)
    works: list[Work] = []
    taken = {out / folder_name(label) if nested else out for label, _ in methods}
    for label, spec in methods:
        _, _, protocol = resolve(stream, built, spec, judged)
        session = Session(
            stream,
            built,
            spec,
            protocol,
            seed=numbers[0],
            device="cpu",
            out=None,
            resume=False,
            observer=None,
        )
        options = plain(asdict(spec.config))
        config = {
            "method": plain(spec.describe()),
            "data": data.what(),
            "network": {
                "name": built.name,
                "options": dict(network.options),
                **({"source": source} if source else {}),
            },
            "seeds": numbers,
            "recipe": recipe,
            "device": device,
        }
        skeleton = {
            "method": spec.name,
            "label": label,
            "config": config,
            "protocol": {
                "scenario": protocol.scenario,
                "reads": session.method.reads,
                "selection": SELECTION[protocol.selection],
            },
            "data": described(stream),
            "tasks": stream.describe()["tasks"],
            "device": where,
            "facts": session.method.facts(),
        }
        skeleton = json.loads(json.dumps(skeleton))
        identity = folders.identity_of(skeleton)
        if not works:
            folders.check_neighbours(out, taken, identity)
        folder = out / folder_name(label) if nested else out
        state = folders.state_of(folder, identity, numbers, overwrite=overwrite)
        if state == "unfinished" and not resume:
            raise ConfigError(
                f"{folder} must be empty or continued, it holds an unfinished run: "
                "give --resume to continue it, or --overwrite to start again."
            )
        jobs = tuple(
            Job(
                data,
                network,
                spec.name,
                options,
                s,
                device,
                str(folder / f"seed-{s}"),
                resume,
                label,
                record_valid,
                checksum(identity),
                method_file=spec.file,
            )
            for s in numbers
        )
        if state == "unfinished":
            _check_checkpoints(session, jobs)
        settings = settings_as_config(spec, options, data, network, numbers, device, recipe)
        weight = 2 if session.method.generative else int(session.method.reads == "all")
        works.append(Work(label, folder, state, jobs, skeleton, settings, weight))
    return works


def _check_checkpoints(session: Any, jobs: Sequence[Job]) -> None:
    """Refuse checkpoints of another run before anything is touched."""
    from engram.learning.checkpoint import Checkpoints

    for job in jobs:
        identity = {**session.identity(), "seed": job.seed}
        Checkpoints(Path(job.folder) / "checkpoints", identity).check()


def described(stream: Stream) -> dict[str, Any]:
    """The ``data`` entry of a result."""
    facts = stream.describe()
    return {
        "name": " and ".join(name for name, _ in stream.data),
        "stream": facts["name"],
        "fingerprint": facts["fingerprint"],
        "n_classes": facts["n_classes"],
        "class_names": facts["class_names"],
        "image_shape": facts["image_shape"],
        "notes": facts["notes"],
        "options": facts["options"],
        "seed": facts["seed"],
    }


def device_facts(device: str) -> dict[str, Any]:
    """The ``device`` entry of a result: a class of device, never a machine's name."""
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(torch.device(device))
        return {"class": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {"class": "cpu", "threads": 1, "torch": torch.__version__}


def settings_as_config(
    spec: MethodSpec,
    options: Mapping[str, Any],
    data: DataSettings,
    network: NetworkSettings,
    seeds: Sequence[int],
    device: str,
    recipe: str | None,
) -> dict[str, Any]:
    """The resolved settings under the names of the command line, so that ``--config`` takes them back."""
    from engram.methods.registry import entry

    fixed = entry(spec.name).fixed
    return {
        "recipe": recipe or "none",
        **data.what(),
        "network": network.name,
        **(
            {}
            if networks.is_place(str(network.name))
            else {section(str(network.name)): dict(network.options)}
        ),
        **({"method_file": [spec.file]} if spec.file else {}),
        section(spec.name): {k: v for k, v in options.items() if k not in fixed},
        "seeds": list(seeds),
        "device": device,
    }
