"""What the redundancy study costs, stage by stage, in token-passes: one token through all layers of the model.

In: settings, tokens of a source and of a target prompt, layers, heads. Out: passes by stage, for a forecast before
anything runs. A token that is computed again from a layer on counts as the share of layers that are left, and what is
read of it (the unembedding) as `READ` more. Counted for text; attention patterns and direct effects as one pass more.
"""

from headscope.studies.redundancy.experiment import RedundancySettings

READ = 0.2
_KINDS, _HALVES, _SETS_OF_LAYERS = 3, 2, 2**6 - 1


def costs(settings: RedundancySettings, *, source: int, target: int, layers: int, heads: int) -> dict[str, float]:
    """Token-passes by stage, at most: as many rounds as are allowed, and every set of layers.

    >>> each = costs(RedundancySettings(n=16), source=48, target=4, layers=30, heads=270)
    >>> {stage: round(passes) for stage, passes in each.items()}["single heads"]
    7584
    """
    n, rounds = settings.n, settings.rounds + 1
    resumed = 0.5 + READ
    patched = _KINDS * _HALVES * n * (source + target + (layers + 1) * resumed) + _HALVES * n * source
    growing = 2 * _HALVES * n * 2 * source
    return {
        "rounds": rounds * patched,
        "random ablations": settings.rounds * settings.random_sets * n * source,
        "whole answers": 4 * n * source,
        "single heads": _HALVES * n * (source + heads * resumed),
        "growth": (rounds + 1) * growing,
        "self-repair": settings.top_heads * n * source,
        "sets of heads": n * (source + (2**settings.top_heads - 1) * resumed),
        "sets of layers": n * (source + _SETS_OF_LAYERS * (0.5 + target)),
        "heads that form the task": _HALVES * n * (source + settings.first_layers * heads / layers * (0.5 + target)),
    }
