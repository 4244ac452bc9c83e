"""The vectors study: does one vector carry a task learnt in context, and which heads make it?

In: a model and settings of (x, y) problems. Out: a Study. Task vectors (Hendel et al. 2023, "In-Context Learning
Creates Task Vectors"), function vectors with the causal indirect effect of every head (Todd et al. 2024, "Function
Vectors in Large Language Models"), and the comparison of function-vector with induction heads (Yin & Steinhardt
2025, "Which Attention Heads Matter for In-Context Learning?"). Layers and heads are *selected* on half of the
functions and *estimated* on the other half; functions are the unit of intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch import Tensor

from headscope.errors import BadArgument
from headscope.interventions import mean
from headscope.measures import interval, simultaneous
from headscope.models.model import Model
from headscope.results.provenance import provenance
from headscope.results.study import Study
from headscope.studies import vectors_claims, vectors_figures, vectors_notes
from headscope.studies import vectors_tables as tables
from headscope.studies.pairs import PairsConfig
from headscope.studies.vectors_heads import (
    Induction,
    apart,
    by_function,
    indirect_effects,
    induction_scores,
    judged_kind,
    overlap,
    top_heads,
)
from headscope.studies.vectors_problems import Problems, halves_of_functions
from headscope.studies.vectors_reach import (
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
    mean_heads,
    questions,
    reached,
    task_vectors,
)
from headscope.studies.vectors_values import ACCURACY, plain_outcomes, unpacked, whole_answer
from headscope.sweeps.controls import Control, against_random_sets, random_sets
from headscope.tables import Table
from headscope.tasks import linear
from headscope.vocabulary import Head

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Config(PairsConfig):
    """What can be chosen; the command's options and help come from these fields."""

    each: int = field(default=5, metadata={"help": "problems of each function (n problems in each half)"})
    sources: int = field(default=10, metadata={"help": "prompts of each function that vectors are averaged over"})
    top: int | None = field(
        default=None,
        metadata={"help": "heads that make a function vector (default: 2% of all, but 4 or an eighth of fewer)"},
    )
    random_vectors: int = field(default=3, metadata={"help": "random sets of heads whose sum is a control vector"})
    random_sets: int = field(default=20, metadata={"help": "random sets of heads cut beside each group"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("each", "sources", "top", "random_vectors", "random_sets"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadArgument(f"cannot study vectors with {name}={value}: it must be at least 1.")

    def quick(self) -> "Config":
        """Smaller, for a first look; what was chosen stays as chosen."""
        return self.smaller({"n": 50, "sources": 6, "random_vectors": 1, "random_sets": 6})

    def top_of(self, model: Model) -> int:
        """How many heads count as the top ones of a ranking.

        The papers take about 2%; a small model has too few heads for that.
        """
        count = len(model.heads)
        chosen = max(-(-count // 50), min(4, count // 8), 1) if self.top is None else self.top
        if chosen > count // 2:
            raise BadArgument(
                f"cannot set {chosen} top heads of each kind apart: {model.name} has {count} heads. Use a smaller --top."
            )
        return chosen


@dataclass(frozen=True)
class Picked:
    """Full rankings of heads on the selection half; the first `top` of each are its top heads."""

    top: int
    effects: tuple[Head, ...]
    induction: Mapping[str, tuple[Head, ...]]


def run(config: Config, model: Model, progress: Progress = lambda stage, done, of: None) -> Study:
    """Does one vector carry the task, which heads make it, and are they the induction heads?"""
    top, judged = config.top_of(model), judged_kind(model)
    halves = halves_of_functions(config, model, each=config.each, sources=config.sources)
    baselines, plain = plain_accuracies(model, halves[1])
    task_table, task_comparisons = carry_task(model, halves, plain, progress)
    picked, heads, overlaps = rank_heads(config, model, halves, top, progress)
    function_table, function_comparisons = carry_function(config, model, halves, picked, plain, progress)
    ablations, against = cut_heads(config, model, halves, picked, judged, progress)

    found: dict[str, Table] = {
        "baselines": baselines,
        "task_vectors": task_table,
        "head_effects": heads,
        "function_vectors": function_table,
        "overlap": overlaps,
        "ablations": ablations,
        "comparisons": tables.COMPARISONS.table([*task_comparisons, *function_comparisons, *against]),
    }
    claims = vectors_claims.all_claims(found, model.n_layers)
    return Study(
        name="vectors",
        title=f"Task vectors and function vectors of {model.name}",
        question="Does a single vector carry a task that was learnt from examples, which heads make it, and are those "
        "the induction heads?",
        summary=vectors_claims.summary(model, found, claims),
        claims=claims,
        tables=found,
        figures=vectors_figures.all_figures(found),
        notes=vectors_notes.notes(model, config.sources, halves[1], top, judged),
        provenance=provenance(
            model, "vectors", config, *(linear(model, half.few) for half in halves)
        ),
    )


def plain_accuracies(model: Model, half: Problems) -> tuple[Table, dict[str, Tensor]]:
    """How often the answer is right without any vector; outcomes [measure, problem] by kind of prompt."""
    kinds = {"zero-shot": half.zero, "few-shot": half.few, "label-shuffled": half.shuffled}
    plain = {kind: plain_outcomes(model, linear(model, shots)) for kind, shots in kinds.items()}
    rows = [{"prompts_kind": kind, **tables.measured(value, half.function)} for kind, value in plain.items()]
    return tables.BASELINES.table(rows), plain


def carry_task(
    model: Model, halves: Sequence[Problems], plain: Mapping[str, Tensor], progress: Progress
) -> tuple[Table, list[dict[str, object]]]:
    """Task vectors in prompts without pairs: all layers, with the layer chosen on the first half."""
    stage = partial(progress, "patching task vectors")
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
            (vectors_claims.BEYOND_SHUFFLED, right[TASK] - right[SHUFFLED], own),
            (vectors_claims.TASK_SHARE, tables.share_of_gap(right[TASK] - zero, gap, estimation.function), own),
            (vectors_claims.NOT_COPIED, right[TASK] - copied_right, own),
            (vectors_claims.FOLLOWS_OTHER, second.under[OTHER, OTHERS][ACCURACY] - right[OTHER], own),
            (vectors_claims.COPIED, copied_right - second.plain[DUMMYS][ACCURACY], copying),
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


def rank_heads(
    config: Config, model: Model, halves: Sequence[Problems], top: int, progress: Progress
) -> tuple[Picked, Table, Table]:
    """Causal indirect effects and induction scores of all heads on both halves, and how they agree."""
    stage = partial(progress, "replacing each head by its mean")
    effects = [indirect_effects(model, half, mean_heads(model, half), stage) for half in halves]
    scores = [
        induction_scores(model, half, n=min(50, config.n), seed=config.seed, part=part)
        for part, half in enumerate(halves)
    ]
    every, judged = len(model.heads), judged_kind(model)
    picked = Picked(
        top,
        top_heads(effects[0], model.heads, every),
        {kind: score.top(every) for kind, score in scores[0].items()},
    )
    mine, theirs = set(picked.effects[:top]), set(picked.induction[judged][:top])
    by_head = by_function(effects[1], halves[1].function)
    bounds, joint = interval(by_head), simultaneous(by_head)
    rows = []
    for place, head in enumerate(model.heads):
        words = [word for word, chosen in (("function-vector", mine), ("induction", theirs)) if head in chosen]
        rows.append(
            {
                "layer": head.layer,
                "head": head.index,
                "indirect_effect": float(bounds.mean[place]),
                "low": float(bounds.low[place]),
                "high": float(bounds.high[place]),
                "adjusted_low": float(joint.at_least[place]),
                "selection_effect": float(effects[0][place].mean()),
                **scored(scores[1], head),
                "picked": " and ".join(words),
                "functions": bounds.n,
            }
        )
    overlaps = [
        overlap_of(kind, kind == judged, by_head, score, picked, config.seed)
        for kind, score in scores[1].items()
    ]
    return picked, tables.HEADS.table(rows), tables.OVERLAP.table(overlaps)


def scored(scores: Mapping[str, Induction], head: Head) -> dict[str, object]:
    """Both induction scores of a head, and whether the detector names it, as cells of a row."""
    cells: dict[str, object] = {}
    for kind, score in scores.items():
        row = score.rows.get(head)
        name = kind.replace(" ", "_")
        cells[name] = float("nan") if row is None else row["score"]
        cells[f"{name}_named"] = row is not None and row["named"]
    return cells


def overlap_of(
    kind: str, judged: bool, effects: np.ndarray, score: Induction, picked: Picked, seed: int
) -> dict[str, object]:
    """One row of the overlap table."""
    if score.reason or not len(score.above):
        return tables.overlap_row(kind, judged, picked.top, None, score.reason or "no prompt could be judged")
    chosen = (picked.effects[: picked.top], picked.induction[kind][: picked.top])
    if not all(chosen):
        return tables.overlap_row(kind, judged, picked.top, None, "it was not measured on the selection half")
    return tables.overlap_row(kind, judged, picked.top, overlap(effects, score.above, chosen, seed=seed), "")


def carry_function(
    config: Config,
    model: Model,
    halves: Sequence[Problems],
    picked: Picked,
    plain: Mapping[str, Tensor],
    progress: Progress,
) -> tuple[Table, list[dict[str, object]]]:
    """Function vectors added to both kinds of prompts, with layers chosen on the first half."""
    chosen = picked.effects[: picked.top]
    beside = random_sets(model.heads, chosen, count=config.random_vectors, seed=config.seed)
    listed, rows = [], []
    for kind, shuffled in (("zero-shot", False), ("label-shuffled", True)):
        stage = partial(progress, f"adding function vectors ({kind})")
        found: list[Reached] = []
        for half in halves:
            vectors = function_vectors(model, half, mean_heads(model, half), chosen, beside)
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
        vectors_claims.FUNCTION_SHARE: tables.share_of_gap(own - plain[kind][ACCURACY], gap, half.function),
        vectors_claims.FUNCTION_FOLLOWS_OTHER: under[OTHER_FUNCTION, OTHERS][ACCURACY]
        - under[OTHER_FUNCTION, OWN][ACCURACY],
    }
    for control in (RANDOM_HEADS, RANDOM_DIRECTION, OTHER_FUNCTION):
        if (control, OWN) in under:
            differences[vectors_claims.beyond(control)] = own - under[control, OWN][ACCURACY]
    return [
        row
        for name, values in differences.items()
        for row in tables.comparison(f"{name} ({kind})", values, layer, half.function)
    ]


def cut_heads(
    config: Config,
    model: Model,
    halves: Sequence[Problems],
    picked: Picked,
    judged: str,
    progress: Progress,
) -> tuple[Table, list[dict[str, object]]]:
    """Few-shot accuracy with the top heads of one kind cut and the other's kept, beside random heads."""
    induction = picked.induction[judged]
    groups = {
        "function-vector heads": apart(picked.effects, induction, picked.top),
        "induction heads": apart(induction, picked.effects, picked.top),
    }
    if not induction:
        groups = {"function-vector heads": picked.effects[: picked.top]}
    # Label-shuffled prompts of other functions hold the form of the task and no function.
    reference, function = linear(model, halves[0].shuffled), halves[1].function
    found = against_random_sets(
        model,
        linear(model, halves[1].few).answered(),
        groups,
        cut=mean("z", over=reference),
        measure=whole_answer(),
        control=Control(config.random_sets, config.seed),
        progress=partial(progress, "cutting heads"),
    )
    rows = [tables.ablation_row(group, beside, function) for group, beside in found.items()]
    if len(found) < 2:
        return tables.ABLATIONS.table(rows), []
    damages = [unpacked(beside.damage)[ACCURACY] for beside in found.values()]
    difference = tables.estimate(damages[0] - damages[1], function, "difference")
    against = {"comparison": vectors_claims.MATTER_MORE, "layer": None, "picked": True, **difference}
    return tables.ABLATIONS.table(rows), [against]
