"""What is attacked: each kind makes a good input once, and reads a mutated one in the way a user's command does.

An attempt returns normally where the input was read, raises ``EngramError`` where it was refused, and `Silent` where
what was read is not what the input says. Anything else is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

import engram
from engram.checks import tiny_stream
from engram.checks.comparing import timeless
from engram.cli import command_line
from engram.core.files import digest, sealed, unsealed, with_checksum
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.entry import derived, seed_result
from engram.protocols.session import run
from engram.report.analyses.sections import analysis_pictures
from engram.report.exports import FORMATS, main_table
from engram.report.gallery import comparison_pictures, method_pictures
from engram.report.html import render
from engram.streams import from_arrays, load
from engram.studies.jobs import Event
from engram.studies.results import Findings, read, summarise, write_entry
from engram.studies.settings import DataSettings, NetworkSettings
from fuzz import mutate


class Silent(Exception):
    """What was read is not what the input says, and no word of it."""


def agree(good: bool, what: str) -> None:
    """Raise `Silent` unless it is good."""
    if not good:
        raise Silent(what)


class Kind:
    """A kind of input.

    Args:
        folder: of its own; holds the good input, and each mutated one for as long as it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.prepare()

    def prepare(self) -> None:
        """Make the good input."""

    def attempt(self, rng: random.Random) -> None:
        """Read a mutated one."""
        raise NotImplementedError

    def fresh(self, name: str = "here") -> Path:
        """An empty folder, the same one every time."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


class Images(Kind):
    """A folder of classes in which one picture of any format is damaged, or says it is huge."""

    formats = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

    def prepare(self) -> None:
        rng = np.random.default_rng(0)
        self.good = {}
        for kind in self.formats:
            for mode, shape in (("L", (10, 12)), ("RGB", (10, 12, 3))):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(file, kind)
                self.good[kind, mode] = file.getvalue()
        self.pixels = {rng.integers(0, 256, (10, 12), np.uint8).tobytes() for _ in range(8)}

    def attempt(self, rng: random.Random) -> None:
        root = self.fresh()
        for n, pixels in enumerate(sorted(self.pixels)):
            place = root / ("cat", "dog")[n % 2] / f"{n}.png"
            place.parent.mkdir(exist_ok=True)
            Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(10, 12)).save(place)
        kind, mode = rng.choice(list(self.good))
        content = self.good[kind, mode]
        huge = {"PNG": (16, 8), "GIF": (6, 4), "BMP": (18, 8)}.get(kind)
        if huge is not None and rng.random() < 0.3:
            content = content[: huge[0]] + rng.randbytes(huge[1]) + content[sum(huge) :]
        else:
            content = mutate.of_bytes(rng, content)
        (root / "cat" / f"damaged.{kind.lower()}").write_bytes(content)
        size = rng.choice((None, None, 8))
        data = load(str(root), image_size=size, cache_dir=self.fresh("cache"))
        agree(len(data.train_x) + len(data.test_x) == 9, "pictures are missing")
        if size is None and data.image_shape == (1, 10, 12):
            found = {bytes(x.numpy().tobytes()) for x in (*data.train_x, *data.test_x)}
            agree(self.pixels <= found, "pixels of another picture changed")


class Tables(Kind):
    """A Parquet file whose bytes are damaged, or one of whose columns is of another type."""

    def prepare(self) -> None:
        cells = []
        for n in range(12):
            file = io.BytesIO()
            Image.fromarray(np.full((6, 6), 20 * n, np.uint8)).save(file, "PNG")
            cells.append(file.getvalue())
        image = pa.array([{"bytes": c, "path": None} for c in cells])
        self.columns: dict[str, Any] = {"image": image, "label": pa.array([n % 3 for n in range(12)])}
        self.cells = cells

    def attempt(self, rng: random.Random) -> None:
        path = self.fresh() / "train.parquet"
        columns = dict(self.columns)
        if rng.random() < 0.4:
            columns[rng.choice(("label", "label", "image", "extra"))] = self._column(rng)
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file, compression=rng.choice(("none", "snappy", "zstd")))
        content = file.getvalue()
        path.write_bytes(mutate.of_bytes(rng, content) if rng.random() < 0.6 else content)
        data = load(str(path.parent), cache_dir=self.fresh("cache"))
        if "label" not in pq.read_schema(path).names:
            return  # a flipped byte of its name: another column is the one that could be meant
        labels = pq.read_table(path, columns=["label"])["label"].to_pylist()  # other columns may be damaged
        agree(len(data.train_x) + len(data.test_x) == len(labels), "rows are missing")
        agree(data.n_classes == len(set(map(str, labels))), "classes are missing")

    def _column(self, rng: random.Random) -> Any:
        n = 12
        made: list[Callable[[], Any]] = [
            lambda: pa.array([float(k % 2) for k in range(n)]),
            lambda: pa.array([k / 3 for k in range(n)]),
            lambda: pa.array([bool(k % 2) for k in range(n)]),
            lambda: pa.array([rng.choice(("a", "b", "²", "\x1b[2J", "1", "10")) for _ in range(n)]),
            lambda: pa.array([rng.choice((None, 0, 1)) for _ in range(n)], pa.int64()),
            lambda: pa.array([[1, 2]] * n),
            lambda: pa.array(self.cells, pa.large_binary()),
            lambda: pa.array([rng.randbytes(20) for _ in range(n)]),
            lambda: pa.array([2**63 + k % 2 for k in range(n)], pa.uint64()),
            lambda: pa.array([-1 - k % 2 for k in range(n)]),
            lambda: pa.array(["a", "b"] * (n // 2)).dictionary_encode(),
            lambda: pa.array([float("nan")] * n),
            lambda: pa.nulls(n),
        ]
        return rng.choice(made)()


class Arrays(Kind):
    """Arrays of any type, order and shape, with labels of any type."""

    def attempt(self, rng: random.Random) -> None:
        odd = rng.sample(
            ("shape", "kind", "value", "labels", "range", "layout", "names"), rng.choice((1, 1, 2, 3))
        )
        n = rng.choice((0, 1, 5)) if "shape" in odd else 12
        x = self._pixels(rng, n, odd)
        labels = [k % 3 for k in range(n)]
        y = self._labels(rng, labels) if "labels" in odd else labels
        more: dict[str, Any] = {}
        if "range" in odd:
            ranges = ((0, 1), (0, 255), (0, 255.0), (0, 65535), (1, 0), (0, math.inf), "ab", (0,), (-1, 1), 3)
            more["value_range"] = rng.choice(ranges)
        if "layout" in odd:
            more["layout"] = rng.choice(("NHW", "NHWC", "NCHW", "x", 3))
        if "names" in odd:
            names = (["a", "b", "c"], ["a", "a", "c"], ["a", "b"], "abc", 3, [1, 2, 3], ["\x1b", "b", "c"])
            more["class_names"] = rng.choice(names)
        data = from_arrays(x, y, x, y, **more)
        agree(len(data.train_x) == len(x) == len(data.test_x), "samples are missing")
        given = [str(v) for v in np.asarray(y).tolist()]
        pairs = set(zip(given, data.train_y.tolist(), strict=True))
        agree(len(pairs) == len(set(given)) == data.n_classes, "labels were mixed up")
        if x.dtype == np.uint8 and "range" not in odd and x.ndim == 3:
            agree(bool((data.train_x[:, 0].numpy() == x).all()), "pixels changed")

    def _pixels(self, rng: random.Random, n: int, odd: list[str]) -> Any:
        shapes = (
            (n, 6, 6),
            (n, 6, 6, 3),
            (n, 3, 6, 6),
            (n, 1, 6, 6),
            (n, 5),
            (n,),
            (n, 2, 2, 2, 2),
            (n, 0, 6),
        )
        shape = rng.choice(shapes) if "shape" in odd else rng.choice(shapes[:4])
        kinds = ("u1", ">u2", "<i4", ">f4", "f8", "f2", "u8", "?", "c8", "O", "U3", "i1", "M8[s]", "f2")
        kind = rng.choice(kinds) if "kind" in odd else rng.choice(("u1", "u1", "f4"))
        top = rng.choice((1, 255, 300, -1)) if "value" in odd else 1 if "f" in kind else 255
        x = np.random.default_rng(rng.randrange(2**32)).random(shape) * top
        if "value" in odd and x.size:
            x.flat[rng.randrange(x.size)] = rng.choice((np.nan, np.inf, -1e-9, 1 + 1e-9, 2.0**70, 0.0))
        with np.errstate(all="ignore"):
            made: Any = x.astype("i8").astype(kind) if kind == "M8[s]" else x.astype(kind)
        made = made[:, ::-1] if "kind" in odd and made.ndim > 1 and rng.random() < 0.3 else made
        made.flags.writeable = rng.random() < 0.8
        return made

    def _labels(self, rng: random.Random, labels: list[int]) -> Any:
        named: list[Callable[[], Any]] = [
            lambda: np.array(labels), lambda: np.array(labels, ">u2"), lambda: np.array(labels, "f4"),
            lambda: [f"c{v}" for v in labels], lambda: np.array([f"c{v}" for v in labels], object),
            lambda: np.array(labels, "u8") + np.uint64(2**63), lambda: np.array(labels) + 0.5, lambda: labels[:-1],
            lambda: np.array([labels]), lambda: None, lambda: [None] * len(labels), lambda: np.array(labels, bool),
            lambda: [[v] for v in labels], lambda: np.array([f"c{v}".encode() for v in labels]), lambda: 3,
            lambda: ["10", "9", "a"] * (len(labels) // 3), lambda: [10**30 + v for v in labels],
        ]  # fmt: skip
        return rng.choice(named)()


class Yaml(Kind):
    """A file for ``--config``."""

    def prepare(self) -> None:
        self.path = self.folder / "settings.yaml"
        self.good = self._printed(["run", "finetune"])

    def _printed(self, words: list[str]) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            command_line.read(words[0], [*words[1:], "--print-config"])
        return said.getvalue()

    def attempt(self, rng: random.Random) -> None:
        self.path.write_text(mutate.of_text(rng, self.good), encoding="utf-8", errors="surrogatepass")
        words = ["run", "finetune", "--config", str(self.path)]
        printed = self._printed(words)
        given, said = yaml.safe_load(self.path.read_text(encoding="utf-8-sig")), yaml.safe_load(printed)
        for key, value in (given or {}).items():
            if value is None and key in ("recipe", "network"):
                continue  # left open: the data decide
            if key in said and key not in ("config", "print_config") and not isinstance(value, dict):
                agree(_as_text(said[key]) == _as_text(value), f"{key} became {said[key]!r}")
            elif key in said and isinstance(value, dict):
                for name, inner in value.items():
                    agree(
                        _as_text(said[key][name]) == _as_text(inner),
                        f"{key}.{name} became {said[key][name]!r}",
                    )
        self.path.write_text(printed, encoding="utf-8")
        agree(self._printed(words) == printed, "settings change when they are read again")


def _as_text(value: Any) -> str:
    """A value as the command line knows it: 3 and 3.0 are one, and so are none and null."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_as_text, value))
    text = "none" if value is None or value == "null" else str(value).lower().strip(" ()[]").replace(" ", "")
    with contextlib.suppress(ValueError, OverflowError):
        return repr(float(text))
    return text


