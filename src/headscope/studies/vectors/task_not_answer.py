"""Is it the task that is transferred, or the answer of the prompt from which the vector comes?

In: outcomes under task vectors. Out: comparisons by layer. With the task vector the model must answer its own query,
not repeat the dummy query's answer, and with another function's vector it must follow that function, more often than
it does without any vector: a model may copy an input of its own accord. Late layers copy: `sources.REDUNDANT_HEADS`
sees both ("almost the exact answer is copied over"). Something must be transferred before it is asked what: whichever
of task and answer the selecting problems show more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headscope.evidence import Test, any_of, claim, table
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.vectors import effects
from headscope.studies.vectors.does_the_task import examples_teach, unpatched
from headscope.studies.vectors.effects import MARGIN, ZERO
from headscope.studies.vectors.problems import Ctx, within_task
from headscope.studies.vectors.task_vector import OTHER, TASK, beyond_shuffled, task_vector_outcomes
from headscope.tasks.transfer import DUMMYS, OTHERS, OWN


@dataclass(frozen=True, eq=False)
class Transferred:
    """Differences of accuracies under task vectors by layer; `clearest` is what the selecting problems show most."""

    beyond_shuffled: Samples
    not_copied: Samples
    follows_other: Samples
    copied: Samples
    other_without: Samples
    clearest: str


@within_task
def task_not_answer(ctx: Ctx) -> Part:
    """Does a task vector transfer the task, or the answer of its own prompt?"""
    judged = ctx.once(transferred)
    compared = {
        "task vector minus label-shuffled, f(x)": judged.beyond_shuffled,
        "task vector, f(x) minus f(dummy)": judged.not_copied,
        "other function's vector, g(x) minus f(x)": judged.follows_other,
        "other function's vector minus no vector, g(x)": judged.other_without,
        "task vector minus no vector, f(dummy)": judged.copied,
    }
    named = [each.labelled(effects.COMPARISON, name) for name, each in compared.items()]
    return Part(
        tables=[table(named, "task_vector_differences")],
        claims=[task_rather_than_answer(examples_teach(ctx), judged)],
    )


def task_rather_than_answer(needs: Sequence[Test], judged: Transferred) -> Claim:
    """Whether the vector's own function is applied to another input."""
    shown = judged.beyond_shuffled if judged.clearest == OWN else judged.copied
    anything = f"transfer of {judged.clearest} before layer {shown.chosen['layer']}"
    own, follows = judged.not_copied, judged.follows_other
    return claim(
        "task_not_answer",
        "The task vector transfers the task, not its prompt's answer: its function is applied to another input.",
        needs=[*needs, Test(anything, shown.there, above=MARGIN)],
        tests=[
            any_of("f(x) under the task vector minus a label-shuffled one", judged.beyond_shuffled, above=MARGIN),
            any_of("f(x) minus f(dummy query) under the task vector", own, above=MARGIN),
            any_of("g(x) minus f(x) under the vector of another function g", follows, above=MARGIN),
            any_of("g(x) under the vector of g minus without one", judged.other_without, above=MARGIN),
        ],
        tables=["task_vector_differences", "task_vectors"],
    )


def transferred(ctx: Ctx) -> Transferred:
    """The comparisons; the copy has a layer of its own, at which it is most frequent on the selecting functions."""
    outcomes, task = ctx.once(task_vector_outcomes), ctx.once(beyond_shuffled)
    copying = outcomes.selection.best_layer(vector=TASK, answer=DUMMYS)
    own, others = (outcomes.estimation.accuracy.at(vector=vector).by("answer") for vector in (TASK, OTHER))
    chosen = outcomes.selection.accuracy.at(vector=TASK)
    shows_task = chosen.at(answer=OWN, **task.chosen).mean >= chosen.at(answer=DUMMYS, **copying).mean
    plain = {answer: unpatched(ctx, answer).accuracy.at(prompts_kind=ZERO) for answer in (DUMMYS, OTHERS)}
    return Transferred(
        task,
        effects.difference(own[OWN], own[DUMMYS]).choosing(**task.chosen),
        effects.difference(others[OTHERS], others[OWN]).choosing(**task.chosen),
        effects.difference(own[DUMMYS], plain[DUMMYS]).choosing(**copying),
        effects.difference(others[OTHERS], plain[OTHERS]).choosing(**task.chosen),
        OWN if shows_task[0] else DUMMYS,
    )
