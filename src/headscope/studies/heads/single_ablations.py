"""What does each head's ablation cost?

In: repeated random tokens and natural prompts. Out: the rise of the loss for every head by itself, by three
ablations: mean (what depends on the prompt), zero (everything, and farther from what the model has seen), to BOS
(the head rests on the first token; Janiak et al. 2023). Of a large model only some heads are ablated (screening). A
small damage does not say that a head does nothing.
"""

from dataclasses import replace
from typing import Any

import polars as pl

from headscope.evidence import table
from headscope.figures import head_grid
from headscope.measures import loss
from headscope.measures.samples import Samples, over_heads
from headscope.studies.context import Part
from headscope.studies.heads import screening
from headscope.studies.heads.experiment import DAMAGE, JUDGED, Ctx, averaged, prompts
from headscope.studies.heads.screening import ABLATION, ESTIMATE, KIND
from headscope.sweeps import each_head, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column

CLEAN_LOSS = Column("clean_loss", pl.Float64, "loss on the same prompts with nothing ablated", "nats")


def single_ablations(ctx: Ctx) -> Part:
    """How much does the loss rise when a head is ablated?"""
    measured = ctx.once(damage_of_each)
    harm = [damage for damage, _ in measured]
    clean = {cell: mean for damage, mean in measured for cell in damage.cells}
    more: dict[Column, dict[Any, Any]] = {CLEAN_LOSS: clean}
    if screening.screened(ctx):
        more[ESTIMATE.column] = {cell: value for each in harm for cell, value in screening.beside(ctx, each).items()}
    listed, blank = table(harm, "damage", more=more), "Blank: not tried. " if screening.screened(ctx) else ""
    grid = head_grid(
        listed.where(prompts_kind="repeated"),
        "damage",
        facet="ablation",
        diverging=True,
        title="What each head's ablation costs",
        caption="Rise of the loss when one head is ablated: by its mean over random tokens, by zero, or by sending "
        f"it to the first token. {blank}{averaged(ctx)}",
    )
    note = (
        "Mean ablation puts a head's mean over random tokens without repetition in its place, so that the mean holds "
        "nothing of the repetition. Zero ablation is farther from anything that the model has seen, and so is "
        "sending a head to the first token where the window of its layer ends before that."
    )
    part = Part(tables=[listed], figures=[grid], notes=[note, *screening.notes(ctx, harm)])
    return _with_estimates(ctx, part) if screening.screened(ctx) else part


def _with_estimates(ctx: Ctx, part: Part) -> Part:
    """The same with what every head would cost to first order, in a table and a figure of its own."""
    listed = screening.first_order(ctx)
    grid = head_grid(
        listed.where(prompts_kind="repeated"),
        "estimate",
        facet="ablation",
        diverging=True,
        title="What each head's ablation would cost, to first order",
        caption="Estimates from gradients, by which heads were chosen to be tried: nothing was ablated here. A head "
        f"with a small estimate may still matter. {averaged(ctx)}",
    )
    return replace(part, tables=[*part.tables, listed], figures=[*part.figures, grid])


def damage_of_each(ctx: Ctx) -> list[tuple[Samples, float]]:
    """Damage of the heads tried [prompt, (ablation, prompts_kind, layer, head)] and clean loss, for each ablation."""
    heads, measured = ctx.once(screening.tried), []
    for (ablation, kind), template in screening.ablations(ctx).items():
        judged = screening.judged(prompts(ctx).estimation, kind)
        measure, stage = loss(JUDGED), ctx.stage(f"ablating heads ({ablation}, {kind})")
        (clean,) = evaluate(ctx.model, judged, [measure])
        ablated = cell_values(ctx.model, judged, each_head(template, heads), measure, progress=stage)
        damage = over_heads(DAMAGE, heads, measure.damage(clean, ablated).T.numpy())
        measured.append((damage.labelled(KIND, kind).labelled(ABLATION, ablation), float(clean.mean())))
    return measured
