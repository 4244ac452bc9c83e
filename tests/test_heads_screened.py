"""The heads study of a model in which not every head is ablated: what it says of those, and what it must not."""

import math

import numpy as np
import pytest

import headscope as hs
from headscope.results.study import Verdict
from headscope.studies.context import Context
from headscope.studies.heads import plan, screening
from headscope.studies.heads.experiment import HeadsSettings
from tests import planted

# 0.0 writes what the sharp attention of 1.0 and 1.1 looks for; without it they look elsewhere. No gradient says so.
MISSED = "0.0"


@pytest.fixture(scope="module")
def circuit():
    return planted.induction_circuit(copies=2, uneven=0.1)


@pytest.fixture(scope="module")
def two(circuit):
    return hs.study("heads", model=circuit, quick=True, exact=2)


def context(model, **settings):
    return Context(HeadsSettings(**settings).quick(), (model,))


def test_a_head_that_first_order_misses_is_not_called_harmless(circuit, two):
    missed = two.tables["first_order"].rows(head=MISSED, ablation="mean", prompts_kind="repeated")[0]
    assert missed["estimate"] == pytest.approx(0, abs=0.05)
    assert not missed["tried"]
    every = hs.study("heads", model=circuit, quick=True, exact=8)
    exact = every.tables["damage"].rows(head=MISSED, ablation="mean", prompts_kind="repeated")[0]
    assert exact["low"] > 1
    # Of what was not tried there is no interval anywhere, and the reader is told that it may matter.
    assert {row["head"] for row in two.tables["damage"].rows()} == {"1.0", "1.1"}
    assert not {"low", "high", "damage"} & set(two.tables["first_order"].frame.columns)
    told = " ".join(two.notes)
    assert "2 of 8 heads were ablated by themselves (table damage): 1.0 1.1" in told
    assert "may still matter" in told
    assert not any("first_order" in each.tables for each in two.claims)
    assert "first_order" not in every.tables
    assert "estimate" not in every.tables["damage"].frame.columns


def test_no_sentence_rests_on_heads_that_were_not_tried(circuit):
    for exact, said in (
        (2, "None of the 2 heads tried, of 8, clearly matters"),
        (8, "No single head clearly matters"),
    ):
        ctx = context(circuit, exact=exact)
        ctx._known[screening.most_damaging] = [hs.Head(1, 0)]
        damage, clean = ctx.once(plan.damage_of_each)[0]
        noise = np.random.default_rng(0).normal(size=(16, 1))
        unclear = damage.changed(damage.quantity, lambda values, noise=noise: 0 * values + noise - noise.mean())
        ctx._known[plan.damage_of_each] = [(unclear, clean)]
        assert said in plan._damage(ctx)


def test_named_heads_are_tried_whatever_the_estimate_says(circuit):
    ctx, named = context(circuit, exact=3), hs.Head(1, 3)
    ctx._known[screening.named_heads] = {"previous_token": (named,)}
    assert ctx.once(screening.estimates).selection["zero", "repeated"].at(head=str(named)).mean[0] == 0
    assert ctx.once(screening.tried) == [hs.Head(1, 0), hs.Head(1, 1), named]


def test_heads_that_were_not_tried_come_after_those_that_were(circuit):
    order = context(circuit, exact=3).once(screening.most_damaging)
    assert set(order[:3]) == set(context(circuit, exact=3).once(screening.tried))
    assert sorted(order) == sorted(circuit.heads)


def test_small_models_are_not_screened(circuit):
    assert not screening.screened(context(circuit))
    assert not screening.screened(context(circuit, exact=8))
    assert screening.screened(context(circuit, exact=7))


def test_estimates_and_exact_damages_are_held_against_each_other(two):
    rows = two.tables["damage"].rows(ablation="zero", prompts_kind="repeated")
    estimated = {row["head"]: row["estimate"] for row in two.tables["first_order"].rows(ablation="zero")}
    assert all(row["estimate"] == estimated[row["head"]] for row in rows)
    # Half of the logit each: the loss bends, and a straight line misses by much of it.
    worst = max(rows, key=lambda row: abs(row["damage"] - row["estimate"]))
    told = f"{worst['head']}: estimate {worst['estimate']:.2f}, exact {worst['damage']:.2f}"
    assert f"zero on repeated prompts nan ({told})" in " ".join(two.notes)


def test_patching_by_role_supports_the_same_claim(two):
    rows = {(row["layer"], row["role"]): row["recovered"] for row in two.tables["patching"].rows()}
    assert {role for _, role in rows} == {"match", "answer", "query", "others"}
    assert rows[0, "match"] == pytest.approx(1, abs=1e-3)
    assert rows[1, "answer"] == pytest.approx(1, abs=1e-3)
    assert rows[1, "others"] == pytest.approx(0, abs=1e-3)
    assert next(each for each in two.claims if each.name == "moves").verdict is Verdict.SUPPORTED


def test_only_what_a_claim_is_about_stands_beside_random_sets(two):
    groups = {row["group"]: row for row in two.tables["groups"].rows()}
    assert groups["induction"]["random_sets"] > 0
    assert groups["previous_token"]["random_sets"] == 0
    assert math.isnan(groups["previous_token"]["p_value"])
    assert groups["previous_token"]["low"] > 1
    assert any("no random sets" in note and "previous_token" in note for note in two.notes)


def test_where_nothing_can_be_estimated_all_heads_are_ablated_and_it_is_said(circuit, monkeypatch):
    def refused(*_):
        raise hs.errors.BadArgument("no gradient comes back.")

    monkeypatch.setattr(screening, "estimated_changes", refused)
    ctx = context(circuit, exact=2)
    assert len(ctx.once(screening.tried)) == 8
    assert screening.notes(ctx, []) == ["All 8 heads were ablated: no gradient comes back."]
