"""Detectors find what is planted, stay silent on random weights, and agree with hand arithmetic."""

import math
import sys

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import headscope as hs
from headscope.architectures import ToyConfig
from headscope.detectors import NAMED_MARGIN, above_null, default_prompts, detect, detector, head_attention, pairs
from headscope.detectors.copying import COPYING, copying, kinds
from headscope.detectors.detect import DetectorPrompts
from headscope.detectors.scores import ABOVE_NULL, LayerMass, rows_of
from headscope.measures import interval, loss, simultaneous
from headscope.measures.samples import over_heads
from headscope.models.norms import FrozenNorm
from headscope.sweeps import evaluate
from headscope.tasks.repeated import repeated_tokens, without_repeats
from headscope.tasks.vocabulary import ordinary_tokens
from tests import planted, tiny


def test_a_planted_induction_circuit_is_found():
    table = hs.detect(planted.induction_circuit(), n=20)
    scores = {(row["detector"], row["head"]): row for row in table.rows()}
    assert scores["previous_token", "0.0"]["score"] > 0.99
    assert scores["induction", "1.0"]["score"] > 0.99
    named = {place for place, row in scores.items() if row["named"]}
    assert {("previous_token", "0.0"), ("induction", "1.0")} <= named
    # The empty heads attend evenly, so nothing may be named after them.
    assert {head for _, head in named} == {"0.0", "1.0"}


def test_cutting_the_previous_token_head_takes_the_induction_away():
    model = planted.induction_circuit()
    prompts = default_prompts(model, n=20)
    cut = hs.detect(model, ["induction"], prompts=prompts, interventions=[hs.zero("0.0")])
    assert cut.rows(layer=1, head="1.0")[0]["score"] < 0.2
    judged = prompts.repeated
    clean, broken = (
        evaluate(model, judged, [loss("predictable")], edits)[0].mean() for edits in ((), [hs.zero("0.0")])
    )
    assert clean < 0.1
    assert broken > 2.0


def test_prefix_matching_looks_at_what_followed():
    # a b c a b: the second a (query 3) should attend to the first b (key 1), the second b (4) to c (2).
    keys = pairs.prefix_matching(hs.Prompts.of([[7, 8, 9, 7, 8]]))
    assert keys.pairs[0].nonzero().tolist() == [[3, 1], [4, 2]]
    assert keys.queries[0].tolist() == [False, False, False, True, True]


def test_only_later_showings_are_judged_and_gaps_break_fixed_distances():
    model = planted.induction_circuit()
    prompts = repeated_tokens(model, length=6, repeats=3, n=4, gaps=(1, 4))
    keys = pairs.prefix_matching(prompts)
    assert bool((keys.queries == prompts.where("repeated")).all())
    distances = {(q - k) for _, q, k in keys.pairs.nonzero().tolist()}
    assert len(distances) > 3
    for row, marked in enumerate(prompts.roles["predictable"]):
        for position in marked:
            assert prompts.tokens[row][position + 1] in prompts.tokens[row][: position + 1]


def test_lookback_leaves_out_queries_without_such_a_key():
    keys = detector("lookback:3").key_sets(hs.Prompts.of([[5, 5, 5, 5, 5]]))
    assert keys.pairs[0].nonzero().tolist() == [[3, 0], [4, 1]]


def test_scores_and_references_by_hand():
    # Zero weights: attention is even. Prompts of 4 tokens; previous token is judged at queries 2 and 3.
    model = planted.induction_circuit()
    with torch.no_grad():
        for weight in model.hf.parameters():
            weight.zero_()
    prompts = default_prompts(model, n=5)
    short = type(prompts)(hs.Prompts.of([[0, 5, 6, 7]] * 5), prompts.repeated, prompts.unrepeated)
    row = hs.detect(model, ["previous_token"], prompts=short).rows()[0]
    assert row["score"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert row["uniform"] == pytest.approx(row["score"])
    assert row["null"] == pytest.approx(row["score"])
    assert row["lift"] == pytest.approx(1.0)
    assert not row["named"]


def test_the_null_has_the_same_pairs_and_no_repetition():
    model = tiny.opened("llama")
    prompts = repeated_tokens(model, length=10, repeats=3, n=5)
    null = without_repeats(model, prompts)
    assert null.lengths == prompts.lengths
    assert all(len(set(example)) == len(example) for example in null.tokens)


def random_models(seed: int) -> list[hs.Model]:
    """A toy and a llama with the weights that training would start from."""
    torch.manual_seed(seed)
    toy = AutoModelForCausalLM.from_config(ToyConfig(vocab_size=128, n_ctx=128, n_layers=2, n_heads=8))
    llama = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=8,
            bos_token_id=0,
        )
    )
    return [hs.load(toy), hs.load(llama)]


