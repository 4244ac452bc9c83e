"""The report: one file, nothing fetched, nothing executed that the page did not bring, nothing computed."""

import base64
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from headscope.cli.study import show
from headscope.errors import UnknownName, Unwritable
from headscope.figures import bars_with_intervals, head_grid
from headscope.figures.theme import dark
from headscope.report import render, write
from headscope.report.cells import table_view
from headscope.results.files import SCHEMA
from headscope.results.folder import save
from headscope.results.study import AttentionExample, Claim, Study, Verdict
from headscope.tables import Column, Schema, Table
from tests import everything

HOSTILE = "</script><img src=x onerror=alert(1)>"
TOKENS = ("<bos>", " the", "\n", "\u200b", "שלום", "\u202eabc", HOSTILE, "\ud800")

SCORES = Schema(
    "scores",
    (
        Column("layer", pl.Int64, "layer of the head"),
        Column("head", pl.Int64, "index of the head"),
        Column("score_nats", pl.Float64, "what the head adds <to> the loss", "nats"),
        Column("note", pl.String, "why a value is undefined"),
    ),
)


def scores(layers: int = 2, heads: int = 4) -> Table:
    return SCORES.table(
        {
            "layer": layer,
            "head": head,
            "score_nats": math.nan if (layer, head) == (1, 3) else 0.123456 * (layer + 1) * (head + 1),
            "note": HOSTILE if (layer, head) == (1, 3) else None,
        }
        for layer in range(layers)
        for head in range(heads)
    )


def patterns(layers: int, heads: int, length: int) -> np.ndarray:
    weights = np.tril(np.random.default_rng(0).random((layers, heads, length, length)))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def study() -> Study:
    table = scores()
    words = {"title": f"Scores {HOSTILE}", "caption": "What each head adds & costs."}
    return Study(
        name="synthetic",
        title=f"A study of {HOSTILE}",
        question="Does the page hold?",
        answer=("Head 0.3 scores 0.494 nats.",),
        claims=(
            Claim("one", "It holds.", Verdict.SUPPORTED, "0.494 is above 0.1.", ("by_head",)),
            Claim("two", "It falls.", Verdict.REFUTED, "It did not.", ("scores",)),
            Claim("three", "It may.", Verdict.UNDETERMINED, "The interval holds 0."),
        ),
        tables={"by_head": table, "other": Table(SCORES, scores(6, 5).frame)},
        figures=(
            head_grid(table, "score_nats", **words),
            bars_with_intervals(table, "head", "score_nats", group="layer", **words),
        ),
        attention=(AttentionExample("p", "Patterns", HOSTILE, TOKENS, patterns(2, 4, 8), {"1.2": HOSTILE}),),
        notes=("Half a character, \ud800, cannot be written as UTF-8.",),
        provenance={
            "model": "zoo:x",
            "prompts": [{"task": "repeated_tokens", "n": 24, "gaps": [0, 1]}, {"task": "text"}],
            "seed": 0,
            "date": "2026-01-01",
            "command": ["headscope", "study", "x", "--out", "a b"],
            "versions": {"torch": "2.13.0"},
        },
    )


@pytest.fixture(scope="module")
def page(study) -> str:
    return render(study)


