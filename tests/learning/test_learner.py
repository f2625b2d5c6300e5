"""A learner is told nothing of the future, lives on in its folder, and is the run over the same tasks, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import one_call
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engram.checks import tiny_data, tiny_domains, tiny_stream
from engram.checks.bench import differing
from engram.core.contract import Method
from engram.core.files import sealed
from engram.core.samples import Samples
from engram.errors import CheckpointError, ConfigError, EngramError
from engram.learning import checkpoint
from engram.learning.learner import Learner
from engram.methods.finetune import Finetune
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.protocol import Protocol
from engram.protocols.session import Session, run
from engram.streams import Stream, class_incremental

# Forked from a process that has loaded torch; it has trained nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engram.checks"])

# Five tasks of one or two classes, each in two calls: one is killed within the task, the next one ends it.
STREAM = tiny_stream((2, 1, 1, 1, 1), n_train=8)
SHAPE = (1, 8, 8)


def own_classes(stream: Stream, index: int) -> list[str]:
    return [stream.class_names[c] for c in stream.tasks[index].classes]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ten processes, one after another, have left a learner for each method."""
    root = tmp_path_factory.mktemp("learners")
    for index in range(STREAM.n_tasks):
        data = STREAM.train(index)
        save_file({"x": data.x, "y": data.y}, root / "task.safetensors")
        (root / "task.json").write_text(json.dumps({"classes": own_classes(STREAM, index)}))
        for cut in (1 + index % 2, 0):
            process = CONTEXT.Process(target=one_call.learn, args=(root, cut))
            process.start()
            process.join()
            assert process.exitcode == (-signal.SIGKILL if cut else 0)
        (root / "task.safetensors").unlink()
    return root


@pytest.mark.parametrize("name", one_call.CASES)
def test_ten_processes_are_one_run_bit_for_bit(name: str, kept: Path) -> None:
    scenario = one_call.CASES[name][1]
    session = Session(
        STREAM,
        one_call.NETWORK,
        one_call.spec(name),
        Protocol(scenario, generated_per_class=0),
        seed=one_call.SEED,
        device="cpu",
        out=None,
        resume=False,
        observer=None,
    )
    entry = session.go(None)
    learner = Learner.load(kept / name)
    assert differing(session.method.state_dict(), learner.method.state_dict()) == []
    assert learner.state.cursor == session.state.cursor
    moments = [
        {
            f"{p} {n} {k}": v
            for p, names in s.optimisers.items()
            for n, e in names.items()
            for k, v in e.items()
        }
        for s in (session.state, learner.state)
    ]
    keeps = getattr(one_call.spec(name).config, "keep_optimiser", False)
    assert bool(moments[0]) == keeps
    assert differing(*moments) == []
    assert learner.classes == STREAM.class_names
    assert learner.learned == session.learner.learned
    for index, accuracy in enumerate(entry["accuracy_matrix"][-1]):
        test = STREAM.test(index)
        logits = learner.predict(test.x, task=index if scenario == "task" else None)
        assert logits.shape == (len(test), STREAM.n_classes)
        assert float((logits.argmax(1) == test.y).double().mean()) == accuracy


# Small learners in this process ---------------------------------------------------------------------------------
def small(name: str = "finetune", **more: Any) -> Learner:
    return Learner(method(name, epochs=2, batch_size=5), Mlp((6,)), image_shape=SHAPE, **more)


def images(*names: str, n: int = 7) -> dict[str, Tensor]:
    data = tiny_data()
    rows = {c: data.train_x[data.train_y == i][:n] for i, c in enumerate(data.class_names)}
    return {name: rows[data.class_names[i % data.n_classes]] for i, name in enumerate(names)}


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in learner.method.state_dict().items()}


def test_classes_are_known_by_name_in_order_of_arrival() -> None:
    learner = small()
    learner.learn(images("zebra", "ant"))
    learner.learn(images("mole"))
    assert learner.classes == ("zebra", "ant", "mole")
    assert [t["n_samples"] for t in learner.learned] == [14, 7]
    assert learner.predict(images("ant")["ant"]).shape == (7, 3)