def test_at_most_one_per_cent_of_random_heads_are_named():
    heads, named = 0, []
    for seed in range(20):
        for model in random_models(seed):
            table = hs.detect(model, n=16, seed=seed)
            heads += len(model.heads)
            named += [(seed, row["detector"], row["head"]) for row in table.rows(named=True)]
    assert heads == 640
    assert len({(seed, head) for seed, _, head in named}) <= 0.01 * heads, named


def test_detection_agrees_with_a_direct_computation():
    # The reference reads eager attentions and walks over queries one by one.
    model = tiny.opened("gemma2", seed=3)
    prompts = default_prompts(model, n=6, length=5, repeats=3)
    table = hs.detect(model, ["induction"], prompts=prompts)
    hf = tiny.build("gemma2", seed=3, attention="eager")
    with torch.no_grad():
        attentions = hf(prompts.repeated.ids, output_attentions=True, use_cache=False).attentions
    for layer, pattern in enumerate(attentions):
        for head in range(pattern.shape[1]):
            scores = []
            for row, tokens in enumerate(prompts.repeated.tokens):
                masses = [
                    sum(float(pattern[row, head, q, j + 1]) for j in range(q) if tokens[j] == tokens[q])
                    for q in prompts.repeated.roles["repeated"][row]
                ]
                scores.append(np.mean(masses))
            found = table.rows(head=f"{layer}.{head}")[0]["score"]
            assert found == pytest.approx(np.mean(scores), abs=1e-5)


def test_lookbacks_get_prompts_that_reach_or_are_refused():
    toy = random_models(0)[0]  # a context of 128
    table = hs.detect(toy, ["lookback:100", "induction"], n=16)
    assert all(0 <= row["low"] <= row["high"] <= 1 for row in table.rows())
    assert {row["null_kind"] for row in table.rows(detector="lookback:100")} == {"other keys"}
    assert {row["null_kind"] for row in table.rows(detector="induction")} == {"nothing repeats"}
    with pytest.raises(hs.errors.BadArgument, match=r"context of .* holds 128"):
        hs.detect(toy, "lookback:128")
    with pytest.raises(hs.errors.BadArgument, match="at least 16"):
        hs.detect(toy, n=4)
    with pytest.raises(hs.errors.BadArgument, match="natural prompts have 64"):
        hs.detect(toy, "lookback:100", prompts=default_prompts(toy, n=6))


def test_bounds_stay_within_the_range_of_the_score(monkeypatch):
    ranges = []

    def noting(values, **options):
        ranges.append(options.get("within"))
        return interval(values, **options)

    monkeypatch.setattr(sys.modules["headscope.detectors.scores"], "interval", noting)
    hs.detect(planted.induction_circuit(), "induction", n=16)
    assert ranges == [(0.0, 1.0), (-1.0, 1.0)] * 2


def test_the_heads_of_the_shipped_model_are_named_for_all_heads_at_once():
    table = hs.detect(hs.load("zoo:induction-2l"), ["induction", "previous_token"], n=20)
    named = {(row["detector"], row["head"]) for row in table.rows(named=True)}
    assert {("previous_token", "0.3"), *(("induction", f"1.{head}") for head in range(3))} <= named
    for row in table.rows():
        assert row["named"] == (row["adjusted_low"] > 0.1)
        assert row["adjusted_low"] <= row["score"] - row["null"] + 1e-6
        assert not row["named"] or row["adjusted_p_value"] <= 0.05


def test_a_head_that_only_its_own_bound_would_name_is_not_named():
    # 40 heads above the margin by chance alone: some lower bound of one head exceeds it, the joint one does not.
    generator = torch.Generator().manual_seed(0)
    mass = 0.3 + 0.05 * torch.randn(20, 40, generator=generator)
    layers = {
        layer: LayerMass(mass[:, start : start + 20], torch.full((20, 20), 0.2), torch.full((20,), 0.2))
        for layer, start in ((0, 0), (1, 20))
    }
    rows = rows_of(detector("induction"), layers)
    assert any(row["above_null_low"] > 0.1 for row in rows)
    assert not any(row["named"] for row in rows)
    together = simultaneous(mass.double().numpy() - 0.2, margin=0.1)
    assert [row["adjusted_low"] for row in rows] == pytest.approx(together.at_least.tolist(), abs=1e-6)


