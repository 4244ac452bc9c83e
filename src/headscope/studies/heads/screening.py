"""Which heads are ablated exactly: all of a small model; of a larger one those that could matter.

In: every head's ablations, estimated to first order from one forward and one backward pass over either half of the
prompts (sweeps.attribution). Out: the heads that are tried, chosen on the selection half: the strongest named ones
and those with the largest estimates of each ablation; and how estimates and exact damages agree on the estimation
half, where both are known. An estimate chooses what is tried and decides nothing: where attention is saturated it is
near zero however much the head matters, so that a head that was not tried is a head of which nothing is known.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from headscope.detectors import DetectorPrompts
from headscope.errors import BadArgument, UnservedModel, UnservedSite
from headscope.evidence.comparisons import head_names
from headscope.interventions import Intervention, to_bos, zero
from headscope.measures import loss
from headscope.measures.samples import Samples, over_heads
from headscope.models.model import Model
from headscope.studies.heads.experiment import JUDGED, Ctx, HeadsSettings, mean_ablation, named_heads, prompts
from headscope.sweeps import each_head
from headscope.sweeps.attribution import estimated_changes
from headscope.sweeps.cell_values import damages
from headscope.sweeps.sweep import Sweep
from headscope.tables import Column, Quantity, Schema, Table
from headscope.tasks.prompts import Prompts
from headscope.tasks.split import Split
from headscope.vocabulary import Head

ALL_EXACT = 64  # heads of a model in which all are ablated exactly if nothing else is asked for
TRIED = 12  # of a larger one
UNDER_TEST = ("induction", "anti_induction", "previous_token")
ABLATION = Column("ablation", pl.String, "what replaces the head's output: its mean, zero, or that at BOS")
KIND = Column("prompts_kind", pl.String, "repeated: loss on predictable tokens; natural: loss on all tokens")
ESTIMATE = Quantity("estimate", "the same rise to first order: from gradients, nothing was ablated", "nats")
FIRST_ORDER = Schema(
    "first_order",
    (
        ABLATION,
        KIND,
        Column("layer", pl.Int64, "layer of the head"),
        Column("head", pl.String, "the head, as layer.index"),
        Column("estimate", pl.Float64, f"rise of the loss under the ablation: {ESTIMATE.meaning}", "nats"),
        Column("tried", pl.Boolean, "whether the head was ablated: its damage is in the table damage"),
    ),
)
Kind = tuple[str, str]


def ablations(ctx: Ctx) -> dict[Kind, Intervention]:
    """The template of every ablation, by its name and the kind of prompts."""
    average = mean_ablation(ctx)
    return {
        ("mean", "repeated"): average,
        ("zero", "repeated"): zero("z"),
        ("to_bos", "repeated"): to_bos("z", beyond_window=True),
        ("mean", "natural"): average,
    }


def judged(half: DetectorPrompts, kind: str) -> Prompts:
    """The prompts of a kind."""
    return half.repeated if kind == "repeated" else half.natural


def screened(ctx: Ctx) -> bool:
    """Whether some heads are not ablated by themselves."""
    return len(ctx.once(tried)) < len(ctx.model.heads)


def how_many(settings: HeadsSettings, model: Model) -> int:
    """How many heads are to be ablated by themselves."""
    every = len(model.heads)
    return min(every, settings.exact or (every if every <= ALL_EXACT else TRIED))


def tried(ctx: Ctx) -> list[Head]:
    """The heads that are ablated exactly, in the order of the model."""
    heads, most = ctx.model.heads, how_many(ctx.settings, ctx.model)
    if most == len(heads) or isinstance(found := ctx.once(estimates), str):
        return list(heads)
    named = ctx.once(named_heads)
    by_kind = _in_turn([list(named.get(kind, ())) for kind in UNDER_TEST])[: most // 3]
    largest = _in_turn([_by_size(each) for each in found.selection.values()])
    return sorted(list(dict.fromkeys([*by_kind, *largest]))[:most])


def estimates(ctx: Ctx) -> Split[dict[Kind, Samples]] | str:
    """Rise of the loss to first order [prompt, head] by ablation, on either half; or why there is none."""
    try:
        return prompts(ctx).map(lambda half: _estimated(ctx, half))
    except (BadArgument, UnservedModel, UnservedSite) as error:
        return str(error)


def most_damaging(ctx: Ctx) -> list[Head]:
    """All heads by the damage of their mean ablation on the selection half, worst first.

    Those that were not tried come last, by their estimates.
    """
    heads, half = ctx.once(tried), prompts(ctx).selection
    cells, stage = each_head(mean_ablation(ctx), heads), ctx.stage("selecting heads")
    harm = damages(ctx.model, half.repeated, cells, loss(JUDGED), progress=stage).mean(1).tolist()
    damage = dict(zip(heads, harm, strict=True))
    worst = sorted(heads, key=lambda head: -damage[head])
    if not screened(ctx):
        return worst
    estimate = _values(ctx, "selection")["mean", "repeated"]
    return worst + sorted(set(ctx.model.heads) - set(heads), key=lambda head: -estimate[head])


def first_order(ctx: Ctx) -> Table:
    """Every head's estimates, means over the estimation half: no bounds, for what they lack is no noise."""
    chosen = set(ctx.once(tried))
    rows = [
        {
            "ablation": ablation,
            "prompts_kind": kind,
            "layer": head.layer,
            "head": str(head),
            "estimate": value,
            "tried": head in chosen,
        }
        for (ablation, kind), each in _values(ctx, "estimation").items()
        for head, value in each.items()
    ]
    return FIRST_ORDER.table(rows)


