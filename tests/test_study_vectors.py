"""The vectors study: what it must find in a planted circuit, nothing in random weights, and its parts by hand."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import headscope as hs
from headscope.cli import main
from headscope.errors import BadArgument
from headscope.results.study import Verdict
from headscope.studies import vectors
from headscope.studies.pairs import PairsConfig
from headscope.studies.sites import at_readout
from headscope.studies.vectors_parts import claims as vectors_claims
from headscope.studies.vectors_parts import notes as vectors_notes
from headscope.studies.vectors_parts import tables
from headscope.studies.vectors_parts.heads import example_to_example, indirect_effects, overlap
from headscope.studies.vectors_parts.problems import halves_of_functions
from headscope.studies.vectors_parts.reach import (
    OWN,
    TASK,
    best_layer,
    mean_heads,
    questions,
    reached,
    task_vectors,
)
from headscope.studies.vectors_parts.values import (
    head_outputs,
    means_by,
    plain_outcomes,
    random_like,
    through_output,
    unpacked,
    whole_answer,
)
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import cell_values
from headscope.tasks import linear
from headscope.vocabulary import Head
from tests import pair_models, planted_pairs

SMALL = {"n": 15, "each": 3, "sources": 3, "random_vectors": 1, "random_sets": 3}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> hs.Study:
    model = planted_pairs.adding(tmp_path_factory.mktemp("planted"))
    return hs.study("vectors", model=model, n=30, sources=6, random_vectors=2, random_sets=11)


def halves(model: hs.Model, **settings):
    return halves_of_functions(PairsConfig(n=15, **settings), model, each=3, sources=3)


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
        ({"a": "1..1", "b": "0..7"}, "at least 5"),
        ({"shots": 1}, "2 shots"),
        ({"inputs": "0..15"}, "2 inputs more"),
        ({"family": "threshold", "a": "12..19", "b": "1..1"}, "another function|at least 5"),
    ],
)
def test_problems_that_cannot_be_drawn_are_refused(numbers, settings, match):
    with pytest.raises(BadArgument, match=match):
        halves(numbers, **settings)


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
    half = halves(model)[1]
    prompts = linear(model, half.few)
    found = plain_outcomes(model, prompts)
    for row, (tokens, answer) in enumerate(zip(prompts.tokens, prompts.answer_tokens, strict=True)):
        with torch.no_grad():
            logits = model.hf(torch.tensor([tokens + answer])).logits[0, len(tokens) - 1 : -1]
        probability = logits.softmax(-1)[range(len(answer)), list(answer)].prod()
        assert float(found[1, row]) == pytest.approx(float(probability), abs=1e-6)
        assert bool(found[0, row]) == (logits.argmax(-1).tolist() == list(answer))


# What vectors are made of.


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_values_at_the_readout_are_those_of_each_prompts_last_token(kind, request):
    model = request.getfixturevalue(kind)
    prompts = linear(model, halves(model)[0].few)
    found = at_readout(model, prompts, [("resid_pre", 1), ("z", 2)])
    run = model.run(prompts, capture=[("resid_pre", 1), ("z", 2)])
    for row, length in enumerate(prompts.lengths):
        assert torch.allclose(found["resid_pre", 1][row], run["resid_pre", 1][row, length - 1], atol=1e-5)
        assert torch.allclose(found["z", 2][row], run["z", 2][row, length - 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_a_function_vector_is_the_sum_of_captured_head_outputs(kind, request):
    model = request.getfixturevalue(kind)
    half, heads = halves(model)[0], [Head(0, 1), Head(2, 0), Head(2, 3)]
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
    drawn = random_like(given, 1)
    assert torch.allclose(drawn.norm(dim=1), torch.tensor([5.0, 2.0]))
    assert not torch.equal(drawn, random_like(given, 2))


# Values written out.


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_given_values_are_put_where_a_patch_puts_them(kind, request):
    model = request.getfixturevalue(kind)
    half = halves(model)[0]
    source, target = linear(model, half.few), linear(model, half.zero)
    run = model.run(source, capture=[("resid_pre", 1), ("z", 2)])
    last = torch.arange(len(source)), torch.tensor(source.lengths) - 1
    for site, patched, values in (
        (
            ("resid_pre", 1),
            hs.patch(("resid_pre", 1), source=run, positions={-1: -1}),
            run["resid_pre", 1][last],
        ),
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
            hs.measures.probability()(model.run(target, interventions=c.interventions).logits, target)
            for c in cells
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
def test_a_task_vector_is_the_stream_of_the_dummy_prompt(kind, request):
    model, layer = request.getfixturevalue(kind), 2
    half = halves(model)[1]
    asked = questions(model, half)
    found = reached(model, {OWN: asked[OWN]}, {TASK: task_vectors(model, half)[TASK]}, {}, added=False)
    block = model.hf.model.layers[layer]
    dummies, bare = linear(model, half.dummy), linear(model, half.zero)
    for row in range(0, len(half), 4):
        target, answer = bare.tokens[row], bare.answer_tokens[row]
        taken = entering(model, block, dummies.tokens[row])
        expected = probability_with(model, block, taken, target, answer)
        assert float(found.under[TASK, OWN][1, layer, row]) == pytest.approx(expected, abs=1e-6)


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
    half = halves(model)[1]
    found = indirect_effects(model, half, mean_heads(model, half))[model.heads.index(head)]
    projection, size = model.anatomy.layers[head.layer].projection, 8
    own = slice(head.index * size, (head.index + 1) * size)
    sources, shuffled = linear(model, half.sources), linear(model, half.shuffled)
    row = 7
    mine = [place for place, of in enumerate(half.source_function) if of == half.function[row]]
    clean = torch.stack([entering(model, projection, sources.tokens[place])[own] for place in mine])
    tokens, answer = shuffled.tokens[row], shuffled.answer_tokens[row]
    before = probability_with(model, projection, entering(model, projection, tokens), tokens, answer)
    after = probability_with(model, projection, clean.mean(0), tokens, answer, own)
    assert len(clean) == 3
    assert float(found[row]) == pytest.approx(after - before, abs=1e-6)


# Heads side by side.


def test_example_to_example_keys_are_the_earlier_y(numbers):
    prompts = linear(numbers, halves(numbers, shots=3)[0].few)
    # bos x , y ; x , y ; x , y ; x ,   the y stand at 3, 7, 11; they are predicted at 2, 6, 10; the read-out is 14.
    keys = example_to_example(prompts)
    found = {
        query: keys.pairs[0, query].nonzero().flatten().tolist()
        for query in keys.queries[0].nonzero().flatten().tolist()
    }
    assert found == {6: [3], 10: [3, 7], 14: [3, 7, 11]}


def test_the_same_ranking_overlaps_wholly_and_the_opposite_not_at_all():
    heads = [Head(0, index) for index in range(8)]
    effects = np.arange(8.0)[None] + np.random.default_rng(0).normal(0, 0.01, (20, 8))
    top, bottom = heads[:-3:-1], heads[:2]
    same = overlap(effects, effects + 5, (top, top), seed=0)
    assert (same.common, same.expected, same.share_low, same.share_high) == (2, 0.5, 1.0, 1.0)
    assert same.rho == pytest.approx(1)
    assert same.p_at_least == pytest.approx(1 / 28)  # one pair of 8 over 2
    assert same.p < 0.01
    opposite = overlap(effects, -effects, (top, bottom), seed=0)
    assert (opposite.common, opposite.share_high, opposite.p_at_least) == (0, 0.0, pytest.approx(1))
    assert opposite.rho == pytest.approx(-1)
    assert opposite.p_at_most == pytest.approx(15 / 28)  # 6 over 2, of 8 over 2


def test_the_chosen_layer_is_the_most_accurate_and_then_the_most_probable():
    outcome = torch.tensor([[[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [[0.9, 0.9], [0.5, 0.5], [0.6, 0.6]]])
    assert best_layer(outcome) == 2


# The rules of the claims.


@pytest.fixture
def found(planted) -> dict:
    return dict(planted.tables)


def with_comparison(found: dict, name: str, **columns: float) -> dict:
    """The same tables with other numbers in one comparison."""
    rows = [{**row, **(columns if row["comparison"] == name else {})} for row in found["comparisons"].rows()]
    return {**found, "comparisons": tables.COMPARISONS.table(rows)}


def verdicts(found: dict) -> Iterator[tuple[str, Verdict]]:
    return ((one.name, one.verdict) for one in vectors_claims.all_claims(found, 3))


@pytest.mark.parametrize(
    ("comparison", "name"),
    [
        (tables.BEYOND_SHUFFLED, "single_vector"),
        (tables.TASK_SHARE, "single_vector"),
        (f"{tables.FUNCTION_SHARE} (zero-shot)", "few_heads"),
        (f"{tables.beyond('random heads')} (zero-shot)", "few_heads"),
        (f"{tables.beyond('other function vector')} (zero-shot)", "few_heads"),
        (tables.NOT_COPIED, "task_not_answer"),
        (tables.FOLLOWS_OTHER, "task_not_answer"),
    ],
)
def test_a_claim_falls_with_each_comparison_that_it_needs(found, comparison, name):
    assert dict(verdicts(found))[name] is Verdict.SUPPORTED
    assert dict(verdicts(with_comparison(found, comparison, low=-0.1, high=0.05)))[name] is Verdict.REFUTED
    assert (
        dict(verdicts(with_comparison(found, comparison, low=-0.1, high=0.9)))[name] is Verdict.UNDETERMINED
    )


def test_nothing_is_judged_where_pairs_do_not_help(found):
    rows = [{**row, "low": 0.0, "high": 0.05} for row in found["baselines"].rows()]
    judged = dict(verdicts({**found, "baselines": tables.BASELINES.table(rows)}))
    assert set(judged.values()) == {Verdict.UNDETERMINED}


def test_the_rules_of_the_claims_about_two_kinds_of_heads(found):
    heads = [
        {**row, "picked": kind, "low": 0.1, "example_to_example_named": True}
        for row, kind in zip(
            found["head_effects"].rows(), ["function-vector", "induction"] + [""] * 10, strict=True
        )
    ]
    common = [{**row, "share_low": 0.0, "share_high": 0.25} for row in found["overlap"].rows()]
    group = {"heads": "0.0", "size": 1, "damage": 0.5, "low": 0.4, "high": 0.6, "beyond_random": 0.3}
    group |= {"beyond_low": 0.2, "beyond_high": 0.4, "random_mean": 0.2, "random_max": 0.3, "random_sets": 11}
    group |= {"p": 0.1, "probability_damage": 0.3, "functions": 6}
    cut = tables.ABLATIONS.table(
        [{"group": name, **group} for name in ("function-vector heads", "induction heads")]
    )
    more = {
        "comparison": tables.MATTER_MORE,
        "layer": None,
        "picked": True,
        "difference": 0.3,
        "low": 0.2,
        "high": 0.4,
    }
    comparisons = tables.COMPARISONS.table([*found["comparisons"].rows(), {**more, "functions": 6}])
    made = {
        **found,
        "head_effects": tables.HEADS.table(heads),
        "overlap": tables.OVERLAP.table(common),
        "ablations": cut,
        "comparisons": comparisons,
    }
    judged = dict(verdicts(made))
    assert judged["different_heads"] is judged["matter_more"] is Verdict.SUPPORTED
    less = dict(verdicts(with_comparison(made, tables.MATTER_MORE, low=-0.1, high=0.04)))
    assert less["matter_more"] is Verdict.REFUTED
    shared = tables.OVERLAP.table({**row, "share_low": 0.75, "share_high": 1.0} for row in common)
    assert dict(verdicts({**made, "overlap": shared}))["different_heads"] is Verdict.REFUTED
    for column, value in (("low", -0.1), ("example_to_example_named", False)):
        unsure = tables.HEADS.table({**row, column: value} for row in heads)
        judged = dict(verdicts({**made, "head_effects": unsure}))
        assert judged["different_heads"] is judged["matter_more"] is Verdict.UNDETERMINED


# The whole.


def test_a_planted_task_is_found_with_its_head(planted):
    expected = {
        "single_vector": Verdict.SUPPORTED,
        "few_heads": Verdict.SUPPORTED,
        "task_not_answer": Verdict.SUPPORTED,
        "different_heads": Verdict.REFUTED,  # one head carries the task, and it looks up the y
        "matter_more": Verdict.UNDETERMINED,
    }
    assert {one.name: one.verdict for one in planted.claims} == expected
    picked = [row for row in planted.tables["head_effects"].rows() if row["picked"]]
    assert [(row["layer"], row["head"]) for row in picked] == [(1, 0)]
    assert picked[0]["picked"] == "function-vector and induction"
    assert picked[0]["example_to_example"] == pytest.approx(1, abs=1e-3)
    assert picked[0]["indirect_effect"] > 0.5
    here = {"half": "estimation", "vector": TASK, "answer": OWN}
    by_layer = {row["layer"]: row["accuracy"] for row in planted.tables["task_vectors"].rows(**here)}
    # The task is written in layer 1 and used in layer 2.
    assert max(by_layer[0], by_layer[1]) < 0.2 < by_layer[2] == 1
    assert len(planted.tables["ablations"]) == 0  # no head of one kind is not of the other
    assert planted.tables["baselines"].rows(prompts_kind="few-shot")[0]["accuracy"] == 1


def test_a_shipped_model_that_was_taught_to_carry_the_function_carries_it():
    study = hs.study("vectors", model="zoo:linear-8l", quick=True)
    assert claim(study, "single_vector").verdict is Verdict.SUPPORTED
    assert claim(study, "task_not_answer").verdict is Verdict.SUPPORTED
    here = {"half": "estimation", "vector": TASK, "answer": OWN}
    by_layer = {row["layer"]: row["accuracy"] for row in study.tables["task_vectors"].rows(**here)}
    assert min(by_layer[4], by_layer[5]) > 0.7
    assert any("by construction. It shows" in note for note in study.notes)


def test_an_answer_that_is_carried_is_no_task(tmp_path):
    model = planted_pairs.adding(tmp_path, carried=False)
    study = hs.study("vectors", model=model, n=30, sources=6, random_vectors=1, random_sets=3)
    assert claim(study, "single_vector").verdict is Verdict.REFUTED
    assert claim(study, "task_not_answer").verdict is Verdict.REFUTED
    assert "the answer is carried" in claim(study, "task_not_answer").because


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [pair_models.of_number_tokens, pair_models.of_text])
def test_random_weights_show_nothing(make, seed, tmp_path):
    study = hs.study("vectors", model=make(tmp_path, seed=seed), seed=seed, **SMALL)
    assert {one.verdict for one in study.claims} == {Verdict.UNDETERMINED}
    assert "nothing was to be found" in study.answer[1]
    kinds = [set(row["heads"].split()) for row in study.tables["ablations"].rows()]
    assert len(kinds) < 2 or not kinds[0] & kinds[1]
    for name, table in study.tables.items():
        assert set(table.describe()[0]) == {"name", "unit", "meaning"}, name


def test_the_command_writes_a_report_and_prints_json(tmp_path):
    pair_models.of_text(tmp_path / "model")
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    where = ["--model", str(tmp_path / "model"), "--out", str(out)]
    result = CliRunner().invoke(
        main.build("study"), ["study", "vectors", *where, "--json", "--quiet", *options]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {one["verdict"] for one in told["claims"]} == {"undetermined"}
    assert set(told["tables"]) == {
        "baselines",
        "task_vectors",
        "head_effects",
        "function_vectors",
        "overlap",
        "ablations",
        "comparisons",
    }
    page = (out / "report.html").read_text()
    assert "Causal indirect effect of each head" in page
    assert "No noise is known of" in page


def test_what_was_chosen_stays_when_the_study_is_quick():
    assert vectors.Config(n=30).quick() == vectors.Config(n=30, sources=6, random_vectors=1, random_sets=6)
    with pytest.raises(BadArgument, match="sources=0"):
        vectors.Config(sources=0)
    names = {field.name for field in dataclasses.fields(vectors.Config)}
    assert {"each", "sources", "top", "random_vectors", "random_sets", "n", "seed"} <= names


def test_more_top_heads_than_half_of_all_are_refused(numbers):
    with pytest.raises(BadArgument, match="12 heads"):
        hs.study("vectors", model=numbers, top=7, **SMALL)


def test_the_attainable_probability_is_that_of_the_language(numbers):
    assert "1 - 0.3 + 0.3 / 87 = 0.70" in vectors_notes.attainable(numbers)
