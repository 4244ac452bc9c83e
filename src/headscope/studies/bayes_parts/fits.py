"""What is fitted to the curves of the study `bayes`: the article's update, and four families of curves.

In: what the part `curve` has looked at. Out: the tables updates, log_odds, extrapolation, against and predicted. The
update is fitted to mean log-odds per prompt, the families to exp(-NLL) with the NLL averaged over prompts. The
exact posterior goes through the same fits on the same resampled prompts: it is the positive control.
"""

import math
from typing import Any

import numpy as np

from headscope.measures.curve_fits import (
    SHARES,
    Extrapolation,
    against,
    extrapolate,
    percentile_bounds,
    resampled_means,
)
from headscope.measures.curves import BAYESIAN, step_per_example
from headscope.measures.intervals import Array
from headscope.measures.updates import Line, Updates, fit_updates, line_of
from headscope.studies.bayes_parts import tables
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.curve_rows import MODEL, of_right
from headscope.studies.bayes_parts.seen import Seen
from headscope.tables import Table
from headscope.vocabulary import Progress

# Probabilities nearer to 0 or 1 than this are counted as this near, so that log-odds stay finite.
NEAREST = 1e-6
DIFFERENCE = "model minus exact posterior"
BELIEF = "exact posterior, its own belief in the function"
LOGIT_P = "exact posterior, log-odds of p itself"
_NO_FIT = "a line alone: nothing is fitted"
_IMPOSSIBLE = "no function of the family allows what some prompts show"


def fit_tables(seen: Seen, config: Config, progress: Progress) -> dict[str, Table]:
    """All fits, for the model and for the exact posterior over all functions."""
    exact = next(iter(seen.exact))
    curves = {MODEL: _safe(seen.model.p.numpy()), exact: _safe(of_right(seen.reference, seen.right).numpy())}
    fitted: dict[str, Updates] = {}
    for done, (learner, p) in enumerate(curves.items()):
        progress("fitting updates", done, len(curves))
        if np.isfinite(p).all():
            fitted[learner] = fit_updates(_logit(p), resamples=config.resamples, seed=config.seed)
    lines = {BELIEF: seen.belief.numpy().mean(0), LOGIT_P: _logit(curves[exact]).mean(0)}
    extrapolated: dict[str, list[Extrapolation]] = {}
    for done, (learner, p) in enumerate(curves.items()):
        progress("extrapolating curves", done, len(curves))
        extrapolated[learner] = _extrapolated(p, config) if np.isfinite(p).all() else []
    return {
        "updates": _updates_table(fitted, exact, lines, len(seen.shots)),
        "log_odds": _log_odds_table(fitted, lines),
        "extrapolation": _extrapolation_table(extrapolated),
        "against": _against_table(extrapolated),
        "predicted": _predicted_table(curves[MODEL], extrapolated[MODEL]),
    }


def _safe(p: Array) -> Array:
    return np.clip(p, NEAREST, 1 - NEAREST)


def _logit(p: Array) -> Array:
    log_odds: Array = np.log(p) - np.log1p(-p)
    return log_odds


def _extrapolated(p: Array, config: Config) -> list[Extrapolation]:
    means = resampled_means(np.log(p[:, 1:]), resamples=config.resamples, seed=config.seed)
    shots = np.arange(1, p.shape[1], dtype=np.float64)
    if not len(shots):
        return []
    return [
        each for share in SHARES for each in extrapolate(shots, np.exp(means), share=share, seed=config.seed)
    ]


def _updates_table(fitted: dict[str, Updates], exact: str, lines: dict[str, Array], prompts: int) -> Table:
    found = [_updates_row(learner, each, prompts) for learner, each in fitted.items()]
    nothing = _blank(prompts)
    if exact in fitted and not fitted[MODEL].reason:
        own, control = fitted[MODEL], fitted[exact]
        low, high = percentile_bounds(own.resampled_misfit - control.resampled_misfit)
        numbers = {"misfit": own.misfit - control.misfit, "low": low, "high": high}
        found.append({**nothing, "learner": DIFFERENCE, **numbers, "reason": "a difference of misfits alone"})
    for learner, log_odds in lines.items():
        found.append({**nothing, "learner": learner, **_line_cells(line_of(log_odds)), "reason": _NO_FIT})
    if exact not in fitted:
        found.append({**nothing, "learner": exact, "reason": _IMPOSSIBLE})
    return tables.UPDATES.table(found)


