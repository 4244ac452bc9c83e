"""The questions of the Bayes study that look inside: by hand there is what was written, at random nothing."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from headscope import tasks
from headscope.measures.log_odds import linearity, slope
from headscope.measures.samples import HEAD, LAYER, Samples
from headscope.results.study import Verdict
from headscope.studies.bayes import (
    attention_growth,
    attention_knockout,
    confidence,
    mlp_ablation,
    update_mediation,
    x_probe,
)
from headscope.studies.bayes.activations import (
    LOG_ODDS,
    RESIDUAL,
    RISE,
    answer_log_odds,
    label_attention,
    label_reading_heads,
)
from headscope.studies.bayes.additive_features import SLOPE, Observed, additive_features, best_layer, features_add
from headscope.studies.bayes.increments import agreement_of
from headscope.studies.bayes.variables import MOVED, ORDER, any_number, learnt_in_order, variables
from headscope.studies.bayes.vector_effects import CONTROLS, OWN
from headscope.studies.context import Context, Part
from headscope.studies.pairs import PairsConfig
from headscope.studies.sites import at_final_token, residual_sites, stacked
from headscope.tables import Table
from headscope.vocabulary import Head
from tests import pair_models
from tests.planted_updates import LANGUAGE, LOGITS, REST, VOCAB, adding_model

QUESTIONS = (
    additive_features,
    attention_growth.attention_growth,
    attention_knockout.attention_knockout,
    x_probe.x_probe,
    mlp_ablation.mlp_ablation,
    confidence.confidence,
    variables,
    update_mediation.update_mediation,
)


def asked(question, model: hs.Model, **settings) -> Part:
    return question(Context(PairsConfig(**settings), (model,)))


def table_of(part: Part, name: str) -> Table:
    return next(table for table in part.tables if table.name == name)


def by_name(question) -> str:
    return str(question.__name__)


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return adding_model(tmp_path_factory.mktemp("adding"))


@pytest.mark.parametrize("shots", [0, 1, 6])
def test_log_odds_of_the_hand_written_model(adding: hs.Model, shots: int) -> None:
    drawn = PairsConfig(n=10, noise=0.0, shots=shots).draw(adding)
    expected = LOGITS * shots / (shots + REST) - math.log(VOCAB - 1)
    assert answer_log_odds(adding, tasks.linear(adding, drawn)) == pytest.approx(np.full(10, expected), abs=1e-4)


def test_attention_of_the_hand_written_model(adding: hs.Model) -> None:
    prompts = tasks.linear(adding, PairsConfig(n=10, shots=4).draw(adding))
    labels, x, even = label_attention(adding, prompts)
    assert labels[:, 4] == pytest.approx(np.full(10, 4 / (4 + REST)), abs=1e-5)  # head 2.0
    assert x[:, 4] == pytest.approx(np.zeros(10), abs=1e-5)
    assert even[0] == pytest.approx(np.full(8, 4 / 19))
    assert label_reading_heads(adding, prompts, margin=0.1) == (Head(2, 0),)


def test_residual_streams_are_those_of_a_run(adding: hs.Model) -> None:
    prompts = tasks.linear(adding, PairsConfig(n=10, shots=2).draw(adding))
    run = adding.run(prompts, capture=["resid_pre", "resid_post"])
    read = stacked(at_final_token(adding, prompts, residual_sites(adding)))
    assert read[2] == pytest.approx(run["resid_pre", 2][:, -1].numpy())
    assert read[-1] == pytest.approx(run["resid_post", 3][:, -1].numpy())


@pytest.mark.parametrize("question", [*QUESTIONS[:4], QUESTIONS[-1]], ids=by_name)
def test_what_the_hand_written_model_does_is_seen(adding: hs.Model, question) -> None:
    # Its attention is the same in every prompt: only many of them make it sure that it is in others, too.
    (claim,) = asked(question, adding, n=180 if question is attention_growth.attention_growth else 60).claims
    assert claim.verdict is Verdict.SUPPORTED, claim.because


def test_the_hand_written_model_gathers_by_the_head_that_was_written(adding: hs.Model) -> None:
    (claim,) = asked(attention_growth.attention_growth, adding, n=60).claims
    assert claim.evidence[0].what.endswith("(head 2.0)")


def test_the_hand_written_model_needs_mlps_at_both_places(adding: hs.Model) -> None:
    part = asked(mlp_ablation.mlp_ablation, adding, n=60)
    damage = table_of(part, "mlp_ablation")
    at = {row["place"]: row["damage"] for row in damage.rows(component="MLP", ablated="all layers")}
    single = {row["ablated"]: row["damage"] for row in damage.rows(component="MLP", place="label")}
    assert abs(at["x"]) < 1e-3
    assert at["label"] > 4
    assert single["layer 1"] == pytest.approx(at["label"], abs=1e-3)  # the layer that breaks pairs down, no other
    assert part.claims[0].verdict is Verdict.REFUTED


def test_variables_are_decided_where_the_hand_written_model_reads_them(adding: hs.Model) -> None:
    part = asked(variables, adding, n=60)
    listed = table_of(part, "variables")
    moved = {v: [round(row["moved"], 3) for row in listed.rows(variable=v)] for v in ("b", "x", "shots")}
    assert (moved["b"], moved["x"]) == ([0, 0, 0, 1, 1], [0, 1, 1, 1, 1])
    assert moved["shots"][1:] == [0, 0, 1, 1]  # at layer 0 the patch brings the source's learned position
    assert listed.rows(variable="a")[0]["reason"]  # y = x + b has but one a
    (sentence,) = part.says
    assert (
        "a: no other value of it changes the answer; b: layer 3 (1.00); x: layer 1 (1.00); shots: layer 3 (1.00);"
        in sentence
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_have_nothing_to_show(tmp_path: Path, seed: int) -> None:
    model = pair_models.of_number_tokens(tmp_path, layers=2, seed=seed)
    for question in QUESTIONS:
        part = asked(question, model, n=12, seed=seed)
        assert part.tables
        assert part.figures
        assert all(claim.verdict is not Verdict.SUPPORTED for claim in part.claims), question


def test_models_of_text_are_asked_the_same(tmp_path: Path) -> None:
    model = pair_models.of_text(tmp_path, layers=2)
    settings = [(question, {"n": 12, "shots": 3}) for question in QUESTIONS]
    settings += [(question, {"n": 12, "article": True}) for question in (QUESTIONS[1], QUESTIONS[4], variables)]
    for question, chosen in settings:
        part = asked(question, model, **chosen)
        assert all(claim.verdict is not Verdict.SUPPORTED for claim in part.claims), question
        assert {name for claim in part.claims for name in claim.tables} <= {table.name for table in part.tables}
        for claim in part.claims:
            assert len(claim.statement.split()) <= 25
            assert len(claim.because.split()) <= 40, claim.because
        for figure in part.figures:
            assert figure.table in {table.name for table in part.tables}


def test_too_few_functions_decide_nothing(adding: hs.Model) -> None:
    for question in (additive_features, x_probe.x_probe):
        (claim,) = asked(question, adding, n=12, b="2..3").claims
        assert claim.verdict is Verdict.UNDETERMINED
        assert "fewer than four functions" in claim.because


def test_without_mlps_nothing_is_said_of_them(tmp_path: Path) -> None:
    model = pair_models.of_number_tokens(tmp_path, layers=1, d_mlp=0)
    (claim,) = asked(mlp_ablation.mlp_ablation, model, n=12).claims
    assert claim.verdict is Verdict.UNDETERMINED
    assert "no MLPs" in claim.because


# Verdicts of known learners


def growing(*exponents: float, seed: int = 0, units: int = 40, spread: float = 0.05, least: float = 0.0) -> Samples:
    """Attention of made-up heads that grows with these exponents from one example to eight, up to 0.5."""
    generator = np.random.default_rng(seed)
    values = {
        (0, f"0.{head}", shots): np.maximum(0.5 * (shots / 8) ** exponent * generator.normal(1, spread, units), least)
        for head, exponent in enumerate(exponents)
        for shots in (1, 2, 4, 8)
    }
    return Samples.of(attention_growth.ATTENTION, (LAYER, HEAD, attention_growth.SHOTS), values)


def test_some_heads_attention_must_grow_half_as_fast_as_the_examples() -> None:
    def verdict(attends: list[str], *exponents: float, even: float = 0.2, beyond: float = 0.4) -> Verdict:
        growth = growing(*exponents).halves().map(attention_growth.growth_of)
        of_even = attention_growth.growth_of(growing(*[even] * len(exponents), seed=2)).halves().estimation
        noise = np.random.default_rng(1).normal(beyond, 0.05, size=(20, len(exponents)))
        more = replace(growth.estimation, quantity=attention_growth.ATTENTION, values=noise)
        return attention_growth.attention_grows(growth, of_even, more, attends).verdict

    growth = attention_growth.growth_of(growing(0.8, 0.0))
    assert growth.mean == pytest.approx([0.8, 0.0], abs=0.01)
    assert verdict(["0.0", "0.1"], 0.8, 0.0) is Verdict.SUPPORTED
    assert verdict(["0.1"], 0.8, 0.0) is Verdict.REFUTED  # the one that grows attends to nothing
    assert verdict([], 0.8, 0.0) is Verdict.UNDETERMINED
    assert verdict(["0.0"], 0.8, 0.0, even=0.8) is Verdict.REFUTED  # so does any head
    assert verdict(["0.0"], 0.8, 0.0, beyond=0.0) is Verdict.REFUTED  # as much to the x


def test_growth_from_next_to_nothing_is_bounded() -> None:
    # From 1e-6 at one example to .5 at eight the end points alone would give an exponent of 6.3.
    (steep,) = attention_growth.growth_of(growing(6.3, least=1e-6)).mean
    assert 1 < steep < 2


def features(steering: float, common: float, *, bent: bool = False) -> Observed:
    """Eight made-up functions: increments with a common part, curves of that slope; 0.5 per real example."""
    generator = np.random.default_rng(0)
    doses = np.arange(7.0)
    increments = [
        agreement_of(
            (1 - common) * generator.normal(size=(1, 6, 1, 48))
            + common * generator.normal(size=48)
            + 0.5 * generator.normal(size=(1, 6, 12, 48)),
            seed,
            draws=40,
        )
        for seed in range(8)
    ]
    course = np.minimum(doses, 1.0) * 6 if bent else doses
    curves = {name: 0.01 * generator.normal(size=(8, 1, 7)) for name in CONTROLS}
    curves[OWN] = steering * course + 0.01 * generator.normal(size=(8, 1, 7))
    return Observed(increments, curves, 0.5 * doses + 0.1 * generator.normal(size=(8, 7)), doses)


def test_features_add_where_increments_are_parallel_and_act_in_a_line() -> None:
    assert features_add(features(0.4, 1.0), 0).verdict is Verdict.SUPPORTED
    assert features_add(features(0.0, 1.0), 0).verdict is Verdict.REFUTED  # parallel, but without effect
    assert features_add(features(0.4, 0.0), 0).verdict is Verdict.REFUTED  # increments of their own for each n
    assert linearity(features(0.4, 1.0, bent=True).curves[OWN][0, 0], np.arange(7.0)) < 0.9
    assert features_add(features(0.4, 1.0, bent=True), 0).verdict is Verdict.REFUTED
    nothing = replace(features(0.4, 1.0), real=np.zeros((8, 7)))
    assert features_add(nothing, 0).verdict is Verdict.UNDETERMINED


def test_a_control_without_another_answer_is_left_out() -> None:
    observed = features(0.4, 1.0)
    observed.curves[CONTROLS[-1]][:] = np.nan
    made = features_add(observed, 0)
    assert made.verdict is Verdict.SUPPORTED
    assert sum("beyond" in row.what for row in made.evidence) == len(CONTROLS) - 1
    assert best_layer(observed.of_curves(SLOPE, slope)) == 0


def knocked_out(kept: float, *, worth: float = 4.0, spread: float = 0.1, varying: float = 0.0) -> Samples:
    """Made-up log-odds: blocked attention costs a share 1 - `kept` of what the same examples cost when removed.

    What they are worth varies from prompt to prompt.
    """
    doses = np.array([0, 2, 4])
    noise = spread * np.random.default_rng(0).normal(size=(2, 60, 3)) * (doses > 0)
    each = varying * np.linspace(-1.7, 1.7, 60)[:, None] * doses / 4
    left = {
        attention_knockout.REMOVED: each - worth * doses / 4 + noise[0],
        attention_knockout.HIDDEN: each - worth * doses / 4 + noise[0],
        attention_knockout.FINAL_TOKEN: each - worth * (1 - kept) * doses / 4 + noise[1],
    }
    axes = {attention_knockout.WAY: left, attention_knockout.TAKEN: doses.tolist()}
    return Samples.grid(LOG_ODDS, axes, np.stack(list(left.values()), axis=1))


@pytest.mark.parametrize(
    ("log_odds", "verdict", "reason"),
    [
        (knocked_out(0.0), Verdict.SUPPORTED, ""),
        (knocked_out(0.5), Verdict.REFUTED, ""),
        (knocked_out(-0.5), Verdict.REFUTED, ""),
        (knocked_out(0.09, varying=4.0), Verdict.UNDETERMINED, "unclear"),  # a tenth of what is known but roughly
        (knocked_out(0.1, spread=2.0), Verdict.UNDETERMINED, "unclear"),
        (knocked_out(0.0, worth=0.0), Verdict.UNDETERMINED, "Not judged"),
    ],
)
def test_an_edge_is_its_example_within_a_margin(log_odds: Samples, verdict: Verdict, reason: str) -> None:
    made = attention_knockout.edge_is_example(log_odds)
    assert made.verdict is verdict
    assert reason in made.because


def test_mlps_at_labels_must_cost_more_than_at_both_other_places() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 50)) * 0.1
    places = (mlp_ablation.LABEL, mlp_ablation.FINAL_TOKEN, mlp_ablation.X, mlp_ablation.BEFORE_LABEL)

    def verdict(*costs: float, rise: float = 4.0, varying: float = 0.2) -> Verdict:
        values = {("MLP", p): cost + own for p, cost, own in zip(places, costs, noise, strict=True)}
        damage = Samples.of(mlp_ablation.DAMAGE, (mlp_ablation.COMPONENT, mlp_ablation.PLACE), values)
        rises = np.random.default_rng(1).normal(rise, varying, 50)
        return mlp_ablation.mlps_at_y(damage, Samples.one(RISE, rises)).verdict

    assert verdict(3.0, 1.0, 0.5, 0.0) is Verdict.SUPPORTED
    assert verdict(3.0, 1.0, 3.0, 0.0) is Verdict.REFUTED
    assert verdict(1.0, 3.0, 0.5, 0.0) is Verdict.REFUTED
    assert verdict(3.0, 1.0, 0.5, 0.0, rise=0.0) is Verdict.UNDETERMINED
    # A tenth of a rise that is known but roughly is no margin of .4 nats.
    assert verdict(3.0, 2.5, 0.5, 0.0) is Verdict.SUPPORTED
    assert verdict(3.0, 2.5, 0.5, 0.0, varying=8.0) is Verdict.UNDETERMINED


def test_updates_must_go_with_certainty_in_answer_and_attention() -> None:
    sure, no = np.full(50, 0.6) + np.linspace(-0.1, 0.1, 50), np.linspace(-0.3, 0.3, 50)
    rise = Samples.one(RISE, np.random.default_rng(0).normal(3, 0.5, 50))

    def correlations(sizes: Mapping[str, np.ndarray]) -> Samples:
        values = {(size, confidence.AFTER): each for size, each in sizes.items()}
        return Samples.of(confidence.CORRELATION, (confidence.UPDATE, confidence.CONFIDENCE), values)

    def verdict(
        answer: np.ndarray, attention: np.ndarray, null: np.ndarray = no, ideal: np.ndarray = sure
    ) -> Verdict:
        made = correlations({confidence.OUTPUT: answer, confidence.ATTENTION: attention, confidence.EXACT: ideal})
        shuffled = correlations({confidence.OUTPUT: null, confidence.ATTENTION: null})
        return confidence.update_grows(made, shuffled, rise).verdict

    assert verdict(sure, sure) is Verdict.SUPPORTED
    assert verdict(sure, no) is Verdict.REFUTED
    assert verdict(sure, np.full(50, np.nan)) is Verdict.UNDETERMINED
    assert verdict(sure, sure, null=sure) is Verdict.UNDETERMINED
    assert verdict(-sure, -sure, ideal=-sure) is Verdict.UNDETERMINED  # nor does an exact observer
    unserved = correlations({confidence.OUTPUT: sure, confidence.EXACT: sure})
    assert "not served" in confidence.update_grows(unserved, unserved, rise).because


def mediated(
    none: float, half: float, at_x: float = 1.0, shuffled: float = 0.0, *, whole: float = 1.0, seed: int = 0
) -> Samples:
    """Made-up updates of 1 nat by the last example, and what is left of them."""
    shown = (whole, half, none, at_x)
    cells = {(update_mediation.SHOWN, left): mean for left, mean in zip(MEDIATED, shown, strict=True)}
    cells |= {(update_mediation.SHUFFLED, left): shuffled * (left == MEDIATED[0]) for left in MEDIATED}
    generator = np.random.default_rng(seed)
    prompt = generator.normal(0, 0.3, 50)  # some examples tell more than others, with or without an edit
    values = {cell: mean + prompt * (mean > 0) + generator.normal(0, 0.1, 50) for cell, mean in cells.items()}
    return Samples.of(update_mediation.UPDATE, (update_mediation.LABELS, update_mediation.OUTPUT), values)


MEDIATED = (update_mediation.WHOLE, *update_mediation.LEFT)


@pytest.mark.parametrize(
    ("update", "verdict"),
    [
        (mediated(0.1, 0.55), Verdict.SUPPORTED),
        (mediated(0.9, 0.95), Verdict.REFUTED),  # the update does not go through these MLPs
        (mediated(0.1, 0.98), Verdict.REFUTED),  # it does, but not in proportion
        (mediated(0.1, 0.55, at_x=0.1), Verdict.REFUTED),  # the MLPs at x carry as much
        (mediated(0.1, 0.55, shuffled=0.5), Verdict.UNDETERMINED),  # and so does what is no function
        (mediated(0.0, 0.0, 0.0, whole=0.0), Verdict.UNDETERMINED),
    ],
)
def test_an_update_goes_through_mlps_in_proportion(update: Samples, verdict: Verdict) -> None:
    made = update_mediation.update_by_mlps(update)
    assert made.verdict is verdict, made.because


def profiles(*layers: int, noise: float = 0.3, depth: int = 8, units: int = 50) -> dict[str, Samples]:
    """Made-up shares of the way that each variable moves, which passes a half at these layers; ways differ."""
    generator = np.random.default_rng(0)
    made = {}
    for variable, layer in zip(ORDER, layers, strict=True):
        way = generator.gamma(9, 0.5, size=(units, 1))
        share = np.clip(0.5 + 0.4 * (np.arange(depth + 1) - layer + 0.5), 0, 1) * np.ones((units, 1))
        moved = way * (share + noise * generator.normal(size=share.shape))
        grid = Samples.grid(MOVED, {RESIDUAL: range(depth + 1)}, moved)
        made[variable] = replace(grid, counts=np.tile(way, depth + 1))
    return made


def test_variables_are_learnt_in_order_where_each_layer_is_later() -> None:
    assert learnt_in_order(profiles(1, 3, 5, 7)).verdict is Verdict.SUPPORTED
    assert learnt_in_order(profiles(7, 5, 3, 1)).verdict is Verdict.REFUTED
    assert learnt_in_order(profiles(1, 3, 3, 7)).verdict is not Verdict.SUPPORTED
    missing = profiles(1, 3, 5, 7)
    missing["parity"] = missing["parity"].because("no other value of it changes the answer")
    made = learnt_in_order(missing)
    assert made.verdict is Verdict.UNDETERMINED
    assert "parity: no other value" in made.because
    # Each variable was swapped on prompts of its own: only those that all share are compared.
    apart = {v: each.rows(slice(0, 50 - place)) for place, (v, each) in enumerate(profiles(1, 3, 5, 7).items())}
    assert {row.n for row in learnt_in_order(apart).evidence} == {47}


def test_that_a_number_is_due_is_read_over_all_numbers(adding: hs.Model) -> None:
    prompts = tasks.linear(adding, PairsConfig(n=10, shots=2).draw(adding))
    logits = adding.run(prompts).logits
    by_hand = logits[:, -1].double().softmax(-1)[:, 1 : LANGUAGE.n_numbers + 1].sum(-1).log()
    assert any_number(adding)(logits, prompts).numpy() == pytest.approx(by_hand.numpy())


def decodable(own: float, before: float, overlap: float, token: float = 0.1) -> tuple[Samples, Samples]:
    """Made-up r² of twelve functions at two layers, `token` at the first, and the overlap with y's directions."""
    generator = np.random.default_rng(0)
    levels = {x_probe.OWN: own, x_probe.BEFORE: before, x_probe.SHUFFLED: -0.3}
    values = {
        (target, layer): (level if layer else token) + generator.normal(0, 0.02, 12)
        for target, level in levels.items()
        for layer in (0, 1)
    }
    r2 = Samples.of(x_probe.R2, (x_probe.TARGET, x_probe.RESIDUAL), values, over="functions")
    share = Samples.grid(x_probe.OVERLAP, {x_probe.RESIDUAL: (0, 1)}, generator.normal(overlap, 0.02, (12, 2)))
    return r2, share


def test_x_is_decoded_beyond_controls_and_outside_the_directions_of_y() -> None:
    def verdict(own: float, before: float, overlap: float, token: float = 0.1) -> Verdict:
        return x_probe.x_carried(*decodable(own, before, overlap, token), 0.1, 1).verdict

    assert verdict(0.6, 0.0, 0.1) is Verdict.SUPPORTED
    assert verdict(0.6, 0.0, 0.6) is Verdict.REFUTED  # decodable, in the directions of y
    assert verdict(0.6, 0.6, 0.1) is Verdict.REFUTED  # as much of any other x
    assert verdict(0.6, 0.0, 0.1, token=0.6) is Verdict.REFUTED  # y alone tells as much
    assert verdict(0.2, -0.3, 0.9) is Verdict.UNDETERMINED  # at the margin: where it points says nothing
    r2, _ = decodable(0.6, 0.2, 0.1)
    assert x_probe.beyond(r2).at(control=x_probe.NEAREST).mean == pytest.approx([0.0, 0.4], abs=0.05)
    assert x_probe.first_near_best(np.array([0.0, 0.58, 0.6])) == 1
