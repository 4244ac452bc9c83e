"""The study of Bayesian updates: does a model learn from pairs (x, y) as Bayes' rule says, and by which heads?

In: a model and settings. Out: a Study. `sources.REDUNDANT_HEADS` claims that in-context learning works through the
addition of features which are learnt through Bayesian updates; each question puts one of its statements to the test,
with the exact posterior as positive control and label-shuffled prompts as null.
"""

from collections.abc import Mapping

import numpy as np

from headscope.evidence.claim import in_words
from headscope.evidence.comparisons import head_names
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.additive_features import additive_features
from headscope.studies.bayes.attention_growth import attention_growth
from headscope.studies.bayes.attention_knockout import attention_knockout
from headscope.studies.bayes.confidence import confidence
from headscope.studies.bayes.curve import curve, probabilities
from headscope.studies.bayes.families import families
from headscope.studies.bayes.forecast import stages
from headscope.studies.bayes.mlp_ablation import mlp_ablation
from headscope.studies.bayes.near_exact import BETWEEN, LATE, differences, near_exact
from headscope.studies.bayes.observations import EXACT, MODEL, RISE_MARGIN, observations
from headscope.studies.bayes.order import order
from headscope.studies.bayes.pair_heads import BOTH, DAMAGE, STATED, ablated_heads, named_heads, pair_heads
from headscope.studies.bayes.problems import BayesSettings, Ctx
from headscope.studies.bayes.update_mediation import update_mediation
from headscope.studies.bayes.updates import steps, updates
from headscope.studies.bayes.variables import variables
from headscope.studies.bayes.x_probe import x_probe
from headscope.studies.context import Plan
from headscope.studies.gate import pairs_gate
from headscope.studies.head_sets import first_few, rank_in_words
from headscope.studies.pairs import over_lists
from headscope.studies.sources import REDUNDANT_HEADS, SCALING_LAWS
from headscope.tasks.linear import linear

MOST_NAMED = 4
_KINDS = {
    "x_to_y": "attend from a y to the x of its pair",
    "example_to_example": "from one pair to the y of earlier ones",
}


def answer(ctx: Ctx, claims: Mapping[str, Claim]) -> list[str]:
    """What was learned from the examples, how near that is to Bayes' rule, and by which heads."""
    observed = ctx.once(observations)
    curve_of = probabilities(observed).at(learner=MODEL)
    first, last = float(curve_of.point[0]), float(curve_of.point[-1])
    pairs, beyond = observed.shots.x.shape[1], observed.rise_beyond_shuffled
    if not float(beyond.estimate().low[0]) > RISE_MARGIN:
        return [
            f"{ctx.model.name} does not clearly learn from these examples: the probability of the right answer is "
            f"{first:.2f} without any and {last:.2f} after {pairs}, {in_words(beyond)} more than with shuffled "
            "labels. There is nothing here to call an update."
        ]
    verdict = {name: claims[name].verdict for name in ("near_exact", "linear_log_odds", "features_add")}
    apart = dict(zip((LATE, BETWEEN), (each.at(learner=MODEL) for each in differences(observed)), strict=True))
    known = [f"{in_words(each)} {when}" for when, each in apart.items() if np.isfinite(each.point).all()]
    near = f"; prompt by prompt the two differ by {' and '.join(known)}" if known else ""
    return [
        f"{ctx.model.name} learns from examples: the probability of the right answer goes from {first:.2f} to "
        f"{last:.2f} over {pairs} pairs, {in_words(beyond)} more than with shuffled labels. The exact posterior "
        f"rises by {in_words(observed.rise.at(learner=EXACT))}{near}. That the model stays near it is "
        f"{verdict['near_exact']}.",
        f"An example adds {in_words(steps(ctx).at(learner=MODEL))} to the log-odds of the task. That each adds the "
        f"same is {verdict['linear_log_odds']}; that features of examples add up is {verdict['features_add']}. "
        + _heads(ctx),
    ]


def _heads(ctx: Ctx) -> str:
    """The heads between the tokens of pairs, and what ablating the strongest costs."""
    named, beside = ctx.once(named_heads), ctx.once(ablated_heads)
    if not named:
        return "No head is named that attends from a y to its x, or from one pair to earlier ones."
    listed = [f"{first_few(named[kind], MOST_NAMED)} {_KINDS[kind]}" for kind in STATED if kind in named]
    each = beside.get(BOTH) or next(iter(beside.values()))
    together = " together" if len(each.picked) > 1 else ""
    return (
        f"Heads {', '.join(listed)}; ablating {head_names(each.picked)}{together} lowers the answer's "
        f"log-probability by {in_words(Samples.one(DAMAGE, each.damage))}, {rank_in_words(each)}."
    )


LEARNT = tuple(map(over_lists, (curve, updates, families, near_exact, order, pair_heads)))
# Additive features and probes draw lists of their own about given functions, whatever the settings say.
INSIDE = (
    additive_features,
    *map(over_lists, (attention_growth, attention_knockout)),
    x_probe,
    *map(over_lists, (mlp_ablation, confidence, update_mediation, variables)),
)

PLAN: Plan[BayesSettings] = Plan(
    name="bayes",
    help="Whether a model learns from examples (x, y) as Bayes' rule says, and by which heads.",
    title="Bayesian updates",
    question="Does the model learn from examples in its context as Bayes' rule says, which heads move information "
    "between them, and do the features of examples add up?",
    settings=BayesSettings,
    shown_on="zoo:linear-4l",
    questions=(*LEARNT, *INSIDE),
    answer=answer,
    gate=pairs_gate,
    stages=stages,
    prompts=lambda ctx: [linear(ctx.model, ctx.once(observations).shots)],
    lead="curve-shots",
    sources=(REDUNDANT_HEADS, SCALING_LAWS),
    terms={
        "exact posterior": "What an ideal observer predicts who knows the family of functions and the share of "
        "random y, and updates on the very pairs of the prompt.",
        "log-odds of the task": "log A / (1 - A), with A the belief that the answer follows the task: the right "
        "answer's probability is p = beta + (gamma - beta) A.",
        "shuffled labels": "The same pairs with their y exchanged: the same numbers, and no function to learn.",
    },
)
