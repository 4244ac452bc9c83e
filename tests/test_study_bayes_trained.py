"""The study of Bayesian updates on the model that was trained towards them: what it must see there."""

import pytest

import headscope as hs
from headscope.results.study import Verdict


@pytest.fixture(scope="module")
def found() -> hs.Study:
    # 120 problems: that what is 0 in all prompts is under .05 in others takes about 80, and naming heads halves them.
    return hs.study("bayes", model="zoo:linear-4l", quick=True, n=120)


def test_it_learns_from_examples_and_follows_the_exact_posterior(found: hs.Study) -> None:
    verdicts = {claim.name: claim.verdict for claim in found.claims}
    assert verdicts["rises"] is Verdict.SUPPORTED
    # Late it is near the exact posterior; while that one is in between it is not.
    late, between = found.tables["differences"].rows(learner="model")
    assert late["high"] < 0.1 < between["low"]
    assert verdicts["near_exact"] is Verdict.REFUTED
    assert verdicts["order"] is Verdict.SUPPORTED
    # It was taught by the exact posterior's own data, so it is nearer to that than to one that knows less.
    last = {row["reference"]: row["kl"] for row in found.tables["distances"].rows(shots=15, outcomes="all numbers")}
    assert last["exact posterior, all functions"] < last["exact posterior, training functions"]


def test_it_is_no_regression(found: hs.Study) -> None:
    last = {row["learner"]: row["accuracy"] for row in found.tables["answers"].rows(shots=15)}
    assert last["model"] > 0.8
    assert last["least squares"] < 0.3


def test_heads_carry_pairs_and_the_curve_falls_without_them(found: hs.Study) -> None:
    verdicts = {claim.name: claim.verdict for claim in found.claims}
    assert verdicts["heads_x_to_y"] is Verdict.SUPPORTED
    assert verdicts["heads_example_to_example"] is Verdict.SUPPORTED
    curves = {
        row["ablated"].split(":")[0]: row["probability"] for row in found.tables["ablated_curves"].rows(shots=15)
    }
    assert curves["x_to_y"] < curves["none"] / 2
    # So it does without other heads of this small model: as many at random cost about as much.
    assert verdicts["flattens_without_x_to_y"] is Verdict.UNDETERMINED
    assert any("no evidence about large language models" in note for note in found.notes)


def test_the_first_screen_names_what_was_learned_and_by_which_heads(found: hs.Study) -> None:
    learned, heads = found.answer
    assert "0.02 to 0.69 over 15 pairs" in learned
    assert "while the exact posterior is in between. That the model stays near it is refuted." in learned
    assert "nats to the log-odds of the task" in heads
    assert "Heads 0.1 0.2 0.3 attend from a y to the x of its pair" in heads
    groups = {row["kind"]: row for row in found.tables["head_groups"].rows()}
    shown = groups.get("both") or next(iter(groups.values()))
    assert f"ablating {shown['ablated']} together" in heads
    assert f"of {shown['random_sets']} random sets of as many heads (p = {shown['p_value']:.2f})" in heads
    assert found.lead in {figure.name for figure in found.figures}
