"""Does the model do the task, with examples and without?

In: the experiment. Out: how often source and zero-shot target are answered, and the tests that later claims need:
the source's right answer is likelier than with shuffled labels, and than with another function's examples.
"""

import polars as pl

from headscope.evidence import Test, table
from headscope.measures import joint_probability
from headscope.measures.samples import Samples
from headscope.studies.context import Part
from headscope.studies.redundancy.experiment import Ctx, experiment
from headscope.studies.redundancy.patching import ANSWER, ANY_NUMBER, MARGIN, PROBABILITY, READINGS
from headscope.studies.redundancy.rounds import rounds
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import evaluate
from headscope.sweeps.predicted_numbers import predicted_numbers
from headscope.tables import Column
from headscope.tasks.source_and_target import ANSWERS, CONTROLS, COPIED

PROMPT = Column("prompt", pl.String, "source: with examples; target: zero-shot, nothing patched")


def source_answered(ctx: Ctx) -> list[Test]:
    """What most claims need: the source's answer (what its final residual stream transfers) above both controls."""
    above = ctx.once(rounds)[0].patched.excess.at(answer=COPIED[0], layer=ctx.model.n_layers)
    what = "the source prompt's right answer, above {} sources"
    return [Test(what.format(each), above.at(control=each), above=MARGIN) for each in CONTROLS]


def does_the_task(ctx: Ctx) -> Part:
    """How likely is the right answer with examples, and what is answered without?"""
    model, tried, source = ctx.model, ctx.once(experiment), ctx.once(rounds)[0].patched
    half = tried.prompts.estimation
    (probability,) = evaluate(model, half.target_answers, [joint_probability()])
    (number,) = evaluate(model, half.target, [tried.number])
    (predicted,) = predicted_numbers(model, half.target, [Cell(())], half.longest_answer)
    by_answer = dict(zip(ANSWERS, probability.reshape(len(ANSWERS), -1), strict=True))
    answers = {
        "source": {COPIED[0]: source.own.values[:, 0], ANY_NUMBER: source.own_number},
        "target": {**by_answer, ANY_NUMBER: number},
    }
    shares = {
        Column(name, pl.Float64, f"share of prompts whose predicted number is it, {name}"): {
            ("source", COPIED[0]): source.share(name),
            **{("target", each): float(read(predicted, half.problems.numbers[each]).mean()) for each in ANSWERS},
        }
        for name, read in READINGS.items()
    }
    samples = [Samples.of(PROBABILITY, (ANSWER,), each).labelled(PROMPT, n) for n, each in answers.items()]
    return Part(tables=[table(samples, "clean", more=shares)])
