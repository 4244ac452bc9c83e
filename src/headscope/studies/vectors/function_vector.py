"""Do a few heads write the task: the function vectors of Todd et al. 2024.

In: the heads with the largest causal indirect effect on the selecting functions. Out: accuracy when the sum of their
mean outputs over clean prompts of a function, through W_O (without its bias), is added to the final token's residual
stream of zero-shot and of label-shuffled prompts, before every layer; beside as many random heads, a random
direction of the same norm, another function's vector, and the sum of all heads. The paper adds it at about a third
of the depth; here other functions (of one task, other prompts) choose the layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headscope.evidence import Test, any_of, claim, lines, series, table
from headscope.evidence.comparisons import head_names
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Figure
from headscope.studies.context import Part
from headscope.studies.sites import through_output
from headscope.studies.vectors import effects
from headscope.studies.vectors.does_the_task import baselines, examples_teach, gain_of_examples
from headscope.studies.vectors.effects import FEW, SHUFFLED, ZERO, Draws, Outcomes
from headscope.studies.vectors.head_effects import mean_head_outputs, top_heads
from headscope.studies.vectors.problems import Ctx, problems, within_task
from headscope.sweeps.controls import random_sets
from headscope.tasks.split import Split
from headscope.tasks.transfer import OTHERS, OWN, Transfer

FUNCTION, RANDOM_HEADS, RANDOM_DIRECTION = "function vector", "random heads", "random direction"
OTHER_FUNCTION, ALL_HEADS = "other function", "all heads"
_CONTROLS = (RANDOM_HEADS, RANDOM_DIRECTION, OTHER_FUNCTION)
_DRAWN = (FUNCTION, RANDOM_HEADS, RANDOM_DIRECTION, ALL_HEADS)


@dataclass(frozen=True, eq=False)
class CarriedByHeads:
    """A function vector in one kind of prompt: share of the gain from examples, accuracy beyond each control."""

    share: Samples
    beyond: Mapping[str, Samples]
    follows_other: Samples


@within_task
def function_vector(ctx: Ctx) -> Part:
    """Does the sum of a few heads' mean outputs make a prompt do the task?"""
    outcomes, judged = ctx.once(function_vector_outcomes), ctx.once(carried_by_heads)
    kind_of, compared = effects.PROMPTS_KIND, []
    halves = [half.labelled(kind_of, kind) for kind, o in outcomes.items() for half in effects.of_halves(o)]
    for kind, each in judged.items():
        named = {f"{FUNCTION} minus {control}": beyond for control, beyond in each.beyond.items()}
        named[f"{OTHER_FUNCTION}, g(x) minus f(x)"] = each.follows_other
        compared += [one.labelled(effects.COMPARISON, name).labelled(kind_of, kind) for name, one in named.items()]
    return Part(
        tables=[
            effects.outcome_table("function_vectors", *halves),
            table([each.share.labelled(kind_of, kind) for kind, each in judged.items()], "function_vector_shares"),
            table(compared, "function_vector_differences"),
        ],
        claims=[few_heads(examples_teach(ctx), judged[ZERO])],
        figures=[_figure(ctx, kind) for kind in outcomes],
    )


def few_heads(needs: Sequence[Test], judged: CarriedByHeads) -> Claim:
    """Whether the top heads' mean outputs transfer the task to zero-shot prompts."""
    tests = [effects.recovers_half("function", judged.share)]
    none = "there is no other set of so many heads"
    for control in _CONTROLS:
        what, beyond = f"f(x) under the function vector minus {control}", judged.beyond.get(control)
        tests.append(any_of(what, beyond, above=effects.MARGIN, reason=none))
    return claim(
        "few_heads",
        "A few heads write the task: their summed mean outputs, added to a zero-shot prompt, recover half of what "
        "examples add.",
        needs=needs,
        tests=tests,
        tables=["function_vectors", "function_vector_shares", "function_vector_differences", "head_effects"],
    )


