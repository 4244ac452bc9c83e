"""A made-up study that has whatever a study may have, for pages to be tested on and looked at."""

import math

import numpy as np
import polars as pl

from headscope.figures import bars_with_intervals, head_grid, lines
from headscope.results.study import AttentionExample, Claim, EvidenceRow, Source, Study, Verdict
from headscope.tables import Column, Schema, Table

NAN = math.nan
LONG = "unbroken_" * 14

EFFECTS = Schema(
    "effects",
    (
        Column("place", pl.String, "where the MLPs were ablated"),
        Column("kind", pl.String, "which layers"),
        Column("damage", pl.Float64, "fall of the answer's log-odds", "nats"),
        Column("low", pl.Float64, "lower bound", "nats"),
        Column("high", pl.Float64, "upper bound", "nats"),
        Column("random_heads", pl.Float64, "mean over random heads", "nats"),
    ),
)
SCORES = Schema(
    "scores",
    (
        Column("layer", pl.Int64, "layer of the head"),
        Column("head", pl.Int64, "index of the head"),
        Column("detector", pl.String, "what the head is scored for"),
        Column("score", pl.Float64, "mean attention on the keys of the detector", "probability"),
        Column("remark", pl.String, "words of ordinary length beside one that is much longer than its line"),
    ),
)
CURVE = Schema(
    "transfer",
    (
        Column("layer", pl.Int64, "layer whose residual stream is patched"),
        Column("source", pl.String, "where the residual stream comes from"),
        Column("transfer", pl.Float64, "probability of f(x) of the target"),
        Column("low", pl.Float64, "lower bound"),
        Column("high", pl.Float64, "upper bound"),
    ),
)
WIDE = Schema("wide", tuple(Column(f"measured_at_step_{1000 * n}", pl.Float64, f"column {n}") for n in range(24)))


def effects(groups: int) -> Table:
    places = ("label tokens", "final token", "x tokens", "separators")
    return EFFECTS.table(
        {
            "place": place,
            "kind": ("early layers", "middle layers", "late layers", "all layers")[group],
            "damage": NAN if (row, group) == (3, 1) else 2.1 - 0.5 * row + 0.2 * group,
            "low": NAN if (row, group) == (3, 1) else 1.8 - 0.5 * row + 0.2 * group,
            "high": NAN if (row, group) == (3, 1) else 2.4 - 0.5 * row + 0.2 * group,
            "random_heads": 0.4,
        }
        for row, place in enumerate(places)
        for group in range(groups)
    )


def _scores() -> Table:
    return SCORES.table(
        {
            "layer": layer,
            "head": head,
            "detector": detector,
            "score": NAN if (layer, head) == (2, 5) else ((layer * 7 + head * 3 + which) % 11) / 10,
            "remark": LONG if (layer, head) == (0, 0) else "attends to the token after earlier copies of it",
        }
        for which, detector in enumerate(("induction", "previous token", "duplicate token"))
        for layer in range(4)
        for head in range(8)
    )


def _curve() -> Table:
    sources = ("twelve examples", "label-shuffled examples", "layers 2 and 3 ablated", "layers 1 to 3 ablated")
    return CURVE.table(
        {
            "layer": layer,
            "source": source,
            "transfer": (middle := 0.06 if n == 1 else 0.66 / (1 + math.exp(4 - layer)) / (1 + n / 2)),
            "low": max(0.0, middle - 0.05),
            "high": middle + 0.05,
        }
        for n, source in enumerate(sources)
        for layer in range(9)
    )


def _row(role: str, what: str, values: tuple[float, float, float], wanted: tuple[str, float], side: str, **more):
    known = {"quantity": "damage", "unit": "nats", "over": "prompts", "n": 24, **more}
    estimate, low, high = values
    comparison, margin = wanted
    return EvidenceRow(
        role=role, what=what, estimate=estimate, low=low, high=high, comparison=comparison, margin=margin,
        side=side, **known,
    )  # fmt: skip


