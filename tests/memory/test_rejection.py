"""None of the known classes: shares, ties to what was held out, and what is said where that is too little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from letters import draw

import engram
from calling import Call, Refused
from engram.errors import ConfigError
from engram.memory.calibration import temperature_of
from engram.memory.rejection import fewest, ranks, references

WIDE = {"method": "slda", "features": "pixels", "valid_fraction": 0.3, "method_options": {"eps": 0.1}}


def blobs(label: int, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, label])
    return (rng.normal(size=(n, 20)) + 3 * np.eye(20)[label]).astype(np.float32)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> engram.Memory:
    """Six classes in three calls, with 300 samples held out of each."""
    memory = engram.Memory.create(tmp_path_factory.mktemp("m") / "m", **WIDE)
    for first in (0, 2, 4):
        memory.learn({str(k): blobs(k, 1000, 0) for k in (first, first + 1)})
    return memory


def test_the_share_that_is_asked_for_is_rejected_of_known_samples_old_and_new(known: engram.Memory) -> None:
    for share in (0.05, 0.2):
        for first in (0, 2, 4):
            x = np.concatenate([blobs(k, 2000, 1) for k in (first, first + 1)])
            assert abs(known.answers(x, share)[1].mean() - share) < 0.4 * share


def test_unknown_samples_are_rejected_more_often(known: engram.Memory) -> None:
    unknown = np.concatenate([blobs(k, 500, 1) for k in range(10, 16)])
    assert known.answers(unknown, 0.05)[1].mean() > 0.25
    names = known.predict(unknown, reject=0.05)
    assert (names == "").mean() == known.answers(unknown, 0.05)[1].mean()
    assert set(names) <= {"", *known.classes_}


def test_a_rank_is_the_share_of_images_held_out_that_looked_no_more_certain() -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = 4 * torch.randn(60, 2, generator=g), torch.randint(0, 2, (60,), generator=g)
    calls = [{"classes": {"a": {}, "b": {}}}, {"classes": {"c": {}}}]
    scores = {"logits/0000": logits, "labels/0000": labels}
    scores |= {"logits/0001": torch.randn(5, 3, generator=g), "labels/0001": torch.full((5,), 2)}
    a, b, c = references(["a", "b", "c"], calls, scores, 0.05)
    assert (a.own, b.own, c.own, c.n_classes, len(c.scores)) == (True, True, False, 3, 5)
    t = temperature_of(logits, labels)
    # A class that came later changes nothing, and the least certain one held out has the smallest rank but one.
    mine = logits[logits.argmax(1) == 0]
    later = torch.cat([mine, torch.full((len(mine), 1), -50.0)], 1)
    found = ranks(later, t, [a, b, c])
    assert sorted((found * (len(mine) + 1)).round().int().tolist()) == list(range(2, len(mine) + 2))
    assert torch.equal(found, ranks(torch.cat([mine, mine[:, :1] - 1e-3], 1), t, [a, b, c]))
    assert (fewest(0.05), fewest(0.5), fewest(0.001)) == (19, 1, 999)


def test_too_few_held_out_is_said(tmp_path: Path) -> None:
    memory = engram.Memory.create(tmp_path / "m", **WIDE)
    memory.learn({str(k): blobs(k, 30, 0) for k in range(4)})  # 9 held out of each, 36 in all
    with pytest.warns(UserWarning, match="19 images that are answered.*0, 1, 2, 3 are judged together"):
        memory.predict(blobs(0, 3, 1), reject=0.05)
    memory.learn({"9": blobs(9, 30, 0)})
    with pytest.warns(UserWarning, match="19 images") as said:
        assert not memory.answers(blobs(9, 50, 1), 0.05)[1].any()
    assert str(said[1].message).endswith("answers with 9 are never rejected")
    with pytest.raises(ConfigError, match="above 0 and below 1, got 1"):
        memory.answers(blobs(9, 1, 1), 1.0)


def test_a_class_that_came_alone_in_the_first_call_is_never_rejected_which_is_said(tmp_path: Path) -> None:
    memory = engram.Memory.create(tmp_path / "m", **WIDE)
    for label in (0, 1):
        memory.learn({str(label): blobs(label, 300, 0)})
    x = np.concatenate([blobs(0, 200, 1), blobs(1, 200, 1)])
    with pytest.warns(UserWarning, match="come with others, or after them; answers with 0 are never") as said:
        probabilities, rejected = memory.answers(x, 0.2)
    assert len(said) == 1
    assert not rejected[probabilities.argmax(1) == 0].any()
    assert rejected[probabilities.argmax(1) == 1].any()


def test_the_command_says_which(call: Call, refused: Refused, tmp_path: Path) -> None:
    root, images = tmp_path / "memory", draw(tmp_path / "ab", "ab", n=120)
    words = ("--method", "slda", "--features", "pixels", "--slda.eps", 0.1, "--valid-fraction", 0.3)
    assert call("learn", images, "--into", root, *words).code == 0
    new = draw(tmp_path / "new", "df", n=10)
    done = call("predict", root, new, "--json", "--reject")
    assert done.code == 0, done.err
    rejected = [json.loads(line)["rejected"] for line in done.out.splitlines()]
    assert any(rejected)
    plain = call("predict", root, new, "--reject").out
    assert plain.count("none of the known classes (") == sum(rejected)
    table = call("predict", root, new, "--csv", "--reject").out.splitlines()
    assert table[0] == "image,class,probability,rejected"
    assert sum(line.endswith(",true") for line in table) == sum(rejected)
    assert "above 0 and below 1" in refused("predict", root, new, "--reject", "--reject-share", 0)


def test_the_estimator_rejects_too() -> None:
    x, y = np.concatenate([blobs(k, 400, 0) for k in range(3)]), np.repeat([3, 5, 9], 400)
    known = engram.MemoryClassifier(valid_fraction=0.3).fit(x, y)
    share = known.rejects(np.concatenate([blobs(k, 1000, 1) for k in range(3)])).mean()
    assert abs(share - 0.05) < 0.025
