"""The vectors study: what it must find in a planted circuit, nothing in random weights, and its parts by hand."""

import dataclasses
import json
import string
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import headscope as hs
from headscope.cli import main
from headscope.detectors.key_attention import KeyAttention, key_attention
from headscope.detectors.roles import example_to_example
from headscope.errors import BadArgument, PromptError
from headscope.evidence import Test
from headscope.measures.rankings import agreement
from headscope.measures.samples import LAYER, Samples, over_heads
from headscope.measures.whole_answers import unpacked, whole_answer
from headscope.results.study import Verdict
from headscope.studies.context import Context
from headscope.studies.sites import at_final_token, head_outputs, means_by, through_output
from headscope.studies.vectors import (
    different_heads,
    function_vector,
    head_effects,
    matter_more,
    task_not_answer,
    task_vector,
)
from headscope.studies.vectors.does_the_task import attainable
from headscope.studies.vectors.effects import (
    ACCURACY,
    DIFFERENCE,
    FEW,
    PROBABILITY,
    RECOVERED,
    SHUFFLED,
    ZERO,
    Outcomes,
    asked,
    by_unit,
    outcomes_under,
    plain_outcomes,
    recovered,
)
from headscope.studies.vectors.head_effects import effects_of_heads, mean_head_outputs
from headscope.studies.vectors.problems import VectorsConfig, problems
from headscope.studies.vectors.task_vector import TASK, task_vectors
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.controls import AgainstRandom
from headscope.tasks import linear
from headscope.tasks.split import Split
from headscope.tasks.telling import told_apart
from headscope.tasks.transfer import DUMMYS, OTHERS, OWN
from headscope.vocabulary import Head
from tests import pair_models, planted_pairs

SMALL = {"n": 15, "each": 3, "sources": 3, "random_vectors": 1, "random_sets": 19}
SUPPORTED, REFUTED, UNDETERMINED = Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDETERMINED


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> hs.Study:
    model = planted_pairs.adding(tmp_path_factory.mktemp("planted"))
    return hs.study("vectors", model=model, n=30, each=1, sources=4, random_vectors=2)


def context(model: hs.Model, **settings) -> Context:
    return Context(VectorsConfig(**{**SMALL, **settings}), (model,))


def halves(model: hs.Model, **settings):
    ctx = context(model, **settings)
    ctx.settings.check(model)
    return ctx.once(problems)


def claim(study: hs.Study, name: str):
    return next(one for one in study.claims if one.name == name)


# What is drawn.


def test_no_function_and_no_asked_input_is_on_both_sides(numbers):
    selection, estimation = halves(numbers)
    functions = [set(map(tuple, half.few.parameters.tolist())) for half in (selection, estimation)]
    assert [len(own) for own in functions] == [5, 5]
    assert not functions[0] & functions[1]
    for half in (selection, estimation):
        asked, dummy = set(half.asked), {*half.dummy.query.tolist(), *half.sources.query.tolist()}
        assert not asked & dummy
        shown = np.concatenate([half.few.x, half.dummy.query[:, None], half.asked[:, None]], axis=1)
        assert all(len(set(row)) == len(row) for row in shown.tolist())
        assert (half.function == np.repeat(np.arange(5), 3)).all()
        assert (half.other_answer != half.few.answer).all()
        assert (half.partner != half.function).all()
        assert (half.other.parameters == half.few.parameters[3 * half.partner]).all()
        assert (half.other.x == half.few.x).all()
        assert sorted(half.shuffled.y[0]) == sorted(half.few.y[0])
        assert half.zero.x.shape == (15, 0)
        assert (half.zero.query == half.asked).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"article": True}, "one function"),
        ({"n": 10, "each": 3}, "at least 5"),
        ({"shots": 1}, "2 shots"),
        ({"inputs": "0..15"}, "2 inputs more"),
        ({"a": "1..1", "b": "3..3", "inputs": "0..2"}, "2 inputs more"),
        ({"a": "0..0", "b": "3..3"}, "apart"),
    ],
)
def test_problems_that_cannot_be_drawn_are_refused(numbers, settings, match):
    with pytest.raises(BadArgument, match=match):
        halves(numbers, **settings)


