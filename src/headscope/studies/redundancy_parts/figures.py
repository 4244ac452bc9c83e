"""The figures of the redundancy study."""

from collections.abc import Mapping

import polars as pl

from headscope.figures import bars_with_intervals, lines
from headscope.models.model import Model
from headscope.results.study import Figure
from headscope.studies.redundancy_parts.problems import REGIMES
from headscope.tables import Table


def all_figures(found: Mapping[str, Table], model: Model) -> tuple[Figure, ...]:
    """One figure per question, in the order of the questions; empty tables have none."""
    last = f"Layer {model.n_layers} stands for the final stream."
    clean = found["patched"].where(step=0)
    figures = [
        _regimes(clean, last),
        _of_answer(found["patched"], "f(x_B)", "Where the task is carried, after each cut", "task", last),
        _of_answer(
            found["patched"], "f(x_A)", "Where A's own answer is carried, after each cut", "copied", last
        ),
    ]
    if len(found["cuts"]) > 1:
        figures.append(_own(found))
    if len(found["growth"]):
        figures += _growth(found["growth"])
    if len(found["task_heads"]):
        figures.append(
            bars_with_intervals(
                found["task_heads"],
                "head",
                "damage",
                "low",
                "high",
                title="Heads that matter for A's answer",
                caption="Fall of the answer's logit above the vocabulary's mean with one head at its mean over "
                "label-shuffled prompts, on other prompts than it was picked on.",
                name="task-heads",
            )
        )
    return tuple(figures)


def _regimes(table: Table, last: str) -> Figure:
    kept = table.frame.filter(pl.col("answer").is_in(REGIMES))
    return lines(
        Table(table.schema, kept),
        "layer",
        "probability",
        "answer",
        "low",
        "high",
        title="What B answers with the stream of A's last position",
        caption=f"Probability of each answer when the stream before a layer is moved from A to B. {last}",
        name="regimes",
    )


def _of_answer(table: Table, answer: str, title: str, name: str, last: str) -> Figure:
    return lines(
        table.where(answer=answer),
        "layer",
        "probability",
        "cut",
        "low",
        "high",
        title=title,
        caption=f"Probability that B answers {answer}, by what is cut in A. {last}",
        name=name,
    )


def _own(found: Mapping[str, Table]) -> Figure:
    """A's answer after each cut, and after as many random layers."""
    picked = found["cuts"].frame.select("step", "cut", "probability", "low", "high")
    rows = pl.concat([picked, found["random"].frame.select(picked.columns)]).sort("step", maintain_order=True)
    rows = rows.with_columns(
        label=pl.format("{}: {}", pl.col("step"), pl.col("cut")),
    )
    schema = found["cuts"].schema
    shown = Table(schema, rows.drop("cut").rename({"label": "cut"}))
    return bars_with_intervals(
        shown,
        "cut",
        "probability",
        "low",
        "high",
        reference=float(picked["probability"][0]),
        title="A's answer under each cut",
        caption="Probability of f(x_A). First under each number the cut of that step, then as many layers or heads "
        "drawn at random. The mark is A with nothing cut.",
        name="own",
    )


def _growth(table: Table) -> list[Figure]:
    """Attention and logits apart, since they have different units."""
    figures = []
    parts = (
        ("attention", table.frame.filter(pl.col("quantity") != "direct effect")),
        ("effect", table.frame.filter(pl.col("quantity") == "direct effect")),
    )
    for name, frame in parts:
        if frame.is_empty():
            continue
        named = frame.with_columns(
            head=pl.format("{} once {}", pl.col("head"), pl.col("after")),
        )
        figures.append(
            bars_with_intervals(
                Table(table.schema, named),
                "head",
                "growth",
                "low",
                "high",
                group="quantity",
                reference=float(frame["margin"][0]),
                title=f"Which heads {'look more at the shown numbers' if name == 'attention' else 'write more'}",
                caption="The heads that grew most on other prompts. The mark is the margin: growth up to there "
                "is none.",
                name=f"growth-{name}",
            )
        )
    return figures
