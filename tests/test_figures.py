"""Figures say what the table says: positions, numbers, undefined cells, words, and 8-bit patterns."""

import base64
import math
import re
import zlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import polars as pl
import pytest

from headscope.errors import BadArgument, OutOfRange, UnknownName
from headscope.figures import bars_with_intervals, head_grid, layer_position_grid, lines, to_pdf, to_png
from headscope.figures.attention import MAX_ERROR, encode, payload, script, script_json
from headscope.figures.heat import number_texts
from headscope.figures.theme import (
    BLUE_ORANGE,
    CIVIDIS,
    DARK,
    INKS,
    LONGEST_LINE,
    OKABE_ITO,
    UNDEFINED_FILL,
    colour_at,
    dark,
)
from headscope.figures.tokens import visible
from headscope.results.study import AttentionExample
from headscope.tables import Column, Schema, Table

NAN = math.nan
WORDS = {"title": "A title", "caption": "A caption."}
SCORES = Schema(
    "scores",
    (
        Column("layer", pl.Int64, "layer of the head"),
        Column("head", pl.Int64, "index of the head"),
        Column("detector", pl.String, "what is scored"),
        Column("score", pl.Float64, "mean attention on the key set"),
        Column("low", pl.Float64, "lower end of the interval"),
        Column("high", pl.Float64, "upper end of the interval"),
        Column("null", pl.Float64, "the same on matched prompts"),
    ),
)
CURVE = Schema(
    "curve",
    (
        Column("step", pl.Int64, "training step"),
        Column("model", pl.String, "which model"),
        Column("loss_nats", pl.Float64, "mean loss", "nats"),
    ),
)
PATCH = Schema(
    "patch",
    (
        Column("layer", pl.Int64, "layer"),
        Column("position", pl.Int64, "position"),
        Column("recovered", pl.Float64, "share restored"),
    ),
)


def scores(values: Mapping[tuple[int, int], float], detector: str = "induction") -> Table:
    return SCORES.table(
        {
            "layer": layer,
            "head": head,
            "detector": detector,
            "score": value,
            "low": value - 0.1,
            "high": value + 0.1,
            "null": 0.25,
        }
        for (layer, head), value in values.items()
    )


def grid_of(layers: int, heads: int) -> Table:
    return scores(
        {(row, col): (row * heads + col) / (layers * heads) for row in range(layers) for col in range(heads)}
    )


def hexadecimal(colour: tuple[float, float, float]) -> str:
    return "rgb({}, {}, {})".format(*(round(channel) for channel in colour))


def test_head_grid_says_what_is_largest_and_where():
    table = scores({(0, 0): 0.1, (0, 1): 0.9, (1, 0): 0.2, (1, 1): NAN})
    figure = head_grid(table, "score", **WORDS)
    assert figure.alt == (
        "Heat map of score over 2 layers and 2 heads. "
        "Largest at 0.1 (0.9), 1.0 (0.2) and 0.0 (0.1); median 0.2; 1 of 4 undefined."
    )
    assert (figure.title, figure.caption, figure.table) == ("A title", "A caption.", "scores")


def test_undefined_is_drawn_as_undefined_and_never_as_zero():
    # A 0 and a NaN side by side: the 0 takes the lowest colour of the ramp, the NaN none of the ramp.
    svg = head_grid(scores({(0, 0): 0.0, (0, 1): NAN, (0, 2): 1.0}), "score", **WORDS).svg
    lowest = hexadecimal(colour_at(CIVIDIS, 0.0))
    assert len(re.findall(rf'fill="{re.escape(lowest)}"', svg)) == 1
    assert svg.count(f'fill="{UNDEFINED_FILL}"') == 1
    assert ">undefined</text>" in svg


def test_without_undefined_cells_there_is_no_such_legend():
    assert "undefined" not in head_grid(grid_of(2, 2), "score", **WORDS).svg


def test_heads_that_were_not_measured_stay_blank():
    svg = head_grid(scores({(0, 0): 0.5, (1, 1): 1.0}), "score", **WORDS).svg
    assert UNDEFINED_FILL not in svg
    assert svg.count(">.50</text>") == 1


