"""Does the probability of the right answer rise with examples, and beside whose answers?

In: the context of the study. Out: the model's curve over the number of examples beside the exact posterior under one
or two priors, least squares and ridge, and its own curve on label-shuffled prompts; how often each is right; the
claim `rises`, which every further claim about updates needs. Shots of a prompt share its examples: prompts are
units.
"""

from math import inf

import torch
from torch import Tensor

from headscope.evidence import Test, claim, lines, table
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes import observations as seen
from headscope.studies.bayes.observations import EXACT, LEARNER, MODEL, Observations, over_shots
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.studies.pairs import described
from headscope.tables import Quantity
from headscope.tasks.linear import functions_of

PROBABILITY = Quantity("probability", "mean probability of the function's value", within=(0.0, 1.0))
ACCURACY = Quantity("accuracy", "prompts whose most likely number is the function's", "share", within=(0.0, 1.0))
ERROR = Quantity("distance", "mean distance of the most likely number from the function's value", "", (0.0, inf))
AGREEMENT = Quantity("agreement", "prompts in which the model's most likely number is the same", "share", (0.0, 1.0))
EXACT_SHUFFLED = "exact posterior, labels shuffled"
_NO_LINE, _NO_NUMBERS = "a line is undefined with so few pairs", "not every number is scored in text"


def curve(ctx: Ctx) -> Part:
    """Does the model learn from the examples?"""
    observed = ctx.once(seen.observations)
    probability, rise, beyond = probabilities(observed), observed.rise, observed.beyond_shuffled
    accuracy, *beside = answers(observed)
    figure = lines(
        probability,
        "shots",
        colour="learner",
        name="curve",
        title="How the right answer grows with examples",
        caption="Mean probability of the function's value after so many pairs, over prompts with a function and "
        "pairs of their own; bands are 95% intervals. The exact posteriors see the same pairs. A regression is "
        "sure of its answer: its probability is the share of prompts in which the nearest whole number is right. "
        "With shuffled labels there is no function to learn.",
    )
    return Part(
        tables=[
            table(probability, "curve"),
            table(accuracy, "answers", beside=beside),
            table([rise, observed.rise_beyond_shuffled.labelled(LEARNER, "model beyond shuffled labels")], "rises"),
        ],
        claims=[rises(beyond)],
        figures=[figure],
        notes=_notes(ctx, observed),
    )


def rises(beyond: Samples) -> Claim:
    """`beyond` [prompt, learner]: how much more each rises than with shuffled labels."""
    margin, what = seen.RISE_MARGIN, "rise beyond shuffled labels"
    control = Test(f"{what} (exact posterior)", beyond.at(learner=EXACT), above=margin)
    return claim(
        "rises",
        f"The right answer's mean probability rises with examples, by over {margin} more than with shuffled labels.",
        positive_control=seen.where_defined(control),
        tests=[Test(what, beyond.at(learner=MODEL), above=margin)],
        tables=("curve", "rises"),
    )


def probabilities(observed: Observations) -> Samples:
    """Of the function's value, [prompt, (learner, shots)]."""
    exact = {name: observed.of_right(each) for name, each in observed.exact.items()}
    curves = {MODEL: observed.model.probability, **exact}
    curves |= {name: _same(line.round(), observed.right) for name, line in observed.regressed.items()}
    curves[seen.SHUFFLED] = observed.shuffled.probability
    curves[EXACT_SHUFFLED] = observed.of_right(observed.exact_shuffled)
    samples = over_shots(PROBABILITY, curves).because(_NO_LINE, learner=list(observed.regressed))
    return samples.because(seen.IMPOSSIBLE, learner=[*exact, EXACT_SHUFFLED])


def answers(observed: Observations) -> tuple[Samples, Samples, Samples]:
    """Each learner's most likely number: whether it is right, how far off, and whether the model's is the same."""
    numbers, right = observed.model.numbers, observed.right
    own = torch.full(right.shape, torch.nan).double() if numbers is None else numbers.argmax(-1).double()
    given = {MODEL: own, **{name: each.argmax(-1).double() for name, each in observed.exact.items()}}
    given |= {name: line.round() for name, line in observed.regressed.items()}
    accuracy = over_shots(ACCURACY, {who: _same(answer, right) for who, answer in given.items()})
    accuracy = accuracy.because(_NO_NUMBERS, learner=MODEL).because(_NO_LINE, learner=list(observed.regressed))
    error = over_shots(ERROR, {who: (answer - right).abs() for who, answer in given.items()})
    agreement = over_shots(AGREEMENT, {who: _same(answer, own) for who, answer in given.items()})
    return accuracy, error, agreement


def _same(answer: Tensor, other: Tensor) -> Tensor:
    """1 where the answers are the same, 0 where not, NaN where there is none."""
    same = torch.where(answer.isnan(), answer, (answer == other).double())
    return torch.where(other.isnan(), other, same) if other.is_floating_point() else same


def _notes(ctx: Ctx, observed: Observations) -> list[str]:
    """What was asked, what is compared with what, and what cannot be known here."""
    notes = [
        f"{described(observed.shots)} The exact posterior expects {observed.noise:.0%}. The function's value is "
        "judged, also where a shown y is random.",
        "Intervals are over prompts, each with a function and examples of its own; curves are fitted again to "
        "resampled prompts.",
        f"Least squares answers from two pairs on, ridge (strength {ctx.settings.ridge:g}, pairs centred) from one "
        "on. Neither expects a random y.",
    ]
    if functions_of(ctx.model) is not None:
        notes.append(
            "This model was trained on pairs like these and so towards the exact posterior. That it comes near is "
            "a positive control of this study, and no evidence about large language models."
        )
    else:
        notes.append(
            "In text not every number is scored: the divergence is over two outcomes, the right number or any other, "
            "which is a lower bound, and the model's most likely number is not known."
        )
    if ctx.settings.article:
        notes.append(
            "All prompts show the article's own pairs and differ in the query alone: no interval says how other "
            "examples would do."
        )
    return notes
