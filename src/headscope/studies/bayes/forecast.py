"""What the study of Bayesian updates asks of a model: one stage or more for each question, in their order.

In: settings and a model. Out: stages (studies.forecasts). Counted as if heads of every kind are named, since that is
not known before; where fewer are, the study takes less. Shares: a cell in layer l runs the layers from l on, and from
its first edited position on.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from headscope.models.model import Model
from headscope.studies.bayes.additive_features import MOST_FUNCTIONS
from headscope.studies.bayes.attention_knockout import MOST_DOSES
from headscope.studies.bayes.confidence import MOST_EXAMPLES
from headscope.studies.bayes.increments import MOST_INCREMENTS
from headscope.studies.bayes.mlp_ablation import FEWEST_REFERENCES
from headscope.studies.bayes.pair_heads import STATED
from headscope.studies.bayes.problems import BayesSettings, Problems, prompts_each
from headscope.studies.bayes.update_mediation import LAST
from headscope.studies.bayes.vector_effects import QUERIES, RANDOM_DIRECTIONS
from headscope.studies.bayes.x_probe import SHOTS
from headscope.studies.forecasts import Stage, checked
from headscope.studies.gate import gate_stage
from headscope.studies.pair_lengths import PairLengths
from headscope.tasks.linear import functions_of

_SWAPPED = 10  # a, b, x and parity read two answers each, the number of shots and whether there are any, one
# Bounds, curve fits, figures on one core: in any case, and for each prompt of the curve, layer and head.
_HOST_SECONDS, _OF_PROMPT, _OF_LAYER, _OF_HEAD = 1.7, 0.02, 0.45, 0.03


def stages(settings: BayesSettings, model: Model) -> list[Stage]:
    """In the order of the questions; bounds and figures last."""
    length, n, each = PairLengths.of(settings, model), settings.n, prompts_each(settings)
    host = _HOST_SECONDS + n * _OF_PROMPT + model.n_layers * _OF_LAYER + len(model.heads) * _OF_HEAD
    whole, middle = length.answered(length.pairs), (model.n_layers + 1) / (2 * model.n_layers)
    return [
        gate_stage(settings, model),
        *_curve(length, n, functions_of(model) is not None),
        Stage("the same examples in another order", n, length.answered(length.pairs * 0.7), whole=6),
        *_pair_heads(settings, model, length, middle),
        *_additive_features(settings, model, length, each, middle),
        Stage(
            "attention on labels", 2 * each, _mean(length, _powers(length.pairs)), passes=len(_powers(length.pairs))
        ),
        *_attention_knockout(length, each, whole),
        Stage("probing x", 4 * each, length.asked(min(SHOTS, length.pairs)), passes=2),
        *_mlp_ablation(model, length, each, middle),
        *_confidence(length, each),
        *_update_mediation(length, each),
        *_variables(model, length, each, middle),
        Stage("bounds, fits and figures", host_seconds=host),
    ]


def _curve(length: PairLengths, n: int, at_once: bool) -> Iterator[Stage]:
    yield Stage("reading the curve", n, length.asked(length.pairs), whole=2 if at_once else 1)
    if not at_once:  # shuffled labels are wrong, so that every number of pairs is a prompt of its own
        counts = range(length.pairs + 1)
        yield Stage("the curve with shuffled labels", n, _mean(length, counts, answered=True), whole=len(counts))


def _pair_heads(settings: BayesSettings, model: Model, length: PairLengths, middle: float) -> Iterator[Stage]:
    n, groups = settings.n, len(STATED) + 1
    tokens = length.answered(length.pairs)
    yield Stage("heads of pairs", n, length.asked(length.pairs), passes=2)
    cells = groups * (1 + settings.random_sets)
    sweep = Stage(
        "ablating heads of pairs", n // 2, tokens, cells=cells, share=middle, read=length.answer, passes=1, whole=1
    )
    yield from (sweep, checked(sweep))
    yield Stage("curves without heads", n // 2, length.asked(length.pairs), whole=groups + 2)


def _additive_features(
    settings: BayesSettings, model: Model, length: PairLengths, each: int, middle: float
) -> Iterator[Stage]:
    functions = 2 * (min(MOST_FUNCTIONS, 10 + each // 10, len(Problems.of(settings, model).choices)) // 2)
    prompts, most = 2 * max(4, each // 8), min(MOST_INCREMENTS, length.pairs)
    counts = [count for n in range(1, most + 1) for count in (n, n - 1)]
    yield Stage("increments", functions * prompts, _mean(length, counts), passes=2 * len(counts))
    cells = model.n_layers * (most + 1) * (3 + RANDOM_DIRECTIONS)
    alone = length.answered(0)
    share = middle * length.answer / alone
    added = Stage("adding increments", QUERIES, alone, cells=cells, share=share, read=length.answer, passes=4)
    yield from (replace(added, times=functions), checked(added))
    doses = range(most + 1)
    yield Stage("real examples", functions * QUERIES, _mean(length, doses, answered=True), whole=len(doses))


def _attention_knockout(length: PairLengths, each: int, whole: float) -> Iterator[Stage]:
    doses = min(length.pairs, MOST_DOSES)
    yield Stage("heads that read labels", each, length.asked(length.pairs), passes=1)
    yield Stage("examples removed", each, length.answered(length.pairs / 2), whole=doses + 1)
    yield Stage("clean", each, whole, whole=1)
    hidden = Stage("examples hidden", each, whole, cells=doses, read=length.answer, passes=1)
    at_end = Stage(
        "examples hidden at the end",
        each,
        whole,
        cells=2 * doses,
        share=length.answer / whole,
        read=length.answer,
        passes=2,
    )
    yield from (hidden, checked(hidden), at_end, checked(at_end))


def _mlp_ablation(model: Model, length: PairLengths, each: int, middle: float) -> Iterator[Stage]:
    tokens, layers = length.answered(length.pairs), model.n_layers
    end = length.answer / tokens
    yield Stage("means of MLPs and attention", max(each, FEWEST_REFERENCES), length.asked(length.pairs), passes=2)
    yield Stage("clean", each, tokens, whole=1)
    yield Stage("without examples", each, length.answered(0), whole=1)
    one = Stage(
        "ablating single layers",
        each,
        tokens,
        cells=4 * layers,
        share=middle * (1 + end) / 2,
        read=length.answer,
        passes=1,
    )
    every = Stage("ablating all layers", each, tokens, cells=8, share=(3 + end) / 4, read=length.answer)
    yield from (one, every, *(checked(stage) for stage in (one, every) for _ in range(2)))  # MLPs, attention


def _confidence(length: PairLengths, each: int) -> Iterator[Stage]:
    counts = range(min(length.pairs, MOST_EXAMPLES) + 1)
    yield Stage("updates by each example", each, _mean(length, counts, answered=True), whole=len(counts))
    yield Stage("attention output by example", each, _mean(length, counts), passes=len(counts))


def _update_mediation(length: PairLengths, each: int) -> Iterator[Stage]:
    prompts = max(each, FEWEST_REFERENCES)
    for last in (each for each in LAST if each <= length.pairs):
        tokens = length.answered(last)
        yield Stage(f"update by example {last}", prompts, length.answered(last - 0.5), whole=4)
        share = (length.pair + length.asked(0)) / tokens
        moved = Stage(
            f"without MLPs in example {last}", prompts, tokens, cells=6, share=share, read=length.answer, passes=4
        )
        yield from (moved, checked(moved))


def _variables(model: Model, length: PairLengths, each: int, middle: float) -> Iterator[Stage]:
    tokens = length.answered(length.pairs)
    yield Stage("swapping variables: sources", each, length.asked(length.pairs), whole=_SWAPPED)
    yield Stage("swapping variables: answers", each, tokens, whole=2 * _SWAPPED)
    patched = Stage(
        "swapping variables",
        each,
        tokens,
        cells=_SWAPPED * (model.n_layers + 1),
        share=middle * length.answer / tokens,
        read=length.answer,
        passes=_SWAPPED,
        whole=_SWAPPED,  # the final residual stream is one of its kind, and not worth a check
    )
    yield from (patched, checked(patched))


def _powers(pairs: int) -> list[int]:
    """1, 2, 4, ... and all pairs, as attention on labels is read."""
    return [*(2**power for power in range(pairs.bit_length()) if 2**power < pairs), pairs]


def _mean(length: PairLengths, counts: range | list[int], *, answered: bool = False) -> float:
    """Mean tokens over prompts with so many pairs."""
    return float(np.mean([length.answered(n) if answered else length.asked(n) for n in counts]))