@pytest.mark.parametrize(("layers", "heads", "numbered"), [(2, 4, True), (12, 12, True), (32, 32, False)])
def test_numbers_stand_in_cells_only_where_they_fit(layers, heads, numbered):
    figure = head_grid(grid_of(layers, heads), "score", **WORDS)
    # Half of the largest row-major index is half the score: one cell reads .50 in each of these grids.
    assert (">.50</text>" in figure.svg) is numbered
    width = float(re.search(r'<svg[^>]*? width="([\d.]+)', figure.svg)[1])
    assert width < 1040


def test_facets_share_one_scale_and_each_has_its_words():
    both = Table(
        SCORES, pl.concat([scores({(0, 0): 0.2}, "induction").frame, scores({(0, 0): 1.0}, "previous token").frame])
    )
    figure = head_grid(both, "score", facet="detector", **WORDS)
    assert "induction: largest at 0.0 (0.2)" in figure.alt
    assert "previous token: largest at 0.0 (1)" in figure.alt
    # On a scale of its own the first would take the highest colour too.
    assert figure.svg.count(f'fill="{hexadecimal(colour_at(CIVIDIS, 1.0))}"') == 1


def test_heads_may_be_given_in_their_written_form():
    schema = Schema("written", (*SCORES.columns[:1], Column("head", pl.String, "head"), SCORES.columns[3]))
    figure = head_grid(schema.table([{"layer": 1, "head": "1.4", "score": 0.5}]), "score", **WORDS)
    assert "Largest at 1.4 (0.5)" in figure.alt


def test_a_diverging_scale_is_symmetric_about_zero():
    svg = head_grid(scores({(0, 0): -0.5, (0, 1): 0.0, (0, 2): 1.0}), "score", diverging=True, **WORDS).svg
    assert 'fill="rgb(243, 242, 239)"' in svg, "0 is the middle of the ramp although -0.5 is the smallest value"


def test_two_rows_for_one_cell_are_refused():
    twice = Table(SCORES, pl.concat([grid_of(1, 1).frame] * 2))
    with pytest.raises(BadArgument, match=r"several rows for layer 0, head 0.*facet="):
        head_grid(twice, "score", **WORDS)


def test_an_unknown_column_and_an_empty_table_are_refused_by_name():
    with pytest.raises(UnknownName, match="did you mean 'score'"):
        head_grid(grid_of(1, 2), "scores", **WORDS)
    with pytest.raises(BadArgument, match="no rows"):
        head_grid(SCORES.table([]), "score", **WORDS)


def test_infinite_values_are_refused():
    with pytest.raises(BadArgument, match="infinite"):
        head_grid(scores({(0, 0): math.inf}), "score", **WORDS)


def patched(values: list[float]) -> Table:
    return PATCH.table({"layer": 0, "position": p, "recovered": value} for p, value in enumerate(values))


def test_positions_carry_their_own_token_and_hostile_tokens_are_text():
    tokens = [" the", "\n", "\u202eabc", "</text><b>", "antidisestablishmentarianism"]
    figure = layer_position_grid(patched([0.0, 0.1, 0.2, 0.3, 1.0]), "recovered", token_labels=tokens, **WORDS)
    assert ">·the 0</text>" in figure.svg
    assert ">antidisestabl… 4</text>" in figure.svg, "a long token keeps its position"
    assert ">↵ 1</text>" in figure.svg
    assert "⟨202E⟩abc 2" in figure.svg
    assert "\u202e" not in figure.svg
    assert "<b>" not in figure.svg
    assert "Largest at layer 0, position 4 (1)" in figure.alt


def test_a_position_may_go_without_a_label():
    svg = layer_position_grid(patched([0.0, 1.0]), "recovered", token_labels=[None, "query"], **WORDS).svg
    assert ">0</text>" in svg
    assert ">query 1</text>" in svg


