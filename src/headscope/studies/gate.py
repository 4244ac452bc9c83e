"""Does the model do the task at all? Asked before a study of pairs, which has nothing to say where it does not.

In: the settings of a study. Out: a `Gate`: how often, on problems of its own, queries are answered right after
examples, after the same with shuffled labels, and without any; it stops where examples are not shown to teach
anything. What is right without examples, or with labels that say nothing, was known before.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from headscope.evidence import Test, claim, in_words, table
from headscope.measures.samples import Samples
from headscope.measures.whole_answers import unpacked, whole_answer
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.context import Gate, Part
from headscope.studies.forecasts import Stage
from headscope.studies.pair_lengths import PairLengths
from headscope.studies.pairs import PairsConfig, over_lists
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column, Quantity
from headscope.tasks import linear
from headscope.tasks.shots import Shots

MARGIN = 0.1
PROBLEMS = 48  # enough to refute: of none right in either, the difference is below the margin for sure
_SEED = 5_000_000  # far from the seeds of the problems that are studied
EXAMPLES, SHUFFLED, NONE = "examples", "label-shuffled examples", "no examples"
RIGHT = Quantity("right", "share of queries whose whole answer is the most likely one", "share", (0.0, 1.0))
PROBABILITY = Quantity("probability", "mean probability of the whole answer", "probability", (0.0, 1.0))
BEFORE = Column("preceded_by", pl.String, "what stands before the query")


def pairs_gate(ctx: Any) -> Gate:
    """Whether examples teach this model the function of the settings' problems, in context."""
    shots = ctx.settings.draw(ctx.model, n=PROBLEMS, seed=_SEED)
    if shots.x.shape[1] < 2:
        return Gate(Part())  # labels of fewer cannot be shuffled
    ctx.progress("asking whether the model does the task", 0, 1)
    right, probability = answered(ctx.model, shots)
    made = taught(right)
    part = Part(tables=[table(right, "does_the_task", bounded=[probability])], claims=[made])
    if shots.functions.single:
        part = over_lists(lambda _: part)(ctx)
    return Gate(part, () if made.verdict is Verdict.SUPPORTED else _stops(ctx.model, shots, right, made))


def answered(model: Model, shots: Shots) -> tuple[Samples, Samples]:
    """Whether the whole answer comes first, and its probability, [problem, before]."""
    kinds = {EXAMPLES: shots, SHUFFLED: shots.with_shuffled_labels(_SEED), NONE: shots.without_context()}
    # As a cell in which nothing is done: a sweep computes logits where they are read, and nowhere else.
    clean, measure = [Cell(())], whole_answer()
    asked = {kind: linear(model, each).answered() for kind, each in kinds.items()}
    read = {kind: unpacked(cell_values(model, each, clean, measure)[0]) for kind, each in asked.items()}
    right, probability = (
        Samples.of(what, (BEFORE,), {kind: values[index] for kind, values in read.items()})
        for index, what in enumerate((RIGHT, PROBABILITY))
    )
    return right, probability


def taught(right: Samples) -> Claim:
    """Whether answers are right after examples more often than after the same with shuffled labels."""
    by = right.by("preceded_by")
    return claim(
        "does_the_task",
        "Examples teach the model the task: with their labels shuffled fewer queries are answered right.",
        tests=[
            Test("right after examples minus after label-shuffled ones", by[EXAMPLES] - by[SHUFFLED], above=MARGIN)
        ],
        tables=["does_the_task"],
    )


def _stops(model: Model, shots: Shots, right: Samples, made: Claim) -> tuple[str, ...]:
    by: Mapping[str, Samples] = right.by("preceded_by")
    told = ", ".join(f"{round(float(by[kind].mean[0]) * len(shots))} of {len(shots)} with {kind}" for kind in by)
    found = "does not learn" if made.verdict is Verdict.REFUTED else "is not shown to learn"
    return (
        f"{model.name} {found} this task from its context: it answers right {told} ({in_words(by[EXAMPLES])}). "
        "The rest of the study would tell of a task that is not there, and was not run.",
        "Try an easier task (--a 1..1 --b 1..1 --inputs 1..8 is y = x + 1), more examples (--shots) or a larger "
        "model; --force runs the study all the same.",
    )


def gate_stage(settings: PairsConfig, model: Model) -> Stage:
    """What the gate asks of a model."""
    length = PairLengths.of(settings, model)
    tokens = (2 * length.answered(length.pairs) + length.answered(0)) / 3
    # As sweeps of one cell that is the base run, which reads the answers alone.
    return Stage("does the model do the task", PROBLEMS, tokens, cells=3, share=0.0, read=length.answer, passes=3)
