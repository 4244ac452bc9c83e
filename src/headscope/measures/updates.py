"""Bayesian updates from one example to the next, as the article on redundant heads proposes them, mended.

In: a belief A that the answer follows the task (and B = 1 - A that it does not), and c, how strongly an example
that confirms the task speaks for it. Out: the belief after examples, which is a line in its log-odds:

    A' = A c / (A c + B (1 - c))    B' = B (1 - c) / (A c + B (1 - c))    logit A_n = logit A_0 + n log(c / (1 - c))

The article prints (c - 1) in B', which makes it negative and the two sum to something else than 1. What a model
shows is not A but the probability of the right answer, p_n = beta + (gamma - beta) A_n: beta if the task
is not followed, gamma if it is (noise keeps it below 1). *The line is one of logit A, not of logit p*: even the
exact posterior bends in logit p. It is a line for two hypotheses; the average over prompts is one of
log-odds, since a mean of probabilities bends it again.

Here: the update, the fit of (A_0, c, beta, gamma) with its uncertainty over prompts, and how straight log-odds
are. c / (1 - c) = (gamma / beta)^K makes this the Bayesian law of measures.curves with shots from 0 on.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit, logit
from torch import Tensor

from headscope.errors import BadArgument
from headscope.measures.curve_fits import fit_curve, refit, resampled_means
from headscope.measures.curves import Family
from headscope.measures.intervals import Array

FEWEST_SHOTS = 6
# Nearer to its ends, a belief read off p is decided by the error of beta and gamma.
RESOLVED = (0.02, 0.98)


def updated(right: float, wrong: float, c: float) -> tuple[float, float]:
    """The beliefs A and B after one confirming example; they sum to 1 again.

    >>> updated(0.25, 0.75, 0.75)
    (0.5, 0.5)
    """
    recompute_each_token, does_not = right * c, wrong * (1 - c)
    return recompute_each_token / (recompute_each_token + does_not), does_not / (recompute_each_token + does_not)


def belief(prior: float, c: float, examples: Array) -> Array:
    """A after these numbers of confirming examples, in closed form.

    >>> belief(0.25, 0.75, np.array([0.0, 1.0])).round(4).tolist()
    [0.25, 0.5]
    """
    after: Array = expit(logit(prior) + examples * logit(c))
    return after


def _curve(parameters: Tensor, shots: Tensor) -> Tensor:
    prior, c, beta, gamma = parameters[..., None].unbind(-2)
    return beta + (gamma - beta) * torch.sigmoid(prior.logit() + shots * c.logit())


def _constrained(free: Tensor) -> Tensor:
    prior, c, below, gamma = free.unbind(-1)
    beta = gamma.sigmoid() * below.sigmoid()
    return torch.stack((prior.sigmoid(), c.sigmoid(), beta, gamma.sigmoid()), -1)


UPDATES: Final = Family(
    "updates", ("A_0", "c", "beta", "gamma"), _constrained, _curve, ((-2.0, 2.0), (0.5, 0.7), (-1.5, 1.5), (1.0, 1.5))
)


@dataclass(frozen=True)
class Line:
    """Log-odds over shots as a straight line: nats per shot, r squared, and how much the line bends.

    `bend` is the slope over the later half of the shots minus that over the earlier half, over the slope of
    all: 0 for a line, -1 and less for what levels off. NaN with fewer than four points, of which `points` counts
    those that are defined.
    """

    slope: float
    r2: float
    bend: float
    points: int


def line_of(log_odds: Array, shots: Array | None = None) -> Line:
    """How straight log-odds [shot] are; NaN entries take no part.

    >>> line_of(np.arange(6.0) * 2 - 3)
    Line(slope=2.0, r2=1.0, bend=0.0, points=6)
    """
    at = np.arange(len(log_odds), dtype=float) if shots is None else shots
    known = np.isfinite(log_odds)
    x, y = at[known], log_odds[known]
    if len(x) < 4:
        return Line(math.nan, math.nan, math.nan, len(x))
    slope, early, late = (_slope(x[part], y[part]) for part in _halves(len(x)))
    spread = ((y - y.mean()) ** 2).sum()
    residual = ((y - y.mean() - slope * (x - x.mean())) ** 2).sum()
    r2 = 1 - residual / spread if spread > 0 else math.nan
    bend = (late - early) / abs(slope) if slope else math.nan
    # Rounding errors would give a line a bend of 1e-16.
    return Line(round(slope, 12), round(float(r2), 12), round(bend, 12), len(x))


def implied_log_odds(p: Array, beta: float, gamma: float) -> Array:
    """logit A read off p = beta + (gamma - beta) A; NaN where p lies on or outside (beta, gamma).

    Such points say that A is as good as 0 or 1 and not how far: they are left out, never pushed inside.

    >>> implied_log_odds(np.array([0.1, 0.5, 0.95]), beta=0.1, gamma=0.9).tolist()
    [nan, 0.0, nan]
    """
    share = (p - beta) / (gamma - beta)
    inside = (share > 0) & (share < 1)
    log_odds: Array = np.where(inside, logit(np.where(inside, share, 0.5)), np.nan)
    return log_odds


@dataclass(frozen=True, eq=False)
class Updates:
    """The article's model fitted to the mean log-odds of many prompts.

    `p` [shot] is the curve that was fitted, `fitted` [shot] the fit. `step_nats` = log(c / (1 - c)) is what an
    example adds. `log_odds` [shot] is logit A read off `p`, NaN where p is outside (beta, gamma) or A outside
    `RESOLVED`; `line` judges it; `outside` and `unresolved` count what is left out. `misfit` is the NRMSE of the
    fit over all shots. `resampled_steps`, `_gammas` and `_misfits` [resample] are those of resampled prompts. NaN
    with a `reason`.
    """

    p: Array
    fitted: Array
    prior: float
    c: float
    beta: float
    gamma: float
    step_nats: float
    misfit: float
    resampled_steps: Array
    resampled_gammas: Array
    resampled_misfits: Array
    log_odds: Array
    line: Line
    outside: int
    unresolved: int
    reason: str = ""

    @classmethod
    def undefined(cls, p: Array, reason: str, *, resamples: int) -> "Updates":
        """Nothing but the curve `p` [shot] is known, for this reason."""
        nan, none, empty = math.nan, np.full(len(p), math.nan), np.full(resamples, math.nan)
        line = Line(nan, nan, nan, 0)
        return cls(p, none, nan, nan, nan, nan, nan, nan, empty, empty, empty, none, line, 0, 0, reason)


def fit_updates(log_odds: Float[Tensor, "prompt shot"] | Array, *, resamples: int = 300, seed: int = 0) -> Updates:
    """Fit (A_0, c, beta, gamma) to per-prompt log-odds of the right answer after 0, 1, 2, ... examples.

    Log-odds are averaged over prompts, turned into one curve p_n, and that is fitted. Two fits with the same
    number of prompts and the same seed resample the same prompts.

    Raises:
        BadArgument: for no prompts, or log-odds that are not finite.
    """
    values = np.asarray(log_odds, np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise BadArgument(
            f"cannot fit updates to log-odds of shape {values.shape}: give finite ones, [prompt, shot]."
        )
    curves = expit(resampled_means(values, resamples=resamples, seed=seed))
    shots = np.arange(values.shape[1], dtype=np.float64)
    if len(shots) < FEWEST_SHOTS:
        reason = f"{len(shots)} numbers of examples; a fit needs {FEWEST_SHOTS}"
        return Updates.undefined(curves[0], reason, resamples=resamples)
    fit = fit_curve(UPDATES, shots, curves[0], seed=seed)
    free = torch.cat((fit.free[None], refit(fit, shots, curves[1:])))
    said = UPDATES.curve(free, torch.from_numpy(shots)).numpy()
    misfits = np.sqrt(((said - curves) ** 2).mean(1)) / curves.mean(1)
    prior, c, beta, gamma = fit.parameters.values()
    _, every_c, _, every_gamma = UPDATES.constrained(free[1:].clamp(-15, 15)).T.numpy()
    implied = implied_log_odds(curves[0], beta, gamma)
    low, high = logit(RESOLVED)
    unresolved = (implied < low) | (implied > high)
    resolved = np.where(unresolved, np.nan, implied)
    return Updates(
        p=curves[0],
        fitted=said[0],
        prior=prior,
        c=c,
        beta=beta,
        gamma=gamma,
        step_nats=float(logit(c)),
        misfit=float(misfits[0]),
        resampled_steps=logit(every_c),
        resampled_gammas=every_gamma,
        resampled_misfits=misfits[1:],
        log_odds=resolved,
        line=line_of(resolved),
        outside=int(np.isnan(implied).sum()),
        unresolved=int(unresolved.sum()),
    )


def _halves(n: int) -> tuple[slice, slice, slice]:
    """All points, the earlier half and the later half, which share the middle one if n is odd."""
    return slice(None), slice(0, (n + 1) // 2), slice(n // 2, None)


def _slope(x: Array, y: Array) -> float:
    centred = x - x.mean()
    return float((centred * y).sum() / (centred**2).sum())
