"""Studies of methods, networks and data that are objects of this process, which no other can load by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from torch import nn
from torch.utils.data import TensorDataset

import engram
from calling import no_figures
from engram import networks
from engram.core.origin import described, is_unknown
from engram.errors import ConfigError, DataError
from engram.methods.finetune import Finetune
from engram.methods.lwf import Lwf
from engram.methods.registry import METHODS, MethodSpec
from engram.networks.modules import of_module
from engram.studies import conduct
from engram.studies.jobs import Event
from engram.studies.results import read, read_result
from engram.studies.settings import DataSettings
from engram.studies.study import Outcome

DATA_PAGE = Path(__file__).parents[2] / "docs" / "your-own.md"
FEW = {"epochs": 1, "batch_size": 16}


class Own(Finetune):
    """Fine-tuning under another name."""


class OwnLwf(Lwf):
    """A method with a trade-off."""


class Net(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def arrays(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = np.arange(80) % 4
    x = rng.integers(0, 60, (80, 8, 8))
    x[np.arange(80), y] += 150
    return x.astype(np.uint8), y


def spec(**more: Any) -> MethodSpec:
    return MethodSpec("own", Own, Own.Config(**FEW, **more))


def compared(out: Path, methods: list[Any], network: Any = Net, **more: Any) -> Outcome:
    options = {m if isinstance(m, str) else m.__name__.lower(): FEW for m in methods}
    return engram.compare(methods, arrays(), network, out=out, recipe="none", options=options, **more)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests make known is forgotten; figures take longer than the runs."""
    monkeypatch.setattr("engram.methods.registry.METHODS", dict(METHODS))
    monkeypatch.setattr(networks, "OWN", {})
    no_figures(monkeypatch)


def test_a_comparison_of_objects_survives_a_kill_and_is_what_one_process_computes(tmp_path: Path):
    pids: dict[int, int] = {}

    def kill(event: Event) -> None:
        if event.kind == "spawn":
            pids[event.job.seed] = event.data["pid"]
        if event.kind == "task" and event.job.seed == 1 and event.data["task"] == 0:
            os.kill(pids[1], signal.SIGKILL)

    given: dict[str, Any] = {"out": tmp_path, "seeds": (0, 1), "jobs": 2, "options": {"own": FEW}}
    outcome = engram.compare([Own], arrays(), Net, **given, listener=kill)
    assert os.getpid() not in pids.values()
    assert [(p.seed, p.message[:36]) for p in outcome.problems] == [
        (1, "its process was killed by SIGKILL, p")
    ]
    outcome = engram.compare([Own], arrays(), Net, **given, resume=True)
    assert outcome.exit_code == 0
    for seed in outcome.results[0]["seeds"]:
        alone = engram.run(arrays(), Net, spec(), seed=seed["seed"])
        assert seed["accuracy_matrix"] == alone["accuracy_matrix"]
        assert seed["confusion"] == alone["confusion"]
    config, data = (read_result(tmp_path / "own")[k] for k in ("config", "data"))
    assert config["method"]["source"]["name"] == "Own"
    assert config["network"]["source"]["file"] == Path(__file__).name
    assert len(config["network"]["source"]["sha256"]) == 64
    assert data["name"] == "arrays"
    assert engram.compare([Own], arrays(), Net, **given).kept == ["own"]  # nothing is left to do
    with pytest.raises(ConfigError, match=r"own: data.data: .* there, .* now"):
        engram.compare([Own], arrays(1), Net, **given, resume=True)


def test_objects_are_swept_and_share_their_start(tmp_path: Path):
    data = DataSettings(TensorDataset(*map(torch.as_tensor, arrays())), tasks=2, valid_fraction=0.2)  # type: ignore[arg-type]
    method = MethodSpec("ownlwf", OwnLwf, OwnLwf.Config(**FEW))
    started: list[str] = []
    outcome = engram.sweep(
        method,
        {"strength": [0.1, 1.0]},
        data,
        lambda: Net(),
        out=tmp_path,
        device="cpu",
        listener=lambda event: started.append(event.job.label) if event.kind == "spawn" else None,
    )
    assert outcome.chosen is not None
    assert "ownlwf common start" in started
    assert outcome.results[0]["data"]["name"] == "arrays"


def test_objects_are_traded_off(tmp_path: Path):
    outcome = engram.tradeoff(
        [OwnLwf],
        arrays(0),
        engram.from_arrays(*arrays(1), *arrays(2)),
        network=Net(),
        out=tmp_path,
        over={"ownlwf": {"strength": [0.1, 1.0, 10.0]}},
        options={"ownlwf": FEW, "finetune": FEW},
        recipe="none",
        seeds=(0,),
        device="cpu",
    )
    assert outcome.exit_code == 0
    assert [m["label"] for m in outcome.found["methods"]] == ["ownlwf", "finetune"]
    assert outcome.found["source"].startswith("source@")


