"""Games against hand arithmetic and brute force: all orders for Shapley values, all subsets for smallest sets."""

from itertools import chain, combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import headscope as hs
from headscope.measures.coalitions import Game, ablated_first, ablated_last, interactions
from headscope.measures.shapley import exact, sampled, shapley
from headscope.measures.smallest_sets import smallest_necessary, smallest_sufficient

PROMPTS = 6
seeds = st.integers(0, 10**6)
counts = st.integers(1, 5)
few = settings(max_examples=25, deadline=None)


def subsets(players):
    return [frozenset(s) for s in chain(*(combinations(players, k) for k in range(len(players) + 1)))]


def random_game(seed, count, *, rising=0.3):
    """Any damage for any set, `rising` per player on average so that cutting all does some."""
    rng, players = np.random.default_rng(seed), tuple(range(count))
    table = {cut: rising * len(cut) + rng.normal(size=PROMPTS) * 0.3 for cut in subsets(players)}
    return Game.of(players, table.__getitem__, prompts=PROMPTS)


def logical(players, rule, *, prompts=PROMPTS):
    """A game that does a damage of 1 to every prompt if the rule holds of the cut set."""
    return Game.of(players, lambda cut: np.full(prompts, float(rule(cut))), prompts=prompts)


def additive(parts):
    return Game.of(parts, lambda cut: np.full(PROMPTS, sum(parts[p] for p in cut)), prompts=PROMPTS)


# Game


def test_no_set_is_asked_for_twice_and_the_empty_one_never():
    asked, seen = [], []

    def damages(cuts):
        asked.append(list(cuts))
        return (np.full(2, float(len(cut))) for cut in cuts)

    game = Game(tuple("abc"), 2, damages, progress=seen.append)
    assert game.many(["ab", "", "ba", "c"]).tolist() == [[2, 2], [0, 0], [2, 2], [1, 1]]
    assert game("c").tolist() == [1, 1]
    assert asked == [[frozenset("ab"), frozenset("c")]]  # several at once, then nothing at all
    assert seen == [1, 2]


def test_too_many_sets_are_refused_before_any_is_cut():
    asked = []
    game = Game(tuple("abc"), 2, lambda cuts: asked.append(cuts), most_sets=2)
    with pytest.raises(hs.errors.BadArgument, match=r"3 different sets of players: the limit is 2\. Give fewer"):
        ablated_first(game)
    assert not asked


@pytest.mark.parametrize(
    ("players", "message"), [((), "cannot study sets of no players"), (("a", "b", "a"), "a stands twice")]
)
def test_no_players_and_players_named_twice_are_refused(players, message):
    with pytest.raises(hs.errors.BadArgument, match=message):
        logical(players, bool)


def test_what_is_no_damage_is_refused():
    game = logical("ab", bool)
    with pytest.raises(hs.errors.BadArgument, match="cannot ablate z: it is no player of this game, which has a, b"):
        game("az")
    with pytest.raises(hs.errors.BadArgument, match=r"shape \(5,\): expected one number for each of 6"):
        Game.of("ab", lambda cut: np.zeros(5), prompts=6)("a")
    holed = np.array([0.0, 1.0, np.nan])
    with pytest.raises(hs.errors.BadArgument, match=r"ablating a, b: it is nan on prompt 2\. Leave out"):
        Game.of("ab", lambda cut: holed, prompts=3)("ba")


def test_some_prompts_of_a_game_share_what_is_known():
    calls = []

    def damage(cut):
        calls.append(cut)
        return np.arange(6.0)

    game = Game.of("ab", damage, prompts=6)
    assert game.on(slice(1, None, 2))("a").tolist() == [1, 3, 5]
    assert game.on([4, 0])("a").tolist() == [4, 0]
    assert game("a").tolist() == [0, 1, 2, 3, 4, 5]
    assert len(calls) == 1


# Effects and interactions


