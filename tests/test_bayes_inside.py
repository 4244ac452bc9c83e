"""The parts of the Bayes study that look inside: on a hand-written model they find what is there, on random none."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from headscope import tasks
from headscope.measures.log_odds import linearity
from headscope.results.study import Verdict
from headscope.studies.bayes_parts import confidence as bayes_confidence
from headscope.studies.bayes_parts import edges as bayes_edges
from headscope.studies.bayes_parts import mlps as bayes_mlps
from headscope.studies.bayes_parts.edges import HIDDEN, READOUT, REMOVED
from headscope.studies.bayes_parts.features import Found, judged
from headscope.studies.bayes_parts.inside import (
    answer_log_odds,
    at_readout,
    attention_on,
    looking_at_labels,
    stream_sites,
)
from headscope.studies.bayes_parts.problems import spans_of_examples
from headscope.studies.bayes_parts.steering import CONTROLS, OWN
from headscope.studies.bayes_parts.steps import agreement_of
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from tests import pair_models
from tests.planted_updates import LOGITS, REST, VOCAB, adding_model

PARTS = ("features", "attention", "edges", "carried", "mlps", "confidence", "variables")


def part_of(name: str) -> Callable[..., Part]:
    found: Callable[..., Part] = importlib.import_module(f"headscope.studies.bayes_parts.{name}").part
    return found


def silent(stage: str, done: int, of: int) -> None:
    pass


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return adding_model(tmp_path_factory.mktemp("adding"))


@pytest.mark.parametrize("shots", [0, 1, 6])
def test_log_odds_of_the_hand_written_model(adding: hs.Model, shots: int) -> None:
    drawn = PairsConfig(n=10, noise=0.0, shots=shots).draw(adding)
    expected = LOGITS * shots / (shots + REST) - math.log(VOCAB - 1)
    assert answer_log_odds(adding, tasks.linear(adding, drawn)) == pytest.approx(
        np.full(10, expected), abs=1e-4
    )


def test_attention_of_the_hand_written_model(adding: hs.Model) -> None:
    prompts = tasks.linear(adding, PairsConfig(n=10, shots=4).draw(adding))
    keys = [[p for span in spans for p in span] for spans in spans_of_examples(prompts)]
    mass, even = attention_on(adding, prompts, keys)
    assert mass[:, 4] == pytest.approx(np.full(10, 4 / (4 + REST)), abs=1e-5)  # head 2.0
    assert even[0] == pytest.approx(np.full(8, 16 / 19))  # BOS, query and comma are no examples
    assert looking_at_labels(adding, prompts, margin=0.1) == ()


def test_streams_are_those_of_a_run(adding: hs.Model) -> None:
    prompts = tasks.linear(adding, PairsConfig(n=10, shots=2).draw(adding))
    run = adding.run(prompts, capture=["resid_pre", "resid_post"])
    found = at_readout(adding, prompts, stream_sites(adding))
    assert found[2] == pytest.approx(run["resid_pre", 2][:, -1].numpy())
    assert found[-1] == pytest.approx(run["resid_post", 3][:, -1].numpy())


@pytest.mark.parametrize("name", ["features", "attention", "edges", "carried"])
def test_what_the_hand_written_model_does_is_found(adding: hs.Model, name: str) -> None:
    (claim,) = part_of(name)(PairsConfig(n=60), adding, silent).claims
    assert claim.verdict is Verdict.SUPPORTED, claim.because


def test_the_hand_written_model_needs_mlps_at_both_places(adding: hs.Model) -> None:
    found = part_of("mlps")(PairsConfig(n=60), adding, silent)
    at = {row["place"]: row["damage"] for row in found.tables["places"].rows(component="MLP", layer=-1)}
    single = {row["layer"]: row["damage"] for row in found.tables["places"].rows(component="MLP", place="y")}
    assert abs(at["x"]) < 1e-3
    assert at["y"] > 4
    assert single[1] == pytest.approx(at["y"], abs=1e-3)  # the layer that breaks pairs down, and no other
    assert found.claims[0].verdict is Verdict.REFUTED


def test_variables_arrive_where_the_hand_written_model_reads_them(adding: hs.Model) -> None:
    found = part_of("variables")(PairsConfig(n=60), adding, silent)
    moved = {
        variable: [round(row["moved"], 3) for row in found.tables["variables"].rows(variable=variable)]
        for variable in ("b", "x", "shots")
    }
    assert (moved["b"], moved["x"]) == ([0, 0, 0, 1, 1], [0, 1, 1, 1, 1])
    assert moved["shots"][1:] == [0, 0, 1, 1]  # at layer 0 the patch brings the donor's learned position
    assert found.tables["variables"].rows(variable="a")[0]["reason"]  # y = x + b has but one a


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_have_nothing_to_find(tmp_path: Path, seed: int) -> None:
    model = pair_models.of_number_tokens(tmp_path, layers=2, seed=seed)
    for name in PARTS:
        found = part_of(name)(PairsConfig(n=12, seed=seed), model, silent)
        assert found.tables
        assert found.figures
        assert all(claim.verdict is not Verdict.SUPPORTED for claim in found.claims), name


def test_models_of_text_are_asked_the_same(tmp_path: Path) -> None:
    model = pair_models.of_text(tmp_path, layers=2)
    asked = [(name, PairsConfig(n=12, shots=3)) for name in PARTS]
    asked += [(name, PairsConfig(n=12, article=True)) for name in ("attention", "mlps", "variables")]
    for name, config in asked:
        found = part_of(name)(config, model, silent)
        assert all(claim.verdict is not Verdict.SUPPORTED for claim in found.claims), name
        assert {table for claim in found.claims for table in claim.tables} <= set(found.tables)


def test_too_few_functions_decide_nothing(adding: hs.Model) -> None:
    for name in ("features", "carried"):
        (claim,) = part_of(name)(PairsConfig(n=12, b="2..3"), adding, silent).claims
        assert claim.verdict is Verdict.UNDETERMINED
        assert "fewer than four functions" in claim.because


def features(steering: float, common: float, *, bent: bool = False) -> Found:
    """Eight made-up functions: steps with a common part, curves of that slope, controls of none; 0.5 per example."""
    generator = np.random.default_rng(0)
    doses = np.arange(7.0)
    steps = [
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
    return Found(steps, curves, 0.5 * doses + 0.1 * generator.normal(size=(8, 7)), doses, 0)


def test_features_add_where_steps_are_parallel_and_steer_in_a_line() -> None:
    assert judged(features(0.4, 1.0)).verdict is Verdict.SUPPORTED
    assert judged(features(0.0, 1.0)).verdict is Verdict.REFUTED  # parallel, but without effect
    assert judged(features(0.4, 0.0)).verdict is Verdict.REFUTED  # steps of their own for each n
    assert linearity(features(0.4, 1.0, bent=True).curves[OWN][0, 0], np.arange(7.0)) < 0.9
    assert judged(features(0.4, 1.0, bent=True)).verdict is Verdict.REFUTED


def edges(kept: float, *, worth: float = 4.0, spread: float = 0.1) -> dict[str, np.ndarray]:
    """Made-up log-odds [prompt, dose]: edges whose loss costs a share 1 - `kept` of what the example's loss costs."""
    doses = np.array([0, 2, 4])
    noise = spread * np.random.default_rng(0).normal(size=(2, 60, 3)) * (doses > 0)
    removed = -worth * doses / 4 + noise[0]
    return {REMOVED: removed, HIDDEN: removed, READOUT: -worth * (1 - kept) * doses / 4 + noise[1]}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (edges(0.0), Verdict.SUPPORTED),
        (edges(0.5), Verdict.REFUTED),
        (edges(0.1, spread=2.0), Verdict.UNDETERMINED),
        (edges(0.0, worth=0.0), Verdict.UNDETERMINED),
    ],
)
def test_an_edge_is_its_example_within_a_margin(found: dict[str, np.ndarray], verdict: Verdict) -> None:
    assert bayes_edges.judged(found, [0, 2, 4]).verdict is verdict