class Checkpoints(Kind):
    """The folder of a run that was stopped, one of whose files is damaged or says something else; it is resumed."""

    def prepare(self) -> None:
        self.stream, self.spec = tiny_stream((1, 1), n_train=6), method("finetune", epochs=2)
        self.whole = timeless(self._run(self.folder / "whole"))
        self._run(self.folder / "stopped", stop_after=lambda event: getattr(event, "task", 0) == 1)
        self.files = sorted((self.folder / "stopped" / "checkpoints").iterdir())

    def _run(self, out: Path, **more: Any) -> dict[str, Any]:
        return run(self.stream, Mlp((4,)), self.spec, out=out, resume=True, **more)

    def attempt(self, rng: random.Random) -> None:
        out = self.fresh()
        shutil.copytree(self.folder / "stopped", out, dirs_exist_ok=True)
        path = out / "checkpoints" / rng.choice(self.files).name
        tells = path.with_suffix(".json")
        told = rng.random() < 0.6
        if told and path.suffix == ".json":  # its seal is right
            meta: Any = unsealed(path.read_bytes())
            del meta["sha256"]
            before, meta = meta, mutate.of_json(rng, meta)
            if isinstance(meta, dict):
                path.write_bytes(sealed(mutate.text_of(meta)))
            # What another value says is another run, which no checksum tells from a right one.
            told = meta != before
        else:
            content = mutate.of_bytes(rng, path.read_bytes())
            path.write_bytes(content)
            if told and path.suffix == ".safetensors":
                meta = unsealed(tells.read_bytes())
                del meta["sha256"]
                tells.write_bytes(sealed(json.dumps({**meta, "tensors_sha256": digest(content)})))
            if rng.random() < 0.2:
                path.rename(path.with_name(rng.choice(("²", "1", "٣", "00000009", "x")) + path.suffix))
        entry = timeless(self._run(out))
        agree(told or entry == self.whole, "the run ended with other numbers")
        agree(
            entry["final_average_accuracy"]
            == derived(entry["accuracy_matrix"], done=True)["final_average_accuracy"],
            "",
        )


