"""Where do MLPs matter: at the labels of the examples, or at the final token where the answer is predicted?

In: a model and settings. Out: what mean-ablating MLPs (and attention, for comparison) costs at one kind of place,
layer by layer and in all layers together, and the claim "mlps_at_y": `sources.REDUNDANT_HEADS` (claim 3) expects
MLPs at the labels to break examples down. The mean is that of the same place of the same example in prompts with
shuffled labels, so that what is removed is what depends on the function. There are as many x as labels, but one
final token.
"""

from collections.abc import Sequence
from itertools import chain

import polars as pl

from headscope import tasks
from headscope.evidence import Test, bars, claim, table
from headscope.interventions import add, zero
from headscope.interventions.base import Intervention
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import (
    RISE,
    answer_log_odds,
    beyond_share,
    examples_help,
    log_odds_under,
    unanswered,
)
from headscope.studies.bayes.problems import Ctx, prompts_each, role_by_example, with_role
from headscope.studies.context import Part
from headscope.studies.sites import Site
from headscope.sweeps import Cell
from headscope.tables import Column, Quantity
from headscope.tasks.prompts import Prompts

# Of what all examples together add to the log-odds, the difference between two places must exceed this share,
# and in any case so many nats: a share of nothing is no margin.
MARGIN = 0.1
LEAST_NATS = 0.05
FEWEST_REFERENCES = 30

LABEL, X, BEFORE_LABEL, FINAL_TOKEN = "label", "x", "before the label", "final token"
ROLES = {LABEL: "y", X: "x", BEFORE_LABEL: "before_y"}
MLP, ATTENTION = "MLP", "attention"
SITES = {MLP: "mlp_out", ATTENTION: "attn_out"}
EVERY_LAYER = "all layers"
NAME = "mlps_at_y"
STATEMENT = "The MLPs that matter act at the labels of the examples, more than at the final token or at the x."

DAMAGE = Quantity("damage", "fall of the answer's log-odds when ablated", "nats")
COMPONENT = Column("component", pl.String, "what is mean-ablated: MLPs, or attention for comparison")
PLACE = Column("place", pl.String, "label, x, token before the label (of every example), or final token")
ABLATED = Column("ablated", pl.String, "the layer that is ablated, or all layers")


def mlp_ablation(ctx: Ctx) -> Part:
    """What does it cost to mean-ablate MLPs at each kind of place?"""
    model, n = ctx.model, prompts_each(ctx.settings)
    if not any(model.has(SITES[MLP], layer) for layer in range(model.n_layers)):
        return unanswered(NAME, STATEMENT, "this model has no MLPs whose output can be replaced")
    shots = ctx.settings.draw(model, n=n, seed=41)
    drawn = ctx.settings.draw(model, n=max(n, FEWEST_REFERENCES), seed=42)
    reference = numbered(tasks.linear(model, drawn.with_shuffled_labels(ctx.settings.seed)))
    prompts = numbered(tasks.linear(model, shots))
    clean = answer_log_odds(model, prompts)
    rise = Samples.one(RISE, clean - answer_log_odds(model, tasks.linear(model, shots.without_context())))
    cells = _cells(ctx, reference)
    under = log_odds_under(ctx, prompts, list(cells.values()), "mean ablation")
    damage = Samples.of(DAMAGE, (COMPONENT, PLACE, ABLATED), dict(zip(cells, clean - under, strict=True)))
    together = damage.at(ablated=EVERY_LAYER)
    figure = bars(
        together,
        "place",
        colour="component",
        name="mlp_ablation",
        title="Cost of mean-ablating MLPs, or attention, at one kind of place",
        caption=f"Fall of the answer's log-odds, all layers together, mean over {n} prompts. There are as many x "
        "and tokens before labels as labels, and one final token.",
    )
    note = (
        f"The mean is that of the same place of the same example over {len(reference)} label-shuffled prompts. "
        "What an MLP at a label writes of the token alone is replaced too."
    )
    claims = [mlps_at_y(together, rise)]
    return Part(tables=[table(damage, "mlp_ablation")], claims=claims, figures=[figure], notes=[note])


def mlps_at_y(damage: Samples, rise: Samples) -> Claim:
    """By the damage [prompt, (component, place)] in all layers together: at labels against both other places."""
    at = damage.at(component=MLP).by("place")
    beyond = {f"damage at labels minus at the {other}": at[LABEL] - at[other] for other in (FINAL_TOKEN, X)}
    return claim(
        NAME,
        STATEMENT,
        needs=[examples_help(rise)],
        tests=[
            *(beyond_share(what, more, rise, MARGIN) for what, more in beyond.items()),
            *(Test(what, more, above=LEAST_NATS) for what, more in beyond.items()),
        ],
        tables=("mlp_ablation",),
    )


def _cells(ctx: Ctx, reference: Prompts) -> dict[tuple[str, str, str], Cell]:
    """Every ablation, by component, place and layer; single layers at the labels and at the final token."""
    cells: dict[tuple[str, str, str], Cell] = {}
    for component, name in SITES.items():
        sites = [(name, layer) for layer in range(ctx.model.n_layers) if ctx.model.has(name, layer)]
        if not sites:
            continue
        ctx.progress(f"means of {component}", 0, 1)
        values = {site: each.double().cpu().numpy() for site, each in ctx.model.activations(reference, sites).items()}
        for place in (*ROLES, FINAL_TOKEN):
            roles = [role for role in reference.roles if role.rpartition(" ")[0] == place] or ["readout"]
            edits = [to_mean(site, reference, roles, values[site]) for site in sites]
            if place in (LABEL, FINAL_TOKEN):
                cells |= {(component, place, f"layer {s[1]}"): Cell(e) for s, e in zip(sites, edits, strict=True)}
            cells[component, place, EVERY_LAYER] = Cell(tuple(chain(*edits)))
    return cells


def numbered(prompts: Prompts) -> Prompts:
    """The prompts with a role for each example's part of a place: "x 0", "x 1", ..."""
    for place, role in ROLES.items():
        each = role_by_example(prompts, role)
        for index in range(len(each[0])):
            prompts = with_role(prompts, f"{place} {index}", [example[index] for example in each])
    return prompts


def to_mean(
    site: Site, reference: Prompts, roles: Sequence[str], values: Array, *, strength: float = 1.0
) -> tuple[Intervention, ...]:
    """A site replaced, or moved by a share, towards its mean over the reference at each role.

    `values` are the reference's, [prompt, position, model].
    """
    edits: list[Intervention] = []
    for role in roles:
        mean = values[reference.where(role).numpy()].mean(0)
        edits += [zero(site, role, strength=strength), add(site, mean, scale=strength, positions=role)]
    return tuple(edits)