def test_images_by_name_are_samples_with_places_as_labels() -> None:
    named, placed, arrays = small(), small(), small()
    for index, names in enumerate((("b", "a"), ("c",))):
        given = images(*names)
        named.learn(given)
        arrays.learn({name: np.asarray(x) for name, x in given.items()})  # type: ignore[misc]
        places = torch.arange(2 * index, 2 * index + len(names)).repeat_interleave(7)
        placed.learn(Samples(torch.cat(list(given.values())), places), names)
    assert differing(state_of(named), state_of(placed)) == []
    assert differing(state_of(named), state_of(arrays)) == []


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_a_class_comes_once(scenario: Any) -> None:
    learner = small(scenario=scenario)
    learner.learn(images("a", "b"))
    before = state_of(learner)
    with pytest.raises(ConfigError, match="must be new, b is known already"):
        learner.learn(images("c", "b"))
    assert learner.classes == ("a", "b")
    assert differing(before, state_of(learner)) == []


def test_tasks_of_scenario_domain_have_the_same_classes_in_any_order() -> None:
    stream, whole = tiny_domains(), small(scenario="domain")
    for index in range(2):
        whole.learn(stream.train(index), stream.class_names)
    session = Session(
        stream, whole.network, whole.spec, Protocol("domain"), seed=0, device="cpu", out=None, resume=False,
        observer=None,
    )  # fmt: skip
    session.go(None)
    assert differing(state_of(whole), state_of(session.learner)) == []
    assert whole.classes == stream.class_names
    whole.learn(dict(reversed(images(*stream.class_names).items())))
    for wrong in (("x", *stream.class_names), stream.class_names[:1]):
        with pytest.raises(ConfigError, match="every task of scenario domain must have the classes"):
            whole.learn(images(*wrong))


def test_a_method_that_reads_all_is_given_all_so_far() -> None:
    learner = small("joint")
    learner.learn(images("a", "b"))
    with pytest.raises(ConfigError, match="reads all samples so far, those of class a are not there"):
        learner.learn(images("c"))
    with pytest.raises(ConfigError, match="must bring a class"):
        learner.learn(images("a", "b"))
    learner.learn(images("b", "c", "a"))
    assert learner.classes == ("a", "b", "c")
    assert learner.task(1).start == 2


def test_the_task_label_is_given_where_the_scenario_gives_it() -> None:
    x = images("a")["a"]
    learner = small(scenario="task")
    with pytest.raises(ConfigError, match="must have learned a task to predict"):
        learner.predict(x, task=0)
    learner.learn(images("a", "b"))
    learner.learn(images("c"))
    assert learner.predict(x, task=0).isinf().any(0).tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="needs the task of the images"):
        learner.predict(x)
    with pytest.raises(ConfigError, match="must be among the 2 learned, got 2"):
        learner.predict(x, task=2)
    other = small()
    other.learn(images("a"))
    with pytest.raises(ConfigError, match="gives no task label"):
        other.predict(x, task=0)


