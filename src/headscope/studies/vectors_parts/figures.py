"""The figures of the vectors study."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from headscope.figures import bars_with_intervals, head_grid, lines
from headscope.results.study import Figure
from headscope.studies.vectors_parts.reach import (
    ALL_HEADS,
    DUMMYS,
    FUNCTION,
    MEAN,
    OTHER,
    OTHER_FUNCTION,
    OTHERS,
    OWN,
    RANDOM_DIRECTION,
    RANDOM_HEADS,
    SHUFFLED,
    TASK,
)
from headscope.tables import Column, Table

_TASK_LINES = ((TASK, OWN), (MEAN, OWN), (SHUFFLED, OWN), (OTHER, OWN), (OTHER, OTHERS), (TASK, DUMMYS))
_FUNCTION_LINES = (
    (FUNCTION, OWN),
    (RANDOM_HEADS, OWN),
    (RANDOM_DIRECTION, OWN),
    (OTHER_FUNCTION, OWN),
    (OTHER_FUNCTION, OTHERS),
    (ALL_HEADS, OWN),
)


def all_figures(found: Mapping[str, Table]) -> tuple[Figure, ...]:
    """One figure per question, in the order of the questions."""
    baselines = found["baselines"]
    return (
        _over_layers(
            found["task_vectors"],
            baselines,
            "zero-shot",
            _TASK_LINES,
            title="What a task vector does at each layer",
            caption="Accuracy of prompts without pairs whose stream at the read-out is replaced, before each layer, "
            "by that of another prompt with other inputs. “Own” is the function's value at what is asked, “dummy "
            "query's” the answer of the prompt from which the vector comes. Bands are 95% bounds over functions.",
        ),
        head_grid(
            found["head_effects"],
            "indirect_effect",
            diverging=True,
            title="Causal indirect effect of each head",
            caption="How much more likely the right answer of a label-shuffled prompt becomes when this head's "
            "output at the read-out is replaced by its mean over clean prompts of the function.",
            name="indirect-effect",
        ),
        *(
            _over_layers(
                found["function_vectors"],
                baselines,
                kind,
                _FUNCTION_LINES,
                title=f"What a function vector does at each layer: {kind} prompts",
                caption="Accuracy with the sum of the top heads' mean outputs added to the stream at the read-out, "
                "before each layer. The controls have as many random heads, a random direction of the same norm, or "
                "another function; “all heads” is the sum of all heads' means. Bands are 95% bounds over functions.",
            )
            for kind in ("zero-shot", "label-shuffled")
        ),
        *(_cut(found["ablations"]) if len(found["ablations"]) else ()),
    )


def _cut(table: Table) -> tuple[Figure, ...]:
    return (
        bars_with_intervals(
            table,
            "group",
            "damage",
            "low",
            "high",
            reference="random_mean",
            title="Few-shot accuracy lost with each kind of heads cut",
            caption="The top heads of one kind that are not top heads of the other, cut together: their means over "
            "label-shuffled prompts in their place. The mark is the mean over random sets of as many heads.",
            name="ablations",
        ),
    )


def _over_layers(
    table: Table,
    baselines: Table,
    kind: str,
    shown: tuple[tuple[str, str], ...],
    *,
    title: str,
    caption: str,
) -> Figure:
    """Accuracy by layer of some vectors and answers, with that without a vector and with pairs as level lines."""
    frame = table.where(half="estimation", prompts_kind=kind).frame
    series = Column("series", pl.String, "vector and answer")
    named = pl.concat_str(["vector", "answer"], separator=": ").alias("series")
    wanted = [f"{vector}: {answer}" for vector, answer in shown]
    columns = ("series", "layer", "accuracy", "low", "high")
    parts = [frame.with_columns(named).filter(pl.col("series") == name).select(columns) for name in wanted]
    layers = frame.select(pl.col("layer").unique().sort())
    for level in dict.fromkeys(("few-shot", kind)):
        line = baselines.where(prompts_kind=level).frame.select(
            pl.lit(f"no vector, {level}").alias("series"), "accuracy", "low", "high"
        )
        parts.append(layers.join(line, how="cross").select(columns))
    schema = replace(
        table.schema,
        columns=(series, *(column for column in table.schema.columns if column.name in columns)),
    )
    drawn = Table(schema, pl.concat(parts))
    name = f"{table.name}-{kind}".replace("_", "-")
    return lines(drawn, "layer", "accuracy", "series", "low", "high", title=title, caption=caption, name=name)
