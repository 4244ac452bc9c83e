"""What does each head's ablation cost?

In: repeated random tokens and natural prompts. Out: the rise of the loss for every head by itself, by three
ablations: mean (what depends on the prompt), zero (everything, and farther from what the model has seen), to BOS
(the head rests on the first token; Janiak et al. 2023). A small damage does not say that a head does nothing.
"""

import polars as pl

from headscope.evidence import table
from headscope.figures import head_grid
from headscope.interventions import to_bos, zero
from headscope.measures import loss
from headscope.measures.samples import Samples, over_heads
from headscope.studies.context import Part
from headscope.studies.heads.experiment import DAMAGE, PREDICTABLE, Ctx, averaged, mean_ablation, prompts
from headscope.sweeps import each_head, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column

ABLATION = Column("ablation", pl.String, "what replaces the head's output: its mean, zero, or that at BOS")
KIND = Column("prompts_kind", pl.String, "repeated: loss on predictable tokens; natural: loss on all tokens")
CLEAN_LOSS = Column("clean_loss", pl.Float64, "loss on the same prompts with nothing ablated", "nats")


def single_ablations(ctx: Ctx) -> Part:
    """How much does the loss rise when a head is ablated?"""
    measured = ctx.once(damage_of_each)
    clean = {cell: mean for damage, mean in measured for cell in damage.cells}
    listed = table([damage for damage, _ in measured], "damage", more={CLEAN_LOSS: clean})
    grid = head_grid(
        listed.where(prompts_kind="repeated"),
        "damage",
        facet="ablation",
        diverging=True,
        title="What each head's ablation costs",
        caption="Rise of the loss when one head is ablated: by its mean over random tokens, by zero, or by sending "
        f"it to the first token. {averaged(ctx)}",
    )
    note = (
        "Mean ablation puts a head's mean over random tokens without repetition in its place, so that the mean holds "
        "nothing of the repetition. Zero ablation is farther from anything that the model has seen, and so is "
        "sending a head to the first token where the window of its layer ends before that."
    )
    return Part(tables=[listed], figures=[grid], notes=[note])


def damage_of_each(ctx: Ctx) -> list[tuple[Samples, float]]:
    """Damage [prompt, (ablation, prompts_kind, layer, head)] and clean loss, for each ablation and kind."""
    average, shown, heads = mean_ablation(ctx), prompts(ctx).estimation, ctx.model.heads
    repeated, natural = ("repeated", shown.repeated, PREDICTABLE), ("natural", shown.natural, "all")
    resting = to_bos("z", beyond_window=True)
    wanted = [("mean", average, repeated), ("zero", zero("z"), repeated), ("to_bos", resting, repeated)]
    measured = []
    for ablation, template, (kind, judged, where) in [*wanted, ("mean", average, natural)]:
        measure, stage = loss(where), ctx.stage(f"ablating heads ({ablation}, {kind})")
        (clean,) = evaluate(ctx.model, judged, [measure])
        ablated = cell_values(ctx.model, judged, each_head(template, heads), measure, progress=stage)
        damage = over_heads(DAMAGE, heads, measure.damage(clean, ablated).T.numpy())
        measured.append((damage.labelled(KIND, kind).labelled(ABLATION, ablation), float(clean.mean())))
    return measured
