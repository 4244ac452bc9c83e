"""Is parity learnt later than slope?

In: the numbers that the target predicts, where a is even and so the parity of f(x) is that of b. Out: a table, and
the article's claim judged at the first layer that transfers the slope and at a later one, both chosen on the
selection half; that the first does transfer it is a need. All labels of such a source have the parity of b, shuffled
or not: another function is the only control.
"""

from collections.abc import Sequence

from headscope.evidence import Test, any_of, claim, table
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.redundancy.does_the_task import source_answered
from headscope.studies.redundancy.experiment import Ctx, problems
from headscope.studies.redundancy.patching import ABLATED, MARGIN, clear, excess
from headscope.studies.redundancy.rounds import rounds
from headscope.studies.redundancy.transfer import CONTROL_MEANS
from headscope.tasks.source_and_target import CONTROLS, EXAMPLES, TASK
from headscope.tasks.split import Split

OTHER = CONTROLS[1]


def parity_later(needs: Sequence[Test], slope: int | None, above: Split[Samples] | None) -> Claim:
    """`slope` is the first layer that transfers the slope; `above` the parity above another function, by layer."""
    there = later = None
    why = "no problem has an even slope" if above is None else "no layer clearly transfers the slope"
    if above is not None and slope is not None:
        there = above.estimation.at(layer=slope)
        after = above.map(lambda half: half.only(layer=lambda layer: layer > slope))
        later = after.estimation.choosing(layer=after.selection.best("layer")) if len(after.selection) else None
        why = "no layer comes after"
    statement = "Parity is learnt later than slope: the first layer that transfers slope does not transfer parity."
    what = f"parity of f(x) at layer {slope}, the first that transfers the slope, above another function"
    at_best = any_of("parity at a later layer, above another function", later, above=MARGIN, reason=why)
    tables = () if above is None else ("parity", "parity_excess")
    not_yet = Test(what, there, below=MARGIN, reason=why)
    return claim("parity", statement, needs=needs, tests=[not_yet, at_best], tables=tables)


def parity(ctx: Ctx) -> Part:
    """At which layers does the target's number have the parity of f(x)? Not asked where there are no slopes."""
    if not ctx.once(problems).slopes:
        return Part()
    sloped = ctx.once(rounds)[0].halves.map(lambda half: excess(half.either(TASK)))
    slope, needs = min((layer for (layer,) in clear(sloped.selection)), default=None), source_answered(ctx)
    if slope is not None:
        there = sloped.estimation.only(layer=slope).by("control")
        needs += [Test(f"slope, above {each} sources", there[each], above=MARGIN) for each in CONTROLS]
    halves = [
        [(each.name, each.parity) for each in patched if each.parity is not None]
        for patched in zip(*(one.halves for one in ctx.once(rounds)), strict=True)
    ]
    if not all(halves):
        return Part(claims=[parity_later(needs, slope, None)])
    selection, estimation = (stacked([each.labelled(ABLATED, n) for n, each in half]) for half in halves)
    above = Split(selection, estimation).map(lambda half: excess(half, (OTHER,)).at(control=OTHER))
    controls = [estimation.at(source=each).measured_as(CONTROL_MEANS[each]) for each in CONTROLS]
    share = table(estimation.at(source=EXAMPLES), "parity", beside=controls)
    claims = [parity_later(needs, slope, above.map(lambda half: half.at(ablated="nothing")))]
    return Part(tables=[share, table(above.estimation, "parity_excess")], claims=claims)