class Studies(Kind):
    """A comparison, a sweep and a trade-off, one of whose files was edited; it is read, accepted or not."""

    kinds = ("comparison", "sweep", "tradeoff")

    def prepare(self) -> None:
        self.roots = {kind: self.folder / kind for kind in self.kinds}
        with _pretending(Formula()):
            given: dict[str, Any] = {"seeds": (0, 1), "device": "cpu", "recipe": "none", "network": NETWORK}
            data = DataSettings(data="digits", tasks=3, max_per_class=8, valid_fraction=0.3)
            options = {"finetune": {"lr": 0.01}}
            engram.compare(["finetune", "si"], data, out=self.roots["comparison"], options=options, **given)
            engram.sweep("si", {"c": [0.1, 1.0, 10.0]}, data, out=self.roots["sweep"], **given)
            ends = {"source": "digits:0-4", "target": "digits:5-9", "data": {"max_per_class": 8}}
            over = {"lwf": {"strength": [0.1, 1.0, 10.0]}}
            engram.tradeoff(["lwf"], **ends, over=over, widen=0, out=self.roots["tradeoff"], **given)
        self.seen = {kind: _numbers(read(root)) for kind, root in self.roots.items()}

    def attempt(self, rng: random.Random) -> None:
        kind = rng.choice(list(self.roots))
        root = self.fresh()
        shutil.copytree(self.roots[kind], root, dirs_exist_ok=True)
        path = rng.choice([root / "study.json", *sorted(root.glob("**/seed.json"))])
        accept, how = rng.random() < 0.4, edit(rng, path)
        found = read(root, accept_edited=accept)
        check(found, rng)
        name = path.relative_to(root).as_posix()
        marks = {
            mark: {n for f in found.results for n in f.result[mark]} for mark in ("edited", "no_checksum")
        }
        # A seed that says it is of another run counts as unfinished, which tables say too.
        left_out = any(s["status"] == "unfinished" for f in found.results for s in f.result["seeds"])
        if how == "stale":
            agree(accept and (name in marks["edited"] or left_out), "an edited file was taken")
        elif how == "none":
            agree(name in marks["no_checksum"] or left_out, "a file without a checksum is not marked")
        elif how == "same":
            agree(_numbers(found) == self.seen[kind] and not marks["edited"], "numbers changed")


