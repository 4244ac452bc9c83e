"""Freezing: a site keeps what it had in another run of the very same tokens, so that only chosen paths act.

`Freeze` forces what a site had in the clean run, or in a run under other interventions. Two classic designs
are made of it. *Pattern-preserving* ablation freezes all patterns and ablates a head, which leaves out what the
head does to later patterns; *value-preserving* ablation lets the ablation act on patterns alone (Olsson et al.
2022). *Path patching* lets a sender act on chosen receivers only, everything else between them frozen
(Wang et al. 2023, Goldowsky-Dill et al. 2023). In generation the other runs grow with the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from headscope.errors import BadArgument, UnservedSite
from headscope.interventions.base import Intervention, heads_in
from headscope.interventions.references import onto_keys, require_positions, values_at
from headscope.interventions.targets import BY_HEAD, EVERY, Target
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, Footprint, SiteEdit
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions, Rows

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True, eq=False)
class Freeze(Intervention):
    """Force what sites had in another run of these very tokens: the clean one, or one `under` interventions.

    Blocks of `model.editing` around the run do not edit that other run. A pattern looks outside the window of its
    layer only where one of those interventions was asked to.
    """

    under: tuple[Intervention, ...] = field(default=(), kw_only=True)

    @property
    def details(self) -> str:
        return f" under [{'; '.join(map(str, self.under))}]" if self.under else ""

    def footprint(self) -> Footprint:
        return replace(super().footprint(), recompute_each_token=True)

    def rows(self, chosen: Rows) -> Self:
        return replace(self, under=tuple(edit.rows(chosen) for edit in self.under))

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        targets = self._targets_in(model)
        sites = list(dict.fromkeys(target.place for target in targets))
        # A text that grows is another one at every token: there is no use in remembering.
        values = values_at(model, prompts, sites, under=self.under, keep=not prompts.prompt_lengths)
        for site in sites:
            require_positions(values[site], site, prompts)
        return [self._forced(target, values[target.place]) for target in targets]

    def _forced(self, target: Target, value: Tensor) -> SiteEdit:
        def replacement(current: Tensor, layout: Layout) -> Tensor:
            cells = layout.positions(current.shape[1]).clamp(0, value.shape[1] - 1)
            rows = value[torch.arange(len(cells), device=cells.device)[:, None], cells]
            if target.site != "pattern":
                return rows
            wanted = layout.mask(self.positions, current.shape[1])[:, :, None, None]
            return onto_keys(torch.where(wanted, rows, 0), layout, current.shape[3])

        return self.site_edit(target, replacement)


@dataclass(frozen=True, eq=False)
class PathPatch(Intervention):
    """Let `senders` act on the receivers (the targets) directly, and on nothing else.

    Three runs: a clean one; one in which the senders act while every other head's output is frozen to the
    clean run's, from which the receivers' values are taken; and the run itself, in which the receivers get
    those values. MLPs between are `recomputed` (they are part of the direct path) or `frozen` (only the
    residual stream itself carries). A receiver that is a head means its queries, keys and values; keys and values
    that several query heads share are changed for all of them.
    """

    senders: tuple[Intervention, ...] = field(kw_only=True)
    mlps: str = field(default="recomputed", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.senders:
            raise BadArgument("cannot patch a path: it has no sender.")
        frozen(self.mlps)

    def __str__(self) -> str:
        senders = "; ".join(map(str, self.senders))
        where = "" if self.positions == Positions() else f" at {self.positions}"
        mixed = "" if self.strength == 1.0 else f" by {self.strength:g}"
        return f"path_patch [{senders}] -> {' '.join(map(str, self.targets))}{where}, MLPs {self.mlps}{mixed}"

    def footprint(self) -> Footprint:
        return replace(super().footprint(), recompute_each_token=True)

    def rows(self, chosen: Rows) -> Self:
        return replace(self, senders=tuple(edit.rows(chosen) for edit in self.senders))

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        still = [Freeze(_other_heads(self.senders, model))]
        if frozen(self.mlps) and any(layer.mlp_term for layer in model.anatomy.layers):
            still.append(Freeze((Target("mlp_out", EVERY),)))
        receivers = tuple(part for target in self.targets for part in _received(target, model))
        under = (*still, *self.senders)
        return Freeze(receivers, self.positions, strength=self.strength, under=under).prepare(model, prompts)


def frozen(mlps: str) -> bool:
    """Whether MLPs between keep what they had in the clean run: "frozen", or else "recomputed"."""
    if mlps not in ("recomputed", "frozen"):
        raise BadArgument(f"cannot treat MLPs as {mlps!r}: say 'recomputed' or 'frozen'.")
    return mlps == "frozen"


def _received(target: Target, model: "Model") -> list[Target]:
    """A receiving head as its queries, keys and values; any other site as it is."""
    if target.site != "z":
        return [target]
    receivers = []
    for own in target.within(model):
        group = _heads_per_key(model, own)
        receivers.append(own.at_site("q"))
        keys = None if own.heads is None else tuple(sorted({head // group for head in own.heads}))
        receivers += [Target(site, own.layer, keys) for site in ("k", "v")]
    return receivers


def _other_heads(senders: Sequence[Intervention], model: "Model") -> tuple[Target, ...]:
    """Every head but those through which the senders act."""
    targets = [target for sender in senders for given in sender.targets for target in given.within(model)]
    acting = {(target.place[1], head) for target in targets for head in _acting_heads(target, model)}
    others: dict[int, list[int]] = {}
    for head in model.heads:
        if (head.layer, head.index) not in acting:
            others.setdefault(head.layer, []).append(head.index)
    if not others:
        raise UnservedSite("cannot patch a path: the senders act through every head, so there is no other path.")
    return tuple(Target("z", layer, tuple(heads)) for layer, heads in others.items())


def _acting_heads(target: Target, model: "Model") -> Sequence[int]:
    """The query heads whose output a sender changes by itself."""
    if target.site not in BY_HEAD:
        return ()
    if target.heads is None or target.site not in ("k", "v"):
        return heads_in(target, model)
    group = _heads_per_key(model, target)
    return [key * group + index for key in sorted(target.heads) for index in range(group)]


def _heads_per_key(model: "Model", target: Target) -> int:
    """How many query heads share a key/value head in the layer of a target."""
    layer = target.place[1]
    return model.layer(layer).heads // model.key_heads(layer)