class Outline(HTMLParser):
    """Every element with its attributes, in order, and the text of inline scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self._within: str | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._within = tag if tag in self.inline else None
        if self._within:
            self.inline[tag].append("")

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within:
            self.inline[self._within][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def outline(page) -> Outline:
    return Outline(page)


def test_hostile_text_stays_text(page, outline):
    # Exactly the elements that the template has: two figures, one data block, one program.
    assert len(outline.all("script")) == 2
    assert len(outline.all("img")) == 2
    assert all(attributes["src"].startswith("data:image/svg+xml;base64,") for attributes in outline.all("img"))
    assert not [name for _, given in outline.elements for name in given if name.startswith("on")]
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page


def test_embedded_tokens_come_back_as_they_are_shown(outline):
    data = json.loads(outline.inline["script"][0])
    assert data["tokens"] == [
        "<bos>",
        "·the",
        "↵",
        "⟨200B⟩",
        "שלום",
        "⟨202E⟩abc",
        HOSTILE.replace(" ", "·"),
        "⟨D800⟩",
    ]
    assert data["labels"] == {"1.2": HOSTILE}
    assert data["shape"] == [2, 4, 8]


def test_nothing_on_the_page_can_be_fetched(page, outline):
    assert not re.search(r"https?://|@import|url\(", page)
    for tag, given in outline.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = given.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(outline):
    (policy,) = [m["content"] for m in outline.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))

    def named(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert directives == {
        "default-src": "'none'",
        "style-src": named(outline.inline["style"][0]),
        "script-src": named(outline.inline["script"][-1]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [given for _, given in outline.elements if "style" in given], "style attributes would be blocked"


def test_text_that_is_no_unicode_does_not_stop_the_page(page):
    assert "Half a character, ?, cannot be written" in page


def test_undefined_and_missing_are_words_and_numbers_keep_their_value(page):
    assert '<td class="undefined" title="NaN: this value does not exist">undefined</td>' in page
    assert '<td class="missing" title="no value">–</td>' in page
    assert '<td class="number" title="0.123456">0.123</td>' in page
    assert ">nan<" not in page.lower()


def test_columns_carry_unit_and_meaning_twice(page):
    assert (
        'title="what the head adds &lt;to&gt; the loss (in nats)">score nats <span class="unit">nats</span>' in page
    )
    assert '<dt>score nats</dt><dd>what the head adds &lt;to&gt; the loss <span class="unit">nats</span></dd>' in page


def test_images_carry_the_words_of_their_figure(study, outline):
    assert [image["alt"] for image in outline.all("img")] == [figure.alt for figure in study.figures]
    assert "Largest at 1.2 (0.741)" in study.figures[0].alt


def test_a_table_behind_two_figures_is_shown_once(page, outline):
    identities = [given["id"] for _, given in outline.elements if given.get("id")]
    assert len(identities) == len(set(identities))
    assert identities.count("table-1-by-head") == 1
    assert page.count("The table behind it: by_head, 8 rows") == 1
    assert 'Drawn from the table <a href="#table-1-by-head">by_head</a> above.' in page


def test_links_lead_somewhere(outline):
    identities = {given["id"] for _, given in outline.elements if given.get("id")}
    targets = {given["href"].removeprefix("#") for given in outline.all("a")}
    assert targets <= identities
    for given in (g for _, g in outline.elements if g.get("aria-labelledby")):
        assert given["aria-labelledby"] in identities


def test_headings_descend_one_level_at_a_time(outline):
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_claims_say_their_verdict_in_words_and_name_their_tables(page):
    for verdict in Verdict:
        assert f'<span class="badge {verdict}">{verdict}</span>' in page
    # A claim may name a table by its key or by its schema.
    assert page.count('<a href="#table-1-by-head">by_head</a>') == 3


def test_the_command_is_what_one_types(page):
    assert "headscope study x --out &#39;a b&#39;" in page
    assert '<span class="what">model</span> zoo:x' in page
    assert '<span class="what">prompts</span> repeated_tokens (n=24), text<' in page
    assert "<dt>torch</dt><dd>2.13.0</dd>" in page
    assert "<dt>gaps</dt><dd>0, 1</dd>" in page


def test_long_tables_are_folded_and_longer_ones_name_their_file():
    assert [
        len(part) for part in (table_view("t", "a", scores(4, 5)).first, table_view("t", "a", scores(4, 5)).folded)
    ] == [20, 0]
    long = table_view("t", "a", scores(60, 10))
    assert (len(long.first), len(long.folded), long.left_out) == (20, 480, 100)
    study = Study("s", "S", "Q", (), (), {"long": scores(60, 10)}, ())
    page = render(study)
    assert "The next 480 rows" in page
    assert "100 more rows are not on this page: all 600 are in <code>tables/long.parquet</code>" in page


def test_a_study_with_next_to_nothing_still_has_a_page():
    page = render(Study("s", "S", "Q", (), (), {"empty": SCORES.table([])}, ()))
    assert "This table has no rows." in page
    assert "Claims" not in page


def test_a_table_that_does_not_exist_is_a_defect_with_a_name(study):
    with pytest.raises(
        UnknownName, match="no table of the study 'synthetic' named 'by_heads': did you mean 'by_head'"
    ):
        render(dataclasses.replace(study, claims=(Claim("x", "X.", Verdict.REFUTED, "", ("by_heads",)),)))


def test_a_report_appears_whole_or_not_at_all(study, page, tmp_path, monkeypatch):
    target = tmp_path / "runs" / "report.html"
    assert write(study, target) == target
    assert target.read_text(encoding="utf-8") == page

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Unwritable, match="disk full"):
        write(dataclasses.replace(study, title="Another"), target)
    assert target.read_text(encoding="utf-8") == page
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


@pytest.fixture(scope="module")
def full() -> Study:
    return everything.study()


@pytest.fixture(scope="module")
def full_page(full) -> str:
    return render(full)


def places(page: str, *texts: str) -> list[int]:
    return [page.index(text, page.index("<body>")) for text in texts]


def test_question_answer_tally_and_leading_figure_come_before_anything_else(full, full_page):
    order = places(
        full_page,
        f'<h2 class="question" id="question">{full.question}</h2>',
        '<p class="answer">Patching the final token',
        "3 claims: 1 supported, 1 refuted, 1 undetermined",
        "Where the task can be read off</h3>",
        'href="https://example.org/',
        "Ablating attention layers 2 and 3 does not prevent it",
        "the target answers with f(x) although",
        "Each verdict rests on comparisons",
        "The MLPs that matter act at the label tokens.",
        "What each head attends to</h3>",
    )
    assert order == sorted(order)


def test_the_leading_figure_is_shown_once_and_is_the_first_where_none_is_named(full, full_page):
    assert full_page.count("Where the task can be read off</h3>") == 1
    assert full_page.count("<picture>") == len(full.figures)
    page = render(dataclasses.replace(full, lead=""))
    order = places(page, "What each head attends to</h3>", 'id="claims"', "Where the task can be read off</h3>")
    assert order == sorted(order)
    with pytest.raises(UnknownName, match="no figure of the study 'redundancy' named 'leed': did you mean 'lead'"):
        render(dataclasses.replace(full, lead="leed"))


def test_every_figure_has_a_picture_for_a_dark_screen_and_a_light_one_for_the_rest(full, full_page):
    outline = Outline(full_page)
    svgs = {figure.alt: figure.svg for figure in full.figures}
    assert len(outline.all("img")) == len(full.figures)
    for image, source in zip(outline.all("img"), outline.all("source"), strict=True):
        light, shown = (
            base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
            for uri in (image["src"], source["srcset"])
        )
        assert (light, shown) == (svgs[image["alt"]], dark(light))
        assert light != shown
        assert source["media"] == "screen and (prefers-color-scheme: dark)"


def cells_behind(page: str, statement: str) -> list[list[str]]:
    part = page[page.index(f"<h3>{statement}") :]
    body = re.search(r"<tbody>(.*?)</tbody>", part, flags=re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.S)
    return [[re.sub("<[^>]*>", " ", cell).strip() for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_the_comparisons_that_decided_stand_folded_under_their_claim(full_page):
    assert "What decided: 5 comparisons" in full_page
    first = cells_behind(full_page, "The MLPs that matter")
    assert [row[0] for row in first] == ["need", "positive control", "null", "test", "test"]
    assert first[2] == [
        "null", "same, label-shuffled", "damage  nats", "0.03 [-0.02, 0.08]", "above 0.1", "no", "24 prompts"
    ]  # fmt: skip
    effect, rank = cells_behind(full_page, "Attention layers 2 and 3")
    assert effect[3:6] == ["0.42 [0.33, 0.5]", "within ±0.1", "no"]
    assert rank[2:] == ["p value", "0.03", "p at most 0.05", "yes", "200 random sets"], "no interval"
    missing, unclear = cells_behind(full_page, "One head alone")
    assert missing[3] == "undefined no cell was selected: the best head differs between halves"
    assert unclear[4:] == ["below 0", "unclear", "10 functions"]
    assert '<td class="measured" title="0.42 [0.33, 0.5]">' in full_page, "the full numbers are behind the short"


def test_kinds_of_comparison_are_explained_before_the_claims_and_only_those_that_occur(full, full_page):
    for role in ("need", "positive control", "null", "test"):
        assert full_page.count(f'<span class="role">{role}</span>') == 1
    page = render(dataclasses.replace(full, claims=full.claims[1:2]))
    assert re.findall(r'<span class="role">(.*?)</span>', page) == ["test"]


def test_sources_are_the_only_links_that_leave_the_page_and_only_over_http(full_page):
    outline = Outline(full_page)
    leaving = [given for given in outline.all("a") if not given["href"].startswith("#")]
    assert leaving == [{"href": "https://example.org/redundant?a=1&b=2", "rel": "noopener noreferrer"}]
    assert len(re.findall(r"https?://", full_page)) == 1
    assert 'href="javascript:' not in full_page
    assert "In-Context Learning Creates Task Vectors, R. Hendel, M. Geva, A. Globerson (2023)" in full_page


def test_a_run_folder_keeps_the_comparisons_as_rows_and_says_its_form(full, tmp_path):
    save(full, tmp_path / "run", render)
    frame = pl.read_parquet(tmp_path / "run" / "tables" / "claims.parquet")
    assert frame.height == sum(len(claim.evidence) for claim in full.claims) == 9
    assert frame.row(2, named=True) == {
        "claim": "mlps_at_labels", "verdict": "supported", "role": "null", "what": "same, label-shuffled",
        "quantity": "damage", "unit": "nats", "estimate": 0.03, "low": -0.02, "high": 0.08, "comparison": "above",
        "margin": 0.1, "side": "no", "over": "prompts", "n": 24, "reason": "",
    }  # fmt: skip
    undefined = frame.row(7, named=True)
    assert math.isnan(undefined["estimate"])
    assert undefined["reason"].startswith("no cell was selected")
    columns = json.loads((tmp_path / "run" / "tables" / "claims.json").read_text())
    assert [column["name"] for column in columns] == frame.columns
    assert all(column["meaning"] for column in columns)
    manifest, record = (json.loads((tmp_path / "run" / f"{n}.json").read_text()) for n in ("manifest", "study"))
    assert manifest["schema"] == record["schema"] == SCHEMA
    assert record["claims"][2]["evidence"][0]["estimate"] is None, "JSON has no NaN"
    assert list(record["terms"]) == ["transfer", "task vector"]


def test_a_table_of_a_study_cannot_take_the_place_of_the_comparisons(full, tmp_path):
    taken = dataclasses.replace(full, tables={**full.tables, "claims": full.tables["scores"]})
    with pytest.raises(ValueError, match="no table may be named 'claims'"):
        save(taken, tmp_path / "run", render)
    assert not (tmp_path / "run").exists()


def test_the_printout_is_question_answer_claims_and_where_the_page_is(full, tmp_path, capsys):
    show(full, tmp_path, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [full.question, *full.answer, ""]
    assert lines[4] == f"   supported  {full.claims[0].statement}"
    assert lines[5].strip() == full.claims[0].because
    assert lines[-1] == f"Report: {tmp_path.resolve() / 'report.html'}"
    assert len(lines) == 12
    show(full, tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["claims"][0]["evidence"][0]["role"] == "need"
