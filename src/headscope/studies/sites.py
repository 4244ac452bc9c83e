"""Sites of a model at some positions of each prompt: what studies read of streams and head outputs.

In: a model, prompts, sites, positions. Out: float32 values on the model's device; no more prompts run at a time than
fit into memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.models.run import Run
from headscope.sweeps.execute import chunks
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


def residual_sites(model: Model) -> list[tuple[str, int]]:
    """The sites that are patched: the residual stream before each layer, then the final one."""
    return [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", model.n_layers - 1)]


def last_position_run(model: Model, prompts: Prompts, edits: Sequence[Edit]) -> Run:
    """The residual streams of these prompts at the last position, as if each were its last token: to patch from."""
    sites = residual_sites(model)
    kept_bytes = 4 * prompts.longest * (len(sites) * model.d_model + model.vocab_size)
    step = max(1, model.memory_bytes // kept_bytes)
    parts: list[dict[tuple[str, int], Tensor]] = []
    for start in range(0, len(prompts), step):
        rows = slice(start, min(start + step, len(prompts)))
        some = prompts.rows(rows)
        with model.taking(rows):
            run = model.run(some, interventions=[edit.rows(rows) for edit in edits], capture=sites)
        last = torch.tensor(some.lengths) - 1
        parts.append({site: run[site][torch.arange(len(some)), last][:, None] for site in sites})
    captured = {site: torch.cat([part[site] for part in parts]) for site in sites}
    tokens = Prompts(tuple((example[-1],) for example in prompts.tokens))
    return Run(model, tokens, tuple(edits), torch.empty(len(prompts), 1, 0), captured)