def test_effects_of_two_and_of_three_copies_by_hand():
    # Any of the copies suffices: damage only when all are cut. "o" does nothing.
    two = logical("abo", lambda cut: {"a", "b"} <= cut)
    three = logical("abco", lambda cut: {"a", "b", "c"} <= cut)
    assert ablated_first(two).estimate.mean.tolist() == [0, 0, 0]
    assert ablated_last(two).estimate.mean.tolist() == [1, 1, 0]
    found = dict(zip(interactions(two).labels, interactions(two).estimate.mean.tolist(), strict=True))
    assert found == {("a", "b"): 1, ("a", "o"): 0, ("b", "o"): 0}
    assert interactions(three).estimate.mean.tolist() == [0] * 6  # blind to three
    assert ablated_last(three).estimate.mean.tolist() == [1, 1, 1, 0]
    assert_allclose(exact(three).estimate.mean, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-15)


@few
@given(seeds, counts)
def test_effects_and_interactions_are_differences_per_prompt(seed, count):
    game = random_game(seed, count)
    everyone = frozenset(game.players)
    for player in game.players:
        assert_allclose(ablated_first(game).of(player), game({player}))
        assert_allclose(ablated_last(game).of(player), game(everyone) - game(everyone - {player}))
    found = interactions(game)
    assert found.labels == tuple(combinations(game.players, 2))
    for one, other in found.labels:
        assert_allclose(found.of((one, other)), game({one, other}) - game({one}) - game({other}), atol=1e-12)
    assert found.estimate.mean.shape == (count * (count - 1) // 2,)


@few
@given(seeds, counts)
def test_restoring_is_cutting_seen_from_the_other_end(seed, count):
    game = random_game(seed, count)
    kept = frozenset(game.players[: count // 2])
    everyone = frozenset(game.players)
    assert_allclose(game.restored()(kept), game(everyone) - game(everyone - kept), atol=1e-12)
    assert_allclose(game.restored().restored()(kept), game(kept), atol=1e-12)
    assert_allclose(exact(game.restored()).values, exact(game).values, atol=1e-12)


# Shapley values


def by_all_orders(game):
    """The definition: what each player adds when its turn comes, averaged over all orders."""
    added = np.zeros((game.prompts, len(game.players)))
    orders = list(permutations(range(len(game.players))))
    for order in orders:
        for turn, index in enumerate(order):
            before = {game.players[i] for i in order[:turn]}
            added[:, index] += game(before | {game.players[index]}) - game(before)
    return added / len(orders)


@few
@given(seeds, counts)
def test_exact_shapley_values_are_the_mean_over_all_orders(seed, count):
    game = random_game(seed, count)
    found = shapley(game)
    assert found.orders is None
    assert found.sampling_error.tolist() == [0] * count
    assert_allclose(found.values, by_all_orders(game), atol=1e-12)


@few
@given(seeds, counts, st.integers(1, 4))
def test_shapley_values_of_every_prompt_add_up_to_the_damage_of_all(seed, count, pairs):
    game = random_game(seed, count)
    whole = game(game.players)
    assert_allclose(exact(game).values.sum(1), whole, atol=1e-12)
    assert_allclose(sampled(game, orders=2 * pairs, seed=seed).values.sum(1), whole, atol=1e-12)


@few
@given(seeds, counts)
def test_an_order_and_its_reverse_are_exact_where_only_pairs_interact(seed, count):
    # Two orders give each pair's interaction to each of the two once: a half each, as the mean over all does.
    rng = np.random.default_rng(seed)
    single, pair = rng.normal(size=(count, PROMPTS)), rng.normal(size=(count, count, PROMPTS))

    def damage(cut):
        return sum((single[i] for i in cut), np.zeros(PROMPTS)) + sum(
            pair[i, j] for i, j in combinations(sorted(cut), 2)
        )

    game = Game.of(range(count), damage, prompts=PROMPTS)
    assert_allclose(sampled(game, orders=2, seed=seed).values, exact(game).values, atol=1e-12)


def test_the_sampling_error_is_the_spread_over_seeds():
    game = random_game(3, 7)
    found = [sampled(game, orders=20, seed=seed) for seed in range(300)]
    means = np.array([one.values.mean(0) for one in found])
    stated = np.sqrt(np.mean([one.sampling_error**2 for one in found], axis=0))
    assert_allclose(means.std(0), stated, rtol=0.2)
    assert_allclose(means.mean(0), exact(game).values.mean(0), atol=4 * means.std(0).max() / 300**0.5)
    assert found[0].orders == 20


def test_one_pair_of_orders_has_no_sampling_error_and_many_players_are_sampled():
    assert np.isnan(sampled(random_game(0, 3), orders=2).sampling_error).all()
    players = range(40)
    game = Game.of(players, lambda cut: np.full(PROMPTS, len(cut) / 40.0), prompts=PROMPTS)
    found = shapley(game, orders=4, seed=1)
    assert found.orders == 4
    assert_allclose(found.values, np.full((PROMPTS, 40), 1 / 40), atol=1e-12)
    assert shapley(random_game(0, 6), orders=2).orders is None
    assert shapley(random_game(0, 7), orders=2).orders == 2
    assert shapley(random_game(0, 7), orders=22).orders is None  # 127 sets, of which 22 orders may ask for 133
    assert shapley(game.on([0, 1]), orders=4, seed=1).values.shape == (2, 40)


def test_the_same_seed_draws_the_same_orders():
    game = random_game(1, 6)
    first, again, other = (sampled(game, orders=4, seed=seed).values for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("orders", [0, 3, -2])
def test_orders_that_cannot_be_paired_are_refused(orders):
    with pytest.raises(hs.errors.BadArgument, match=f"cannot draw {orders} orders"):
        shapley(logical("ab", bool), orders=orders)


# Smallest sets


def brute_force(game, share):
    """Size of the smallest of all sets whose cut reaches the share."""
    goal = share * game(game.players).mean()
    return min(len(cut) for cut in subsets(game.players) if game(cut).mean() >= goal - 1e-5)


@few
@given(seeds, counts, st.sampled_from([0.5, 0.9, 1.0]))
def test_sets_reach_their_share_and_hold_no_player_too_many(seed, count, share):
    # Greedy searches need not find the smallest set of any game, but what they find must be one.
    game = random_game(seed, count)
    for find, kind in ((smallest_necessary, game), (smallest_sufficient, game.restored())):
        found = find(game, game, share=share)
        if found.members is None:
            assert "no clear damage" in found.reason
            continue
        goal = share * kind(game.players).mean()
        assert kind(found.members).mean() >= goal - 1e-5
        for player in found.members:
            assert kind(set(found.members) - {player}).mean() < goal
        assert len(found.members) >= brute_force(kind, share)
        assert len(found.members) == min(len(search.members) for search in found.searches)
        assert_allclose(found.reached, kind(found.members))
        assert_allclose(found.excess, found.reached - share * kind(game.players))


@few
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.sampled_from([0.5, 0.9, 1.0]))
def test_where_damages_add_up_greedy_sets_are_the_smallest(parts, share):
    game = additive(dict(enumerate(map(float, parts))))
    for find, kind in ((smallest_necessary, game), (smallest_sufficient, game.restored())):
        assert len(find(game, game, share=share).members) == brute_force(kind, share)


def test_interchangeable_copies_hide_from_growing_behind_heads_that_do_nothing():
    # Nothing is seen until the third copy is gone: growing takes o and p, the first named, and shrinking drops them.
    game = logical("opabc", lambda cut: {"a", "b", "c"} <= cut)
    found = smallest_necessary(game, game)
    growing, shrinking = found.searches
    assert [(step.action, step.player, step.tied) for step in growing.steps] == [
        ("add", "o", 5),
        ("add", "p", 4),
        ("add", "a", 3),
        ("add", "b", 2),
        ("add", "c", 1),
        ("leave out", "o", 2),
        ("leave out", "p", 1),
    ]
    assert [step.player for step in shrinking.steps] == ["o", "p"]
    assert found.members == shrinking.members == ("a", "b", "c")
    assert smallest_sufficient(game, game).members == ("a",)


def test_of_two_ways_to_break_a_behaviour_the_shorter_is_returned():
    # Cutting x breaks it, and so does cutting a and b. Shrinking gives up x, named first; growing sees it.
    game = logical("xab", lambda cut: "x" in cut or {"a", "b"} <= cut)
    found = smallest_necessary(game, game)
    assert [search.members for search in found.searches] == [("x",), ("a", "b")]
    assert (found.members, found.search) == (("x",), "growing")


def test_shrinking_finds_what_growing_cannot_see():
    # a alone does 0.5 and leads growing astray: with it, b and c are still needed. Without it, d and e suffice.
    def damage(cut):
        broken = {"a", "b", "c"} <= cut or {"d", "e"} <= cut
        return np.full(PROMPTS, 1.0 if broken else 0.5 * ("a" in cut))

    game = Game.of("abcde", damage, prompts=PROMPTS)
    found = smallest_necessary(game, game)
    assert [search.members for search in found.searches] == [("a", "b", "c"), ("d", "e")]
    assert (found.members, found.search) == (("d", "e"), "shrinking")


def test_a_set_chosen_on_some_prompts_is_judged_on_others():
    # On the selection prompts a is all; on the others b is. What was chosen fails there, and says so.
    game = Game.of("ab", lambda cut: np.array([float("a" in cut)] * 6 + [float("b" in cut)] * 6), prompts=12)
    for find in (smallest_necessary, smallest_sufficient):
        found = find(game.on(range(6)), game.on(range(6, 12)), share=0.5)
        assert found.members == ("a",)
        assert found.reached.tolist() == [0] * 6
        assert found.excess.tolist() == [-0.5] * 6
        assert [step.reached.mean() for step in found.searches[0].steps] == [0]


def test_ties_within_rounding_go_to_the_player_named_first():
    # b's damage is larger by rounding alone.
    parts = {"a": 1.0, "b": 1.0 + 1e-8, "c": 0.5}
    found = smallest_necessary(additive(parts), additive(parts), share=0.3)
    assert found.members == ("a",)
    assert found.searches[0].steps[0].tied == 2


def test_what_is_tied_but_falls_short_is_not_left_with():
    # Without a, rounding short of a half; without b, a half: as good as equal, but only one is enough.
    values = {"a": 0.5, "b": 0.4999994, "ab": 1.0}
    game = Game.of("ab", lambda cut: np.full(PROMPTS, values["".join(sorted(cut))]), prompts=PROMPTS)
    shrinking = smallest_necessary(game, game, share=0.5).searches[1]
    assert [(step.player, step.tied) for step in shrinking.steps] == [("b", 1)]


def test_without_damage_there_is_a_reason_instead_of_a_set():
    idle = smallest_necessary(logical("ab", lambda cut: False), logical("ab", lambda cut: False))
    assert idle.members is None
    assert idle.searches == ()
    assert np.isnan(idle.excess).all()
    assert "no clear damage on the selection prompts (0)" in idle.reason
    # A mean above zero that prompts do not agree on is no damage either.
    unclear = Game.of("a", lambda cut: np.array([9.0, -3, -3, 5, -4, -3]), prompts=6)
    assert "no clear damage" in smallest_sufficient(unclear, unclear).reason
    small = logical("a", bool, prompts=4)
    assert smallest_necessary(small, small).reason == ("4 prompts to select on are too few: at least 5 are needed")


def test_shares_and_games_that_do_not_fit_are_refused():
    game = logical("ab", bool)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(hs.errors.BadArgument, match="above 0 and up to 1"):
            smallest_necessary(game, game, share=share)
    with pytest.raises(hs.errors.BadArgument, match="their players differ"):
        smallest_sufficient(game, logical("abc", bool))
