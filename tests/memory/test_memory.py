"""A memory in a folder: what it learns, call by call, is what one run learns; what it answers; what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from letters import QUICK, WORDS, contents, draw
from PIL import Image
from safetensors.torch import load_file

import engram
from engram import features
from engram.errors import CheckpointError, ConfigError, DataError, EngramError
from engram.features.extractor import Extractor
from engram.learning.learner import Learner
from engram.memory import folder
from engram.memory.memory import Memory
from engram.protocols.session import run
from engram.streams.sources import arriving


def tensors(root: Path) -> dict[str, torch.Tensor]:
    """Those of the method of the current state."""
    memory = Memory.open(root)
    found = load_file(folder.place_of(root, memory.generation) / "learner.safetensors")
    return {k: v for k, v in found.items() if k.startswith("method/")}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "finetune", "network": "mlp", "method_options": {"epochs": 2}},
        {"method": "si", "network": "mlp", "method_options": {"epochs": 2, "memory_per_class": 3}},
        {"method": "slda", "features": "scattering", "features_options": {"J": 2}},
        {
            "method": "ncm",
            "features": "first-task",
            "features_options": {"network": "mlp", "epochs": 1},
            "network": "mlp",
        },
        {
            "method": "dgmw",
            "network": "dcgan8",
            "network_options": {"n_d": 4, "n_z": 12},
            "method_options": {"epochs": 1, "solver_epochs": 1},
        },
    ],
    ids=lambda options: options["method"],
)
def test_separate_calls_are_one_run_bit_for_bit(tmp_path: Path, options: dict) -> None:
    parts = ("ad", "b", "ce")
    whole = tmp_path / "whole"
    for part in parts:
        draw(whole / "train", part)
        draw(whole / "test", part, n=2)
    root = tmp_path / "memory"
    for part in parts:
        arrived = draw(tmp_path / part, part)
        known = Memory.open(root) if folder.is_memory(root) else Memory.create(root, **options, seed=3)
        known.learn(arriving(arrived))
        shutil.rmtree(arrived)
    stream = engram.class_incremental(
        engram.load(whole, image_size=8),
        groups=(2, 1, 2),
        class_order=list("adbce"),
        seed=3,
        valid_fraction=0.1,
    )
    settings, learner = Memory.open(root).model.settings, Memory.open(root).model.learner
    if settings.features is not None:
        fixed = features.make(settings.features, settings.features_options)
        stream = stream.through(Extractor(fixed, stream.image_shape))
    spec = engram.method(settings.method, settings.method_options)
    run(stream, learner.network, spec, seed=3, out=tmp_path / "run")
    of_run = Learner.load(tmp_path / "run").method.state_dict()
    of_memory = tensors(root)
    assert {f"method/{k}" for k in of_run} == set(of_memory)
    assert all(torch.equal(v, of_memory[f"method/{k}"]) for k, v in of_run.items())


def test_answers_have_names_and_probabilities(memory: Path, tmp_path: Path) -> None:
    known = Memory.open(memory)
    assert known.classes_.tolist() == ["a", "b", "c"]
    paths = sorted(draw(tmp_path / "new", "abc", n=3).rglob("*.png"))
    probabilities = known.predict_proba(paths)
    assert probabilities.shape == (9, 3)
    assert np.allclose(probabilities.sum(1), 1)
    pictures = [Image.open(path) for path in paths]
    arrays = np.stack([np.asarray(one) for one in pictures])
    coded = [path.read_bytes() for path in paths]
    for images in (pictures, arrays, torch.from_numpy(arrays)[:, None], list(arrays), coded):
        assert np.array_equal(known.predict_proba(images), probabilities)
    assert known.predict(paths).tolist() == known.classes_[probabilities.argmax(1)].tolist()


def test_images_of_any_size_and_mode_are_brought_to_the_rule(memory: Path, tmp_path: Path) -> None:
    grey = Image.fromarray((np.indices((20, 30)).sum(0) * 5).astype(np.uint8))
    colour = grey.convert("RGB")
    known = Memory.open(memory)
    x, notes = known.model.prepare([("grey", grey), ("colour", colour), ("turned", grey.convert("RGBA"))])
    assert x.shape == (3, 1, 8, 8)
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[2])
    assert any("converted to grey" in note for note in notes)


def test_the_rule_follows_from_the_first_images(tmp_path: Path) -> None:
    sizes = (10, 20, 90)
    for i, size in enumerate(sizes):
        for copy in range(2):
            place = tmp_path / "photos" / "x" / f"{i}{copy}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (size, size + 5), (200, size, 0)).save(place)
    known = Memory.create(tmp_path / "memory", **QUICK)
    known.learn(arriving(tmp_path / "photos"))
    assert known.model.rule.shape == (3, 20, 20)  # the median of the shorter sides
    assert known.model.settings.image_size == 20
    assert json.loads(json.dumps(known.record["known"]["shape"])) == [3, 20, 20]


def test_arrays_and_labels_by_name_or_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (20, 8, 8)).astype(np.uint8)
    known = Memory.create(tmp_path / "numbers", **QUICK)
    known.learn(x, np.repeat([7, 3], 10)).call["classes"]
    assert known.classes_.tolist() == ["3", "7"]
    known.partial_fit({"late": list(x[:4])}, None)
    assert known.classes_.tolist() == ["3", "7", "late"]
    assert known.predict(x[:1]).dtype.kind == "U"


def test_vectors_are_learned_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 5))
    known = Memory.create(tmp_path / "vectors", **QUICK)
    known.learn(x, ["p"] * 10 + ["q"] * 10)
    assert known.predict(x).shape == (20,)
    assert str(known.model.rule) == "vectors of 5 numbers"
    with pytest.raises(DataError, match="4 features"):
        known.predict(x[:, :4])


def test_no_image_is_kept_outside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "ENGRAM_CACHE", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    Memory.create(tmp_path / "memory", **QUICK).learn(arriving(draw(tmp_path / "images", "ab")))
    assert not any(
        path.is_file() for name in ("HOME", "ENGRAM_CACHE", "TMPDIR") for path in (tmp_path / name).rglob("*")
    )
    pixels = (tmp_path / "images" / "a" / "00.png").read_bytes()
    assert not any(pixels in content for content in contents(tmp_path / "memory").values())


class Stop(BaseException):
    """As a kill, at an epoch."""


@pytest.mark.usefixtures("every_epoch")
def test_an_interrupted_learn_goes_on_and_is_not_seen(memory: Path, tmp_path: Path) -> None:
    untouched = Path(shutil.copytree(memory, tmp_path / "untouched"))
    images, others = draw(tmp_path / "de", "de"), draw(tmp_path / "f", "f")

    def stop(what: str, done: int, n: int) -> None:
        if done == 1 and n == 2:
            raise Stop

    with pytest.raises(Stop):
        Memory.open(memory).learn(arriving(images), tell=stop)
    assert Memory.open(memory).classes_.tolist() == ["a", "b", "c"]
    assert Memory.open(memory).unfinished()["classes"] == ["d", "e"]
    with pytest.raises(CheckpointError, match=r"is at d, e since .*engram undo"):
        Memory.open(memory).learn(arriving(others))
    epochs: list[int] = []
    Memory.open(memory).learn(
        arriving(images), tell=lambda what, done, n: epochs.append(done) if n == 2 else None
    )
    assert epochs[0] == 2
    Memory.open(untouched).learn(arriving(images))
    ours, straight = tensors(memory), tensors(untouched)
    assert all(torch.equal(v, straight[k]) for k, v in ours.items())
    assert not (memory / folder.WORK).exists()


def test_the_same_images_again_change_nothing(memory: Path, tmp_path: Path) -> None:
    before = contents(memory)
    assert Memory.open(memory).learn(arriving(draw(tmp_path / "c", "c"))).again
    (tmp_path / "c" / "c").rename(tmp_path / "c" / "other")  # another class, though it looks the same
    other = Memory.open(shutil.copytree(memory, tmp_path / "copy"))
    assert not other.learn(arriving(tmp_path / "c")).again
    assert other.model.classes == ("a", "b", "c", "other")
    assert contents(memory) == before


def test_a_failed_learn_leaves_the_memory_as_it_was(memory: Path, tmp_path: Path) -> None:
    before = contents(memory)
    known = Memory.open(memory)

    def fail(what: str, done: int, n: int) -> None:
        if what == "measuring":
            raise EngramError("no more")

    with pytest.raises(EngramError, match="no more"):
        known.learn(arriving(draw(tmp_path / "d", "d")), tell=fail)
    assert {k: v for k, v in contents(memory).items() if not k.startswith("work/")} == before
    assert known.learn(arriving(tmp_path / "d")).generation == 3


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["c", "d"], "classes must be new, known already: c"),
        (["A"], "differ by more than case, got 'A' beside 'a'"),
        (["x", "X"], "differ by more than case"),
        (["caf\u00e9", "cafe\u0301"], "differ by more than case"),
        ([" "], "must have names"),
    ],
)
def test_names_that_clash_are_refused(memory: Path, names: list[str], words: str) -> None:
    before = contents(memory)
    images = np.zeros((2, 8, 8), np.uint8)
    with pytest.raises(ConfigError, match=words):
        Memory.open(memory).learn(dict.fromkeys(names, images))
    assert contents(memory) == before


def test_what_cannot_be_learned_is_refused(memory: Path, tmp_path: Path) -> None:
    before, known = contents(memory), Memory.open(memory)
    one = draw(tmp_path / "one", "d", n=1)
    with pytest.raises(ConfigError, match="got 1 sample of d"):
        known.learn(arriving(one))
    (tmp_path / "none" / "d").mkdir(parents=True)
    with pytest.raises(DataError, match="at least one image"):
        known.learn(arriving(tmp_path / "none"))
    bad = draw(tmp_path / "bad", "d", n=3)
    (bad / "d" / "00.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00\.png"):
        known.learn(arriving(bad))
    with pytest.raises(DataError, match="got none: give some"):
        known.learn({})
    with pytest.raises(ConfigError, match="labels must be given"):
        known.learn([])
    with pytest.raises(DataError, match="got 1 for 2 images"):
        known.learn(np.zeros((2, 8, 8), np.uint8), ["d"])
    with pytest.raises(ConfigError, match="do without the images of before, joint"):
        Memory.create(tmp_path / "new", method="joint")
    with pytest.raises(ConfigError, match=r"of memory must be among .*got 'sead' \(did you mean seed"):
        Memory.create(tmp_path / "new", sead=1)
    with pytest.raises(ConfigError, match="method_options must be names with values, got 3"):
        Memory.create(tmp_path / "new", method_options=3)
    assert contents(memory) == before


def test_places_that_are_no_memory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no memory\.json"):
        Memory.open(tmp_path)
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(ConfigError, match=r"holds letter\.txt"):
        Memory.create(tmp_path)
    with pytest.raises(ConfigError, match="must be a folder"):
        Memory.create(tmp_path / "letter.txt")


def test_one_writes_and_the_other_is_told_who(memory: Path, tmp_path: Path) -> None:
    images = draw(tmp_path / "d", "d")
    with (
        folder.held(memory),
        pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* since 20.*wait for it"),
    ):
        Memory.open(memory).learn(arriving(images))
    assert Memory.open(memory).learn(arriving(images)).generation == 3


def test_only_so_many_states_are_kept(memory: Path, tmp_path: Path) -> None:
    known = Memory.open(memory)
    for name in "def":
        known.learn(arriving(draw(tmp_path / name, name)))
    assert sorted(p.name for p in (memory / "generations").iterdir()) == ["0003", "0004", "0005"]


def test_a_damaged_newest_state_gives_way_to_the_one_before(memory: Path) -> None:
    file = memory / "generations" / "0002" / "learner.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"learner\.safetensors does not match its checksum.*generation 1 is used"
    ):
        assert Memory.open(memory).classes_.tolist() == ["a", "b"]
    (memory / "generations" / "0001" / "record.json").unlink()
    with pytest.raises(CheckpointError, match="no other one is whole"):
        Memory.open(memory)


def test_a_damaged_manifest_gives_way_to_what_lies_there(memory: Path) -> None:
    (memory / "memory.json").write_text("{")
    with pytest.warns(UserWarning, match=r"memory\.json .* generation 2 is used"):
        assert Memory.open(memory).generation == 2


def test_a_newer_version_is_refused(memory: Path) -> None:
    manifest = json.loads((memory / "memory.json").read_text())
    del manifest["sha256"]
    from engram.core.files import sealed

    (memory / "memory.json").write_bytes(sealed(json.dumps({**manifest, "format": 2, "engram": "9.0"})))
    with pytest.raises(CheckpointError, match=r"format 1 or less.*has 2 \(written by engram 9\.0\)"):
        Memory.open(memory)


def test_commands_in_processes_of_their_own(tmp_path: Path) -> None:
    def engram_(*words: object) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, "-m", "engram", *map(str, words)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    engram_("learn", draw(tmp_path / "ab", "ab"), "--into", tmp_path / "m", *WORDS)
    told = engram_("predict", tmp_path / "m", tmp_path / "ab" / "a" / "00.png", "--json")
    assert json.loads(told)["class"] in ("a", "b")
