"""Commands in the documentation are understood: every option exists and fits the methods named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from calling import Call

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTLES = r"engram (?:run|compare|sweep|tradeoff) "
#: Stands for something of the reader's, or names a file that another test of the documentation writes and runs.
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\b[A-Z] |\.\.\.|[<>|;&]|\w\.py\b|mymethod")


def commands(page: Path) -> set[str]:
    """Commands of a page that can print their settings, without those that leave a word open."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    found = {line.partition(" #")[0] for line in lines if re.match(SETTLES, line)}
    found |= set(re.findall(rf"`({SETTLES}[^`]+)`", re.sub(r"(?ms)^```.*?^```", "", text)))
    return {" ".join(command.split()) for command in found if not PLACEHOLDER.search(command)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_are_understood(page: Path, call: Call) -> None:
    for command in sorted(commands(page)):
        said = call(*shlex.split(command)[1:], "--print-config")
        assert said.code == 0, f"{command}: {said.err}"


def test_there_are_commands_to_understand() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 60
