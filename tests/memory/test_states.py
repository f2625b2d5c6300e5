"""States of a memory: inspected, verified, undone; and a class that is forgotten."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from letters import QUICK, contents, draw

import engram
from calling import Call, Refused, no_figures
from engram.core.files import digest, sealed, unsealed
from engram.errors import ConfigError
from engram.learning.learner import Learner
from engram.memory import folder
from engram.memory.calibration import temperature_of
from engram.memory.memory import Memory, verify
from engram.memory.settings import Settings
from engram.streams.sources import arriving


def test_undo_goes_back_and_forth(call: Call, refused: Refused, memory: Path) -> None:
    both = contents(memory)
    done = call("undo", memory)
    assert done.code == 0, done.err
    assert "state 2 undone, state 1" in done.out
    assert Memory.open(memory).classes_.tolist() == ["a", "b"]
    assert "keeps none before 1" in refused("undo", memory)
    assert "a state that is kept, 1, 2, got 7" in refused("undo", memory, "--to", 7)
    assert call("undo", memory, "--to", 2).code == 0
    assert contents(memory) == both


def test_learning_after_undo_takes_the_place_of_what_was_undone(memory: Path, tmp_path: Path) -> None:
    known = Memory.open(memory)
    known.undo()
    known.learn(arriving(draw(tmp_path / "d", "d")))
    assert known.classes_.tolist() == ["a", "b", "d"]
    assert [(one.number, one.current) for one in verify(memory)] == [(1, False), (3, True)]


@pytest.mark.usefixtures("every_epoch")
def test_undo_drops_an_unfinished_learn_first(memory: Path, tmp_path: Path) -> None:
    before = contents(memory)
    known = Memory.open(memory)

    def stop(what: str, done: int, n: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        known.learn(arriving(draw(tmp_path / "d", "d")), tell=stop)
    with pytest.raises(ConfigError, match="unfinished learn"):
        Memory.open(memory).forget("a")
    assert Memory.open(memory).undo() == "dropped the unfinished learn of d"
    assert contents(memory) == before


@pytest.mark.usefixtures("every_epoch")
def test_an_unfinished_first_learn_can_be_undone(tmp_path: Path) -> None:
    def stop(what: str, done: int, n: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Memory.create(tmp_path / "m", **QUICK).learn(arriving(draw(tmp_path / "d", "d")), tell=stop)
    assert not folder.is_memory(tmp_path / "m")
    Memory.at(tmp_path / "m").undo()
    assert contents(tmp_path / "m") == {}


def test_a_forgotten_class_leaves_what_never_knew_it(tmp_path: Path) -> None:
    settings = {"method": "slda", "features": "pixels", "method_options": {"scatter": "classes"}}
    with_it = Memory.create(tmp_path / "with", **settings)
    without = Memory.create(tmp_path / "without", **settings)
    for name in "abcd":
        images = arriving(draw(tmp_path / name, name, n=30))
        with_it.learn(images)
        if name != "b":
            without.learn(images)
    with_it.forget("b")
    assert with_it.classes_.tolist() == ["a", "c", "d"]
    paths = sorted((tmp_path / "a").rglob("*.png")) + sorted((tmp_path / "b").rglob("*.png"))
    assert np.array_equal(with_it.predict_proba(paths), without.predict_proba(paths))
    assert [one.number for one in verify(tmp_path / "with")] == [5]
    assert b'"b"' not in b"".join(c for n, c in contents(tmp_path / "with").items() if n.endswith("json"))
    for kind, ours in without.model.scores.items():
        if kind != "logits/0002":  # whoever measured d knew b
            assert (
                with_it.model.scores[f"{kind[:-4]}{int(kind[-4:]) + (kind[-4:] > '0000'):04d}"].shape
                == ours.shape
            )
    assert with_it.learn(arriving(tmp_path / "b")).generation == 6
    assert with_it.predict(paths).tolist() == ["a"] * 30 + ["b"] * 30


def test_forget_is_refused_where_it_cannot_be_exact(refused: Refused, memory: Path) -> None:
    before = contents(memory)
    assert "a class must have sums of its own" in refused("forget", memory, "a")
    assert "'z' is not" in refused("forget", memory, "z")
    assert "usage must be engram forget" in refused("forget", memory)
    assert contents(memory) == before


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("calls",), [3]),
        (("calls",), []),
        (("calls", 1, "date"), 3),
        (("calls", 1, "classes"), {"c": 3}),
        (("calls", 0, "classes", "a", "images"), -1),
        (("calls", 0, "storage"), {"weights": "many"}),
        (("calls", 0, "refined"), 3),
        (("temperature",), 0),
        (("temperature",), -1),
        (("shape",), [2**20, 2**20, 2**20]),
        (("shape",), [2**40]),
    ],
)
def test_a_record_of_another_form_is_refused(
    refused: Refused, memory: Path, place: tuple[str | int, ...], value: object
) -> None:
    """Its checksums are right, so only what it says can be wrong."""
    manifest = folder.read_manifest(memory)
    path = folder.place_of(memory, manifest.current) / folder.RECORD
    record = unsealed(path.read_bytes())
    assert record is not None
    del record["sha256"]
    inner: Any = record["known"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_bytes(sealed(json.dumps(record)))
    only = folder.Manifest(manifest.current, {manifest.current: digest(path.read_bytes())})
    folder.swap(memory, only)
    for words in (("inspect", memory), ("verify", memory), ("predict", memory, "a.png")):
        assert "cannot be" in refused(*words)


def test_verify_finds_what_is_damaged(call: Call, memory: Path) -> None:
    done = call("verify", memory)
    assert done.code == 0, done.err
    assert "current, whole" in done.out
    file = memory / "generations" / "0001" / "scores.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    done = call("verify", memory)
    assert done.code == 2
    assert "1 of 2 are not" in done.err


def test_inspect_prints_a_run_that_learns_the_same(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_figures(monkeypatch)
    root = tmp_path / "memory"
    for classes in ("bd", "a"):
        draw(tmp_path / "data" / "train", classes)
        draw(tmp_path / "data" / "test", classes, n=2)
        images = draw(tmp_path / classes, classes)
        words = ("--features", "fourier", "--fourier.n_features", 20, "--slda.eps", 0.01, "--seed", 4)
        done = call("learn", images, "--into", root, *(words if classes == "bd" else ()))
        assert done.code == 0, done.err
        shutil.rmtree(images)
    done = call("inspect", root, "--html", tmp_path / "page.html")
    assert done.code == 0, done.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Growth" in page
    command = done.out.split("bit for bit:\n")[1].splitlines()[0]
    assert command in page
    run = shlex.split(command.replace("DATA", str(tmp_path / "data")))[1:]
    done = call(*run, "--out", tmp_path / "run", "--quiet")
    assert done.code == 0, done.err
    of_run = Learner.load(tmp_path / "run" / "seed-4").method.state_dict()
    of_memory = Memory.open(root).model.learner.method.state_dict()
    assert all(torch.equal(v, of_memory[k]) for k, v in of_run.items())


def test_the_page_shows_generated_samples(tmp_path: Path) -> None:
    from engram.memory.facts import facts_of
    from engram.report.memory_page import render

    options = {"method": "dgmw", "network": "dcgan8", "network_options": {"n_d": 4, "n_z": 12}}
    known = Memory.create(tmp_path / "m", **options, method_options={"epochs": 1})
    known.learn(arriving(draw(tmp_path / "ab", "ab", n=4)))
    facts = facts_of(known)
    assert facts.samples.shape == (2, 8, 1, 8, 8)
    assert "data:image/png;base64," in render("<m>", facts)
    assert "<m>" not in render("<m>", facts)


def test_a_manifest_that_was_damaged_is_mended_by_the_next_writer(memory: Path, tmp_path: Path) -> None:
    (memory / "memory.json").write_bytes(sealed(json.dumps({"format": 1, "current": 9, "generations": {}})))
    with pytest.warns(UserWarning, match="generation 2 is used"):
        Memory.open(memory).learn(arriving(draw(tmp_path / "d", "d")))
    assert [one.fault for one in verify(memory)] == ["", "", ""]
    assert Memory.open(memory).classes_.tolist() == ["a", "b", "c", "d"]


def test_the_temperature_minimises_the_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, 5, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / 2.5, 1), 1, generator=generator)[:, 0]
    found = temperature_of(logits, labels)

    def loss(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / t, labels))

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))
    assert abs(found - 2.5) < 0.3
    assert temperature_of(7 * logits, labels) == pytest.approx(7 * found, rel=1e-6)
    assert temperature_of(logits[:5], labels[:5]) == 1.0
    few = logits[:30]
    sure = temperature_of(few, few.argmax(1))
    assert float(torch.softmax(few.double() / sure, 1).amax(1).mean()) == pytest.approx(31 / 32)


def test_methods_in_closed_form_see_fixed_features() -> None:
    assert Settings("ncm").features == Settings("slda").features == "scattering"
    assert Settings("dgmw").features is None
    assert Settings("slda", features="none").features is None


def test_the_memory_is_part_of_the_package() -> None:
    assert engram.Memory is Memory


def test_more_of_a_known_class_is_as_if_it_had_come_at_first(
    call: Call, refused: Refused, tmp_path: Path
) -> None:
    words = ("--method", "slda", "--features", "pixels", "--valid-fraction", 0)
    whole = draw(tmp_path / "whole", "ab", n=40)
    first, more = tmp_path / "first", tmp_path / "more"
    shutil.copytree(whole, first)
    for path in sorted((whole / "a").iterdir())[:20]:
        (more / "a").mkdir(parents=True, exist_ok=True)
        (first / "a" / path.name).rename(more / "a" / path.name)
    assert call("learn", whole, "--into", tmp_path / "one", *words).code == 0
    assert call("learn", first, "--into", tmp_path / "two", *words).code == 0
    assert "--refine" in refused("learn", more, "--into", tmp_path / "two")
    done = call("learn", more, "--into", tmp_path / "two", "--refine")
    assert done.code == 0, done.err
    assert "no one run gives the same bits" in done.out
    one, two = Memory.open(tmp_path / "one"), Memory.open(tmp_path / "two")
    x = torch.randint(0, 255, (9, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.allclose(one.predict_proba(x), two.predict_proba(x), atol=1e-5)
    assert "bit for bit" not in call("inspect", tmp_path / "two").out


def test_a_trained_method_takes_no_more_of_a_known_class(
    refused: Refused, memory: Path, tmp_path: Path
) -> None:
    before = contents(memory)
    assert "finetune keeps none" in refused("learn", draw(tmp_path / "a", "ad"), "--into", memory, "--refine")
    assert contents(memory) == before


def test_the_first_images_decide_what_is_left_open(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (3, 40, 48)).astype(np.uint8)
    colour = np.stack([grey, grey[::-1], grey], 3)
    for name, images, channels, eps, mirror in (("g", grey, 1, 0.01, False), ("c", colour, 3, 0.2, True)):
        known = Memory.create(tmp_path / name)
        known.learn({"a": images, "b": images[::-1, ::-1]})
        s = Memory.open(tmp_path / name).model.settings
        assert (s.image_size, s.channels, s.method_options["eps"]) == (32, channels, eps)
        assert (s.features_options["L"], s.features_options["mirror"]) == (4, mirror)
    given = Settings(method_options={"eps": 0.5}, features_options={"mirror": False}).decided(3)
    assert (given.method_options, given.features_options) == ({"eps": 0.5}, {"mirror": False, "L": 4})
    assert Settings(features="pixels").decided(3).method_options == {}
    assert Settings("ncm").decided(3).features_options == {"L": 4, "mirror": True}