def test_the_same_token_twice_is_two_columns():
    figure = layer_position_grid(patched([0.0, 1.0]), "recovered", token_labels=[" a", " a"], **WORDS)
    assert "1 layer and 2 positions" in figure.alt
    assert figure.svg.count(">·a ") == 2


def test_a_position_without_a_token_is_refused():
    with pytest.raises(BadArgument, match="positions 0 to 2: token_labels has 2 tokens"):
        layer_position_grid(patched([0.0, 0.1, 0.2]), "recovered", token_labels=["a", "b"], **WORDS)


def test_bars_keep_the_order_of_the_table_and_count_intervals_beyond_their_reference():
    table = scores({(0, 0): 0.3, (0, 1): 0.9, (0, 2): NAN, (0, 3): 0.6})
    figure = bars_with_intervals(table, "head", "score", "low", "high", reference="null", **WORDS)
    # Reference .25: inside .2 to .4, outside .8 to 1.0 and .5 to .7; the undefined row is not judged.
    assert figure.alt == (
        "Bars of score, 4 rows: largest at 1 (0.9), 3 (0.6) and 0 (0.3); median 0.6; 1 of 4 undefined. "
        "2 of 3 intervals exclude their reference."
    )
    rows = [float(re.search(rf"translate\([-\d.]+,([\d.]+)\)[^>]*>{head}</text>", figure.svg)[1]) for head in "0123"]
    assert rows == sorted(rows)
    assert figure.svg.count(">undefined</text>") == 1
    assert ">null</text>" in figure.svg


def test_groups_get_bars_of_their_own():
    both = Table(SCORES, pl.concat([scores({(0, 0): 0.2}, "a").frame, scores({(0, 0): 1.0}, "b").frame]))
    figure = bars_with_intervals(both, "head", "score", group="detector", **WORDS)
    assert "largest at 0, b (1) and 0, a (0.2)" in figure.alt
    assert 'fill="#0072b2"' in figure.svg
    assert 'fill="#d55e00"' in figure.svg


@pytest.mark.parametrize(
    "groups", [("a", "a"), ("ab", "ab"), ("abc", "abc"), ("abcd", "abcd"), ("ab", "b"), ("ba", "ab"), ("c", "abc")]
)
def test_bars_whiskers_and_references_stand_on_one_line_beside_their_label(groups):
    # Two heads, each with the groups named, and every bar with a whisker and a reference.
    parts = [scores({(0, h): 0.3}, name).frame for h, own in enumerate(groups) for name in own]
    pair = ("low", "high")
    svg = bars_with_intervals(
        Table(SCORES, pl.concat(parts)), "head", "score", *pair, group="detector", reference="null", **WORDS
    ).svg
    plot = svg[: svg.index("role-legend")]
    edges = re.findall(r'd="M0,([\d.]+)h[\d.]+v([\d.]+)h[^>]*fill="#\w+" fill-opacity', plot)
    middles = sorted(float(top) + float(height) / 2 for top, height in edges)
    whiskers = re.findall(r'<line transform="translate\([\d.]+,([\d.]+)\)" x2="[\d.]+" y2="0" stroke="#24292f"', plot)
    strokes = re.findall(r'translate\([\d.]+,([\d.]+)\)" d="M0,-[\d.]+L0', plot)
    assert len(middles) == sum(map(len, groups))
    assert sorted(map(float, whiskers)) == pytest.approx(middles, abs=0.6)
    assert sorted(map(float, strokes)) == pytest.approx(middles, abs=0.6)
    for label, own in (("0", middles[: len(groups[0])]), ("1", middles[len(groups[0]) :])):
        (baseline,) = re.findall(rf'text-anchor="end" transform="translate\(-4,([\d.]+)\)"[^>]*>{label}<', plot)
        # A baseline lies about .3 of 11 pixels under the middle of the letters.
        assert float(baseline) - 3.3 == pytest.approx(sum(own) / len(own), abs=0.8)
        assert max(own) - min(own) == pytest.approx(12 * (len(own) - 1)), "the bars of a label touch"


