"""Bayesian updates from one example to the next, as the article on redundant heads proposes them, mended.

In: a belief A that the answer follows the task (and B = 1 - A that it does not), and c, how strongly an example
that confirms the task speaks for it. Out: the belief after examples, which is a line in its log-odds:

    A' = A c / (A c + B (1 - c))    B' = B (1 - c) / (A c + B (1 - c))    logit A_n = logit A_0 + n log(c / (1 - c))

The article prints (c - 1) in B', which makes it negative and the two sum to something else than 1. What a model
shows is not A but the probability of the right answer, p_n = beta + (gamma - beta) A_n: beta if the task
is not followed, gamma if it is (noise keeps it below 1). *The line is one of logit A, not of logit p*: even the
exact posterior bends in logit p. It is a line for two hypotheses; the average over prompts is one of
log-odds, since a mean of probabilities bends it again.

Here: the fit of (A_0, c, beta, gamma) with its uncertainty over prompts, how straight log-odds are, and what an
average hides: jumps at chance times, one per prompt, average to a smooth curve, so that the share of a prompt's rise
that comes in one step is read off prompts (`largest_step`).
c / (1 - c) = (gamma / beta)^K makes this the Bayesian law of measures.curves with shots from 0 on.
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
from headscope.measures.log_odds import linearity, slope

FEWEST_SHOTS = 6
# Nearer to its ends, a belief read off p is decided by the error of beta and gamma.
RESOLVED = (0.02, 0.98)


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

    slope: float = math.nan
    r2: float = math.nan
    bend: float = math.nan
    points: int = 0


def line_of(log_odds: Array) -> Line:
    """How straight log-odds [shot] are; NaN entries take no part.

    >>> line_of(np.arange(6.0) * 2 - 3)
    Line(slope=2.0, r2=1.0, bend=0.0, points=6)
    """
    x = np.flatnonzero(np.isfinite(log_odds)).astype(np.float64)
    y, n = log_odds[np.isfinite(log_odds)], len(x)
    if n < 4:
        return Line(points=n)
    # The halves share the middle point if n is odd.
    parts = (slice(None), slice(0, (n + 1) // 2), slice(n // 2, None))
    whole, early, late = (float(slope(y[part], x[part])) for part in parts)
    bend = (late - early) / abs(whole) if whole else math.nan
    # Rounding errors would give a line a bend of 1e-16.
    return Line(round(whole, 12), round(float(linearity(y, x)), 12), round(bend, 12), n)


def implied_log_odds(p: Array, beta: float, gamma: float) -> Array:
    """logit A read off p = beta + (gamma - beta) A; NaN where p lies on or outside (beta, gamma).

    Such points say that A is as good as 0 or 1 and not how far: they are left out, never pushed inside.

    >>> implied_log_odds(np.array([0.1, 0.5, 0.95]), beta=0.1, gamma=0.9).tolist()
    [nan, 0.0, nan]
    """
    share = (p - beta) / (gamma - beta)
    inside = (share > 0) & (share < 1)
    return np.where(inside, logit(np.where(inside, share, 0.5)), np.nan)


def largest_step(p: Array) -> Array:
    """How much of what a curve spans its largest single step up is, from p [prompt, shot]: 0 to 1, [prompt].

    1 for one jump, 1 / shots for a straight line; NaN for a curve that does not move.

    >>> largest_step(np.array([[0.1, 0.1, 0.9, 0.9], [0.0, 0.25, 0.75, 1.0]])).tolist()
    [1.0, 0.5]
    """
    span = np.ptp(p, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diff(p, axis=1).max(1).clip(min=0.0) / np.where(span > 0, span, np.nan))


@dataclass(frozen=True, eq=False)
class Updates:
    """The article's model fitted to the mean log-odds of many prompts.

    `p` [shot] is the curve that was fitted, `fitted` [shot] the fit. `step_nats` = log(c / (1 - c)) is what an
    example adds. `log_odds` [shot] is logit A read off `p`, NaN where p is outside (beta, gamma) or A outside
    `RESOLVED`; `line` judges it; `outside` and `unresolved` count what is left out. `misfit` is the root mean squared
    error of the fit over all shots, over what `p` spans. `resampled_steps`, `_gammas` and `_misfits` [resample] are
    those of resampled prompts. NaN with a `reason`.
    """

    p: Array
    fitted: Array
    log_odds: Array
    resampled_steps: Array
    resampled_gammas: Array
    resampled_misfits: Array
    prior: float = math.nan
    c: float = math.nan
    beta: float = math.nan
    gamma: float = math.nan
    step_nats: float = math.nan
    misfit: float = math.nan
    line: Line = Line()
    outside: int = 0
    unresolved: int = 0
    reason: str = ""

    @classmethod
    def undefined(cls, p: Array, reason: str, *, resamples: int) -> "Updates":
        """Nothing but the curve `p` [shot] is known, for this reason."""
        none, empty = np.full(len(p), math.nan), np.full(resamples, math.nan)
        return cls(p, none, none, empty, empty, empty, reason=reason)


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
    span = np.ptp(curves, axis=-1)
    misfits = np.sqrt(((said - curves) ** 2).mean(-1)) / np.where(span > 0, span, np.nan)
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
        reason="" if span[0] > 0 else "the curve does not move",
    )
