"""What the parts of the Bayes study read off a model: log-odds of answers, streams at the read-out, attention.

In: a model and prompts of pairs. Out: numpy arrays, one value or vector per prompt. Log-odds are those of the
whole answer, all its tokens together, so that models of number tokens and of text are asked alike; `stream`
number l is the residual stream before layer l, the last one the final stream.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.measures import joint_log_probability
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.models.model import Model
from headscope.studies import sites as sites_at
from headscope.studies.bayes_parts.problems import with_role
from headscope.sweeps import Cell, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, staged

Progress = Callable[[str, int, int], None]

# Log-odds of the answer that the examples must add before anything is said of how they do it, in nats.
LEAST_RISE_NATS = 0.5


def answer_log_odds(model: Model, prompts: Prompts) -> Array:
    """Log-odds of each prompt's whole answer, in nats, [prompt]."""
    (found,) = evaluate(model, prompts.answered(), [joint_log_probability()])
    return log_odds(found).numpy()


def log_odds_under(
    model: Model, prompts: Prompts, cells: Sequence[Cell], stage: str, progress: Progress
) -> Array:
    """The same under the interventions of every cell, [cell, prompt]."""
    found = cell_values(
        model, prompts.answered(), cells, joint_log_probability(), progress=staged(progress, stage)
    )
    return log_odds(found).numpy()


def stream_sites(model: Model) -> list[tuple[str, int]]:
    """The residual stream before every layer, and after the last.

    Raises:
        UnservedSite: if the model does not serve one of them.
    """
    last = model.n_layers - 1
    sites = [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", last)]
    for site, layer in sites:
        model.require_site(site, layer)
    return sites


def at_readout(model: Model, prompts: Prompts, sites: Sequence[sites_at.Site]) -> Array:
    """Sites of the stream at the read-out, float64 [site, prompt, model]."""
    return _stacked(sites_at.at_readout(model, prompts, sites))


def at_positions(
    model: Model, prompts: Prompts, sites: Sequence[sites_at.Site], positions: Sequence[Sequence[int]]
) -> Array:
    """Sites of the stream at equally many positions of each prompt, float64 [site, prompt, position, model]."""
    return _stacked(sites_at.at_positions(model, prompts, sites, positions))


def _stacked(found: Mapping[sites_at.Site, torch.Tensor]) -> Array:
    return torch.stack(list(found.values())).double().cpu().numpy()


def attention_on(model: Model, prompts: Prompts, keys: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Attention of the read-out on `keys` of each prompt: [prompt, head] as in `model.heads`.

    And the same for a head that spreads evenly over all it may see.
    """
    shown = with_role(prompts, "keys", keys)
    queries = shown.where("readout")
    reading = MassReading([KeySets(queries[:, :, None] & shown.where("keys")[:, None, :], queries)])
    model.read(shown, [reading])
    mass = [reading.mass[head.layer][0, :, head.index] for head in model.heads]
    even = [reading.uniform[head.layer][0] for head in model.heads]
    return torch.stack(mass, 1).double().numpy(), torch.stack(even, 1).double().numpy()


def looking_at_labels(model: Model, prompts: Prompts, margin: float) -> tuple[Head, ...]:
    """The heads whose attention from the read-out on all shown y exceeds even attention by `margin` on average.

    They look from example to example: from where an answer is due to earlier answers.
    """
    mass, even = attention_on(model, prompts, prompts.roles["y"])
    beyond = np.mean(mass - even, axis=0)
    return tuple(head for head, more in zip(model.heads, beyond.tolist(), strict=True) if more > margin)
