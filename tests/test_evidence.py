"""The verdict rule as a table, tests of one and of many cells, and tables and figures of samples."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from headscope.errors import BadArgument
from headscope.evidence import Rank, Test, any_of, bars, claim, claims_per, every, injected, lines, series, table
from headscope.evidence.claim import told
from headscope.measures.samples import LAYER, Samples, over_heads
from headscope.measures.statistics import unpaired
from headscope.results.study import Claim, Verdict
from headscope.studies.context import Context, Part, Plan, Settings, setting
from headscope.tables import Column, Quantity, Schema
from headscope.vocabulary import Head

EFFECT = Quantity("effect", "what happens", "nats")
SHARE = Quantity("share", "a share", "share", within=(0.0, 1.0))
SOURCE = Column("source", pl.String, "which prompts")


def about(mean, spread=0.1, n=30):
    """Samples whose mean is exactly `mean`."""
    values = np.random.default_rng(n).normal(size=n)
    return Samples.one(EFFECT, mean + spread * (values - values.mean()))


def above(mean, spread=0.1):
    return Test("effect", about(mean, spread), above=0.5)


YES, NO, UNCLEAR = above(1.0), above(0.0), above(0.5)
NAN = Test("effect", Samples.one(EFFECT, [1.0, math.nan, 1.0, 1.0, 1.0, 1.0]), above=0.5)
EMPTY = Test("best layer", None, above=0.5, reason="no layer stands out")

# What is known of needs, positive control, null and tests, and how it ends.
RULE = [
    ([NO], None, None, [YES], Verdict.UNDETERMINED, "Not judged: effect 0.00"),
    ([UNCLEAR], None, None, [YES], Verdict.UNDETERMINED, "Not judged: effect 0.50"),
    ([YES], None, None, [NAN], Verdict.UNDETERMINED, "Not judged: effect is undefined, undefined for some prompts"),
    ([YES], None, None, [EMPTY], Verdict.UNDETERMINED, "Not judged: best layer is undefined, no layer stands out"),
    ([YES], NO, None, [YES], Verdict.UNDETERMINED, "What must show it does not: effect 0.00"),
    ([YES], YES, YES, [YES], Verdict.UNDETERMINED, "The control shows it too: effect 1.00"),
    ([YES], YES, NAN, [YES], Verdict.UNDETERMINED, "Not judged: effect is undefined"),
    ([YES], YES, NO, [YES, YES], Verdict.SUPPORTED, "Effect 1.00"),
    ([YES], YES, UNCLEAR, [YES], Verdict.SUPPORTED, "Effect 1.00"),
    ([], None, None, [YES], Verdict.SUPPORTED, "Effect 1.00"),
    ([YES], YES, NO, [YES, NO], Verdict.REFUTED, "Effect 0.00"),
    ([YES], YES, NO, [UNCLEAR, NO], Verdict.REFUTED, "Effect 0.00"),
    ([YES], YES, NO, [YES, UNCLEAR], Verdict.UNDETERMINED, "It is unclear whether it holds: effect 0.50"),
    # The order: an unmet need comes before a failed control, that before a null, that before a refutation.
    ([NO], NO, YES, [NO], Verdict.UNDETERMINED, "Not judged"),
    ([YES], NO, YES, [NO], Verdict.UNDETERMINED, "What must show it does not"),
    ([YES], YES, YES, [NO], Verdict.UNDETERMINED, "The control shows it too"),
]


@pytest.mark.parametrize(("needs", "control", "null", "tests", "verdict", "sentence"), RULE)
def test_one_rule_for_all_verdicts(needs, control, null, tests, verdict, sentence):
    made = claim("c", "It happens.", needs=needs, positive_control=control, null=null, tests=tests, tables=("t",))
    assert made.verdict is verdict
    assert made.because.startswith(sentence)
    roles = Counter(row.role for row in made.evidence)
    assert roles["test"] == len(tests)
    assert roles["need"] == len(needs)
    assert len(made.because.split()) <= 40
    assert made.because.count(".") <= 5  # at most four numbers, and the end


def test_several_tests_make_a_refutation_harder():
    # A single test refutes by the 95% interval; the same one among ten needs that of 99.5%.
    edge = Test("edge", about(0.5 - 0.045, 0.1), above=0.5)
    assert claim("c", "It happens.", tests=[edge]).verdict is Verdict.REFUTED
    assert claim("c", "It happens.", tests=[edge, *[YES] * 9]).verdict is Verdict.UNDETERMINED


def test_a_statement_is_short_and_is_tested():
    with pytest.raises(ValueError, match="at most 25 words"):
        claim("c", "word " * 26, tests=[YES])
    with pytest.raises(ValueError, match="at least one test"):
        claim("c", "It happens.", tests=[])
    with pytest.raises(ValueError, match="give one of"):
        Test("t", about(0.0), above=0.1, below=0.2)


def test_one_claim_for_each_model():
    samples = {"a": about(1.0), "b": about(0.0)}
    made = claims_per(
        "model", "ab", lambda m: claim("rises", f"{m} rises.", tests=[Test("rise", samples[m], above=0.5)])
    )
    assert [(one.name, one.verdict) for one in made] == [("rises:a", Verdict.SUPPORTED), ("rises:b", Verdict.REFUTED)]


# One cell


def test_sides_of_a_margin():
    assert Test("t", about(0.0), below=0.5).row("test").side == "yes"
    assert Test("t", about(1.0), below=0.5).row("test").side == "no"
    assert Test("t", about(0.0), within=0.1).row("test").side == "yes"
    assert Test("t", about(1.0), within=0.1).row("test").side == "no"
    # "No significant change" is not "no change": the interval holds 0 and reaches past the margin.
    assert Test("t", about(0.0, spread=1.0), within=0.1).row("test").side == "unclear"


def test_equivalence_takes_the_inner_interval():
    sample = about(0.0)
    inner, outer = float(sample.estimate(0.92).high[0]), float(sample.estimate(0.95).high[0])
    assert Test("t", sample, within=(inner + outer) / 2).row("test").side == "yes"
    assert Test("t", sample, within=inner * 0.98).row("test").side == "unclear"


def test_too_few_units_have_no_side():
    row = Test("t", Samples.one(EFFECT, [1.0, 1.1]), above=0.5).row("test")
    assert (row.side, row.reason) == ("unclear", "2 values, and bounds need 5")
    assert (
        claim("c", "It happens.", tests=[Test("t", Samples.one(EFFECT, [1.0, 1.1]), above=0.5)]).verdict
        is Verdict.UNDETERMINED
    )


def test_an_unpaired_difference_is_tested_like_any_other():
    plain = Samples.one(EFFECT, [9.0, 9.2, 8.9, 9.1, 9.0], units=tuple("abcde"), over="training seeds")
    smeared = Samples.one(EFFECT, [7.0, 7.4, 6.9, 7.1, 7.2], units=tuple("fghij"), over="training seeds")
    row = Test("plain minus smeared", unpaired(plain, smeared), above=0.0).row("test")
    assert (row.side, row.over, row.n) == ("yes", "training seeds", 5)


def test_a_rank_among_random_sets():
    drawn = np.linspace(0.0, 1.0, 39)
    assert Rank("more than random", 2.0, drawn, "damage").row("test").estimate == pytest.approx(1 / 40)
    assert Rank("more than random", 2.0, drawn, "damage").row("test").side == "yes"
    assert Rank("more than random", 0.5, drawn, "damage").row("test").side == "unclear"
    assert Rank("more than random", -1.0, drawn, "damage").row("test").side == "no"
    assert "too few random sets" in Rank("r", 2.0, drawn[:5], "damage").row("test").reason
    # Blamed only where it is the reason: more sets would not make this p smaller.
    assert Rank("r", 0.05, drawn[:5], "damage").row("test").reason == ""
    nothing = claim("c", "It matters.", tests=[Rank("r", 2.0, drawn[:0], "damage")])
    assert nothing.because == "Not judged: r is undefined, there is no other set of this size."


def test_an_injected_effect_passes_where_it_could_be_seen():
    assert injected(above(0.0, spread=0.5)).row("positive control").side == "yes"
    assert injected(above(0.0, spread=3.0)).row("positive control").side == "unclear"
    assert injected(above(0.0)).row("positive control").estimate == pytest.approx(1.0)


# Many cells


def heads_with(effect, cells=40, n=30, seed=0):
    """Heads without an effect, but for the first."""
    values = np.random.default_rng(seed).normal(size=(n, cells)) * 0.3
    values[:, 0] += effect
    return over_heads(EFFECT, [Head(0, index) for index in range(cells)], values)


def test_some_head_is_found_by_a_bound_for_all_and_refuted_by_every_single_one():
    row = any_of("the strongest head", heads_with(1.0), above=0.5).row("test")
    assert (row.side, row.what) == ("yes", "the strongest head (head 0.0)")
    assert any_of("h", heads_with(0.0), above=0.5).row("test").side == "no"
    assert any_of("h", heads_with(0.5), above=0.5).row("test").side == "unclear"


def test_some_head_by_luck_is_not_found():
    # The best of 40 heads without effect lies beyond its own interval in most draws, beyond the joint one in few.
    alone = joint = 0
    for seed in range(40):
        samples = heads_with(0.0, seed=seed)
        alone += bool((samples.estimate().low > 0).any())
        joint += any_of("h", samples, above=0.0).row("test").side == "yes"
    assert alone > 15
    assert joint <= 4


def layers_with(*means, n=30):
    """Layers with exactly these means."""
    noise = np.random.default_rng(0).normal(size=(n, len(means))) * 0.1
    return Samples.grid(EFFECT, {LAYER: range(len(means))}, np.array(means) + noise - noise.mean(0))


def test_a_chosen_cell_is_found_by_its_own_bound_and_refuted_by_all():
    layers = layers_with(0.0, 0.545, 0.3, *[0.0] * 20)
    alone, joint = layers.estimate(), layers.together(above=0.5)
    assert alone.low[1] > 0.5 > joint.at_least[1]  # what it takes if nobody had chosen it is more
    row = any_of("transfer", layers.choosing(layer=1), above=0.5).row("test")
    assert (row.side, row.what, row.n) == ("yes", "transfer (layer 1)", 30)
    assert_allclose((row.estimate, row.low, row.high), (0.545, alone.low[1], alone.high[1]))
    assert any_of("transfer", layers, above=0.5).row("test").side == "unclear"
    # The chosen cell is surely under the margin, but another is not: that is the row, and nothing is refuted.
    row = any_of("transfer", layers.choosing(layer=2), above=0.5).row("test")
    assert (row.side, row.what) == ("unclear", "transfer (layer 1, not chosen)")
    assert_allclose((row.estimate, row.low, row.high), (0.545, alone.low[1], joint.at_most[1]))
    row = any_of("transfer", layers.choosing(layer=2), above=0.7).row("test", 0.99)
    assert (row.side, row.what) == ("no", "transfer (layer 1, not chosen)")
    assert_allclose((row.low, row.high), (layers.estimate(0.99).low[1], layers.together(level=0.99).at_most[1]))


def test_a_chosen_cell_that_is_not_there_or_is_undefined_is_not_judged():
    layers = layers_with(0.0, 0.1)
    none = any_of("transfer", layers.choosing(layer=None), above=0.5, reason="no layer stands out")
    made = claim("c", "It happens.", tests=[none])
    assert made.because == "Not judged: transfer is undefined, no layer stands out."
    broken = replace(layers, values=layers.values * [1.0, np.nan])
    assert any_of("t", broken.choosing(layer=1), above=0.5).row("test").reason == "undefined for some prompts"
    # An undefined cell that nobody chose keeps the others from refuting, and the chosen one from nothing.
    assert any_of("t", broken.choosing(layer=0), above=0.5).row("test").side == "unclear"
    assert any_of("t", broken.choosing(layer=0), above=-0.5).row("test").side == "yes"
    two = layers.labelled(SOURCE, "examples")
    with pytest.raises(ValueError, match="2 cells are chosen"):
        any_of("t", two.choosing(source="examples"), above=0.5).row("test")


def test_every_head_holds_by_single_bounds_and_is_refuted_by_a_joint_one():
    shifted = heads_with(0.0).changed(EFFECT, lambda values: values + 1.0)
    assert every("all heads", shifted, above=0.5).row("test").side == "yes"
    one_out = shifted.changed(EFFECT, lambda values: values - np.eye(40)[0] * 1.0)
    row = every("all heads", one_out, above=0.5).row("test")
    assert (row.side, row.what) == ("no", "all heads (head 0.0)")
    half_out = shifted.changed(EFFECT, lambda values: values - np.eye(40)[0] * 0.5)
    assert every("all heads", half_out, above=0.5).row("test").side == "unclear"


def test_every_cell_equivalent_to_nothing():
    small = heads_with(0.0, cells=5).changed(EFFECT, lambda values: values / 10)
    assert every("doses", small, within=0.1).row("test").side == "yes"
    assert every("doses", small.changed(EFFECT, lambda v: v + np.eye(5)[2]), within=0.1).row("test").side == "no"


def test_an_empty_selection_is_no_refutation():
    none = heads_with(0.0).only(head=[])
    for test in (
        any_of("h", none, above=0.5, reason="no head was named"),
        every("h", none, above=0.5, reason="no head was named"),
    ):
        made = claim("c", "It happens.", tests=[test])
        assert made.because == "Not judged: h is undefined, no head was named."


# Tables and figures


def test_a_table_of_samples_declares_its_columns():
    patched = Samples.grid(SHARE, {LAYER: [0, 1]}, np.full((10, 2), [0.2, 0.8])).labelled(SOURCE, "examples")
    shuffled = Samples.grid(SHARE, {LAYER: [0, 1]}, np.array([[0.1, 0.1]] * 8)).labelled(SOURCE, "shuffled")
    clean = Samples.one(replace(SHARE, name="clean", meaning="without a patch"), np.full(10, 0.9))
    made = table([patched, shuffled], "transfer", beside=(clean,))
    assert [column.name for column in made.schema.columns] == [
        "source",
        "layer",
        "share",
        "low",
        "high",
        "clean",
        "prompts",
    ]
    assert made.rows(source="examples", layer=1) == [
        {
            "source": "examples",
            "layer": 1,
            "share": pytest.approx(0.8),
            "low": pytest.approx(0.8 - 0.8 * -np.log(0.05) / 10),
            "high": pytest.approx(0.8 + 0.2 * -np.log(0.05) / 10),
            "clean": pytest.approx(0.9),
            "prompts": 10,
        }
    ]
    assert made.rows(source="shuffled")[0]["prompts"] == 8


def test_an_undefined_cell_has_its_reason_beside_it():
    values = np.column_stack([np.ones(6), np.full(6, np.nan)])
    samples = Samples.grid(SHARE, {LAYER: [0, 1]}, values).because("nothing to recover", layer=1)
    rows = table(samples, "t").rows()
    assert [row["reason"] for row in rows] == ["", "nothing to recover"]
    assert math.isnan(rows[1]["share"])


def test_joint_tables_have_wider_bounds():
    samples = heads_with(0.2, cells=10)
    alone, joint = table(samples, "t").rows(), table(samples, "t", jointly=True).rows()
    assert all(j["low"] <= a["low"] and a["high"] <= j["high"] for a, j in zip(alone, joint, strict=True))
    assert joint[3]["head"] == "0.3"


def test_another_quantity_stands_beside_with_its_bounds():
    values = np.random.default_rng(0).random((10, 2))
    share = Samples.grid(SHARE, {LAYER: [0, 1]}, values)
    effect = Samples.grid(EFFECT, {LAYER: [0, 1]}, values - 1)
    made = table(share, "t", bounded=[effect])
    assert [column.name for column in made.schema.columns][4:] == ["effect", "effect_low", "effect_high", "prompts"]
    assert made.rows(layer=1)[0]["effect_low"] == effect.estimate().low[1]


def test_figures_are_drawn_from_the_samples():
    patched = Samples.grid(SHARE, {LAYER: [0, 1]}, np.random.default_rng(0).random((10, 2))).labelled(
        SOURCE, "examples"
    )
    drawn = lines(patched, "layer", colour="source", name="transfer", title="Transfer", caption="By layer.")
    assert (drawn.table, drawn.svg[:4]) == ("transfer", "<svg")
    null = patched.measured_as(replace(SHARE, name="null", meaning="label-shuffled"))
    barred = bars(patched, "layer", reference=null, name="transfer", title="Transfer", caption="By layer.")
    assert "null" in barred.svg or "label-shuffled" in barred.svg


def test_numbers_are_told_shortly():
    row = Test("rise", about(0.0012, spread=0.001), above=0.0004).row("test")
    assert told(row).startswith("rise 0.0012 [0.00")
    assert told(row).endswith("nats (margin: above 0.0004)")


def test_a_chosen_cell_is_marked_and_tested():
    values = np.random.default_rng(0).random((10, 3)) / 10 + np.array([0.0, 0.5, 0.2])
    chosen = Samples.grid(SHARE, {LAYER: [0, 1, 2]}, values).choosing(layer=1)
    assert chosen.there.cells == ((),)
    assert any_of("transfer", chosen, above=0.3).row("test").what == "transfer (layer 1)"
    shuffled = chosen.choosing(layer=2).labelled(SOURCE, "shuffled")
    made = table([chosen.labelled(SOURCE, "examples"), shuffled], "t")
    marked = [(row["source"], row["layer"]) for row in made.rows(chosen=True)]
    assert (len(made), marked) == (6, [("examples", 1), ("shuffled", 2)])
    assert len(table(chosen, "t").rows(chosen=True)) == 1
    two = table(chosen.labelled(Column("way", pl.String, "how"), "zero").labelled(SOURCE, "examples"), "t")
    assert two.rows(chosen=True)[0] | {"source": "examples", "way": "zero", "layer": 1} == two.rows(layer=1)[0]
    assert [column.name for column in two.schema.columns][:3] == ["source", "way", "layer"]


def test_level_lines_hold_at_every_cell():
    patched = Samples.grid(SHARE, {LAYER: [0, 1]}, np.random.default_rng(0).random((10, 2)))
    clean = Samples.one(SHARE, np.random.default_rng(1).random(10))
    labelled = series({"patched": patched}, {"clean": clean})
    assert [each.cells for each in labelled] == [(("patched", 0), ("patched", 1)), (("clean", 0), ("clean", 1))]
    assert_allclose(labelled[1].mean, clean.mean[0])
    drawn = lines(labelled, "layer", colour="series", name="t", title="T", caption="C.")
    assert "clean" in drawn.svg


# Contexts and plans


@dataclass(frozen=True, kw_only=True)
class Small(Settings):
    doing = "study small things"
    n: int = setting(100, "prompts", at_least=5, quick=10)
    noise: float | None = setting(None, "share", at_least=0.0, at_most=1.0)
    way: str = setting("zero", "how", choices=("zero", "mean"))


def test_settings_are_checked_by_their_fields():
    assert Small().quick().n == 10
    assert Small(n=50).quick().n == 50
    with pytest.raises(BadArgument, match="cannot study small things with n=3: it must be at least 5"):
        Small(n=3)
    with pytest.raises(BadArgument, match="n='7': it must be a whole number"):
        Small(n="7")
    with pytest.raises(BadArgument, match="noise=2: it must be at most 1"):
        Small(noise=2)
    with pytest.raises(BadArgument, match="way='zeor': it must be one of zero, mean"):
        Small(way="zeor")


def test_what_several_questions_need_is_computed_once():
    calls = []

    def needed(ctx):
        calls.append(ctx)
        return len(calls)

    ctx = Context(Small(), ())
    assert [ctx.once(needed), ctx.once(needed)] == [1, 1]


def test_two_parts_cannot_have_one_table():
    one = Schema("t", (LAYER,)).table([])
    plan = Plan(
        name="p", help="", title="", question="", settings=Small, shown_on="",
        questions=(lambda ctx: Part(tables=[one]),) * 2, answer=lambda ctx, claims: (), prompts=lambda ctx: (),
    )  # fmt: skip
    with pytest.raises(ValueError, match="tables named 't'"):
        plan.run(Small(), type("M", (), {"name": "m"})())


def test_a_claim_goes_into_json_with_its_evidence():
    made = claim("c", "It happens.", tests=[NAN])
    assert isinstance(made, Claim)
    assert_allclose(made.evidence[0].margin, 0.5)


# What reviewers found: rows show the bounds that decided, and what could not be tested supports nothing


def test_the_row_of_an_equivalence_has_the_bounds_that_decided():
    sample = about(0.0)
    inner, outer = float(sample.estimate(0.92).high[0]), float(sample.estimate(0.95).high[0])
    row = Test("t", sample, within=(inner + outer) / 2).row("test")
    assert row.side == "yes"
    assert row.high == pytest.approx(inner)


def test_the_row_of_every_is_that_of_a_cell_that_fails():
    wide, tight = about(0.3, spread=1.5).values[:, 0], about(0.0, spread=0.01).values[:, 0]
    cells = Samples.grid(EFFECT, {LAYER: [0, 1]}, np.column_stack([wide, tight]))
    row = every("layers", cells, above=0.1).row("test")
    assert (row.side, row.what) == ("no", "layers (layer 1)")
    assert row.high < 0.1


def test_a_null_that_could_not_be_tested_supports_nothing():
    few = Test("null", Samples.one(EFFECT, [1.2, 1.3, 1.2, 1.3]), above=0.1)
    made = claim("c", "It happens.", tests=[YES], null=few)
    assert made.verdict is Verdict.UNDETERMINED
    assert made.because.startswith("Not judged: null 1.25")


def test_no_units_are_nothing_and_single_gaps_are_no_numbers():
    nothing = Test("t", Samples.one(EFFECT, []), above=0.1, reason="no prompt was left").row("test")
    assert (nothing.side, nothing.reason) == ("unclear", "no prompt was left")
    gap = heads_with(1.0).changed(EFFECT, lambda values: np.where(np.arange(40) == 5, np.nan, values))
    row = any_of("h", gap, above=0.5).row("test")
    assert (row.side, math.isnan(row.high)) == ("yes", False)
    assert any_of("h", gap, above=5.0).row("test").side == "unclear"
    with pytest.raises(ValueError, match="positive margin"):
        injected(Test("t", about(0.0), below=0.1))
