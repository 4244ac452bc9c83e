"""What the vectors study says: claims with their verdicts and the summary, computed from its tables.

Rules are stated once, here. Nothing is judged unless pairs help: the lower bound of few-shot accuracy must exceed
the upper bound of zero-shot accuracy by `MARGIN`. Accuracies are compared problem by problem; a claim is *supported*
if the lower bound of each comparison it needs exceeds its margin at the layer that the other half of the functions
chose, *refuted* if one of them stays under its margin at every layer, and *undetermined* otherwise. Whether task or
answer is carried is judged at the chosen layer alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headscope.measures import Side, side
from headscope.models.model import Model
from headscope.results.study import Claim, Verdict
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
)
from headscope.studies.vectors_parts.tables import (
    BEYOND_SHUFFLED,
    COPIED,
    FOLLOWS_OTHER,
    FUNCTION_SHARE,
    MATTER_MORE,
    NOT_COPIED,
    TASK_SHARE,
    beyond,
    largest,
)
from headscope.studies.words import as_sentences, count, number, undetermined, with_bounds
from headscope.tables import Table

MARGIN = 0.1
"""Accuracy by which a vector must beat its control."""
SHARE = 0.5
"""Share of what pairs add to accuracy that a vector must recover to carry the task."""
COMMON = 0.5
"""From this share of common heads on, two kinds of heads are not different."""
CUT_MARGIN = 0.05
"""Accuracy by which cutting one kind of heads must hurt more."""

Tables = Mapping[str, Table]
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Compared:
    """One comparison: its row at the chosen layer, and its largest upper bound over all layers."""

    row: dict[str, Any]
    highest: float

    @classmethod
    def of(cls, found: Tables, name: str) -> "Compared | None":
        rows = found["comparisons"].rows(comparison=name)
        picked = [row for row in rows if row["picked"]]
        return cls(picked[0], largest(rows, "high")) if picked else None

    def side(self, margin: float) -> Side:
        """Above at the chosen layer, below at all layers, or neither."""
        return side(self.row["low"], self.highest, margin)

    def __str__(self) -> str:
        return with_bounds(self.row, "difference")


def all_claims(found: Tables, n_layers: int) -> tuple[Claim, ...]:
    """The claims of the study, in the order in which a reader asks."""
    claims = (
        _one_vector(found),
        _few_heads(found, n_layers),
        _task_not_answer(found),
        _different_heads(found),
        _matter_more(found),
    )
    return as_sentences(claims)


def pairs_help(found: Tables) -> bool:
    """Whether the model does the task at all: few-shot accuracy clearly above zero-shot accuracy."""
    few, zero = (found["baselines"].rows(prompts_kind=kind)[0] for kind in ("few-shot", "zero-shot"))
    return bool(few["low"] > zero["high"] + MARGIN)


def _nothing_to_carry(found: Tables) -> str:
    few, zero = (found["baselines"].rows(prompts_kind=kind)[0] for kind in ("few-shot", "zero-shot"))
    return (
        f"pairs do not clearly help this model (accuracy {with_bounds(few, 'accuracy')} with them, "
        f"{with_bounds(zero, 'accuracy')} without; margin {MARGIN}), so there is no task to carry."
    )


def _together(sides: Iterable[Side]) -> Verdict:
    """All above: supported; one below: refuted."""
    listed = list(sides)
    if all(one is Side.ABOVE for one in listed):
        return Verdict.SUPPORTED
    return Verdict.REFUTED if Side.BELOW in listed else Verdict.UNDETERMINED


def _one_vector(found: Tables) -> Claim:
    statement = (
        "A single vector carries the task: the stream at the read-out of one prompt, put into a prompt without "
        f"pairs, beats that of a label-shuffled prompt by {MARGIN} and recovers half of what pairs add to accuracy."
    )
    name, evidence = "single_vector", ("task_vectors", "comparisons", "baselines")
    if not pairs_help(found):
        return undetermined(name, statement, _nothing_to_carry(found), *evidence)
    control, share = (Compared.of(found, each) for each in (BEYOND_SHUFFLED, TASK_SHARE))
    assert control is not None
    assert share is not None
    layer = control.row["layer"]
    few, zero = (_accuracy(found["baselines"], prompts_kind=kind) for kind in ("few-shot", "zero-shot"))
    at = {vector: _at(found, "task_vectors", vector, OWN, layer) for vector in (TASK, SHUFFLED, MEAN)}
    (pairs,) = found["baselines"].rows(prompts_kind="few-shot")
    because = (
        f"before layer {layer}, chosen on other functions, accuracy is {at[TASK]} with the vector, {at[SHUFFLED]} "
        f"with that of a label-shuffled prompt (difference {control}) and {at[MEAN]} with the mean over other "
        f"prompts of the function; without a vector it is {zero}, with the pairs themselves {few}. Recovered share: "
        f"{share} (margin {SHARE}). Probability of the answer: {number(_row(found, TASK, layer)['probability'])} "
        f"with the vector, {number(pairs['probability'])} with pairs (the notes say what is attainable)."
    )
    return Claim(name, statement, _together([control.side(MARGIN), share.side(SHARE)]), because, evidence)


def _few_heads(found: Tables, n_layers: int) -> Claim:
    statement = (
        "A few heads carry it: the sum of their mean outputs, added to a prompt without pairs, beats random heads, a "
        f"random direction and another function's vector by {MARGIN} and recovers half of what pairs add to accuracy."
    )
    name, evidence = "few_heads", ("function_vectors", "head_effects", "comparisons", "baselines")
    if not pairs_help(found):
        return undetermined(name, statement, _nothing_to_carry(found), *evidence)
    controls = [
        (control, Compared.of(found, f"{beyond(control)} (zero-shot)"))
        for control in (RANDOM_HEADS, RANDOM_DIRECTION, OTHER_FUNCTION)
    ]
    share = Compared.of(found, f"{FUNCTION_SHARE} (zero-shot)")
    assert share is not None
    judged = [(control, against) for control, against in controls if against is not None]
    verdict = _together([share.side(SHARE), *(against.side(MARGIN) for _, against in judged)])
    if len(judged) < len(controls) and verdict is Verdict.SUPPORTED:
        verdict = Verdict.UNDETERMINED
    layer, third = share.row["layer"], round(n_layers / 3)
    heads = [row for row in found["head_effects"].rows() if "function-vector" in row["picked"]]
    shuffled = Compared.of(found, f"{FUNCTION_SHARE} (label-shuffled)")
    assert shuffled is not None
    because = (
        f"{count(len(heads), 'head')} ({_written(heads)}), added before layer {layer}, chosen on other functions: "
        f"accuracy {_at(found, 'function_vectors', FUNCTION, OWN, layer)}, recovered share {share} (margin {SHARE}); "
        "it beats "
        + ", ".join(f"{control} by {against}" for control, against in judged)
        + f". At a third of the depth (layer {third}): {_at(found, 'function_vectors', FUNCTION, OWN, third)}. On "
        f"label-shuffled prompts the share is {shuffled} before layer {shuffled.row['layer']}."
    )
    return Claim(name, statement, verdict, because, evidence)


def _task_not_answer(found: Tables) -> Claim:
    statement = (
        "What is carried is the task, not the answer: with the task vector the model answers for its own input "
        "rather than for the vector's, and with another function's vector as that function says."
    )
    name, evidence = "task_not_answer", ("task_vectors", "comparisons")
    if not pairs_help(found):
        return undetermined(name, statement, _nothing_to_carry(found), *evidence)
    control, copied, other, copying = (
        Compared.of(found, each) for each in (BEYOND_SHUFFLED, NOT_COPIED, FOLLOWS_OTHER, COPIED)
    )
    assert control is not None
    assert copied is not None
    assert other is not None
    assert copying is not None
    layer, late = copied.row["layer"], copying.row["layer"]
    because = (
        f"before layer {layer} accuracy on f(x) is {_at(found, 'task_vectors', TASK, OWN, layer)}, on the answer of "
        f"the vector's own query {_at(found, 'task_vectors', TASK, DUMMYS, layer)} (difference {copied}); with "
        f"another function's vector it is {_at(found, 'task_vectors', OTHER, OTHERS, layer)} on that function's "
        f"answer and {_at(found, 'task_vectors', OTHER, OWN, layer)} on the first's (difference {other}). "
        f"The vector's own answer is copied most before layer {late}: "
        f"{_at(found, 'task_vectors', TASK, DUMMYS, late)}."
    )
    carried, answer = control.side(MARGIN), side(copying.row["low"], copying.row["high"], MARGIN)
    if carried is Side.ABOVE:
        # What is carried is judged where it is carried, so by this layer alone.
        verdict = _together(side(each.row["low"], each.row["high"], MARGIN) for each in (copied, other))
    elif carried is Side.BELOW and answer is Side.ABOVE:
        verdict, because = Verdict.REFUTED, "no layer carries the task, and the answer is carried: " + because
    else:
        verdict, because = Verdict.UNDETERMINED, "no vector clearly carries anything: " + because
    return Claim(name, statement, verdict, because, evidence)


def _different_heads(found: Tables) -> Claim:
    statement = (
        "Function-vector heads and induction heads are different heads: fewer than half of the top heads of one kind "
        "are top heads of the other."
    )
    name, evidence = "different_heads", ("overlap", "head_effects")
    if not pairs_help(found):
        return undetermined(name, statement, _nothing_to_carry(found), *evidence)
    (row,) = found["overlap"].rows(judged=True)
    missing = _missing_kind(found, row["induction"])
    if missing:
        return undetermined(name, statement, missing, *evidence)
    because = (
        f"{row['common']} of the top {row['top']} are common (random rankings: {number(row['expected'])}; chance of "
        f"at least so many {row['p_at_least']:.3f}), a share that resampling puts between {number(row['share_low'])} "
        f"and {number(row['share_high'])}; over all heads the rank correlation of indirect effect and "
        f"{row['induction']} is {with_bounds(row, 'rho')} (p = {row['p']:.3f}). {_listed_kinds(found)}"
    )
    judged = side(row["share_low"], row["share_high"], COMMON)
    verdict = {Side.BELOW: Verdict.SUPPORTED, Side.ABOVE: Verdict.REFUTED}.get(judged, Verdict.UNDETERMINED)
    return Claim(name, statement, verdict, because, evidence)


def _matter_more(found: Tables) -> Claim:
    statement = (
        "Function-vector heads matter more for few-shot accuracy than induction heads: cut alone, they cost more, by "
        f"{CUT_MARGIN}, and more than as many random heads."
    )
    name, evidence = "matter_more", ("ablations", "comparisons", "head_effects")
    if not pairs_help(found):
        return undetermined(name, statement, _nothing_to_carry(found), *evidence)
    (judged,) = found["overlap"].rows(judged=True)
    missing, more = _missing_kind(found, judged["induction"]), Compared.of(found, MATTER_MORE)
    if missing or more is None:
        return undetermined(
            name, statement, missing or "the top heads of both kinds are the same.", *evidence
        )
    mine, theirs = found["ablations"].rows()
    sides = [more.side(CUT_MARGIN), side(mine["beyond_low"], mine["beyond_high"], 0.0)]
    because = (
        f"cut without the other kind's top heads, {mine['heads']} cost {with_bounds(mine, 'damage')} of accuracy and "
        f"{theirs['heads']} {with_bounds(theirs, 'damage')} (difference {more}, margin {CUT_MARGIN}); "
        f"{mine['random_sets']} random sets of {mine['size']} cost {number(mine['random_mean'])} on average and "
        f"{number(mine['random_max'])} at most (p = {mine['p']:.3f} and {theirs['p']:.3f})."
    )
    return Claim(name, statement, _together(sides), because, evidence)


def _missing_kind(found: Tables, induction: str) -> str:
    """Why the two kinds cannot be compared; empty where at least half of the top heads of each are confirmed."""
    heads, column = found["head_effects"].rows(), f"{induction.replace(' ', '_')}_named"
    mine = [row for row in heads if "function-vector" in row["picked"]]
    theirs = [row for row in heads if "induction" in row["picked"]]
    confirmed = sum(row["low"] > 0 for row in mine)
    if 2 * confirmed < len(mine):
        return (
            f"there are no function-vector heads to speak of: {confirmed} of the top {len(mine)} clearly raise the "
            "answer's probability on functions that did not choose them."
        )
    named = sum(row[column] for row in theirs)
    if not theirs or 2 * named < len(theirs):
        return f"there are no induction heads to speak of: {named} of the top {len(theirs)} by {induction} are named."
    return ""


def _listed_kinds(found: Tables) -> str:
    heads = found["head_effects"].rows()
    kinds = ("function-vector", "induction")
    told = [f"{kind}: {_written([row for row in heads if kind in row['picked']])}" for kind in kinds]
    return f"Top heads, {'; '.join(told)}."


def summary(model: Model, found: Tables, claims: Sequence[Claim]) -> tuple[str, ...]:
    """What a reader should know after ten seconds."""
    few, zero = (found["baselines"].rows(prompts_kind=kind)[0] for kind in ("few-shot", "zero-shot"))
    first = (
        f"On functions that chose no layer and no head, {model.name} answers {with_bounds(few, 'accuracy')} of the "
        f"questions right with pairs and {with_bounds(zero, 'accuracy')} without."
    )
    if pairs_help(found):
        task = Compared.of(found, TASK_SHARE)
        function = Compared.of(found, f"{FUNCTION_SHARE} (zero-shot)")
        assert task is not None
        assert function is not None
        second = (
            f"Of what the pairs add, one prompt's stream recovers {task} (before layer {task.row['layer']}), the sum "
            f"of the top heads' mean outputs {function} (before layer {function.row['layer']})."
        )
    else:
        second = (
            "Pairs do not clearly help it, so there is no task to judge a vector by: nothing was to be found."
        )
    verdicts = [claim.verdict for claim in claims]
    third = (
        f"Of {len(claims)} claims, {verdicts.count(Verdict.SUPPORTED)} are supported, "
        f"{verdicts.count(Verdict.REFUTED)} refuted and {verdicts.count(Verdict.UNDETERMINED)} undetermined "
        "on this model."
    )
    return (first, second, third)


def _at(found: Tables, table: str, vector: str, answer: str, layer: int) -> str:
    """Accuracy with bounds under one vector at one layer, of zero-shot prompts, on the estimation half."""
    where = {
        "half": "estimation",
        "prompts_kind": "zero-shot",
        "vector": vector,
        "answer": answer,
        "layer": layer,
    }
    return _accuracy(found[table], **where)


def _row(found: Tables, vector: str, layer: int) -> dict[str, Any]:
    where = {"half": "estimation", "vector": vector, "answer": OWN, "layer": layer}
    return found["task_vectors"].rows(**where)[0]


def _accuracy(table: Table, **where: object) -> str:
    rows = table.rows(**where)
    return with_bounds(rows[0], "accuracy") if rows else "not measured"


def _written(rows: Rows) -> str:
    return " ".join(f"{row['layer']}.{row['head']}" for row in rows) or "none"
