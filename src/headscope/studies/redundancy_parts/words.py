"""The summary and the notes of the redundancy study, computed from its evidence.

In: steps, tables, claims. Out: sentences. What the article's table says of Llama-3-8B stands in the summary for the
model at hand, one line per cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
from headscope.studies.redundancy_parts.heads import (
    GREW_LOGITS,
    GREW_SHARE,
    MATTERS_LOGITS,
    unserved_direct_effects,
)
from headscope.studies.redundancy_parts.patching import MARGIN, stream_named, the_stream
from headscope.studies.redundancy_parts.peeling import KEPT_SHARE, Bench, Step
from headscope.studies.words import count, number
from headscope.tables import Table
from headscope.tasks.linear import functions_of


def summary(
    model: Model, steps: Sequence[Step], found: Mapping[str, Table], claims: Sequence[Claim]
) -> tuple[str, ...]:
    """What a reader should know after ten seconds, and the table of cuts."""
    clean = found["cuts"].rows(step=0)[0]
    task, copied = steps[0].found.first_task(), steps[0].found.first_copied()
    where = "No layer clearly carries the task"
    if task is not None:
        where = f"The task is first carried by {the_stream(task, model.n_layers)}"
    travelled = "A's answer by none" if copied is None else f"x_A has travelled {_from(copied, model)}"
    first = (
        f"A answers right in {clean['right']:.0%} of {clean['prompts']} problems (probability "
        f"{number(clean['probability'])}). Moved from A's last position to B's: {_lower(where)}; {travelled}."
    )
    if not steps[0].found.knows:
        first += " A's answer is not clearly likelier than with shuffled labels: nothing here can be judged."
    return (first, *(_line(row, model) for row in found["cuts"].rows()), _verdicts(claims))


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _from(stream: int, model: Model) -> str:
    return (
        "by the final stream alone"
        if stream == model.n_layers
        else f"from {stream_named(stream, model.n_layers)} on"
    )


def _line(row: Mapping[str, Any], model: Model) -> str:
    """One line of the article's table."""

    def first(name: str) -> str:
        return "nowhere clearly" if row[name] is None else stream_named(row[name], model.n_layers)

    near = (
        "first_copied" if row["first_near_copied"] is None else "first_near_copied"
    )  # exact is near as well
    ended = f" Nothing more was cut: {row['reason']}." if row["reason"] else ""
    return (
        f"Cut in A: {row['cut']}. A is right in {row['right']:.0%}, near in {row['near']:.0%} (probability "
        f"{number(row['probability'])}, {row['remains']}). B first gives a x_B: {first('first_slope')}; f(x_B): "
        f"{first('first_task')}; A's answer f(x_A): {first('first_copied')}, a number near it: "
        f"{first(near)}.{ended}"
    )


def _verdicts(claims: Sequence[Claim]) -> str:
    by_verdict = {
        verdict: [claim.name.replace("_", " ") for claim in claims if claim.verdict is verdict]
        for verdict in (Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDETERMINED)
    }
    told = [f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names]
    return f"Of {count(len(claims), 'claim')} on this model, {'; '.join(told)}."


def notes(bench: Bench, steps: Sequence[Step], *, article: bool) -> tuple[str, ...]:
    """Assumptions and limits that a reader must know to believe the rest."""
    problems = bench.estimation.problems
    place = "the last position" if bench.scissors.at == "last" else "all positions"
    found = [
        f"Problems: {problems.context.functions.stated}; {problems.context.x.shape[1]} pairs, of which a share "
        f"{problems.context.noise} has a random y. Left out are a < 2 and b < 1 where there are others, and problems "
        "in which two of f(x_B), a x_B, f(x_A), a x_A are the same number. x_B is drawn from what A neither shows "
        "nor asks.",
        "Layers to cut, and heads to list, are picked on one half of the problems; everything shown is measured "
        "on the "
        "other. Bounds are 95% over problems, one number at a time; they are not corrected for the number of layers.",
        f"Carries: the probability of an answer, minus that of the same patch from A with shuffled labels and minus "
        f"that from A about another function, exceeds {MARGIN} by its lower bound, paired by problem. A's answer "
        f"remains while it surely has more than {KEPT_SHARE:.0%} of its clean probability. A head matters if its cut "
        f"surely lowers the answer's logit by {MATTERS_LOGITS}; it is a backup if it surely grew by {GREW_SHARE} "
        "of its "
        f"attention or {GREW_LOGITS} logits. A later layer that reads the same again is no backup.",
        "What grows is judged by that margin alone, not against what grows on label-shuffled prompts or under other "
        "cuts: part of it may be what any cut does to later attention.",
        f"Cut: all heads named, by {bench.scissors.by}, at {place} of A. Heads that matter, and "
        "sets of them, are "
        "cut at the same positions by their mean over label-shuffled prompts; self-repair is measured with zero.",
        "Direct effects hold the norms' scales fixed at their clean values. A head whose direct effect is near zero, "
        "as that of early heads is, has no self-repair to speak of: it is left undefined there.",
        "Parity is judged against another function alone: where a is even, all labels have the parity of b, and "
        "shuffling leaves it. A copied answer has that parity too.",
    ]
    if article:
        found.append(
            "All prompts share the article's twelve pairs: they tell about these pairs, not about functions."
        )
    if bench.estimation.longest_answer > 1:
        found.append(
            "Answers have several tokens. Cuts and patches at the last position hold where the first of them is "
            "predicted; the others read it from there. A mean is taken over all positions unless all prompts are "
            "equally long."
        )
    if unserved := unserved_direct_effects(bench.model):
        found.append(f"No direct effects: {unserved}")
    return (*found, *_of_training(bench.model), *_of_small(steps))


def _of_training(model: Model) -> list[str]:
    if functions_of(model) is None:
        return []
    return [
        "This model was trained on nothing but such pairs. Of the zoo's models of that language, linear-8l was "
        "trained "
        "to have redundant layers and to carry the task before its layers 4 and 5: there the study finds what "
        "was put "
        "there, as a positive control. linear-4l was trained on noisy pairs, towards the exact posterior. Both "
        "prove the "
        "tool, not the claim about large models."
    ]


def _of_small(steps: Sequence[Step]) -> list[str]:
    fewest = min((len(step.controls) for step in steps[1:]), default=1)
    return (
        [] if fewest else ["No other cut of the same size exists beside some cut: it has no random control."]
    )
