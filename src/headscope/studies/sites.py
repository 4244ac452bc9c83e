"""Sites of a model at some positions of each prompt: what studies read of streams and head outputs.

In: a model, prompts, sites, positions. Out: float32 values on the model's device; no more prompts run at a time than
fit into memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.models.model import Model
from headscope.sweeps.sweep import chunks
from headscope.tasks.prompts import Prompts

Site = tuple[str, int]


def at_positions(
    model: Model, prompts: Prompts, sites: Sequence[Site], positions: Sequence[Sequence[int]]
) -> dict[Site, Tensor]:
    """Each site at equally many positions of each prompt, counted from 0, [prompt, position, ...]."""
    wanted = torch.tensor([list(each) for each in positions])
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for rows in chunks(model, prompts):
        found = model.activations(prompts.rows(rows), sites)
        at = wanted[rows].to(model.device)
        each = torch.arange(len(at), device=model.device)[:, None]
        for site, part in parts.items():
            part.append(found[site][each, at].float())
    return {site: torch.cat(part) for site, part in parts.items()}


def at_readout(model: Model, prompts: Prompts, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Each site at the last position of every prompt, [prompt, ...]."""
    found = at_positions(model, prompts, sites, [(length - 1,) for length in prompts.lengths])
    return {site: values[:, 0] for site, values in found.items()}
