"""What a memory knows, in main memory: a rule for images, a learner, and what was held out to measure it.

It learns classes as they come and answers for all of them; `files` and `of_files` turn it into the content of files
and back. Where it is kept is not its business.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from engram import features, networks
from engram.core.samples import Samples
from engram.errors import ConfigError
from engram.features.contract import Features, extract, kept_bytes
from engram.learning.learner import GONE, Learner, checkpoint_folder
from engram.learning.loop import EpochEnd
from engram.memory.calibration import FEWEST, temperature_of
from engram.memory.names import check_names
from engram.memory.privacy import MOST, Audit, membership, memorisation
from engram.memory.rejection import fewest, ranks, references
from engram.memory.rule import Rule, median_side, rule_for
from engram.memory.settings import NETWORK, NETWORK_SMALL, SMALL_IMAGE, Settings
from engram.methods import registry
from engram.streams.decode import Content, Encoded
from engram.streams.splits import by_class, hold_out, n_valid

LARGEST = 1 << 26  # numbers of a sample

#: Told what is going on: a word for it, how much of it is done, and how much there is, 0 where that is not known.
Tell = Callable[[str, int, int], None]


def silent(what: str, done: int, n: int) -> None:
    """Tell nobody."""


class Model:
    """A learner of classes that arrive, with all that it needs to answer for images.

    Args:
        settings: as asked for; what they leave open is decided by the first images.

    Attributes:
        settings: complete once something is learned.
        rule, learner: None before.
        features, module: what is seen of images, where that is not the images themselves.
        calls: what each `learn` did, as JSON.
        scores: what it answered for the samples held out when they came: by call, logits [n, classes known then] and
            labels [n].
        temperature: by which logits are divided before they become probabilities.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rule: Rule | None = None
        self.learner: Learner | None = None
        self.features: Features | None = None
        self.module: nn.Module | None = None
        self.fitted = False
        self.calls: list[dict[str, Any]] = []
        self.scores: dict[str, Tensor] = {}
        self.temperature = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes known, in order of arrival; without those that were forgotten."""
        return tuple(name for name in self._places if not name.startswith(GONE))

    @property
    def _places(self) -> tuple[str, ...]:
        """Names by the learner's column, those that were forgotten too."""
        return self.learner.classes if self.learner is not None else ()

    # Learning ----------------------------------------------------------------------------------------------------
    def prepare(
        self, images: Sequence[tuple[str, Content]] | Tensor | Callable[[], Any]
    ) -> tuple[Tensor, list[str]]:
        """Images by the rule, which the first ones decide: uint8 [N, C, S, S], or vectors float32 [N, D]; and notes.

        Args:
            images: as `engram.memory.rule.given` gives them, or a function that gives them anew.
        """
        if isinstance(images, Tensor):
            self._begin(Rule(tuple(images.shape[1:])))
            assert self.rule is not None
            self.rule.check_vectors(images)
            return images, []
        again = images if callable(images) else lambda: images
        if self.rule is None:
            self._begin(rule_for(again, self._size(again), self.settings.channels))
        assert self.rule is not None
        return self.rule.bring(again())

    def _size(self, again: Callable[[], Encoded]) -> int | None:
        """Pixels squared that are asked for or needed; None where the images decide."""
        s = self.settings
        if s.image_size is not None:
            return s.image_size
        if s.features is not None:
            return features.by_name(s.features).image_size
        if s.network is None:  # one for images, to whose size they are brought
            small = median_side(again()) <= SMALL_IMAGE
            self.settings = s = replace(s, network=NETWORK_SMALL if small else NETWORK)
        return networks.about(str(s.network)).image_size

    def _begin(self, rule: Rule) -> None:
        """Make the learner for samples of this rule, where there is none yet."""
        if self.learner is not None:
            return
        s, shape = self.settings, rule.shape
        found: dict[str, Any] = {}
        if len(shape) == 3:
            s = s.decided(shape[0])
            found |= {"image_size": shape[1], "channels": shape[0]}
        else:  # vectors are features already
            s = replace(s, features=None, features_options={})
        if s.features is not None:
            self.features = features.make(s.features, dict(s.features_options))
            self.module = self.features.module(shape).eval().requires_grad_(False)
            self.fitted = not self.features.learns
            shape = (int(self.module.n_features),)  # type: ignore[arg-type]
            found["features_options"] = self.features.describe()["options"]
        network = (
            networks.by_name(s.network)(**s.network_options) if s.network else networks.default_for(shape)
        )
        spec = registry.method(s.method, s.method_options)
        self.learner = Learner(spec, network, image_shape=shape, seed=s.seed)
        self.rule = rule
        found |= {"network": network.name, "network_options": network.describe()["options"]}
        options = {o.name: getattr(spec.config, o.name) for o in registry.about(s.method).options}
        self.settings = replace(s, **found, method_options=options)

    def _seen(self, x: Tensor) -> Tensor:
        """What the learner is given of samples that `prepare` gave."""
        if self.features is None or self.module is None:
            return x
        return extract(self.module, x, self.features.block)

    def check(self, y: Tensor, names: Sequence[str], *, refine: bool = False) -> None:
        """``ConfigError`` unless classes of these names, with these labels 0.. in ``names``, can be learned now.

        ``refine`` allows known ones, where the method can.
        """
        check_names(names, self.classes, refine=refine)
        old = [name for name in names if name in self.classes]
        if old and self.learner is not None and not self.learner.method.refines:
            raise ConfigError(
                f"only sums of samples can take more of a known class, {self.settings.method} keeps none: leave out "
                f"{', '.join(old[:5])}, or learn them anew in another memory."
            )
        counts = torch.bincount(y, minlength=len(names)).tolist()
        for name, n in zip(names, counts, strict=True):
            if n < (2 if self.settings.valid_fraction else 1):
                raise ConfigError(
                    f"every class must have 2 samples, of which one is held out to measure it, got {n} "
                    f"{'sample' if n == 1 else 'samples'} of {name}: add some, or hold none out (valid_fraction 0)."
                )

    def learn(
        self,
        x: Tensor,
        y: Tensor,
        names: Sequence[str],
        *,
        work: Path | None = None,
        tell: Tell = silent,
        audit: Audit | None = None,
    ) -> dict[str, Any]:
        """Learn new classes, measure them on the part that is held out, and return the record of it.

        Args:
            x: as `prepare` gives them.
            y: int64 [N], places in ``names``.
            names: of the classes, in order of arrival.
            work: folder for checkpoints. A learn that was interrupted there goes on.
            tell: told how far it is.
            audit: is given all that the learner might keep of them.
        """
        assert self.learner is not None
        began = time.perf_counter()
        places = dict(zip(self._places, range(len(self._places)), strict=True))
        new = [name for name in names if name not in places]
        places |= {name: len(places) + k for k, name in enumerate(new)}
        n_tasks = self.learner.state.cursor.task
        kept, held = torch.arange(len(y)), y[:0]
        share = self.settings.valid_fraction
        if share > 0:
            chosen = by_class("valid", self.settings.seed, 0, names)
            kept, held = hold_out(y, lambda size: n_valid(size, share), generator=chosen)
        labels = torch.tensor([places[name] for name in names])[y]
        if self.features is not None and self.module is not None and not self.fitted:
            tell(f"features {self.features.name}", 0, 0)
            self.features.fit(self.module, Samples(x[kept], labels[kept]))
            self.module.eval().requires_grad_(False)
            self.fitted = True
        tell("features", 0, len(x))
        if audit is not None:
            audit.add(x)
        x = self._seen(x)
        if audit is not None:
            audit.add(x)
        if work is not None and checkpoint_folder(work).is_dir():
            self.learner = Learner.load(work)
        if self.learner.state.cursor.task == n_tasks:
            self._train(Samples(x[kept], labels[kept]), names, work, tell)
        tell("measuring", 0, len(held))
        columns = torch.tensor([self.classes.index(name) for name in names])
        logits = self._answers(x[held]) if len(held) else torch.zeros(0, len(self.classes))
        truth = columns[y[held]]
        right = logits.argmax(1) == truth
        self.temperature = temperature_of(logits, truth)
        call: dict[str, Any] = {
            "date": now(),
            "seconds": round(time.perf_counter() - began, 3),
            "classes": {
                name: {
                    "images": int((y == label).sum()),
                    "held_out": int((y[held] == label).sum()),
                    "right": int(right[y[held] == label].sum()),
                }
                for label, name in enumerate(names)
            },
            "refined": [name for name in names if name not in new],
            "storage": self.storage(),
            "membership": self._membership(x[kept], columns[y[kept]], logits, truth),
        }
        if self.learner.method.generative and len(held):
            tell("looking for copies", 0, 0)
            for label, name in enumerate(names):
                call["classes"][name]["memorisation"] = memorisation(
                    self.learner.method,
                    places[name],
                    x[kept[y[kept] == label]],
                    x[held[y[held] == label]],
                    self.settings.seed,
                )
        self.scores[f"logits/{len(self.calls):04d}"] = logits.contiguous()
        self.scores[f"labels/{len(self.calls):04d}"] = truth
        self.calls.append(call)
        return call

    def _membership(self, x: Tensor, y: Tensor, logits: Tensor, truth: Tensor) -> dict[str, Any] | None:
        """`membership` of at most `MOST` training samples and what was held out; None where nothing was."""
        if not len(truth):
            return None
        some = torch.linspace(0, len(y) - 1, min(len(y), MOST)).long()

        def of_truth(z: Tensor, labels: Tensor) -> Tensor:
            return torch.log_softmax(z.double(), 1).gather(1, labels[:, None])[:, 0]

        return membership(of_truth(self._answers(x[some]), y[some]), of_truth(logits, truth))

    def _train(self, samples: Samples, names: Sequence[str], work: Path | None, tell: Tell) -> None:
        assert self.learner is not None
        method = self.learner.method

        def on_epoch(event: EpochEnd) -> None:
            phases = method.phases(self.learner.task(event.task), len(samples))  # type: ignore[union-attr]
            done = sum(phase.epochs for phase in phases[: event.phase_index]) + event.epoch + 1
            tell(event.phase, done, sum(phase.epochs for phase in phases))

        tell("learning", 0, 0)
        self.learner.learn(samples, names, folder=work, on_epoch=on_epoch)

    def forget(self, name: str) -> None:
        """Remove a class exactly, and all that was measured of it.

        Raises:
            ConfigError: it is not known, is the only one, or the method cannot.
        """
        if name not in self.classes or self.learner is None:
            shown = ", ".join(self.classes[:10]) + (" ..." if len(self.classes) > 10 else "")
            raise ConfigError(f"a class must be known to be forgotten, {name!r} is not: give one of {shown}.")
        if len(self.classes) == 1:
            raise ConfigError(f"a memory must know a class, {name!r} is the only one: delete its folder.")
        column = self.classes.index(name)
        self.learner.forget(name)
        for number, call in enumerate(self.calls):
            call["classes"].pop(name, None)
            call["refined"] = [other for other in call["refined"] if other != name]
            logits, labels = (self.scores[f"{kind}/{number:04d}"] for kind in ("logits", "labels"))
            if column >= logits.shape[1]:
                continue
            stays = labels != column
            others = [k for k in range(logits.shape[1]) if k != column]
            self.scores[f"logits/{number:04d}"] = logits[stays][:, others].contiguous()
            self.scores[f"labels/{number:04d}"] = (labels - (labels > column).long())[stays]
        newest = f"{len(self.calls) - 1:04d}"
        self.temperature = temperature_of(self.scores[f"logits/{newest}"], self.scores[f"labels/{newest}"])

    # Answering ---------------------------------------------------------------------------------------------------
    def logits(self, x: Tensor) -> Tensor:
        """Scores [N, classes] of samples that `prepare` gave."""
        if self.learner is None:
            raise ConfigError(
                "a memory must have learned a class to answer, this one has not: learn one first."
            )
        return self._answers(self._seen(x))

    @property
    def columns(self) -> list[int]:
        """The learner's columns of `classes`."""
        return [place for place, name in enumerate(self._places) if not name.startswith(GONE)]

    def _answers(self, seen: Tensor) -> Tensor:
        assert self.learner is not None
        return self.learner.predict(seen)[:, self.columns]

    @property
    def uncalibrated(self) -> str:
        """Why probabilities do not mean what they say, and what to do; empty where they do."""
        if len(self.classes) < 2:
            return "one class is known: learn another"
        n = len(self.scores[f"labels/{len(self.calls) - 1:04d}"])
        if n >= FEWEST:
            return ""
        return (
            f"{FEWEST} images must be held out in a call, {n} were in the last: learn more in a call, or begin a "
            "memory with a larger --valid-fraction"
        )

    def calibrated(self, logits: Tensor) -> Tensor:
        """Probabilities float64 [N, classes] of scores that `logits` gave; see `uncalibrated`."""
        return torch.softmax(logits.double() / self.temperature, 1)

    def rejected(self, logits: Tensor, share: float) -> Tensor:
        """Whether samples with these scores show none of the known classes, bool [N]; see `engram.memory.rejection`.

        Warns where fewer images of a class were held out than ``share`` needs: such classes are judged together with
        those that came with them; where these are too few as well, they are never rejected. Warns of a class that
        came alone in the first call, too: it was the only answer, so that no image held out looked doubtful.

        Args:
            share: of images of known classes that may be rejected.

        Raises:
            ConfigError: ``share`` is not in (0, 1).
        """
        if not 0 < share < 1:
            raise ConfigError(
                f"the share to reject must be above 0 and below 1, got {share}: give 0.05, say."
            )
        known = references(self.classes, self.calls, self.scores, share)
        few = (
            f"to reject {100 * share:g} %, {fewest(share)} images that are answered with a class must have been held "
            "out"
        )
        for so, why, what in (
            (
                [not one.own and len(one.scores) >= fewest(share) for one in known],
                few,
                "are judged together with those that came with them",
            ),
            ([len(one.scores) < fewest(share) for one in known], few, "are never rejected"),
            (
                [one.n_classes == 1 and len(one.scores) >= fewest(share) for one in known],
                "a class must have come with others, or after them",
                "are never rejected",
            ),
        ):
            names = [name for name, yes in zip(self.classes, so, strict=True) if yes]
            if names:
                shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
                warnings.warn(f"{why}; answers with {shown} {what}", stacklevel=4)
        return ranks(logits, self.temperature, known) <= share

    def storage(self) -> dict[str, int]:
        """Bytes that are kept to go on, by kind."""
        assert self.learner is not None
        kept = dict(self.learner.method.storage_bytes())
        kept["features"] = 0 if self.module is None else kept_bytes(self.module)
        kept["scores"] = sum(t.nbytes for t in self.scores.values())
        return kept

    # Keeping -----------------------------------------------------------------------------------------------------
    def files(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """What is known as JSON, and the content of files by name."""
        assert self.learner is not None
        assert self.rule is not None
        content, meta = self.learner.packed()
        files = {"learner.safetensors": content, "learner.json": json.dumps(meta, sort_keys=True).encode()}
        files["scores.safetensors"] = save_tensors(self.scores)
        if self.module is not None and self.module.state_dict():
            files["features.safetensors"] = save_tensors(dict(self.module.state_dict()))
        facts = {
            "settings": self.settings.to_json(),
            "shape": list(self.rule.shape),
            "classes": list(self.classes),
            "calls": self.calls,
            "temperature": self.temperature,
        }
        return facts, files

    @classmethod
    def of_files(cls, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Model:
        """The model whose `files` these are."""
        if math.prod(facts["shape"]) > LARGEST:
            raise ConfigError(
                f"samples of a memory must hold at most {LARGEST:,} numbers, got {facts['shape']}."
            )
        if not facts["calls"]:
            raise ConfigError("a memory must have learned something, it has not.")
        found = cls(Settings(**facts["settings"]))
        rule = Rule(tuple(facts["shape"]))
        found._begin(rule)
        assert found.learner is not None
        meta = json.loads(files["learner.json"])
        if json.loads(json.dumps(found.learner.identity())) != meta["identity"]:
            raise ConfigError("a memory's learner must be made of its settings, it is not.")
        found.learner = Learner.unpacked(files["learner.safetensors"], meta)
        if found.module is not None and found.module.state_dict():
            found.module.load_state_dict(load_tensors(files["features.safetensors"]))
        found.fitted = True
        found.calls = list(facts["calls"])
        found.temperature = float(facts["temperature"])
        found.scores = load_tensors(files["scores.safetensors"])
        if list(found.classes) != facts["classes"]:
            raise ConfigError("a memory's learner must have learned its classes, it has not.")
        return found


def now() -> str:
    """The time, as it is written down."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
