"""Fitting a family of curves, and judging it by what it says about examples that the fit has not seen.

In: probabilities of the right answer at numbers of examples, a family (measures.curves). Out: the fit of least
squares in p, by LBFGS with a strong-Wolfe line search from several starts; how far off it is (NRMSE = RMSE of p
over mean p); and the error on held-out shots of a fit to the first 5, 10, 20 or 50% of them. A good fit inside
says little, since most families bend well enough; extrapolation tells them apart (Arora et al. 2024).

Uncertainty is over prompts, whole curves of which are resampled: shots of a prompt share examples. Every
resample is fitted again, by damped Gauss-Newton steps from the fit of the sample, for all resamples at once. What
is fitted with the same seed to as many prompts is paired, resample by resample (measures.statistics).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import BadArgument
from headscope.measures.curves import FAMILIES, Family
from headscope.measures.intervals import Array

SHARES = (0.05, 0.1, 0.2, 0.5)
_SCREENED, _STARTS, _STEPS = 400, 3, 60


@dataclass(frozen=True, eq=False)
class Fit:
    """A family fitted to a curve: the free numbers (see `Family`), its parameters, its curve at all shots."""

    family: Family
    free: Float[Tensor, " parameter"]
    parameters: Mapping[str, float]
    p: Array


@dataclass(frozen=True)
class Extrapolation:
    """The error on shots after a prefix, for each family, NaN where `reason` says why.

    `error` is that of the sample; `resampled` [resample] that of every resample of prompts; `fitted` and
    `held_out` count shots.
    """

    family: str
    share: float
    fitted: int
    held_out: int
    inside: float
    error: float
    resampled: Array
    fit: Fit | None
    reason: str = ""


def nrmse(fitted: Array, seen: Array) -> Array:
    """Root of the mean squared error of p [..., shot] over its mean, [...].

    >>> float(nrmse(np.array([0.1, 0.3]), np.array([0.2, 0.4])).round(3))
    0.333
    """
    return np.asarray(np.sqrt(((fitted - seen) ** 2).mean(-1)) / seen.mean(-1))


def fit_curve(family: Family, shots: Array, p: Array, *, seed: int = 0) -> Fit:
    """The family's curve nearest to `p` at `shots`, both [shot], by LBFGS from several starts.

    Starts are the best of 400 drawn ones, so that no basin is missed for want of a line search.

    Raises:
        BadArgument: for fewer shots than parameters + 1, or for p outside 0 to 1.
    """
    if len(shots) <= len(family.parameters) or len(shots) != len(p):
        raise BadArgument(
            f"cannot fit the {family.name} family to {len(shots)} shots and {len(p)} probabilities: it needs "
            f"as many of both, at least {len(family.parameters) + 1}."
        )
    if not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()):
        raise BadArgument("cannot fit a curve to values that are no probabilities: expected 0 to 1.")
    at, seen = torch.from_numpy(np.asarray(shots, float)), torch.from_numpy(np.asarray(p, float))
    ends = [_descended(family, start, at, seen) for start in _starts(family, at, seen, seed)]
    losses = [_losses(family, end, at, seen).item() for end in ends]
    free = ends[int(np.argmin(losses))]
    return Fit(family, free, family.named(free), family.curve(free, at).numpy())


def refit(fit: Fit, shots: Array, curves: Array) -> Tensor:
    """Free numbers [curve, parameter] of the same family for many curves [curve, shot], from one fit on.

    Damped Gauss-Newton (Levenberg 1944, Marquardt 1963) with numerical derivatives, all curves at once.
    """
    at, seen = torch.from_numpy(np.asarray(shots, float)), torch.from_numpy(np.asarray(curves, float))
    free = fit.free.expand(len(seen), -1).clone()
    damping = torch.full((len(seen),), 1e-3, dtype=torch.float64)
    loss = _losses(fit.family, free, at, seen)
    for _ in range(_STEPS):
        jacobian = _derivatives(fit.family, free, at)
        residual = seen - fit.family.curve(free, at)
        normal = jacobian.transpose(1, 2) @ jacobian
        scale = normal.diagonal(dim1=1, dim2=2).clamp(min=1e-12)
        damped = normal + torch.diag_embed(damping[:, None] * scale + 1e-14)
        step = torch.linalg.solve(damped, jacobian.transpose(1, 2) @ residual[..., None])[..., 0]
        tried = (free + step).clamp(-20, 20)
        new = _losses(fit.family, tried, at, seen)
        better = new < loss
        free = torch.where(better[:, None], tried, free)
        loss = torch.where(better, new, loss)
        damping = torch.where(better, damping / 5, damping * 4).clamp(1e-9, 1e9)
    return free


def extrapolate(
    shots: Array, curves: Array, *, share: float, families: Sequence[Family] = FAMILIES, seed: int = 0
) -> tuple[Extrapolation, ...]:
    """Each family fitted to the first `share` of the shots and judged on the rest.

    `curves` [1 + resample, shot] are the curve of the sample and of every resample of its prompts
    (`resampled_means`). A family with fewer shots than parameters + 1 is NaN, with the reason.
    """
    fitted = math.ceil(share * len(shots) - 1e-9)
    extrapolations = []
    for family in families:
        parts, needed = (family.name, share, fitted, len(shots) - fitted), len(family.parameters) + 1
        if not needed <= fitted < len(shots):
            reason = f"{share:.0%} of {len(shots)} shots are {fitted}; {len(family.parameters)} parameters need "
            reason += f"{needed}, and shots to predict"
            unknown = np.full(len(curves) - 1, np.nan)
            extrapolations.append(Extrapolation(*parts, math.nan, math.nan, unknown, None, reason))
            continue
        fit = fit_curve(family, shots[:fitted], curves[0, :fitted], seed=seed)
        free = torch.cat((fit.free[None], refit(fit, shots[:fitted], curves[1:, :fitted])))
        said = family.curve(free, torch.from_numpy(np.asarray(shots, float))).numpy()
        inside = float(nrmse(said[0, :fitted], curves[0, :fitted]))
        errors = nrmse(said[:, fitted:], curves[:, fitted:])
        extrapolations.append(Extrapolation(*parts, inside, float(errors[0]), errors[1:], replace(fit, p=said[0])))
    return tuple(extrapolations)


def resampled_means(values: Array, *, resamples: int, seed: int = 0) -> Array:
    """Means over prompts of [prompt, shot], first of all prompts, then of each resample: [1 + resample, shot].

    The same seed draws the same prompts, so that curves of the same prompts can be compared in pairs.

    >>> resampled_means(np.array([[1.0], [3.0]]), resamples=2).shape
    (3, 1)
    """
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = np.concatenate((np.ones((1, n)), counts.astype(np.float64)))
    return weights @ values / n


def _starts(family: Family, at: Tensor, seen: Tensor, seed: int) -> Tensor:
    mean, deviation = torch.tensor(family.spread, dtype=torch.float64).unbind(1)
    drawn = np.random.default_rng(seed).standard_normal((_SCREENED, len(mean)))
    every = mean + deviation * torch.from_numpy(drawn)
    return every[_losses(family, every, at, seen).argsort()[:_STARTS]]


def _descended(family: Family, start: Tensor, at: Tensor, seen: Tensor) -> Tensor:
    free = start.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [free],
        max_iter=100,
        tolerance_grad=1e-10,
        tolerance_change=1e-11,
        history_size=8,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = _losses(family, free, at, seen)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    end = free.detach()
    return end if bool(end.isfinite().all()) else start


def _losses(family: Family, free: Tensor, at: Tensor, seen: Tensor) -> Tensor:
    return ((family.curve(free, at) - seen) ** 2).mean(-1)


def _derivatives(family: Family, free: Tensor, at: Tensor) -> Tensor:
    """Of the curve by each free number, [curve, shot, parameter], by central differences."""
    width = 1e-5
    columns = []
    for index in range(free.shape[1]):
        moved = torch.zeros(free.shape[1], dtype=free.dtype)
        moved[index] = width
        ahead, behind = family.curve(free + moved, at), family.curve(free - moved, at)
        columns.append((ahead - behind) / (2 * width))
    return torch.stack(columns, -1)
