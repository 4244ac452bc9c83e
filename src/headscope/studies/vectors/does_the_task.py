"""Does the model do the task at all: are answers right with examples, and not without?

In: the estimating half of the problems. Out: accuracy and probability of the answer zero-shot, few-shot, and with
the labels of the examples shuffled; and the need of every claim of this study, that examples help.
"""

from headscope import zoo
from headscope.evidence import Test
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.studies.context import Part
from headscope.studies.pairs import described
from headscope.studies.vectors import effects
from headscope.studies.vectors.effects import FEW, SHUFFLED, ZERO, Outcomes
from headscope.studies.vectors.problems import Ctx, problems
from headscope.tasks import linear
from headscope.tasks.linear import functions_of


def does_the_task(ctx: Ctx) -> Part:
    """How often is the answer right without any vector?"""
    half = ctx.once(problems).estimation
    drawn = (
        f"{described(half.few)} {half.functions} functions choose layers and heads; all numbers "
        f"are of {half.functions} others, with {len(half)} problems. Intervals are 95% over functions."
    )
    table = effects.outcome_table("baselines", ctx.once(baselines))
    return Part(tables=[table], notes=[*filter(None, (drawn, attainable(ctx.model), zoo.standing(ctx.model.name)))])


def baselines(ctx: Ctx) -> Outcomes:
    """Outcomes of the estimating problems without any vector, by kind of prompt."""
    half = ctx.once(problems).estimation
    kinds = {ZERO: half.zero, FEW: half.few, SHUFFLED: half.shuffled}
    values = {kind: effects.plain_outcomes(ctx.model, linear(ctx.model, shots)) for kind, shots in kinds.items()}
    return Outcomes.of((effects.PROMPTS_KIND,), values, half.function)


def gain_of_examples(ctx: Ctx, kind: str = ZERO) -> Samples:
    """What clean examples add to the accuracy of this kind of prompt, [function]."""
    by_kind = ctx.once(baselines).accuracy.by("prompts_kind")
    return effects.difference(by_kind[FEW], by_kind[kind])


def examples_help(ctx: Ctx) -> Test:
    """The need of every claim: without it there is no task that a vector could transfer."""
    return Test("accuracy with examples minus without", gain_of_examples(ctx), above=effects.MARGIN)


def attainable(model: Model) -> str:
    """What a model that knew the function for sure would reach, where its training had wrong labels."""
    language = functions_of(model)
    if language is None or not language.noise:
        return ""
    return (
        f"The model was trained on pairs of which {language.noise:.0%} have a random y. Knowing the function for "
        f"sure, the best probability of the right answer is {language.attainable:.2f}; accuracy can reach 1."
    )
