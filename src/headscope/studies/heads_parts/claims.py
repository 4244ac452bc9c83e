"""What the heads study says: claims with their verdicts, the summary and the notes, computed from its tables.

Rules are stated once, here. A claim is *supported* if a lower bound exceeds its margin, *refuted* if the
upper bounds stay below it, and *undetermined* otherwise: a wide interval is never read as "no effect".
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from headscope.detectors import NAMED_MARGIN
from headscope.measures import Side, interval, side
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.heads_parts.redundancy import in_words
from headscope.studies.heads_parts.tables import NEAR_ZERO_LOGITS, written
from headscope.studies.words import as_sentences, count, number, undetermined, with_bounds
from headscope.sweeps.controls import SIGNIFICANT
from headscope.tables import Table
from headscope.vocabulary import Head

RECOVERY_MARGIN = 0.1
INTERACTION_MARGIN = 0.1
BACKUP_MARGIN = 0.1

_ABOVE = "over a tenth of their attention, beyond the null, goes to"

Tables = Mapping[str, Table]
Groups = Mapping[str, Sequence[Head]]


def share_of_gap(moved: Tensor, gap: Tensor) -> Tensor:
    """`moved` as a share of the mean clean-corrupted gap; NaN if that gap is not clearly above zero."""
    found = interval(gap.double().numpy())
    return moved / float(found.mean) if float(found.low) > 0 else torch.full_like(moved, float("nan"))


def all_claims(found: Tables, named: Groups) -> tuple[Claim, ...]:
    """The claims of the study, in the order in which a reader asks."""
    claims = (
        _presence(
            found,
            named,
            "induction",
            f"Some heads are induction heads: {_ABOVE} what followed earlier copies of their token.",
        ),
        _presence(
            found, named, "previous_token", f"Some heads are previous-token heads: {_ABOVE} the token before."
        ),
        _matters(found),
        _moves(found),
        _redundant(found),
        _backed_up(found),
    )
    return as_sentences(claims)


def _presence(found: Tables, named: Groups, detector: str, statement: str) -> Claim:
    rows = found["heads"].rows(detector=detector)
    picked = [row for row in rows if Head.parse(row["head"]) in named.get(detector, ())]
    holding = [row for row in picked if row["adjusted_low"] > NAMED_MARGIN]
    best = max(rows, key=lambda row: row["above_null_low"])
    reached = max((row["adjusted_low"] for row in holding), default=float("nan"))
    # Every single head must stay under the margin: that needs no correction for their number.
    verdict = Verdict.of(side(reached, float(np.max([row["above_null_high"] for row in rows])), NAMED_MARGIN))
    if holding:
        listed = ", ".join(f"{_head(row)} ({number(row['score'])})" for row in holding[:8])
        more = "" if len(holding) <= 8 else f" and {len(holding) - 8} more"
        because = (
            f"{count(len(holding), 'head')} named on one half of the prompts and confirmed on the other: "
            f"{listed}{more}; the strongest null is {number(max(row['null'] for row in holding))}."
        )
    else:
        because = (
            f"no head exceeds its matched null by {NAMED_MARGIN} on both halves of the prompts; the nearest is "
            f"{_head(best)} with {number(best['score'])} against {number(best['null'])}."
        )
    return Claim(detector, statement, verdict, because, ("heads",))


def _matters(found: Tables) -> Claim:
    statement = "Cutting the induction heads hurts more than cutting as many random heads."
    rows = found["groups"].rows(group="induction")
    if not rows:
        return undetermined("induction_matters", statement, "no head was named an induction head.", "groups")
    row = rows[0]
    if not row["random_sets"]:
        because = f"the model has no other set of {count(row['size'], 'head')} to compare with."
        return undetermined("induction_matters", statement, because, "groups")
    if row["p"] <= SIGNIFICANT and side(row["low"], row["high"], 0.0) is Side.ABOVE:
        verdict = Verdict.SUPPORTED
    elif side(row["low"], row["high"], row["random_mean"]) is Side.BELOW:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    because = (
        f"cut together, {row['heads']} raise the loss on repeated tokens by {with_bounds(row, 'damage')} nats; "
        f"{row['random_sets']} random sets of {row['size']} by {number(row['random_mean'])} on average and "
        f"{number(row['random_max'])} at most ({row['random_worst']}); p = {row['p']:.3f}."
    )
    smallest = 1 / (1 + row["random_sets"])
    if verdict is Verdict.UNDETERMINED and row["p"] <= smallest and smallest > SIGNIFICANT:
        because += " So few sets exist or were drawn that p cannot be smaller."
    return Claim("induction_matters", statement, verdict, because, ("groups",))


def _moves(found: Tables) -> Claim:
    statement = (
        "What a token was is moved to the token after it before the query looks there: patched in there, it "
        "restores more than a tenth of the answer."
    )
    candidates, rows = (
        [row for row in found[half].rows(role="answer") if row["layer"] > 0]
        for half in ("patching_selection", "patching")
    )
    if any(row["recovered"] != row["recovered"] for row in [*candidates, *rows]):
        because = (
            "the model answers clean prompts no better than corrupted ones, so there is nothing to restore."
        )
        return undetermined("moves", statement, because, "patching")
    picked = max(candidates, key=lambda row: row["recovered"])
    (best,) = [row for row in rows if row["layer"] == picked["layer"]]
    verdict = Verdict.of(side(best["low"], max(row["high"] for row in rows), RECOVERY_MARGIN))
    because = (
        f"patching {_stream(best['layer'], rows)} at the token after the match, the place that restores most on "
        "other pairs, restores "
        f"{with_bounds(best, 'recovered')} of the clean answer's logit difference (margin {RECOVERY_MARGIN})."
    )
    return Claim("moves", statement, verdict, because, ("patching", "patching_selection"))


def _redundant(found: Tables) -> Claim:
    statement = (
        "The induction heads stand in for each other: cut together they hurt more than one by one in sum, by "
        "over a tenth of that sum."
    )
    rows = found["cumulative"].frame
    if rows.is_empty() or int(rows["cut"].max()) < 2:  # type: ignore[arg-type]
        because = "fewer than two heads were named induction heads."
        return undetermined("redundant", statement, because, "cumulative")
    last = int(rows["cut"].max())  # type: ignore[arg-type]
    judged = {row["quantity"]: row for row in found["cumulative"].rows(cut=last, measure="next_logit")}
    extra, apart = judged["interaction"], judged["sum of single cuts"]["damage"]
    margin = INTERACTION_MARGIN * abs(apart)
    verdict = Verdict.of(side(extra["low"], extra["high"], margin))
    losses = {row["quantity"]: row for row in found["cumulative"].rows(cut=last, measure="loss")}
    because = (
        f"all {last} together lower the right token's logit by {number(judged['together']['damage'])}, one by "
        f"one in sum by {number(apart)}: interaction {with_bounds(extra, 'damage')} (margin {number(margin)}). In "
        f"loss, which levels off, {number(losses['together']['damage'])} against "
        f"{number(losses['sum of single cuts']['damage'])} nats."
    )
    tables = ("cumulative", "interactions", "effects", "sets")
    return Claim("redundant", statement, verdict, because + in_words(found), tables)


def _backed_up(found: Tables) -> Claim:
    statement = (
        "When a head is cut, a later component (a backup) writes more of what it wrote, by over a tenth."
    )
    verdicts, reasons = [], []
    for repair in found["self_repair"].rows():
        cut, direct = Head.parse(repair["cut"]), repair["direct_effect"]
        if abs(direct) < NEAR_ZERO_LOGITS:
            reasons.append(f"{cut} writes next to nothing itself ({direct:+.2f} logits)")
            continue
        later = found["takeover_selection"].rows(cut=str(cut), later=True)
        if not later:
            reasons.append(f"nothing comes after {cut}")
            continue
        picked = max(later, key=lambda row: row["change"] * (1 if direct > 0 else -1))
        row = found["takeover"].rows(cut=str(cut), component=picked["component"])[0]
        margin = BACKUP_MARGIN * abs(direct)
        low, high = (row["low"], row["high"]) if direct > 0 else (-row["high"], -row["low"])
        verdicts.append(Verdict.of(side(low, high, margin)))
        reasons.append(
            f"with {cut} cut (direct effect {direct:+.2f} logits), {row['component']} changes by "
            f"{with_bounds(row, 'change')} (margin {margin:.2f})"
        )
    if Verdict.SUPPORTED in verdicts:
        verdict = Verdict.SUPPORTED
    elif verdicts and all(one is Verdict.REFUTED for one in verdicts):
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    because = ("; ".join(reasons) or "direct effects are not served on this model (see the notes)") + "."
    return Claim("backup", statement, verdict, because, ("takeover", "takeover_selection", "self_repair"))


def summary(
    model: Model, found: Tables, named: Groups, claims: Sequence[Claim], worst: Head
) -> tuple[str, ...]:
    """What a reader should know after ten seconds; `worst` is the head that the selection prompts picked."""
    if named:
        listed = "; ".join(f"{group.replace('_', ' ')}: {written(heads)}" for group, heads in named.items())
        first = f"Of {len(model.heads)} heads in {model.n_layers} layers, the detectors name: {listed}."
    elif all(row["adjusted_low"] != row["adjusted_low"] for row in found["heads"].rows()):
        first = (
            f"Whether any of the {len(model.heads)} heads is of the kind that this study looks for is not known: "
            f"{found['heads'].rows()[0]['reason']}."
        )
    else:
        first = (
            f"No detector names any of the {len(model.heads)} heads: there is nothing of the kind that this "
            "study looks for in this model."
        )
    where = {"layer": worst.layer, "head": worst.index}
    (row,) = found["damage"].rows(ablation="mean", prompts_kind="repeated", **where)
    if row["low"] > 0:
        second = (
            f"The head that matters most for repeated tokens is {worst}: replaced by its mean, the loss rises by "
            f"{with_bounds(row, 'damage')} nats."
        )
    else:
        second = (
            f"No single head clearly matters for repeated tokens: even {worst}, which the selection prompts put "
            f"first, changes the loss by {with_bounds(row, 'damage')} nats when it is replaced by its mean."
        )
    verdicts = [claim.verdict for claim in claims]
    third = (
        f"Of {len(claims)} claims, {verdicts.count(Verdict.SUPPORTED)} are supported, "
        f"{verdicts.count(Verdict.REFUTED)} refuted and {verdicts.count(Verdict.UNDETERMINED)} undetermined "
        "on this model."
    )
    return (first, second, third)


def _head(row: Mapping[str, object]) -> str:
    return str(row["head"])


def _stream(layer: int, rows: Sequence[Mapping[str, int]]) -> str:
    last = max(row["layer"] for row in rows)
    return "the final stream" if layer == last else f"the stream before layer {layer}"
