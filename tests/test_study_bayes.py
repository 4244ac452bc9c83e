"""The study of Bayesian updates: what it reads, what it compares with, and which verdicts known learners get."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import headscope as hs
from headscope.detectors.scores import ABOVE_NULL
from headscope.errors import BadArgument
from headscope.measures.posterior import divergence_nats, function_log_odds, right_or_not_divergence_nats
from headscope.measures.samples import Samples, over_heads
from headscope.results.study import Verdict
from headscope.studies.bayes.curve import answers, curve, probabilities
from headscope.studies.bayes.families import bayesian_extrapolates, errors, families
from headscope.studies.bayes.near_exact import near_exact
from headscope.studies.bayes.observations import EXACT, MODEL, RISE, Observations, observations
from headscope.studies.bayes.pair_heads import flattens, heads_of_kind, strongest
from headscope.studies.bayes.predictions import Predictions, answer_log_probability, function_values, predictions
from headscope.studies.bayes.problems import BayesSettings
from headscope.studies.bayes.updates import BELIEF, LOGIT_P, updates
from headscope.studies.context import Context
from headscope.studies.head_sets import rank_in_words
from headscope.sweeps.controls import AgainstRandom
from headscope.tasks.functions import Functions
from headscope.tasks.linear import linear
from headscope.tasks.shots import Shots
from headscope.vocabulary import Head
from tests import pair_models
from tests.truth.bayes_learning import logistic


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
    shots = BayesSettings().draw(model, n=12)
    assert shots.wrong.any()
    said = predictions(model, shots)
    for n in (0, 3, 15):
        prompts = linear(model, shots.first(n))
        logits = model.run(prompts).logits[:, -1].double().log_softmax(-1)
        by_hand = logits[torch.arange(12), torch.tensor(prompts.answers)]
        assert_allclose(said.right[:, n], by_hand, atol=1e-5)
    assert_allclose(said.numbers[:, 15].exp(), logits[:, 1:88].exp(), atol=1e-6)  # 87 numbers from token 1 on


def test_text_is_read_at_once_where_that_is_possible_and_the_same_apart(reader):
    shots = BayesSettings().draw(reader, n=10)
    at_once = predictions(reader, shots).right
    apart = [answer_log_probability(reader, shots.first(n)) for n in range(13)]
    assert_allclose(at_once, torch.stack(apart, dim=1), atol=1e-5)
    # Labels that are not the function's own are never judged: there the passes are separate.
    shuffled = shots.with_shuffled_labels(0)
    read = predictions(reader, shuffled).right
    assert_allclose(read[:, 5], answer_log_probability(reader, shuffled.first(5)), atol=1e-5)
    assert_allclose(read[:, 0], at_once[:, 0], atol=1e-5)


def test_the_first_pairs_ask_what_came_next():
    shots = Shots.draw(Functions(), shots=3, n=4, seed=0)
    assert (shots.first(2).query == shots.x[:, 2]).all()
    assert (shots.first(3).query == shots.query).all()
    assert shots.first(0).x.shape == (4, 0)
    assert (function_values(shots)[:, 2].numpy() == shots.first(2).answer).all()
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
    seen = observed_by(BayesSettings(n=32, b="0..4", inputs="1..9", shots=6), model)
    assert seen.noise == 0.3
    for row, n in ((0, 0), (3, 2), (7, 6)):
        p, odds = enumerated(seen.shots, 0.3, row, n)
        assert_allclose(seen.exact[EXACT][row, n], p, atol=1e-12)
        assert seen.belief[row, n].item() == pytest.approx(math.log(odds))


def test_functions_written_in_two_ways_are_one_in_the_belief():
    # Thresholds above every input say 0 everywhere: a = 9 and a = 10 are the same function.
    family = Functions("threshold", a=(1, 10), b=(0, 5), inputs=(0, 4))
    shots = Shots.draw(family, shots=3, n=6, noise=0.2, seed=0)
    shots = replace(shots, parameters=np.tile([10, 3], (6, 1)))
    found = function_log_odds(shots, noise=0.2)
    assert found[:, 0].tolist() == pytest.approx([math.log(1 / (len(family.grid) - 1))] * 6)


def test_divergences_by_hand():
    exact = torch.tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64)
    log_p = torch.tensor([[[0.5, 0.25, 0.125]]], dtype=torch.float64).log()
    whole = divergence_nats(exact, log_p)
    assert whole.item() == pytest.approx(0.5 * math.log(2))
    assert divergence_nats(exact, exact.clamp(min=1e-300).log()).item() == pytest.approx(0)
    merged = right_or_not_divergence_nats(exact[..., 1], log_p[..., 1])
    assert merged.item() == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert merged.item() < whole.item()
    sure = right_or_not_divergence_nats(torch.ones(1, 1).double(), torch.full((1, 1), 0.25).double().log())
    assert sure.item() == pytest.approx(math.log(4))


def observed_by(settings, model):
    return observations(Context(settings, (model,)))


# Which verdicts known learners get

SETTINGS = BayesSettings(n=100, resamples=60)


def judged(seen: Observations, model, settings=SETTINGS, questions=(curve, updates, families, near_exact)):
    """The claims about a curve and the tables behind them, by name, computed from these observations."""
    ctx = Context(settings, (model,))
    ctx._known[observations] = seen
    parts = [question(ctx) for question in questions]
    claims = {claim.name: claim for part in parts for claim in part.claims}
    return claims, {table.name: table for part in parts for table in part.tables}


@pytest.fixture(scope="module")
def seen(model):
    return observed_by(SETTINGS, model)


def as_learner(seen, p, numbers=None):
    """What was looked at, with this learner in the model's place; it learns nothing from shuffled labels."""
    flat = torch.full_like(p, float(p[:, 0].mean()))
    return replace(seen, model=Predictions(p.log(), numbers), shuffled=Predictions(flat.log(), None))


