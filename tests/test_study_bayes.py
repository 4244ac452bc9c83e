"""The study of Bayesian updates: what it reads, what it compares with, and which verdicts known learners get."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import headscope as hs
from headscope.errors import BadArgument
from headscope.results.study import Verdict
from headscope.studies.bayes import plan as bayes
from headscope.studies.bayes_parts import curve_claims as bayes_curve_claims
from headscope.studies.bayes_parts import curve_rows as bayes_curve_rows
from headscope.studies.bayes_parts import heads_claims as bayes_heads_claims
from headscope.studies.bayes_parts import tables as bayes_tables
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.distances import kl_over_numbers, kl_right_or_not
from headscope.studies.bayes_parts.fits import BELIEF, DIFFERENCE, LOGIT_P, fit_tables
from headscope.studies.bayes_parts.heads import strongest
from headscope.studies.bayes_parts.reading import Said, right_values, said_at_the_end, said_by
from headscope.studies.bayes_parts.seen import belief_in_the_function, look
from headscope.studies.parts import Part
from headscope.tasks.functions import Functions
from headscope.tasks.linear import linear
from headscope.tasks.shots import Shots
from headscope.vocabulary import Head
from tests import pair_models


def silent(stage, done, of):
    return None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


def claim(study, name):
    return next(claim for claim in study.claims if claim.name == name)


# What is read


def test_one_pass_judges_the_functions_value_after_every_number_of_pairs(model):
    shots = Config(n=12).draw(model)
    assert shots.wrong.any()
    said = said_by(model, shots)
    for n in (0, 3, 15):
        prompts = linear(model, shots.first(n))
        logits = model.run(prompts).logits[:, -1].double().log_softmax(-1)
        by_hand = logits[torch.arange(12), torch.tensor(prompts.answers)]
        assert_allclose(said.right[:, n], by_hand, atol=1e-5)
    assert_allclose(said.numbers[:, 15].exp(), logits[:, 1:88].exp(), atol=1e-6)  # 87 numbers from token 1 on


def test_text_is_read_at_once_where_that_is_possible_and_the_same_apart(reader):
    shots = Config(n=10).draw(reader)
    at_once = said_by(reader, shots).right
    apart = [said_at_the_end(reader, shots.first(n)) for n in range(13)]
    assert_allclose(at_once, torch.stack(apart, dim=1), atol=1e-5)
    # Labels that are not the function's own are never judged: there the passes are separate.
    shuffled = shots.with_shuffled_labels(0)
    read = said_by(reader, shuffled).right
    assert_allclose(read[:, 5], said_at_the_end(reader, shuffled.first(5)), atol=1e-5)
    assert_allclose(read[:, 0], at_once[:, 0], atol=1e-5)


def test_the_first_pairs_ask_what_came_next():
    shots = Shots.draw(Functions(), shots=3, n=4, seed=0)
    assert (shots.first(2).query == shots.x[:, 2]).all()
    assert (shots.first(3).query == shots.query).all()
    assert shots.first(0).x.shape == (4, 0)
    assert (right_values(shots)[:, 2].numpy() == shots.first(2).answer).all()
    assert shots.rows(slice(1, None, 2)).parameters.tolist() == shots.parameters[1::2].tolist()
    with pytest.raises(BadArgument, match="first 4 of 3"):
        shots.first(4)


# What it is compared with


def enumerated(shots, noise, row, n):
    """By hand: p of every number after the first n pairs of one prompt, and the odds of its own function."""
    family, weights = shots.functions, []
    for a, b in family.grid.tolist():
        weight = 1.0
        for x, y in zip(shots.x[row, :n].tolist(), shots.y[row, :n].tolist(), strict=True):
            weight *= (1 - noise) * (y == a * x + b) + noise / family.n_numbers
        weights.append(weight)
    asked = int(shots.query[row]) if n == shots.x.shape[1] else int(shots.x[row, n])
    p = np.full(family.n_numbers, noise / family.n_numbers)
    for (a, b), weight in zip(family.grid.tolist(), weights, strict=True):
        p[a * asked + b] += (1 - noise) * weight / sum(weights)
    own = weights[family.grid.tolist().index(shots.parameters[row].tolist())]
    return p, own / (sum(weights) - own)


def test_the_exact_posterior_is_the_enumerated_one(model):
    seen = look(Config(n=10, b="0..4", inputs="1..9", shots=6), model, silent)
    assert seen.noise == 0.3
    for row, n in ((0, 0), (3, 2), (7, 6)):
        p, odds = enumerated(seen.shots, 0.3, row, n)
        assert_allclose(seen.reference[row, n], p, atol=1e-12)
        assert seen.belief[row, n].item() == pytest.approx(math.log(odds))


def test_functions_written_in_two_ways_are_one_in_the_belief():
    # Thresholds above every input say 0 everywhere: a = 9 and a = 10 are the same function.
    family = Functions("threshold", a=(1, 10), b=(0, 5), inputs=(0, 4))
    shots = Shots.draw(family, shots=3, n=6, noise=0.2, seed=0)
    shots = replace(shots, parameters=np.tile([10, 3], (6, 1)))
    found = belief_in_the_function(shots, 0.2)
    assert found[:, 0].tolist() == pytest.approx([math.log(1 / (len(family.grid) - 1))] * 6)


def test_divergences_by_hand():
    exact = torch.tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64)
    log_p = torch.tensor([[[0.5, 0.25, 0.125]]], dtype=torch.float64).log()
    whole = kl_over_numbers(exact, log_p)
    assert whole.item() == pytest.approx(0.5 * math.log(2))
    assert kl_over_numbers(exact, exact.clamp(min=1e-300).log()).item() == pytest.approx(0)
    merged = kl_right_or_not(exact[..., 1], log_p[..., 1])
    assert merged.item() == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert merged.item() < whole.item()
    sure = kl_right_or_not(torch.ones(1, 1).double(), torch.full((1, 1), 0.25).double().log())
    assert sure.item() == pytest.approx(math.log(4))


# Which verdicts known learners get

CONFIG = Config(n=100, resamples=60)


def judged(seen):
    """The claims about a curve, by name, and the tables behind them."""
    tables = {
        "curve": bayes_curve_rows.curve_table(seen),
        "answers": bayes_curve_rows.answers_table(seen),
        "distances": bayes_curve_rows.distances_table(seen),
        "checks": bayes_curve_rows.checks_table(seen),
        **fit_tables(seen, CONFIG, silent),
    }
    return by_name(bayes_curve_claims.all_claims(tables, article=False)), tables


def by_name(claims):
    return {claim.name: claim for claim in claims}


@pytest.fixture(scope="module")
def seen(model):
    return look(CONFIG, model, silent)


def as_learner(seen, p, numbers=None):
    """What was looked at, with this learner in the model's place; it learns nothing from shuffled labels."""
    flat = torch.full_like(p, float(p[:, 0].mean()))
    moved = p[:, -1].log()
    return replace(seen, model=Said(p.log(), numbers), shuffled=Said(flat.log(), None), permuted=moved)


