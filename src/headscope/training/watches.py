"""What is watched while a model trains, by language, and how its card tells it.

In: a language. Out: a `Watch`: how its fixed probes are made, what is measured on them, and which of those
numbers a card reports, with their meanings. A new language brings its own and is entered here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headscope.tasks.language import Language, name_of
from headscope.training import evaluation, pair_evaluation
from headscope.training.milestone import Milestone


@dataclass(frozen=True)
class Watch:
    """How a model of one language is evaluated.

    `probes(language, seed)` makes the fixed sequences, `measure(model, probes)` gives the fields that `row` has
    beyond those of `Milestone`. For the card: `meanings` of its metrics, the `heads` named beside them, the
    `history` columns, and `curves`, lists with one number per shot.
    """

    row: type[Milestone]
    probes: Callable[[Any, int], Any]
    measure: Callable[[Any, Any], dict[str, Any]]
    meanings: Mapping[str, str]
    history: tuple[str, ...]
    heads: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()


WATCHES: dict[str, Watch] = {
    "phrases": Watch(
        row=evaluation.Evaluation,
        probes=evaluation.Probes.of,
        measure=evaluation.measure,
        meanings=evaluation.MEANINGS,
        history=evaluation.HISTORY,
        heads=("prefix_matching_head", "previous_token_head"),
    ),
    "pairs": Watch(
        row=pair_evaluation.PairEvaluation,
        probes=pair_evaluation.PairProbes.of,
        measure=pair_evaluation.measure,
        meanings=pair_evaluation.MEANINGS,
        history=pair_evaluation.HISTORY,
        curves=("p_correct_by_shot", "p_exact_by_shot"),
    ),
}


def watch(language: Language) -> Watch:
    """What is watched in a model of this language."""
    return WATCHES[name_of(language)]
