"""From a variant to everything that is checked before its workers start: stream, network, method, identity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import engram
from engram.core.files import checksum, write_atomically
from engram.core.network import Network
from engram.core.origin import described as source_of
from engram.core.sources import is_place
from engram.core.yaml_files import as_yaml
from engram.features import FEATURES, OWN
from engram.learning.checkpoint import Checkpoints
from engram.learning.precision import reason_for
from engram.methods.registry import MethodSpec, entry, in_hand, method
from engram.protocols.session import Session, check_device, resolve
from engram.streams.stream import Stream
from engram.studies.building import prepare
from engram.studies.folders import CONFIG_FILE, CONFIG_HEAD, SHARED
from engram.studies.jobs import Job
from engram.studies.settings import FeatureSettings, NetworkSettings, Settings, plain, section
from engram.studies.variants import Variant, identity_of

SELECTION = {
    "last": "last epoch",
    "val_real_all": "best epoch on real validation data of all tasks, not strict",
}


@dataclass(frozen=True)
class Work:
    """One variant, checked and ready.

    Args:
        variant: what was asked for.
        folder: gets ``config.yaml`` and a folder a seed.
        jobs: one a seed.
        record: its entry in ``study.json``, with the data and tasks that all variants have in common.
        checkpoint: identity of its checkpoints, but for the seed.
        config: the resolved settings under the names of the command line, so that ``--config`` takes them back.
        weight: larger runs longer; a guess for the order of starts.
    """

    variant: Variant
    folder: Path
    jobs: tuple[Job, ...]
    record: dict[str, Any]
    checkpoint: Mapping[str, Any]
    config: Mapping[str, Any]
    weight: tuple[int, int]

    def write_config(self, seeds: Sequence[int]) -> None:
        """Write ``config.yaml``; ``seeds`` are all that the folder holds."""
        again = f"engram run {self.variant.method} --config {CONFIG_FILE} --out DIR"
        text = as_yaml({**self.config, "seeds": list(seeds)})
        if self.jobs[0].inherits:
            again = "from Python, with the same objects, which no file can name"
        head = f"{CONFIG_HEAD} To run them again: {again}\n"
        write_atomically(self.folder / CONFIG_FILE, (head + text).encode())

    def check_checkpoints(self) -> None:
        """``CheckpointError`` where a seed's folder holds checkpoints of another run."""
        for job in self.jobs:
            Checkpoints(Path(job.folder) / "checkpoints", {**self.checkpoint, "seed": job.seed}).check()


@dataclass(frozen=True)
class _Seen:
    """What methods are given: a stream, through features or not, and the network for it under its name."""

    features: FeatureSettings
    stream: Stream
    network: Network
    name: str

    @property
    def facts(self) -> dict[str, str]:
        """What a table says of the features."""
        view = self.stream.view
        if view is None:
            return {}
        told = view.describe()
        return {"features": f"{told['name']}, d = {view.shape[0]}, trained on: {told['trained_on']}"}

    @property
    def config(self) -> dict[str, Any]:
        """The features as a file for ``--config`` names them."""
        f = self.features
        if f.name is None or self.stream.view is None:
            return {}
        given = {"features": f.name, "weights": f.weights, "trained_on": f.trained_on}
        options = self.stream.view.describe()["options"] if f.name in FEATURES else {}
        return {
            **{k: v for k, v in given.items() if v is not None},
            **({section(f.name): options} if options else {}),
        }


