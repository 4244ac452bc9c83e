"""What the study of redundancy asks of a model: stages (studies.forecasts), counted as if all rounds are made."""

from headscope.models.model import Model
from headscope.studies.forecasts import Stage
from headscope.studies.gate import gate_stage
from headscope.studies.pair_lengths import PairLengths
from headscope.studies.redundancy.experiment import RedundancySettings
from headscope.tasks.linear import functions_of
from headscope.tasks.source_and_target import ANSWERS, CONTROLS

_HOST_SECONDS = 1.2


def stages(settings: RedundancySettings, model: Model) -> list[Stage]:
    """In the order of the questions."""
    length, n, layers = PairLengths.of(settings, model), settings.n, model.n_layers
    whole, alone, middle = length.answered(length.pairs), length.answered(0), (layers + 1) / (2 * layers)
    kinds = 1 + len(CONTROLS)
    times = 2 * (settings.rounds + 1) + settings.rounds * settings.random_sets
    cells, decoded = kinds * times * (layers + 1), 0 if functions_of(model) else length.answer + 1
    return [
        gate_stage(settings, model),
        Stage("patching: sources", n, whole, whole=(kinds + 2) * times),
        Stage("patching: targets", n * len(ANSWERS), alone, cells=cells, share=middle, passes=2 * kinds * times),
        Stage("patching: numbers", n, alone, cells=2 * cells, share=middle, decoded=decoded * cells),
        Stage("ablating single heads", 2 * n, whole, cells=len(model.heads), share=middle, passes=1, whole=1),
        Stage("self-repair", 2 * n, whole, whole=2 * (settings.rounds + 2)),
        Stage("ablating sets", n, whole, cells=2**settings.top_heads, share=middle, passes=1),
        Stage("attention to examples", n, whole, passes=3),
        Stage("bounds and figures", host_seconds=_HOST_SECONDS),
    ]
