"""One data set after another from settings, the CIFAR network, from-scratch training, and the recipes that use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engram.checks import tiny_stream
from engram.errors import ConfigError
from engram.methods.registry import method
from engram.networks import CifarCnn, Mlp
from engram.networks.heads import Head
from engram.protocols.session import Session, resolve
from engram.recipes import recipe
from engram.streams import Stream
from engram.studies.settings import DataSettings, NetworkSettings, prepare


def test_each_data_set_is_a_task():
    settings = DataSettings(data="digits:0-1+digits:2-4", scenario="task")
    stream, _ = prepare(settings, NetworkSettings("mlp"))
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3, 4)]
    assert stream.class_names == tuple("01234")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scenario": "domain"}, "scenario must be task or class"),
        ({"tasks": 3}, "tasks must be left out"),
        ({"groups": (1, 1)}, "groups must be left out"),
        ({"class_order": "random"}, "class_order must be left out"),
    ],
)
def test_what_a_sequence_cannot_do(more: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        DataSettings(**{"data": "digits:0-1+digits:2-3", "scenario": "task", **more})  # type: ignore[arg-type]


def test_a_folder_with_a_plus_sign_is_one_data_set(tmp_path: Path):
    (tmp_path / "a+b").mkdir()
    assert DataSettings(data=str(tmp_path / "a+b")).sets == (str(tmp_path / "a+b"),)


def test_cifar_network_has_the_authors_size():
    trunk, head = CifarCnn().trunk((3, 32, 32)), Head(512, "single")
    head.grow(60, 0, 0)
    assert sum(p.numel() for part in (trunk, head) for p in part.parameters()) == 1_276_508
    assert trunk(torch.zeros(2, 3, 32, 32)).shape == (2, 512)
    assert all(not p.any() for n, p in trunk.named_parameters() if n.endswith("bias"))
    with pytest.raises(ConfigError, match="n_c must be"):
        CifarCnn(n_c=0)


def test_cifar_recipes_name_six_data_sets():
    for name in ("si-cifar", "si-cifar-short"):
        settings = DataSettings(**recipe(name).data)
        assert len(settings.sets) == 6
        assert [s.rpartition(":")[2] for s in settings.sets[1:]] == [f"{k}-{k + 9}" for k in range(0, 50, 10)]
    assert "stand-in" in recipe("si-cifar-short").summary


def learned(name: str, stream: Stream, scenario: str = "task", **options: object) -> Session:
    network, spec, protocol = resolve(stream, Mlp((8,)), method(name, options), scenario)
    session = Session(
        stream, network, spec, protocol, seed=0, device="cpu", out=None, resume=False, observer=None
    )
    session.go(None)
    return session


def test_from_scratch_forgets_nothing_and_begins_as_fine_tuning():
    stream = tiny_stream((2, 2, 1))
    options = {"epochs": 3, "batch_size": 8}
    scratch = learned("scratch", stream, **options)
    rows = scratch.record["rows"]
    assert [row[: i + 1] for i, row in enumerate(rows[-1:] * 3)] == [rows[-1][: i + 1] for i in range(3)]
    assert all(rows[i][j] == rows[-1][j] for i in range(3) for j in range(i + 1))
    first = tiny_stream((2,))
    a, b = learned("scratch", first, **options), learned("finetune", first, **options)
    pairs = zip(a.method.parameters(), b.method.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    with pytest.raises(ConfigError, match="keep_optimiser must be false"):
        method("scratch", keep_optimiser=True)


def test_joint_at_some_tasks_only():
    stream = tiny_stream((1, 1, 1))
    session = learned("joint", stream, "class", epochs=2, at=(1, 3))
    assert [len(task["phases"]) for task in session.record["tasks"]] == [1, 0, 1]
    every = learned("joint", stream, "class", epochs=2)
    assert session.record["rows"][2] == every.record["rows"][2]
    with pytest.raises(ConfigError, match="at must hold"):
        method("joint", at=(0,))


def test_omegas_are_kept_counted_and_correlated():
    stream = tiny_stream((2, 2, 2))
    options = {"epochs": 2, "c": 0.5}
    plain, kept = learned("si", stream, **options), learned("si", stream, keep_omegas=True, **options)
    own = kept.method.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in plain.method.state_dict().items())  # training is the same
    rows = [task["omega_correlations"]["trunk.layers.0.weight"] for task in kept.record["tasks"]]
    assert [len(row) for row in rows] == [1, 2, 3]
    assert all(row[-1] == pytest.approx(1.0) for row in rows)
    tables = list(kept.method.kept)
    x, y = (t["net.trunk.layers.0.weight"].double().flatten() for t in (tables[0], tables[2]))
    assert rows[2][0] == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    before, after = plain.method.storage_bytes(), kept.method.storage_bytes()
    n = sum(t.numel() * t.element_size() for k, t in own.items() if k.startswith("kept."))
    assert after["other"] == before["other"] + n
