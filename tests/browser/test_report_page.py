"""The report in a real browser, offline: it opens, requests nothing, and the attention view is right."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests import everything

from headscope.figures import head_grid
from headscope.figures.attention import MAX_ERROR
from headscope.figures.theme import CIVIDIS, colour_at
from headscope.report import write
from headscope.results.study import AttentionExample, Study
from headscope.tables import Column, Schema

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

LAYERS, HEADS, LENGTH = 2, 4, 20
HOSTILE = "</script><img src=x onerror=alert(1)>"
TOKENS = (HOSTILE, "\n", "\u200b", "שלום", *(f" t{position}" for position in range(4, LENGTH)))
SCORES = Schema(
    "scores",
    (Column("layer", pl.Int64, "layer"), Column("head", pl.Int64, "head"), Column("score", pl.Float64, "score")),
)


def patterns() -> np.ndarray:
    logits = np.random.default_rng(1).normal(scale=3, size=(LAYERS, HEADS, LENGTH, LENGTH))
    weights = np.exp(logits) * np.tril(np.ones((LENGTH, LENGTH)))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


PATTERNS = patterns()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"layer": row, "head": head, "score": row + head / 10} for row in range(LAYERS) for head in range(HEADS)]
    table = SCORES.table(rows)
    figure = head_grid(table, "score", title="Scores", caption="All of them.")
    example = AttentionExample("p", "Patterns", "", TOKENS, PATTERNS, {"1.2": f"induction {HOSTILE}"})
    study = Study("s", f"Title {HOSTILE}", "Q?", ("S.",), (), {"scores": table}, (figure,), attention=(example,))
    return write(study, tmp_path_factory.mktemp("run") / "report.html")


@pytest.fixture(scope="module")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(everything.study(), tmp_path_factory.mktemp("full") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    yield from _opened(browser, report, 1200, 1000)


@pytest.fixture
def full(browser: Any, full_report: Path) -> Iterator[Any]:
    yield from _opened(browser, full_report, 1280, 800)


def _opened(browser: Any, report: Path, width: int, height: int) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
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


def test_the_first_screen_holds_question_answer_and_the_top_of_the_leading_figure(full):
    question, answer, figure = (
        full.locator(name).first.bounding_box() for name in (".question", ".answer", "figure img")
    )
    assert 0 < question["y"] < answer["y"] < figure["y"]
    assert figure["y"] + 200 < 800
    assert full.locator(".tally").bounding_box()["y"] < 800


def test_figures_follow_the_system_to_dark_and_paper_stays_light(full):
    image = full.locator("figure img").first
    light = image.evaluate("image => image.src")
    assert image.evaluate("image => image.currentSrc") == light
    full.emulate_media(color_scheme="dark")
    full.wait_for_function("() => { const i = document.querySelector('figure img'); return i.currentSrc !== i.src }")
    assert image.evaluate("image => image.currentSrc") == full.locator("source").first.evaluate("s => s.srcset")
    assert full.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    full.emulate_media(color_scheme="dark", media="print")
    full.wait_for_function("() => { const i = document.querySelector('figure img'); return i.currentSrc === i.src }")


def test_evidence_opens_under_its_claim_and_is_open_on_paper(full):
    table = full.locator("#claim-1 table")
    assert not table.is_visible()
    full.locator("#claim-1 summary").click()
    table.wait_for(state="visible", timeout=5000)
    shown = "table => table.checkVisibility()"
    assert not full.locator("#claim-2 table").evaluate(shown)
    full.emulate_media(media="print")
    assert full.locator("#claim-2 table").evaluate(shown)
    assert not full.locator("#tables ~ details table").first.evaluate(shown), "long tables stay folded"


def _open_everything(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")


@pytest.mark.parametrize("width", [420, 1280])
def test_what_is_wide_scrolls_in_its_box_and_says_so_and_the_page_does_not(full, width):
    full.set_viewport_size({"width": width, "height": 800})
    _open_everything(full)
    agree = """() => [...document.querySelectorAll('.scroll')].every(box =>
        box.previousElementSibling.checkVisibility() === (box.scrollWidth > box.clientWidth + 1))"""
    full.wait_for_function(agree, timeout=5000)
    full.wait_for_function(f"document.documentElement.scrollWidth <= {width}", timeout=5000)
    hints = full.locator(".hint").evaluate_all("hints => hints.filter(hint => hint.checkVisibility()).length")
    assert hints > 0
    assert full.locator(".opening .hint").first.is_visible() is (width == 420), "a figure that fits says nothing"


@pytest.mark.parametrize("width", [420, 1280])
def test_words_are_not_broken_inside_and_what_has_no_break_is_held_by_its_box(full, width):
    full.set_viewport_size({"width": width, "height": 800})
    _open_everything(full)
    broken = full.evaluate("""() => {
        const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
        const found = [];
        while (walk.nextNode()) {
            const { textContent, parentElement } = walk.currentNode;
            if (!parentElement.checkVisibility() || parentElement.closest('.hs-attention, script')) continue;
            for (const word of textContent.matchAll(/(?<![^\\s])[A-Za-z]{2,24}[.,:;]?(?![^\\s])/g)) {
                const range = document.createRange();
                range.setStart(walk.currentNode, word.index);
                range.setEnd(walk.currentNode, word.index + word[0].length);
                if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) found.push(word[0]);
            }
        }
        return found;
    }""")
    assert broken == []
    for name, most in (("td.text", 600), (".comparisons td.text", 320), ("#command", 850)):
        held = full.locator(name).filter(has_text=everything.LONG)
        assert max(held.evaluate_all("parts => parts.map(part => part.offsetWidth)")) < most
