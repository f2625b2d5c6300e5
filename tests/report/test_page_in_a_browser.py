"""The page as a browser shows it: nothing overflows, charts keep their letters large, no text covers another."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import synthetic
from engram.report import write_report

pytestmark = pytest.mark.slow
WIDTHS = (1400, 768, 390)
OVERFLOWING = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll, pre, .skip') && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 60))"""
SHRUNK = """() => [...document.images].filter(i => !i.closest('.mistakes') && i.getBoundingClientRect().width > 0
    && i.getBoundingClientRect().width < 0.99 * i.naturalWidth).map(i => [i.alt, i.width, i.naturalWidth])"""
SMALL = """() => [...document.querySelectorAll('svg text')]
    .filter(t => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(
        t.getScreenCTM().a, t.getScreenCTM().b) < 15.9).map(t => t.textContent)"""
COVERED = """() => {
    const frame = document.querySelector('svg').getBoundingClientRect(), bad = [];
    const texts = [...document.querySelectorAll('svg text')].map(t => {
        const m = t.getScreenCTM(), b = t.getBBox(), c = [[b.x, b.y], [b.x + b.width, b.y + b.height]]
            .map(([x, y]) => [m.a * x + m.c * y + m.e, m.b * x + m.d * y + m.f]);
        return {words: t.textContent, l: Math.min(c[0][0], c[1][0]), r: Math.max(c[0][0], c[1][0]),
                t: Math.min(c[0][1], c[1][1]) + 3, b: Math.max(c[0][1], c[1][1]) - 3};
    });
    for (const [i, p] of texts.entries()) {
        if (p.l < frame.left - 1 || p.r > frame.right + 1) bad.push('outside: ' + p.words);
        for (const q of texts.slice(i + 1))
            if (p.l + 1 < q.r && q.l + 1 < p.r && p.t < q.b && q.t < p.b) bad.push(p.words + ' on ' + q.words);
    }
    return bad;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found or "chromium", args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = synthetic.write_comparison(tmp_path_factory.mktemp("comparison"))
    write_report(root, every_format=False)
    return root


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_letters_keep_their_size(
    browser: Any, folder: Path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(SHRUNK) == []
    headline = "(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.headline').parentElement)"
    assert page.evaluate(headline), "the main table is read without scrolling"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.strip("rgb()").split(",")[0]) < 60) == (scheme == "dark")
    figures = "document.querySelectorAll('section > .packed > figure')"
    columns = page.evaluate(
        f"new Set([...{figures}].map(f => Math.round(f.getBoundingClientRect().left))).size"
    )
    assert (columns == 1) == (width < 960)
    if width == 390:
        cells = "[...document.querySelectorAll('.headline tbody tr')].map(r => [...r.querySelectorAll('td')]"
        cells += ".filter(c => c.offsetHeight).sort((a, b) => a.offsetTop - b.offsetTop)[0].className)"
        assert all("main" in first for first in page.evaluate(cells)), "accuracy comes first"
    assert errors == []
    page.close()


def test_no_text_of_a_chart_is_small_or_covers_another(browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto((folder / "report.html").as_uri())
    charts = page.evaluate(
        "[...document.querySelectorAll('picture')].flatMap(p => [p.children[0].srcset, p.children[1].src])"
    )
    assert len(charts) == 2 * (5 + 3 * 3 + 3)
    for chart in charts:
        svg = base64.b64decode(chart.split(",")[1]).decode()
        page.set_content(f"<body style='margin:0'>{svg}")
        assert page.evaluate(SMALL) == []
        assert page.evaluate(COVERED) == []
    page.close()


def test_the_page_prints_whole(browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 760, "height": 1000})
    page.goto((folder / "report.html").as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('details:not([open]) table').offsetHeight") > 0
    assert page.pdf().startswith(b"%PDF")
    page.close()