@pytest.mark.parametrize("why", ["this system cannot fork", "threads of this process keep a fork from"])
def test_a_stream_is_compared_and_where_nothing_can_be_forked_it_runs_here(
    why: str, tmp_path: Path, monkeypatch
):
    if "threads" in why:
        monkeypatch.setattr("engram.studies.forks._differentiates", lambda write: 1)
    else:
        monkeypatch.delattr(os, "fork")
    stream = engram.permuted(engram.from_arrays(*arrays(), *arrays(1)), 2)
    pids: set[int] = set()
    with pytest.warns(UserWarning, match=why) as said:
        outcome = engram.compare(
            [spec()],
            stream,
            "mlp",
            out=tmp_path,
            seeds=(0, 1),
            listener=lambda event: pids.add(event.data["pid"]) if event.kind == "spawn" else None,
        )
    assert len(said) == 1
    assert pids == {os.getpid()}
    assert outcome.exit_code == 0
    assert outcome.results[0]["protocol"]["scenario"] == "domain"


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path):
    def compare(methods: list[Any], data: Any, network: Any = None, options: Any = None) -> None:
        engram.compare(methods, data, network, out=tmp_path / "out", options=options)

    stream = engram.class_incremental(engram.from_arrays(*arrays(), *arrays()), n_tasks=2)
    for given, words in (
        (([3], "digits"), "a method must be a name, engram.method"),
        (([MethodSpec("si", Own, Own.Config())], "digits"), "must have a name of its own, got si"),
        ((["si"], arrays()[0]), "data must be a name, settings, a stream"),
        ((["si"], DataSettings(stream, tasks=3)), "tasks must be left out with a stream"),  # type: ignore[arg-type]
        (([spec()], "digits", None, {"own": FEW}), "options of own must be left out, its spec has them all"),
        (("si", "digits"), "methods must be a list, got 'si'"),
        ((["si"], "digits", None, {"s_i": FEW}), r"options must be of si, got 's_i' \(did you mean si\?\)"),
        ((["si"], "digits", None, [1]), "options must be a mapping"),
        ((["si"], arrays(), 3), "network 3 must be a Network, a torch module"),
    ):
        with pytest.raises(ConfigError, match=words):
            compare(*given)
    for more in ({"jobs": "2"}, {"out": None}, {"device": None}):
        with pytest.raises(ConfigError, match=f"{next(iter(more))} must be"):
            engram.compare(["si"], "digits", **{"out": tmp_path / "out", **more})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"TensorDataset must give \(image, label\), .* it stops with"):
        compare(["si"], TensorDataset(torch.zeros(3, 1, 8, 8)))
    with pytest.raises(ConfigError, match="source must be one data set, got a stream"):
        engram.tradeoff(["lwf"], stream, "digits", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="objects of this process cannot be sent"):
        engram.sweep("si", {"c": [1.0]}, arrays(), out=tmp_path / "out", engine="ray", device="cpu")
    assert not (tmp_path / "out").exists()


PLAIN = """
from engram.report.drawing import Drawing
Drawing.start = Drawing.page = lambda *_, **__: None
"""


def example() -> str:
    """The example of the page on objects, without its figures."""
    return PLAIN + DATA_PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_documented_example_needs_no_main_guard(tmp_path: Path):
    (tmp_path / "own.py").write_text(example())
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = [read_result(tmp_path / "own" / name) for name in ("gentle", "finetune")]
    assert [r["summary"]["n"] for r in results] == [2, 2]
    assert results[0]["config"]["method"]["source"]["file"] == "own.py"


def test_a_class_in_a_cell_of_a_notebook_is_compared(tmp_path: Path):
    cell = nbformat.v4.new_code_cell(example())
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    result = read_result(tmp_path / "own" / "gentle")
    assert result["summary"]["n"] == 2
    source = result["config"]["method"]["source"]
    assert source["name"] == "Gentle"
    assert len(source["sha256"]) == 64
    assert "file" not in source


def test_what_another_process_finishes_before_the_folder_is_held_stays(tmp_path: Path, monkeypatch):
    holds = conduct.in_use

    def after_another(root: Path) -> Any:
        monkeypatch.setattr(conduct, "in_use", holds)
        assert compared(tmp_path, [OwnLwf]).exit_code == 0
        return holds(root)

    monkeypatch.setattr(conduct, "in_use", after_another)
    assert compared(tmp_path, [Own]).exit_code == 0
    assert sorted(f.result["label"] for f in read(tmp_path).results) == ["own", "ownlwf"]


def net_of(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())


def net_maker(width: Any) -> Any:
    return lambda: net_of(int(width))


def method_of(share: float) -> type[Finetune]:
    class Made(Finetune):
        def loss(self, batch: Any, step: Any) -> Any:
            return {k: share * v for k, v in super().loss(batch, step).items()}

    return Made


class Scaled(nn.Module):
    """Its attribute is in no repr and no shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.layer = factor, nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.layer(x.flatten(1))


@pytest.mark.parametrize(
    "make",
    [partial(partial, net_of), net_maker, Scaled, net_of, method_of],
    ids=["partial", "closure", "attribute", "shape", "class"],
)
def test_what_code_captures_is_part_of_what_it_is(make: Any):
    sources = []
    for value in (2, 200, 2):
        given = make(value)
        source = described(given) if make is method_of else of_module(given, "own")().source()
        assert source is not None
        sources.append(source)
    assert sources[0] == sources[2]
    assert sources[0] != sources[1]
    assert not is_unknown(sources)


class Untellable:
    """A value that cannot be copied, so nor compared."""

    def __int__(self) -> int:
        return 4

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError


def test_another_capture_is_another_study_and_one_that_cannot_be_told_is_never_taken_silently(tmp_path: Path):
    compared(tmp_path / "a", ["finetune"], net_maker(2))
    with pytest.raises(ConfigError, match="it holds a run of other seeds"):
        compared(tmp_path / "a", ["finetune"], net_maker(2), seeds=np.arange(2))
    with pytest.raises(ConfigError, match=r"network.source.holds: .* there, .* now"):
        compared(tmp_path / "a", ["finetune"], net_maker(200))
    assert compared(tmp_path / "a", ["finetune"], net_maker(2)).kept == ["finetune"]
    untold = net_maker(Untellable())
    compared(tmp_path / "b", ["finetune"], untold)
    with pytest.raises(ConfigError, match="a run of code that cannot be compared"):
        compared(tmp_path / "b", ["finetune"], untold)
    with pytest.warns(UserWarning, match="is taken for the same"):
        assert compared(tmp_path / "b", ["finetune"], untold, resume=True).kept == ["finetune"]