def test_groups_stand_in_one_order_under_every_label():
    parts = [scores({(0, head): 0.3}, name).frame for head, name in ((0, "a"), (0, "b"), (1, "b"), (1, "a"))]
    svg = bars_with_intervals(Table(SCORES, pl.concat(parts)), "head", "score", group="detector", **WORDS).svg
    bars = re.findall(r'd="M0,([\d.]+)h[^>]*fill="(#\w+)" fill-opacity', svg)
    in_place = [colour for _, colour in sorted(bars, key=lambda bar: float(bar[0]))]
    assert in_place == ["#0072b2", "#d55e00"] * 2


def test_the_legend_names_what_bars_are_compared_with():
    table = scores({(0, 0): 0.3})
    given = {"low": "low", "high": "high", **WORDS}
    named = bars_with_intervals(table, "head", "score", reference=0.25, reference_name="margin", **given).svg
    assert ">margin</text>" in named
    assert ">0.25</text>" in bars_with_intervals(table, "head", "score", reference=0.25, **given).svg
    own = bars_with_intervals(table, "head", "score", reference="null", reference_name="words only", **given).svg
    assert (">words only</text>" in own, ">null</text>" in own) == (True, False)


def luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_every_colour_of_the_theme_has_its_own_on_a_dark_ground():
    css = files("headscope.report").joinpath("page.css").read_text(encoding="utf-8")
    ground = re.findall(r"--card: (#[0-9a-f]{6})", css)[1]
    assert luminance(ground) < 0.02, "the card of the dark page"
    assert len(set(DARK.values())) == len(DARK)
    assert not set(DARK) & {*INKS, *CIVIDIS, *BLUE_ORANGE}, "what carries data, or is written on it, stays"
    for ink in ("#24292f", "#5c6570"):
        assert contrast(DARK[ink], ground) > 7
    for colour in OKABE_ITO:
        assert contrast(DARK[colour], ground) > 5


def test_a_dark_figure_differs_in_colours_alone_and_leaves_text_and_data_as_they_are():
    hostile = 'fill="#24292f"'
    both = Table(SCORES, pl.concat([scores({(0, 0): 0.2, (0, 1): NAN}, name).frame for name in (hostile, "b")]))
    grid = head_grid(both, "score", facet="detector", **WORDS).svg
    bars = bars_with_intervals(both, "head", "score", "low", "high", group="detector", reference="null", **WORDS).svg
    for svg in (grid, bars):
        shown = dark(svg)
        tags = re.findall(r"<[^>]*>", shown)
        assert not [tag for tag in tags for colour in DARK if f'"{colour}"' in tag]
        used = set(re.findall(r'"(#[0-9a-f]{6})"', "".join(tags)))
        assert used <= {*DARK.values(), *INKS}, "every colour but those of data is one of the theme"
        assert re.sub(r"<[^>]*>", "|", shown) == re.sub(r"<[^>]*>", "|", svg)
        assert 'fill="#24292f"' in re.sub(r"<[^>]*>", "|", shown), "a label that reads like an attribute"
        assert re.sub("#[0-9a-f]{6}", "", shown) == re.sub("#[0-9a-f]{6}", "", svg)
    assert re.findall(r"rgb\([^)]*\)", dark(grid)) == re.findall(r"rgb\([^)]*\)", grid)


def test_labels_have_room_in_a_font_wider_than_the_one_they_were_measured_in():
    table = SCORES.table([{**row, "detector": "w" * 30} for row in scores({(0, 0): 0.3}).rows()])
    svg = bars_with_intervals(table, "detector", "score", reference=0.1, reference_name="r" * 20, **WORDS).svg
    width, left, seen = re.search(r'width="([\d.]+)".*?viewBox="(-?[\d.]+) 0 ([\d.]+)', svg).groups()
    assert (float(left), width) == (-36.0, seen), "1.2 pixels for each of 30 characters"


