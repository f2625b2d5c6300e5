"""YAML with a key given twice, aliases or deep nesting is refused in one line; an empty file holds no options."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engram.core.yaml_files import as_yaml, read_options
from engram.errors import ConfigError

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: [0]\ntasks: 5\nseeds: [1]\n", "seeds is given twice, in line 3"),
        ("si:\n  c: 1\n  xi: 2\n  'c': 3\n", "c is given twice, in line 4"),
        (BOMB, "aliases are not allowed, in line 2"),
        ("one: &x {lr: 1}\ntwo: {<<: *x}\n", "aliases are not allowed, in line 2"),
        ("a: " + "[" * 5000, "nested too deeply, in line 1"),
        ("a: " + "{b: " * 5000, "nested too deeply"),
        ("a: [1\n", "readable YAML file"),
        ("? [1]\n: 2\n", "readable YAML file"),
        ("a: \x1b[2J\n", "readable YAML file"),
        ("a: 2026-13-45\n", "readable YAML file"),
        ("- a\n", "must hold options by name"),
    ],
)
def test_what_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "o.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_options(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"data: caf\xe9\n")
    for name in ("none", "latin", "."):
        with pytest.raises(ConfigError, match="must be a readable YAML file"):
            read_options(str(tmp_path / name))


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "{}\n", "null\n"])
def test_an_empty_file_holds_no_options(text: str, tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text(text)
    assert read_options(str(tmp_path / "o.yaml")) == {}


def test_what_is_written_holds_no_aliases_and_is_read_again(tmp_path: Path) -> None:
    twice = [1, 2]
    text = as_yaml({"a": twice, "si": {"c": 0.1, "widths": twice}})
    assert yaml.safe_load(text) == {"a": [1, 2], "si": {"c": 0.1, "widths": [1, 2]}}
    (tmp_path / "o.yaml").write_text(text)
    assert read_options(str(tmp_path / "o.yaml")) == yaml.safe_load(text)
