"""The redundancy study: what it must find in planted tasks, by hand, and that it finds nothing in random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import headscope as hs
from headscope import tasks
from headscope.cli.main import build
from headscope.errors import BadArgument, HeadscopeError
from headscope.evidence import Test
from headscope.interventions.named_heads import heads_among, parse_heads, set_name
from headscope.measures.samples import LAYER, Samples, over_heads
from headscope.results.study import Claim, Study, Verdict
from headscope.studies.context import Context
from headscope.studies.redundancy import plan
from headscope.studies.redundancy.attention_to_examples import looks_back
from headscope.studies.redundancy.experiment import Experiment, RedundancySettings, experiment, problems
from headscope.studies.redundancy.iterative_ablation import answer_remains, formed_later, still_formed, survives
from headscope.studies.redundancy.joint_ablation import JOINTLY, SINGLY, Joint, redundant
from headscope.studies.redundancy.parity import parity_later
from headscope.studies.redundancy.patching import (
    ANSWER,
    CONTROL,
    EXCESS,
    MARGIN,
    PROBABILITY,
    SOURCE,
    Patched,
    best_cell,
    clear,
    excess,
    nearer,
    patched,
)
from headscope.studies.redundancy.repeats import repeated
from headscope.studies.redundancy.rounds import KEPT, Round, ablation_of_what_forms, next_layers
from headscope.studies.redundancy.self_repair import (
    KINDS,
    LABELS,
    NEWLY,
    RELEASE,
    SHARE,
    WRITING,
    Growth,
    backups,
    most_grown,
)
from headscope.studies.redundancy.transfer import carried
from headscope.studies.registry import entry
from headscope.sweeps.controls import random_ablations
from headscope.sweeps.grid import Cell
from headscope.sweeps.predicted_numbers import any_number, exact, near, predicted_numbers
from headscope.sweeps.self_repair import direct_effects
from headscope.tasks.linear import EVERYDAY
from headscope.tasks.shots import ARTICLE_PAIRS
from headscope.tasks.source_and_target import ANSWERS, CONTROLS, EXAMPLES, TASK, SourceAndTarget
from headscope.tasks.split import Split
from headscope.vocabulary import Head
from tests import pair_models, planted_task


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def twice() -> hs.Model:
    """Layers 1 and 3 form the task; either suffices."""
    return planted_task.forming_in(1, 3)


@pytest.fixture(scope="module")
def found(twice: hs.Model) -> Study:
    return hs.study("redundancy", model=twice, quick=True, rounds=5, n=40)


def asked(model: hs.Model, **settings: object) -> Context[RedundancySettings]:
    return Context(RedundancySettings(**settings), (model,))  # type: ignore[arg-type]


def problems_of(model: hs.Model, **settings: object) -> SourceAndTarget:
    return problems(asked(model, **settings))


def experiment_of(model: hs.Model, **settings: object) -> Experiment:
    return experiment(asked(model, **settings))


def verdicts(study: Study) -> dict[str, str]:
    return {claim.name: str(claim.verdict) for claim in study.claims}


def because(study: Study, name: str) -> str:
    return next(claim.because for claim in study.claims if claim.name == name)


def chosen(study: Study) -> list[dict[str, object]]:
    return study.tables["ablations"].rows(set="chosen")


# Problems


@pytest.mark.parametrize("article", [False, True])
def test_problems_tell_the_answers_apart_and_ask_the_target_what_the_source_does_not_show(
    numbers: hs.Model, text: hs.Model, article: bool
) -> None:
    drawn = problems_of(text if article else numbers, n=20, article=article)
    assert len(drawn) == 40
    stacked = np.stack([drawn.numbers[name] for name in ANSWERS])
    assert all(len(set(column)) == 4 for column in stacked.T)
    a, b = drawn.source.parameters.T
    assert a.min() >= 2
    assert b.min() >= 1
    assert (drawn.numbers["f(target x)"] == a * drawn.target.query + b).all()
    assert (drawn.numbers["a · source x"] == a * drawn.source.query).all()
    shown = np.concatenate((drawn.source.x, drawn.source.query[:, None]), axis=1)
    assert not (shown == drawn.target.query[:, None]).any()
    assert (drawn.other.x == drawn.source.x).all()
    assert (drawn.other.parameters[:, 0] != a).all()
    if article:
        assert (drawn.source.x == [x for x, _ in ARTICLE_PAIRS]).all()


def test_another_function_has_none_of_the_answers(numbers: hs.Model) -> None:
    drawn = problems_of(numbers, n=20)
    for query in (drawn.target.query, drawn.source.query):
        theirs = drawn.source.functions.values(drawn.other.parameters, query)
        for name in ANSWERS:
            assert (theirs != drawn.numbers[name]).all()


def test_functions_whose_answers_are_one_number_are_refused(numbers: hs.Model) -> None:
    with pytest.raises(BadArgument, match="cannot tell the task from a copied answer"):
        problems_of(numbers, n=10, family="threshold")


def test_parity_is_asked_where_a_is_even_only(text: hs.Model) -> None:
    drawn = problems_of(text, n=20)
    assert (drawn.even_slope == (drawn.source.parameters[:, 0] % 2 == 0)).all()
    odd = drawn.numbers["f(target x)"][drawn.even_slope] % 2
    assert (odd == drawn.source.parameters[drawn.even_slope, 1] % 2).all()
    assert set(odd) == {0, 1}


# Reading numbers


def test_a_number_near_the_right_one() -> None:
    right = np.array([87, 87, 87, 3, 3])
    given = torch.tensor([91.0, 92.0, 93.0, 4.0, float("nan")])
    assert near(given, right).tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert exact(given, right).sum() == 0


def test_what_text_models_predict_is_what_plain_greedy_decoding_writes(text: hs.Model) -> None:
    prompts = experiment_of(text, n=10).prompts.estimation.source
    predicted = predicted_numbers(text, prompts, [Cell(())], 3)[0]
    for prompt, number in zip(prompts.tokens, predicted.tolist(), strict=True):
        ids = torch.tensor([prompt])
        for _ in range(4):
            ids = torch.cat([ids, text.hf(ids).logits[:, -1:].argmax(-1)], dim=1)
        written_on = text.tokenizer.decode(ids[0, len(prompt) :]).lstrip()
        digits = written_on[: len(written_on) - len(written_on.lstrip("0123456789"))]
        assert (digits == "" and number != number) or number == int(digits)


def test_any_number_is_a_mass_for_number_tokens_and_a_first_token_in_text(numbers: hs.Model, text: hs.Model) -> None:
    target = experiment_of(numbers, n=10).prompts.estimation.target
    logits = numbers.run(target).logits
    mass = logits[:, -1].softmax(-1)[:, 1:-2].sum(-1)  # BOS, the comma and the semicolon are no numbers
    assert any_number(numbers)(logits, target) == pytest.approx(mass)
    prompts = tasks.linear(text, n=3)
    logits = torch.zeros(3, prompts.longest, text.vocab_size)
    tokens = [text.tokenizer.convert_tokens_to_ids(word) for word in ("28", " 8", ",")]
    logits[torch.arange(3), torch.tensor(prompts.lengths) - 1, torch.tensor(tokens)] = 1.0
    assert any_number(text)(logits, prompts).tolist() == [1.0, 1.0, 0.0]


# Patching


def test_probabilities_of_the_planted_task_are_those_worked_out_by_hand(twice: hs.Model) -> None:
    tried = experiment_of(twice, n=10)
    measured, drawn = patched(tried, tried.prompts.estimation, ()), tried.prompts.estimation.problems
    for layer, formed in ((2, 1), (4, 2)):
        for kind, shots in ((EXAMPLES, drawn.source), (CONTROLS[0], drawn.shuffled)):
            for name in ANSWERS:
                values = measured.probability.at(source=kind, answer=name, layer=layer).values[:, 0]
                for row in range(len(drawn)):
                    by_hand = planted_task.answered_by_hand(
                        shots.x[row],
                        shots.y[row],
                        int(drawn.target.query[row]),
                        int(drawn.numbers[name][row]),
                        formed,
                    )
                    assert float(values[row]) == pytest.approx(by_hand, abs=2e-3), (layer, kind, name)
    # Before the first forming head nothing is transferred; the final residual stream is the source's own answer.
    assert measured.layers("f(target x)") == [2, 3, 4]
    final = measured.probability.at(source=EXAMPLES, layer=6)
    assert final.at(answer="f(source x)").values == pytest.approx(measured.own.values, abs=1e-5)
    accuracy = measured.accuracy.at(source=EXAMPLES, reading="exact")
    assert accuracy.at(layer=2, answer="f(target x)").mean == [1.0]
    assert accuracy.at(layer=6, answer="f(source x)").mean == [1.0]


def test_probabilities_in_text_are_those_of_patching_example_by_example(text: hs.Model) -> None:
    tried = experiment_of(text, n=40)
    half = tried.prompts.estimation
    assert half.source.ragged
    measured = patched(tried, half, (Head(1, 2),)).probability.at(source=EXAMPLES, layer=2)
    # This tokenizer joins the space with an 8: such answers begin one token earlier, in source as in target.
    right = half.problems.numbers
    joined = np.array([[str(number)[0] == "8" for number in right[name]] for name in ANSWERS])
    rows = [0, *np.flatnonzero(joined.any(0) & ~joined.all(0))[:2].tolist()]
    assert len(rows) > 1
    for row in rows:
        for name in ANSWERS:
            source = tasks.linear(text, half.problems.source, answers=right[name]).rows([row])
            target = tasks.linear(text, half.problems.target, answers=right[name]).rows([row])
            ablate = hs.zero("1.2", source.lengths[0] - 1)
            run = text.run(source, capture=["resid_pre"], interventions=[ablate])
            answer, end = target.answer_tokens[0], target.lengths[0]
            put = hs.patch(("resid_pre", 2), source=run, positions={source.lengths[0] - 1: end - 1})
            logits = text.run([[*target.tokens[0], *answer]], interventions=[put]).logits[0]
            odds = logits.softmax(-1)[torch.arange(end - 1, end - 1 + len(answer)), list(answer)]
            value = measured.at(answer=name).values[row, 0]
            assert float(value) == pytest.approx(float(odds.prod()), rel=1e-4)


def test_transferred_is_beyond_the_less_favourable_of_both_controls() -> None:
    steady, spread = np.full(20, 0.5), np.array([0.0, 0.1] * 10)
    kinds = (EXAMPLES, *CONTROLS)

    def above(*values: np.ndarray) -> Samples:
        return excess(Samples.grid(PROBABILITY, {SOURCE: kinds, LAYER: [0]}, np.stack(values, axis=1)[..., None]))

    close = above(steady + spread, spread, spread + 0.5 - MARGIN / 2)
    assert nearer(close, close.mean)[0,] == pytest.approx(MARGIN / 2)
    assert clear(close) == []
    apart = above(steady, spread, spread * 0)
    assert clear(apart) == [(0,)]
    assert nearer(apart, apart.estimate().low)[0,] < 0.45
    undefined = above(np.full(20, np.nan), spread, spread)
    assert clear(undefined) == []


def test_layers_are_named_by_bounds_that_hold_for_all_of_them() -> None:
    # 200 layers at exactly the margin: some exceed it by their own bounds, none by those of all.
    values = MARGIN + 0.1 * np.random.default_rng(0).normal(size=(40, 1, 200))
    samples = Samples.grid(EXCESS, {CONTROL: CONTROLS[:1], LAYER: range(200)}, values)
    assert clear(samples)
    assert clear(samples, jointly=True) == []


def test_only_the_last_position_is_kept_of_a_source(numbers: hs.Model) -> None:
    half = experiment_of(numbers, n=10).prompts.selection
    source = half.sources[EXAMPLES]
    assert len(half) == len(source.prompts) == 10  # with number tokens all four answers share one prompt
    assert source.of_answers == tuple(range(10)) * 4


# Ablating


def test_what_is_ablated_can_be_written_as_layers_and_heads(numbers: hs.Model) -> None:
    assert parse_heads("1,2") == (1, 2)
    assert parse_heads(" 0.1  2") == (Head(0, 1), 2)
    layer = tuple(Head(1, index) for index in range(4))
    assert heads_among(numbers, parse_heads("1")) == layer
    assert heads_among(numbers, parse_heads("0.3 1 1.2")) == (Head(0, 3), *layer)
    assert [set_name(numbers, heads) for heads in ((), layer, layer[:1], (*layer, Head(0, 3)))] == [
        "nothing",
        "layer 1",
        "head 1.0",
        "heads 1.0 1.1 1.2 1.3 0.3",
    ]
    for bad in ("", "a", "1-2", "1.2.3"):
        with pytest.raises(HeadscopeError):
            parse_heads(bad)
    for beyond in ("3", "0.4"):
        with pytest.raises(HeadscopeError, match="there is no"):
            heads_among(numbers, parse_heads(beyond))


@pytest.mark.parametrize(
    "bad",
    [
        {"ablate": "x"},
        {"positions": "first"},
        {"ablation": "noise"},
        {"rounds": 0},
        {"random_sets": 0},
        {"top_heads": 1},
        {"n": 2},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(HeadscopeError):
        RedundancySettings(**bad)  # type: ignore[arg-type]


def test_random_ablations_are_as_large_and_hold_nothing_under_test(numbers: hs.Model) -> None:
    drawn = random_ablations(numbers, heads_among(numbers, (2,)), count=5)
    assert sorted(set_name(numbers, heads) for heads in drawn) == ["layer 0", "layer 1"]
    assert random_ablations(numbers, heads_among(numbers, (0, 2)), count=5) == []
    (alone,) = random_ablations(numbers, heads_among(numbers, (2,)), count=5, apart_from=[Head(0, 1)])
    assert set_name(numbers, alone) == "layer 1"
    heads = random_ablations(numbers, (Head(0, 1), Head(2, 2)), count=5)
    assert len(heads) == 5
    assert all(len(each) == 2 and not set(each) & {Head(0, 1), Head(2, 2)} for each in heads)


def test_which_layers_are_ablated_next() -> None:
    ablated = (Head(10, 0), Head(11, 3))
    assert next_layers(range(32), (), 12, 2) == [10, 11]
    assert next_layers(range(32), ablated, 14, 2) == [12, 13]
    assert next_layers(range(32), ablated, 12, 2) == [9]
    assert next_layers(range(3), (), 1, 2) == [0]
    assert next_layers(range(3), (Head(0, 0),), 1, 2) == []


# Iterative ablation of a planted task


def test_iterative_ablation_finds_both_copies(found: Study) -> None:
    rows = chosen(found)
    assert [row["ablated"] for row in rows] == ["nothing", "layers 0, 1", "layers 0, 1, 2, 3"]
    assert [row["first_task"] for row in rows] == [2, 4, None]
    assert [row["first_copied"] for row in rows] == [5, 5, None]
    assert [row["exact"] for row in rows] == [1.0, 1.0, pytest.approx(0, abs=0.1)]
    assert [row["remains"] for row in rows] == [True, True, False]
    assert rows[-1]["ended"] == "no layer clearly transfers the task on the selection half"
    decided = verdicts(found)
    for name in ("carried", "redundant", "forms_later", "survives", "layers_stand_in", "repeats"):
        assert decided[name] == "supported", name


def test_the_answer_names_layers_with_numbers(found: Study) -> None:
    formed, ablated = found.answer
    assert "answers 40 of 40 prompts right with 4 examples" in formed
    assert "transfers the task at layers 2 to 4" in formed
    assert "With layers 0, 1 ablated, the task is transferred at layer 4 (the source's answer: 1.00)" in ablated
    assert "with layers 0, 1, 2, 3 ablated, the task is transferred at no layer that can be named" in ablated
    assert "Layers 0, 1, 2 and 3 are redundant" in ablated
    assert any(figure.name == found.lead for figure in found.figures)


def test_iterative_ablation_finds_three_copies_one_after_another() -> None:
    model = planted_task.forming_in(1, 2, 3)
    rows = chosen(hs.study("redundancy", model=model, quick=True, rounds=5, n=10, random_sets=1))
    assert [row["ablated"] for row in rows] == ["nothing", *(f"layers {', '.join('0123'[:n])}" for n in (2, 3, 4))]
    assert [row["first_task"] for row in rows] == [2, 3, 4, None]
    assert [row["remains"] for row in rows] == [True, True, True, False]


def test_one_copy_is_no_redundancy() -> None:
    study = hs.study("redundancy", model=planted_task.forming_in(2), quick=True, n=12)
    decided = verdicts(study)
    assert decided["carried"] == "supported"
    for name in ("redundant", "forms_later", "survives", "layers_stand_in"):
        assert decided[name] == "refuted", name
    assert study.tables["layer_sets"].rows(kind="necessary")[0]["layers"] == "2"


def test_redundant_layers_cost_nothing_alone_and_all_jointly(found: Study) -> None:
    # min(1, t) of what two heads formed: ablated alone neither costs anything, the last one everything.
    (row,) = found.tables["joint_ablation"].rows(component="layers")
    assert row["ablated"] == "0 1 2 3"
    # Even a little less than nothing: with one head left the wrong functions have smaller marks too.
    assert -2 < row["singly"] < 0.01
    assert row["interaction"] >= row["jointly"] > 30
    effects = found.tables["layer_effects"]
    kinds = list(dict.fromkeys(row["effect"] for row in effects.rows()))
    last = {each["layer"]: each["logit_damage"] for each in effects.rows(effect=kinds[1])}
    assert last[1] == pytest.approx(last[3], abs=0.01)
    assert last[1] > 30
    assert last[0] == pytest.approx(0, abs=0.01)
    assert found.tables["layer_sets"].rows(kind="necessary")[0]["layers"] == "1 3"
    assert found.tables["layer_sets"].rows(kind="sufficient")[0]["size"] == 1


def test_what_a_later_layer_reads_again_is_no_backup(found: Study) -> None:
    # Head 3.0 attends to the same labels with the first copy or without, and reads the same again.
    # That no other head grew by the margin either takes joint bounds of them all, which 40 prompts do not give.
    assert verdicts(found)["backups"] != "supported"
    (row,) = found.tables["growth_of_attention_to_labels"].rows(head="3.0", ablated="layers 0, 1")
    assert row["before"] == pytest.approx(1, abs=1e-3)
    assert row["growth"] == pytest.approx(0, abs=1e-3)


def test_what_a_head_attends_to_from_everywhere_is_in_the_null(found: Study) -> None:
    # Head 1.0 attends evenly to all labels, from wherever: a label shares that attention with itself, and counts so.
    (row,) = found.tables["label_attention"].rows(head="1.0")
    assert row["attention"] == pytest.approx(1, abs=1e-3)
    assert row["null_attention"] == pytest.approx(1, abs=1e-3)
    assert verdicts(found)["looks_back"] == "refuted"
    assert found.tables["forming_heads"].rows(head="1.0")[0]["logit_damage"] > 30


def test_listed_heads_are_ablated_and_nothing_else(twice: hs.Model) -> None:
    study = hs.study("redundancy", model=twice, quick=True, n=10, random_sets=1, ablate="1.0, 3.0")
    rows = chosen(study)
    assert [(row["ablated"], row["first_task"]) for row in rows] == [("nothing", 2), ("heads 1.0 3.0", None)]
    assert rows[1]["ended"] == "what was listed is ablated"
    assert verdicts(study)["survives"] == "refuted"


def test_an_ablation_behind_the_task_says_nothing_of_what_forms_it(twice: hs.Model) -> None:
    """The task is transferred at layer 2 already; layer 5 is ablated, and one head of layer 1 that does nothing."""
    study = hs.study("redundancy", model=twice, quick=True, n=10, random_sets=1, ablate="5, 1.1")
    for name in ("redundant", "forms_later", "survives"):
        assert verdicts(study)[name] == "undetermined", name
        assert "need not have formed the task" in because(study, name)
    settings = {"ablate": "1.0", "ablation": "mean", "n": 10, "random_sets": 1}
    one = hs.study("redundancy", model=twice, quick=True, **settings)
    # The mean over shuffled labels still marks every function a little, and the other copy all of the true one.
    assert [row["remains"] for row in chosen(one)] == [True, True]


# Claims by samples whose verdict is known; what makes each plainly true or false is in tests/truth

NEED = [Test("known", Samples.one(EXCESS, np.full(20, 0.5)), above=MARGIN)]
UNMET = [Test("known", Samples.one(EXCESS, np.zeros(20)), above=MARGIN)]
KEEPS, LOSES, WIDE = (
    answer_remains(Samples.one(KEPT, mean + np.random.default_rng(4).uniform(-reach, reach, 20)))
    for mean, reach in ((0.1, 0.05), (-0.1, 0.05), (0.0, 0.4))
)


def above_controls(by_layer: list[float], other: float | None = None) -> Split[Samples]:
    """Excess over both controls at each layer for f(target x), none for a · target x."""
    values = np.zeros((20, 2, 2, len(by_layer)))
    values[:, :, 0] = by_layer
    if other is not None:
        values[:, 1, 0] = other
    axes = {CONTROL: CONTROLS, ANSWER: TASK, LAYER: range(len(by_layer))}
    values += 0.01 * np.random.default_rng(0).normal(size=values.shape)
    return Split(Samples.grid(EXCESS, axes, values), Samples.grid(EXCESS, axes, values))


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (carried(NEED, above_controls([0, 0.5], other=0.0)), "refuted"),
        (carried(UNMET, above_controls([0, 0.5])), "undetermined"),
        (survives(NEED, WIDE), "undetermined"),
        (survives(NEED, answer_remains(None, "nothing was ablated")), "undetermined"),
        (still_formed(NEED, LOSES, above_controls([0, 0.5])), "refuted"),
        (formed_later(NEED, KEEPS, above_controls([0, 0, 0]), [2]), "refuted"),
        (formed_later(NEED, KEEPS, above_controls([0, 0, 0]), []), "undetermined"),
        (formed_later(UNMET, KEEPS, above_controls([0, 0, 0.5]), [2]), "undetermined"),
    ],
)
def test_claims_about_transfer(claim: Claim, verdict: str) -> None:
    assert claim.verdict == verdict, claim.because


def by_layer(*values: float) -> Split[Samples]:
    spread = 0.01 * np.random.default_rng(1).normal(size=(20, len(values)))
    samples = Samples.grid(EXCESS, {LAYER: range(len(values))}, spread + np.array(values))
    return Split(samples, samples)


def joint(jointly: float, singly: float) -> Joint:
    noise = 0.02 * np.random.default_rng(5).normal(size=(2, 20))
    return Joint(Samples.one(JOINTLY, jointly + noise[0]), Samples.one(SINGLY, singly + noise[1]))


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (parity_later(NEED, 1, by_layer(0, 0, 0)), "refuted"),
        (parity_later(NEED, None, by_layer(0, 0, 0.6)), "undetermined"),
        (parity_later(NEED, 1, None), "undetermined"),
        (repeated(NEED, None, None), "undetermined"),
        (redundant(NEED, "layers_stand_in", "layers", joint(1.05, 1.0), ""), "refuted"),
        (redundant(NEED, "layers_stand_in", "layers", None, "fewer than two"), "undetermined"),
        (looks_back(None), "undetermined"),
        (backups(NEED, {}), "undetermined"),
    ],
)
def test_claims_about_parity_repetition_redundancy_and_attention(claim: Claim, verdict: str) -> None:
    assert claim.verdict == verdict, claim.because


def test_growth_is_chosen_on_one_half_and_judged_on_the_other(numbers: hs.Model) -> None:
    rng = np.random.default_rng(6)

    def grown(**by_head: float) -> Samples:
        values = 0.05 * rng.random((20, len(numbers.heads)))
        for name, value in by_head.items():
            values[:, numbers.heads.index(Head.parse(name[1:].replace("_", ".")))] += value
        return over_heads(SHARE, numbers.heads, values)

    before, selected, judged = grown(), grown(h1_1=0.9, h1_3=0.5), grown(h1_3=0.5, h1_2=0.9)
    later = [str(head) for head in numbers.heads if head.layer >= 1]
    assert most_grown(selected - before, later, 2) == ["1.1", "1.3"]
    of_two = [each.only(head=["1.1", "1.3"]).labelled(NEWLY, "layer 0") for each in (before, selected, judged)]
    none = of_two[0] - of_two[0]
    growths = Growth(LABELS, Split(of_two[0], of_two[0]), Split(*of_two[1:]), Split(none, none))
    assert growths.backups == [("layer 0", 1, "1.3")]
    # The head that grew most where it was selected did not grow on other prompts; another that was listed did.
    assert backups(NEED, {LABELS: growths}).verdict == "undetermined"


def growth_of(kind: str, before: float, after: float, shuffled: float) -> dict[str, Growth]:
    """One later head, on both halves alike; `shuffled` is its growth with labels shuffled."""
    noise = 0.01 * np.random.default_rng(2).random((3, 20, 1))
    means = (before, after, shuffled)
    made = (over_heads(KINDS[kind][0], [Head(1, 0)], m + each) for m, each in zip(means, noise, strict=True))
    sides = (each.labelled(NEWLY, "layer 0") for each in made)
    return {kind: Growth(kind, *(Split(each, each) for each in sides))}


def test_a_head_that_no_longer_writes_against_the_answer_is_no_backup() -> None:
    assert backups(NEED, growth_of(WRITING, -2.95, 0.0, 0.0)).verdict == "refuted"
    assert backups(NEED, growth_of(WRITING, -2.95, 2.0, 0.0)).verdict == "supported"
    (let_go,) = growth_of(RELEASE, -2.95, 0.0, 0.0).values()
    assert let_go.change.estimation.mean[0] == pytest.approx(2.95, abs=0.05)
    assert let_go.backups == []
    assert backups(NEED, growth_of(RELEASE, -2.95, 0.0, 0.0)).verdict == "undetermined"


def test_a_head_that_grows_as_much_with_shuffled_labels_is_no_backup() -> None:
    assert backups(NEED, growth_of(LABELS, 0.1, 0.6, 0.0)).verdict == "supported"
    grown = growth_of(LABELS, 0.1, 0.6, 0.5)
    assert backups(NEED, grown).verdict == "refuted"
    assert grown[LABELS].backups == []


def test_an_earlier_layer_counts_that_the_selection_half_did_not_find_strongest() -> None:
    found_strongest, other = above_controls([0, 0.05, 0, 0.5]), above_controls([0, 0, 0.15, 0.5])
    halves_differ = Split(found_strongest.selection, other.estimation)
    assert formed_later(NEED, KEEPS, found_strongest, [3]).verdict == "supported"
    assert formed_later(NEED, KEEPS, halves_differ, [3]).verdict == "refuted"


def test_a_later_layer_with_parity_counts_that_the_selection_half_did_not_choose() -> None:
    chosen_elsewhere = Split(by_layer(0, 0, 0.6, 0).selection, by_layer(0, 0, 0, 0.6).estimation)
    assert parity_later(NEED, 1, chosen_elsewhere).verdict == "undetermined"


def round_of(clean: list[float], ended: str = "") -> Round:
    """A round in which each layer transfers the task with this probability, the controls with none."""
    values = np.zeros((20, 3, 2, len(clean)))
    values[:, 0, 0] = clean
    values += 0.01 * np.random.default_rng(3).random(values.shape)
    axes = {SOURCE: (EXAMPLES, *CONTROLS), ANSWER: TASK, LAYER: range(len(clean))}
    probability = Samples.grid(PROBABILITY, axes, values)
    half = Patched("", (), None, None, None, None, probability, None, None)  # type: ignore[arg-type]
    return Round((), Split(half, half), (), ended)


def test_one_ablation_is_judged_if_it_costs_the_layer_where_the_task_was_formed() -> None:
    clean, costly, gone = round_of([0, 0, 0.6, 0.6], "why"), round_of([0, 0, 0.1, 0.6]), round_of([0, 0, 0, 0])
    judged, lost, _ = ablation_of_what_forms((clean, costly, gone))
    assert judged is costly
    assert lost is not None
    assert lost.mean[0] == pytest.approx(0.5, abs=0.01)
    # The first costs nothing where the task was formed: what a second one, on top of it, does is another question.
    judged, _, why = ablation_of_what_forms((clean, clean, gone))
    assert judged is None
    assert "need not have formed the task" in why
    assert ablation_of_what_forms((clean,))[2] == "nothing was ablated: why"


def test_direct_effects_of_prompts_of_unequal_length_are_those_of_each_alone(text: hs.Model) -> None:
    prompts = tasks.linear(text, n=6).answered()
    assert prompts.ragged
    together = direct_effects(text, prompts, "readout").clean.direct
    alone = [direct_effects(text, prompts.rows([row]), "readout").clean.direct[0] for row in range(6)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-6)


# Models of other kinds, and the command


@pytest.mark.parametrize(
    "settings",
    [{}, {"ablate": "1 2.0", "positions": "all", "ablation": "mean"}, {"ablate": "1", "ablation": "resample"}],
)
def test_random_weights_show_nothing(numbers: hs.Model, text: hs.Model, settings: dict[str, str]) -> None:
    for model in (numbers, text):
        study = hs.study("redundancy", model=model, quick=True, n=10, random_sets=1, force=True, **settings)
        assert not any(claim.verdict is Verdict.SUPPORTED for claim in study.claims)
        assert verdicts(study)["carried"] == "undetermined"
        assert "the source prompt's right answer" in because(study, "carried")
        assert "cannot be judged" in study.answer[1]
        assert study.tables["transfer"].rows()


def test_claims_and_what_decided_them_are_short(found: Study) -> None:
    for claim in found.claims:
        assert len(claim.statement.split()) <= 25, claim.name
        assert len(claim.because.split()) <= 40, claim.name
        assert claim.evidence
        assert set(claim.tables) <= set(found.tables)


def test_the_articles_own_prompts(text: hs.Model) -> None:
    study = hs.study("redundancy", model=text, quick=True, article=True, n=10, force=True)
    assert any("twelve pairs" in note for note in study.notes)
    assert any("several tokens" in note for note in study.notes)
    assert any("a in 1..5" in note for note in study.notes)
    assert any(EVERYDAY.stated in note for note in study.notes)


def test_notes_say_what_a_model_of_pairs_proves(numbers: hs.Model, text: hs.Model) -> None:
    settings = RedundancySettings(n=10, force=True)
    of_pairs = plan.PLAN.run(settings, numbers)
    assert any("positive control" in note and "linear-4l" in note for note in of_pairs.notes)
    assert not any("linear-4l" in note for note in plan.PLAN.run(settings, text).notes)


def test_the_command_writes_a_report_and_prints_json(numbers: hs.Model, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [
        "study",
        "redundancy",
        "--model",
        numbers.name,
        "--quick",
        "--force",
        "--n",
        "10",
        "--json",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(build("study"), given)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["study"] == "redundancy"
    assert [claim["name"] for claim in told["claims"]][:3] == ["does_the_task", "carried", "redundant"]
    assert (out / "report.html").read_text(encoding="utf-8").count("<h1") == 1
    assert entry("redundancy").shown_on == "zoo:linear-8l"


def test_the_best_cell_is_the_farthest_above_the_nearer_control() -> None:
    assert best_cell(above_controls([0.1, 0.6, 0.3]).selection) == ("f(target x)", 1)
    assert best_cell(above_controls([0.1, 0.6, 0.3], other=0.2).selection)[1] in (1, 2)


def test_a_layer_that_the_model_lacks_is_refused_before_the_model_runs() -> None:
    stages: list[str] = []
    with pytest.raises(hs.errors.HeadscopeError, match="99"):
        hs.study(
            "redundancy",
            model=planted_task.forming_in(1),
            ablate="1,99",
            n=10,
            progress=lambda stage, done, of: stages.append(stage),
        )
    assert stages == []