def test_a_layer_that_judges_few_prompts_does_not_take_the_others_bounds():
    mass, null, uniform = torch.rand(20, 3), torch.rand(20, 3) / 10, torch.full((20,), 0.1)
    blind, short = null.clone(), null.clone()
    blind[3:] = float("nan")
    short[12:] = float("nan")
    rows = rows_of(
        detector("induction"),
        {0: LayerMass(mass, null, uniform), 1: LayerMass(mass, blind, uniform), 2: LayerMass(mass, short, uniform)},
    )
    assert [row["prompts"] for row in rows[::3]] == [20, 3, 12]
    defined = [row["adjusted_low"] == row["adjusted_low"] for row in rows]
    assert defined == [True] * 3 + [False] * 3 + [True] * 3
    assert rows[3]["reason"].startswith("3 of 20 prompts")
    # On the twelve prompts that layers 0 and 2 both judge.
    joined = torch.cat([mass - null] * 2, dim=1)[:12].double().numpy()
    expected = simultaneous(joined, margin=0.1, within=(-1.0, 1.0)).at_least
    assert [rows[0]["adjusted_low"], rows[6]["adjusted_low"]] == pytest.approx([expected[0], expected[3]])
    few = rows_of(detector("induction"), {0: LayerMass(mass[:9], null[:9], uniform[:9])})
    assert few[0]["low"] > 0
    assert not few[0]["named"]
    assert few[0]["reason"] == "bounds for all heads at once need 10 prompts that every layer judges"


def test_what_has_no_score_has_a_reason():
    model = planted.induction_circuit()
    prompts = default_prompts(model, n=6)
    alone = type(prompts)(hs.Prompts.of([[0]] * 6), prompts.repeated, prompts.unrepeated)
    row = hs.detect(model, "previous_token", prompts=alone).rows()[0]
    assert row["score"] != row["score"]
    assert row["reason"] == "0 of 6 prompts have a query to judge; an interval needs 5"


def test_keys_outside_a_window_are_not_counted_and_said():
    # Windows of 5 in layers 0 and 2 of gemma2: of 19 queries that could look at the first token 4 see it.
    model, shown = tiny.opened("gemma2"), tiny.ids(16, 20)
    prompts = DetectorPrompts(*[hs.Prompts.of(shown)] * 3)
    table = hs.detect(model, ["bos", "lookback:4", "lookback:5"], prompts=prompts)
    patterns = model.run(shown, capture="pattern")
    for layer, seeing in ((0, slice(1, 5)), (1, slice(1, 20))):
        (row,) = table.rows(head=f"{layer}.1", detector="bos")
        assert row["score"] == pytest.approx(float(patterns["pattern", layer][:, 1, seeing, 0].mean()), abs=1e-6)
        assert row["reason"] == ("" if layer else "for 79% of queries all keys lie outside the window of the layer")
    for row in table.rows(detector="lookback:5"):
        assert math.isnan(row["score"]) == (row["layer"] != 1)
        assert ("for 100% of queries all keys lie outside the window" in row["reason"]) == (row["layer"] != 1)
        assert not row["named"] or row["layer"] == 1
    assert not any(math.isnan(row["score"]) for row in table.rows(detector="lookback:4"))


def test_special_tokens_of_any_kind_stay_out_of_random_prompts():
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(1, 21)} | {"<s>": 0}, unk_token="<s>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    reserved = [AddedToken(f"<|reserved_{i}|>", special=True) for i in range(18)]
    tokenizer.add_tokens([*reserved, AddedToken("plain", special=False)])
    model = hs.load(planted.induction_circuit().hf, tokenizer=tokenizer)
    ordinary = [*range(1, 21), 39]
    assert ordinary_tokens(model)[0] == ordinary
    # Segments shrink to what the ordinary tokens allow, of which the null needs as many different ones.
    prompts = default_prompts(model, n=5, text="w1 w2 w3 " * 200)
    assert set(prompts.repeated.ids.flatten().tolist()) <= {0, *ordinary}
    assert prompts.repeated.longest == 1 + 4 * 5


def test_a_text_that_begins_with_bos_gets_no_second_one():
    model = hs.load("zoo:induction-2l")
    assert hs.tasks.text(model, "<bos>ba be").tokens == hs.tasks.text(model, "ba be").tokens
    assert hs.tasks.text(model, "ba be").tokens[0].count(model.bos_token_id) == 1
    with pytest.raises(hs.errors.BadArgument, match="windows of 1 tokens"):
        hs.tasks.windows(model, "ba be bi", length=1)


def test_unknown_detectors_are_named():
    with pytest.raises(hs.errors.UnknownName, match="did you mean 'induction'"):
        hs.detect(planted.induction_circuit(), ["inducton"])
    with pytest.raises(hs.errors.BadArgument, match="lookback:N"):
        detector("lookback:zero")


