"""Does one residual stream transfer the task: the task vectors of Hendel et al. 2023.

In: the residual stream at the final token of few-shot prompts with dummy queries, before every layer. Out: accuracy
where it takes the place of that of a zero-shot prompt with another query, before the same layer; for single prompts,
label-shuffled ones, another function, and means over prompts. Other functions (of one task, other prompts) choose the
layer, as in the paper a development set does. After the last layer the dummy query's answer is copied by
construction: that is left out.
"""

from collections.abc import Collection, Sequence

import torch

from headscope.evidence import Test, any_of, claim, lines, series, table
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.sites import at_final_token, means_by, residual_sites
from headscope.studies.vectors import effects
from headscope.studies.vectors.does_the_task import baselines, examples_teach, gain_of_examples
from headscope.studies.vectors.effects import FEW, ZERO, Draws, Outcomes
from headscope.studies.vectors.problems import Ctx, problems, within_task
from headscope.tasks.split import Split
from headscope.tasks.telling import told_apart
from headscope.tasks.transfer import DUMMYS, OTHERS, OWN, Transfer

# Residual streams of single prompts, and means over prompts.
TASK, SHUFFLED, OTHER = "task vector", "label-shuffled", "other function"
MEAN, MEAN_SHUFFLED, MEAN_OTHER = "mean task vector", "mean label-shuffled", "mean of other function"
_SINGLE, _AVERAGED = (TASK, SHUFFLED, OTHER), (MEAN, MEAN_SHUFFLED)
_TELLING = (
    "Answers of several tokens are asked for, and vectors put, at the first token that tells f(x), g(x) and f(dummy) "
    "apart; what they share stands after every prompt. A vector there decides that token alone: the probability of "
    "all that is left of f(x) is given beside it."
)
_DRAWN = ((TASK, OWN), (SHUFFLED, OWN), (OTHER, OTHERS), (TASK, DUMMYS))


@within_task
def task_vector(ctx: Ctx) -> Part:
    """Does the residual stream of one prompt make a zero-shot prompt do the task?"""
    outcomes, plain = ctx.once(task_vector_outcomes), ctx.once(baselines).accuracy.by("prompts_kind")
    accuracy, share, half = outcomes.estimation.accuracy, ctx.once(recovered_share), ctx.once(problems).estimation
    whole = ctx.once(whole_answers_under)
    drawn = {f"{vector}: {answer}": accuracy.at(vector=vector, answer=answer) for vector, answer in _DRAWN}
    figure = lines(
        series(drawn, {f"no vector, {kind}": plain[kind] for kind in (FEW, ZERO)}),
        "layer",
        colour="series",
        name="task_vectors",
        title="Accuracy when the final token's residual stream is replaced before each layer",
        caption="Zero-shot prompts whose final-token residual stream is that of a few-shot prompt with another query "
        f"(the task vector): mean over {len(half)} problems that chose nothing. f(x): the prompt's own answer; g(x): "
        "that of another function, whose vector is patched in; f(dummy): the answer to the source prompt's own "
        f"query, a copy. Bands: 95% over {half.over}.",
    )
    return Part(
        tables=[
            effects.outcome_table("task_vectors", *effects.of_halves(outcomes)),
            table(share, "task_vector_shares"),
            *([] if whole is None else [table(whole, "whole_answers")]),
        ],
        claims=[single_vector(examples_teach(ctx), share, ctx.once(beyond_shuffled))],
        figures=[figure],
        notes=[
            "Inputs are split once: no dummy query is ever asked where a vector is patched in. Mean task vectors and "
            f"function vectors average {ctx.settings.sources} further prompts of the function with dummy queries"
            + (", the same for all problems: intervals are given these." if half.within else "."),
            *([] if whole is None else [_TELLING]),
        ],
    )


def single_vector(needs: Sequence[Test], share: Samples, beyond: Samples) -> Claim:
    """Whether one prompt's residual stream transfers the task."""
    return claim(
        "single_vector",
        "The final-token residual stream of one few-shot prompt transfers the task to a zero-shot prompt.",
        needs=needs,
        tests=[
            effects.recovers_half("task", share),
            any_of("accuracy with the task vector minus a label-shuffled one", beyond, above=effects.MARGIN),
        ],
        tables=["task_vectors", "task_vector_shares", "task_vector_differences", "baselines"],
    )


def beyond_shuffled(ctx: Ctx) -> Samples:
    """What the task vector does beyond a label-shuffled one, with the layer at which the former works best."""
    outcomes = ctx.once(task_vector_outcomes)
    right = outcomes.estimation.accuracy.at(answer=OWN).by("vector")
    layer = outcomes.selection.best_layer(vector=TASK, answer=OWN)
    return effects.difference(right[TASK], right[SHUFFLED]).choosing(**layer)


def recovered_share(ctx: Ctx) -> Samples:
    """Which share of the gain from examples the task vector recovers, with the same layer."""
    right = ctx.once(task_vector_outcomes).estimation.accuracy.at(vector=TASK, answer=OWN)
    gained = right - ctx.once(baselines).accuracy.at(prompts_kind=ZERO)
    return effects.recovered(gained, gain_of_examples(ctx)).choosing(**ctx.once(beyond_shuffled).chosen)


def task_vector_outcomes(ctx: Ctx) -> Split[Outcomes]:
    """Outcomes under task vectors: those that choose a layer on one half, all of them on the other."""
    selection, estimation = ctx.once(problems)
    own = task_vectors(ctx.model, selection, (TASK, MEAN))
    own.pop(MEAN_OTHER)
    return Split(
        effects.outcomes_under(ctx, selection, ZERO, own, added=False),
        effects.outcomes_under(ctx, estimation, ZERO, ctx.once(every_task_vector), added=False),
    )


def every_task_vector(ctx: Ctx) -> dict[str, Draws]:
    """Those of the estimating half, with all controls."""
    return task_vectors(ctx.model, ctx.once(problems).estimation, (*_SINGLE, *_AVERAGED))


def whole_answers_under(ctx: Ctx) -> Samples | None:
    """The joint probability of f(x) under task vectors, where it is more than that of the telling token."""
    vectors = ctx.once(every_task_vector)
    own = {name: vectors[name][0] for name in (TASK, SHUFFLED)}
    return effects.joint_under(ctx, ctx.once(problems).estimation, own, added=False)


def task_vectors(model: Model, half: Transfer, wanted: Collection[str]) -> dict[str, Draws]:
    """The residual stream at the final token of prompts with dummy queries: single prompts, and means by function."""
    shots = {
        TASK: half.dummy,
        SHUFFLED: half.dummy.with_shuffled_labels(half.seed),
        OTHER: half.other,
        MEAN: half.sources,
        MEAN_SHUFFLED: half.sources.with_shuffled_labels(half.seed),
    }
    sites, vectors = residual_sites(model)[:-1], {}
    for name in wanted:
        told = told_apart(model, shots[name], half.answers if name in _SINGLE else half.source_answers)
        by_layer = torch.stack([*at_final_token(model, told.first, sites).values()])
        if name in _SINGLE:
            vectors[name] = by_layer
            continue
        means = torch.stack([means_by(residual, half.source_function) for residual in by_layer])
        vectors[name] = means[:, half.function]
        if name == MEAN:
            vectors[MEAN_OTHER] = means[:, half.partner]
    return {name: [by_layer] for name, by_layer in vectors.items()}
