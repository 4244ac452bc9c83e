"""Second part of the study `bayes`: which heads carry pairs, and whether the curve flattens without them.

In: settings and a model. Out: every head's attention from y to its own x and from one example to earlier ones, with
the null of shuffled roles; the heads that this names on one half of the prompts, replaced by their mean over
label-shuffled prompts on the other half, beside random sets of as many heads; and the curve over examples
under those cuts. A mean over prompts of the same task would hold the task itself, hence the shuffled labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from headscope.detectors.roles import NAMES, detect_roles
from headscope.interventions import mean
from headscope.interventions.ablations import Mean
from headscope.measures import joint_log_probability
from headscope.measures.estimates import estimated, estimated_each
from headscope.models.model import Model
from headscope.studies.bayes_parts import heads_claims as claims
from headscope.studies.bayes_parts import tables
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.reading import said_by
from headscope.studies.bayes_parts.seen import Progress
from headscope.studies.parts import Part
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Table
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.shots import Shots
from headscope.tasks.split import halves
from headscope.vocabulary import Head, staged

BOTH = "both"
_REFERENCES = 64
_OTHER_PROMPTS = 5  # on top of the seed: the reference of means shares no prompt with what is cut


def pair_heads(config: Config, model: Model, progress: Progress) -> Part:
    """The heads that carry pairs, and what the model learns from examples without them."""
    selection, estimation = halves(config.draw(model))
    progress("finding heads that carry pairs", 0, 1)
    named = named_heads(detect_roles(model, linear(model, selection), seed=config.seed))
    roles = detect_roles(model, linear(model, estimation), seed=config.seed)
    cut = mean_over_shuffled(config, model)
    groups = strongest(named, config.strongest)
    beside = _cut_groups(config, model, estimation, groups, cut, progress)
    found = {
        "roles": roles,
        "head_groups": tables.HEAD_GROUPS.table(_group_row(group, each) for group, each in beside.items()),
        "cut_curves": _cut_curves(model, estimation, beside, cut, progress),
    }
    return Part(
        tables=found,
        claims=claims.all_claims(found, named),
        figures=claims.all_figures(found),
        notes=(
            "Heads that carry pairs are named on the prompts of even number and judged on those of odd number. "
            "Their "
            "null has the same distances from queries of another role: a head that looks a fixed number of "
            "tokens back "
            f"does as much there. Cut are the {config.strongest} strongest of each kind. A cut head writes its "
            "mean over other prompts whose labels are shuffled"
            + (", position by position." if functions_of(model) else ", over all positions."),
        ),
        summary=claims.summary(named),
    )


def named_heads(table: Table) -> dict[str, tuple[Head, ...]]:
    """The heads that the table names, by kind, most strongly first."""
    found: dict[str, tuple[Head, ...]] = {}
    for name in NAMES:
        rows = table.where(named=True, detector=name).sorted("above_null_low", descending=True).rows()
        if rows:
            found[name] = tuple(Head.parse(row["head"]) for row in rows)
    return found


def strongest(named: Mapping[str, Sequence[Head]], most: int) -> dict[str, tuple[Head, ...]]:
    """The first `most` heads of each kind, to be cut; and those of both kinds together, last.

    >>> strongest({"x_to_y": [Head(0, 1), Head(0, 0)], "example_to_example": [Head(1, 0)]}, 1)["both"]
    (Head(0, 1), Head(1, 0))
    """
    found = {kind: tuple(heads[:most]) for kind, heads in named.items()}
    if len(set(map(frozenset, found.values()))) > 1:
        found[BOTH] = tuple(sorted({head for heads in found.values() for head in heads}))
    return found


def mean_over_shuffled(config: Config, model: Model) -> Mean:
    """The cut: a head's mean over other prompts with shuffled labels, where they align position by position."""
    shuffled = config.draw(model, n=_REFERENCES, seed=_OTHER_PROMPTS).with_shuffled_labels(config.seed)
    aligned = functions_of(model) is not None
    cut = mean("z", over=linear(model, shuffled).answered(), per_position=aligned)
    assert isinstance(cut, Mean)
    return cut


def _cut_groups(
    config: Config,
    model: Model,
    shots: Shots,
    groups: Mapping[str, Sequence[Head]],
    cut: Mean,
    progress: Progress,
) -> dict[str, AgainstRandom]:
    """Each group cut together beside random sets; a group of all heads has no such control."""
    if not groups:
        return {}
    return against_random_sets(
        model,
        linear(model, shots).answered(),
        groups,
        ablation=cut,
        measure=joint_log_probability(),
        control=Control(config.random_sets, config.seed),
        progress=staged(progress, "cutting heads that carry pairs"),
    )


def _group_row(group: str, beside: AgainstRandom) -> dict[str, Any]:
    means, nan = beside.means, float("nan")
    return {
        "group": group,
        "heads": " ".join(map(str, beside.picked)),
        "size": len(beside.picked),
        **estimated(beside.damage, "damage"),
        "random_mean": float(means.mean()) if len(means) else nan,
        "random_max": float(means.max()) if len(means) else nan,
        "random_worst": " ".join(map(str, beside.worst)),
        "random_sets": len(beside.sets),
        "p": beside.p,
        "reason": beside.reason,
    }


def _cut_curves(
    model: Model, shots: Shots, beside: Mapping[str, AgainstRandom], cut: Mean, progress: Progress
) -> Table:
    """The curve over examples clean, with each group cut, and with the random set that hurts most."""
    cuts: dict[str, Sequence[Head]] = {"nothing cut": ()}
    for group, each in beside.items():
        cuts[claims.cut_name(group)] = each.picked
    if beside and (last := list(beside.values())[-1]).worst:
        cuts[f"{len(last.worst)} random heads cut, the worst set"] = last.worst
    rows = []
    for done, (name, heads) in enumerate(cuts.items()):
        progress("curves without heads", done, len(cuts))
        edits = [mean(list(heads), over=cut.over, per_position=cut.per_position)] if heads else []
        p = said_by(model, shots, edits).p
        for shot, cells in enumerate(estimated_each(p, "p", within=(0.0, 1.0))):
            rows.append({"cut": name, "shots": shot, **cells})
    return tables.CUT_CURVES.table(rows)
