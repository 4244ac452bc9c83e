"""The vectors study: does one vector transfer a task learnt in context, and which heads write it?

In: a model and settings of (x, y) problems. Out: a Study. Task vectors (Hendel et al. 2023), function vectors (Todd
et al. 2024), and the comparison of function-vector with induction heads (Yin & Steinhardt 2025). Layers and heads
are *selected* on half of the functions and *estimated* on the other half; functions are the unit of intervals.
"""

from collections.abc import Mapping, Sequence

from headscope.evidence import percent
from headscope.evidence.comparisons import head_names
from headscope.results.study import Claim
from headscope.studies.context import Plan
from headscope.studies.gate import pairs_gate
from headscope.studies.sources import FUNCTION_VECTORS, TASK_VECTORS, WHICH_HEADS_MATTER
from headscope.studies.vectors.different_heads import different_heads
from headscope.studies.vectors.does_the_task import baselines, does_the_task, examples_help
from headscope.studies.vectors.effects import FEW, OWN, ZERO
from headscope.studies.vectors.forecast import stages
from headscope.studies.vectors.function_vector import carried_by_heads, function_vector
from headscope.studies.vectors.head_effects import head_effects, top_heads
from headscope.studies.vectors.matter_more import matter_more
from headscope.studies.vectors.problems import Ctx, VectorsConfig, problems
from headscope.studies.vectors.task_not_answer import task_not_answer
from headscope.studies.vectors.task_vector import SHUFFLED, recovered_share, task_vector, task_vector_outcomes
from headscope.tasks import linear

TERMS = {
    "task vector": "The residual stream at the final token of a few-shot prompt, patched into a zero-shot prompt "
    "with another query before the same layer (Hendel et al. 2023).",
    "dummy query": "What the prompt asks from which a task vector is taken; its answer is a copy, not the task.",
    "function vector": "The sum of a few heads' mean outputs at the final token over prompts of one function, added "
    "to the residual stream (Todd et al. 2024).",
}


QUESTIONS = (does_the_task, task_vector, task_not_answer, head_effects, function_vector, different_heads, matter_more)


def answer(ctx: Ctx, claims: Mapping[str, Claim]) -> Sequence[str]:
    """Whether a vector transfers the task, from which layer, and what a few heads' sum does instead."""
    plain = ctx.once(baselines).accuracy.by("prompts_kind")
    few, zero = percent(plain[FEW]), percent(plain[ZERO])
    does = f"{ctx.model.name} answers {few} of queries right with examples, and {zero} without"
    if examples_help(ctx).row("need").side != "yes":
        return (f"{does}: examples do not clearly help, so whether a vector transfers a task could not be tested.",)
    task, summed = ctx.once(recovered_share), ctx.once(carried_by_heads)[ZERO].share
    right = ctx.once(task_vector_outcomes).estimation.accuracy.at(vector=SHUFFLED, answer=OWN)
    top, layer = ctx.once(top_heads), task.chosen["layer"]
    heads = head_names(top.function_vector)
    common = head_names([head for head in top.function_vector if head in top.induction]) or "none"
    common = common if top.induction else "not measured"
    shuffled = percent(right.at(**task.chosen))
    return (
        f"{does}. The final-token residual stream of one few-shot prompt, patched into a zero-shot prompt before "
        f"layer {layer}, recovers {percent(task.there)} of that gain (label-shuffled: {shuffled} right).",
        f"The summed mean outputs of heads {heads}, added before layer {summed.chosen['layer']}, recover "
        f"{percent(summed.there)} (top induction heads among these: {common}).",
    )


PLAN: Plan[VectorsConfig] = Plan(
    name="vectors",
    help="Whether one vector transfers a task learnt in context, and which heads write it.",
    title="Task vectors and function vectors",
    question="Does a single vector transfer a task learnt in context, which heads write it, and are those the "
    "induction heads?",
    settings=VectorsConfig,
    shown_on="zoo:linear-8l",
    questions=QUESTIONS,
    answer=answer,
    gate=pairs_gate,
    stages=stages,
    prompts=lambda ctx: [linear(ctx.model, half.few) for half in ctx.once(problems)],
    lead="task_vectors-layer",
    sources=(TASK_VECTORS, FUNCTION_VECTORS, WHICH_HEADS_MATTER),
    terms=TERMS,
)
