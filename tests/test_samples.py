"""Samples and statistics: slices, pairs, halves, ratios and ragged axes, against hand arithmetic."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from headscope.measures import interval, simultaneous
from headscope.measures.samples import HEAD, LAYER, Samples, Tally, over_heads, stacked
from headscope.measures.statistics import Statistic, statistic, unpaired
from headscope.tables import Column, Quantity
from headscope.vocabulary import Head

SHARE = Quantity("share", "a share of something", within=(0.0, 1.0))
LOSS = Quantity("loss", "a loss", "nats")
STEP = Column("step", pl.Int64, "training step")
MODEL = Column("model", pl.String, "which model")
KIND = Column("cell_kind", pl.String, "copied or computed")
BEHAVIOUR = Column("behaviour", pl.String, "what a row does")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Cells


def test_cells_are_found_by_their_coordinates():
    values = np.arange(12.0).reshape(2, 3, 2)
    samples = Samples.grid(LOSS, {LAYER: [0, 1, 2], KIND: ["copied", "computed"]}, values)
    assert samples.at(layer=1, cell_kind="computed").mean.tolist() == [(3 + 9) / 2]
    assert samples.at(layer=2).cells == (("copied",), ("computed",))
    assert list(samples.by("layer")) == [0, 1, 2]
    assert samples.only(layer=lambda layer: layer > 0).only(cell_kind=["copied"]).cells == (
        (1, "copied"),
        (2, "copied"),
    )
    assert samples.labelled(MODEL, "a").at(model="a", layer=0).mean.tolist() == samples.at(layer=0).mean.tolist()
    with pytest.raises(KeyError, match="not 'depth'"):
        samples.at(depth=1)


def test_bounds_are_those_of_the_interval_functions():
    values = drawn(20, 3) + 0.5
    samples = over_heads(SHARE, [Head(0, 0), Head(0, 1), Head(1, 0)], values)
    assert samples.axes == (LAYER, HEAD)
    assert samples.cells[2] == (1, "1.0")
    expected = interval(values, within=(0.0, 1.0))
    assert_allclose(samples.estimate().low, expected.low, rtol=0, atol=0)
    assert samples.estimate().high.max() <= 1.0
    joint = simultaneous(values, within=(0.0, 1.0))
    assert_allclose(samples.together().at_least, joint.at_least, rtol=0, atol=0)


def test_stacked_samples_have_the_cells_of_all():
    clean, ablated = (Samples.grid(LOSS, {LAYER: [0, 1]}, drawn(6, 2, seed=k)) for k in (0, 1))
    both = stacked([each.labelled(KIND, name) for name, each in (("c", clean), ("a", ablated))])
    assert both.cells == (("c", 0), ("c", 1), ("a", 0), ("a", 1))
    assert_allclose(both.at(cell_kind="a").values, ablated.values, rtol=0, atol=0)
    for other in ([clean, ablated.measured_as(SHARE)], [clean, clean.rows(slice(0, 5))], []):
        with pytest.raises(ValueError, match="cannot stack"):
            stacked(other)


def test_values_must_fit_units_and_cells():
    with pytest.raises(ValueError, match=r"\(2, 1\) values for 2 prompts and 2 cells"):
        Samples(quantity=LOSS, axes=(LAYER,), cells=((0,), (1,)), values=np.zeros((2, 1)))


# Differences


def test_a_paired_difference_is_by_unit_and_its_range_widens():
    clean = Samples.one(SHARE, [0.5, 0.7, 0.9, 0.6, 0.8])
    ablated = Samples.grid(SHARE, {LAYER: [0, 1]}, np.array([[0.4, 0.7, 0.9, 0.6, 0.8], [0.0, 0.0, 0.1, 0.2, 0.0]]).T)
    rise = ablated - clean
    assert_allclose(rise.mean, [-0.02, -0.64])
    assert rise.quantity.within == (-1.0, 1.0)
    assert (-rise).quantity.within == (-1.0, 1.0)
    with pytest.raises(ValueError, match="different prompts"):
        ablated - clean.rows(slice(0, 4))
    with pytest.raises(ValueError, match="the cells differ"):
        ablated - ablated.only(layer=[])


def test_five_seeds_against_five_others_have_welchs_interval():
    plain, smeared = drawn(5, seed=1) + 9, drawn(5, seed=2) * 0.5 + 7
    seeds = {"over": "training seeds"}
    first = Samples.one(LOSS, plain, units=tuple("abcde"), **seeds)
    second = Samples.one(LOSS, smeared, units=tuple("vwxyz"), **seeds)
    with pytest.raises(ValueError, match="not paired"):
        first - second
    found = unpaired(first, second).estimate()
    expected = stats.ttest_ind(plain, smeared, equal_var=False).confidence_interval(0.95)
    assert_allclose([found.low[0], found.high[0]], [expected.low, expected.high])
    assert unpaired(first, second).over == "training seeds"
    constant = Samples.one(LOSS, np.ones(5))
    assert np.isnan(unpaired(constant, constant).estimate().low).all()


# Units without a value


def test_puzzles_without_a_computed_cell_leave_the_cell_undefined_or_are_left_out():
    copied = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    computed = np.array([1.0, np.nan, 2.0, np.nan, 3.0, 4.0])
    rise = Samples.of(LOSS, (KIND,), {"copied": copied, "computed": computed}, over="puzzles")
    assert np.isnan(rise.estimate().mean).tolist() == [False, True]
    known = replace(rise, leave_out=True)
    assert known.n.tolist() == [6, 4]
    assert_allclose(known.estimate().mean, [0.35, 2.5])
    gap = known.at(cell_kind="computed") - known.at(cell_kind="copied")
    # Puzzles 0, 2, 4 and 5 have both: .9, 1.7, 2.5, 3.4.
    assert gap.n.tolist() == [4]
    assert_allclose(gap.mean, [2.125])


# Halves


def test_the_best_cell_is_chosen_on_one_half_and_there_may_be_none():
    values = np.zeros((10, 3))
    values[::2, 1] = 0.4
    split = Samples.grid(SHARE, {LAYER: [0, 1, 2]}, values).halves()
    assert split.selection.best("layer") == 1
    assert split.estimation.at(layer=1).mean.tolist() == [0.0]
    assert split.estimation.best("layer", above=0.1) is None
    assert split.selection.best("layer", above=0.5) is None
    nothing = Samples.grid(SHARE, {LAYER: [0]}, np.full((4, 1), np.nan))
    assert nothing.best("layer") is None


def test_a_hash_puts_a_document_always_into_the_same_half():
    names = tuple(f"document {k}" for k in range(200))
    all_of_them = Samples.one(LOSS, np.arange(200.0), units=names, over="documents")
    first, second = all_of_them.halves_by_hash()
    assert 70 < len(first.units) < 130
    assert not set(first.units) & set(second.units)
    fewer = all_of_them.rows(slice(50, 150)).halves_by_hash().selection
    assert set(fewer.units) <= set(first.units)


def test_cells_are_named_by_a_bound_for_all_at_once():
    values = drawn(40, 30, seed=3)
    values[:, 7] += 2.0
    named = over_heads(LOSS, [Head(0, k) for k in range(30)], values).named(above=0.5)
    assert named.cells == ((0, "0.7"),)


# Ratios


def test_a_document_with_more_rows_weighs_more():
    hits = {("1.4", "previous"): [1.0, 30.0, 5.0, 2.0, 9.0]}
    rows = {("1.4", "previous"): [10.0, 100.0, 10.0, 4.0, 10.0]}
    share = Samples.ratio(SHARE, (HEAD, BEHAVIOUR), hits, rows, over="documents")
    assert_allclose(share.mean, [47 / 134])
    # Doubling a document is not the same as another document.
    low, high = share.estimate().low[0], share.estimate().high[0]
    assert low < 47 / 134 < high


def test_the_linear_part_has_the_ratio_for_its_mean():
    moved, whole = drawn(50) + 2.0, drawn(50, seed=1) + 5.0
    share = Samples.ratio(SHARE, (HEAD,), {"0.0": moved}, {"0.0": whole})
    assert_allclose(share.linear.mean(0), moved.mean() / whole.mean())
    # Where every document moves by the same share of its own rows, there is no spread.
    assert_allclose(Samples.ratio(SHARE, (HEAD,), {"0.0": 0.3 * whole}, {"0.0": whole}).linear, 0.3)


def test_streamed_in_pieces_or_at_once_is_the_same():
    whole, pieces = (Tally(SHARE, (HEAD, BEHAVIOUR)) for _ in range(2))
    for document in "abc":
        hits, rows = {("0.0", "x"): 3.0, ("0.1", "x"): 1.0}, {("0.0", "x"): 4.0, ("0.1", "x"): 2.0}
        whole.add(document, hits, rows)
        for cell in hits:
            pieces.add(document, {cell: 1.0}, {cell: 1.0})
            pieces.add(document, {cell: hits[cell] - 1}, {cell: rows[cell] - 1})
    pieces.add("d", {("0.0", "x"): 0.0}, {("0.0", "x"): 2.0})
    assert_allclose(whole.samples().mean, [0.75, 0.5])
    # The last document has rows for one head alone.
    assert_allclose(pieces.samples().mean, [9 / 14, 0.5])
    assert pieces.samples().units == ("a", "b", "c", "d")


def test_a_cell_without_any_rows_is_undefined():
    empty = Samples.ratio(SHARE, (HEAD,), {"0.0": np.zeros(5)}, {"0.0": np.zeros(5)})
    assert np.isnan(empty.mean).all()
    assert np.isnan(empty.estimate().low).all()


# Statistics


def change_point(means):
    """The first step whose score is over half of the last."""
    return float(means.x[np.argmax(means.value > means.value[-1] / 2)])


def test_a_change_point_over_steps_that_differ_by_model():
    steps = {"small": [1, 2, 4, 8, 16], "large": [1, 3, 9]}
    rises_at = {"small": 8, "large": 3}
    noise, cells = np.random.default_rng(0), {}
    for model, listed in steps.items():
        for step in listed:
            cells[model, step] = (step >= rises_at[model]) + 0.1 * noise.normal(size=30)
    score = Samples.of(LOSS, (MODEL, STEP), cells, over="examples")
    when = Quantity("change_point", "step at which half of the rise is reached")
    point = statistic(change_point, score, over="step", quantity=when, resamples=50)
    assert point.cells == (("small",), ("large",))
    assert point.value.tolist() == [8.0, 3.0]
    assert point.at(model="small").estimate().low.tolist() == [8.0]
    earlier = point.at(model="small") - point.at(model="large")
    assert earlier.value.tolist() == [5.0]
    assert earlier.n.tolist() == [30]


def kappa(first, second):
    """Cohen's kappa of two labellings, a head's label being its behaviour of the largest share."""
    heads = sorted({cell[0] for cell in first.at})
    kinds = sorted({cell[1] for cell in first.at})

    def labels(means):
        share = dict(zip(means.at, means.value, strict=True))
        return [max(kinds, key=lambda kind: share[head, kind]) for head in heads]

    one, two = labels(first), labels(second)
    agreed = np.mean([a == b for a, b in zip(one, two, strict=True)])
    chance = sum(one.count(kind) * two.count(kind) for kind in kinds) / len(heads) ** 2
    return float((agreed - chance) / (1 - chance))


def test_kappa_of_labels_from_streamed_documents():
    generator, tally = np.random.default_rng(4), Tally(SHARE, (HEAD, BEHAVIOUR))
    for document in range(120):
        for head in range(8):
            rows = int(generator.integers(5, 50))
            hits = generator.binomial(rows, 0.8 if head % 2 else 0.3)
            cells = {(f"0.{head}", "previous"): hits, (f"0.{head}", "induction"): rows - hits}
            tally.add(document, cells, dict.fromkeys(cells, rows))
    halves = tally.samples().halves_by_hash()
    agreement = Quantity("kappa", "agreement of the labels of two halves", within=(-1.0, 1.0))
    found = statistic(kappa, *halves, over=("head", "behaviour"), quantity=agreement, resamples=40)
    assert found.value.tolist() == [1.0]
    assert found.cells == ((),)
    # Labels that mean nothing agree no better than chance.
    shuffled = halves.estimation.rows(slice(None))
    swapped = {
        (f"0.{h}", k): shuffled.at(head=f"0.{(h + h % 2 * 3 + 1) % 8}", behaviour=k).values[:, 0]
        for h in range(8)
        for k in ("previous", "induction")
    }
    counts = {cell: shuffled.counts[:, 0] for cell in swapped}
    other = Samples.ratio(SHARE, (HEAD, BEHAVIOUR), swapped, counts, units=shuffled.units, over="documents")
    assert (
        statistic(kappa, halves.selection, other, over=("head", "behaviour"), quantity=agreement, resamples=5).value[
            0
        ]
        < 0.6
    )


def test_statistics_of_the_same_units_are_paired_and_others_refused():
    values = drawn(50, 4, seed=5)
    curve = Samples.grid(LOSS, {STEP: [1, 2, 3, 4]}, values)
    total = Quantity("total", "sum over steps", "nats")
    first, second = (
        statistic(lambda m, k=k: float(m.value.sum() + k), curve, over="step", quantity=total) for k in (0, 1)
    )
    assert_allclose((second - first).estimate().low, [1.0])
    other = statistic(lambda m: float(m.value.sum()), curve.rows(slice(0, 40)), over="step", quantity=total)
    with pytest.raises(ValueError, match="different prompts"):
        first - other


def test_a_statistic_that_often_does_not_exist_has_no_bounds():
    draws = np.concatenate([np.full((30, 1), np.nan), np.ones((70, 1))])
    found = Statistic(quantity=LOSS, value=np.ones(1), draws=draws, count=9)
    assert np.isnan(found.estimate().low).all()


def test_equally_many_of_another_kind_are_not_paired():
    with pytest.raises(ValueError, match="not paired"):
        Samples.one(LOSS, np.zeros(8), over="functions") - Samples.one(LOSS, np.zeros(8))
    few = Statistic(quantity=LOSS, value=np.ones(1), draws=np.ones((50, 1)), count=3)
    assert np.isnan(few.estimate().low).all()
    with pytest.raises(ValueError, match="different prompts"):
        few - few
    gap = Samples.one(LOSS, [1.0, np.nan, 2.0, 3.0])
    assert np.isnan(unpaired(gap, Samples.one(LOSS, [0.0, 1.0, 2.0])).estimate().low).all()
