"""The page about real models, from what the commands printed: tables, sentences with numbers, claims with verdicts.

In: per model what each command left (commands.kept). Out: Markdown: checks, kinds of heads, layers and single heads
here, the rest by `experiments` and `studies`. Nothing here runs a model; no number is written by hand but those of an
earlier measurement, with plain transformers and on other prompts, that stand beside ours.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tools.real_models.experiments import experiments
from tools.real_models.markdown import TITLES, Printed, layer_of, section, short, table
from tools.real_models.markdown import layers as spans
from tools.real_models.studies import article, studied

Row = Mapping[str, Any]

HALF = 0.5
FULL_ATTENTION = {"gemma": (5, 11, 17)}  # the others see 512 tokens back
MOST = 10  # heads of a kind in a cell
KINDS = (
    ("induction", "induction", "induction: attends to what followed, raises it"),
    ("induction", "anti-induction", "anti-induction: attends to what followed, lowers it"),
    ("induction", "pattern only", "pattern of induction, writes neither way on the direct path"),
    ("induction", "sign unclear", "pattern of induction, sign unclear"),
    ("previous_token", "previous_token", "previous token"),
    ("duplicate_token", "duplicate_token", "duplicate token"),
    ("current_token", "current_token", "current token"),
    ("bos", "bos", "first token"),
)
BY_HAND = {
    "smollm2": {
        "induction": "18.6 .92, 17.3 .81, 17.4 .75, 18.7 .63, 17.5 .59, 23.2 .54, 23.7 .49, 20.6 .44",
        "previous_token": "16.0 .75, 11.1 .60",
        "duplicate_token": "14.3 .79",
    },
    "gemma": {"induction": "5.1 .89, 11.2 .67, 5.2 .51, 17.2 .34", "previous_token": "2.3 .62, 4.1 .48"},
}
SINKS_BY_HAND = {
    "smollm2": "94 heads over half, none before layer 12",
    "gemma": "23 heads over half, three of them in layer 1",
}
REMOVED_BY_HAND = {"smollm2": "perplexity times 1,184 without layer 0, times 1.15 without layer 17, the least"}
ABLATED_BY_HAND = {"gemma": "11.2: loss on repeated +13.96; prose +0.07 [-0.13, +0.42]; 13.3 writes -3.55 → -0.03"}

_INTRODUCTION = """\
# Two pretrained models

What headscope's commands find on SmolLM2-135M-Instruct (30 layers of 9 heads, 3 key/value heads) and Gemma 3 270M
(18 layers of 4 heads, 1 key/value head; layers 5, 11 and 17 see everything, the others 512 tokens back), both from
4-bit GGUF files, in float32. `make real` fetches them; every number below comes from the command above it. Written by
`make real-models` with {versions},
in {minutes:.0f} CPU-minutes on one thread; the commands and what each cost:

{costs}

