"""One row per training: what it is, when it changes, and what it has learnt (Olsson et al. 2022, model table)."""

import numpy as np
import polars as pl

from headscope.measures.change_point import ChangePoint
from headscope.measures.loss_space import loss_spikes
from headscope.studies.context import Part
from headscope.studies.phase_change.changes import COPIES, ICL, LOSS, PREFIX, PREVIOUS, REPEAT, followed, points
from headscope.studies.phase_change.readings import KINDS, Read, read
from headscope.studies.phase_change.settings import SUITE, Ctx
from headscope.tables import Column, Schema

MODELS = Schema(
    "models",
    (
        SUITE,
        Column("layers", pl.Int64, "layers"),
        Column("heads_in_all", pl.Int64, "heads of all layers"),
        Column("mlps", pl.Boolean, "whether layers have MLPs"),
        Column("checkpoints", pl.Int64, "checkpoints that were read"),
        Column("induction_heads", pl.Int64, "heads named induction heads at the last checkpoint, by other prompts"),
        Column(
            "pattern_without_copying", pl.Int64, "heads over .1 in prefix matching beyond the null that raise nothing"
        ),
        Column("window", pl.String, "steps of the change of prefix matching; empty where none is shown"),
        Column("prefix_matching", pl.Float64, "largest of any head, beyond the null, at the last checkpoint"),
        Column("previous_token", pl.Float64, "the same of attention to the token before"),
        Column("signed_raise", pl.Float64, "largest raise of what is attended to", "logits"),
        Column("icl_score", pl.Float64, "later loss minus earlier loss at the last checkpoint", "nats"),
        Column("loss", pl.Float64, "mean loss on text at the last checkpoint", "nats"),
        Column("loss_on_repeats", pl.Float64, "mean loss on tokens that an earlier showing determines", "nats"),
        Column("loss_spikes", pl.Int64, "checkpoints at which the loss rises by more than four usual steps"),
    ),
)


def model_table(ctx: Ctx) -> Part:
    """What are these trainings?"""
    rows = [_row(ctx, each) for each in ctx.once(read)]
    return Part(tables=[MODELS.table(rows)])


def _row(ctx: Ctx, each: Read) -> dict[str, object]:
    model, own = each.suite.history.open(each.suite.last), ctx.once(followed)[each.name]
    last = each.at[-1]
    above = (last.attends["induction"] - last.null["induction"]).mean(0)
    silent = np.nan_to_num(np.nanmean(np.where(np.isnan(last.raised), 0.0, last.raised), axis=0)) < 0.1
    return {
        "suite": each.name,
        "layers": model.n_layers,
        "heads_in_all": len(model.heads),
        "mlps": any(layer.mlp_term is not None for layer in model.anatomy.layers),
        "checkpoints": len(each.steps),
        "induction_heads": len(each.chosen.of(KINDS[0])),
        "pattern_without_copying": int(((above > 0.1) & silent).sum()),
        "window": _window(ctx.once(points)[each.name][PREFIX]),
        "prefix_matching": float(own[PREFIX][-1]),
        "previous_token": float(own[PREVIOUS][-1]),
        "signed_raise": float(own[COPIES][-1]),
        "icl_score": float(own[ICL][-1]),
        "loss": float(own[LOSS][-1]),
        "loss_on_repeats": float(own[REPEAT][-1]),
        "loss_spikes": len(loss_spikes(own[LOSS])) if len(own[LOSS]) > 3 else 0,
    }


def _window(point: ChangePoint) -> str:
    return f"{point.window[0]:.0f} to {point.window[1]:.0f}" if point.shown else ""
