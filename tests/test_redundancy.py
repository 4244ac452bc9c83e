"""Who takes over, on circuits planted by hand: each statistic finds what is there, and nothing in inert heads."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import headscope as hs
from headscope.measures.coalitions import Game
from headscope.measures.shapley import sampled
from headscope.sweeps.redundancy import Options, head_game, head_redundancy, redundancy_of, sets_at_most
from headscope.sweeps.self_repair import compensation, direct_effects
from tests import planted_logic as planted
from tests import tiny
from tests.planted import induction_circuit

FULL = planted.LOGITS
OPTIONS = Options(measure=planted.MEASURE)


def effects_of(found, effect):
    return {row["head"]: row["logit_damage"] for row in found.effects.rows(effect=effect)}


def check(found, *, first, last, shapley, together):
    """Effects and interactions in units of the whole answer; heads and pairs that are not named have 0."""
    for effect, expected in (("ablated first", first), ("ablated last", last), ("Shapley", shapley)):
        got = effects_of(found, effect)
        assert got == pytest.approx({head: FULL * expected.get(head, 0) for head in got}, abs=1e-5), effect
    got = {(row["first"], row["second"]): row["interaction"] for row in found.interactions.rows()}
    assert got == pytest.approx({pair: FULL * together.get(pair, 0) for pair in got}, abs=1e-5)


def sets_of(found):
    return {row["kind"]: row["heads"] for row in found.sets.rows()}


def test_two_copies_are_seen_as_a_pair():
    model = planted.copies(2)
    found = head_redundancy(model, planted.prompts(), model.heads, OPTIONS)
    half = {"0.0": 0.5, "0.1": 0.5}
    check(found, first={}, last={"0.0": 1, "0.1": 1}, shapley=half, together={("0.0", "0.1"): 1})
    assert sets_of(found) == {"necessary": "0.0 0.1", "sufficient": "0.0"}


def test_three_copies_have_no_interaction_and_are_found_all_the_same():
    model = planted.copies(3)
    found = head_redundancy(model, planted.prompts(), model.heads, OPTIONS)
    copies = ("0.0", "0.1", "0.2")
    check(found, first={}, last=dict.fromkeys(copies, 1), shapley=dict.fromkeys(copies, 1 / 3), together={})
    assert sets_of(found) == {"necessary": "0.0 0.1 0.2", "sufficient": "0.0"}
    (blind,) = found.steps.rows(kind="necessary", search="growing", step=1)
    assert (blind["tied"], blind["reached"]) == (5, 0)  # which head comes first says nothing
    (any_of_three,) = found.steps.rows(kind="sufficient", search="growing", step=1)
    assert any_of_three["tied"] == 3


def test_inert_heads_named_first_are_in_no_set():
    found = head_redundancy(planted.copies(3), planted.prompts(), "0.4,0.3,0.2,0.1,0.0", OPTIONS)
    assert sets_of(found) == {"necessary": "0.2 0.1 0.0", "sufficient": "0.2"}


def test_either_of_two_different_heads_is_enough():
    model = planted.either()
    found = head_redundancy(model, planted.prompts(), model.heads, OPTIONS)
    half = {"0.0": 0.5, "0.1": 0.5}
    check(found, first={}, last={"0.0": 1, "0.1": 1}, shapley=half, together={("0.0", "0.1"): 1})
    assert sets_of(found) == {"necessary": "0.0 0.1", "sufficient": "0.0"}
    # Where the cue stands only once, the second head has nothing to say and the first is all.
    once = head_redundancy(model, planted.prompts(second=False), model.heads, OPTIONS)
    check(once, first={"0.0": 1}, last={"0.0": 1}, shapley={"0.0": 1}, together={})
    assert sets_of(once) == {"necessary": "0.0", "sufficient": "0.0"}


def test_both_of_two_heads_are_needed():
    model = planted.both()
    found = head_redundancy(model, planted.prompts(), model.heads, OPTIONS)
    half = {"0.0": 0.5, "0.1": 0.5}
    check(found, first={"0.0": 1, "0.1": 1}, last={}, shapley=half, together={("0.0", "0.1"): -1})
    assert sets_of(found) == {"necessary": "0.0", "sufficient": "0.0 0.1"}


def test_an_eraser_has_a_negative_share():
    # Clean: a half. Without the eraser all, without the writer nothing, with or without the eraser.
    model = planted.erased()
    found = head_redundancy(model, planted.prompts(), model.heads, OPTIONS)
    check(
        found,
        first={"0.0": 0.5, "1.0": -0.5},
        last={"0.0": 1},
        shapley={"0.0": 0.75, "1.0": -0.25},
        together={("0.0", "1.0"): 0.5},
    )
    assert sets_of(found) == {"necessary": "0.0", "sufficient": "0.0"}
    # The writer alone restores more than the clean model has.
    (row,) = found.sets.rows(kind="sufficient")
    assert (row["reached"], row["everything"]) == pytest.approx((FULL, 0.5 * FULL))


def test_a_backup_looks_idle_until_its_head_is_cut():
    # It makes up for 0.7: cutting the head costs 0.3, the backup nothing, both together all.
    model = planted.backed_up()
    found = head_redundancy(model, planted.prompts(), model.heads, OPTIONS)
    check(
        found,
        first={"0.0": 0.3},
        last={"0.0": 1, "1.0": 0.7},
        shapley={"0.0": 0.65, "1.0": 0.35},
        together={("0.0", "1.0"): 0.7},
    )
    assert sets_of(found) == {"necessary": "0.0 1.0", "sufficient": "0.0"}
    # Among the heads that are considered, nothing stands in for the first: backups outside are never seen.
    without = head_redundancy(model, planted.prompts(), ["0.0", "0.1"], OPTIONS)
    assert effects_of(without, "ablated last")["0.0"] == pytest.approx(0.3 * FULL)


def test_only_a_backup_writes_more_when_a_head_is_cut():
    # Logits are taken above the mean of 16 tokens: what writes x to one of them has the direct effect 15/16 x.
    shown, own = planted.prompts(), FULL * 15 / 16

    def follow(model):
        followed = direct_effects(model, shown, planted.QUERY, ablations=[hs.zero("0.0")])
        return (followed.clean, followed.ablated[0], compensation(model, followed.clean, followed.ablated[0], 0))

    model = planted.backed_up()
    clean, cut, made_up = follow(model)
    backup = hs.Head(1, 0)
    assert_allclose(clean.of(hs.Head(0, 0)), own, atol=1e-5)
    assert_allclose(clean.of(backup), 0, atol=1e-5)
    assert_allclose(cut.of(backup), 0.7 * own, atol=1e-5)
    assert_allclose(made_up, 0.7 * own, atol=1e-5)
    for inert in (hs.Head(1, 1), hs.Head(1, 2)):
        assert_allclose(cut.of(inert), 0, atol=1e-5)
    # A copy leaves the MLP as it was; a half of an AND takes all of the MLP with it; an eraser erases less.
    assert_allclose(follow(planted.copies(2))[2], 0, atol=1e-5)
    assert_allclose(follow(planted.both())[2], -own, atol=1e-5)
    assert_allclose(follow(planted.erased())[2], 0.5 * own, atol=1e-5)


def test_heads_that_share_the_work_do_not_stand_in_for_each_other():
    # Two induction heads write a half each, so their cuts add up; both need the previous-token head 0.0.
    model = induction_circuit(copies=2)
    prompts = hs.tasks.repeated_tokens(model, length=6, repeats=3, n=12)
    options = Options(measure=hs.measures.next_logit("predictable"))
    found = head_redundancy(model, prompts, ["0.0", "1.0", "1.1", "1.2"], options)
    first, last = effects_of(found, "ablated first"), effects_of(found, "ablated last")
    half = first["1.0"]
    assert half > 3
    assert first == pytest.approx({"0.0": first["0.0"], "1.0": half, "1.1": half, "1.2": 0}, abs=1e-4)
    together = {(row["first"], row["second"]): row["interaction"] for row in found.interactions.rows()}
    assert together[("1.0", "1.1")] == pytest.approx(0, abs=1e-4)
    assert together[("0.0", "1.0")] == pytest.approx(together[("0.0", "1.1")], abs=1e-4)
    assert together[("0.0", "1.0")] < -3
    assert sets_of(found)["necessary"] == "0.0"
    assert sets_of(found)["sufficient"] == "0.0 1.0 1.1"
    assert last["1.2"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_game_on_a_real_family_is_what_running_it_says(family):
    model = tiny.opened(family)
    prompts = hs.Prompts(
        tuple(map(tuple, tiny.ids(10, 6).tolist())), answers=tuple(range(1, 11)), foils=tuple(range(11, 21))
    )
    heads = ["0.1", "1.0", "1.3", "2.2"]
    reference = hs.Prompts.of(tiny.ids(4, 6, seed=5))
    options = Options(ablation=hs.mean("z", over=reference))
    measure = hs.measures.logit_difference()

    def run(cut):
        edits = [hs.mean(cut, over=reference)] if cut else []
        return measure(model.run(prompts, interventions=edits).logits, prompts).double().numpy()

    game = head_game(model, prompts, heads, options)
    for cut in (["0.1"], ["1.0", "1.3"], ["0.1", "1.3", "2.2"]):
        assert_allclose(game(map(hs.Head.parse, cut)), run([]) - run(cut), atol=1e-5)
    found = head_redundancy(model, prompts, heads, options)
    everything = run([]) - run(heads)
    assert sum(effects_of(found, "Shapley").values()) == pytest.approx(everything.mean(), abs=1e-5)
    (pair,) = found.interactions.rows(first="1.0", second="1.3")
    expected = run([]) - run(["1.0", "1.3"]) - (run([]) - run(["1.0"])) - (run([]) - run(["1.3"]))
    assert pair["interaction"] == pytest.approx(expected.mean(), abs=1e-5)
    assert (len(found.interactions), len(found.effects), len(found.sets)) == (6, 12, 2)
    assert found.sets_ablated == 15
    assert_allclose(sampled(game, orders=6, seed=1).values.sum(1), everything, atol=1e-5)


def test_one_head_is_its_own_first_and_last_cut_and_its_own_set():
    found = head_redundancy(planted.backed_up(), planted.prompts(), "0.0", OPTIONS)
    assert len(found.interactions) == 0
    assert [row["logit_damage"] for row in found.effects.rows()] == pytest.approx([0.3 * FULL] * 3)
    assert sets_of(found) == {"necessary": "0.0", "sufficient": "0.0"}
    assert (found.sets_ablated, sets_at_most(1, 100)) == (1, 1)


def test_heads_that_do_nothing_leave_a_reason():
    found = head_redundancy(planted.copies(2), planted.prompts(), ["0.2", "0.3"], OPTIONS)
    for row in found.sets.rows():
        assert (row["heads"], row["size"]) == ("", None)
        assert "no clear damage" in row["reason"]
    assert len(found.steps) == 0
    few = head_redundancy(planted.copies(2), planted.prompts(8), ["0.0", "0.1"], OPTIONS)
    assert {row["reason"] for row in few.sets.rows()} == {"4 prompts to select on are too few: at least 5 are needed"}
    nine = head_redundancy(planted.copies(2), planted.prompts(9), ["0.0", "0.1"], OPTIONS)
    (row, _) = nine.sets.rows()
    assert (row["heads"], row["prompts"]) == ("0.0 0.1", 4)
    assert np.isnan(row["low"])
    assert row["reason"] == "4 prompts to estimate on are too few for an interval"


def test_sets_are_chosen_on_even_prompts_and_judged_on_odd_ones():
    # "a" is all there is on prompts 0, 2, ..., "b" on the others.
    even, size = np.arange(14) % 2 == 0, 1 + np.arange(14) // 2 / 100
    game = Game.of("ab", lambda cut: np.where(even, "a" in cut, "b" in cut) * size, prompts=14)
    found = redundancy_of(game, OPTIONS)
    assert sets_of(found) == {"necessary": "a", "sufficient": "a"}
    for row in found.sets.rows():
        assert (row["reached"], row["everything"], row["prompts"]) == (0, pytest.approx(1.03), 7)
        assert row["excess_logits"] == pytest.approx(-0.9 * 1.03)
        assert row["low"] < row["excess_logits"] < row["high"] < -0.9
    assert [row["reached"] for row in found.steps.rows(search="growing")] == [0, 0]


def test_progress_ends_within_what_was_announced():
    model, seen = planted.copies(3), []
    heads = [str(head) for head in model.heads]
    found = head_redundancy(model, planted.prompts(), heads, OPTIONS, progress=lambda *at: seen.append(at))
    assert list(dict.fromkeys(seen)) == [("sets of heads", done, 31) for done in range(32)]
    assert found.sets_ablated == 31


@pytest.mark.parametrize("seed", range(4))
def test_no_game_takes_more_sets_than_announced(seed):
    # Short of all 14 players no set breaks or restores much, so that growing goes all the way in both kinds.
    rng, drawn = np.random.default_rng(seed), {}

    def damage(cut):
        return np.full(10, drawn.setdefault(cut, float(rng.integers(1, 3))) + 3 * (len(cut) == 14))

    game = Game.of(range(14), damage, prompts=10)
    found = redundancy_of(game, Options(orders=6))
    assert [row["grown_size"] for row in found.sets.rows()] == [14, 14]
    assert 300 < found.sets_ablated <= sets_at_most(14, 6) == 91 + 79 + 630


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "cannot study sets of no players: name at least one head."),
        (["0.0", "0.1", "0.0"], "0.0 stands twice"),
        (["0.0", "7.0"], "there is no layer 7"),
        (["0.0", "0.9"], "there is no head 0.9"),
    ],
)
def test_heads_that_make_no_game_are_refused_in_a_sentence(heads, message):
    with pytest.raises(hs.errors.HeadscopeError, match=message) as refused:
        head_redundancy(planted.copies(2), planted.prompts(), heads, OPTIONS)
    assert "\n" not in str(refused.value)


def test_questions_that_have_no_honest_answer_are_refused():
    model, prompts = planted.copies(3), planted.prompts()
    with pytest.raises(hs.errors.BadArgument, match="levels off where the model is sure"):
        Options(measure=hs.measures.loss())
    with pytest.raises(hs.errors.BadArgument, match="a head is its slice of 'z', not of 'attn_out'"):
        Options(ablation=hs.zero("attn_out"))
    with pytest.raises(hs.errors.BadArgument, match="above 0 and up to 1"):
        Options(share=2.0)
    with pytest.raises(hs.errors.BadArgument, match="cannot draw 5 orders"):
        Options(orders=5)
    with pytest.raises(hs.errors.BadArgument, match=r"5 heads within 30 sets: it may take 31\. Give fewer"):
        head_redundancy(model, prompts, model.heads, Options(measure=planted.MEASURE, most_sets=30))
    with pytest.raises(hs.errors.BadArgument, match="on one prompt"):
        head_redundancy(model, prompts.rows([0]), model.heads, OPTIONS)