@pytest.fixture(scope="module")
def ideal(seen):
    """The exact posterior in the model's place."""
    return as_learner(seen, seen.learners[EXACT], seen.exact[EXACT].log())


def test_what_the_article_says_is_true_of_the_exact_belief_and_false_of_p(ideal, model):
    _, tables = judged(ideal, model)
    distances = tables["distances"].rows(reference=EXACT, outcomes="all numbers")
    assert_allclose([row["kl"] for row in distances], 0, atol=1e-12)
    # The same prompts are resampled for both: equal curves have equal bounds.
    of_model, of_exact = ([row[name] for name in ("misfit", "low", "high")] for row in tables["misfits"].rows())
    assert of_model == pytest.approx(of_exact, abs=1e-9)
    lines = {row["learner"]: row for row in tables["updates"].rows()}
    assert lines[BELIEF]["line_r2"] > 0.99
    assert abs(lines[BELIEF]["line_bend"]) < 0.3
    assert lines[LOGIT_P]["line_r2"] < 0.7
    assert lines[LOGIT_P]["line_bend"] < -1


def test_no_prefix_of_few_shots_can_be_extrapolated(seen, model):
    few = replace(seen, shots=seen.shots.first(4), exact={EXACT: seen.exact[EXACT][:, :5]}, right=seen.right[:, :5])
    ctx = Context(SETTINGS, (model,))
    ctx._known[observations] = as_learner(few, logistic(few.shots))
    claim = bayesian_extrapolates(errors(ctx), ())
    assert (claim.verdict, "shots are 2" in claim.because) == (Verdict.UNDETERMINED, True)


def test_a_step_of_the_article_is_found(seen, model):
    _, tables = judged(as_learner(seen, logistic(seen.shots)), model, questions=(updates,))
    (row,) = tables["updates"].rows(learner="model")
    assert row["log_odds_step"] == pytest.approx(0.7, rel=0.1)


