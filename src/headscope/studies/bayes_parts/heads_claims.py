"""What the heads that carry pairs say: claims, figures and the summary, computed from the tables of `heads`.

Rules as elsewhere: a head is there if one that was named on one half of the prompts exceeds its null by the margin on
the other, with a bound for all heads at once; it is not if every single head stays under it. A group of heads
matters if cutting it costs more than cutting as many random heads does (p at most .05, the picked set counted in).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from headscope.detectors import NAMED_MARGIN
from headscope.figures import head_grid, lines
from headscope.measures import Side, side
from headscope.results.study import Claim, Figure, Verdict
from headscope.studies.bayes_parts.curve_claims import RISE_MARGIN
from headscope.studies.words import count, number, undetermined, with_bounds
from headscope.sweeps.controls import SIGNIFICANT
from headscope.tables import Table
from headscope.vocabulary import Head

Tables = Mapping[str, Table]
Named = Mapping[str, Sequence[Head]]

_WORDS = {"x_to_y": "from y to x", "example_to_example": "from example to example"}
_STATED = {
    "x_to_y": "Some heads look from a y to the x of its own example.",
    "example_to_example": "Some heads look from before a y to the y of earlier examples.",
}


def all_claims(found: Tables, named: Named) -> tuple[Claim, ...]:
    """Which heads there are, and whether the curve needs them."""
    present = (_presence(found, named, kind) for kind in _STATED)
    return (*present, *(flattens(found, kind) for kind in _STATED))


def _presence(found: Tables, named: Named, kind: str) -> Claim:
    rows = found["roles"].rows(detector=kind)
    picked = [row for row in rows if Head.parse(row["head"]) in named.get(kind, ())]
    holding = [row for row in picked if row["adjusted_low"] > NAMED_MARGIN]
    reached = max((row["adjusted_low"] for row in holding), default=float("nan"))
    verdict = Verdict.of(side(reached, float(np.max([row["above_null_high"] for row in rows])), NAMED_MARGIN))
    if holding:
        listed = ", ".join(
            f"{row['head']} ({number(row['score'])}, null {number(row['null'])})" for row in holding[:6]
        )
        more = "" if len(holding) <= 6 else f" and {len(holding) - 6} more"
        because = (
            f"{count(len(holding), 'head')} named on one half of the prompts and confirmed on the other: "
        )
        because += f"{listed}{more}."
    else:
        best = max(rows, key=lambda row: row["above_null_low"])
        because = (
            f"No head surely exceeds its null (shuffled roles) by {NAMED_MARGIN} on both halves of the prompts; the "
            "nearest is head "
            f"{best['head']} with {number(best['score'])} against {number(best['null'])}."
        )
    return Claim(f"heads_{kind}", _STATED[kind], verdict, because, ("roles",))


def flattens(found: Tables, kind: str) -> Claim:
    """Whether cutting the heads of this kind costs more than cutting as many random ones."""
    statement = (
        f"Without its strongest heads {_WORDS[kind]} the curve flattens more than without as many others."
    )
    name, tables = f"flattens_without_{kind}", ("head_groups", "cut_curves")
    rows = found["head_groups"].rows(group=kind)
    if not rows:
        return undetermined(name, statement, "No head was named as one of this kind.", *tables)
    row, curve = rows[0], [each["p"] for each in found["cut_curves"].rows(cut="nothing cut")]
    if not curve[-1] - curve[0] > RISE_MARGIN:
        because = (
            f"The curve goes from {number(curve[0])} to {number(curve[-1])}: there is nothing to flatten."
        )
        return undetermined(name, statement, because, *tables)
    if not row["random_sets"]:
        because = f"The model has no other set of {count(row['size'], 'head')} to compare with."
        return undetermined(name, statement, because, *tables)
    if row["p"] <= SIGNIFICANT and side(row["low"], row["high"], 0.0) is Side.ABOVE:
        verdict = Verdict.SUPPORTED
    elif side(row["low"], row["high"], row["random_mean"]) is Side.BELOW:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    clean, cut = (found["cut_curves"].rows(cut=each)[-1]["p"] for each in ("nothing cut", cut_name(kind)))
    because = (
        f"Cut together, {row['heads']} lower the answer's log-probability after all pairs by "
        f"{with_bounds(row, 'damage')} "
        f"nats; {row['random_sets']} random sets of {row['size']} by {number(row['random_mean'])} on average and "
        f"{number(row['random_max'])} at most ({row['random_worst']}); p = {row['p']:.3f}. The probability of the "
        f"right answer goes from {number(clean)} to {number(cut)}."
    )
    if row["reason"]:
        because += f" {row['reason'][:1].upper()}{row['reason'][1:]}."
    return Claim(name, statement, verdict, because, tables)


def cut_name(group: str) -> str:
    """What the table of cut curves calls a group of heads."""
    return f"{group.replace('_', ' ')} heads cut"


def _cuts(found: Tables) -> list[str]:
    return list(dict.fromkeys(found["cut_curves"].frame["cut"]))


def summary(named: Named) -> tuple[str, ...]:
    """Which heads were named, in a sentence."""
    if not named:
        return ("No head is named as one that carries pairs, from y to x or from example to example.",)
    kinds = {kind: " ".join(map(str, heads)) for kind, heads in named.items() if kind in _STATED}
    listed = "; ".join(f"{kind.replace('_', ' ')}: {heads}" for kind, heads in kinds.items())
    return (f"Heads named on half of the prompts by where they look: {listed}.",)


def all_figures(found: Tables) -> tuple[Figure, ...]:
    """What each head attends to, and the curves without the named ones."""
    grid = head_grid(
        found["roles"],
        "score",
        facet="detector",
        low=0.0,
        high=1.0,
        title="Heads that carry pairs",
        caption="Mean attention from every y to the x of its own example, and from the token before every y to all "
        "earlier y. The table has intervals and the null of shuffled roles.",
        name="roles",
    )
    if len(_cuts(found)) < 2:
        return (grid,)
    curves = lines(
        found["cut_curves"],
        "shots",
        "p",
        "cut",
        "low",
        "high",
        title="The curve without the heads that carry pairs",
        caption="Mean probability of the function's value after so many pairs, with heads replaced by their "
        "mean over "
        "label-shuffled prompts. The random set is the most damaging of those drawn.",
        name="cut_curves",
    )
    return grid, curves
