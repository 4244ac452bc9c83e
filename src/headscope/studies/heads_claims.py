"""What the heads study says: claims with their verdicts, the summary and the notes, computed from its tables.

Rules are stated once, here. A claim is *supported* if a lower bound exceeds its margin, *refuted* if the
upper bounds stay below it, and *undetermined* otherwise: a wide interval is never read as "no effect".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headscope.detectors import NAMED_MARGIN, DetectorPrompts
from headscope.measures import interval
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.heads_tables import written
from headscope.tables import Table
from headscope.vocabulary import Head

RECOVERY_MARGIN = 0.1
INTERACTION_MARGIN = 0.1
BACKUP_MARGIN = 0.1
NEAR_ZERO_LOGITS = 0.1
SIGNIFICANT = 0.05

Tables = Mapping[str, Table]
Groups = Mapping[str, Sequence[Head]]


def share_of_gap(moved: Tensor, gap: Tensor) -> Tensor:
    """`moved` as a share of the mean clean-corrupted gap; NaN if that gap is not clearly above zero."""
    found = interval(gap.double().numpy())
    return moved / float(found.mean) if float(found.low) > 0 else torch.full_like(moved, float("nan"))


def all_claims(found: Tables, named: Groups) -> tuple[Claim, ...]:
    """The claims of the study, in the order in which a reader asks."""
    claims = (
        _presence(found, named, "induction", "Some heads complete repeated sequences (induction heads)."),
        _presence(found, named, "previous_token", "Some heads attend to the previous token."),
        _matters(found),
        _moves(found),
        _redundant(found),
        _backed_up(found),
    )
    return tuple(replace(claim, because=claim.because[:1].upper() + claim.because[1:]) for claim in claims)


def _presence(found: Tables, named: Groups, detector: str, statement: str) -> Claim:
    rows = found["heads"].rows(detector=detector)
    picked = [row for row in rows if Head(row["layer"], row["head"]) in named.get(detector, ())]
    holding = [row for row in picked if row["above_null_low"] > NAMED_MARGIN]
    best = max(rows, key=lambda row: row["above_null_low"])
    if holding:
        verdict = Verdict.SUPPORTED
        listed = ", ".join(f"{_head(row)} ({row['score']:.2f})" for row in holding[:8])
        more = "" if len(holding) <= 8 else f" and {len(holding) - 8} more"
        because = (
            f"{_count(len(holding), 'head')} named on one half of the prompts and confirmed on the other: "
            f"{listed}{more}; the strongest null is {max(row['null'] for row in holding):.2f}."
        )
    else:
        largest = max(row["above_null_high"] for row in rows)
        verdict = Verdict.REFUTED if largest < NAMED_MARGIN else Verdict.UNDETERMINED
        because = (
            f"no head exceeds its matched null by {NAMED_MARGIN} on both halves of the prompts; the nearest is "
            f"{_head(best)} with {best['score']:.2f} against {best['null']:.2f}."
        )
    return Claim(detector, statement, verdict, because, ("heads",))


def _matters(found: Tables) -> Claim:
    statement = "Cutting the induction heads hurts more than cutting as many random heads."
    rows = found["groups"].rows(group="induction")
    if not rows:
        return _undetermined("induction_matters", statement, "no head was named an induction head.", "groups")
    row = rows[0]
    if row["p"] <= SIGNIFICANT and row["low"] > 0:
        verdict = Verdict.SUPPORTED
    elif row["high"] < row["random_mean"]:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    because = (
        f"cut together, {row['heads']} raise the loss on repeated tokens by {_with_bounds(row, 'damage')} nats; "
        f"{row['random_sets']} random sets of {row['size']} by {row['random_mean']:.2f} on average and "
        f"{row['random_max']:.2f} at most ({row['random_worst']}); p = {row['p']:.3f}."
    )
    if verdict is Verdict.UNDETERMINED and 1 / (1 + row["random_sets"]) > SIGNIFICANT:
        because += " So few sets exist or were drawn that p cannot be smaller."
    return Claim("induction_matters", statement, verdict, because, ("groups",))


def _moves(found: Tables) -> Claim:
    statement = "What a token was is moved to the token after it before the query looks there."
    rows = [row for row in found["patching"].rows(role="answer") if row["layer"] > 0]
    if any(row["recovered"] != row["recovered"] for row in rows):
        because = (
            "the model answers clean prompts no better than corrupted ones, so there is nothing to restore."
        )
        return _undetermined("moves", statement, because, "patching")
    best = max(rows, key=lambda row: row["recovered"])
    if best["low"] > RECOVERY_MARGIN:
        verdict = Verdict.SUPPORTED
    elif max(row["high"] for row in rows) < RECOVERY_MARGIN:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    because = (
        f"patching the stream before layer {best['layer']} at the token after the match restores "
        f"{_with_bounds(best, 'recovered')} of the clean answer's logit difference (margin {RECOVERY_MARGIN})."
    )
    return Claim("moves", statement, verdict, because, ("patching",))


def _redundant(found: Tables) -> Claim:
    statement = (
        "The induction heads stand in for each other: cut together they hurt more than one by one in sum."
    )
    rows = found["cumulative"].frame
    if rows.is_empty() or int(rows["cut"].max()) < 2:  # type: ignore[arg-type]
        because = "fewer than two heads were named induction heads."
        return _undetermined("redundant", statement, because, "cumulative")
    last = int(rows["cut"].max())  # type: ignore[arg-type]
    judged = {row["quantity"]: row for row in found["cumulative"].rows(cut=last, measure="next_logit")}
    extra, apart = judged["interaction"], judged["sum of single cuts"]["damage"]
    margin = INTERACTION_MARGIN * abs(apart)
    if extra["low"] > margin:
        verdict = Verdict.SUPPORTED
    elif extra["high"] < margin:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    losses = {row["quantity"]: row for row in found["cumulative"].rows(cut=last, measure="loss")}
    because = (
        f"all {last} together lower the right token's logit by {judged['together']['damage']:.2f}, one by one in "
        f"sum by {apart:.2f}: interaction {_with_bounds(extra, 'damage')} (margin {margin:.2f}). In loss, which "
        f"levels off, {losses['together']['damage']:.2f} against {losses['sum of single cuts']['damage']:.2f} nats."
    )
    return Claim("redundant", statement, verdict, because, ("cumulative",))


def _backed_up(found: Tables) -> Claim:
    statement = "When a head is cut, a later component writes more of what it wrote (a backup)."
    verdicts, reasons = [], []
    for repair in found["self_repair"].rows():
        cut, direct = Head.parse(repair["cut"]), repair["direct_effect"]
        if abs(direct) < NEAR_ZERO_LOGITS:
            reasons.append(f"{cut} writes next to nothing itself ({direct:+.2f} logits)")
            continue
        later = [
            row
            for row in found["takeover_selection"].rows(cut=str(cut))
            if row["layer"] > cut.layer or (row["layer"] == cut.layer and row["head"] is None)
        ]
        if not later:
            reasons.append(f"nothing comes after {cut}")
            continue
        picked = max(later, key=lambda row: row["change"] * (1 if direct > 0 else -1))
        row = found["takeover"].rows(cut=str(cut), component=picked["component"])[0]
        margin = BACKUP_MARGIN * abs(direct)
        change, low, high = (row["change"], row["low"], row["high"])
        if direct < 0:
            change, low, high = -change, -high, -low
        verdicts.append(
            Verdict.SUPPORTED if low > margin else Verdict.REFUTED if high < margin else Verdict.UNDETERMINED
        )
        reasons.append(
            f"with {cut} cut (direct effect {direct:+.2f} logits), {row['component']} changes by "
            f"{_with_bounds(row, 'change')} (margin {margin:.2f})"
        )
    if Verdict.SUPPORTED in verdicts:
        verdict = Verdict.SUPPORTED
    elif verdicts and all(one is Verdict.REFUTED for one in verdicts):
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDETERMINED
    because = "; ".join(reasons) + "."
    return Claim("backup", statement, verdict, because, ("takeover", "takeover_selection", "self_repair"))


def summary(model: Model, found: Tables, named: Groups, claims: Sequence[Claim]) -> tuple[str, ...]:
    """What a reader should know after ten seconds."""
    if named:
        listed = "; ".join(f"{group.replace('_', ' ')}: {written(heads)}" for group, heads in named.items())
        first = f"Of {len(model.heads)} heads in {model.n_layers} layers, the detectors name: {listed}."
    else:
        first = (
            f"No detector names any of the {len(model.heads)} heads: there is nothing of the kind that this "
            "study looks for in this model."
        )
    worst = max(found["damage"].rows(ablation="mean", prompts_kind="repeated"), key=lambda row: row["damage"])
    second = (
        f"The head that matters most for repeated tokens is {_head(worst)}: replaced by its mean, the loss rises "
        f"by {_with_bounds(worst, 'damage')} nats."
    )
    verdicts = [claim.verdict for claim in claims]
    third = (
        f"Of {len(claims)} claims, {verdicts.count(Verdict.SUPPORTED)} are supported, "
        f"{verdicts.count(Verdict.REFUTED)} refuted and {verdicts.count(Verdict.UNDETERMINED)} undetermined "
        "on this model."
    )
    return (first, second, third)


def notes(model: Model, prompts: DetectorPrompts, gap: int) -> tuple[str, ...]:
    """Assumptions and limits that a reader must know to believe the rest."""
    source = prompts.natural.made_by
    found = [
        "Heads are named on the prompts of even number and estimated on those of odd number. Intervals are "
        "95% bootstrap intervals over prompts, one head at a time; they are not corrected for the number of heads.",
        f"Natural prompts: {source.get('text', source.get('task'))}. "
        f"Repeated prompts: {prompts.repeated.made_by['vocabulary']}.",
        "Mean ablation puts a head's mean over random tokens without repetition in its place, so that the mean "
        "holds nothing of the repetition. Zero ablation is farther from anything the model has seen.",
        "A recovered share is of the mean difference between clean and corrupted runs, which is taken as known.",
        "Direct effects hold the final norm's scale fixed at its value in each run; heads of the same layer can "
        "change only through that scale. They refer to logits before a soft-cap.",
    ]
    if model.bos_token_id is None:
        found.append("The model names no BOS token: “to BOS” means to the first token of the prompt here.")
    if not gap:
        found.append(
            "Repeats follow at a fixed distance, so a head that looks that far back scores as induction; "
            "run again with --gap 8 to tell them apart."
        )
    return tuple(found)


def _undetermined(name: str, statement: str, because: str, table: str) -> Claim:
    return Claim(name, statement, Verdict.UNDETERMINED, because, (table,))


def _head(row: Mapping[str, object]) -> str:
    return f"{row['layer']}.{row['head']}"


def _with_bounds(row: Mapping[str, float], value: str) -> str:
    return f"{row[value]:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
