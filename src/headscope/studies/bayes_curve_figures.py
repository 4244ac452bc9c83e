"""The figures of the curve over examples; those of empty tables are left out."""

from collections.abc import Mapping

import polars as pl

from headscope.figures import lines
from headscope.results.study import Figure
from headscope.studies.bayes_curve_rows import MODEL
from headscope.studies.bayes_fits import BELIEF
from headscope.tables import Table


def all_figures(found: Mapping[str, Table]) -> tuple[Figure, ...]:
    """The curve, the read-off log-odds, the fits beyond their half, and the divergence from the exact posterior."""
    figures = [
        lines(
            found["curve"],
            "shots",
            "p",
            "learner",
            "low",
            "high",
            title="How the right answer grows with examples",
            caption="Mean probability of the function's value after so many pairs. The exact posteriors see the "
            "same "
            "pairs. A regression is sure of its answer, so that its probability is the share of prompts in "
            "which the nearest whole number is right. With shuffled labels there is no function to learn.",
            name="curve",
        )
    ]
    # The posterior's own belief climbs far above what p can show; it would flatten the rest.
    shown = found["log_odds"]
    shown = Table(shown.schema, shown.frame.filter(pl.col("learner") != BELIEF))
    if _defined(shown, "log_odds"):
        figures.append(
            lines(
                shown,
                "shots",
                "log_odds",
                "learner",
                title="Log-odds of the task",
                caption="logit A read off the curve with the fitted beta and gamma, where p lies between them "
                "and A "
                "is not within .02 of 0 or 1: the article's update makes it a straight line. Beside it the "
                "log-odds of the "
                "exact p itself, which level off. The table has the posterior's own belief in the function, too.",
                name="log_odds",
            )
        )
    if len(found["predicted"]) and len(found["predicted"].frame["curve"].unique()) > 1:
        fitted = max(row["fitted"] for row in found["extrapolation"].rows(learner=MODEL))
        figures.append(
            lines(
                found["predicted"],
                "shots",
                "p",
                "curve",
                title="Four families of curves, fitted to the first half",
                caption="The model's curve (exp of the mean log-probability) and what each family says: fitted "
                "to the "
                f"first {fitted} shots, a prediction after them.",
                name="extrapolation",
            )
        )
    over = "numbers" if _defined(found["distances"].where(over="numbers"), "kl") else "right or not"
    distances = found["distances"].where(over=over)
    if _defined(distances, "kl"):
        figures.append(
            lines(
                distances,
                "shots",
                "kl",
                "reference",
                "low",
                "high",
                title="Distance from the exact posterior",
                caption=f"KL divergence of the model's prediction from the exact one, over {over}, after so "
                "many pairs.",
                name="distance",
            )
        )
    return tuple(figures)


def _defined(table: Table, column: str) -> bool:
    return bool(table.frame.select((pl.col(column).is_not_nan()).any()).item())
