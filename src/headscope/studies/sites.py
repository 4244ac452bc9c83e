"""Residual streams and head outputs at some positions of each prompt, read and patched.

In: a model, prompts, sites, positions. Out: float32 values on the model's device, no more prompts being run at a
time than fit into memory; runs and cells to patch the final token.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headscope.hashing import digest
from headscope.interventions import patch
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.models.run import Run
from headscope.sweeps.grid import Cell
from headscope.sweeps.sweep import chunks
from headscope.tasks.functions import Ints
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head

Site = tuple[str, int]


def at_positions(
    model: Model, prompts: Prompts, sites: Sequence[Site], positions: Sequence[Sequence[int]]
) -> dict[Site, Tensor]:
    """Each site at equally many positions of each prompt, counted from 0, [prompt, position, ...]."""
    wanted = torch.tensor([list(each) for each in positions])
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for rows in chunks(model, prompts):
        read = model.activations(prompts.rows(rows), sites)
        at = wanted[rows].to(model.device)
        each = torch.arange(len(at), device=model.device)[:, None]
        for site, part in parts.items():
            part.append(read[site][each, at].float())
    return {site: torch.cat(part) for site, part in parts.items()}


def at_final_token(model: Model, prompts: Prompts, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Each site at the last position of every prompt, [prompt, ...]."""
    read = at_positions(model, prompts, sites, [(length - 1,) for length in prompts.lengths])
    return {site: values[:, 0] for site, values in read.items()}


def stacked(values: Mapping[Site, Tensor]) -> Array:
    """Sites of like shape as one, float64 [site, prompt, ...]."""
    return torch.stack(list(values.values())).double().cpu().numpy()


def residual_sites(model: Model) -> list[Site]:
    """The residual stream before every layer, and after the last.

    Raises:
        UnservedSite: if the model does not serve one of them.
    """
    sites = [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", model.n_layers - 1)]
    for site, layer in sites:
        model.require_site(site, layer)
    return sites


def head_outputs(model: Model, prompts: Prompts) -> dict[int, Tensor]:
    """z of every layer with attention at the final token, float32 [prompt, head, head_dim] by layer."""
    read = at_final_token(model, prompts, [("z", layer) for layer in model.anatomy.attending])
    return {layer: z for (_, layer), z in read.items()}


def through_output(model: Model, z: Mapping[int, Tensor], heads: Sequence[Head]) -> Tensor:
    """What these heads write together: their z through their slices of W_O, summed, float32 [row, model]."""
    rows = len(next(iter(z.values())))
    total = torch.zeros(rows, model.d_model, device=model.device)
    for head in heads:
        total += z[head.layer][:, head.index] @ model.output_matrix(head.layer)[head.index].float()
    return total


def means_by(values: Tensor, function: Ints) -> Tensor:
    """Means over the examples of each function, [function, ...] from [example, ...].

    >>> import numpy as np
    >>> means_by(torch.tensor([[1.0], [3.0], [5.0]]), np.array([0, 0, 1])).tolist()
    [[2.0], [5.0]]
    """
    index = torch.from_numpy(function).to(values.device)
    total = values.new_zeros(int(index.max()) + 1, *values.shape[1:]).index_add_(0, index, values)
    count = torch.bincount(index).reshape(-1, *[1] * (values.ndim - 1))
    return total / count


def final_token_run(model: Model, prompts: Prompts, edits: Sequence[Edit] = ()) -> Run:
    """The residual streams of these prompts at the final token, as if each were nothing else: to patch from."""
    sites = residual_sites(model)
    kept_bytes = 4 * prompts.longest * (len(sites) * model.d_model + model.vocab_size)
    parts: list[dict[Site, Tensor]] = []
    for rows in model.batches(len(prompts), bytes_each=kept_bytes):
        some = prompts.rows(rows)
        with model.batch_rows(rows):
            run = model.run(some, interventions=[edit.rows(rows) for edit in edits], capture=sites)
        last = torch.tensor(some.lengths) - 1
        parts.append({site: run[site][torch.arange(len(some)), last][:, None] for site in sites})
    captured = {site: torch.cat([part[site] for part in parts]) for site in sites}
    # They are told from others by all of their tokens, not by the last alone.
    made_by = {"task": "final token", "of": digest(prompts)}
    tokens = Prompts(tuple((example[-1],) for example in prompts.tokens), made_by=made_by)
    return Run(model, tokens, tuple(edits), torch.empty(len(prompts), 1, 0), captured)


def residual_patches(model: Model, source: Run) -> list[Cell]:
    """One cell for each of `residual_sites`: it is patched from the source's final token into the target's."""
    sites = enumerate(residual_sites(model))
    return [Cell((patch(site, source=source, positions={-1: -1}),), layer=layer) for layer, site in sites]