class Planner:
    """Makes runs of variants, on the stream that all of them share. Decoded data are cached for the workers.

    Args:
        settings: with a device that is resolved.
        record_valid: measure validation samples too.

    Raises:
        ConfigError: a combination that cannot work.
        DataError: the data cannot be used.
    """

    def __init__(self, settings: Settings, record_valid: bool) -> None:
        self.why = reason_for(settings.precision, check_device(settings.device))
        self.settings, self.record_valid = settings, record_valid
        stream, network = prepare(settings.data, settings.network, settings.held, settings.features)
        self.stream = stream
        self.named = bool(settings.network.name or settings.features.name)
        self.size = None if settings.features.name or settings.data.image_size else network.image_size
        self.seen = [_Seen(settings.features, stream, network, settings.network.name or network.name)]
        self.data = settings.data
        if self.data.groups is None and self.data.angles is None:
            self.data = replace(self.data, tasks=self.stream.n_tasks)

    def _see(self, features: FeatureSettings | None) -> _Seen:
        """What methods are given with a variant's features; None are the study's."""
        if features is None:
            return self.seen[0]
        for one in self.seen:
            if one.features == features:
                return one
        stream, network = prepare(
            self.settings.data, NetworkSettings(), self.settings.held, features, self.size
        )
        self.seen.append(_Seen(features, stream, network, network.name))
        return self.seen[-1]

    def work(self, variant: Variant) -> Work:
        """Check everything that can be checked without training; touches no file. Errors as above."""
        s, seen = self.settings, self._see(variant.features)
        lower = s.precision != "float32"
        source = seen.network.source()
        network = NetworkSettings(seen.name, plain(seen.network.describe()["options"]))
        spec = method(variant.method, variant.options)
        own = source_of(spec.make)
        judged = replace(self.data.protocol(), record_valid=self.record_valid)
        _, _, protocol = resolve(seen.stream, seen.network, spec, judged)
        session = Session(
            seen.stream,
            seen.network,
            spec,
            protocol,
            seed=s.seeds[0],
            device="cpu",
            compile=s.compile,
            precision=s.precision,
            out=None,
            resume=False,
            observer=None,
        )
        options = plain(asdict(spec.config))
        facts = seen.stream.describe()
        record = {
            "label": variant.label,
            "folder": variant.folder,
            "method": spec.name,
            "config": {
                "method": {**spec.describe(), **({"source": own} if own else {})},
                "data": self.data.what(),
                "network": {
                    **seen.network.describe(),
                    **({"source": source} if source else {}),
                },
                **({"features": facts["features"]} if "features" in facts else {}),
                "recipe": s.recipe,
                "device": s.device,
                **({"compile": s.compile} if s.compile != "eager" else {}),
                **({"precision": s.precision} if lower else {}),
            },
            "protocol": {
                "scenario": protocol.scenario,
                "reads": session.method.reads,
                "selection": SELECTION[protocol.selection],
            },
            "device": {**device_facts(s.device), **({"precision": self.why} if lower else {})},
            "facts": {
                **seen.facts,
                **({"precision": s.precision} if lower else {}),
                **session.method.facts(),
            },
            "engram": engram.__version__,
            "varied": variant.varied,
            "curve": variant.curve,
            "seeds": list(s.seeds),
            "data": described(seen.stream.images),
            "tasks": facts["tasks"],
        }
        record = json.loads(json.dumps(record))
        record["identity"] = checksum(identity_of(record))
        folder = s.out / variant.folder
        inherits = (
            bool(s.held)
            or in_hand(spec.name)
            or seen.features.name in OWN
            or (source is not None and not is_place(seen.name))
        )
        jobs = tuple(
            Job(
                self.data,
                network,
                spec.name,
                options,
                seed,
                s.device,
                str(folder / f"seed-{seed}"),
                s.resume,
                variant.label,
                self.record_valid,
                record["identity"],
                method_file=spec.file,
                held=s.held,
                features=seen.features,
                size="network" if variant.features is None and self.named else self.size,
                inherits=inherits,
                shared=str(s.out / SHARED),
                compile=s.compile,
                precision=s.precision,
                ready=(seen.stream, seen.network),
            )
            for seed in s.seeds
        )
        heavy = 2 if session.method.generative else int(session.method.reads == "all")
        return Work(
            variant,
            folder,
            jobs,
            record,
            session.identity(),
            self._config(spec, options, network, seen, sized=variant.features is not None),
            (heavy, _epochs(options)),
        )

    def _config(
        self,
        spec: MethodSpec,
        options: Mapping[str, Any],
        network: NetworkSettings,
        seen: _Seen,
        *,
        sized: bool,
    ) -> dict[str, Any]:
        fixed = entry(spec.name).fixed
        return {
            "recipe": self.settings.recipe or "none",
            **self.data.what(),
            "network": network.name,
            **({} if seen.network.source() else {section(str(network.name)): dict(network.options)}),
            **seen.config,
            **({"image_size": self.size} if sized and self.size else {}),
            **({"method_file": [spec.file]} if spec.file else {}),
            section(spec.name): {k: v for k, v in options.items() if k not in fixed},
            "seeds": list(self.settings.seeds),
            "device": self.settings.device,
            **({"compile": self.settings.compile} if self.settings.compile != "eager" else {}),
            **({"precision": self.settings.precision} if self.settings.precision != "float32" else {}),
        }


def described(stream: Stream) -> dict[str, Any]:
    """The ``data`` entry of a result."""
    facts = stream.describe()
    kept = ("fingerprint", "n_classes", "class_names", "image_shape", "notes", "options", "seed")
    name = " and ".join(name for name, _ in stream.data)
    return {"name": name, "stream": facts["name"], **{k: facts[k] for k in kept}}


def found_device(name: str) -> str:
    """``auto`` is cuda where there is an accelerator that PyTorch can use, else cpu."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def device_facts(device: str) -> dict[str, Any]:
    """The ``device`` entry of a result: a class of device, never a machine's name."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(torch.device(device))
        return {"class": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return {"class": "cpu", "threads": 1, "torch": torch.__version__}


def _epochs(options: Mapping[str, Any]) -> int:
    """About how many epochs a run has: a guess, for the order of starts."""
    first = options.get("epochs") or 1
    later = options.get("later_epochs") or first
    more = [v for k, v in options.items() if k.endswith("_epochs") and k != "later_epochs"]
    return int(first + later + sum(later if v is None else v for v in more))
