"""The report in a real browser, offline: it opens, requests nothing, and the attention view is right."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from headscope.figures import head_grid
from headscope.figures.attention import MAX_ERROR
from headscope.figures.theme import CIVIDIS, colour_at
from headscope.report import write
from headscope.results.study import AttentionExample, Study
from headscope.tables import Column, Schema

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

LAYERS, HEADS, LENGTH = 2, 4, 20
HOSTILE = "</script><img src=x onerror=alert(1)>"
TOKENS = (HOSTILE, "\n", "\u200b", "שלום", *(f" t{position}" for position in range(4, LENGTH)))
SCORES = Schema(
    "scores",
    (
        Column("layer", pl.Int64, "layer"),
        Column("head", pl.Int64, "head"),
        Column("score", pl.Float64, "score"),
    ),
)


def patterns() -> np.ndarray:
    logits = np.random.default_rng(1).normal(scale=3, size=(LAYERS, HEADS, LENGTH, LENGTH))
    weights = np.exp(logits) * np.tril(np.ones((LENGTH, LENGTH)))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


PATTERNS = patterns()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"layer": row, "head": head, "score": row + head / 10}
        for row in range(LAYERS)
        for head in range(HEADS)
    ]
    table = SCORES.table(rows)
    figure = head_grid(table, "score", title="Scores", caption="All of them.")
    example = AttentionExample("p", "Patterns", "", TOKENS, PATTERNS, {"1.2": f"induction {HOSTILE}"})
    study = Study("s", f"Title {HOSTILE}", "Q?", ("S.",), (), {"scores": table}, (figure,), (example,))
    return write(study, tmp_path_factory.mktemp("run") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, offline=True)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.on("request", lambda request: _note_request(request.url, report, complaints))
    opened.goto(report.as_uri())
    opened.wait_for_selector(".hs-values")
    yield opened
    context.close()
    assert complaints == []


def _note_request(url: str, report: Path, complaints: list[str]) -> None:
    if url.split("#")[0] != report.as_uri() and not url.startswith("data:"):
        complaints.append(f"request {url}")


def shown(page: Any) -> np.ndarray:
    """What the enlarged canvas holds: [query, key, channel], one pixel per value."""
    script = """() => {
        const canvas = document.querySelector('.hs-values');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return Array.from(data);
    }"""
    return np.array(page.evaluate(script)).reshape(LENGTH, LENGTH, 4)


def expected(layer: int, head: int, query: int, key: int) -> list[int]:
    level = round(float(np.sqrt(PATTERNS[layer, head, query, key])) * 255)
    return [*(round(channel) for channel in colour_at(CIVIDIS, level / 255)), 255]


def test_the_page_opens_offline_with_its_title(page):
    assert page.title() == f"Title {HOSTILE} · headscope"
    assert page.locator("img").evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 0)")


def test_the_enlarged_head_shows_every_value_in_its_place(page):
    # It opens on the labelled head.
    pixels = shown(page)
    for query in range(LENGTH):
        for key in (0, query // 2, query):
            assert list(pixels[query, key]) == pytest.approx(expected(1, 2, query, key), abs=1), (query, key)
        if query + 1 < LENGTH:
            assert pixels[query, query + 1, 3] == 0, "the upper triangle stays empty"


def test_arrows_move_between_heads_and_stop_at_the_edge(page):
    focused = "document.activeElement.getAttribute('aria-label')"
    page.locator('.hs-cell[tabindex="0"]').focus()
    assert page.evaluate(focused) == f"head 1.2, induction {HOSTILE}"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "head 0.3"
    assert page.locator('.hs-cell[tabindex="0"]').count() == 1, "the grid is one stop of the Tab key"
    assert page.locator(".hs-title").inner_text() == "Head 0.3"
    assert list(shown(page)[7, 3]) == pytest.approx(expected(0, 3, 7, 3), abs=1)


def test_keys_read_one_value_aloud_and_escape_goes_back(page):
    page.locator('.hs-cell[tabindex="0"]').focus()
    page.keyboard.press("Enter")
    for key in ("ArrowUp", "ArrowUp", "Home", "ArrowRight"):
        page.keyboard.press(key)
    # The first press sets the cursor on the last query, the second moves up to query 18, then key 0, key 1.
    spoken = page.locator(".hs-spoken").inner_text()
    assert spoken.startswith("query ·t18 at 18, key ↵ at 1: ")
    value = float(spoken.rsplit(" ", 1)[1])
    assert value == pytest.approx(float(PATTERNS[1, 2, 18, 1]), abs=MAX_ERROR + 0.005)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className").startswith("hs-cell")


def test_the_pointer_reads_the_cell_under_it(page):
    page.locator(".hs-values").scroll_into_view_if_needed()
    box = page.locator(".hs-values").bounding_box()
    cell = box["width"] / LENGTH
    page.mouse.move(box["x"] + 3.5 * cell, box["y"] + 10.5 * cell)
    page.wait_for_function("document.querySelector('.hs-reading').textContent.includes(' → ')", timeout=5000)
    assert page.locator(".hs-reading").inner_text().startswith("·t10 (10) → שלום (3): ")
    assert page.locator(".hs-spoken").inner_text() == "", "a pointer that passes is not read aloud"


def test_the_table_names_the_strongest_key_of_every_query(page):
    page.locator(".hs-table summary").click()
    rows = page.locator(".hs-table tbody tr")
    rows.first.wait_for()
    assert rows.count() == LENGTH
    strongest = int(PATTERNS[1, 2, 15, :16].argmax())
    assert rows.nth(15).locator("td").nth(1).inner_text().endswith(f" {strongest}")


def test_a_link_to_a_folded_table_opens_it(page):
    folded = page.locator("#table-1-scores table")
    assert not folded.is_visible()
    page.evaluate("location.hash = '#table-1-scores'")
    folded.wait_for(state="visible", timeout=5000)


def test_the_page_fits_a_narrow_screen(page):
    page.set_viewport_size({"width": 400, "height": 800})
    # The view is drawn again for the new width, which takes a frame or two.
    page.wait_for_function("document.documentElement.scrollWidth <= 400", timeout=5000)
