"""Where MLPs matter: at the y of the shown pairs, or where the answer is read.

In: a model and the settings of a study of pairs. Out: a Part with the damage of mean-ablated MLPs, and of
attention for comparison, at one kind of place, layer by layer and in all layers together (`places`), and the claim
"MLPs at y do the breaking down". The mean is that of the same place of the same example in prompts with shuffled
labels, so that what is removed is what depends on the function. As many tokens stand at the x as at the y: a
place where many tokens are cut is compared with another of its kind, not with the read-out alone.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from headscope import tasks
from headscope.figures import bars_with_intervals
from headscope.interventions import add, zero
from headscope.interventions.base import Intervention
from headscope.measures import side
from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.results.study import Claim, Figure
from headscope.studies.bayes_parts.features import all_of
from headscope.studies.bayes_parts.inside import LEAST_RISE_NATS, Progress, answer_log_odds, log_odds_under
from headscope.studies.bayes_parts.problems import of_each_example, prompts_each, with_role
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import count, number, undetermined, with_bounds
from headscope.sweeps import Cell
from headscope.tables import Column, Schema, Table
from headscope.tasks.prompts import Prompts

# Of what all examples together add to the log-odds, the difference between two places must exceed this share.
MARGIN = 0.1
FEWEST_REFERENCES = 30

AT_Y, AT_X, AT_COMMA, AT_READOUT = "y", "x", "before y", "read-out"
MLP, ATTENTION = "MLP", "attention"
_SITES = {MLP: "mlp_out", ATTENTION: "attn_out"}
_ROLES = {AT_Y: "y", AT_X: "x", AT_COMMA: "before_y"}
EVERY_LAYER = -1

PLACES = Schema(
    "places",
    (
        Column("component", pl.String, "what is replaced by its mean: MLPs, or attention for comparison"),
        Column("place", pl.String, "where: at the shown y, the shown x, before the shown y, or the read-out"),
        Column("layer", pl.Int64, "in which layer; -1: in all together"),
        Column("damage", pl.Float64, "fall of the log-odds of the answer", "nats"),
        *bounds("the damage", "nats"),
        PROMPTS,
    ),
)
_NAME = "mlps_at_y"
_STATEMENT = (
    "MLPs at the shown y do the breaking down: replaced by their means there, they cost more of the answer than at "
    "the read-out, and than at as many other tokens, the shown x."
)


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """What does it cost to replace MLPs by their means, at each kind of place?"""
    layers = {
        component: [layer for layer in range(model.n_layers) if model.has(site, layer)]
        for component, site in _SITES.items()
    }
    if not layers[MLP]:
        because = "this model has no MLPs whose output can be replaced."
        return Part({"places": PLACES.table([])}, (undetermined(_NAME, _STATEMENT, because, "places"),))
    shots = config.draw(model, n=prompts_each(config), seed=41)
    prompts = _numbered(tasks.linear(model, shots))
    references = config.draw(
        model, n=max(prompts_each(config), FEWEST_REFERENCES), seed=42
    ).with_shuffled_labels(config.seed)
    reference = _numbered(tasks.linear(model, references))
    clean = answer_log_odds(model, prompts)
    rise = clean - answer_log_odds(model, tasks.linear(model, shots.without_context()))

    keys, cells = [], []
    for component, own in layers.items():
        if not own:
            continue
        sites = [(_SITES[component], layer) for layer in own]
        captured = model.activations(reference, sites)
        for place in (AT_Y, AT_X, AT_COMMA, AT_READOUT):
            progress(f"means of {component} at {place}", 0, 1)
            edits = {
                site[1]: _to_mean(site, reference, place, captured[site].double().cpu().numpy())
                for site in sites
            }
            if place in (AT_Y, AT_READOUT):
                keys += [(component, place, layer) for layer in own]
                cells += [Cell(edit) for edit in edits.values()]
            keys.append((component, place, EVERY_LAYER))
            cells.append(Cell(tuple(one for edit in edits.values() for one in edit)))
    values = clean - log_odds_under(model, prompts, cells, "replacing by means", progress)
    damage = dict(zip(keys, values, strict=True))
    table = _table(damage)
    notes = (
        "A mean is that of the same place of the same example (the third y, say) over "
        f"{count(len(reference), 'prompt')} with shuffled labels. What an MLP at y writes of "
        "the token alone is replaced too: the damage there is that of all it does.",
    )
    return Part({"places": table}, (judged(damage, rise),), _figures(table), notes)


def judged(damage: Mapping[tuple[str, str, int], Array], rise: Array) -> Claim:
    """By the damage per prompt of MLPs in all layers together, at y against the read-out and against x."""
    worth = estimated(rise, "rise")
    at = {place: damage[MLP, place, EVERY_LAYER] for place in (AT_Y, AT_X, AT_COMMA, AT_READOUT)}
    if not worth["low"] > LEAST_RISE_NATS:
        because = (
            f"the examples add {with_bounds(worth, 'rise')} nats to the log-odds of the answer: there is too little "
            f"to break (margin {LEAST_RISE_NATS})."
        )
        return undetermined(_NAME, _STATEMENT, because, "places")
    margin = MARGIN * worth["rise"]
    more = {place: estimated(at[AT_Y] - at[place], "more") for place in (AT_READOUT, AT_X)}
    verdict = all_of([side(row["low"], row["high"], margin) for row in more.values()])
    cost = {place: with_bounds(estimated(values, "cost"), "cost") for place, values in at.items()}
    because = (
        f"Of {with_bounds(worth, 'rise')} nats that the examples add, MLPs replaced at y cost {cost[AT_Y]}, at the "
        f"read-out {cost[AT_READOUT]}, at x {cost[AT_X]}, before y {cost[AT_COMMA]}: at y "
        f"{with_bounds(more[AT_READOUT], 'more')} more than at the read-out and "
        f"{with_bounds(more[AT_X], 'more')} more than at x (margin {number(margin)})."
    )
    beside = [damage.get((ATTENTION, place, EVERY_LAYER)) for place in (AT_Y, AT_READOUT)]
    told = [number(float(values.mean())) for values in beside if values is not None]
    if told:
        because += f" Attention replaced costs {' at y and '.join(told)} at the read-out."
    return Claim(_NAME, _STATEMENT, verdict, because, ("places",))


def _numbered(prompts: Prompts) -> Prompts:
    """The prompts with a role for each example's part of a place: "y 0", "y 1", ..."""
    for place, role in _ROLES.items():
        each = of_each_example(prompts, role)
        for index in range(len(each[0])):
            prompts = with_role(prompts, f"{place} {index}", [example[index] for example in each])
    return prompts


