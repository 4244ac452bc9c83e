"""Once the source's x has reached the final position, does the target repeat the source's answer?

In: what the target answers with each layer patched and nothing ablated. Out: the article's second hypothesis as a
claim, from the first layer that transfers the source's answer, chosen on the selection half, to the last layer (not
after it: the final residual stream is the source's answer itself). That the first does transfer it is a need.
"""

from collections.abc import Sequence

import polars as pl

from headscope.evidence import Test, claim, table
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.redundancy.does_the_task import source_answered
from headscope.studies.redundancy.experiment import Ctx
from headscope.studies.redundancy.patching import MARGIN, PROBABILITY, excess
from headscope.studies.redundancy.rounds import rounds
from headscope.tables import Column
from headscope.tasks.source_and_target import CONTROLS, COPIED, EXAMPLES, TASK

WHOSE = Column("whose", pl.String, "source: f(source x) or a · source x; target: f(target x) or a · target x")


def repeated(needs: Sequence[Test], first: int | None, answers: Samples | None) -> Claim:
    """`answers` are probabilities of the source's and of the target's answers, from layer `first` on."""
    gap = None if answers is None else answers.at(whose="source") - answers.at(whose="target")
    where = "" if first is None else f", layer {first} on"
    why = "only the final residual stream transfers the source's answer, or none does"
    statement = "Once the source's x has reached the final position, the target repeats the source's answer."
    what = f"probability of the source's answers minus the target's own{where}"
    tables = ("transfer",) if answers is None else ("repeats", "transfer")
    return claim("repeats", statement, needs=needs, tests=[Test(what, gap, above=MARGIN, reason=why)], tables=tables)


def repeats(ctx: Ctx) -> Part:
    """From the first layer that transfers the source's answer on, whose answer is given?"""
    clean, n_layers = ctx.once(rounds)[0].halves, ctx.model.n_layers
    first, needs = clean.selection.first(*COPIED), source_answered(ctx)
    if first is None or first == n_layers:
        return Part(claims=[repeated(needs, None, None)])
    there = excess(clean.estimation.either(COPIED)).at(layer=first)
    needs += [Test(f"source's answers, above {c} sources", there.at(control=c), above=MARGIN) for c in CONTROLS]
    layers = range(first, n_layers)
    means = [
        Samples.one(PROBABILITY, given.only(layer=layers).values.mean(1)).labelled(WHOSE, whose)
        for whose, names in (("source", COPIED), ("target", TASK))
        for given in [clean.estimation.either(names).at(source=EXAMPLES)]
    ]
    return Part(tables=[table(stacked(means), "repeats")], claims=[repeated(needs, first, stacked(means))])