def beside(ctx: Ctx, damage: Samples) -> dict[tuple[Any, ...], float]:
    """The estimates of the cells (ablation, prompts_kind, layer, head) of a damage."""
    own = _values(ctx, "estimation")
    return {cell: own[cell[0], cell[1]][Head.parse(cell[-1])] for cell in damage.cells}


def notes(ctx: Ctx, measured: Sequence[Samples]) -> list[str]:
    """What was not tried, how it was chosen, and how far estimates can be believed."""
    heads, chosen = ctx.model.heads, ctx.once(tried)
    if not screened(ctx):
        failed = how_many(ctx.settings, ctx.model) < len(heads)
        return [f"All {len(heads)} heads were ablated: {ctx.once(estimates)}"] if failed else []
    sentences = [
        f"{len(chosen)} of {len(heads)} heads were ablated by themselves (table damage): {head_names(chosen)}. They "
        "were chosen on the selection prompts: the strongest heads named induction, anti-induction or previous "
        "token, then those with the largest estimates to first order of each ablation. Of the other "
        f"{len(heads) - len(chosen)} heads there are estimates alone (table first_order), which decide no claim: "
        f"such a head may still matter. --exact {len(heads)} ablates all."
    ]
    told = []
    for damage in measured:
        exact, estimate = damage.mean, np.array(list(beside(ctx, damage).values()))
        rho = float(spearmanr(exact, estimate).statistic) if len(exact) > 2 else float("nan")
        worst = int(np.nan_to_num(abs(exact - estimate), nan=-1.0).argmax())
        ablation, kind = damage.cells[worst][:2]
        told.append(
            f"{ablation} on {kind} prompts {rho:.2f} ({damage.cells[worst][-1]}: estimate {estimate[worst]:.2f}, "
            f"exact {exact[worst]:.2f})"
        )
    return [
        *sentences,
        "Rank correlation of estimates and exact damages over the heads tried, with the largest miss in nats: "
        f"{'; '.join(told)}. Heads with small estimates were hardly tried, so that this says little of them.",
    ]


def _estimated(ctx: Ctx, half: DetectorPrompts) -> dict[Kind, Samples]:
    heads, templates, found = ctx.model.heads, ablations(ctx), {}
    for kind in ("repeated", "natural"):
        shown = judged(half, kind)
        own = [key for key in templates if key[1] == kind]
        cells = list(chain.from_iterable(each_head(templates[key], heads) for key in own))
        stage = ctx.stage(f"screening all heads to first order ({kind})")
        # Of a loss the change is the damage.
        changes = np.stack(
            [change.numpy() for _, change in estimated_changes(Sweep(ctx.model, shown, cells, loss(JUDGED)), stage)]
        )
        for key, part in zip(own, np.split(changes, len(own)), strict=True):
            found[key] = over_heads(ESTIMATE, heads, part.T)
    return found


def _values(ctx: Ctx, half: Literal["selection", "estimation"]) -> dict[Kind, dict[Head, float]]:
    """Mean estimates of every head on one half, by ablation."""
    found = ctx.once(estimates)
    assert not isinstance(found, str)
    own: dict[Kind, Samples] = getattr(found, half)
    return {key: dict(zip(ctx.model.heads, each.mean.tolist(), strict=True)) for key, each in own.items()}


def _by_size(estimated: Samples) -> list[Head]:
    """Heads by the size of their estimates, either way."""
    order = (-abs(estimated.mean)).argsort(kind="stable")
    return [Head.parse(estimated.coordinates("head")[place]) for place in order]


def _in_turn(lists: list[list[Head]]) -> list[Head]:
    """The first of each list, then the second of each ...; every head once."""
    return list(dict.fromkeys(head for row in zip_longest(*lists) for head in row if head is not None))