class Results(Kind):
    """Results of schema 1, with their sweep and trade-off."""

    def prepare(self) -> None:
        source = Studies(self.folder / "studies")
        self.roots = {}
        for kind, root in source.roots.items():
            found, old = read(root), self.folder / f"old-{kind}"
            said = json.loads(json.dumps({"schema": 1, **found.found}))
            for f in found.results:
                there = old / f.directory.relative_to(root)
                if kind == "tradeoff" and there.parent != old:
                    there = there.parent / "trials" / there.name
                there.mkdir(parents=True)
                kept = {k: v for k, v in f.result.items() if k not in ("edited", "no_checksum")}
                (there / "results.json").write_text(json.dumps(kept))
            for m in said.get("methods", ()):
                for p in m["points"] if m["option"] else ():
                    p["folder"] = f"trials/{p['folder']}"
            if kind != "comparison":
                (old / f"{kind}.json").write_text(json.dumps(said))
            self.roots[kind] = old
        self.seen = {kind: _numbers(read(root)) for kind, root in self.roots.items()}

    def attempt(self, rng: random.Random) -> None:
        kind = rng.choice(list(self.roots))
        root = self.fresh()
        shutil.copytree(self.roots[kind], root, dirs_exist_ok=True)
        path = rng.choice(sorted(root.glob("**/*.json")))
        accept, how = rng.random() < 0.4, edit(rng, path)
        found = read(root, accept_edited=accept)
        check(found, rng)
        marked = [bool(f.result["no_checksum"] or f.result["edited"]) for f in found.results]
        agree(
            sum(marked) >= len(marked) - (how in ("new", "same")), "a file without a checksum is not marked"
        )
        if how == "same":
            agree(_numbers(found) == self.seen[kind], "numbers changed")


