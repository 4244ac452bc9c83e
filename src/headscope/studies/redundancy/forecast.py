"""What the study of redundancy asks of a model: stages (studies.forecasts), counted as if all rounds are made.

What is ablated at the last position alone is computed again there and nowhere else, and so is what is patched into a
target: most passes through whole prompts are those of sources, in rounds and where growth is read.
"""

from dataclasses import replace

from headscope.models.model import Model
from headscope.studies.forecasts import Stage
from headscope.studies.gate import gate_stage
from headscope.studies.pair_lengths import PairLengths
from headscope.studies.redundancy.experiment import RedundancySettings
from headscope.studies.redundancy.joint_ablation import MOST_LAYERS
from headscope.tasks.linear import functions_of
from headscope.tasks.source_and_target import CONTROLS

_HOST_SECONDS = 1.2
_HALVES = 2


def stages(settings: RedundancySettings, model: Model) -> list[Stage]:
    """In the order of the questions."""
    length, n, layers = PairLengths.of(settings, model), settings.n, model.n_layers
    whole, alone, middle = length.answered(length.pairs), length.answered(0), (layers + 1) / (2 * layers)
    in_text, kinds = functions_of(model) is None, 1 + len(CONTROLS)
    looks = _HALVES * (settings.rounds + 1)
    drawn = settings.rounds * settings.random_sets
    # With number tokens random ablations are patched too.
    patched = looks + (0 if in_text else drawn)
    patches = Stage("patching targets", n, 1, cells=kinds * patched * (layers + 1), share=middle)
    heads = Stage("ablating single heads", _HALVES * n, 1, cells=len(model.heads), share=middle)
    sets = Stage("ablating sets of heads", n, 1, cells=2**settings.top_heads, share=middle)
    before = settings.first_layers * len(model.heads) // layers
    if settings.positions == "all":
        heads, sets = (replace(each, tokens=whole) for each in (heads, sets))
    written = length.answer + 1
    stages = [
        gate_stage(settings, model),
        Stage("sources of every round", n, whole, passes=(1 + kinds) * patched + (drawn if in_text else 0)),
        patches,
        Stage("targets of every round", n, alone, passes=(1 + kinds) * patched),
        Stage("reading sources", _HALVES * n, whole, passes=3),
        heads,
        Stage("heads that form the task", _HALVES * n, whole, passes=1),
        Stage("the same, patched", _HALVES * n, alone, passes=before, cells=before, share=1 / alone),
        Stage("growth", 2 * _HALVES * n, whole, passes=2 * (settings.rounds + 2), cells=settings.rounds + 2, share=0),
        Stage("self-repair", n, whole, passes=1 + settings.top_heads),
        Stage("reading sources for sets", n, whole, passes=3),
        sets,
        Stage("ablating sets of layers", n, alone, passes=2**MOST_LAYERS, cells=2**MOST_LAYERS, share=1 / alone),
        Stage("attention to examples", n, whole, passes=3),
        Stage("bounds and figures", host_seconds=_HOST_SECONDS),
    ]
    if in_text:
        answers = Stage("whole answers", _HALVES * 2 * n, written, cells=layers + 1, share=middle, read=length.answer)
        writing = Stage("written answers", n, whole, whole=kinds, decoded=(kinds + 1) * written)
        return [*stages[:4], answers, writing, *stages[4:]]
    return stages