def test_mlps_at_y_must_cost_more_than_at_both_other_places() -> None:
    noise, rise = np.random.default_rng(0).normal(size=(4, 50)) * 0.1, np.full(50, 4.0)
    places = (bayes_mlps.AT_Y, bayes_mlps.AT_READOUT, bayes_mlps.AT_X, bayes_mlps.AT_COMMA)

    def verdict(*costs: float, rise: np.ndarray = rise) -> Verdict:
        damage = {
            ("MLP", place, -1): cost + own for place, cost, own in zip(places, costs, noise, strict=True)
        }
        return bayes_mlps.judged(damage, rise).verdict

    assert verdict(3.0, 1.0, 0.5, 0.0) is Verdict.SUPPORTED
    assert verdict(3.0, 1.0, 3.0, 0.0) is Verdict.REFUTED
    assert verdict(1.0, 3.0, 0.5, 0.0) is Verdict.REFUTED
    assert verdict(3.0, 1.0, 0.5, 0.0, rise=np.zeros(50)) is Verdict.UNDETERMINED


def test_updates_must_go_with_certainty_in_answer_and_attention() -> None:
    sure, no = np.full(50, 0.6) + np.linspace(-0.1, 0.1, 50), np.linspace(-0.3, 0.3, 50)
    rise = np.full(50, 3.0)

    def verdict(answer: np.ndarray, attention: np.ndarray) -> Verdict:
        sizes = {
            bayes_confidence.OUTPUT: answer,
            bayes_confidence.EXACT: answer,
            bayes_confidence.ATTENTION: attention,
        }
        found = {(size, c): values for size, values in sizes.items() for c in bayes_confidence.CONFIDENCES}
        return bayes_confidence.judged(found, rise).verdict

    assert verdict(sure, sure) is Verdict.SUPPORTED
    assert verdict(sure, no) is Verdict.REFUTED
    assert verdict(sure, np.full(50, np.nan)) is Verdict.UNDETERMINED