def _blank(prompts: int) -> dict[str, Any]:
    """A row in which nothing is known yet."""
    counts = {"points": 0, "outside": 0, "unresolved": 0, "prompts": prompts}
    names = [column.name for column in tables.UPDATES.columns]
    return {name: counts.get(name, math.nan) for name in names} | {"learner": "", "reason": ""}


def _line_cells(line: Line) -> dict[str, Any]:
    return {"slope": line.slope, "r2": line.r2, "bend": line.bend, "points": line.points}


def _updates_row(learner: str, fit: Updates, prompts: int) -> dict[str, Any]:
    low, high = fit.misfit_bounds
    return {
        "learner": learner,
        "step": fit.step_nats,
        "step_low": fit.step_bounds[0],
        "step_high": fit.step_bounds[1],
        "a_0": fit.prior,
        "c": fit.c,
        "beta": fit.beta,
        "gamma": fit.gamma,
        "gamma_low": fit.gamma_bounds[0],
        "gamma_high": fit.gamma_bounds[1],
        "misfit": fit.misfit,
        "low": low,
        "high": high,
        **_line_cells(fit.line),
        "outside": fit.outside,
        "unresolved": fit.unresolved,
        "prompts": prompts,
        "reason": fit.reason,
    }


def _log_odds_table(fitted: dict[str, Updates], lines: dict[str, Array]) -> Table:
    found = []
    for learner, fit in fitted.items():
        for shot in range(len(fit.p)):
            cells = {"p": fit.p[shot], "fitted": fit.fitted[shot], "log_odds": fit.log_odds[shot]}
            found.append({"learner": learner, "shots": shot, **{k: float(v) for k, v in cells.items()}})
    for learner, log_odds in lines.items():
        for shot, value in enumerate(log_odds):
            known = float(value) if np.isfinite(value) else math.nan  # sure of it: no log-odds
            cells = {"p": math.nan, "fitted": math.nan, "log_odds": known}
            found.append({"learner": learner, "shots": shot, **cells})
    return tables.LOG_ODDS.table(found)


def _extrapolation_table(extrapolated: dict[str, list[Extrapolation]]) -> Table:
    found = []
    for learner, listed in extrapolated.items():
        for each in listed:
            low, high = each.bounds
            parameters = {} if each.fit is None else each.fit.parameters
            bayesian = each.fit is not None and each.family == BAYESIAN.name
            found.append(
                {
                    "learner": learner,
                    "share": each.share,
                    "family": each.family,
                    "fitted": each.fitted,
                    "held_out": each.held_out,
                    "inside": each.inside,
                    "error": each.error,
                    "low": low,
                    "high": high,
                    "parameters": ", ".join(f"{name} {value:.3g}" for name, value in parameters.items()),
                    "step": step_per_example(parameters) if bayesian else math.nan,
                    "reason": each.reason,
                }
            )
    return tables.EXTRAPOLATION.table(found)


def _against_table(extrapolated: dict[str, list[Extrapolation]]) -> Table:
    found = []
    for learner, listed in extrapolated.items():
        for share in dict.fromkeys(each.share for each in listed):
            own = {each.family: each for each in listed if each.share == share}
            bayesian = own.pop(BAYESIAN.name)
            for other in own.values():
                pair = against(bayesian, other)
                found.append(
                    {
                        "learner": learner,
                        "share": share,
                        "other": pair.other,
                        "worse": pair.difference,
                        "low": pair.low,
                        "high": pair.high,
                        "tied": pair.tied,
                    }
                )
    return tables.AGAINST.table(found)


def _predicted_table(p: Array, listed: list[Extrapolation]) -> Table:
    """The model's curve, and what each family says after a fit to the first half."""
    curves = {"model": np.exp(np.log(p[:, 1:]).mean(0))}
    curves |= {each.family: each.fit.p for each in listed if each.fit and each.share == max(SHARES)}
    return tables.PREDICTED.table(
        {"curve": name, "shots": shot, "p": float(value)}
        for name, values in curves.items()
        for shot, value in enumerate(values, start=1)
    )
