"""The figures of the heads study."""

from collections.abc import Mapping
from dataclasses import replace

from headscope.figures import bars_with_intervals, head_grid, layer_position_grid, lines
from headscope.models.model import Model
from headscope.results.study import Figure
from headscope.tables import Table

# Beyond so many heads a bar for each is no longer read; the table has them all.
MOST_BARS = 24


def all_figures(found: Mapping[str, Table], model: Model) -> tuple[Figure, ...]:
    """One figure per question, in the order of the questions; empty tables have none."""
    figures = [
        head_grid(
            found["heads"],
            "score",
            facet="detector",
            low=0.0,
            high=1.0,
            title="What each head attends to",
            caption="Mean attention on each detector's keys. The table has intervals, the uniform reference, "
            "and the null: matched prompts without repetition for induction and duplicate tokens, equally many "
            "other visible keys of the same queries for detectors of a place.",
            name="detectors",
        ),
        head_grid(
            found["damage"].where(prompts_kind="repeated"),
            "damage",
            facet="ablation",
            diverging=True,
            title="What is lost when a head is cut",
            caption="Rise of the loss on predictable tokens of repeated sequences: the head's output replaced "
            "by its mean over random tokens, by zero, or the head sent to the first token.",
            name="damage",
        ),
    ]
    if len(found["groups"]):
        figures.append(
            bars_with_intervals(
                found["groups"],
                "group",
                "damage",
                "low",
                "high",
                reference="random_mean",
                title="Named heads against as many random heads",
                caption="Rise of the loss with all heads of a group cut together (means in their place). The "
                "mark is the mean over random sets of the same size.",
                name="groups",
            )
        )
    if len(found["cumulative"]):
        figures.append(_cumulative(found["cumulative"]))
    figures.append(_patching(found["patching"]))
    if found["takeover"].rows(later=True):
        figures.append(_takeover(found["takeover"]))
    return tuple(figures)


def _cumulative(table: Table) -> Figure:
    schema = replace(
        table.schema,
        columns=tuple(
            replace(column, unit="logits") if column.unit == "unit of the measure" else column
            for column in table.schema.columns
        ),
    )
    return lines(
        Table(schema, table.where(measure="next_logit").frame),
        "cut",
        "damage",
        "quantity",
        "low",
        "high",
        title="Induction heads cut one after another",
        caption="Fall of the right token's logit. Where cutting together hurts more than the sum of single "
        "cuts, heads stand in for each other.",
        name="cumulative",
    )


def _patching(table: Table) -> Figure:
    first_layer = table.rows(layer=0)
    labels = [row["role"] or None for row in sorted(first_layer, key=lambda row: row["position"])]
    return layer_position_grid(
        table,
        "recovered",
        token_labels=labels,
        diverging=True,
        low=-1.0,
        high=1.0,
        title="Where the answer can be restored",
        caption="The stream of the clean run patched into the corrupted run, one place at a time: share of the "
        "logit difference restored. Rows are the streams before each layer; the last row is the final stream.",
        name="patching",
    )


def _takeover(table: Table) -> Figure:
    ordered = sorted(table.rows(later=True), key=lambda row: -abs(row["change"]))[:MOST_BARS]
    shown = table.schema.table(sorted(ordered, key=lambda row: (row["layer"], row["component"], row["cut"])))
    return bars_with_intervals(
        shown,
        "component",
        "change",
        "low",
        "high",
        group="cut",
        reference=0.0,
        title="Who writes more, and who less, once a head is cut",
        caption=f"Change of the direct effect of every component that comes after the cut head, on the right "
        f"token's logit (the {MOST_BARS} largest at most), with the norms' scales of the clean run.",
        name="takeover",
    )