def test_reading_a_few_rows_at_a_time_changes_nothing():
    model = tiny.opened("llama")
    prompts = default_prompts(model, n=7, length=5, repeats=3)
    whole = hs.detect(model, prompts=prompts)
    model.memory_bytes = 3 * 16 * 4 * 16**2  # three rows of the longest prompts
    assert list(model.batches(7, bytes_each=16 * 4 * 16**2)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    for one, other in zip(whole.rows(), hs.detect(model, prompts=prompts).rows(), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert one["uniform"] == pytest.approx(other["uniform"])
        assert one["null"] == pytest.approx(other["null"], abs=1e-6)


def test_attention_by_prompt_is_what_the_table_bounds():
    model = planted.induction_circuit()
    prompts = default_prompts(model, n=12, length=6, repeats=3)
    attention = head_attention(model, ["induction", "previous_token"], prompts=prompts)
    rows = detect(model, ["induction", "previous_token"], prompts=prompts).rows()
    assert list(attention) == ["induction", "previous_token"]
    for name, layers in attention.items():
        listed = [row for row in rows if row["detector"] == name]
        above = above_null(layers)
        assert above.together(above=NAMED_MARGIN).at_least.tolist() == [row["adjusted_low"] for row in listed]
        assert above.estimate().high.tolist() == [row["above_null_high"] for row in listed]
    assert [cell[1] for cell in above_null(attention["induction"]).named(above=NAMED_MARGIN).cells] == ["1.0"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_signed_raise_agrees_with_a_direct_computation(family):
    # The reference puts one head's output at a time through the final norm's frozen scale and all of the unembedding.
    model = tiny.opened(family, seed=3)
    prompts = repeated_tokens(model, length=5, repeats=3, n=3, gaps=(0, 2))
    raised = copying(model, prompts, pairs.prefix_matching(prompts))
    run = model.run(prompts, capture=["z", "resid_post"])
    unembedding = model.hf.get_output_embeddings().weight.detach()
    for layer, head in [(0, 1), (2, 3)]:
        matrix, after = model.output_matrix(layer), model.anatomy.layers[layer].attention_term
        for row, tokens in enumerate(prompts.tokens):
            found = []
            for query in prompts.roles["repeated"][row]:
                after_copies = {tokens[k + 1] for k in range(query) if tokens[k] == tokens[query]}
                if len(after_copies) > 1:
                    continue
                (target,) = after_copies
                written = run["z", layer][row, query, head] @ matrix[head]
                if not model.anatomy.layers[layer].projection_is_term:  # gemma2 has a norm after its attention
                    whole = run["z", layer][row, query].flatten() @ matrix.flatten(0, 1)
                    written = FrozenNorm.at(after.module, whole)(written)
                final = FrozenNorm.at(model.anatomy.final_norm, run["resid_post", 2][row, query])
                logits = unembedding @ final(written * after.scale)
                others = sorted(set(tokens[: query + 1]) - {target})
                found.append(float(logits[target] - logits[others].mean()))
            assert raised.at(layer=layer, head=f"{layer}.{head}").values[row, 0] == pytest.approx(
                np.mean(found), abs=1e-5
            )


def test_one_pattern_is_three_kinds_by_what_is_written():
    # Three heads attend alike; the second writes the negative, the third next to nothing. What they write differs
    # from token to token, so that no bound is that of a constant.
    model = planted.induction_circuit(writes=[1.0, -1.0, 0.001], uneven=0.3)
    rows = {row["head"]: row for row in hs.detect(model, "induction", n=16).rows(layer=1)}
    assert [rows[f"1.{head}"]["named"] for head in range(4)] == [True, True, True, False]
    assert [rows[f"1.{head}"]["kind"] for head in range(4)] == ["induction", "anti-induction", "pattern only", ""]
    assert rows["1.0"]["copying"] == pytest.approx(-rows["1.1"]["copying"], rel=0.2)
    assert rows["1.0"]["copying_low"] > 5


def test_a_head_that_raises_all_tokens_of_the_prompt_alike_copies_nothing():
    model = planted.induction_circuit(writes=[1.0])
    with torch.no_grad():
        model.hf.lm_head.weight[:] = model.hf.lm_head.weight.mean(0)
    prompts = repeated_tokens(model, length=5, repeats=3, n=3)
    raised = copying(model, prompts, pairs.prefix_matching(prompts))
    assert np.abs(raised.values).max() < 1e-4


def test_the_sign_needs_bounds_on_one_side():
    noise = np.random.default_rng(0).normal(size=(24, 4))
    heads = [hs.Head(0, head) for head in range(4)]
    above = over_heads(ABOVE_NULL, heads, 0.5 + 0.01 * noise)
    raised = over_heads(COPYING, heads, np.array([1.0, -1.0, 0.0, 0.12]) + 0.05 * (noise - noise.mean(0)))
    assert list(kinds(above, raised).values()) == ["induction", "anti-induction", "pattern only", "sign unclear"]
    assert set(kinds(above, None).values()) == {"sign unclear"}
