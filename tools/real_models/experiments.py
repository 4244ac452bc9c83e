"""What the page says of ablated kinds of heads, self-repair, indirect objects and the heads that matter most.

In: the JSON of `python -m tools.real_models kinds`, `repair` and `objects` and of `headscope top`. Out: tables and
sentences in Markdown, all numbers from there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.real_models.markdown import Printed, bounded, section, table

Told = Mapping[str, Any]
KINDS = {
    "induction": "induction",
    "anti-induction": "anti-induction",
    "pattern only": "pattern of induction alone",
    "previous_token": "previous token",
    "duplicate_token": "duplicate token",
    "current_token": "current token",
    "bos": "first token",
}
EVERY = 3  # of so many layers the page shows one
HALF = 0.5
RESIDUAL = "direct_effect", "total_change", "self_repair", "by_heads", "by_mlps", "by_norms"


def experiments(own: Printed) -> list[str]:
    """The sections of what was run besides the commands of `page`."""
    return [section(own[what], told) for what, told in _SECTIONS.items()]


def kinds(told: Told) -> str:
    """A row for each kind: what ablating its heads costs beside random sets."""
    found = told["found"]
    columns = ["heads of a kind, ablated together", "heads"]
    for prompts in found:
        columns += [f"rise of the loss on {prompts}", "random sets: mean, most"]
    rows = []
    for kind, words in KINDS.items():
        if kind not in next(iter(found.values())):
            continue
        row = [words, str(len(next(iter(found.values()))[kind]["heads"]))]
        for each in (own[kind] for own in found.values()):
            row += [bounded(each["rise"], sign="+"), _random(each)]
        rows.append(row)
    sets = max(len(each["random"]) for own in found.values() for each in own.values())
    lengths = ", ".join(f"{kind} {tokens}" for kind, tokens in told["tokens"].items())
    return (
        f"In nats, mean over {told['n']} prompts of each sort (tokens: {lengths}), none of them read by `headscope "
        f"heads`; {told['read']} predicted tokens of each are judged, on repeated tokens predictable ones. Of a kind "
        "the heads that attend most, ten at most, are put to their means over other prompts of that sort (random "
        f"tokens in which nothing repeats; other prose). Beside them up to {sets} random sets of as many heads that "
        f"are of no kind asked about, of the same layers unless it says otherwise.\n\n{table(columns, rows)}"
    )


def _random(each: Told) -> str:
    means = each["random"]
    if not means:
        return f"none: {each['none']}"
    elsewhere = "" if each["match"] == "layers" else ", of any layers"
    return f"{sum(means) / len(means):+.2f}, {max(means):+.2f}{elsewhere}"


def repair(told: Told) -> str:
    """A row for each ablated head."""
    rows = []
    for head, own in told["heads"].items():
        share = own["self_repair"][0] / own["direct_effect"][0]
        cells = [bounded(own[name], sign="+") for name in RESIDUAL]
        rows.append([head, *cells[:3], f"{share:.0%}", *(f"{own[name][0]:+.2f}" for name in RESIDUAL[3:])])
    columns = (
        "zero-ablated",
        "writes",
        "logit changes by",
        "self-repair",
        "of what it wrote",
        "heads",
        "MLPs",
        "norms",
    )
    return (
        f"Logits of the token that follows, on {told['n']} prompts of random tokens shown three times, at "
        f"{told['read']} predictable tokens of each. {told['writing']} heads write at least {told['least']:.1f} to "
        f"that logit themselves; the {told['tried']} of them with the largest damage to first order were ablated on "
        f"other prompts, and the {len(rows)} whose ablation raises the loss most are shown. Self-repair is what the "
        "logit does not fall although the head's effect is gone: the change of what heads and MLPs write, and the "
        f"norms' rescaling.\n\n{table(columns, rows)}"
    )


def objects(told: Told) -> str:
    """A row for every third layer, a column for each role."""
    found: Mapping[str, Sequence[Sequence[float]]] = told["recovered"]
    last = len(next(iter(found.values()))) - 1
    shown = sorted({*range(0, last, EVERY), last})
    rows = [
        [f"{layer}" if layer < last else "the end", *(bounded(column[layer]) for column in found.values())]
        for layer in shown
    ]
    subject, end = ([cell[0] for cell in found[role]] for role in ("second subject", "end"))
    until = max((layer for layer, share in enumerate(subject) if share >= HALF), default=None)
    since = min((layer for layer, share in enumerate(end) if share >= HALF), default=None)
    told_of = [
        "at the second subject in no layer" if until is None else f"at the second subject up to layer {until}",
        "at the end in none" if since is None else f"at the end from layer {since} on",
    ]
    return (
        f"{told['n']} pairs of prompts such as “{told['example']}”; in the corrupted one the other person gives. "
        f"Logit difference of the two names: clean {bounded(told['clean'], sign='+')}, corrupted "
        f"{bounded(told['corrupted'], sign='+')}, between them {bounded(told['gap'], sign='+')}. Share of that which "
        "comes back where the clean run's residual stream is patched in before a layer, at one place (what stands "
        "before the second subject is the same in both runs). More than half comes back "
        f"{', '.join(told_of)}.\n\n{table(('before layer', *found), rows)}"
    )


def top(told: Told) -> str:
    """The heads that matter most, and what it took to know."""
    every = told["top_heads"]
    first = [row for row in every if row["status"] != "out"]
    rows = [
        [
            row["head"] + (" (tied)" if row["status"] == "tied" else ""),
            bounded([row["mean_damage"], row["low"], row["high"]], sign="+"),
            f"{row['prompts']} of {row['of']}",
        ]
        for row in first
    ]
    columns = ("zero-ablated", "the logit difference falls by", "prompts until it was decided")
    return (
        f"The {len(first)} of {len(every)} heads whose ablation lowers the logit difference most on the prompts of "
        f"indirect objects, found with {told['share_run']:.0%} of the cell-prompts of the full grid. Bounds are of "
        f"the mean over all {every[0]['of']} prompts, for all heads and looks together.\n\n{table(columns, rows)}"
    )


_SECTIONS: dict[str, Callable[[Told], str]] = {"kinds": kinds, "repair": repair, "objects": objects, "top": top}