def _to_mean(
    site: tuple[str, int], reference: Prompts, place: str, values: Array
) -> tuple[Intervention, ...]:
    """A site replaced by its means over the reference at a place; `values` [prompt, position, model]."""
    if place == AT_READOUT:
        roles: Sequence[str] = ("readout",)
    else:
        roles = [name for name in reference.roles if name.rpartition(" ")[0] == place]
    edits: list[Intervention] = []
    for role in roles:
        mean = values[reference.where(role).numpy()].mean(0)
        edits += [zero(site, role), add(site, mean, positions=role)]
    return tuple(edits)


def _table(damage: Mapping[tuple[str, str, int], Array]) -> Table:
    return PLACES.table(
        {"component": component, "place": place, "layer": layer, **estimated(values, "damage")}
        for (component, place, layer), values in damage.items()
    )


def _figures(table: Table) -> tuple[Figure, ...]:
    return (
        bars_with_intervals(
            table.where(layer=EVERY_LAYER),
            "place",
            "damage",
            "low",
            "high",
            group="component",
            title="What is lost when MLPs, or attention, are replaced by their means at one kind of place",
            caption="Fall of the log-odds of the answer, all layers together. There are as many x, and places before "
            "y, as y; the read-out is one token.",
            name="places",
        ),
    )
