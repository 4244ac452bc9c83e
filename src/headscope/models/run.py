"""What one forward pass gave: the logits and the captured sites, in the shapes that users think in.

Positions are real positions: examples stand at the left, and where they differ in length the cells beyond
an example's end are NaN, so that a statistic which forgets to mask them cannot pass for a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headscope.errors import BadArgument, UnservedSite
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import SITES, site_named

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True, eq=False)
class Run:
    """Logits and captured sites of one forward pass.

    >>> run["pattern", 1]              # doctest: +SKIP
    tensor [batch, head, query, key]
    """

    model: "Model"
    prompts: Prompts
    interventions: tuple[Any, ...]
    logits: Tensor
    captured: Mapping[tuple[str, int], Tensor]

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        """A captured site: `run["pattern", layer]`, `run["embed"]`, `run["logits"]`.

        `head_out` is what leaves the output projection: where a norm or a scale follows it (Gemma 2 and 3, OLMo 2,
        Granite), heads do not sum to `attn_out`, and the certificate says so beside `heads_sum`.

        Raises:
            UnservedSite: if the site was not captured in that layer.
        """
        if isinstance(key, str):
            key = (key, 0) if key in ("embed", "logits") else (key, -1)
        if not (isinstance(key, tuple) and len(key) == 2 and isinstance(key[1], int)):
            raise BadArgument(f"cannot read {key!r} of a run: write run['pattern', layer].")
        site, layer = key
        if site_named(site).per_layer and not 0 <= layer < self.model.n_layers:
            raise BadArgument(
                f"cannot read {site!r} without its layer: write run[{site!r}, layer] with a layer "
                f"from 0 to {self.model.n_layers - 1}."
            )
        if site == "logits":
            return self.logits
        name = "z" if site == "head_out" else site
        if (name, layer) not in self.captured:
            kept = sorted({kept_site for kept_site, _ in self.captured})
            where = f" in layer {layer}" if SITES[site].per_layer else ""
            raise UnservedSite(
                f"cannot read {site!r}{where}: it was not captured. This run captured "
                f"{', '.join(kept) or 'nothing'}; ask with capture=[{site!r}]."
            )
        value = self.captured[name, layer]
        if site == "head_out":
            return torch.einsum("bphd,hdm->bphm", value, self.model.output_matrix(layer))
        return value

    def layers(self, site: str) -> list[int]:
        """The layers in which a site was captured."""
        name = "z" if site == "head_out" else site
        return sorted(layer for kept, layer in self.captured if kept == name)

    def rows(self, chosen: slice | Sequence[int]) -> "Run":
        """The same run for some of its examples."""
        index = list(range(len(self.prompts))[chosen]) if isinstance(chosen, slice) else list(chosen)
        some = self.prompts.rows(chosen)

        def shortened(site: str, value: Tensor) -> Tensor:
            if site == "pattern":
                return value[index][:, :, : some.longest, : some.longest]
            return value[index][:, : some.longest]

        captured = {key: shortened(key[0], value) for key, value in self.captured.items()}
        return replace(self, prompts=some, logits=shortened("logits", self.logits), captured=captured)

    def recipe(self) -> Mapping[str, Any]:
        """What identifies this run, and with it every tensor in it."""
        return {
            "kind": "Run",
            "model": self.model.identity,
            "prompts": self.prompts,
            "interventions": self.interventions,
        }


def blank_padding(site: str, value: Tensor, real: Tensor) -> Tensor:
    """`value` with NaN wherever the cell is padding; `real` is bool [batch, position].

    A pattern's padded queries are blanked; its padded keys are 0 already, being in every query's future.
    """
    shape = (len(real), 1, -1, 1) if site == "pattern" else (*real.shape, *[1] * (value.ndim - 2))
    return value.masked_fill(~real.to(value.device).reshape(shape), float("nan"))
