"""The documentation: links lead somewhere, methods have pages on one skeleton, questions have answers."""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path

import pytest

from engram.cli.command_line import USUAL
from engram.methods.registry import METHODS, about

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "reproductions" / "README.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "`x`", text)


def anchors(page: Path) -> set[str]:
    """What a link can name within a page, as Markdown on GitHub and in zensical makes it of headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8")))
    plain = (re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings)
    return {*plain, *re.findall(r'id="([\w-]+)"', page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(text_of(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {link}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name} links to {link}"


def test_every_method_has_a_page_on_one_skeleton():
    pages = {p: p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "methods").glob("*.md")}
    for name in METHODS:
        assert any(f"`{name}`" in text.partition("## ")[0] for text in pages.values()), (
            f"no page names {name} on top"
        )
    for page, text in pages.items():
        headings = [re.split(r"[,:]", h)[0] for h in re.findall(r"(?m)^## (.*)$", text)]
        terms = (
            () if page.stem in ("joint", "frozen", "scratch") else ("Terms",)
        )  # they have none of their own
        skeleton = ("Can I use it?", "Departures", *terms, "Parameters", "Run it")
        assert [h for h in headings if h in skeleton] == list(skeleton), page.name
        assert headings[0] == skeleton[0], page.name
        assert "```\nengram " in text.rpartition("## Run it")[2], f"{page.name} says no command"


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_names_its_parameters(name: str):
    pages = [p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "methods").glob("*.md")]
    (text,) = (page for page in pages if f"`{name}`" in page.partition("## ")[0])
    told = text.partition("## Parameters")[2].partition("\n## ")[0]
    for option in about(name).options:
        if not option.further and option.name not in USUAL:
            assert re.search(rf"`{option.name}\b", told), f"{name}: {option.name}"


def test_twenty_questions_have_an_answer_with_its_page():
    text = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    questions = re.findall(r"(?m)^### (.*\?)\n\n(.*)$", text)
    assert len(questions) == text.count("\n### ") >= 20
    for question, answer in questions:
        found = LINK.findall(answer)
        assert found, question
        pages = [(ROOT / "docs" / link.partition("#")[0]).read_text(encoding="utf-8") for link in found]
        for command, option in re.findall(r"`engram (\w+)|--([\w-]+)", answer):
            word = command or f"--{option}"
            assert any(word in page for page in pages), f"{question} {found} do not tell of {word}"


@pytest.fixture(scope="module")
def site() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("site_of_engram", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_site_holds_every_page_once(site: types.ModuleType, tmp_path: Path):
    config = site.stage(tmp_path / "site").read_text(encoding="utf-8")
    listed = re.findall(r'"((?:docs/|reproductions/)?[\w./-]+\.md)"', config)
    assert len(listed) == len(set(listed))
    there = {
        p.relative_to(tmp_path / "site" / "pages").as_posix()
        for p in (tmp_path / "site" / "pages").rglob("*.md")
    }
    assert there == set(listed)
    run = (tmp_path / "site" / "pages" / "docs" / "commands" / "run.md").read_text(encoding="utf-8")
    assert "--max-per-class" in run
    studies = (tmp_path / "site" / "pages" / "docs" / "reference" / "studies.md").read_text(encoding="utf-8")
    assert "## `engram.compare`" in studies
    assert "- `seeds`: distinct integers" in studies
    assert "    methods: Sequence[Method],\n" in studies
    assert "see above" not in studies
