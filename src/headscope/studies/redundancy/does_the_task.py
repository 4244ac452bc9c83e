"""Does the model do the task, with examples and without?

In: the experiment. Out: how often source and zero-shot target are answered, and the tests that later claims need:
the source's right answer is likelier than with shuffled labels, and than with another function's examples.
"""

from typing import Any

import polars as pl
from torch import Tensor

from headscope.evidence import Test, table
from headscope.measures.candidates import probability_of
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.studies.context import Part
from headscope.studies.redundancy.experiment import ANY_NUMBER, Ctx, experiment
from headscope.studies.redundancy.patching import ANSWER, MARGIN, PROBABILITY, Patched, predicted_as
from headscope.studies.redundancy.rounds import rounds
from headscope.sweeps.naive import evaluate
from headscope.sweeps.predicted_numbers import predicted_token, written_right
from headscope.tables import Column
from headscope.tasks.linear import functions_of
from headscope.tasks.source_and_target import CONTROLS, COPIED, TASK

SOURCE, TARGET = "source", "target"
PROMPT = Column("prompt", pl.String, "source: with examples, or a control's; target: zero-shot, nothing patched")


def source_answered(ctx: Ctx) -> list[Test]:
    """What most claims need: the source's answer (what its final residual stream transfers) above both controls."""
    above = ctx.once(rounds)[0].patched.excess.at(answer=COPIED[0], layer=ctx.model.n_layers)
    what = "the source prompt's right answer, above {} sources"
    return [Test(what.format(each), above.at(control=each), above=MARGIN) for each in CONTROLS]


def right_whole(ctx: Ctx) -> dict[str, Tensor]:
    """In text, whether greedy decoding writes the whole answer and ends it, [prompt] by kind of prompt; else nothing.

    The source's own answer after its examples, after shuffled labels and after another task's; and f(target x)
    without any.
    """
    model, half = ctx.model, ctx.once(experiment).prompts.estimation
    if functions_of(model) is not None:
        return {}
    _, _, after = half.problems.source.functions.form
    shown = {SOURCE: half.source, **{kind: half.sources[kind] for kind in CONTROLS}, TARGET: half.target}
    return {kind: written_right(model, prompts, after) for kind, prompts in shown.items()}


def learnt(ctx: Ctx) -> list[str]:
    """What is learnt from the labels, told apart from what is known without them; a sentence in text alone."""
    right = {kind: int(each.sum()) for kind, each in ctx.once(right_whole).items()}
    if not right:
        return []
    n = len(ctx.once(experiment).prompts.estimation)
    told = f"Greedy decoding writes the whole answer in {right[SOURCE]} of {n} prompts with examples, in "
    told += f"{right[CONTROLS[0]]} with shuffled labels and in {right[TARGET]} without examples"
    return [f"{told}: so many are known without labels, and what is more is learnt from them."]


def does_the_task(ctx: Ctx) -> Part:
    """How likely is the right answer with examples, and what is answered without?"""
    model, tried, source = ctx.model, ctx.once(experiment), ctx.once(rounds)[0].patched
    half = tried.prompts.estimation
    answers = half.problems.answers
    measures = [*map(probability_of, half.tokens.values()), *tried.numbers, predicted_token(model)]
    *read, predicted = evaluate(model, half.target_answered, measures)
    by_prompt: dict[str, dict[str, Any]] = {
        SOURCE: {COPIED[0]: source.own.values[:, 0]},
        TARGET: dict(zip(answers, read, strict=False)),
    }
    if tried.numbers:
        by_prompt[SOURCE][ANY_NUMBER], by_prompt[TARGET][ANY_NUMBER] = source.own_number, read[-1]
    by_answer = {each: predicted_as(tried, half, predicted, each) for each in answers}
    shares = {
        Column(name, pl.Float64, f"share of prompts whose predicted answer is it, {name}"): {
            (SOURCE, COPIED[0]): source.share(name),
            **{(TARGET, each): float(values[at].mean()) for each, values in by_answer.items()},
        }
        for at, name in enumerate(tried.readings)
    }
    kinds = {kind: float(each.mean()) for kind, each in ctx.once(right_whole).items()}
    if kinds:
        by_prompt |= {kind: {COPIED[0]: _of_control(source, kind)} for kind in CONTROLS}
        meaning = "share of prompts whose whole answer greedy decoding writes, and then ends it"
        cells = {(kind, TASK[0] if kind == TARGET else COPIED[0]): share for kind, share in kinds.items()}
        shares[Column("whole", pl.Float64, meaning)] = cells
    samples = [Samples.of(PROBABILITY, (ANSWER,), each).labelled(PROMPT, n) for n, each in by_prompt.items()]
    return Part(tables=[table(samples, "clean", more=shares)], says=learnt(ctx))


def _of_control(source: Patched, kind: str) -> Array:
    """The probability of f(source x) in a control source, [prompt]: what its final residual stream transfers."""
    last = source.probability.coordinates("layer")[-1]
    return source.probability.at(source=kind, answer=COPIED[0], layer=last).values[:, 0]
