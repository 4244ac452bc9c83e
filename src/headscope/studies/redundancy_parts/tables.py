"""The tables of the redundancy study: what their columns mean, and how evidence becomes rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch

from headscope.measures import interval
from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.studies.redundancy_parts.cuts import Heads, written
from headscope.studies.redundancy_parts.heads import MARGINS, Growth
from headscope.studies.redundancy_parts.patching import MARGIN, Answers, Beyond, Evidence, Own, stream_named
from headscope.studies.redundancy_parts.peeling import KEPT_SHARE, Step
from headscope.studies.redundancy_parts.problems import REGIMES, Problems
from headscope.studies.redundancy_parts.prompts import NEAR, exactly, nearly
from headscope.studies.redundancy_parts.self_repair import SELF_REPAIR as _SELF_REPAIR
from headscope.studies.redundancy_parts.self_repair import self_repair_table
from headscope.sweeps.takeover import compensation
from headscope.tables import Column, Schema, Table
from headscope.vocabulary import Head

_STEP = Column("step", pl.Int64, "which cut: 0 is none")
_CUT = Column("cut", pl.String, "what is cut in A, everything of earlier steps included")
_FIRST = "stream whose patch makes B give {}, counted as the layer before which it stands; empty: never"
_ANY = (
    "any number: with number tokens the probability of all of them together, in text the share of prompts whose "
    "most likely next token begins a number"
)
_COMPARED = (
    Column("shuffled", pl.Float64, "the same patched from A with shuffled labels"),
    Column("other", pl.Float64, "the same patched from an A about another function"),
    Column("beyond", pl.Float64, "how far above its controls: the smaller of the two differences"),
    Column("beyond_low", pl.Float64, "lower 95% bound of that, paired by prompt: the lower of the two"),
    Column("beyond_high", pl.Float64, "upper 95% bound of that, paired by prompt: the lower of the two"),
)
_STREAM = (
    Column("layer", pl.Int64, "the stream before this layer is patched; the number of layers: the final one"),
    Column("stream", pl.String, "the same in words"),
)

CLEAN = Schema(
    "clean",
    (
        Column("run", pl.String, "A, or B as it is, with nothing put in"),
        Column("answer", pl.String, f"f(x_A) and so on: that number; {_ANY}"),
        Column("probability", pl.Float64, "mean probability of the whole number"),
        *bounds("the probability"),
        Column("said", pl.Float64, "share of prompts that say exactly this number"),
        Column("near", pl.Float64, f"share that say it within {NEAR:.0%}, rounded up"),
        PROMPTS,
    ),
)
CUTS = Schema(
    "cuts",
    (
        _STEP,
        _CUT,
        Column("probability", pl.Float64, "mean probability of A's answer f(x_A) under the cut"),
        *bounds("the probability"),
        Column("right", pl.Float64, "share of prompts for which A says exactly f(x_A)"),
        Column("near", pl.Float64, f"share for which A says it within {NEAR:.0%}, rounded up"),
        Column("first_slope", pl.Int64, _FIRST.format("a x_B")),
        Column("first_task", pl.Int64, _FIRST.format("f(x_B)")),
        Column("first_copied", pl.Int64, _FIRST.format("A's answer f(x_A)")),
        Column(
            "first_near_copied", pl.Int64, _FIRST.format("a number near f(x_A), by the share that say one")
        ),
        Column("first_slope_of_A", pl.Int64, _FIRST.format("a x_A")),
        Column("remains", pl.String, f"A's answer against {KEPT_SHARE:.0%} of its clean probability"),
        Column("reason", pl.String, "why nothing was cut after this; empty where something was"),
        PROMPTS,
    ),
)
PATCHED = Schema(
    "patched",
    (
        _STEP,
        _CUT,
        *_STREAM,
        Column("answer", pl.String, f"which number B gives; {_ANY}"),
        Column("probability", pl.Float64, "mean probability of the whole number"),
        *bounds("the probability"),
        *_COMPARED,
        Column("carries", pl.Boolean, f"whether beyond_low exceeds {MARGIN}"),
        Column("said", pl.Float64, "share of prompts for which B says exactly this number"),
        Column("near", pl.Float64, f"share for which B says it within {NEAR:.0%}, rounded up"),
        PROMPTS,
    ),
)
PARITY = Schema(
    "parity",
    (
        _STEP,
        _CUT,
        *_STREAM,
        Column(
            "share", pl.Float64, "share of problems with even a for which B says a number as odd as f(x_B)"
        ),
        *bounds("the share"),
        *_COMPARED,
        Column("carries", pl.Boolean, f"whether beyond_low, against the other function, exceeds {MARGIN}"),
        PROMPTS,
    ),
)
RANDOM = Schema(
    "random",
    (
        _STEP,
        Column("cut", pl.String, "as many layers (or heads) as the step cuts, drawn at random"),
        Column("probability", pl.Float64, "mean probability of A's answer under that cut"),
        *bounds("the probability"),
        Column("first_task", pl.Int64, _FIRST.format("f(x_B) or a x_B")),
        PROMPTS,
    ),
)
GROWTH = Schema(
    "growth",
    (
        Column("before", pl.String, "what is cut before"),
        Column("after", pl.String, "what is cut after"),
        Column(
            "quantity",
            pl.String,
            "share of the last position's attention on the shown y or x, or direct effect",
        ),
        Column("head", pl.String, "one of the heads in which it grew most on the selection half"),
        Column("value_before", pl.Float64, "before", "share or logits"),
        Column("value_after", pl.Float64, "after", "share or logits"),
        Column("growth", pl.Float64, "after - before", "share or logits"),
        *bounds("the growth", "share or logits"),
        Column("margin", pl.Float64, "growth up to here is none", "share or logits"),
        Column("backup", pl.Boolean, "whether the lower bound exceeds the margin"),
        PROMPTS,
    ),
)
_LOOKS = (
    Column("attention", pl.Float64, "attention from the token before each y to all earlier y, in A as it is"),
    Column("elsewhere", pl.Float64, "the same on as many other keys"),
    Column("beyond_low", pl.Float64, "lower 95% bound of the difference over prompts"),
    Column("beyond_high", pl.Float64, "upper 95% bound of the difference over prompts"),
    PROMPTS,
)
FORMERS = Schema(
    "formers",
    (
        Column(
            "head",
            pl.String,
            "in each layer of the first cut the head that costs the task most, on other prompts",
        ),
        Column("damage", pl.Float64, "fall of the logit of f(x_B) in B with this head cut in A", "logits"),
        *bounds("the damage", "logits"),
        *_LOOKS,
    ),
)
HEADS = Schema(
    "task_heads",
    (
        Column("head", pl.String, "a head that matters for A's answer on the selection half, worst first"),
        Column(
            "damage",
            pl.Float64,
            "fall of the answer's logit with the head at its label-shuffled mean",
            "logits",
        ),
        *bounds("the damage", "logits"),
        *_LOOKS,
    ),
)
TOGETHER = Schema(
    "together",
    (
        Column("what", pl.String, "heads: what they do for A's answer; layers: for the task that B is given"),
        Column("members", pl.String, "which; of each, at most so many as every set is cut of"),
        Column("together", pl.Float64, "damage of cutting all of them", "logits"),
        Column("apart", pl.Float64, "sum of the damages of cutting each alone", "logits"),
        Column(
            "interaction", pl.Float64, "together - apart; positive: they stand in for each other", "logits"
        ),
        *bounds("the interaction", "logits"),
        PROMPTS,
    ),
)
SELF_REPAIR = replace(
    _SELF_REPAIR,
    columns=(
        *_SELF_REPAIR.columns,
        Column(
            "compensation",
            pl.Float64,
            "what everything after the head writes more, at clean scales",
            "logits",
        ),
        Column("compensation_low", pl.Float64, "lower 95% bound of it over prompts", "logits"),
        Column("compensation_high", pl.Float64, "upper 95% bound of it over prompts", "logits"),
    ),
)


def clean_rows(problems: Problems, own: Own, bare: Answers) -> list[dict[str, Any]]:
    """A's own answer, and what B says with nothing put in."""
    rows = [_clean("A", "f(x_A)", own.probability, own.said, problems)]
    rows.append(_clean("A", "any number", own.number, None, problems))
    for index, name in enumerate(REGIMES):
        rows.append(_clean("B", name, bare.probability[0, index], bare.said[0], problems))
    rows.append(_clean("B", "any number", bare.number[0], None, problems))
    return rows