def carried_by_heads(ctx: Ctx) -> dict[str, CarriedByHeads]:
    """By kind of prompt, with the layer at which the selecting functions' vectors work best."""
    judged, plain = {}, ctx.once(baselines).accuracy.by("prompts_kind")
    for kind, outcomes in ctx.once(function_vector_outcomes).items():
        layer = outcomes.selection.best_layer(vector=FUNCTION, answer=OWN)
        right = outcomes.estimation.accuracy.at(answer=OWN).by("vector")
        others = outcomes.estimation.accuracy.at(answer=OTHERS, vector=OTHER_FUNCTION)
        share = effects.recovered(right[FUNCTION] - plain[kind], gain_of_examples(ctx, kind))
        known = {control: right[control] for control in _CONTROLS if control in right}
        beyond = {name: effects.difference(right[FUNCTION], each) for name, each in known.items()}
        judged[kind] = CarriedByHeads(
            share.choosing(**layer),
            {name: each.choosing(**layer) for name, each in beyond.items()},
            effects.difference(others, right[OTHER_FUNCTION]).choosing(**layer),
        )
    return judged


def function_vector_outcomes(ctx: Ctx) -> dict[str, Split[Outcomes]]:
    """Outcomes under function vectors by kind of prompt: one vector on the half that selects, all on the other."""
    drawn, means = ctx.once(problems), ctx.once(mean_head_outputs)
    own = {FUNCTION: function_vectors(ctx, drawn.selection, means.selection)[FUNCTION]}
    every = function_vectors(ctx, drawn.estimation, means.estimation)
    return {
        kind: Split(
            effects.outcomes_under(ctx, drawn.selection, kind, own, added=True),
            effects.outcomes_under(ctx, drawn.estimation, kind, every, added=True),
        )
        for kind in (ZERO, SHUFFLED)
    }


def function_vectors(ctx: Ctx, half: Transfer, means: Mapping[int, Tensor]) -> dict[str, Draws]:
    """What the top heads write on average on clean prompts, and what it is compared with."""
    top, config, model = ctx.once(top_heads).function_vector, ctx.settings, ctx.model
    sets = random_sets(model.heads, top, count=config.random_vectors, seed=config.seed)
    whole, everything = (through_output(model, means, heads) for heads in (top, model.heads))
    own = whole[half.function]
    vectors = {
        FUNCTION: [own],
        RANDOM_HEADS: [through_output(model, means, heads)[half.function] for heads in sets],
        RANDOM_DIRECTION: [random_like(own, half.seed + k) for k in range(max(1, len(sets)))],
        OTHER_FUNCTION: [whole[half.partner]],
        ALL_HEADS: [everything[half.function]],
    }
    return {name: [draw.expand(model.n_layers, *draw.shape) for draw in draws] for name, draws in vectors.items()}


def random_like(vectors: Tensor, seed: int) -> Tensor:
    """Random directions of the same norms, [row, model]."""
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed)).to(vectors)
    directions: Tensor = torch.nn.functional.normalize(drawn, dim=1)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return directions * norms


def _figure(ctx: Ctx, kind: str) -> Figure:
    accuracy = ctx.once(function_vector_outcomes)[kind].estimation.accuracy
    plain, known = ctx.once(baselines).accuracy.by("prompts_kind"), accuracy.coordinates("vector")
    looked_for = {**{vector: OWN for vector in _DRAWN if vector in known}, OTHER_FUNCTION: OTHERS}
    drawn = {f"{v}: {answer}": accuracy.at(vector=v, answer=answer) for v, answer in looked_for.items()}
    heads, half = head_names(ctx.once(top_heads).function_vector), ctx.once(problems).estimation
    figure = lines(
        series(drawn, {f"no vector, {each}": plain[each] for each in dict.fromkeys((FEW, kind))}),
        "layer",
        colour="series",
        name="function_vectors",
        title=f"Accuracy when a function vector is added before each layer: {kind} prompts",
        caption=f"The summed mean outputs of heads {heads}, added to the final token's residual stream of {kind} "
        f"prompts: mean over {len(half)} problems that chose nothing. Controls: as many random heads, a random "
        "direction of the same norm, another function. “All heads”: every head's mean. "
        f"Bands: 95% over {half.over}.",
    )
    return replace(figure, name=f"function-vectors-{kind}")