@pytest.mark.parametrize(
    ("settings", "name", "functions"),
    [({"a": "1..1", "b": "1..1", "inputs": "1..8"}, "y = x + 1", 1), ({"a": "1..1", "b": "0..1"}, "2 functions", 2)],
)
def test_few_functions_are_all_in_both_halves_and_a_problem_is_a_unit(numbers, settings, name, functions):
    drawn = halves(numbers, n=40, **settings)
    for half in drawn:
        assert (half.within, half.over) == (name, f"prompts of {name}")
        assert (half.unit.tolist(), half.functions) == (list(range(40)), functions)
        assert not set(half.asked.tolist()) & {*half.dummy.query.tolist(), *half.sources.query.tolist()}
        for shown, *queries in zip(half.few.x.tolist(), half.dummy.query.tolist(), half.asked.tolist(), strict=True):
            assert not set(shown) & set(queries)
        values = np.stack(list(half.answers.values()))
        assert all(len(set(column)) == 3 for column in values.T.tolist())
    if functions == 1:
        assert (drawn.estimation.other_answer == drawn.estimation.asked).all()  # y = x beside a single function
    assert (drawn.selection.few.x != drawn.estimation.few.x).any()


def test_words_are_split_into_what_is_asked_and_dummy_queries(tmp_path):
    text = pair_models.of_text(tmp_path, letters=f"->{string.ascii_lowercase}")
    selection, estimation = halves(text, n=30, task="past_tense")
    asked_words, others = ({*half.asked.tolist()} for half in (selection, estimation))
    assert not asked_words & others  # where a list is long enough, no word is asked in both halves
    for half in (selection, estimation):
        assert half.over == "prompts of past_tense"
        assert not set(half.asked.tolist()) & {*half.dummy.query.tolist(), *half.sources.query.tolist()}
        told = asked(text, half, FEW)  # "want" and "wanted" are told apart by no letter: such words are drawn again
        assert told.clear.all()
        assert max(map(len, told.forced)) > 1  # what "bring" and "brought" share stands after the prompt


def test_claims_about_one_task_say_so(numbers):
    made = task_vector.task_vector(context(numbers, n=15, a="1..1", b="1..1", force=True))
    (judged,) = made.claims
    assert judged.statement.startswith("On y = x + 1 alone, the final-token")
    assert {row.over for row in judged.evidence} == {"prompts of y = x + 1"}
    (judged,) = task_vector.task_vector(context(numbers)).claims
    assert judged.statement.startswith("The final-token")


# How answers are judged.