def test_a_curve_that_does_not_rise_has_no_updates(ideal, model):
    still = replace(ideal, model=replace(ideal.model, right=ideal.model.right[:, :1].expand(-1, 16)))
    claims, _ = judged(still, model)
    assert claims["rises"].verdict is Verdict.REFUTED
    for name in ("linear_log_odds", "bayesian_extrapolates"):
        assert claims[name].verdict is Verdict.UNDETERMINED
        assert claims[name].because.startswith("Not judged: rise")


def test_an_exact_posterior_that_the_prompts_rule_out_is_no_control(ideal, model):
    # Without noise, no function allows a corrupted pair: what is left can be judged without that observer.
    nothing = {EXACT: ideal.exact[EXACT] * math.nan}
    claims, _ = judged(replace(ideal, exact=nothing), model)
    assert claims["rises"].verdict is Verdict.SUPPORTED
    for name in ("linear_log_odds", "bayesian_extrapolates", "near_exact"):
        assert claims[name].verdict is Verdict.UNDETERMINED
        assert "no function of the family allows" in claims[name].because


def test_regressions_answer_with_certainty(seen):
    curve_of = probabilities(seen).at(learner="least squares")
    assert np.isnan(curve_of.point).tolist()[:3] == [True, True, False]
    right = (seen.regressed["least squares"][:, 2].round() == seen.right[:, 2]).double().mean()
    assert curve_of.point[2] == pytest.approx(right.item())
    accuracy, _, agreement = answers(seen)
    assert accuracy.at(learner="least squares").point[2] == pytest.approx(right.item())
    assert_allclose(agreement.at(learner=MODEL).point, 1.0)


# The whole study


@pytest.fixture(scope="module")
def study(model):
    return hs.study("bayes", model=model, quick=True, n=40, force=True)


def test_random_weights_show_nothing(study):
    assert not [claim.name for claim in study.claims if claim.verdict is Verdict.SUPPORTED]
    assert claim(study, "rises").verdict is Verdict.REFUTED
    assert claim(study, "linear_log_odds").verdict is Verdict.UNDETERMINED
    assert claim(study, "flattens_without_x_to_y").verdict is Verdict.UNDETERMINED
    assert "nothing here to call an update" in study.answer[0]
    assert any("trained" in note and "large language models" in note for note in study.notes)


def test_the_study_is_whole(study, model, tmp_path):
    for each in study.claims:
        assert set(each.tables) <= set(study.tables)
        assert each.evidence
        assert not each.because[0].islower() or each.because[1] in "_(.", each
        assert len(each.statement.split()) <= 25
        assert len(each.because.split()) <= 40
    names = {figure.name for figure in study.figures}
    assert names >= {study.lead, "distances-shots", "extrapolation", "roles"}
    json.dumps(study.to_json(), allow_nan=False)
    out = tmp_path / "run"
    again = hs.study("bayes", model=model, quick=True, out=out, n=32, shots=4, force=True)
    assert (out / "report.html").exists()
    assert again.provenance["command"].endswith("--n 32 --shots 4 --resamples 60")
    assert "fewer than 8" in claim(again, "near_exact").because


def test_text_is_studied_too(reader):
    found = hs.study("bayes", model=reader, quick=True, n=32, force=True)
    assert not [claim.name for claim in found.claims if claim.verdict is Verdict.SUPPORTED]
    numbers = found.tables["distances"].rows(outcomes="all numbers")
    assert all(math.isnan(row["kl"]) and row["reason"] for row in numbers)
    merged = found.tables["distances"].rows(outcomes="right or not")
    assert not any(math.isnan(row["kl"]) for row in merged)
    assert any("lower bound" in note for note in found.notes)