@pytest.mark.parametrize(
    ("samples", "classes", "said"),
    [
        ({}, (), "classes must have names"),
        ({"a": torch.zeros(0, *SHAPE, dtype=torch.uint8)}, (), "a has none"),
        ({"a": torch.zeros(3, *SHAPE)}, (), r"must be uint8 \[N, 1, 8, 8\], got float32 \[3, 1, 8, 8\]"),
        ({"a": torch.zeros(3, 1, 9, 8, dtype=torch.uint8)}, (), r"got uint8 \[3, 1, 9, 8\]"),
        ({"a": torch.zeros(3, *SHAPE, dtype=torch.uint8), "b": torch.zeros(1, 1, 8, 9, dtype=torch.uint8)}, (), "8, 9"),
        (Samples(torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0])), ("a",), "got 2 images and 1 labels"),
        (Samples(torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0, 1])), ("a",), r"places 0..0 .* 0..1"),
        (Samples(torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0, 1])), ("a", "a"), "of their own"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_and_changes_nothing(
    samples: Any, classes: Any, said: str, tmp_path: Path
) -> None:
    learner = small()
    before = state_of(learner)
    with pytest.raises(ConfigError, match=said) as caught:
        learner.learn(samples, classes, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert differing(before, state_of(learner)) == []
    assert learner.learned == []
    assert not list(tmp_path.iterdir())


VECTORS = {"a": torch.ones(3, 2), "b": torch.zeros(3, 2)}


@pytest.mark.parametrize(
    ("samples", "classes", "said"),
    [
        (None, (), "samples must be a mapping from class names or Samples, got None"),
        ({float("nan"): VECTORS["a"]}, (), "classes must be text, got nan"),
        ({object(): VECTORS["a"]}, (), "classes must be text, got <object"),
        ({"a": VECTORS["a"], None: VECTORS["b"]}, (), "classes must be text, got None"),
        (Samples(VECTORS["a"], torch.tensor([0, 1, 2])), "cat", "classes must be a list of names, got 'cat'"),
        ({"a": ["x", "y"]}, (), "samples must be numbers, got a list"),
        (
            {"a": torch.tensor([[1.0, float("inf")]])},
            (),
            "samples must be finite, 1 of 1 hold NaN or infinity",
        ),
    ],
)
def test_names_are_text_and_samples_finite_numbers(samples: Any, classes: Any, said: str) -> None:
    learner = Learner("finetune", Mlp((6,)), image_shape=(2,))
    with pytest.raises(ConfigError, match=re.escape(said)):
        learner.learn(samples, classes)
    assert learner.learned == []


class Undecided(Finetune):
    """Its logits are no numbers."""

    def predict(self, x: Tensor, *, task: Any = None) -> Tensor:
        return super().predict(x, task=task) * float("nan")


def test_logits_that_hold_nan_are_an_error_that_names_the_method() -> None:
    learner = Learner(Undecided, Mlp((6,)), image_shape=SHAPE)
    stream = tiny_stream((1, 2))
    with pytest.raises(EngramError, match=r"undecided must predict numbers, \d+ of its \d+ logits are NaN"):
        run(stream, Mlp((6,)), learner.spec, "class")
    learner.learn(images("a"))
    with pytest.raises(EngramError, match="undecided must predict numbers"):
        learner.predict(images("a")["a"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        *[({"image_shape": s}, "image_shape must be") for s in (None, 8, (1.0, 8.0, 8.0), (0, 8, 8), (8, 8))],
        *[({"seed": s}, "seed must be an integer >= 0") for s in ("a", -1, 1.5, True)],
    ],
)
def test_what_makes_no_learner(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Learner("finetune", Mlp((6,)), **{"image_shape": SHAPE, **more})


def test_what_cannot_be_asked() -> None:
    learner = small(scenario="task")
    learner.learn(images("a"))
    with pytest.raises(ConfigError, match="samples must be numbers"):
        learner.predict("a", task=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"among the 1 learned, got 0\.0"):
        learner.predict(images("a")["a"], task=0.0)  # type: ignore[arg-type]


def test_folders_that_are_none(tmp_path: Path) -> None:
    learner, file = small(), tmp_path / "file"
    file.touch()
    with pytest.raises(EngramError, match=f"{file}.* must be .*Not a directory"):
        learner.save(file)
    with pytest.raises(EngramError, match="File name too long"):
        learner.save(tmp_path / ("x" * 300))
    with pytest.raises(ConfigError, match="folder must be a path, got None"):
        Learner.load(None)  # type: ignore[arg-type]
    learner.save(tmp_path)
    with pytest.raises(CheckpointError, match="give its method and network"):
        Learner.load(tmp_path, method=Method)
    (meta,) = (tmp_path / "checkpoints").glob("*.json")
    meta.write_bytes(sealed(json.dumps({"identity": {}})))
    with pytest.raises(CheckpointError, match="must have format 2, got None"):
        Learner.load(tmp_path)


# What must be known beforehand ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "options", "number"),
    [("joint", {"at": [1]}, "n_tasks"), ("dgmw", {"label": "within_stream"}, "n_classes")],
)
def test_what_must_be_known_beforehand_is_asked_for_and_kept(
    name: str, options: dict[str, Any], number: str, tmp_path: Path
) -> None:
    spec, network = method(name, options), None if name == "dgmw" else Mlp((6,))
    with pytest.raises(ConfigError, match=f"{number} must be known beforehand"):
        Learner(spec, network, image_shape=SHAPE)
    learner = Learner(spec, network, image_shape=SHAPE, n_classes=9, n_tasks=9)
    assert learner.identity()["capacity"] == {number: 9}
    learner.save(tmp_path)
    assert Learner.load(tmp_path).identity() == learner.identity()


def test_others_are_not_told_apart_by_what_will_come() -> None:
    assert small(n_classes=7, n_tasks=3).identity() == small().identity()
    assert set(small().identity()) == {"method", "network", "image_shape", "scenario", "seed", "capacity"}


# Its folder -------------------------------------------------------------------------------------------------------
class Stop(Exception):
    pass


def stopped(event: Any) -> None:
    raise Stop


@pytest.mark.usefixtures("every_epoch")
def test_an_interrupted_task_goes_on_with_its_own_samples_only(tmp_path: Path) -> None:
    whole, part = small(), small()
    whole.learn(images("a", "b"))
    with pytest.raises(Stop):
        part.learn(images("a", "b"), folder=tmp_path, on_epoch=stopped)
    loaded = Learner.load(tmp_path)
    for other in (images("a", "c"), images("a", "b", n=6), {"a": images("b")["b"], "b": images("a")["a"]}):
        with pytest.raises(
            CheckpointError, match="must be learned to its end with its own samples"
        ) as caught:
            loaded.learn(other)
        assert "\n" not in str(caught.value)
    for one in (part, loaded):
        one.learn(images("a", "b"), folder=tmp_path)
        assert differing(state_of(whole), state_of(one)) == []


def test_what_stopped_within_an_epoch_goes_on_from_its_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = small()
    learner.learn(images("a"), folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Finetune, "loss", stopped)
        with pytest.raises(TypeError):
            learner.learn(images("b"), folder=tmp_path)
    for again in (lambda: learner.learn(images("b")), lambda: learner.save(tmp_path)):
        with pytest.raises(CheckpointError, match="must stand between epochs"):
            again()
    assert Learner.load(tmp_path).classes == ("a",)


def test_a_folder_of_another_learner_is_not_written_to(tmp_path: Path) -> None:
    learner, other, ahead = small(), small(seed=1), small()
    learner.learn(images("a"), folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"its seed differ \(0 stored, 1 given\)"):
        other.learn(images("a"), folder=tmp_path)
    for late in (small(), ahead):
        if late is ahead:
            ahead.learn(images("b"))
        with pytest.raises(CheckpointError, match="must hold this learner or none"):
            late.save(tmp_path)
    learner.learn(images("b"))
    learner.save(tmp_path)
    assert Learner.load(tmp_path).classes == ("a", "b")


def test_a_run_lives_on_as_a_learner(tmp_path: Path) -> None:
    stream, spec = tiny_stream((1, 2)), small().spec
    run(stream, Mlp((6,)), spec, "class", out=tmp_path)
    learner = Learner.load(tmp_path)
    whole = small()
    for index in range(2):
        whole.learn(stream.train(index), own_classes(stream, index))
    for one in (learner, whole):
        one.learn(images("new"))
    assert differing(state_of(learner), state_of(whole)) == []


class Own(Finetune):
    """A method that no registry knows."""


def test_a_class_of_ones_own_is_given_again(tmp_path: Path) -> None:
    learner = Learner(Own, Mlp((6,)), image_shape=SHAPE)
    learner.learn(images("a"), folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"method must be one of .* give its method and network"):
        Learner.load(tmp_path)
    loaded = Learner.load(tmp_path, method=Own)
    assert isinstance(loaded.method, Own)
    assert differing(state_of(learner), state_of(loaded)) == []


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_damaged_folder_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    small().save(tmp_path)
    path = next((tmp_path / "checkpoints").glob(f"*.{kind}"))
    path.write_bytes(path.read_bytes()[:-9] + b"?" * 9)
    with pytest.raises(CheckpointError) as caught:
        Learner.load(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="none must hold a learner, it holds no checkpoint"):
        Learner.load(tmp_path / "none")


def test_a_folder_of_another_version_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        small().save(tmp_path)
    with pytest.raises(CheckpointError, match="must have format") as caught:
        Learner.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_a_run_over_the_same_stream_resumes(tmp_path: Path) -> None:
    data, spec = tiny_data(), small().spec
    run(class_incremental(data, n_tasks=3), Mlp((6,)), spec, "class", out=tmp_path)
    other = class_incremental(data, n_tasks=3, class_order=[2, 1, 0])
    with pytest.raises(CheckpointError, match="its stream differ") as caught:
        run(other, Mlp((6,)), spec, "class", out=tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_the_documented_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "learner.md"
    said: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], said)
    assert said["learner"].classes == ("3", "8", "0")
    assert set(said["answers"]) == {"3", "8", "0"}
