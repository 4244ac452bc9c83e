"""Whether a score changes abruptly in training, when, and how sure that is from one curve.

In: a score at checkpoints. Out: midpoint and window of the change, or why none is shown. A change is a logistic in
log step; what is not one is a drift: a power law in step (straight lines and logarithms among them) or an exponential
approach to a last value (measures.step_curves). It is shown if all of these hold:

    p <= .05        the logistic fits better than each drift, by more than such a drift with noise makes it do
                    (parametric bootstrap of the log of the ratio of squared errors; the larger p of the two drifts)
    rise > margin   what is seen of the rise, first to last checkpoint, is large enough to matter
    rise >= 4 noise a curve that goes up and down by as much (checkpoints in another order) has no change
    ratio <= 5      10 to 90% of the rise take at most five times the steps: a slow S is a drift too
                    (5 and 4 are ours, each set after seeing a curve without a change that passed)
    whole           the steps of 10 and of 90% lie between the first and the last checkpoint

Step 0 has no logarithm and is left out. Noise is normal, with the standard deviation of the residuals and their
correlation from one checkpoint to the next (first order, corrected by 4 / n, between 0 and .7). The interval of the
midpoint holds the midpoints at which the squared error is not much above the least (how much: a bootstrap from the
logistic, at least the F quantile). That is *measurement error of one curve*: another training seed changes elsewhere
(measures.midpoints). `docs/change-points.md` says how often all this holds. Source of the question: Olsson et al.
2022, "In-context Learning and Induction Heads"; they drew their window by eye.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import stats

from headscope.errors import BadArgument
from headscope.measures import step_curves
from headscope.measures.intervals import Array
from headscope.measures.step_curves import Fitted, Shapes

RESAMPLES: Final = 400
MARGIN: Final = 0.1
MIN_CHECKPOINTS: Final = 6
WIDEST: Final = 5.0
LEAST: Final = 4.0
LEVEL: Final = 0.05
_AT_10 = float(np.log(9))
# Noise below this share of a curve's range counts as so much: no fit is more exact than its search.
_EXACT = 1e-4
_MOST_CORRELATED = 0.7
# Midpoints between two of the grid at which the squared error is looked up for an interval.
_FINER = 6


@dataclass(frozen=True)
class ChangePoint:
    """An abrupt change of a curve over training steps, or the reason why none is shown.

    `midpoint`, `window` (10 and 90% of the rise) and `low`, `high` (the midpoint's 95% interval, measurement error
    only) are in steps and NaN where no change is shown; `inside` counts the checkpoints in the window. `height` is
    last minus first plateau of the logistic (below 0 in a falling curve), `rise` what is seen of it, `noise` the
    standard deviation about it, all in the unit of the values; `fitted` is the logistic at `steps`. `p_none` belongs
    to "a drift", `drift` names the better one. All but `shown` and `reason` are NaN or empty for an undefined curve.
    """

    shown: bool
    reason: str = ""
    midpoint: float = math.nan
    window: tuple[float, float] = (math.nan, math.nan)
    low: float = math.nan
    high: float = math.nan
    inside: int = 0
    height: float = math.nan
    rise: float = math.nan
    p_none: float = math.nan
    drift: str = ""
    noise: float = math.nan
    correlation: float = math.nan
    steps: tuple[float, ...] = ()
    fitted: tuple[float, ...] = ()

    @property
    def defined(self) -> bool:
        """Whether the curve could be judged at all."""
        return not math.isnan(self.p_none)


def change_point(
    steps: Array, values: Array, *, margin: float = MARGIN, seed: int = 0, resamples: int = RESAMPLES
) -> ChangePoint:
    """The change of `values` [checkpoint] at `steps` [checkpoint]; a rise (or fall) within `margin` is none.

    >>> steps = np.arange(1, 25) * 100.0
    >>> found = change_point(steps, 1 / (1 + (steps / 1000) ** -12))
    >>> found.shown, round(found.midpoint), [round(at) for at in found.window], found.inside
    (True, 1000, [833, 1201], 4)
    >>> change_point(steps, steps / 2400).reason
    'a drift (power law) fits as well: p = 1.00'

    Raises:
        BadArgument: for steps and values of other shapes, steps that do not ascend from 0 or more, a negative margin.
    """
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if steps.ndim != 1 or steps.shape != values.shape or not (np.diff(steps) > 0).all() or (steps < 0).any():
        raise BadArgument(
            f"cannot look for a change in values of shape {values.shape} at steps of shape {steps.shape}: give one "
            "value for each step, and steps that ascend from 0 or more."
        )
    if not margin >= 0:
        raise BadArgument(f"cannot look for a change beyond {margin}: give a margin of 0 or more.")
    steps, values = steps[steps > 0], values[steps > 0]
    reason = _undefined(steps, values)
    if reason:
        return ChangePoint(False, reason)
    rng, logistic = np.random.default_rng(seed), step_curves.logistics(steps)
    change = step_curves.fit(logistic, values[None])
    curve = _curve(logistic, change)
    noise, correlation = _noise(values - curve, 4), _correlation(values - curve)
    p_none, drift = _p_none(steps, values, logistic, change, correlation, rng, resamples)
    middle, reach = change.parameters[0, 0], float(np.exp(change.parameters[0, 1])) * _AT_10
    window = float(np.exp(middle - reach)), float(np.exp(middle + reach))
    rise = float(curve[-1] - curve[0])
    reason = _not_shown(p_none, drift, rise, noise, margin, window, steps)
    none = ChangePoint(
        shown=False,
        reason=reason,
        height=float(change.height[0]),
        rise=rise,
        p_none=p_none,
        drift=drift,
        noise=noise,
        correlation=correlation,
        steps=tuple(steps.tolist()),
        fitted=tuple(curve.tolist()),
    )
    if reason:
        return none
    low, high = _interval(values, logistic, change, noise * _ar(rng, resamples, len(steps), correlation))
    inside = int(((steps >= window[0]) & (steps <= window[1])).sum())
    midpoint = float(np.exp(middle))
    return replace(none, shown=True, midpoint=midpoint, window=window, low=low, high=high, inside=inside)


def overlap(one: ChangePoint, other: ChangePoint) -> float:
    """Intersection over union of two windows *in log step*: 0 apart, 1 the same; NaN where a change is not shown.

    >>> one, other = (ChangePoint(True, window=window) for window in ((100.0, 400.0), (200.0, 800.0)))
    >>> round(overlap(one, other), 3)
    0.333
    """
    if not (one.shown and other.shown):
        return math.nan
    (a, b), (c, d) = np.log(one.window), np.log(other.window)
    return float(max(0.0, min(b, d) - max(a, c)) / (max(b, d) - min(a, c)))


def _undefined(steps: Array, values: Array) -> str:
    if len(steps) < MIN_CHECKPOINTS:
        return f"{len(steps)} checkpoints after step 0, and a change needs {MIN_CHECKPOINTS}"
    if not np.isfinite(values).all():
        return f"undefined at step {steps[~np.isfinite(values)][0]:g}"
    return "" if np.ptp(values) > 0 else "the values do not vary"


def _not_shown(
    p: float, drift: str, rise: float, noise: float, margin: float, window: tuple[float, float], steps: Array
) -> str:
    if p > LEVEL:
        return f"a drift ({drift}) fits as well: p = {p:.2f}"
    if abs(rise) < LEAST * noise:
        return f"the rise of {rise:.3g} is {abs(rise) / noise:.1f} times the noise about it, and {LEAST:g} are needed"
    if abs(rise) <= margin:
        return f"the rise of {rise:.3g} is within the margin of {margin:g}"
    if window[1] > WIDEST * window[0]:
        return f"10 to 90% of the rise take {window[1] / window[0]:.1f} times the steps, more than {WIDEST:g}"
    if window[0] < steps[0] or window[1] > steps[-1]:
        end = "begun before the first" if window[0] < steps[0] else "not over at the last"
        return f"the change is {end} checkpoint: 10 to 90% are steps {window[0]:.0f} to {window[1]:.0f}"
    return ""


def _p_none(
    steps: Array,
    values: Array,
    logistic: Shapes,
    change: Fitted,
    correlation: float,
    rng: np.random.Generator,
    resamples: int,
) -> tuple[float, str]:
    """The largest p value of the drifts, each with noise, and the name of the drift that fits best."""
    drifts = (step_curves.power_laws(steps), step_curves.saturations(steps))
    fits = [step_curves.fit(drift, values[None]) for drift in drifts]
    least = len(values) * (_EXACT * np.ptp(values)) ** 2

    def gain(errors: list[Array], error: Array) -> Array:
        return np.asarray(np.log((np.minimum(*errors) + least) / (error + least)))

    seen = gain([fit.error for fit in fits], change.error)[0]
    p = 0.0
    for drift, fit in zip(drifts, fits, strict=True):
        curve = _curve(drift, fit)
        noise = max(_noise(values - curve, 3), _EXACT * np.ptp(values))
        drawn = curve + noise * _ar(rng, resamples, len(values), correlation)
        errors = [step_curves.fit(each, drawn).error for each in drifts]
        larger = int((gain(errors, step_curves.fit(logistic, drawn).error) >= seen).sum())
        p = max(p, (1 + larger) / (1 + resamples))
    return p, drifts[int(np.argmin([fit.error[0] for fit in fits]))].name


def _interval(values: Array, logistic: Shapes, change: Fitted, noise: Array) -> tuple[float, float]:
    """Ends, in steps, of the midpoints that fit nearly as well as the best; `noise` is [resample, checkpoint]."""
    middle, least = change.parameters[0, 0], len(values) * (_EXACT * np.ptp(values)) ** 2
    drawn = _curve(logistic, change) + noise
    at_true = step_curves.fit_at(logistic, drawn, np.full(len(drawn), middle)).error
    excess = (at_true + least) / (step_curves.fit(logistic, drawn).error + least) - 1
    freedom = len(values) - 4
    allowed = max(float(np.quantile(excess, 0.95)), float(stats.f.ppf(0.95, 1, freedom)) / freedom)
    coarse = np.unique(logistic.tried[:, 0])
    tried = np.interp(np.arange((len(coarse) - 1) * _FINER + 1) / _FINER, np.arange(len(coarse)), coarse)
    tried = np.unique(np.append(tried, middle))
    errors = step_curves.fit_at(logistic, np.broadcast_to(values, (len(tried), len(values))), tried).error
    # A parabola about the least error has a straight root: between two midpoints the bound is looked up on that.
    far = np.sqrt(np.maximum((errors + least) / (change.error[0] + least) - 1, 0)) / math.sqrt(allowed)
    far[tried == middle] = 0
    fits = np.flatnonzero(far <= 1).tolist()
    ends = (_crossing(tried[::-1], far[::-1], len(tried) - 1 - fits[0]), _crossing(tried, far, fits[-1]))
    return float(np.exp(ends[0])), float(np.exp(ends[1]))


def _crossing(tried: Array, far: Array, last: int) -> float:
    """Where `far` reaches 1 after the last place at which it does not; the end where there is none."""
    if last + 1 == len(tried):
        return float(tried[last])
    return float(np.interp(1.0, far[last : last + 2], tried[last : last + 2]))


def _curve(shapes: Shapes, fit: Fitted) -> Array:
    """The fitted curve [checkpoint] of the first curve."""
    return np.asarray(fit.base[0] + fit.height[0] * shapes.f(fit.parameters)[0])


def _noise(residuals: Array, parameters: int) -> float:
    """Standard deviation of residuals [checkpoint] about a curve with so many parameters."""
    return float(np.sqrt((residuals**2).sum() / (len(residuals) - parameters)))


def _correlation(residuals: Array) -> float:
    """Of the noise, from one checkpoint to the next: that of residuals is too low, since the curve was fitted."""
    square = float((residuals**2).sum())
    raw = float((residuals[1:] * residuals[:-1]).sum()) / square if square > 0 else 0.0
    return float(np.clip(raw + 4 / len(residuals), 0.0, _MOST_CORRELATED))


def _ar(rng: np.random.Generator, draws: int, n: int, correlation: float) -> Array:
    """Normal noise [draw, checkpoint] of variance 1 with this correlation from one checkpoint to the next."""
    noise = rng.standard_normal((draws, n))
    for at in range(1, n):
        noise[:, at] = correlation * noise[:, at - 1] + math.sqrt(1 - correlation**2) * noise[:, at]
    return noise