@pytest.fixture(scope="module")
def ideal(seen):
    """The exact posterior in the model's place, with its claims and tables."""
    p = bayes_curve_rows.of_right(seen.reference, seen.right)
    learner = as_learner(seen, p, seen.reference.log())
    return learner, *judged(learner)


def test_the_exact_posterior_itself_is_a_bayesian(ideal):
    learner, claims, tables = ideal
    for name in ("rises", "linear_log_odds", "near_exact", "order"):
        assert claims[name].verdict is Verdict.SUPPORTED, name
    distances = tables["distances"].rows(reference=next(iter(learner.exact)), over="numbers")
    assert_allclose([row["kl"] for row in distances], 0, atol=1e-12)
    lines = {row["learner"]: row for row in tables["updates"].rows()}
    # The same prompts are resampled for both, so that two equal curves differ by nothing in any resample.
    assert [lines[DIFFERENCE][name] for name in ("misfit", "low", "high")] == pytest.approx(
        [0, 0, 0], abs=1e-9
    )
    # What the document says is true of the belief and false of p.
    assert lines[BELIEF]["r2"] > 0.99
    assert lines[LOGIT_P]["r2"] < 0.7
    assert lines[LOGIT_P]["bend"] < -1


def test_a_slow_power_law_is_not(seen):
    shots = torch.arange(1, 17, dtype=torch.float64)
    spread = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (100, 16)))
    p = torch.exp(-3.5 * shots**-0.6 + spread)
    claims, _ = judged(as_learner(seen, p))
    assert claims["rises"].verdict is Verdict.SUPPORTED
    assert claims["linear_log_odds"].verdict is Verdict.REFUTED
    assert claims["bayesian_extrapolates"].verdict is Verdict.REFUTED
    assert claims["near_exact"].verdict is Verdict.REFUTED