def _clean(
    run: str, answer: str, values: torch.Tensor, said: torch.Tensor | None, problems: Problems
) -> dict[str, Any]:
    shares = {"said": float("nan"), "near": float("nan")}
    if said is not None:
        right = problems.numbers[answer]
        shares = {"said": float(exactly(said, right).mean()), "near": float(nearly(said, right).mean())}
    return {"run": run, "answer": answer, **estimated(values, "probability"), **shares}


def cut_row(model: Model, number: int, step: Step, side: str) -> dict[str, Any]:
    """One line of METHODS' table: A under the cut, and from which layer on B gives what."""
    found, right = step.found, step.found.written.problems.numbers["f(x_A)"]
    said = found.own.said
    firsts = {
        "first_slope": found.probability("a x_B").first,
        "first_task": found.probability("f(x_B)").first,
        "first_copied": found.probability("f(x_A)").first,
        "first_near_copied": found.says("f(x_A)", near=True).first,
        "first_slope_of_A": found.probability("a x_A").first,
    }
    shares = {"right": float(exactly(said, right).mean()), "near": float(nearly(said, right).mean())}
    where = {"step": number, "cut": written(model, step.heads)}
    own = estimated(found.own.probability, "probability")
    return {**where, **own, **shares, **firsts, "remains": side, "reason": step.reason}