Scores are mean attention over prompts. A head is *named* if its score exceeds its null by more than .1, for all heads
at once. Signs are direct effects on the logit of the token attended to, minus that on other tokens of the prompt.
These are readings of heads; claims with controls come from `headscope study`.
`tests/real` holds the same models to plain transformers with forward hooks."""


def page(printed: Mapping[str, Printed]) -> str:
    """The whole page; `printed` by model and command."""
    every = [run for own in printed.values() for run in own.values()]
    costs = [(run["command"], run["cpu_seconds"]) for run in every if "told" in run]
    told = next((own["check"]["told"]["versions"] for own in printed.values() if "told" in own["check"]), {})
    introduction = _INTRODUCTION.format(
        versions=", ".join(f"{name} {number}" for name, number in told.items()) or "no command yet",
        minutes=sum(seconds for _, seconds in costs) / 60,
        costs=table(("command", "CPU-seconds"), [(f"`{command}`", f"{seconds:.0f}") for command, seconds in costs]),
    )
    parts = [introduction, *(_model(name, own) for name, own in printed.items()), _claims(printed), article(printed)]
    return "\n\n".join(parts) + "\n"


def _model(name: str, own: Printed) -> str:
    parts = [
        f"## {TITLES[name]}",
        section(own["check"], _checked),
        section(own["heads"], lambda told: _by_kind(name, told["heads"])),
        section(own["measure"], lambda told: _measured(name, told)),
        *experiments(own),
        *studied(name, own),
    ]
    return "\n\n".join(parts)


def _checked(told: Mapping[str, Any]) -> str:
    words = {True: "holds", False: "**fails**", None: "does not apply"}
    rows = [
        (check["name"], words[check["passed"]], _error(check["worst"]), _error(check["tolerance"]), check["detail"])
        for check in told["checks"]
    ]
    refused = [
        f"Refused: {each['site']} in {spans(each['layers'])}: {each['reason']}." for each in told["refused"]
    ] or ["Everything that this model has is served."]
    return "\n\n".join([table(("property", "", "error", "tolerance", ""), rows), *refused])


def _by_kind(name: str, heads: Sequence[Row]) -> str:
    """A row for each kind: how many, in which layers, the highest."""
    rows = []
    for detector, kind, words in KINDS:
        found = [row for row in heads if row["detector"] == detector and row["named"] and row["kind"] == kind]
        found.sort(key=lambda row: -row["score"])
        if found:
            signed = detector == "induction"
            rows.append((words, str(len(found)), spans(row["layer"] for row in found), _highest(found, signed)))
    every = len({row["head"] for row in heads})
    of_kinds = table(("kind", f"heads of {every}", "layers", "the highest: attention (and sign, in logits)"), rows)
    compared = [
        (kind.replace("_", " "), told, _same_heads(told, heads, kind)) for kind, told in BY_HAND[name].items()
    ]
    by_hand = table(("attention of", "by hand, with plain transformers on other prompts", "here"), compared)
    return f"{of_kinds}\n\n{by_hand}"


def _same_heads(told: str, heads: Sequence[Row], detector: str) -> str:
    scores = {row["head"]: row["score"] for row in heads if row["detector"] == detector}
    named = [each.split()[0] for each in told.split(", ")]
    return ", ".join(f"{head} {short(scores[head])}" for head in named)


def _measured(name: str, told: Mapping[str, Any]) -> str:
    factors = told["removed"]
    order = sorted(range(len(factors)), key=lambda layer: factors[layer])
    most = ", ".join(f"{layer} ({factors[layer]:,.1f})" for layer in order[:-4:-1])
    least = ", ".join(f"{layer} ({factors[layer]:.2f})" for layer in order[:3])
    hand = f" By hand before, on other prose: {REMOVED_BY_HAND[name]}." if name in REMOVED_BY_HAND else ""
    sinks = [
        (kind, str(len(found)), str(len([head for head in found if layer_of(head) <= 1])), _first(found))
        for kind, found in told["first_token"].items()
    ]
    resting = table(
        ("heads with over half on the first token, on", "heads", "in layers 0 and 1", "first layers"), sinks
    )
    return (
        f"Perplexity on prose without a layer (attention and MLP), in times: the most without {most}; the least "
        f"without {least}.{hand}\n\n{resting}\n\nBy hand before: "
        f"{SINKS_BY_HAND[name]}.\n\n{_ablated(told['ablated'])}"
        + (f" By hand before, {ABLATED_BY_HAND[name]}." if name in ABLATED_BY_HAND else "")
    )


def _ablated(told: Mapping[str, Any]) -> str:
    losses = "; ".join(
        f"{kind} {mean:+.2f} [{low:+.2f}, {high:+.2f}]" for kind, (mean, low, high) in told["raised"].items()
    )
    moved = [
        f"{head} {before:+.2f} → {after:+.2f}"
        for head, (before, after) in sorted(told["wrote"].items(), key=lambda each: -abs(each[1][1] - each[1][0]))[:4]
    ]
    return (
        f"{told['head']}, the induction head that raises most, mean-ablated: loss in nats on {losses}. What the "
        f"other heads with that pattern write, before and then (the four that move most): {', '.join(moved)}."
    )


def _claims(printed: Mapping[str, Printed]) -> str:
    """Each published claim on each model: holds or not, with what decides."""
    names = list(printed)
    rows = [(words, *(_decided(decide, name, printed[name]) for name in names)) for words, decide in CLAIMS]
    return (
        "## Published claims, on these two\n\n"
        + table(("claim", *(TITLES[name] for name in names)), rows)
        + "\n\n"
        + _CLAIMS_NOTE
    )


def _decided(decide: Callable[[str, Printed], str], name: str, own: Printed) -> str:
    return decide(name, own) if "told" in own["heads"] and "told" in own["measure"] else "not run"


_CLAIMS_NOTE = """\
Decided by a line of code each (`tools/real_models/page.py`) from the tables above: layers and signs from
`headscope heads`, first tokens on prose from `measure`. Two models show what a claim is worth on these two."""


def _named(own: Printed, detector: str, *kinds: str) -> list[Row]:
    heads = own["heads"]["told"]["heads"]
    return [
        row for row in heads if row["detector"] == detector and row["named"] and row["kind"] in (kinds or (detector,))
    ]


def _early_sinks(name: str, own: Printed) -> str:
    """From layer 2 on, and not before: the layers below have none, and most heads above rest there."""
    found = own["measure"]["told"]["first_token"]["prose"]
    heads = {row["head"] for row in own["heads"]["told"]["heads"]}
    below = [head for head in found if layer_of(head) < 2]
    above = [head for head in heads if layer_of(head) >= 2]
    share = (len(found) - len(below)) / len(above)
    said = f"{len(below)} heads below layer 2; {share:.0%} of those above; {_first(found)} first"
    return _verdict(not below and share > HALF) + said


def _induction_in_full(name: str, own: Printed) -> str:
    if name not in FULL_ATTENTION:
        return "has no other layers"
    found = _named(own, "induction", "induction", "anti-induction", "pattern only", "sign unclear")
    full = FULL_ATTENTION[name]
    outside = [f"{row['head']} {row['kind']}" for row in found if row["layer"] not in full]
    raising = [row for row in found if row["kind"] == "induction"]
    inside = f"{len(found) - len(outside)} of {len(found)} heads with the pattern"
    beyond = f", not {', '.join(outside)}" if outside else ""
    told = f"{inside}{beyond}; {sum(row['layer'] in full for row in raising)} of {len(raising)} that raise"
    return _verdict(not outside) + told


def _previous_before(name: str, own: Printed) -> str:
    induction = _named(own, "induction", "induction", "anti-induction", "pattern only", "sign unclear")
    previous = _named(own, "previous_token")
    first, earlier = min(row["layer"] for row in induction), min(row["layer"] for row in previous)
    return _verdict(earlier < first) + f"layer {earlier} before {first}"


def _pattern_copies(name: str, own: Printed) -> str:
    found = _named(own, "induction", "induction", "anti-induction", "pattern only", "sign unclear")
    raising = [row for row in found if row["kind"] == "induction"]
    return _verdict(len(raising) == len(found)) + f"{len(raising)} of {len(found)} raise it"


CLAIMS: tuple[tuple[str, Callable[[str, Printed], str]], ...] = (
    (
        "Sinks form early: beyond the bottom two layers heads attend heavily to the first token (Xiao et al. 2024); "
        "here, over half in no head below layer 2 and in most above",
        _early_sinks,
    ),
    ("Induction heads stand in the layers with full attention only", _induction_in_full),
    (
        "A previous-token head stands in an earlier layer than the first induction head (Olsson et al. 2022)",
        _previous_before,
    ),
    ("Heads that attend as induction heads do raise what they attend to (Olsson et al. 2022)", _pattern_copies),
)


def _verdict(holds: bool) -> str:
    return "holds: " if holds else "does not hold: "


def _highest(found: Sequence[Row], signed: bool) -> str:
    def told(row: Row) -> str:
        sign = f" ({row['copying']:+.2f})" if signed and row["copying"] is not None else ""
        return f"{row['head']} {short(row['score'])}{sign}"

    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return ", ".join(map(told, found[:MOST])) + more


def _first(heads: Iterable[str]) -> str:
    """The first three layers that have any of these heads, with how many."""
    layers = [layer_of(head) for head in heads]
    return ", ".join(f"{layer} ({layers.count(layer)})" for layer in sorted(set(layers))[:3]) or "none"


def _error(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.0e}" if value else "0"
