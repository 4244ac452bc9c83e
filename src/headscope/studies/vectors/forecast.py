"""What the study of task vectors asks of a model: stages (studies.forecasts)."""

from headscope.models.model import Model
from headscope.studies.forecasts import Stage
from headscope.studies.gate import gate_stage
from headscope.studies.pair_lengths import PairLengths
from headscope.studies.vectors.problems import VectorsConfig

_HOST_SECONDS = 2.5


def stages(settings: VectorsConfig, model: Model) -> list[Stage]:
    """In the order of the questions."""
    length, n, layers = PairLengths.of(settings, model), settings.n, model.n_layers
    whole, alone, middle = length.answered(length.pairs), length.answered(0), (layers + 1) / (2 * layers)
    sources, end = n // settings.each * settings.sources, length.answer / whole
    drawn = 3 + 2 * settings.random_vectors
    return [
        gate_stage(settings, model),
        Stage("with and without examples", n, whole, whole=2),
        Stage("task vectors", n, whole, passes=6),
        Stage("task vectors: sources", sources, whole, passes=3),
        Stage("patching task vectors", n, alone, cells=22 * layers, share=middle, passes=5),
        Stage("mean outputs of heads", 2 * sources, whole, passes=1),
        Stage("replacing each head", 2 * n, whole, cells=len(model.heads), share=middle * end, passes=1, whole=1),
        Stage("induction scores", n, whole, passes=4),
        Stage("adding function vectors", n, alone, cells=(1 + 2 * drawn) * layers, share=middle, passes=3),
        Stage(
            "the same with shuffled labels", n, whole, cells=(1 + 2 * drawn) * layers, share=middle * end, passes=3
        ),
        Stage("ablating heads", n, whole, cells=2 * (1 + settings.random_sets), share=middle, passes=1, whole=1),
        Stage("bounds and figures", host_seconds=_HOST_SECONDS),
    ]
