"""With the attention that forms the task ablated, is the task formed elsewhere, and does the answer remain?

In: the rounds of iterative ablation. Out: the article's table (what is ablated, how the source still answers, from
which layer on the target gives what), random ablations of the same size beside it, and three claims about the first
round, where that ablates what forms the task. A layer right behind the ablation that still transfers it is
redundancy, but not the article's *later* layer: that has a claim of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import methodcaller
from typing import Any

import polars as pl

from headscope.evidence import Test, bars, claim, every, lines, table
from headscope.evidence.figures import joined
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim, Figure
from headscope.studies.context import Part
from headscope.studies.redundancy.does_the_task import source_answered
from headscope.studies.redundancy.experiment import Ctx
from headscope.studies.redundancy.patching import ABLATED, MARGIN, Ablated, Patched
from headscope.studies.redundancy.rounds import KEPT_SHARE, Round, ablation_of_what_forms, kept, rounds, seen
from headscope.studies.redundancy.transfer import transferred
from headscope.tables import Column, Quantity, Table
from headscope.tasks.source_and_target import ANSWERS, CONTROLS, COPIED, EXAMPLES, INPUTS, TASK
from headscope.tasks.split import Split

Above = Split[Samples] | None
ROUND = Column("round", pl.Int64, "which ablation: 0 is none")
SET = Column("set", pl.String, "chosen: round by round, or by name; random: as many layers (or heads)")
OWN = Quantity("probability", "mean probability of the source's own answer f(source x)", within=(0.0, 1.0))
CLEAN = Quantity("clean", "the same with nothing ablated", within=(0.0, 1.0))
ROW = Column("ablation", pl.String, "round, set, and what is ablated in the source prompt")
P_VALUE = Column("p_value", pl.Float64, "share of these and the random sets with at most its probability")
REMAINS = Column("remains", pl.Boolean, f"whether it clearly keeps over {KEPT_SHARE:.0%} of its clean value")
FIRST = "first layer whose patch surely makes the target give {}; empty: none does surely"
FIRST_NEAR = Column("first_near_copied", pl.Int64, FIRST.format("a number near f(source x)"))
_SHORT = ("task", "slope", "copied", "copied_slope", "target_input", "source_input")
COLUMNS = dict(zip((*ANSWERS, *INPUTS), _SHORT, strict=True))
ENDED = Column("ended", pl.String, "why nothing was ablated after this")


def still_formed(needs: Sequence[Test], own: Test, above: Above) -> Claim:
    statement = "With the attention that forms the task ablated, another layer forms it; the answer remains."
    tests = [own, *(transferred(above) if above else ())]
    return claim("redundant", statement, needs=needs, tests=tests, tables=("ablations", "excess"))


def formed_later(needs: Sequence[Test], own: Test, above: Above, later: Sequence[int]) -> Claim:
    """`later` are the layers that stand behind attention which comes after the ablated."""
    statement = "Once the attention that forms the task is ablated, a later layer forms it, no earlier one."
    tests = [own]
    if above is not None:
        # Before layer 0 there is nothing of the source but its last token.
        before = above.map(lambda half: half.only(answer=TASK, layer=lambda layer: layer and layer not in later))
        behind = above.map(lambda half: half.only(layer=list(later)))
        what = "control minus examples, up to the ablation"
        none = Test("a later layer", None, above=MARGIN, reason="no attention comes after the ablated")
        tests += [every(what, -under_nearer(before), above=-MARGIN)]
        tests += transferred(behind) if later else [none]
    return claim("forms_later", statement, needs=needs, tests=tests, tables=("ablations", "excess"))


def under_nearer(above: Split[Samples]) -> Samples:
    """Every cell above that control which it exceeded least on the selection half."""
    cells = above.selection.at(control=CONTROLS[0]).cells
    nearest = above.selection.mean.reshape(len(CONTROLS), -1).argmin(0).tolist()
    given = above.estimation.by("control")
    parts = [given[CONTROLS[at]].only(answer=a, layer=x) for (a, x), at in zip(cells, nearest, strict=True)]
    return stacked(parts)


def survives(needs: Sequence[Test], own: Test) -> Claim:
    statement = "The answer keeps over half its probability without the attention that forms the task."
    return claim("survives", statement, needs=needs, tests=[own], tables=("ablations",))


def answer_remains(own: Samples | None, why: str = "") -> Test:
    what = f"probability of the source's answer, minus {KEPT_SHARE:.0%} of that with nothing ablated"
    return Test(what, own, above=0.0, reason=why)


def iterative_ablation(ctx: Ctx) -> Part:
    """Which layers form the task once those that formed it are ablated?"""
    made, n_layers, needs = ctx.once(rounds), ctx.model.n_layers, source_answered(ctx)
    (judged, lost, why), clean = ablation_of_what_forms(made), made[0]
    own, above, later = answer_remains(None, why), None, range(0)
    if judged is not None:
        own, above = answer_remains(kept(judged.patched, clean.patched)), judged.excess
        last = max(head.layer for head in judged.patched.heads)
        after = min((layer for layer in ctx.model.anatomy.attending if layer > last), default=n_layers)
        later = range(after + 1, n_layers + 1)
    forming = Test("what the ablation costs the task where it was formed", lost, above=MARGIN, reason=why)
    formed = [*needs, *transferred(clean.excess), forming]
    claims = [still_formed(formed, own, above), formed_later(formed, own, above, later), survives(formed, own)]
    ablations, answers = _ablations(made)
    task = _by_layer(made, "task", TASK[0], "Where the task is transferred, by ablation")
    copied = _by_layer(made, "copied", COPIED[0], "Where the source's answer is transferred, by ablation")
    return Part(tables=[ablations], claims=claims, figures=[task, copied, *([answers] if made[1:] else [])])


def _ablations(made: Sequence[Round]) -> tuple[Table, Figure]:
    """Every round and its random ablations: the source's answer, and the first layer of each of the target's."""
    clean, ended = made[0].patched, {}
    every: dict[tuple[int, str, str], Ablated] = {}
    for number, each in enumerate(made):
        every[number, "chosen", each.patched.name] = each.patched
        every |= {(number, "random", other.name): other for other in each.random}
        ended[number, "chosen", each.patched.name] = each.ended
    own_columns: dict[Column, Callable[[Ablated], Any]] = {
        REMAINS: lambda each: bool(kept(each, clean).estimate().low[0] > 0)
    }
    columns: dict[Column, Callable[[Patched], Any]] = {}
    if "near" in clean.own_right:
        columns[FIRST_NEAR] = Patched.first_near_copied
    for reading in clean.own_right:
        meaning = f"share of sources whose predicted answer is right, {reading}"
        own_columns[Column(reading, pl.Float64, meaning)] = methodcaller("share", reading)
    for answer in clean.prompts.problems.answers:
        name = COLUMNS[answer]
        among = methodcaller("first", answer, among=seen(made, answer))
        columns[Column(f"first_{name}", pl.Int64, FIRST.format(answer))] = among
    targets = {cell: each for cell, each in every.items() if isinstance(each, Patched)}
    more = {column: {cell: read(each) for cell, each in every.items()} for column, read in own_columns.items()}
    more |= {column: {cell: read(each) for cell, each in targets.items()} for column, read in columns.items()}
    more[P_VALUE] = {
        (number, "chosen", each.patched.name): (
            1 + sum(bool(o.own.mean <= each.patched.own.mean) for o in each.random)
        )
        / (1 + len(each.random))
        for number, each in enumerate(made)
        if each.random
    }
    values = {cell: each.own.values[:, 0] for cell, each in every.items()}
    own = Samples.of(OWN, (ROUND, SET, ABLATED), values)
    labelled, reference = joined(own, ROW, "round", "set", "ablated"), clean.own.measured_as(CLEAN)
    title = "The source's own answer under each ablation"
    caption = "Mean probability of f(source x) over source prompts, by round. The mark: nothing ablated."
    figure = bars(labelled, "ablation", reference=reference, name="ablations", title=title, caption=caption)
    return table(own, "ablations", more={**more, ENDED: ended}), figure


def _by_layer(made: Sequence[Round], name: str, answer: str, title: str) -> Figure:
    """One line for each round, and the control with nothing ablated."""
    sources = [(each.patched, EXAMPLES, each.patched.name) for each in made]
    sources.append((made[0].patched, CONTROLS[0], f"nothing, {CONTROLS[0]} source"))
    rows = [each.probability.at(source=kind, answer=answer).labelled(ABLATED, what) for each, kind, what in sources]
    caption = f"Mean probability of {answer} over target prompts, patched before each layer (last: after all)."
    figure = lines(rows, "layer", colour="ablated", name="transfer", title=title, caption=caption)
    return replace(figure, name=name)
