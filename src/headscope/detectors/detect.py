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
from headscope.errors import BadArgument, PromptError
from headscope.measures.intervals import FEWEST, interval
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.tables import Column, Schema, Table
from headscope.tasks.natural import natural
from headscope.tasks.prompts import Prompts
from headscope.tasks.repeated import repeated_tokens, without_repeats
from headscope.tasks.vocabulary import ordinary_tokens

NAMED_MARGIN = 0.1
LARGEST_SEED = 2**63 - 1

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
        Column("null", pl.Float64, "mean attention on the keys of the null, see null_kind", "probability"),
        Column(
            "null_kind",
            pl.String,
            "nothing repeats: the same pairs on matched prompts in which no token occurs twice; other keys: "
            "equally many other visible keys of the same queries",
        ),
        Column("above_null_low", pl.Float64, "lower 95% bound of score - null, paired", "probability"),
        Column("above_null_high", pl.Float64, "upper 95% bound of score - null, paired", "probability"),
        Column("named", pl.Boolean, f"above_null_low exceeds {NAMED_MARGIN}"),
        Column("prompts", pl.Int64, "prompts behind the score"),
        Column("reason", pl.String, "why there is no score or no interval; empty where there are both"),
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
    reach: int = 0,
    fewest: int = FEWEST,
) -> DetectorPrompts:
    """Natural prompts of 64 tokens; segments of `length` distinct tokens shown `repeats` times after BOS.

    Where context or vocabulary is too small for that, segments get shorter. Natural prompts are at least
    twice as long as `reach` (how far back a detector looks) where the context allows. A short text gives
    fewer natural prompts than `n`, and their recipe says so.

    Raises:
        BadArgument: for numbers out of range, or a gap or a reach that the context has no room for.
        PromptError: if a text gives fewer than `fewest` prompts.
    """
    check_sizes("detect heads", n=n, seed=seed)
    check_reach(model, reach)
    if length < 2 or repeats < 2 or not 0 <= gaps[0] <= gaps[1]:
        raise BadArgument(
            f"cannot show a segment of {length} tokens {repeats} times with gaps {gaps}: use at least 2 tokens, "
            "2 times, and gaps (low, high) with 0 <= low <= high."
        )
    ordinary = len(ordinary_tokens(model)[0])
    room = min((model.context or 10**9) - 1, ordinary) - (repeats - 1) * gaps[1]
    if room < 2 * repeats:
        raise BadArgument(
            f"cannot show a segment {repeats} times with up to {gaps[1]} other tokens before each repeat: the model "
            f"has a context of {model.context or 'any'} tokens and {ordinary} ordinary tokens that may occur once. "
            "Pass a smaller --gap or fewer repeats."
        )
    length = min(length, room // repeats)
    repeated = repeated_tokens(model, length=length, repeats=repeats, n=n, seed=seed, gaps=gaps)
    spoken = natural(model, text=text, named=named, n=n, seed=seed, length=max(64, 2 * reach))
    if len(spoken) < fewest:
        source = spoken.made_by.get("text", named)
        raise PromptError(
            f"cannot detect heads on {source}: it gives {len(spoken)} prompts of {spoken.longest} tokens, and "
            f"intervals need at least {fewest}. Give a longer text."
        )
    return DetectorPrompts(
        natural=spoken,
        repeated=repeated,
        unrepeated=without_repeats(model, repeated, seed=seed + 1),
    )


def check_sizes(doing: str, *, n: int, seed: int) -> None:
    """Raise BadArgument unless there are prompts enough for intervals, and a seed that generators take."""
    if n < FEWEST:
        raise BadArgument(
            f"cannot {doing} on {n} prompt{'' if n == 1 else 's'}: intervals need at least {FEWEST}, better 50."
        )
    if not 0 <= seed <= LARGEST_SEED:
        raise BadArgument(f"cannot {doing} with seed {seed}: it lies between 0 and {LARGEST_SEED}.")


def check_reach(model: Model, reach: int) -> None:
    """Raise BadArgument if the model's context has no token `reach` back."""
    if model.context is not None and reach >= model.context:
        raise BadArgument(
            f"cannot look {reach} tokens back: the context of {model.name} holds {model.context}. "
            f"Ask for lookback:{model.context - 1} at most."
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
        BadArgument: for fewer than five prompts, or prompts too short for a lookback.
    """
    wanted = detectors(names)
    for layer in model.anatomy.attending:
        model.require_site("pattern", layer)
    reach = reach_of(wanted)
    if prompts is None:
        prompts = default_prompts(model, n=n, seed=seed, text=text, reach=reach)
    for shown in (prompts.natural, prompts.repeated, prompts.unrepeated):
        check_sizes("detect heads", n=len(shown), seed=seed)
    if reach >= prompts.natural.longest:
        raise BadArgument(
            f"cannot look {reach} tokens back: the natural prompts have {prompts.natural.longest} tokens. "
            "Give longer ones."
        )
    rows = []
    for kind in ("natural", "repeated"):
        group = [detector for detector in wanted if detector.prompts == kind]
        if group:
            rows += _scored(model, group, prompts, kind, interventions)
    order = {detector.name: place for place, detector in enumerate(wanted)}
    rows.sort(key=lambda row: (order[str(row["detector"])], row["layer"], row["head"]))
    return HEADS.table(rows)


def reach_of(wanted: Iterable[Detector]) -> int:
    """How many tokens back the farthest of these detectors looks."""
    return max((detector.reach for detector in wanted), default=0)


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
        score = interval(mass[kept].double().numpy(), within=(0.0, 1.0))
        above = interval((mass - null)[kept].double().numpy(), within=(-1.0, 1.0))
        expected = float(uniform[kept].mean())
    reason = ""
    if int(kept.sum()) < FEWEST:
        reason = f"{int(kept.sum())} of {len(kept)} prompts have a query to judge; an interval needs {FEWEST}"
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
                "null_kind": detector.null,
                "above_null_low": above_low,
                "above_null_high": float((empty if above is None else above.high)[head]),
                "named": bool(above_low > NAMED_MARGIN),
                "prompts": int(kept.sum()),
                "reason": reason,
            }
        )
    return rows
