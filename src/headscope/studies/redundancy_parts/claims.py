"""What the redundancy study says: claims with their verdicts, computed from its evidence.

Rules are stated once, here and where the numbers are made (`redundancy_patching.MARGIN`,
`redundancy_peeling.KEPT_SHARE`, `redundancy_heads.MARGINS`). A layer that a claim is about is picked on the selection
half and judged on the other. A claim is *supported* if a lower bound exceeds its margin, *refuted* if the upper
bounds stay below it, and *undetermined* otherwise: a wide interval is never read as "no effect".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headscope.measures import Side, interval, side
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.redundancy_parts.cuts import written
from headscope.studies.redundancy_parts.heads import MATTERS_LOGITS
from headscope.studies.redundancy_parts.patching import MARGIN, Evidence, the_stream
from headscope.studies.redundancy_parts.peeling import KEPT_SHARE, Step, aside, remains, takes_away
from headscope.studies.redundancy_parts.problems import COPIED, TASK
from headscope.studies.redundancy_parts.prompts import exactly, nearly
from headscope.studies.words import count, number, undetermined, with_bounds
from headscope.tables import Table

# Heads stand in for each other if cutting them together costs more than one by one by over this share of the sum.
INTERACTION_SHARE = 0.1

Tables = Mapping[str, Table]


def all_claims(model: Model, steps: Sequence[Step], found: Tables) -> tuple[Claim, ...]:
    """The claims of the article, in the order in which a reader asks."""
    claims = (
        _carried(model, steps[0]),
        _redundant(model, steps),
        _forms_later(model, steps),
        _survives(model, steps),
        _backed_up(found),
        _layers_stand_in(found),
        _heads_stand_in(found),
        _repeats(model, steps[0]),
        _parity(model, steps[0]),
        _looks_back(found),
    )
    return tuple(replace(claim, because=_capital(claim.because)) for claim in claims)


def _capital(sentence: str) -> str:
    """A sentence with its first letter large, unless it begins with a name (x_A, 1.3)."""
    return sentence if sentence[1:2] in "_(." else sentence[:1].upper() + sentence[1:]


def _carried(model: Model, clean: Step) -> Claim:
    statement = (
        "Some layer carries the task: put into a prompt without pairs, its stream makes B answer f(x_B) or a x_B, by "
        f"over {MARGIN} more than from shuffled labels or from another function."
    )
    answer, stream = clean.chosen_on.best_task()
    every = [clean.found.probability(name) for name in TASK]
    picked = clean.found.probability(answer)
    reached = float(np.max([each.beyond_high for each in every]))
    verdict = Verdict.of(side(float(picked.beyond_low[stream]), reached, MARGIN))
    because = (
        f"best on other prompts is {the_stream(stream, model.n_layers)}: B answers {answer} with "
        f"probability {_bounds(picked.mean, picked.low, picked.high, stream)}, with shuffled labels in A "
        f"{number(picked.controls['shuffled'][stream])}, with another function in A "
        f"{number(picked.controls['other'][stream])}; above the nearer of the two by "
        f"{_bounds(picked.beyond, picked.beyond_low, picked.beyond_high, stream)}."
    )
    return Claim("carried", statement, verdict, because, ("patched",))


def _nothing(steps: Sequence[Step], *, task: bool) -> str:
    """Why a claim about cuts cannot be judged; empty if it can."""
    if len(steps) == 1:
        return f"nothing was cut: {steps[0].reason}."
    if not steps[0].found.knows:
        return "A's own answer f(x_A) is not clearly likelier than with shuffled labels."
    if task and steps[0].found.first_task() is None:
        return "no layer clearly carries the task even with nothing cut."
    return ""


def _redundant(model: Model, steps: Sequence[Step]) -> Claim:
    name, statement = (
        "redundant",
        (
            "The task is formed in more places than one: with the attention just before the first layer that carries "
            "it cut, some layer still carries it, while A's answer remains."
        ),
    )
    if nothing := _nothing(steps, task=True) or aside(model, steps):
        return undetermined(name, statement, nothing, "cuts")
    outcomes = [_still(step, steps[0]) for step in steps[1:] if takes_away(model, step, steps[0])]
    told = [f"with nothing cut the task is {_first(steps[0].found.first_task(), model)}"]
    for step in steps[1:]:
        told.append(
            f"with {written(model, step.heads)} cut it is {_first(step.found.first_task(), model)}, and A's answer "
            f"{_remaining(step, steps[0])} ({_at_random(step)})"
        )
    return Claim(name, statement, _any_of(outcomes), "; ".join(told) + ".", ("cuts", "patched", "random"))


def _still(step: Step, clean: Step) -> bool | None:
    """Whether some layer carries the task under a cut that A survives (True), surely not (False), or neither."""
    stays = remains(step.found.own.probability, clean.found.own.probability)
    if (
        stays is Side.ABOVE
        and step.chosen_on.first_task() is not None
        and step.found.first_task() is not None
    ):
        return True
    return False if stays is Side.BELOW or _nowhere(step, len(step.found.answers["task"].said)) else None


def _forms_later(model: Model, steps: Sequence[Step]) -> Claim:
    name, statement = (
        "forms_later",
        (
            "Once that attention is cut, a later layer forms the task: nothing carries it up to the cut any more, a "
            "later layer behind attention that is left does, and A's answer remains."
        ),
    )
    tables = ("cuts", "patched")
    if nothing := _nothing(steps, task=True) or aside(model, steps):
        return undetermined(name, statement, nothing, *tables)
    outcomes, told = [], []
    for step in steps[1:]:
        outcome, words = _later(model, step, steps[0])
        if takes_away(model, step, steps[0]):
            outcomes.append(outcome)
        told.append(f"with {written(model, step.heads)} cut {words}")
    return Claim(name, statement, _any_of(outcomes), "; ".join(told) + ".", tables)


def _later(model: Model, step: Step, clean: Step) -> tuple[bool | None, str]:
    """Whether later attention surely forms the task after a cut (True), surely not (False), or neither; in words."""
    last = max(head.layer for head in step.heads)
    now = step.found.first_task()
    if now is None:
        nowhere = _nowhere(step, step.found.n_streams)
        return (False if nowhere else None), "no layer clearly carries it"
    where = the_stream(now, model.n_layers)
    between = [layer for layer in model.anatomy.attending if last < layer < now]
    if not between:
        return False, f"it is still carried by {where}, by what is left up to there"
    stays, gone = remains(step.found.own.probability, clean.found.own.probability), _nowhere(step, last + 2)
    if gone and stays is Side.ABOVE:
        return True, f"it is first carried by {where}"
    if stays is Side.BELOW:
        return False, f"it is first carried by {where}, but A's answer fails"
    return None, f"it is first carried by {where}, which is not sure enough"


def _nowhere(step: Step, stop: int) -> bool:
    """Whether no stream before this one surely carries the task."""
    every = [step.found.probability(name).beyond_high[:stop] for name in TASK]
    return all(bool((high < MARGIN).all()) for high in every)


def _any_of(outcomes: Sequence[bool | None]) -> Verdict:
    if True in outcomes:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if all(outcome is False for outcome in outcomes) else Verdict.UNDETERMINED


def _at_random(step: Step) -> str:
    firsts = [control.first_task() for control in step.controls]
    carrying = sum(first is not None for first in firsts)
    return f"some layer carries it in {carrying} of {count(len(firsts), 'random cut')} of that size"


def _survives(model: Model, steps: Sequence[Step]) -> Claim:
    name, statement = (
        "survives",
        (
            "A's answer survives the cut of the attention that formed the task: it keeps more than "
            f"{KEPT_SHARE:.0%} of its probability at the first cut."
        ),
    )
    if nothing := _nothing(steps, task=False) or aside(model, steps):
        return undetermined(name, statement, nothing, "cuts")
    clean = steps[0].found.own.probability
    first = next(step for step in steps[1:] if takes_away(model, step, steps[0]))
    own = first.found.own.probability
    verdict = Verdict.of(remains(own, clean))
    told = []
    for step in steps:
        right, said = step.found.written.problems.numbers["f(x_A)"], step.found.own.said
        means = [control.own.probability.mean() for control in step.controls]
        beside = f" (random cuts of the same size: {', '.join(number(float(each)) for each in means)})"
        told.append(
            f"with {written(model, step.heads)} cut p = {_mean(step.found.own.probability.numpy())}, exactly "
            "right in "
            f"{float(exactly(said, right).mean()):.0%}, near in {float(nearly(said, right).mean()):.0%}"
            f"{beside if means else ''}"
        )
    return Claim(name, statement, verdict, "; ".join(told) + ".", ("cuts", "random"))


def _backed_up(found: Tables) -> Claim:
    statement = (
        "Backup heads grow: once heads are cut, a later head looks at the shown numbers more, or writes more on A's "
        "answer, than before."
    )
    rows = found["growth"].rows()
    if not rows:
        because = "no cut was made that later heads could answer to."
        return undetermined("backups", statement, because, "growth")
    backups = [row for row in rows if row["backup"]]
    if backups:
        verdict, shown = Verdict.SUPPORTED, backups
    else:
        below = all(row["high"] < row["margin"] for row in rows)
        verdict = Verdict.REFUTED if below else Verdict.UNDETERMINED
        shown = [max(rows, key=lambda row: row["low"] / row["margin"])]
    told = [
        f"{row['head']}, {row['quantity']} {number(row['value_before'])} -> {number(row['value_after'])} once "
        f"{row['after']} {'is' if row['after'].count(' ') == 1 else 'are'} cut (growth {with_bounds(row, 'growth')}, "
        f"margin {row['margin']})"
        for row in shown[:6]
    ]
    lead = f"{len(backups)} beyond the margin: " if backups else "the nearest to its margin is "
    return Claim("backups", statement, verdict, lead + "; ".join(told) + ".", ("growth",))


def _layers_stand_in(found: Tables) -> Claim:
    statement = (
        "The layers that form the task stand in for each other: cut together they cost B's f(x_B) more than one by "
        f"one in sum, by over {INTERACTION_SHARE:.0%} of that sum."
    )
    nothing = (
        "no layer clearly carries the task, or fewer than two with attention come before the one that does."
    )
    return _stand_in("layers_stand_in", statement, "layers", nothing, found)


def _heads_stand_in(found: Tables) -> Claim:
    statement = (
        "The heads that matter most for A's answer stand in for each other: cut together they cost it more than one "
        f"by one in sum, by over {INTERACTION_SHARE:.0%} of that sum."
    )
    nothing = (
        f"fewer than two heads surely lower the answer's logit by {MATTERS_LOGITS} when they are cut alone."
    )
    return _stand_in("heads_stand_in", statement, "heads", nothing, found)


def _stand_in(name: str, statement: str, what: str, nothing: str, found: Tables) -> Claim:
    prefix = "layer_" if what == "layers" else ""
    tables = ("together", *(f"{prefix}{each}" for each in ("interactions", "effects", "sets")))
    rows = found["together"].rows(what=what)
    if not rows:
        return undetermined(name, statement, nothing, *tables)
    row = rows[0]
    margin = INTERACTION_SHARE * abs(row["apart"])
    verdict = Verdict.of(side(row["low"], row["high"], margin))
    sets = {each["kind"]: each["heads"] or f"none ({each['reason']})" for each in found[tables[3]].rows()}
    pairs = found[tables[1]].rows()
    last = sum(each["damage"] for each in found[tables[2]].rows(effect="ablated last"))
    because = (
        f"{what} {row['members']} together lower the logit by {number(row['together'])}, one by one in sum by "
        f"{number(row['apart'])}: interaction {with_bounds(row, 'interaction')} (margin {number(margin)}); each cut "
        f"after the others costs {number(last)} in sum. {sum(each['low'] > 0 for each in pairs)} of {len(pairs)} "
        "pairs "
        f"have a positive interaction. Smallest necessary set: {sets['necessary']}; smallest sufficient set: "
        f"{sets['sufficient']}."
    )
    return Claim(name, statement, verdict, because, tables)


def _repeats(model: Model, clean: Step) -> Claim:
    name, statement = (
        "repeats",
        (
            "Once x_A has travelled to the last position, B repeats A's answer rather than the task: from that "
            "layer on, "
            "f(x_A) and a x_A are likelier than f(x_B) and a x_B."
        ),
    )
    first = clean.chosen_on.first_copied()
    if first is None or first >= model.n_layers:
        where = (
            "only with the final stream, which is A's answer itself"
            if first is not None
            else "from no layer on"
        )
        because = f"B gives A's answer {where}, so it cannot be said what B does between."
        return undetermined(name, statement, because, "patched")
    copied, carried = (_over_streams(clean.found, names, first, model.n_layers) for names in (COPIED, TASK))
    gap = interval(copied - carried)
    verdict = Verdict.of(side(float(gap.low), float(gap.high), 0.0))
    before = clean.found.first_task()
    because = (
        f"x_A has travelled by {the_stream(first, model.n_layers)}; from there to the last layer B gives A's answers "
        f"with probability {_mean(copied)} and the task's with {_mean(carried)} (difference "
        f"{_mean(copied - carried)}). "
        f"The task itself is {_first(before, model)}."
    )
    return Claim(name, statement, verdict, because, ("patched",))


def _over_streams(found: Evidence, names: Sequence[str], first: int, stop: int) -> np.ndarray:
    """Probability of these answers together, mean over streams, [prompt]."""
    values = found.probability_of(names)[first:stop].mean(0)
    return np.asarray(values.numpy(), np.float64)


def _parity(model: Model, clean: Step) -> Claim:
    name, statement = (
        "parity",
        (
            "Parity is learnt later than slope: where B first follows the slope, it does not yet say a number as "
            "odd as "
            "f(x_B), and from a later layer it does (problems with even a, against another function)."
        ),
    )
    slope, found = clean.chosen_on.probability(*TASK).first, clean.found.parity()
    if slope is None or found is None:
        because = "no layer carries the slope" if found is not None else "no problem has an even slope"
        return undetermined(name, statement, f"not measurable: {because}.", "parity")
    there = side(float(found.beyond_low[slope]), float(found.beyond_high[slope]), MARGIN)
    later = [stream for stream in range(slope + 1, len(found.mean)) if found.carries[stream]]
    verdict = Verdict.UNDETERMINED
    if there is Side.ABOVE:
        verdict = Verdict.REFUTED
    elif there is Side.BELOW and later:
        verdict = Verdict.SUPPORTED
    because = (
        f"f(x_B) or a x_B is first carried by {the_stream(slope, model.n_layers)}; there B's number has the parity "
        f"of f(x_B) in {_bounds(found.mean, found.low, found.high, slope)} of {found.prompts} problems, above "
        f"another function by {_bounds(found.beyond, found.beyond_low, found.beyond_high, slope)} (margin {MARGIN})"
        + (
            f"; later it is, from {the_stream(later[0], model.n_layers)} on."
            if later and there is Side.BELOW
            else "."
        )
    )
    return Claim(name, statement, verdict, because, ("parity", "patched"))


def _looks_back(found: Tables) -> Claim:
    name, statement = (
        "looks_back",
        (
            "The heads that were cut and contributed most look from the token before each y to earlier y, by over "
            f"{MARGIN} of their attention more than to as many other tokens (most of them do)."
        ),
    )
    rows, which = [row for row in found["formers"].rows() if row["low"] > 0], "formers"
    if not found["formers"].rows():
        rows, which = found["task_heads"].rows(), "task_heads"
    if not rows:
        because = "no head that was cut surely costs the task or the answer anything alone."
        return undetermined(name, statement, because, "formers", "task_heads")
    sides = [side(row["beyond_low"], row["beyond_high"], MARGIN) for row in rows]
    above, below = sides.count(Side.ABOVE), sides.count(Side.BELOW)
    verdict = Verdict.UNDETERMINED
    if 2 * above > len(rows):
        verdict = Verdict.SUPPORTED
    elif 2 * below > len(rows):
        verdict = Verdict.REFUTED
    listed = ", ".join(
        f"{row['head']} ({number(row['attention'])} against {number(row['elsewhere'])})" for row in rows
    )
    whose = "of the foremost heads of the layers cut first, where their cut alone costs the task something,"
    if which == "task_heads":
        verdict = Verdict.UNDETERMINED  # other heads than the claim is about
        whose = "no head that was cut surely forms the task; of the heads that matter for A's answer"
    because = f"{whose} {above} of {len(rows)} do, {below} surely do not: {listed}."
    return Claim(name, statement, verdict, because, (which,))


def _remaining(step: Step, clean: Step) -> str:
    words = {
        Side.ABOVE: "remains",
        Side.BELOW: "fails",
        Side.UNDETERMINED: "neither surely remains nor fails",
    }
    return words[remains(step.found.own.probability, clean.found.own.probability)]


def _first(stream: int | None, model: Model) -> str:
    return (
        "not clearly carried anywhere"
        if stream is None
        else f"first carried by {the_stream(stream, model.n_layers)}"
    )


def _bounds(mean: np.ndarray, low: np.ndarray, high: np.ndarray, stream: int) -> str:
    return with_bounds({"mean": mean[stream], "low": low[stream], "high": high[stream]}, "mean")


def _mean(values: np.ndarray) -> str:
    found = interval(values)
    return with_bounds(
        {"mean": float(found.mean), "low": float(found.low), "high": float(found.high)}, "mean"
    )