def test_updates_of_the_article_extrapolate_as_a_bayesian_curve(seen):
    shots = torch.arange(16, dtype=torch.float64)
    spread = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, (100, 16)))
    p = (0.02 + 0.68 * torch.sigmoid(-4 + 0.7 * shots)) * spread.exp()
    claims, tables = judged(as_learner(seen, p))
    assert claims["bayesian_extrapolates"].verdict is Verdict.SUPPORTED
    (row,) = tables["updates"].rows(learner="model")
    assert row["step"] == pytest.approx(0.7, rel=0.1)


def test_a_curve_that_minds_the_order_is_refuted(ideal):
    learner, _, tables = ideal
    moved = replace(learner, permuted=(learner.permuted.exp() / 2).log())
    checks = {**tables, "checks": bayes_curve_rows.checks_table(moved)}
    claims = by_name(bayes_curve_claims.all_claims(checks, article=False))
    assert claims["order"].verdict is Verdict.REFUTED


def test_one_list_of_examples_settles_nothing_about_curves(ideal):
    claims = by_name(bayes_curve_claims.all_claims(ideal[2], article=True))
    for name in ("rises", "linear_log_odds", "bayesian_extrapolates", "near_exact", "order"):
        assert claims[name].verdict is Verdict.UNDETERMINED
        assert "article" in claims[name].because


def test_regressions_answer_with_certainty(seen):
    rows = bayes_curve_rows.curve_table(seen).rows(learner="least squares")
    assert [bool(row["reason"]) for row in rows[:3]] == [True, True, False]
    right = (seen.regressed["least squares"][:, 2].round() == seen.right[:, 2]).double().mean()
    assert rows[2]["p"] == pytest.approx(right.item())


# The whole study


@pytest.fixture(scope="module")
def study(model):
    return hs.study("bayes", model=model, quick=True, n=40)


def test_random_weights_show_nothing(study):
    assert not [claim.name for claim in study.claims if claim.verdict is Verdict.SUPPORTED]
    assert claim(study, "rises").verdict is Verdict.REFUTED
    assert claim(study, "linear_log_odds").verdict is Verdict.UNDETERMINED
    assert claim(study, "flattens_without_x_to_y").verdict is Verdict.UNDETERMINED
    assert "nothing here to call an update" in study.answer[0]
    assert any("trained" in note and "large models" in note for note in study.notes)


def test_the_study_is_whole(study, model, tmp_path):
    for each in study.claims:
        assert set(each.tables) <= set(study.tables)
        assert not each.because[0].islower(), each
    assert {figure.name for figure in study.figures} >= {"curve", "distance", "extrapolation", "roles"}
    json.dumps(study.to_json(), allow_nan=False)
    out = tmp_path / "run"
    again = hs.study("bayes", model=model, quick=True, out=out, n=20, shots=4)
    assert (out / "report.html").exists()
    assert again.provenance["command"].endswith("--n 20 --shots 4 --resamples 60")
    assert "fewer than 8" in claim(again, "near_exact").because.lower()