@pytest.mark.parametrize("kind", ["bars", "curves", "grid"])
def test_long_words_beside_a_drawing_go_on_in_the_next_line_instead_of_being_cut(kind):
    long = " ".join(f"ablated-{number}" for number in range(12))
    table = SCORES.table([{**row, "detector": long} for row in scores({(0, 0): 0.3, (1, 0): 0.1}).rows()])
    svg = {
        "bars": lambda: bars_with_intervals(table, "detector", "score", reference=0.1, reference_name=long, **WORDS),
        "curves": lambda: lines(table, "layer", "score", "detector", **WORDS),
        "grid": lambda: head_grid(
            SCORES.table([*table.rows(), *scores({(0, 0): 0.2}).rows()]), "score", facet="detector", **WORDS
        ),
    }[kind]().svg
    written = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    assert long in {re.sub(r"<[^>]*>", " ", text).strip().replace("  ", " ") for text in written}
    assert max(len(line) for text in written for line in re.split(r"<[^>]*>", text)) <= LONGEST_LINE


def curve(values: list[float], model: str = "m") -> list[dict[str, Any]]:
    return [{"step": 10**i, "model": model, "loss_nats": value} for i, value in enumerate(values)]


def test_a_line_breaks_where_a_value_is_undefined():
    whole = lines(CURVE.table(curve([4.0, 3.0, 2.0, 1.0, 0.5])), "step", "loss_nats", log_x=True, **WORDS)
    broken = lines(CURVE.table(curve([4.0, 3.0, NAN, 1.0, 0.5])), "step", "loss_nats", log_x=True, **WORDS)

    def strokes(svg: str) -> int:
        path = re.search(r'<path d="([^"]*)"[^>]*stroke-width="1.8"', svg)[1]
        return path.count("M")

    assert strokes(whole.svg) == 1
    assert strokes(broken.svg) == 2
    assert "from 4 at 1 to 0.5 at 10000" in broken.alt
    assert "1 of 5 undefined" in broken.alt
    assert "loss (nats)" in broken.svg, "the unit stands at the axis"


def test_few_whole_numbers_get_one_tick_each():
    svg = lines(
        CURVE.table([*curve([4.0]), {"step": 2, "model": "m", "loss_nats": 3.0}]), "step", "loss_nats", **WORDS
    ).svg
    assert [svg.count(f">{tick}</text>") for tick in ("1", "2")] == [1, 1]


def test_more_lines_than_can_be_told_apart_are_refused():
    rows = [row for index in range(25) for row in curve([1.0, 2.0], f"model {index}")]
    with pytest.raises(BadArgument, match="cannot draw 25 lines"):
        lines(CURVE.table(rows), "step", "loss_nats", "model", **WORDS)


def test_figures_become_png_and_pdf():
    svg = head_grid(grid_of(1, 2), "score", **WORDS).svg
    assert to_png(svg).startswith(b"\x89PNG")
    assert to_pdf(svg).startswith(b"%PDF")


def test_figures_are_transparent_and_refer_to_nothing():
    svg = head_grid(grid_of(1, 2), "score", **WORDS).svg
    assert "href" not in svg
    assert not re.search(r"url\((?!#)", svg), "a gradient of its own is all that it may refer to"
    assert 'fill="white"' not in svg


def test_values_beyond_one_keep_two_decimals_where_they_fit():
    assert ">3.13</text>" in head_grid(scores({(0, 0): 3.127, (0, 1): 0.2}), "score", **WORDS).svg
    wide = scores({(0, head): 3.127 for head in range(12)})
    three = Table(SCORES, pl.concat([wide.frame.with_columns(detector=pl.lit(name)) for name in ("a", "b", "c")]))
    assert ">3.1</text>" in head_grid(three, "score", facet="detector", **WORDS).svg


def test_rounding_to_nothing_loses_its_sign():
    assert number_texts([-0.001, 0.5]) == [".00", ".50"]
    assert number_texts([0.001, 0.002]) == ["", ""]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("a·b", "a⟨00B7⟩b"),
        ("\t", "⇥"),
        ("\u0301", "◌\u0301"),
        ("\ufffd", "\ufffd"),
        ("\x00", "⟨0000⟩"),
        ("\ud800", "⟨D800⟩"),
    ],
)
def test_every_character_of_a_token_is_visible(token, shown):
    assert visible(token) == shown


