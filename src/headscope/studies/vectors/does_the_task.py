"""Does the model do the task at all: are answers right with examples, and not without?

In: the estimating half of the problems. Out: accuracy and probability of the answer zero-shot, few-shot, and with
the labels of the examples shuffled; and the needs of every claim of this study: that examples help, and that it is
their labels that do. What is right without them, or with labels that say nothing, was *known before*.
"""

from collections.abc import Sequence

from torch import Tensor

from headscope import zoo
from headscope.evidence import Test, in_words, percent, table
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.studies.context import Part
from headscope.studies.pairs import described
from headscope.studies.vectors import effects
from headscope.studies.vectors.effects import FEW, SHUFFLED, ZERO, Outcomes
from headscope.studies.vectors.problems import Ctx, problems
from headscope.sweeps import Cell
from headscope.tasks.functions import Functions
from headscope.tasks.linear import functions_of
from headscope.tasks.shots import Shots
from headscope.tasks.transfer import OWN

HELP, LEARNT, KNOWN = "few-shot minus zero-shot", "few-shot minus label-shuffled", "label-shuffled minus zero-shot"


def does_the_task(ctx: Ctx) -> Part:
    """How often is the answer right without any vector?"""
    half = ctx.once(problems).estimation
    drawn = (
        f"{described(half.few)} {half.functions} functions choose layers and heads; all numbers "
        f"are of {half.functions} others, with {len(half)} problems. Intervals are 95% over functions."
    )
    if half.within:
        drawn = (
            f"{described(half.few)} {len(ctx.once(problems).selection)} prompts choose layers and heads; all "
            f"numbers are of {len(half)} others of the same task. Intervals are 95% over {half.over}: nothing is "
            f"said of other tasks. “Another function” is {_named(half.other)}."
        )
    listed = effects.outcome_table("baselines", ctx.once(baselines), beside=[ctx.once(whole_answers)])
    by_kind, gains = ctx.once(baselines).accuracy.by("prompts_kind"), ctx.once(gains_of_examples)
    says = (
        f"Known without labels: {percent(by_kind[ZERO])} right zero-shot, {percent(by_kind[SHUFFLED])} after "
        f"examples with shuffled labels. Learnt from the labels: {in_words(gains[LEARNT])} of accuracy."
    )
    notes = filter(None, (drawn, attainable(ctx.model), zoo.standing(ctx.model.name)))
    named = [each.labelled(effects.COMPARISON, name) for name, each in gains.items()]
    return Part(tables=[listed, table(named, "known_and_learnt")], says=[says], notes=[*notes])


def _named(other: Shots) -> str:
    """The other function of a single task in words."""
    if not other.functions.is_number:
        return "copying the input"
    (a, b) = other.parameters[0].tolist()
    return Functions(family="linear", a=(a, a), b=(b, b)).single if other.functions.single else "another of these"


def outcomes_unpatched(ctx: Ctx) -> dict[str, dict[str, Tensor]]:
    """Accuracy and probability [measure, problem] by kind of prompt and answer, nothing being changed."""
    half = ctx.once(problems).estimation
    kinds = (ZERO, FEW, SHUFFLED)
    return {kind: effects.plain_outcomes(ctx.model, effects.asked(ctx.model, half, kind)) for kind in kinds}


def unpatched(ctx: Ctx, answer: str) -> Outcomes:
    """Outcomes of the estimating problems without any vector for one answer, by kind of prompt."""
    values = {kind: each[answer] for kind, each in ctx.once(outcomes_unpatched).items()}
    return Outcomes.of((effects.PROMPTS_KIND,), values, ctx.once(problems).estimation)


def baselines(ctx: Ctx) -> Outcomes:
    """Outcomes of the estimating problems without any vector, by kind of prompt."""
    return unpatched(ctx, OWN)


def whole_answers(ctx: Ctx) -> Samples:
    """The joint probability of all that is left of f(x) from its telling token on, by kind of prompt."""
    half, known = ctx.once(problems).estimation, ctx.once(baselines)
    told = effects.asked(ctx.model, half, ZERO)
    if all(len(answer) == 1 for answer in told.prompts[OWN].answer_tokens):
        return known.probability.measured_as(effects.JOINT)
    kinds = {kind: effects.asked(ctx.model, half, kind) for kind in (ZERO, FEW, SHUFFLED)}
    values = {
        kind: effects.by_unit(effects.joint(ctx.model, each, [Cell(())])[0], half) for kind, each in kinds.items()
    }
    return Samples.of(effects.JOINT, (effects.PROMPTS_KIND,), values, over=half.over)


def gains_of_examples(ctx: Ctx) -> dict[str, Samples]:
    """Differences of accuracies: what examples add, what of it their labels do, and what was known without."""
    by_kind = ctx.once(baselines).accuracy.by("prompts_kind")
    return {
        HELP: effects.difference(by_kind[FEW], by_kind[ZERO]),
        LEARNT: effects.difference(by_kind[FEW], by_kind[SHUFFLED]),
        KNOWN: effects.difference(by_kind[SHUFFLED], by_kind[ZERO]),
    }


def gain_of_examples(ctx: Ctx, kind: str = ZERO) -> Samples:
    """What clean examples add to the accuracy of this kind of prompt, [unit]."""
    by_kind = ctx.once(baselines).accuracy.by("prompts_kind")
    return effects.difference(by_kind[FEW], by_kind[kind])


def examples_help(ctx: Ctx) -> Test:
    """Without it there is no task that a vector could transfer."""
    return Test("accuracy with examples minus without", gain_of_examples(ctx), above=effects.MARGIN)


def examples_teach(ctx: Ctx) -> Sequence[Test]:
    """The needs of every claim: examples help, and, where the task is one that may be known, their labels do."""
    if not ctx.once(problems).estimation.within:
        return (examples_help(ctx),)
    learnt = ctx.once(gains_of_examples)[LEARNT]
    return examples_help(ctx), Test("accuracy with examples minus with shuffled labels", learnt, above=effects.MARGIN)


def attainable(model: Model) -> str:
    """What a model that knew the function for sure would reach, where its training had wrong labels."""
    language = functions_of(model)
    if language is None or not language.noise:
        return ""
    return (
        f"The model was trained on pairs of which {language.noise:.0%} have a random y. Knowing the function for "
        f"sure, the best probability of the right answer is {language.attainable:.2f}; accuracy can reach 1."
    )
