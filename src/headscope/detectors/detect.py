"""The detector table: every head's score on every detector, with interval, references and null.

In: a model and names of detectors. Out: one row per head and detector. A head is *named* by a detector if
the lower bound of its score above the matched null exceeds a margin (.1): an interval above uniform
attention alone names far too many heads of a random model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from torch import Tensor

from headscope.detectors.catalogue import DEFAULT, Detector, detectors
from headscope.detectors.reading import MassReading
from headscope.errors import BadArgument
from headscope.measures.intervals import interval
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.tables import Column, Schema, Table
from headscope.tasks.natural import natural
from headscope.tasks.prompts import Prompts
from headscope.tasks.repeated import repeated_tokens, without_repeats

NAMED_MARGIN = 0.1

HEADS = Schema(
    "heads",
    (
        Column("layer", pl.Int64, "layer, from 0"),
        Column("head", pl.Int64, "head within its layer, from 0"),
        Column("detector", pl.String, "what kind of head is looked for"),
        Column("score", pl.Float64, "mean attention on the detector's keys", "probability"),
        Column("low", pl.Float64, "lower 95% bound of the score over prompts", "probability"),
        Column("high", pl.Float64, "upper 95% bound of the score over prompts", "probability"),
        Column("uniform", pl.Float64, "the score of even attention = share of visible keys", "probability"),
        Column("lift", pl.Float64, "score over uniform", "times"),
        Column("null", pl.Float64, "mean attention on the same pairs without the structure", "probability"),
        Column("above_null_low", pl.Float64, "lower 95% bound of score - null, paired", "probability"),
        Column("above_null_high", pl.Float64, "upper 95% bound of score - null, paired", "probability"),
        Column("named", pl.Boolean, f"above_null_low exceeds {NAMED_MARGIN}"),
        Column("prompts", pl.Int64, "prompts behind the score"),
    ),
)


@dataclass(frozen=True)
class DetectorPrompts:
    """The prompts that detectors are judged on; `default_prompts` builds them for a model."""

    natural: Prompts
    repeated: Prompts
    unrepeated: Prompts

    def rows(self, chosen: slice) -> "DetectorPrompts":
        """Some of the prompts of each kind."""
        return DetectorPrompts(
            self.natural.rows(chosen), self.repeated.rows(chosen), self.unrepeated.rows(chosen)
        )


def default_prompts(
    model: Model,
    *,
    n: int = 50,
    seed: int = 0,
    text: str | None = None,
    named: str = "a given text",
    length: int = 25,
    repeats: int = 4,
    gaps: tuple[int, int] = (0, 0),
) -> DetectorPrompts:
    """Natural prompts of 64 tokens; segments of `length` distinct tokens shown `repeats` times after BOS.

    Where context or vocabulary is too small for that, segments get shorter before repeats get fewer.
    """
    room = min(model.context or 10**9, model.vocab_size - 8) - 1 - (repeats - 1) * gaps[1]
    length = min(length, max(room // repeats, 2))
    repeated = repeated_tokens(model, length=length, repeats=repeats, n=n, seed=seed, gaps=gaps)
    return DetectorPrompts(
        natural=natural(model, text=text, named=named, n=n, seed=seed),
        repeated=repeated,
        unrepeated=without_repeats(model, repeated, seed=seed + 1),
    )


def detect(
    model: Model,
    names: str | Iterable[str] = DEFAULT,
    *,
    prompts: DetectorPrompts | None = None,
    interventions: Sequence[Edit] = (),
    n: int = 50,
    seed: int = 0,
    text: str | None = None,
) -> Table:
    """Score every head on every named detector.

    `prompts` fixes the prompts (else `default_prompts` with `n`, `seed`, `text`); `interventions` are in
    force while heads are read, to see what others do when one is cut.

    >>> hs.detect(model, ["induction", "lookback:3"]).rows(named=True)     # doctest: +SKIP

    Raises:
        UnknownName: for a detector that does not exist.
        BadArgument: for fewer than two prompts.
    """
    wanted = detectors(names)
    if prompts is None:
        if n < 2:
            raise BadArgument(f"cannot detect heads on {n} prompt: intervals need at least 2, better 50.")
        prompts = default_prompts(model, n=n, seed=seed, text=text)
    rows = []
    for kind in ("natural", "repeated"):
        group = [detector for detector in wanted if detector.prompts == kind]
        if group:
            rows += _scored(model, group, prompts, kind, interventions)
    order = {detector.name: place for place, detector in enumerate(wanted)}
    rows.sort(key=lambda row: (order[str(row["detector"])], row["layer"], row["head"]))
    return HEADS.table(rows)


def _scored(
    model: Model,
    group: Sequence[Detector],
    prompts: DetectorPrompts,
    kind: str,
    interventions: Sequence[Edit],
) -> list[dict[str, object]]:
    shown = prompts.natural if kind == "natural" else prompts.repeated
    sets = [detector.key_sets(shown) for detector in group]
    reading, matched = MassReading(sets), MassReading(sets)
    model.read(shown, [reading], interventions=interventions)
    if kind == "repeated":
        model.read(prompts.unrepeated, [matched], interventions=interventions)
    rows = []
    for layer, mass in sorted(reading.mass.items()):
        null = matched.mass[layer] if kind == "repeated" else reading.other[layer]
        for index, detector in enumerate(group):
            rows += _rows(layer, detector, mass[index], null[index], reading.uniform[layer][index])
    return rows


def _rows(
    layer: int, detector: Detector, mass: Tensor, null: Tensor, uniform: Tensor
) -> list[dict[str, object]]:
    """One row per head; prompts in which nothing is judged are left out, and `prompts` counts the rest."""
    kept = ~(mass.isnan() | null.isnan()).any(1)
    empty = np.full(mass.shape[1], np.nan)
    if not bool(kept.any()):
        score = above = None
        expected = float("nan")
    else:
        score = interval(mass[kept].double().numpy())
        above = interval((mass - null)[kept].double().numpy())
        expected = float(uniform[kept].mean())
    rows = []
    for head in range(mass.shape[1]):
        value = float("nan") if score is None else float(score.mean[head])
        above_low = float("nan") if above is None else float(above.low[head])
        rows.append(
            {
                "layer": layer,
                "head": head,
                "detector": detector.name,
                "score": value,
                "low": float((empty if score is None else score.low)[head]),
                "high": float((empty if score is None else score.high)[head]),
                "uniform": expected,
                "lift": value / expected if expected else float("nan"),
                "null": float("nan") if score is None else float(null[kept][:, head].mean()),
                "above_null_low": above_low,
                "above_null_high": float((empty if above is None else above.high)[head]),
                "named": bool(above_low > NAMED_MARGIN),
                "prompts": int(kept.sum()),
            }
        )
    return rows