def decode(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """What the view shows of an encoded text."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    patterns = np.zeros(shape, dtype=np.float32)
    rows, columns = np.tril_indices(shape[-1])
    patterns[..., rows, columns] = ((raw.astype(np.float32) / 255) ** 2).reshape(*shape[:-2], -1)
    return patterns


def random_patterns(layers: int, heads: int, length: int, sharpness: float = 3.0) -> np.ndarray:
    logits = np.random.default_rng(0).normal(scale=sharpness, size=(layers, heads, length, length))
    weights = np.exp(logits) * np.tril(np.ones((length, length)))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def test_patterns_come_back_within_the_stated_error():
    patterns = random_patterns(2, 3, 17)
    back = decode(encode(patterns), patterns.shape)
    assert np.abs(back - patterns).max() <= MAX_ERROR
    assert np.triu(back, k=1).max() == 0


def test_the_stated_error_holds_for_every_probability_and_is_not_slack():
    every = np.linspace(0, 1, 20_001, dtype=np.float32).reshape(-1, 1, 1)
    error = np.abs(decode(encode(every), every.shape) - every)
    # The worst case is half a step of sqrt(p) at its upper end: (1 - (254.5 / 255)**2) = .0039.
    assert 0.0038 < error.max() <= MAX_ERROR


def test_weak_attention_survives_eight_bits():
    weak = np.full((1, 1, 1), 1e-4, dtype=np.float32)
    # Eight bits of p itself would give 0 here.
    assert decode(encode(weak), (1, 1, 1)).item() == pytest.approx(1e-4, rel=0.4)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (np.full((1, 2, 2), NAN), "not a number"),
        (np.full((1, 2, 2), 0.5), "later key"),
        (np.zeros((2, 3)), "as many keys as queries"),
        (np.full((1, 1), 1.5), "outside 0 to 1"),
    ],
)
def test_what_is_no_causal_pattern_is_refused(patterns, words):
    with pytest.raises(BadArgument, match=words):
        encode(patterns)


def example(layers: int = 2, heads: int = 3, length: int = 12, **labels: str) -> AttentionExample:
    tokens = tuple(f" t{position}" for position in range(length))
    named = {name.removeprefix("h").replace("_", "."): label for name, label in labels.items()}
    return AttentionExample("x", "X", "", tokens, random_patterns(layers, heads, length), named)


def test_too_many_heads_leave_the_labelled_ones():
    given = example(4, 4, 32, h3_2="induction")
    whole = payload(given)
    assert len(whole["heads"]) == 16
    part = payload(given, limit=len(whole["data"]) // 4)
    assert [3, 2] in part["heads"]
    assert part["heads"] == sorted(part["heads"]), "in the order of layers, not of choice"
    assert 1 < len(part["heads"]) < 8
    assert len(part["data"]) <= len(whole["data"]) // 4
    # What is embedded under a name is that head's pattern.
    slot = part["heads"].index([3, 2])
    back = decode(part["data"], (len(part["heads"]), 32, 32))[slot]
    assert np.abs(back - given.patterns[3, 2]).max() <= MAX_ERROR


def test_a_label_for_a_head_that_does_not_exist_is_refused():
    with pytest.raises(OutOfRange, match=r"label head 5\.0"):
        payload(example(h5_0="induction"))


def test_json_for_a_script_element_cannot_leave_it():
    text = script_json({"token": "</script><!-- & \u2028"})
    assert not set(text) & set("<>&\u2028")
    assert '"\\u003c/script\\u003e\\u003c!-- \\u0026 \\u2028"' in text


def test_the_modules_of_the_view_join_into_one():
    joined = script()
    assert not re.search(r"^import ", joined, flags=re.M)
    names = re.findall(r"^(?:export )?(?:async )?(?:function|const|let) (\w+)", joined, flags=re.M)
    assert {"mount", "decodePatterns", "createAtlas", "createMatrix"} <= set(names)
    assert sorted(set(names)) == sorted(names), "two modules declare the same name"
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"):
        assert unsafe not in joined
