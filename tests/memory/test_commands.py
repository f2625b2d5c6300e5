"""``engram learn`` and ``predict``: what they print, and what they refuse in one line."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from letters import WORDS, contents, draw

from calling import Call, Called, Refused
from engram.memory import model
from engram.memory.memory import Memory


def test_learn_tells_of_new_classes_and_old_ones(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "memory"
    done = call("learn", draw(tmp_path / "ab", "ab"), "--into", root, *WORDS)
    assert done.code == 0, done.err
    done = call("learn", draw(tmp_path / "c", "c", n=30, size=9), "--into", root, "--finetune.epochs", 2)
    assert done.code == 0, done.err
    assert "when it was learned" in done.out
    assert " c      30      3 " in done.out
    assert "resized" in done.out
    assert "state 2" in done.out
    again = call("learn", tmp_path / "c", "--into", root)
    assert again.code == 0
    assert "nothing was to be done" in again.out


def test_predict_answers_in_three_forms(
    call: Call, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "FEWEST", 1)  # else so few images decide no temperature
    images = draw(tmp_path / "new", "ab", n=2)
    plain = call("predict", memory, images)
    assert plain.code == 0, plain.err
    assert plain.out.count(" %") == 4
    lines = [
        json.loads(line)
        for line in call("predict", memory, images / "a" / "*.png", "--json", "--top", 2).out.splitlines()
    ]
    assert [Path(one["image"]).name for one in lines] == ["00.png", "01.png"]
    assert len(lines[0]["top"]) == 2
    assert lines[0]["top"][0] == {"class": lines[0]["class"], "probability": lines[0]["probability"]}
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images / 'a' / '00.png'}\n"))
    table = call("predict", memory, "-", "--csv", "--top", 2).out.splitlines()
    assert table[0] == "image,class,probability,class2,probability2"
    assert len(table) == 2


def test_a_certainty_that_is_not_calibrated_is_not_told(call: Call, memory: Path, tmp_path: Path) -> None:
    image = draw(tmp_path / "new", "a", n=1) / "a" / "00.png"
    plain = call("predict", memory, image)
    assert plain.out.split() == [str(image), Memory.open(memory).predict([image])[0]]
    assert "note: probabilities are not told: 20 images must be held out in a call, 1 were in" in plain.err
    (one,) = call("predict", memory, image, "--json", "--top", 2).out.splitlines()
    assert [k["probability"] for k in json.loads(one)["top"]] == [None, None]
    assert call("predict", memory, image, "--csv").out.splitlines()[1].endswith(",")
    assert "not calibrated" in call("inspect", memory).out


def test_at_a_terminal_forget_asks_first(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "memory"
    learned = call(
        "learn", draw(tmp_path / "ab", "ab"), "--into", root, "--method", "ncm", "--features", "none"
    )
    assert "note: predict will tell no probabilities: 20 images must be held out in a call" in learned.out
    before = contents(root)

    def answered(words: str) -> Called:
        terminal = io.StringIO(words)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)
        return call("forget", root, "a")

    for words in ("\n", "no\n", ""):
        said = answered(words)
        assert said.code == 1
        assert "a, learned from 12 images, and all earlier states go" in said.out
        assert contents(root) == before
    assert answered("y\n").code == 0
    assert Memory.open(root).classes_.tolist() == ["b"]


def test_predict_stays_loaded_and_answers_line_by_line(
    call: Call, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = draw(tmp_path / "new", "a", n=1) / "a" / "00.png"
    asked = [str(image), json.dumps({"image": str(image)}), '{"other": 1}', "nowhere.png", '{"a":' * 5000]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(asked)))
    done = call("predict", memory, "--serve")
    ready, first, second, *errors = map(json.loads, done.out.splitlines())
    assert done.code == 0
    assert ready == {"ready": True, "classes": ["a", "b", "c"]}
    assert first == second
    assert "a line must be a path" in errors[0]["error"]
    assert "nowhere.png must be a usable image" in errors[1]["error"]
    assert 'a": must be a usable image' in errors[2]["error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "si"], "--method must be finetune, as when the memory was made, got si"),
        (["--finetune.epochs", "3"], "--finetune.epochs must be 2, as when"),
        (["--image-size", "16"], "--image-size must be 8"),
        (["--seed", "1"], "--seed must be 0"),
        (["--si.c", "1"], "'--si.c'"),
        (["--epochs", "1"], "'--epochs'"),
    ],
)
def test_other_options_than_the_memorys_are_refused(
    refused: Refused, memory: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    before = contents(memory)
    assert words in refused("learn", draw(tmp_path / "d", "d"), "--into", memory, *options)
    assert contents(memory) == before


def test_wrong_words_are_one_line(refused: Refused, memory: Path, tmp_path: Path) -> None:
    assert "usage must be engram learn" in refused("learn", tmp_path)
    assert "usage must be engram learn" in refused("learn", "--into", memory)
    assert "holds no memory.json" in refused("predict", tmp_path, "a.png")
    assert "usage must be engram predict" in refused("predict", memory)
    assert "a.png must be a usable image" in refused("predict", memory, "a.png")
    assert "must match a file" in refused("predict", memory, "*.nothing")
    assert "it holds none" in refused("predict", memory, memory)
    assert "data must be" in refused("learn", "nowhere", "--into", memory)
    assert "known already: a, b" in refused("learn", draw(tmp_path / "ab", "ab", n=3), "--into", memory)
    assert "the network of a memory must be one of" in refused(
        "learn", tmp_path / "ab", "--into", tmp_path / "m", "--network", "n.py:N"
    )


def test_help_needs_no_torch(call: Call) -> None:
    for command in ("learn", "predict"):
        assert call(command, "--help").out.startswith(f"usage: engram {command} ")


def test_a_full_terminal_name_is_printable(call: Call, tmp_path: Path) -> None:
    images = draw(tmp_path / "odd", "ab")
    os.rename(images / "a", images / "a\nb")
    odd = tmp_path / "[/b]\udce9"
    done = call("learn", images, "--into", odd, *WORDS)
    assert done.code == 0, done.err
    assert "a\\nb" in done.out
    done = call("inspect", odd, "--html", tmp_path / "page.html")
    # A title is folded at the width of its table, wherever that is.
    assert "[/b]\\xe9" in "".join(done.out.split())
    assert "[/b]\\xe9" in (tmp_path / "page.html").read_text(encoding="utf-8")