def test_text_is_studied_too(reader):
    found = hs.study("bayes", model=reader, quick=True, n=20)
    assert not [claim.name for claim in found.claims if claim.verdict is Verdict.SUPPORTED]
    numbers = found.tables["distances"].rows(over="numbers")
    assert all(math.isnan(row["kl"]) and row["reason"] for row in numbers)
    merged = found.tables["distances"].rows(over="right or not")
    assert not any(math.isnan(row["kl"]) for row in merged)
    assert any("lower bound" in note for note in found.notes)


GROUP = {
    "group": "x_to_y",
    "heads": "0.1 1.3",
    "size": 2,
    "damage": 3.0,
    "low": 2.5,
    "high": 3.5,
    "random_mean": 1.0,
    "random_max": 2.0,
    "random_worst": "0.0 0.2",
    "random_sets": 20,
    "p": 1 / 21,
    "prompts": 50,
    "reason": "",
}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"low": -0.1}, Verdict.UNDETERMINED),  # no sure damage
        ({"p": 0.3}, Verdict.UNDETERMINED),  # others do as much
        ({"p": 0.9, "low": 0.1, "high": 0.5}, Verdict.REFUTED),  # less than others do
    ],
)
def test_cutting_heads_is_judged_beside_random_ones(changed, verdict):
    curves = [
        {"cut": cut, "shots": shots, "p": p, "low": p, "high": p, "prompts": 50}
        for cut, shots, p in (("nothing cut", 0, 0.02), ("nothing cut", 8, 0.6), ("x to y heads cut", 8, 0.1))
    ]
    found = {
        "head_groups": bayes_tables.HEAD_GROUPS.table([GROUP | changed]),
        "cut_curves": bayes_tables.CUT_CURVES.table(curves),
    }
    judgement = bayes_heads_claims.flattens(found, "x_to_y")
    assert judgement.verdict is verdict
    assert "from 0.60 to 0.10" in judgement.because


def test_without_a_curve_nothing_flattens():
    curves = [
        {"cut": "nothing cut", "shots": shots, "p": 0.02, "low": 0.02, "high": 0.02, "prompts": 50}
        for shots in (0, 8)
    ]
    found = {
        "head_groups": bayes_tables.HEAD_GROUPS.table([GROUP | {"p": 0.9, "low": -0.5, "high": -0.1}]),
        "cut_curves": bayes_tables.CUT_CURVES.table(curves),
    }
    judgement = bayes_heads_claims.flattens(found, "x_to_y")
    assert (judgement.verdict, "nothing to flatten" in judgement.because) == (Verdict.UNDETERMINED, True)


def test_planted_heads_are_cut_and_named_by_strength():
    found = strongest({"x_to_y": [Head(1, 1), Head(0, 0)], "example_to_example": [Head(1, 1)]}, 2)
    assert found["x_to_y"] == (Head(1, 1), Head(0, 0))
    assert found["both"] == (Head(0, 0), Head(1, 1))
    assert "both" not in strongest({"x_to_y": [Head(1, 1)]}, 2)


def test_parts_may_not_share_a_table():
    part = Part(tables={"curve": None})
    with pytest.raises(ValueError, match="curve"):
        bayes.joined([part, part])


@pytest.mark.parametrize("bad", [{"ridge": 0.0}, {"resamples": 5}, {"random_sets": 0}, {"strongest": 0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(BadArgument):
        Config(**bad)


def test_the_articles_pairs_are_asked_as_often_as_they_allow(reader):
    assert len(Config(article=True).draw(reader)) == 80
    assert Config(article=True, n=30).n == 30


def test_one_pair_is_too_few(model):
    with pytest.raises(BadArgument, match="--shots 2"):
        hs.study("bayes", model=model, shots=1)
