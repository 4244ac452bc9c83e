"""Does what an example adds go through the MLPs at its label, in proportion to their output?

In: a model and settings. Out: the update by the last of two to four examples, with the MLPs' output at its label
whole, half-way to its mean over label-shuffled prompts, and all the way; and the claim "update_by_mlps" (step 3 of
claim 3 of `sources.REDUNDANT_HEADS`: "the size of this update is probably only proportional to the MLPs confidence",
and the size of the MLPs' features is that confidence). A correlation over prompts (confidence.py) cannot tell whether
both follow from what is shown; here the supposed mediator itself is changed (Vig et al. 2020). Controls: the MLPs at
the x of the same pair, and labels that were shuffled, whose MLPs have nothing true to bring. Early examples are asked
since later ones change little.
"""

import numpy as np
import polars as pl

from headscope import tasks
from headscope.evidence import Test, bars, claim, table
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import answer_log_odds, log_odds_under, unanswered
from headscope.studies.bayes.mlp_ablation import FEWEST_REFERENCES, LABEL, MLP, SITES, X, numbered, to_mean
from headscope.studies.bayes.problems import Ctx, prompts_each, truncated_context
from headscope.studies.context import Part
from headscope.sweeps import Cell
from headscope.tables import Column, Quantity
from headscope.tasks.shots import Shots

LAST = (2, 3, 4)
LEAST_UPDATE_NATS = 0.25
# Of the update, what the MLPs at the label must carry, and by how much more than those at the x.
CARRIED, BEYOND_X = 0.5, 0.1
# Half of their output must carry between a quarter and three quarters of what all of it carries.
PROPORTION = 0.25
# What they may carry where labels are shuffled, in nats.
NOTHING_NATS = 0.1
NAME = "update_by_mlps"
STATEMENT = "What an example adds to the answer's log-odds goes in proportion to the output of the MLPs at its label."

WHOLE, HALF, NONE, NONE_AT_X = "unchanged", "half at the label", "mean at the label", "mean at the x"
LEFT = {HALF: (LABEL, 0.5), NONE: (LABEL, 1.0), NONE_AT_X: (X, 1.0)}
SHOWN, SHUFFLED = "as they are", "shuffled"
UPDATE = Quantity("last_update", "change of the answer's log-odds by the last example", "nats")
LABELS = Column("labels", pl.String, "the labels of the prompt")
OUTPUT = Column("mlp_output", pl.String, "what the MLPs of all layers write in the last example")


def update_mediation(ctx: Ctx) -> Part:
    """What is left of an update when the MLPs at its label write half of their own, or none?"""
    model, n, seed = ctx.model, prompts_each(ctx.settings), ctx.settings.seed
    if not any(model.has(SITES[MLP], layer) for layer in range(model.n_layers)):
        return unanswered(NAME, STATEMENT, "this model has no MLPs whose output can be replaced")
    shots, drawn = (ctx.settings.draw(model, n=max(n, FEWEST_REFERENCES), seed=s) for s in (91, 92))
    reference = drawn.with_shuffled_labels(seed)
    values: dict[tuple[str, str], Array] = {}
    for labels, own in ((SHOWN, shots), (SHUFFLED, shots.with_shuffled_labels(seed))):
        by_number = [_updates(ctx, own, reference, last) for last in LAST if last <= shots.x.shape[1]]
        values |= {(labels, left): np.stack([one[left] for one in by_number]).mean(0) for left in by_number[0]}
    update = Samples.of(UPDATE, (LABELS, OUTPUT), values)
    figure = bars(
        update,
        "mlp_output",
        colour="labels",
        name="update_mediation",
        title="What is left of an update without the MLPs at its label",
        caption=f"Change of the answer's log-odds by the last of {LAST[0]} to {LAST[-1]} examples, mean over "
        f"{len(shots)} prompts, with the MLPs' output in that example moved to its mean over label-shuffled prompts.",
    )
    return Part(tables=[table(update, "update_mediation")], claims=[update_by_mlps(update)], figures=[figure])


def update_by_mlps(update: Samples) -> Claim:
    """By updates [prompt, (labels, mlp_output)]; all shares of an update are taken prompt by prompt."""
    at = update.at(labels=SHOWN).by("mlp_output")
    whole, half, none, at_x = (at[left].values for left in (WHOLE, HALF, NONE, NONE_AT_X))
    carried = whole - none

    def test(what: str, values: Array, above: float = 0.0) -> Test:
        return Test(what, at[WHOLE].changed(UPDATE, lambda _: values), above=above)

    shuffled = update.at(labels=SHUFFLED).by("mlp_output")
    return claim(
        NAME,
        STATEMENT,
        needs=[Test("update by the last example", at[WHOLE], above=LEAST_UPDATE_NATS)],
        null=Test("carried at shuffled labels", shuffled[WHOLE] - shuffled[NONE], above=NOTHING_NATS),
        tests=[
            test("carried by MLPs at the label, beyond half of the update", carried - CARRIED * whole),
            test("carried at the label beyond that at the x", at_x - none - BEYOND_X * whole),
            test("carried by half of their output, beyond a quarter", whole - half - PROPORTION * carried),
            test("three quarters, beyond what half carries", (1 - PROPORTION) * carried - (whole - half)),
        ],
        tables=("update_mediation",),
    )


def _updates(ctx: Ctx, shots: Shots, reference: Shots, last: int) -> dict[str, Array]:
    """The update by the example of this number, [prompt], by what MLPs write in it."""
    model = ctx.model
    before = answer_log_odds(model, tasks.linear(model, truncated_context(shots, last - 1)))
    prompts, others = (numbered(tasks.linear(model, truncated_context(s, last))) for s in (shots, reference))
    sites = [(SITES[MLP], layer) for layer in range(model.n_layers) if model.has(SITES[MLP], layer)]
    means = {site: each.double().cpu().numpy() for site, each in model.activations(others, sites).items()}
    cells = [
        Cell(
            tuple(
                edit
                for site in sites
                for edit in to_mean(site, others, [f"{place} {last - 1}"], means[site], strength=strength)
            )
        )
        for place, strength in LEFT.values()
    ]
    under = log_odds_under(ctx, prompts, cells, "moving MLPs to their mean")
    after = {WHOLE: answer_log_odds(model, prompts), **dict(zip(LEFT, under, strict=True))}
    return {left: each - before for left, each in after.items()}