def patched_rows(model: Model, number: int, evidence: Evidence) -> list[dict[str, Any]]:
    """Every answer in every stream."""
    nothing = np.full(evidence.n_streams, np.nan)
    rows = []
    for answer in (*REGIMES, "any number"):
        if answer == "any number":
            found, said, near = evidence.any_number(), nothing, nothing
        else:
            found = evidence.probability(answer)
            said, near = evidence.says(answer).mean, evidence.says(answer, near=True).mean
        for stream in range(evidence.n_streams):
            where = _where(model, number, evidence, stream)
            shares = {"said": float(said[stream]), "near": float(near[stream])}
            rows.append({**where, "answer": answer, **_beyond(found, stream, "probability"), **shares})
    return rows


def parity_rows(model: Model, number: int, evidence: Evidence) -> list[dict[str, Any]]:
    """Parity in every stream; no rows without problems of even a."""
    found = evidence.parity()
    if found is None:
        return []
    return [
        {**_where(model, number, evidence, stream), **_beyond(found, stream, "share")}
        for stream in range(evidence.n_streams)
    ]


def _where(model: Model, number: int, evidence: Evidence, stream: int) -> dict[str, Any]:
    words = stream_named(stream, model.n_layers)
    return {"step": number, "cut": written(model, evidence.heads), "layer": stream, "stream": words}


def _beyond(found: Beyond, stream: int, name: str) -> dict[str, Any]:
    values = {name: found.mean, "low": found.low, "high": found.high, **found.controls}
    values |= {"beyond": found.beyond, "beyond_low": found.beyond_low, "beyond_high": found.beyond_high}
    numbers = {column: float(value[stream]) for column, value in values.items()}
    return {**numbers, "carries": found.carries[stream], "prompts": found.prompts}


def random_rows(model: Model, number: int, step: Step) -> list[dict[str, Any]]:
    """As many random layers (or heads) cut, one row for each draw."""
    return [
        {
            "step": number,
            "cut": written(model, control.heads),
            **estimated(control.own.probability, "probability"),
            "first_task": control.first_task(),
        }
        for control in step.controls
    ]


def growth_rows(
    model: Model, cuts: tuple[Heads, Heads], among: Sequence[Head], found: Growth, most: int
) -> list[dict[str, Any]]:
    """The heads in which a quantity grew most on the selection half, as they are on the other."""
    index = [model.heads.index(head) for head in among]
    before, after = found.chosen_on
    order = sorted(index, key=lambda head: -float((after - before)[:, head].mean()))[:most]
    before, after = found.found
    rows = []
    for head in order:
        grown = estimated(after[:, head] - before[:, head], "growth")
        rows.append(
            {
                "before": written(model, cuts[0]),
                "after": written(model, cuts[1]),
                "quantity": found.quantity,
                "head": str(model.heads[head]),
                "value_before": float(before[:, head].mean()),
                "value_after": float(after[:, head].mean()),
                **grown,
                "margin": MARGINS[found.quantity],
                "backup": grown["low"] > MARGINS[found.quantity],
            }
        )
    return rows


def head_rows(
    model: Model, heads: Heads, damage: torch.Tensor, looks: tuple[torch.Tensor, torch.Tensor]
) -> list[dict[str, Any]]:
    """Heads with their damages [head, prompt], and with where they look."""
    rows = []
    for head, own_damage in zip(heads, damage, strict=True):
        own, other = (each[:, model.heads.index(head)] for each in looks)
        beyond = interval((own - other).numpy())
        rows.append(
            {
                "head": str(head),
                **estimated(own_damage, "damage"),
                "attention": float(own.mean()),
                "elsewhere": float(other.mean()),
                "beyond_low": float(beyond.low),
                "beyond_high": float(beyond.high),
            }
        )
    return rows


def together_row(
    what: str, members: str, together: torch.Tensor | Array, apart: torch.Tensor | Array
) -> dict[str, Any]:
    """Cut together [prompt] beside one by one [member, prompt]."""
    means = {"together": float(together.mean()), "apart": float(apart.sum(0).mean())}
    interaction = estimated(together - apart.sum(0), "interaction")
    return {"what": what, "members": members, **means, **interaction}


def of_layers(table: Table) -> Table:
    """A table of statistics over sets of heads as one over sets of layers."""
    columns = tuple(
        replace(column, meaning=column.meaning.replace("head", "layer")) for column in table.schema.columns
    )
    return Table(replace(table.schema, name=f"layer_{table.name}", columns=columns), table.frame)


def repair_table(model: Model, heads: Heads, followed: AblatedEffects | None) -> Table:
    """Self-repair of each head's cut with what comes after it; empty where direct effects are not served."""
    if followed is None:
        return SELF_REPAIR.table([])
    rows = []
    for row, head, cut in zip(
        self_repair_table(heads, followed).rows(), heads, followed.ablated, strict=True
    ):
        found = interval(compensation(model, followed.clean, cut, head.layer).numpy())
        values = (float(found.mean), float(found.low), float(found.high))
        if row["reason"]:
            values = (float("nan"),) * 3
        names = ("compensation", "compensation_low", "compensation_high")
        rows.append({**row, **dict(zip(names, values, strict=True))})
    return SELF_REPAIR.table(rows)