def beside_random(damage, drawn):
    """Two heads and random sets of two, with these mean damages [nats] over 50 prompts."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.5, 50))
    own = damage + noise - noise.mean()
    sets = tuple((Head(0, i), Head(1, i)) for i in range(len(drawn)))
    of_sets = torch.tensor(drawn, dtype=torch.float64)[:, None].expand(-1, 50)
    return AgainstRandom((Head(0, 1), Head(1, 3)), own, sets, of_sets, 100, "size")


RISING = Samples.one(RISE, np.full(50, 0.6))


@pytest.mark.parametrize(
    ("damage", "drawn", "verdict"),
    [
        (3.0, [1.0] * 20, Verdict.SUPPORTED),
        (0.1, [-0.5] * 20, Verdict.UNDETERMINED),  # more than others, but no sure damage
        (3.0, [1.0] * 14 + [4.0] * 6, Verdict.UNDETERMINED),  # others do as much
        (0.3, [1.0] * 60, Verdict.REFUTED),  # less than others do
        (3.0, [1.0] * 5, Verdict.UNDETERMINED),  # too few sets for so small a p value
        (3.0, [], Verdict.UNDETERMINED),  # a group of all heads has no other set of its size
    ],
)
def test_ablating_heads_is_judged_beside_random_ones(damage, drawn, verdict):
    assert flattens("x_to_y", beside_random(damage, drawn), RISING).verdict is verdict


def test_the_first_screen_tells_a_rank_and_no_mean_of_a_few_sets():
    told = {drawn: rank_in_words(beside_random(3.0, [1.0] * (drawn - 6) + [4.0] * 6)) for drawn in (20, 40)}
    assert told[20] == "more than 14 of 20 random sets of as many heads (p = 0.33)"
    assert told[40] == "more than 34 of 40 random sets of as many heads (p = 0.17)"
    assert rank_in_words(beside_random(3.0, [])) == "beside no random set: there is no other set of this size"


def test_without_a_curve_or_heads_nothing_flattens():
    flat = Samples.one(RISE, np.full(50, 0.0))
    judgement = flattens("x_to_y", beside_random(0.3, [1.0] * 20), flat)
    assert (judgement.verdict, "Not judged: rise" in judgement.because) == (Verdict.UNDETERMINED, True)
    unnamed = flattens("x_to_y", None, RISING)
    assert (unnamed.verdict, "no head of this kind" in unnamed.because) == (Verdict.UNDETERMINED, True)


@pytest.mark.parametrize(
    ("strongest_head", "verdict"), [(0.5, Verdict.SUPPORTED), (0.05, Verdict.REFUTED), (0.1, Verdict.UNDETERMINED)]
)
def test_heads_of_a_kind_exceed_their_null_or_none_does(strongest_head, verdict):
    noise = np.random.default_rng(0).normal(0, 0.02, (40, 3))
    means = np.array([0.0, strongest_head, 0.02])
    above = over_heads(ABOVE_NULL, [Head(0, 0), Head(0, 1), Head(1, 0)], means + noise - noise.mean(0))
    assert heads_of_kind("x_to_y", above).verdict is verdict


def test_heads_are_ablated_by_strength():
    found = strongest({"x_to_y": [Head(1, 1), Head(0, 0)], "example_to_example": [Head(1, 1)]}, 2)
    assert found["x_to_y"] == (Head(1, 1), Head(0, 0))
    assert found["both"] == (Head(0, 0), Head(1, 1))
    assert "both" not in strongest({"x_to_y": [Head(1, 1)]}, 2)


@pytest.mark.parametrize("bad", [{"ridge": 0.0}, {"resamples": 5}, {"random_sets": 18}, {"strongest": 0}, {"n": 31}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(BadArgument):
        BayesSettings(**bad)


def test_the_articles_pairs_are_asked_as_often_as_they_allow(reader):
    assert len(BayesSettings(article=True).draw(reader)) == 80
    assert BayesSettings(article=True, n=40).n == 40


def test_one_pair_is_too_few(model):
    with pytest.raises(BadArgument, match="--shots 2"):
        hs.study("bayes", model=model, shots=1)
