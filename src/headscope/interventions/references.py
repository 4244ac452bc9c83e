"""Values that other runs had at a site, and their way into the run that is under way.

In: prompts whose run is asked for a site (the reference of a mean, the source of a patch). Out: tensors in
positions, computed once per model and kept; and the lookup that puts them at the cells of a forward pass,
whose keys may be padded on the left or, in a cache, be only the last few.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.errors import UnservedSite
from headscope.hashing import digest
from headscope.models.layout import Layout
from headscope.models.protocols import Edit
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions

if TYPE_CHECKING:
    from headscope.models.model import Model

Sites = Sequence[tuple[str, int]]
_PARTS = 8  # into which the memory goes: captures of a run take one


def values_at(
    model: "Model", prompts: Prompts, sites: Sites, *, under: Sequence[Edit] = (), keep: bool = True
) -> Mapping[tuple[str, int], Tensor]:
    """Sites of a run of these prompts under interventions: [batch, position, ...], padding arbitrary.

    Patterns come with their queries second, [batch, query, head, key], as they are edited. `keep` remembers
    them with the model, and with one layer those around it, so that more may come back than was asked for. Bare ids
    that look padded warn, as where they are run.
    """

    def compute(asked: Sites = sites) -> Mapping[tuple[str, int], Tensor]:
        given = model.prompts(prompts.tokens) if prompts.bare else prompts
        captured = model.activations(given, asked, interventions=under)
        return {place: by_cell(place[0], value) for place, value in captured.items()}

    if not keep:
        return compute()
    # Whoever asks for one layer asks for the next, and a run gives all.
    asked = _with_neighbours(model, prompts, *sites[0]) if len(sites) == 1 else sites
    key = f"activations {digest((tuple(asked), prompts, tuple(under)))}"
    return model.cached(key, lambda: compute(asked))  # type: ignore[no-any-return]


def mean_at(model: "Model", prompts: Prompts, site: str, layer: int, *, per_position: bool = False) -> Tensor:
    """Mean of a site over all real positions of a run of these prompts, without their axes.

    `per_position` keeps that of positions: the mean is over the prompts that reach each, [position, ...].
    Those of all layers are made at once and kept.
    """
    model.require_site(site, layer)
    over = (0,) if per_position else (0, 1)

    def compute() -> Mapping[tuple[str, int], Tensor]:
        given = model.prompts(prompts.tokens) if prompts.bare else prompts
        layers = _served(model, site)
        each_bytes = len(layers) * prompts.longest * _site_bytes(model, site, prompts.longest)
        totals: dict[tuple[str, int], Tensor] = {}
        for rows in model.batches(len(given), bytes_each=each_bytes, share=_PARTS):
            some = given.rows(rows)
            for place, value in model.activations(some, [(site, each) for each in layers]).items():
                real = some.real.to(value.device).reshape(*some.real.shape, *[1] * (value.ndim - 2))
                total = torch.where(real, value, 0).sum(over)
                if per_position:  # prompts of one part may be shorter than those of another
                    total = pad(total, [0, 0] * (total.ndim - 1) + [0, given.longest - len(total)])
                totals[place] = totals[place] + total if place in totals else total
        count = given.real.sum(over)
        return {
            place: total / count.to(total.device).reshape(*count.shape, *[1] * (total.ndim - count.ndim))
            for place, total in totals.items()
        }

    means: Mapping[tuple[str, int], Tensor] = model.cached(f"means {digest((site, prompts, over))}", compute)
    return means[site, layer]


def _served(model: "Model", site: str) -> list[int]:
    return [each for each in range(model.n_layers) if model.why_not(site, each) is None]


def _site_bytes(model: "Model", site: str, longest: int) -> int:
    """At most what one position of a site takes in one layer."""
    heads = max(each.heads for each in model.anatomy.layers)
    widest = max(model.d_model, *(each.heads * each.head_dim for each in model.anatomy.layers))
    return (heads * longest if site == "pattern" else widest) * model.dtype.itemsize


def _with_neighbours(model: "Model", prompts: Prompts, site: str, layer: int) -> list[tuple[str, int]]:
    """This layer and as many around it as can be kept together: the same ones for each of them."""
    layers = _served(model, site)
    if layer not in layers:
        return [(site, layer)]  # refused where it is run, by its own name
    each_bytes = len(prompts) * prompts.longest * _site_bytes(model, site, prompts.longest)
    many = model.at_once(each_bytes, share=2 * _PARTS)
    first = layers.index(layer) // many * many
    return [(site, each) for each in layers[first : first + many]]


def by_cell(site: str, value: Tensor) -> Tensor:
    """A site with positions as its second axis."""
    return value.transpose(1, 2) if site == "pattern" else value


def require_positions(value: Tensor, site: tuple[str, int], prompts: Prompts) -> None:
    """Raise UnservedSite unless a value has a row for every position: some models attend over something else."""
    if value.shape[1] < prompts.longest:
        raise UnservedSite(
            f"cannot take {site[0]!r} of layer {site[1]}: it has {value.shape[1]} rows for {prompts.longest} tokens, "
            "so its rows are not positions. Act on another site."
        )


def onto_keys(rows: Tensor, layout: Layout, keys: int) -> Tensor:
    """Pattern rows over positions, [batch, cell, head, position], as rows over the `keys` cells at hand.

    Raises:
        UnservedSite: if a row attends to a key that a windowed cache has dropped.
    """
    positions = layout.positions(keys)
    known = (positions >= 0) & (positions < rows.shape[3])
    index = positions.clamp(0, rows.shape[3] - 1)[:, None, None].expand(*rows.shape[:3], keys)
    placed = torch.where(known[:, None, None], rows.expand(len(index), -1, -1, -1).gather(3, index), 0)
    # Only a cache can drop keys; asking the device elsewhere would make it wait for nothing.
    if layout.growing and bool((rows.sum(-1) - placed.sum(-1) > 1e-3).any()):
        raise layout.dropped("attend to a position")
    return placed


def extent(prompts: Prompts, positions: Positions) -> tuple[int, int]:
    """The first and the last position of any example on the prompts themselves; (longest, -1): there is none."""
    if positions.role is not None:
        marked = [position for example in prompts.roles[positions.role] for position in example]
    elif positions.indices is None:
        return 0, prompts.longest - 1
    else:
        reached = [i if i >= 0 else end + i for i in positions.indices for end in set(prompts.ends)]
        marked = [i for i in reached if i < prompts.longest]
    return min(marked, default=prompts.longest), max(marked, default=-1)
