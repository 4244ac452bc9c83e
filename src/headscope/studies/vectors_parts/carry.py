"""The vectors' part of the vectors study: task and function vectors at every layer, and what each is compared with.

In: a model, both halves of the problems, outcomes without a vector. Out: rows of outcomes under every vector, and
rows of comparisons, with the layer that the first half chose marked. A comparison is made problem by problem.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from headscope.models.model import Model
from headscope.studies.vectors_parts import tables
from headscope.studies.vectors_parts.problems import Problems
from headscope.studies.vectors_parts.reach import (
    DUMMYS,
    FUNCTION,
    MEAN,
    OTHER,
    OTHER_FUNCTION,
    OTHERS,
    OWN,
    RANDOM_DIRECTION,
    RANDOM_HEADS,
    SHUFFLED,
    TASK,
    Reached,
    best_layer,
    function_vectors,
    questions,
    reached,
    task_vectors,
)
from headscope.studies.vectors_parts.values import ACCURACY, plain_outcomes
from headscope.sweeps.controls import Control, random_sets
from headscope.tables import Table
from headscope.vocabulary import Head, staged

Progress = Callable[[str, int, int], None]


def carry_task(
    model: Model, halves: Sequence[Problems], plain: Mapping[str, Tensor], progress: Progress
) -> tuple[Table, list[dict[str, object]]]:
    """Task vectors in prompts without pairs: all layers, with the layer chosen on the first half."""
    stage = staged(progress, "patching task vectors")
    found: list[Reached] = []
    for half in halves:
        vectors, asked = task_vectors(model, half), questions(model, half)
        if half is halves[0]:
            vectors, asked = {k: vectors[k] for k in (TASK, MEAN)}, {k: asked[k] for k in (OWN, DUMMYS)}
        copied = {DUMMYS: plain_outcomes(model, asked[DUMMYS])}
        found.append(reached(model, asked, vectors, copied, added=False, progress=stage))
    first, second = found
    estimation = halves[1]
    own, copying = (best_layer(first.under[TASK, answer]) for answer in (OWN, DUMMYS))
    right = {vector: second.under[vector, OWN][ACCURACY] for vector in (TASK, SHUFFLED, MEAN, OTHER)}
    copied_right = second.under[TASK, DUMMYS][ACCURACY]
    zero = plain["zero-shot"][ACCURACY]
    gap = plain["few-shot"][ACCURACY] - zero
    rows = [
        row
        for name, differences, picked in (
            (tables.BEYOND_SHUFFLED, right[TASK] - right[SHUFFLED], own),
            (tables.TASK_SHARE, tables.share_of_gap(right[TASK] - zero, gap, estimation.function), own),
            (tables.NOT_COPIED, right[TASK] - copied_right, own),
            (tables.FOLLOWS_OTHER, second.under[OTHER, OTHERS][ACCURACY] - right[OTHER], own),
            (tables.COPIED, copied_right - second.plain[DUMMYS][ACCURACY], copying),
        )
        for row in tables.comparison(name, differences, picked, estimation.function)
    ]
    shown = [("selection", first, halves[0]), ("estimation", second, estimation)]
    listed = [
        row
        for half, reach, problems in shown
        for row in tables.under_vectors(half, "zero-shot", reach.under, problems.function)
    ]
    return tables.TASK_VECTORS.table(listed), rows


def carry_function(
    model: Model,
    halves: Sequence[Problems],
    means: Sequence[Mapping[int, Tensor]],
    chosen: Sequence[Head],
    plain: Mapping[str, Tensor],
    control: Control,
    progress: Progress,
) -> tuple[Table, list[dict[str, object]]]:
    """Vectors of the chosen heads, added to both kinds of prompts, with layers chosen on the first half.

    `means` are each half's mean head outputs; `control` says how many random sets of heads give control vectors.
    """
    beside = random_sets(model.heads, chosen, count=control.count, seed=control.seed)
    listed: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for kind, shuffled in (("zero-shot", False), ("label-shuffled", True)):
        stage = staged(progress, f"adding function vectors ({kind})")
        found: list[Reached] = []
        for half, own_means in zip(halves, means, strict=True):
            vectors = function_vectors(model, half, own_means, chosen, beside)
            asked = questions(model, half, shuffled=shuffled)
            if half is halves[0]:
                vectors, asked = {FUNCTION: vectors[FUNCTION]}, {OWN: asked[OWN]}
            asked.pop(DUMMYS, None)
            found.append(reached(model, asked, vectors, {}, added=True, progress=stage))
        for half_name, reach, half in zip(("selection", "estimation"), found, halves, strict=True):
            listed += tables.under_vectors(half_name, kind, reach.under, half.function)
        rows += compared(found, halves[1], kind, plain)
    return tables.FUNCTION_VECTORS.table(listed), rows


def compared(
    found: Sequence[Reached], half: Problems, kind: str, plain: Mapping[str, Tensor]
) -> list[dict[str, object]]:
    """The function vector beside its controls on one kind of prompt, layer by layer."""
    layer, under = best_layer(found[0].under[FUNCTION, OWN]), found[1].under
    own = under[FUNCTION, OWN][ACCURACY]
    gap = plain["few-shot"][ACCURACY] - plain[kind][ACCURACY]
    differences = {
        tables.FUNCTION_SHARE: tables.share_of_gap(own - plain[kind][ACCURACY], gap, half.function),
        tables.FUNCTION_FOLLOWS_OTHER: under[OTHER_FUNCTION, OTHERS][ACCURACY]
        - under[OTHER_FUNCTION, OWN][ACCURACY],
    }
    for control in (RANDOM_HEADS, RANDOM_DIRECTION, OTHER_FUNCTION):
        if (control, OWN) in under:
            differences[tables.beyond(control)] = own - under[control, OWN][ACCURACY]
    return [
        row
        for name, values in differences.items()
        for row in tables.comparison(f"{name} ({kind})", values, layer, half.function)
    ]