class Sweeps(Kind):
    """The state of a search by Optuna that was stopped; it goes on."""

    def prepare(self) -> None:
        data = DataSettings(data="digits", tasks=3, max_per_class=8, valid_fraction=0.3)
        self.given: dict[str, Any] = {
            "data": data,
            "network": NETWORK,
            "recipe": "none",
            "device": "cpu",
            "jobs": 2,
        }
        self.given |= {"engine": "optuna", "resume": True}
        with _pretending(Formula()):
            self._sweep(self.folder / "begun", 6)
            whole = self.folder / "whole"
            shutil.copytree(self.folder / "begun", whole)
            self.whole = self._sweep(whole, 8).found

    def _sweep(self, out: Path, trials: int, **more: Any) -> Any:
        return engram.sweep("si", {"c": "0.01..10:log"}, **self.given, trials=trials, out=out, **more)

    def attempt(self, rng: random.Random) -> None:
        root = self.fresh()
        shutil.copytree(self.folder / "begun", root, dirs_exist_ok=True)
        path = rng.choice([root / "study.json", root / "study.json", *sorted(root.glob("**/seed.json"))])
        accept, how = rng.random() < 0.4, edit(rng, path)
        with _pretending(Formula()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = self._sweep(root, 8, accept_edited=accept)
        found = read(root, accept_edited=accept)
        check(found, rng)
        agree(outcome.found == found.found, "the outcome is not what is on disk")
        if how == "same":
            same = {k: v for k, v in outcome.found.items() if k != "no_checksum"}
            agree(same == {k: v for k, v in self.whole.items() if k != "no_checksum"}, "it ended otherwise")


KINDS: dict[str, type[Kind]] = {
    "images": Images,
    "tables": Tables,
    "arrays": Arrays,
    "yaml": Yaml,
    "checkpoints": Checkpoints,
    "results": Results,
    "studies": Studies,
    "sweeps": Sweeps,
}
NETWORK = NetworkSettings("mlp", {"hidden": [4]})


# Studies without training ------------------------------------------------------------------------------------
class Formula:
    """Takes the place of processes: what a seed measures follows from its options, at once."""

    def __enter__(self) -> Formula:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves nothing behind."""

    def run(self, jobs: Any, listener: Any, *_: Any, dropped: Any = lambda job: False, **more: Any) -> None:
        """See `engram.studies.jobs.Executor`."""
        for job in jobs:
            rng = random.Random(f"{sorted(job.options.items())} {job.seed}")
            n = len(job.data.sets) if len(job.data.sets) > 1 else job.data.tasks or 1
            rows = [[rng.random() for _ in range(i + 1)] for i in range(n)]
            listener(
                Event(job, "start", {"rows": [], "seconds": [], "valid": [], "n_tasks": n, "epochs_done": 0})
            )
            for task, row in enumerate(rows):
                if not dropped(job):
                    said = {"task": task, "accuracies": row, "valid": row, "seconds": 1.0}
                    listener(Event(job, "task", said))
            if dropped(job):
                continue
            entry = seed_result(
                job.seed, rows, seconds=float(n), seconds_per_task=[1.0] * n, valid_matrix=rows
            )
            write_entry(Path(job.folder), job.identity, entry)
            listener(Event(job, "done"))


@contextlib.contextmanager
def _pretending(formula: Formula) -> Any:
    with contextlib.ExitStack() as stack:
        for place, value in (
            ("engram.studies.conduct.Processes", lambda *_: formula),
            ("engram.studies.sharing.run_shared", formula.run),
            ("engram.report.drawing.Drawing.start", lambda self: None),
            ("engram.report.drawing.Drawing.page", lambda self, root, **_: root),
        ):
            stack.enter_context(mock.patch(place, value))
        yield


# Edits and what must hold after them -----------------------------------------------------------------------------
def edit(rng: random.Random, path: Path) -> str:
    """Change a JSON file; its checksum is then stale, new, or gone. ``same`` where its content did not change."""
    content = path.read_bytes()
    before = {k: v for k, v in json.loads(content).items() if k != "sha256"}
    if rng.random() < 0.2:
        path.write_bytes(mutate.of_bytes(rng, content))
        try:
            after = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return "broken"
        if not isinstance(after, dict):
            return "broken"
        same = {k: v for k, v in after.items() if k != "sha256"} == before
        sealed_before = b'"sha256"' in content
        kept = "sha256" in after and after.get("sha256") == json.loads(content).get("sha256")
        return (
            ("same" if kept or not sealed_before else "touched") if same else "stale" if kept else "touched"
        )
    after = mutate.of_json(rng, before)
    how = rng.choice(("stale", "new", "none"))
    if how == "none" or (how == "stale" and b'"sha256"' not in content):
        path.write_text(mutate.text_of(after))
        how = "none"
    elif how == "new":
        deep = json.loads(mutate.text_of(after)) if mutate.DEEP not in json.dumps(after) else after
        path.write_text(mutate.text_of(with_checksum(deep)))
    else:
        path.write_text(mutate.text_of({"sha256": json.loads(content)["sha256"], **after}))
    return "same" if after == before and how != "none" else how


def check(found: Findings, rng: random.Random) -> None:
    """Everything that a report shows can be shown, and what follows is what it follows from."""
    for f in found.results:
        agree(f.result["summary"] == summarise(f.result["seeds"]), "a summary is not of its seeds")
        for seed in f.result["seeds"]:
            follows = derived(seed["accuracy_matrix"], done=seed["status"] == "done")
            agree(all(seed[k] == v for k, v in follows.items()), "a seed contradicts its accuracy matrix")
    results = [f.result for f in found.results]
    for _, text in FORMATS.values():
        text(found)
    parts = {found.kind: found.found} if found.kind in ("sweep", "tradeoff") else {}
    render(results, (), [((), ())] * len(results), [None] * len(results), **parts)
    if rng.random() < 0.02:  # figures take a second
        with mock.patch("engram.report.picture.save", _unsaved):
            comparison_pictures(results, Path())
            for f in found.results:
                method_pictures(f, Path())
            analysis_pictures(results, found.root, Path())


def _unsaved(make: Callable[[], Any], stem: Path) -> tuple[str, str]:
    make()
    return "", ""


def _numbers(found: Findings) -> tuple[Any, ...]:
    return main_table(found).rows, [f.result["summary"] for f in found.results]
