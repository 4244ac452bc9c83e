"""Do two rankings of the same heads agree: their common top, and their rank correlation, with resampled bounds.

In: two scores of every head by independent units (functions, prompts; each score has its own), and the top heads of
each, chosen elsewhere. Out: how many top heads are common, against rankings at random (hypergeometric), Spearman's
rho over all heads with its permutation p value, and both on resampled units. Two rankings of noise have next to no
top heads in common either: what is common is to be held against the *ceiling*, which of its chosen top heads a score
finds again on the units that chose nothing. Resampling adds noise to rankings of heads with like scores, so that
intervals from it are biased downwards. Not done here: what the scores are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom, rankdata

from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.measures.statistics import Statistic
from headscope.tables import Quantity
from headscope.vocabulary import Head

RESAMPLES = 1999
COMMON_SHARE = Quantity("common_share", "share of the top heads that both rankings have", "share", (0.0, 1.0))
CEILING = Quantity("found_again", "share of a ranking's chosen top heads that it finds again", "share", (0.0, 1.0))
ROOM = Quantity("own_minus_other", "the same minus the share that the other ranking finds", "share", (-1.0, 1.0))
RHO = Quantity("rho", "rank correlation of both scores over all heads", "", (-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Agreement:
    """`common` of the `top` heads of each ranking are the same; `expected` if each were drawn at random.

    `p_value_at_least` and `p_value_at_most` are the chances of so many at random. `share` is the common share, `rho`
    the rank correlation, both with draws on resampled units; `p_value` is that of so strong a correlation, of either
    sign, if heads were exchanged at random. For each ranking `ceilings` are the share of its chosen top heads that
    are on top again, and `room` how much more that is than the share that the other ranking puts on top.
    """

    top: int
    common: int
    expected: float
    p_value_at_least: float
    p_value_at_most: float
    share: Statistic
    rho: Statistic
    p_value: float
    ceilings: tuple[Statistic, Statistic]
    room: tuple[Statistic, Statistic]


def agreement(
    first: Samples, second: Samples, picked: tuple[Sequence[Head], Sequence[Head]], *, seed: int
) -> Agreement:
    """Agreement of two scores of the same heads, each [unit, head]; the `picked` top heads were chosen elsewhere."""
    one, two, heads, top = first.values, second.values, len(first), len(picked[0])
    common = len(set(picked[0]) & set(picked[1]))
    chance = hypergeom(heads, top, top)
    generator = np.random.default_rng(seed)
    rho = _rank_correlation(one.mean(0)[None], two.mean(0)[None])
    again = [
        np.stack([each[rows].mean(0) for rows in generator.integers(0, len(each), (RESAMPLES, len(each)))])
        for each in (one, two)
    ]
    # Of all units in the first row, then of resampled ones.
    scores = [np.concatenate([values.mean(0)[None], drawn]) for values, drawn in zip((one, two), again, strict=True)]
    tops = [np.argsort(-each, axis=1, kind="stable")[:, :top] for each in scores]
    shares = (tops[0][1:, :, None] == tops[1][1:, None, :]).any(2).mean(1)
    orders = generator.random((RESAMPLES, heads)).argsort(axis=1)
    exchanged = _rank_correlation(np.broadcast_to(one.mean(0), orders.shape), two.mean(0)[orders])

    def resampled(quantity: Quantity, values: Array) -> Statistic:
        count = min(len(one), len(two))
        return Statistic(quantity=quantity, value=values[:1], draws=values[1:, None], count=count, over=first.over)

    places = [[first.coordinates("head").index(str(head)) for head in listed] for listed in picked]
    found = [[np.isin(by, own).mean(1) for by in (tops[k], tops[1 - k])] for k, own in enumerate(places)]
    ceilings = resampled(CEILING, found[0][0]), resampled(CEILING, found[1][0])
    room = resampled(ROOM, found[0][0] - found[0][1]), resampled(ROOM, found[1][0] - found[1][1])
    share = resampled(COMMON_SHARE, np.concatenate([[common / top], shares]))
    correlation = resampled(RHO, np.concatenate([rho, _rank_correlation(*again)]))
    p_value = float((1 + (np.abs(exchanged) >= abs(rho[0]) - 1e-12).sum()) / (1 + RESAMPLES))
    chances = float(chance.sf(common - 1)), float(chance.cdf(common))
    return Agreement(top, common, top * top / heads, *chances, share, correlation, p_value, ceilings, room)


def _rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's rho of rows, [row] from two [row, head]; NaN where a row is constant."""
    ranks = [rankdata(values, axis=1) for values in (one, other)]
    centred = [values - values.mean(1, keepdims=True) for values in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        rho: Array = (centred[0] * centred[1]).sum(1) / spread
    return rho