def test_a_whole_answer_comes_first_if_each_of_its_tokens_does():
    prompts = hs.Prompts(((0, 1), (0, 1), (0, 1)), answer_tokens=((2,), (2, 1), (2, 0))).answered()
    logits = torch.zeros(3, prompts.longest, 3)
    logits[0, 1] = torch.tensor([1.0, 1.0, 1.0])  # a tie is no first place
    logits[1, 1], logits[1, 2] = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.0, 5.0, 1.0])
    logits[2, 1], logits[2, 2] = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.0, 5.0, 1.0])
    first, probability = unpacked(whole_answer()(logits, prompts))
    assert first.tolist() == [0.0, 1.0, 0.0]
    step = [logits[row, position].double().softmax(0) for row in (0, 1) for position in (1, 2)]
    expected = [step[0][2], step[2][2] * step[3][1], step[2][2] * step[3][0]]
    assert torch.allclose(probability, torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_outcomes_are_what_the_logits_say(kind, request):
    model = request.getfixturevalue(kind)
    half = halves(model).estimation
    told = asked(model, half, FEW)
    found = plain_outcomes(model, told)
    assert list(found) == [OWN, OTHERS, DUMMYS]
    for name, prompts in told.prompts.items():
        for row, (tokens, answer) in enumerate(zip(prompts.tokens, prompts.answers, strict=True)):
            with torch.no_grad():
                logits = model.hf(torch.tensor([tokens])).logits[0, -1]
            assert float(found[name][1, row]) == pytest.approx(float(logits.softmax(-1)[answer]), abs=1e-6)
            assert bool(found[name][0, row]) == (int(logits.argmax()) == answer)


# What vectors are made of.


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_values_at_the_final_token_are_those_of_each_prompts_last_token(kind, request):
    model = request.getfixturevalue(kind)
    prompts = linear(model, halves(model).selection.few)
    found = at_final_token(model, prompts, [("resid_pre", 1), ("z", 2)])
    run = model.run(prompts, capture=[("resid_pre", 1), ("z", 2)])
    for row, length in enumerate(prompts.lengths):
        assert torch.allclose(found["resid_pre", 1][row], run["resid_pre", 1][row, length - 1], atol=1e-5)
        assert torch.allclose(found["z", 2][row], run["z", 2][row, length - 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_function_vector_is_the_sum_of_captured_head_outputs(kind, request):
    model = request.getfixturevalue(kind)
    half, heads = halves(model).selection, [Head(0, 1), Head(2, 0), Head(2, 3)]
    prompts = linear(model, half.sources)
    run, expected = model.run(prompts, capture=["head_out"]), torch.zeros(5, model.d_model)
    for row, length in enumerate(prompts.lengths):
        for head in heads:
            written = run["head_out", head.layer][row, length - 1, head.index]
            expected[half.source_function[row]] += written / 3
    means = {layer: means_by(z, half.source_function) for layer, z in head_outputs(model, prompts).items()}
    assert torch.allclose(through_output(model, means, heads), expected, atol=1e-5)


def test_random_directions_have_the_same_norms():
    given = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    drawn = function_vector.random_like(given, 1)
    assert torch.allclose(drawn.norm(dim=1), torch.tensor([5.0, 2.0]))
    assert not torch.equal(drawn, function_vector.random_like(given, 2))


# Values written out.


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_given_values_are_put_where_a_patch_puts_them(kind, request):
    model = request.getfixturevalue(kind)
    half = halves(model).selection
    source, target = linear(model, half.few), linear(model, half.zero)
    run = model.run(source, capture=[("resid_pre", 1), ("z", 2)])
    last = torch.arange(len(source)), torch.tensor(source.lengths) - 1
    for site, patched, values in (
        (("resid_pre", 1), hs.patch(("resid_pre", 1), source=run, positions={-1: -1}), run["resid_pre", 1][last]),
        ("2.1", hs.patch("2.1", source=run, positions={-1: -1}), run["z", 2][last][:, 1]),
    ):
        given = hs.interventions.set_values(site, values, positions=-1)
        one, other = (model.run(target, interventions=edit).logits for edit in (given, patched))
        assert torch.allclose(one, other, atol=1e-5, equal_nan=True)
        one_row = given.rows(slice(2, 3))
        assert torch.equal(one_row.values, values[2:3])
        assert one_row.rows(slice(5, 9)) is one_row  # one row stands for all examples
        cells = [Cell((given,)), Cell((one_row,))]
        swept = cell_values(model, target, cells, hs.measures.probability())
        exact = [
            hs.measures.probability()(model.run(target, interventions=c.interventions).logits, target) for c in cells
        ]
        assert torch.allclose(swept, torch.stack(exact).double(), atol=1e-5)


def test_given_values_can_be_added_and_misfits_are_refused(numbers):
    ids, ones = torch.tensor([[0, 5, 6], [0, 7, 8]]), torch.tensor([[1.0] * 32, [2.0] * 32])
    given = hs.interventions.set_values(("resid_pre", 1), ones, added=True, positions=-1)
    clean = numbers.run(ids, capture=[("resid_pre", 1)])["resid_pre", 1]
    edited = numbers.run(ids, capture=[("resid_pre", 1)], interventions=given)["resid_pre", 1]
    moved = edited - clean
    assert torch.allclose(moved[:, 2], ones, atol=1e-5)
    assert not moved[:, :2].any()
    for target, values, match in (
        (("resid_pre", 1), torch.ones(2, 5), "width 5"),
        (("resid_pre", 1), torch.ones(3, 32), "for 3 examples"),
        ("0.1", torch.ones(2, 32), "expected 8"),
    ):
        with pytest.raises(BadArgument, match=match):
            numbers.run(ids, interventions=hs.interventions.set_values(target, values))
    for bad in (torch.ones(32), torch.full((1, 32), float("nan"))):
        with pytest.raises(BadArgument, match="expected finite ones"):
            hs.interventions.set_values(("resid_pre", 1), bad)


# One patched layer and one causal indirect effect, with plain hooks.


def with_hook(module, change, call) -> torch.Tensor:
    handle = module.register_forward_pre_hook(change)
    try:
        with torch.no_grad():
            return call()
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_task_vector_is_the_residual_stream_of_the_dummy_prompt(kind, request):
    model, layer = request.getfixturevalue(kind), 2
    ctx = context(model)
    half = ctx.once(problems).estimation
    vectors = task_vectors(model, half, [TASK])
    outcomes = outcomes_under(ctx, half, ZERO, vectors, added=False)
    block = model.hf.model.layers[layer]
    dummies, bare = told_apart(model, half.dummy, half.answers).first, asked(model, half, ZERO).first
    expected = [
        probability_with(
            model, block, entering(model, block, dummies.tokens[row]), bare.tokens[row], bare.answers[row : row + 1]
        )
        for row in range(len(half))
    ]
    by_function = by_unit(np.array(expected), half)
    found = outcomes.probability.at(vector=TASK, answer=OWN, layer=layer)
    assert found.values[:, 0] == pytest.approx(by_function, abs=1e-6)


def entering(model: hs.Model, module, tokens) -> torch.Tensor:
    """What enters a module at the last of these tokens."""
    seen: list[torch.Tensor] = []
    with_hook(module, lambda m, args: seen.append(args[0][0, -1]), lambda: model.hf(torch.tensor([tokens])))
    return seen[0]


def probability_with(model: hs.Model, module, value, tokens, answer, own=slice(None)) -> float:
    """Probability of the whole answer with `value` entering the module at the last of the tokens before it."""

    def put(_, args):
        entered = args[0].clone()
        entered[0, len(tokens) - 1, own] = value
        return (entered, *args[1:])

    whole = torch.tensor([tokens + answer])
    logits = with_hook(module, put, lambda: model.hf(whole, use_cache=False).logits[0, len(tokens) - 1 : -1])
    return float(logits.softmax(-1)[range(len(answer)), list(answer)].prod())


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_one_causal_indirect_effect_by_hand(kind, request):
    model, head = request.getfixturevalue(kind), Head(1, 2)
    ctx = context(model)
    half, means = ctx.once(problems).estimation, ctx.once(mean_head_outputs).estimation
    found = effects_of_heads(ctx, half, means)[model.heads.index(head)]
    projection, size = model.anatomy.layers[head.layer].projection, 8
    own = slice(head.index * size, (head.index + 1) * size)
    sources = told_apart(model, half.sources, half.source_answers).first
    shuffled = asked(model, half, SHUFFLED).first
    row = 7
    mine = [place for place, of in enumerate(half.source_function) if of == half.function[row]]
    clean = torch.stack([entering(model, projection, sources.tokens[place])[own] for place in mine])
    tokens, answer = shuffled.tokens[row], shuffled.answers[row : row + 1]
    before = probability_with(model, projection, entering(model, projection, tokens), tokens, answer)
    after = probability_with(model, projection, clean.mean(0), tokens, answer, own)
    assert len(clean) == 3
    assert float(found[row]) == pytest.approx(after - before, abs=1e-6)


# Heads side by side.


KEYS = {6: [3], 10: [3, 7], 14: [3, 7, 11]}


def test_example_to_example_keys_are_the_earlier_y(numbers):
    prompts = linear(numbers, halves(numbers, shots=3).selection.few)
    # bos x , y ; x , y ; x , y ; x ,   the y stand at 3, 7, 11; they are predicted at 2, 6, 10; the read-out is 14.
    keys = example_to_example(prompts)
    found = {
        query: keys.pairs[0, query].nonzero().flatten().tolist()
        for query in keys.queries[0].nonzero().flatten().tolist()
    }
    assert found == KEYS


def test_attention_on_keys_is_read_prompt_by_prompt(numbers):
    prompts = linear(numbers, halves(numbers, shots=3).selection.few)
    found = key_attention(numbers, example_to_example, prompts)
    run = numbers.run(prompts, capture=["pattern"])
    at_6, at_10, at_14 = (run["pattern", 1][:, 2, query, keys].sum(-1) for query, keys in KEYS.items())
    expected = (at_6 + at_10 + at_14) / 3
    assert found.attention.at(head="1.2", layer=1).values[:, 0] == pytest.approx(expected.numpy(), abs=1e-5)
    null = found.attention - found.beyond_null
    # The x on both sides of every y, weighted to as many as there are y: those at 5 and 9 lie beside two.
    around = {6: [1, 5], 10: [1, 5, 5, 9], 14: [1, 5, 5, 9, 9, 13]}
    others = [run["pattern", 1][:, 2, query, keys].sum(-1) / 2 for query, keys in around.items()]
    assert null.at(head="1.2", layer=1).values[:, 0] == pytest.approx(sum(others).numpy() / 3, abs=1e-5)
    none = linear(numbers, halves(numbers, shots=3).selection.zero)
    with pytest.raises(PromptError, match="no prompt has a query"):
        key_attention(numbers, example_to_example, none)


def test_a_head_that_attends_to_all_numbers_is_no_top_induction_head(numbers, monkeypatch):
    # It attends to earlier y more than the one that attends to nothing else, and to what is no y as much.
    attention = np.random.default_rng(0).uniform(0.0, 0.1, (15, 12))
    null = attention.copy()
    every, only_y = numbers.heads.index(Head(1, 2)), numbers.heads.index(Head(0, 3))
    attention[:, every], null[:, every], attention[:, only_y] = 0.5, 0.5, 0.4
    samples = [over_heads(DIFFERENCE, numbers.heads, each) for each in (attention, attention - null)]
    scores = {head_effects.EXAMPLES: Split(*[KeyAttention(*samples)] * 2)}
    monkeypatch.setattr(head_effects, "induction", lambda ctx: scores)
    assert context(numbers, top=1).once(head_effects.top_heads).induction == (Head(0, 3),)


def test_the_same_ranking_overlaps_wholly_and_the_opposite_not_at_all():
    heads = [Head(0, index) for index in range(8)]
    values = np.arange(8.0)[None] + np.random.default_rng(0).normal(0, 0.01, (20, 8))
    effects = over_heads(DIFFERENCE, heads, values, over="functions")
    top, bottom = heads[:-3:-1], heads[:2]
    same = agreement(effects, effects.changed(DIFFERENCE, lambda v: v + 5), (top, top), seed=0)
    bounds = same.share.estimate()
    assert (same.common, same.expected, bounds.mean, bounds.low, bounds.high) == (2, 0.5, 1.0, 1.0, 1.0)
    assert same.rho.point[0] == pytest.approx(1)
    assert same.p_value_at_least == pytest.approx(1 / 28)  # one pair of 8 over 2
    assert same.p_value < 0.01
    # Each ranking finds its top heads again, and so does the other; or not a single one of the other's.
    assert [each.point[0] for each in (*same.ceilings, *same.room)] == [1.0, 1.0, 0.0, 0.0]
    opposite = agreement(effects, -effects, (top, bottom), seed=0)
    assert [each.point[0] for each in (*opposite.ceilings, *opposite.room)] == [1.0, 1.0, 1.0, 1.0]
    assert (opposite.common, opposite.share.estimate().high) == (0, 0.0)
    assert opposite.p_value_at_least == pytest.approx(1)
    assert opposite.rho.point[0] == pytest.approx(-1)
    assert opposite.p_value_at_most == pytest.approx(15 / 28)  # 6 over 2, of 8 over 2


def test_the_chosen_layer_is_the_most_accurate_and_then_the_most_probable():
    accuracy, probability = [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [[0.9, 0.5, 0.6], [0.9, 0.5, 0.6]]
    outcomes = Outcomes(
        *(Samples.grid(q, {LAYER: range(3)}, v) for q, v in ((ACCURACY, accuracy), (PROBABILITY, probability)))
    )
    assert outcomes.best_layer() == {"layer": 2}


def test_a_recovered_share_is_uncertain_in_what_examples_add_too():
    gained = Samples.grid(DIFFERENCE, {LAYER: [0]}, np.array([[0.4], [0.4], [0.4], [0.4], [0.4], [0.4]]))
    gap = Samples.one(DIFFERENCE, [0.6, 1.0, 0.7, 0.9, 0.82, 0.78])
    share = recovered(gained, gap).estimate()
    assert share.mean[0] == pytest.approx(0.5)
    assert share.low[0] < 0.45 < 0.55 < share.high[0]
    hardly = recovered(gained, gap.changed(DIFFERENCE, lambda values: values - 0.65))
    assert np.isnan(hardly.mean).all()
    assert set(hardly.reasons.values()) == {"examples do not clearly raise accuracy"}


# The rules of the claims.


def about(mean, quantity=DIFFERENCE):
    """Samples of ten functions whose mean is exactly this."""
    spread = np.random.default_rng(0).normal(0, 0.01, 10)
    return Samples.one(quantity, mean + spread - spread.mean(), over="functions")


def chosen(mean, elsewhere=0.0, quantity=DIFFERENCE):
    """Samples by layer: this mean at layer 1, which was chosen, and another at layer 0."""
    columns = [about(each, quantity).values[:, 0] for each in (elsewhere, mean)]
    return Samples.grid(quantity, {LAYER: [0, 1]}, np.stack(columns, 1), over="functions").choosing(layer=1)


HELP = Test("examples help", about(0.9), above=0.1)
NO_HELP = Test("examples help", about(0.0), above=0.1)


def shares(mean, elsewhere):
    """Shares of a gain of one, by layer."""
    gained = chosen(mean, elsewhere)
    return replace(gained, quantity=RECOVERED, counts=np.ones_like(gained.values)).choosing(**gained.chosen)


def verdict_of_vector(need=HELP, share=0.9, beyond=0.8, elsewhere=0.0):
    return task_vector.single_vector([need], shares(share, elsewhere), chosen(beyond, elsewhere)).verdict


def verdict_of_heads(need=HELP, share=0.9, elsewhere=0.0, **beyond):
    controls = {"random heads": 0.8, "random direction": 0.8, "other function": 0.8} | beyond
    judged = {name: chosen(mean, elsewhere) for name, mean in controls.items() if mean is not None}
    carried = function_vector.CarriedByHeads(shares(share, elsewhere), judged, chosen(0.8))
    return function_vector.few_heads([need], carried).verdict


def verdict_of_task(
    need=HELP, beyond=0.8, not_copied=0.8, follows=0.8, copied=0.0, other=0.8, clearest=OWN, elsewhere=0.0
):
    by_layer = chosen(beyond, elsewhere), chosen(not_copied), chosen(follows), chosen(copied), chosen(other)
    carried = task_not_answer.Transferred(*by_layer, clearest)
    return task_not_answer.task_rather_than_answer([need], carried).verdict


@pytest.mark.parametrize(
    ("verdict", "name"),
    [
        (verdict_of_vector, "share"),
        (verdict_of_vector, "beyond"),
        (verdict_of_heads, "share"),
        (verdict_of_heads, "random heads"),
        (verdict_of_heads, "random direction"),
        (verdict_of_heads, "other function"),
        (verdict_of_task, "not_copied"),
        (verdict_of_task, "follows"),
        (verdict_of_task, "other"),
    ],
)
def test_a_claim_falls_with_each_comparison_that_it_needs(verdict, name):
    margin = 0.5 if name == "share" else 0.1
    assert verdict() is SUPPORTED
    assert verdict(**{name: 0.05}) is REFUTED
    assert verdict(**{name: margin}) is UNDETERMINED
    assert verdict(need=NO_HELP) is verdict(need=NO_HELP, **{name: 0.05}) is UNDETERMINED


def test_a_layer_that_was_not_chosen_keeps_a_claim_from_falling():
    assert verdict_of_vector(share=0.05, elsewhere=0.9) is UNDETERMINED
    assert verdict_of_heads(share=0.05, elsewhere=0.9) is UNDETERMINED
    # The vector of another function is followed before a layer that was not chosen.
    late = task_not_answer.Transferred(chosen(0.8), chosen(0.8), chosen(0.0, 0.8), chosen(0.0), chosen(0.8), OWN)
    assert task_not_answer.task_rather_than_answer([HELP], late).verdict is UNDETERMINED
    assert verdict_of_heads(**{"random heads": None}) is UNDETERMINED  # no other set of so many heads


def test_an_answer_alone_is_no_task_and_nothing_at_all_is_neither():
    answer = {"beyond": 0.0, "not_copied": -0.8, "follows": 0.0, "copied": 0.9, "clearest": DUMMYS}
    assert verdict_of_task(**answer) is REFUTED
    assert verdict_of_task(**{**answer, "copied": 0.0}) is UNDETERMINED
    assert verdict_of_task(**{**answer, "clearest": OWN}) is UNDETERMINED


def kinds(effect=0.1, attention=0.5):
    return [HELP, Test("effect", about(effect), above=0.0), Test("attention", about(attention), above=0.1)]


def test_rankings_that_do_not_find_themselves_again_name_no_different_heads():
    # Two scores of noise: their top heads differ, and so do those of each from its own on other units.
    heads, generator = [Head(0, index) for index in range(64)], np.random.default_rng(0)
    halves = [[over_heads(DIFFERENCE, heads, generator.normal(size=(40, 64))) for _ in range(2)] for _ in range(2)]
    picked = [[heads[k] for k in np.argsort(-selection.mean)[:4]] for selection, _ in halves]
    noise = agreement(halves[0][1], halves[1][1], tuple(picked), seed=0)
    assert noise.share.estimate().high[0] < 0.5  # few are common
    judged = different_heads.heads_differ(kinds(), noise)
    assert judged.verdict is UNDETERMINED
    assert "What must show it does not: top function-vector heads found again" in judged.because


def test_the_rules_of_the_claims_about_two_kinds_of_heads():
    heads = [Head(0, index) for index in range(12)]
    values = np.arange(12.0) + np.random.default_rng(0).normal(0, 0.6, (10, 12))
    one = over_heads(DIFFERENCE, heads, values, over="functions")
    same = agreement(one, one, (heads[8:],) * 2, seed=0)
    other = agreement(one, -one, (heads[8:], heads[:4]), seed=0)
    differ = different_heads.heads_differ
    assert differ(kinds(), other).verdict is SUPPORTED
    assert differ(kinds(), same).verdict is REFUTED
    assert differ(kinds(), None).verdict is UNDETERMINED
    more = matter_more.function_vector_heads_more
    assert more(kinds(), ablated(0.5, 0.2, 0.2)).verdict is SUPPORTED
    assert more(kinds(), ablated(0.5, 0.49, 0.2)).verdict is REFUTED
    # Beyond the mean of random sets and yet not among the largest, whatever that mean is taken for.
    middling = more(kinds(), ablated(0.5, 0.2, 0.45))
    assert (middling.verdict, "rank among random sets" in middling.because) == (UNDETERMINED, True)
    assert more(kinds(), ablated(0.5, 0.2, 0.9, sets=60)).verdict is REFUTED
    assert more(kinds(), ablated(-0.2, -0.5, -0.5)).verdict is REFUTED  # accuracy is gained, not lost
    assert more(kinds(), ablated(0.5, 0.45, 0.2)).verdict is UNDETERMINED
    assert more(kinds(), None).verdict is UNDETERMINED
    for needs in (kinds(effect=0.0), kinds(effect=-0.1), kinds(attention=0.1), kinds(attention=0.0)):
        assert differ(needs, other).verdict is more(needs, ablated(0.5, 0.2, 0.2)).verdict is UNDETERMINED


def ablated(mine, theirs, random, sets=20):
    """What both kinds of heads cost, beside random sets that cost about `random`."""
    values = np.concatenate([about(mine).values, about(theirs).values[::-1]], axis=1)
    groups = {matter_more.GROUP: [matter_more.FUNCTION_VECTOR, matter_more.INDUCTION]}
    lost = Samples.grid(matter_more.LOST, groups, values)
    drawn = torch.linspace(random - 0.1, random + 0.1, sets, dtype=torch.float64)[:, None].expand(sets, 10)
    own = torch.from_numpy(values[:, 0])
    beside = AgainstRandom((Head(0, 0),), own, ((Head(1, 0),),) * sets, drawn, 99, "layers")
    return matter_more.Ablated(lost, lost, {matter_more.FUNCTION_VECTOR: beside}, {})


def test_claims_are_short(planted):
    for one in planted.claims:
        assert len(one.statement.split()) <= 25
        assert len(one.because.split()) <= 40
        assert {row.role for row in one.evidence} >= {"need", "test"} or one.name == "does_the_task"


# The whole.


def test_a_planted_task_is_found_with_its_head(planted):
    expected = {
        "does_the_task": SUPPORTED,
        "single_vector": SUPPORTED,
        "few_heads": SUPPORTED,
        "task_not_answer": SUPPORTED,
        "different_heads": REFUTED,  # one head carries the task, and it looks up the y
        "matter_more": UNDETERMINED,
    }
    assert {one.name: one.verdict for one in planted.claims} == expected
    tables = planted.tables
    (top,) = [row for row in tables["head_effects"].rows() if row["top_of"]]
    assert (top["layer"], top["head"], top["top_of"]) == (1, "1.0", "function-vector and induction")
    assert top["indirect_effect"] > 0.5
    example = {"half": "estimation", "induction_score": "example to example", "head": "1.0"}
    (score,) = tables["induction_scores"].rows(**example)
    assert score["attention"] == pytest.approx(1, abs=1e-3)
    assert score["named"]
    here = {"half": "estimation", "vector": TASK, "answer": OWN}
    by_layer = {row["layer"]: row["accuracy"] for row in tables["task_vectors"].rows(**here)}
    # The task is written in layer 1 and used in layer 2.
    assert max(by_layer[0], by_layer[1]) < 0.2 < by_layer[2] == 1
    assert [row["layer"] for row in tables["task_vector_shares"].rows(chosen=True)] == [2]
    assert "ablations" not in tables  # no head of one kind is not of the other
    assert tables["baselines"].rows(prompts_kind="few-shot")[0]["accuracy"] == 1
    assert "patched into a zero-shot prompt before layer 2, recovers" in planted.answer[0]
    assert "heads 1.0, added before layer" in planted.answer[1]
    assert planted.lead in [figure.name for figure in planted.figures]


def test_a_shipped_model_that_was_taught_to_carry_the_function_carries_it():
    study = hs.study("vectors", model="zoo:linear-8l", quick=True)
    assert claim(study, "single_vector").verdict is SUPPORTED
    assert claim(study, "task_not_answer").verdict is SUPPORTED
    here = {"half": "estimation", "vector": TASK, "answer": OWN}
    by_layer = {row["layer"]: row["accuracy"] for row in study.tables["task_vectors"].rows(**here)}
    assert min(by_layer[4], by_layer[5]) > 0.7
    assert any("by construction. It shows" in note for note in study.notes)
    kinds = [set(row["ablated"].split()) for row in study.tables["ablations"].rows()]
    assert len(kinds) == 2
    assert not kinds[0] & kinds[1]


def test_an_answer_that_is_carried_is_no_task(tmp_path):
    model = planted_pairs.adding(tmp_path, carried=False)
    study = hs.study("vectors", model=model, n=30, each=1, sources=6, random_vectors=1)
    # Twelve functions of which none is answered may still be one in four, for all layers at once.
    assert claim(study, "single_vector").verdict is UNDETERMINED
    assert claim(study, "task_not_answer").verdict is not SUPPORTED
    needs = [row.what for row in claim(study, "task_not_answer").evidence if row.role == "need"]
    assert needs[1] == "transfer of f(dummy) before layer 2"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [pair_models.of_number_tokens, pair_models.of_text])
def test_random_weights_show_nothing(make, seed, tmp_path):
    study = hs.study("vectors", model=make(tmp_path, seed=seed), seed=seed, force=True, **SMALL)
    judged = [one for one in study.claims if one.name != "does_the_task"]
    assert {one.verdict for one in judged} == {UNDETERMINED}
    assert "whether a vector transfers a task could not be tested" in study.answer[0]
    assert all("Not judged: accuracy with examples minus without" in one.because for one in judged)
    for name, table in study.tables.items():
        assert set(table.describe()[0]) == {"name", "unit", "meaning"}, name


def test_the_command_writes_a_report_and_prints_json(tmp_path):
    pair_models.of_text(tmp_path / "model")
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    where = ["--model", str(tmp_path / "model"), "--out", str(out)]
    given = ["study", "vectors", *where, "--force", "--json", "--quiet", *options]
    result = CliRunner().invoke(main.build("study"), given)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {one["verdict"] for one in told["claims"] if one["name"] != "does_the_task"} == {"undetermined"}
    assert set(told["tables"]) == {
        "does_the_task",
        "baselines",
        "known_and_learnt",
        "task_vectors",
        "task_vector_shares",
        "task_vector_differences",
        "head_effects",
        "induction_scores",
        "function_vectors",
        "function_vector_shares",
        "function_vector_differences",
        "overlap",
        "rank_correlations",
        "whole_answers",  # numbers of several digits
        "ablations",
    }
    page = (out / "report.html").read_text()
    assert "Causal indirect effect of each head" in page


def test_a_model_whose_attention_cannot_be_read_is_not_judged_on_kinds_of_heads(numbers, monkeypatch, tmp_path):
    def unread(*args, **kwargs):
        raise PromptError("cannot read attention.")

    for reads in ("key_attention", "role_attention"):
        monkeypatch.setattr(head_effects, reads, unread)
    study = hs.study("vectors", model=numbers, out=tmp_path / "run", force=True, **SMALL)
    needs = {row.what: row.reason for row in claim(study, "different_heads").evidence}
    assert needs["mean attention of the top induction heads beyond the null"] == "cannot read attention."
    assert "overlap" not in study.tables
    assert [row["group"] for row in study.tables["ablations"].rows()] == ["function-vector heads"]
    assert claim(study, "matter_more").verdict is UNDETERMINED


def test_what_was_chosen_stays_when_the_study_is_quick():
    quick = VectorsConfig(n=30, each=3, sources=6, random_vectors=1)
    assert VectorsConfig(n=30).quick() == quick
    with pytest.raises(BadArgument, match="sources=0"):
        VectorsConfig(sources=0)
    with pytest.raises(BadArgument, match="random_sets=18"):  # no rank among these has p at most .05
        VectorsConfig(random_sets=18)
    names = {field.name for field in dataclasses.fields(VectorsConfig)}
    assert {"each", "sources", "top", "random_vectors", "random_sets", "n", "seed"} <= names


def test_more_top_heads_than_half_of_all_are_refused(numbers):
    with pytest.raises(BadArgument, match="12 heads"):
        hs.study("vectors", model=numbers, top=7, **SMALL)


def test_the_attainable_probability_is_that_of_the_language(numbers, text):
    assert pair_models.LANGUAGE.attainable == pytest.approx(1 - 0.3 + 0.3 / 87)
    assert "is 0.70; accuracy can reach 1" in attainable(numbers)
    assert not attainable(text)
