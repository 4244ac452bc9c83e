"""The figures of the curve over examples; those of empty tables are left out."""

from collections.abc import Mapping

import polars as pl

from headscope.figures import lines
from headscope.results.study import Figure
from headscope.studies.bayes_parts.curve_rows import MODEL
from headscope.studies.bayes_parts.fits import BELIEF
from headscope.tables import Table

Tables = Mapping[str, Table]


def all_figures(found: Tables) -> tuple[Figure, ...]:
    """The curve, the read-off log-odds, the fits beyond their half, and the divergence from the exact posterior."""
    drawn = (_curve(found), _log_odds(found), _extrapolation(found), _distance(found))
    return tuple(figure for figure in drawn if figure is not None)


def _curve(found: Tables) -> Figure:
    return lines(
        found["curve"],
        "shots",
        "p",
        "learner",
        "low",
        "high",
        title="How the right answer grows with examples",
        caption="Mean probability of the function's value after so many pairs. The exact posteriors see the same "
        "pairs. A regression is sure of its answer, so that its probability is the share of prompts in which the "
        "nearest whole number is right. With shuffled labels there is no function to learn.",
        name="curve",
    )


def _log_odds(found: Tables) -> Figure | None:
    # The posterior's own belief climbs far above what p can show; it would flatten the rest.
    whole = found["log_odds"]
    shown = Table(whole.schema, whole.frame.filter(pl.col("learner") != BELIEF))
    if not _defined(shown, "log_odds"):
        return None
    return lines(
        shown,
        "shots",
        "log_odds",
        "learner",
        title="Log-odds of the task",
        caption="logit A read off the curve with the fitted beta and gamma, where p lies between them and A is not "
        "within .02 of 0 or 1: the article's update makes it a straight line. Beside it the log-odds of the exact p "
        "itself, which level off. The table has the posterior's own belief in the function, too.",
        name="log_odds",
    )


def _extrapolation(found: Tables) -> Figure | None:
    if found["predicted"].frame["curve"].n_unique() < 2:
        return None
    fitted = max(row["fitted"] for row in found["extrapolation"].rows(learner=MODEL))
    return lines(
        found["predicted"],
        "shots",
        "p",
        "curve",
        title="Four families of curves, fitted to the first half",
        caption="The model's curve (exp of the mean log-probability) and what each family says: fitted to the first "
        f"{fitted} shots, a prediction after them.",
        name="extrapolation",
    )


def _distance(found: Tables) -> Figure | None:
    over = "numbers" if _defined(found["distances"].where(over="numbers"), "kl") else "right or not"
    shown = found["distances"].where(over=over)
    if not _defined(shown, "kl"):
        return None
    return lines(
        shown,
        "shots",
        "kl",
        "reference",
        "low",
        "high",
        title="Distance from the exact posterior",
        caption=f"KL divergence of the model's prediction from the exact one, over {over}, after so many pairs.",
        name="distance",
    )


def _defined(table: Table, column: str) -> bool:
    return bool(table.frame.select((pl.col(column).is_not_nan()).any()).item())
