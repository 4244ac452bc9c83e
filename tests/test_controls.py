"""Random sets beside picked heads: hand arithmetic, exhaustive where few exist, and a p value that holds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch.testing import assert_close

import headscope as hs
from headscope.detectors import default_prompts
from headscope.sweeps import controls, evaluate
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets, random_sets
from headscope.tasks.split import ESTIMATION, SELECTION, halves
from tests import planted

LOSS = hs.measures.loss("predictable")


@pytest.fixture(scope="module")
def model():
    return planted.induction_circuit(copies=2)


@pytest.fixture(scope="module")
def prompts(model):
    return hs.tasks.repeated_tokens(model, length=6, repeats=3, n=8)


def beside(damage, sets, existing=99, match="size"):
    """A picked head 0.0 with these damages per prompt, beside sets of one head with theirs."""
    others = tuple((hs.Head(1, index),) for index in range(len(sets)))
    table = torch.tensor(sets, dtype=torch.float64).reshape(len(sets), len(damage))
    own = torch.tensor(damage, dtype=torch.float64)
    return AgainstRandom((hs.Head(0, 0),), own, others, table, existing, match)


def test_p_and_the_rest_by_hand():
    # Means: the picked set 2; the others 1, 2 (a tie counts) and 4: p = (1 + 2) / (1 + 3).
    found = beside([1.0, 3.0], [[1.0, 1.0], [0.0, 4.0], [4.0, 4.0]])
    assert found.p == 0.75
    assert found.smallest_p == 0.25
    assert found.worst == (hs.Head(1, 2),)
    assert found.means.tolist() == [1.0, 2.0, 4.0]
    assert float(found.estimate.mean) == 2.0
    # Half as far from the mean of the sets, 7/3: 13/6, which only the last one reaches.
    shrunk = replace(found, shrinkage=0.5)
    assert (shrunk.ranked, shrunk.p) == (pytest.approx(13 / 6), 0.5)


def test_what_p_cannot_reach_is_said():
    assert beside([1.0], [[0.0]] * 19).reason == ""
    assert beside([1.0], [[0.0]] * 8).reason == ("only 8 other sets of 1 head were drawn, so p is at least 0.111")
    assert "from the same layers exist" in beside([1.0], [[0.0]] * 3, existing=3, match="layers").reason
    assert beside([1.0], [[0.0]], existing=1).reason == "only 1 other set of 1 head exists, so p is at least 0.500"
    nothing = beside([1.0], [])
    assert (math.isnan(nothing.p), nothing.worst) == (True, ())
    assert nothing.reason == "there is no other set of this size"
    # What is undefined is no small p.
    undefined = beside([1.0, float("nan")], [[0.0, 0.0]] * 30)
    assert math.isnan(undefined.p)
    assert undefined.reason == "the measure is undefined for some prompts"
    assert math.isnan(beside([1.0], [[0.0], [float("nan")]]).p)


def test_every_set_is_cut_as_the_naive_runner_does(model, prompts):
    groups = {"copies": [hs.Head(1, 1), hs.Head(1, 0)], "first": [hs.Head(0, 0)]}
    found = against_random_sets(model, prompts, groups, ablation=hs.zero("z"), measure=LOSS, control=Control(5, 3))
    (clean,) = evaluate(model, prompts, [LOSS])
    for name, heads in groups.items():
        one = found[name]
        assert one.picked == tuple(heads)
        others = {head for group in groups.values() for head in group}
        assert list(one.sets) == random_sets(model.heads, heads, count=5, seed=3, apart_from=others)
        for cut, damage in [(heads, one.damage), *zip(one.sets, one.set_damage, strict=True)]:
            (edited,) = evaluate(model, prompts, [LOSS], [hs.zero(list(cut))])
            assert_close(damage, edited - clean)
    assert found["copies"].existing == 1  # two of four heads are left in their layer
    assert found["first"].p == 1 / 4  # nothing else does the damage of the previous-token head


def test_damage_has_the_sign_of_the_measure(model, prompts):
    logit = hs.measures.next_logit("predictable")
    control, cut = Control(match="size"), hs.zero("z")
    found = against_random_sets(model, prompts, {"a": [hs.Head(1, 0)]}, ablation=cut, measure=logit, control=control)
    found = found["a"]
    assert float(found.damage.mean()) > 1
    assert len(found.sets) == found.existing == 7
    assert found.p == pytest.approx(3 / 8)  # its copy and the previous-token head do as much


def test_sets_from_the_same_layers_are_all_there_are(model, prompts):
    picked = [hs.Head(0, 0), hs.Head(1, 0), hs.Head(1, 1)]
    every = random_sets(model.heads, picked, count=1000)
    assert sorted(every) == [(hs.Head(0, index), hs.Head(1, 2), hs.Head(1, 3)) for index in (1, 2, 3)]
    few = against_random_sets(model, prompts, {"a": picked[:1]}, ablation=hs.zero("z"), measure=LOSS)["a"]
    assert (few.existing, few.match) == (3, "layers")
    assert few.reason == "only 3 other sets of 1 head from the same layers exist, so p is at least 0.250"


@pytest.mark.parametrize("match", ["size", "layers"])
def test_no_set_holds_a_head_under_test(match):
    heads = [hs.Head(layer, index) for layer in range(4) for index in range(8)]
    picked, others = heads[:2] + heads[8:9], heads[2:3] + heads[24:26]
    sets = random_sets(heads, picked, count=100, match=match, apart_from=others)
    assert len({frozenset(chosen) for chosen in sets}) == len(sets) == (100 if match == "size" else 10 * 7)
    assert not {head for chosen in sets for head in chosen} & {*picked, *others}


def test_heads_of_all_groups_are_under_test_and_too_few_others_give_no_set(model, prompts):
    def beside(groups, **more):
        return against_random_sets(model, prompts, groups, ablation=hs.zero("z"), measure=LOSS, **more)

    groups = {"first": model.heads[:3], "copies": model.heads[4:6]}
    found = beside(groups, apart_from=[hs.Head(1, 2)])
    # Of layer 1 one head is left, of layer 0 one too: a pair of any layer, and no three heads.
    assert (found["copies"].match, found["copies"].sets) == ("size", ((hs.Head(0, 3), hs.Head(1, 3)),))
    assert (found["first"].sets, found["first"].existing) == ((), 0)
    assert found["first"].reason == "only 2 heads are not under test"
    assert math.isnan(found["first"].p)
    every = beside({"all": model.heads})["all"]
    assert every.reason == "every head is under test"


@pytest.mark.parametrize("match", ["size", "layers"])
def test_sets_among_very_many_are_different_too(match, monkeypatch):
    heads = [hs.Head(layer, index) for layer in range(8) for index in range(16)]
    picked = [hs.Head(2, 0), hs.Head(2, 1), hs.Head(2, 2), hs.Head(5, 7), hs.Head(5, 8)]
    sets = random_sets(heads, picked, count=200, seed=1, match=match)
    assert len({frozenset(chosen) for chosen in sets}) == len(sets) == 200
    assert all(len(set(chosen)) == 5 for chosen in sets)
    if match == "layers":
        assert all([head.layer for head in chosen] == [2, 2, 2, 5, 5] for chosen in sets)
    assert random_sets(heads, picked, count=200, seed=1, match=match) == sets
    # Drawn rather than listed, and no more than exist: it ends.
    monkeypatch.setattr(controls, "_ENUMERABLE", 1)
    assert len(random_sets(heads[:6], heads[:2], count=50)) == 6


def test_a_set_of_several_groups_runs_once(model, prompts, monkeypatch):
    runs, damages = [], controls.damages

    def counting(model, prompts, cells, measure, **more):
        runs.extend(cells)
        return damages(model, prompts, cells, measure, **more)

    monkeypatch.setattr(controls, "damages", counting)
    groups = {"a": [hs.Head(1, 0)], "b": [hs.Head(1, 1)]}
    told = []
    found = against_random_sets(
        model, prompts, groups, ablation=hs.zero("z"), measure=LOSS, progress=lambda *given: told.append(given)
    )
    assert len(runs) == 4  # each of the four heads of this layer
    assert found["a"].sets == found["b"].sets == ((hs.Head(1, 2),), (hs.Head(1, 3),))
    assert_close(found["a"].set_damage, found["b"].set_damage)
    assert told == [("sets of heads", done, 4) for done in range(5)]


def test_refusals(model, prompts):
    def asked(groups, cut):
        return against_random_sets(model, prompts, groups, ablation=cut, measure=LOSS)

    with pytest.raises(hs.errors.BadArgument, match="names its own target"):
        asked({"a": [hs.Head(1, 0)]}, hs.zero("1.0"))
    with pytest.raises(hs.errors.BadArgument, match="names its own target"):
        asked({"a": [hs.Head(1, 0)]}, hs.zero("resid_pre"))
    with pytest.raises(hs.errors.BadArgument, match="empty set"):
        asked({"a": []}, hs.zero("z"))
    with pytest.raises(hs.errors.BadArgument, match=r"beside 7\.0"):
        asked({"a": [hs.Head(7, 0)]}, hs.zero("z"))
    with pytest.raises(hs.errors.BadArgument, match="0 random sets"):
        random_sets(model.heads, [hs.Head(0, 0)], count=0)


def p_of_sets_picked_for_nothing(sizes, of_each, draw, again=300):
    """p values of as many heads of each layer as `sizes`, where all heads have effects of one distribution."""
    heads = [hs.Head(layer, index) for layer in range(len(sizes)) for index in range(of_each)]
    picked = [head for head in heads if head.index < sizes[head.layer]]
    pools = controls._pools(heads, picked, "layers", ())
    for seed in range(again):
        effect = dict(zip(heads, draw(np.random.default_rng(seed), len(heads)), strict=True))
        sets = random_sets(heads, picked, seed=seed)
        own, others = ([[sum(effect[head] for head in chosen)] for chosen in listed] for listed in ([picked], sets))
        found = AgainstRandom(picked, torch.tensor(own)[0], sets, torch.tensor(others), 99, "layers")
        yield replace(found, shrinkage=pools.shrinkage).p


def test_sets_picked_for_nothing_are_significant_no_more_often_than_stated():
    # Of many heads, of few, and of few in each layer; effects even, and skewed. Single heads exactly so often.
    for draw in (np.random.Generator.normal, np.random.Generator.exponential):
        for sizes, of_each in (([1], 24), ([4], 64), ([4], 16), ([2, 2], 8), ([1, 1, 1, 1], 4)):
            found = p_of_sets_picked_for_nothing(sizes, of_each, lambda rng, count, draw=draw: draw(rng, size=count))
            hits = sum(p <= 0.05 for p in found)
            assert hits <= binom.ppf(0.999, 300, 0.05), (sizes, of_each)
            assert sizes != [1] or hits >= binom.ppf(0.001, 300, 1 / 21)


def test_halves_share_nothing_and_leave_nothing_out():
    model = planted.induction_circuit()
    everything = default_prompts(model, n=11)
    selection, estimation = halves(everything)
    for kind in ("natural", "repeated", "unrepeated"):
        whole, some, others = (getattr(one, kind).tokens for one in (everything, selection, estimation))
        assert set(some) | set(others) == set(whole)
        assert not set(some) & set(others)
        assert (len(some), len(others)) == (6, 5)
    assert (list(range(5))[SELECTION], list(range(5))[ESTIMATION]) == ([0, 2, 4], [1, 3])


def test_the_luck_of_the_largest_is_gone_on_the_other_half():
    # 64 heads that do nothing: the largest mean is far above 0 where it was picked, and 0 where it was not.
    values = np.random.default_rng(0).normal(size=(300, 40, 64))
    picked = values[:, SELECTION].mean(1)
    largest = picked.argmax(1)
    again = values[:, ESTIMATION].mean(1)[np.arange(300), largest]
    assert picked.max(1).mean() > 0.4
    assert abs(again.mean()) < 4 / (20 * 300) ** 0.5