CLAIMS = (
    Claim(
        "mlps_at_labels",
        "The MLPs that matter act at the label tokens.",
        Verdict.SUPPORTED,
        "Ablating the MLPs at label tokens costs 1.2 [0.9, 1.5] nats more than at the final token.",
        ("effects", "transfer"),
        (
            _row("need", "examples help", (2.3, 1.9, 2.7), ("above", 0.5), "yes", quantity="rise"),
            _row("positive control", "twice the margin injected", (0.2, 0.15, 0.26), ("above", 0.1), "yes"),
            _row("null", "same, label-shuffled", (0.03, -0.02, 0.08), ("above", 0.1), "no"),
            _row("test", "label minus final token", (1.2, 0.9, 1.5), ("above", 0.1), "yes"),
            _row("test", "label minus x", (0.7, 0.4, 1.0), ("above", 0.1), "yes"),
        ),
    ),
    Claim(
        "no_direct_effect",
        "Attention layers 2 and 3 have no direct effect on the answer.",
        Verdict.REFUTED,
        "Their direct effect is 0.42 [0.33, 0.50] logits, outside ±0.1.",
        (),
        (
            _row("test", "direct effect", (0.42, 0.33, 0.50), ("within", 0.1), "no", unit="logits"),
            _row("test", "rank against random layers", (0.03, NAN, NAN), ("p at most", 0.05), "yes",
                 quantity="p_value", unit="", over="random sets", n=200),
        ),
    ),
    Claim(
        "one_head",
        "One head alone makes the task vector.",
        Verdict.UNDETERMINED,
        "No head stands out on the selection half.",
        ("scores",),
        (
            _row("need", "a head stands out", (NAN, NAN, NAN), ("above", 0.1), "unclear", n=0,
                 reason="no cell was selected: the best head differs between halves"),
            _row("test", LONG, (-0.02, -0.3, 0.26), ("below", 0.0), "unclear", over="functions", n=10),
        ),
    ),
)  # fmt: skip


def study() -> Study:
    """Long words, undefined values, evidence of each role and side, wide tables and figures, sources."""
    patterns = np.tril(np.random.default_rng(0).random((2, 4, 12, 12)))
    patterns /= patterns.sum(-1, keepdims=True)
    words = {"caption": "What was measured, on which prompts, with bootstrap intervals over 24 prompts."}
    return Study(
        name="redundancy",
        title="In-context learning of y = ax + b in zoo:linear-8l",
        question="Where is the task formed, and do other heads form it when those are ablated?",
        answer=(
            "Patching the final token's residual stream into a prompt without examples transfers the task from "
            "layer 4 on: the target answers with its own f(x) in 66% [59, 68] (label-shuffled source: 6%).",
            "The attention layers are redundant: ablated jointly they cost 4.5 logits, singly 0.2 in sum.",
        ),
        claims=CLAIMS,
        tables={
            "scores": _scores(),
            "effects": effects(3),
            "transfer": _curve(),
            "wide": WIDE.table({c.name: n / 7 for n, c in enumerate(WIDE.columns)} for _ in range(30)),
        },
        figures=(
            head_grid(_scores(), "score", facet="detector", title="What each head attends to", **words),
            lines(_curve(), "layer", "transfer", "source", "low", "high", name="lead",
                  title="Where the task can be read off", **words),
            bars_with_intervals(effects(3), "place", "damage", "low", "high", group="kind",
                                reference="random_heads", title="Where the MLPs matter", **words),
            bars_with_intervals(effects(1), "place", "damage", "low", "high", reference=0.1, name="few",
                                reference_name="margin of the claim", title="The same, early layers", **words),
            head_grid(_scores().where(detector="induction"), "score", diverging=True, name="signed",
                      title="Signed", **words),
        ),
        lead="lead",
        details=("Ablating attention layers 2 and 3 does not prevent it (60%); ablating layers 1 to 3 does.",),
        terms={
            "transfer": "the target answers with f(x) although its own prompt has no examples",
            "task vector": "the residual stream at the final token, averaged over prompts of one task",
        },
        sources=(
            Source("Redundant Attention Heads in Large Language Models For In Context Learning", "A. Author",
                   2024, "https://example.org/redundant?a=1&b=2"),
            Source("In-Context Learning Creates Task Vectors", "R. Hendel, M. Geva, A. Globerson", 2023,
                   "javascript:alert(1)"),
        ),
        attention=(
            AttentionExample("p", "Attention patterns", "One prompt.", tuple(f" t{n}" for n in range(12)),
                             patterns.astype(np.float32), {"1.2": "induction"}),
        ),
        notes=("Intervals are bootstrap intervals over prompts.",),
        provenance={
            "model": "zoo:linear-8l",
            "prompts": [{"task": "linear", "n": 24, "seed": 0, "path": "/home/somebody/" + LONG}],
            "seed": 0,
            "date": "2026-01-01",
            "command": ["headscope", "study", "redundancy", "--model", "zoo:linear-8l", "--out", LONG],
            "versions": {"torch": "2.13.0", "transformers": "5.1.0"},
        },
    )  # fmt: skip
