"""What an intervention acts on: heads, whole layers, or sites of the residual stream, in one small value.

A head is its slice of `z`, the input of the output projection; a layer given by its number alone means
all heads of that layer. A site named without a layer is a *template* that `hs.grid` fills in; the layer
"all" stands for every layer that has the site.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal, Self

from headscope.errors import BadArgument, OutOfRange, UnservedSite
from headscope.vocabulary import Head, heads_of, site_named, whole_numbers

if TYPE_CHECKING:
    from headscope.models.model import Model

EVERY: Literal["all"] = "all"
BY_HEAD = ("q", "k", "v", "pattern", "z")
_HEADS = re.compile(r"[\d., ]+")


@dataclass(frozen=True)
class Target:
    """A site in a layer (None: a template; "all": every layer that has it), all of it or only some heads.

    At `k` and `v` heads are key/value heads, which several query heads may share.
    """

    site: str
    layer: int | Literal["all"] | None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.heads is not None and self.site not in BY_HEAD:
            raise BadArgument(f"cannot act on heads of {self.site!r}: only {', '.join(BY_HEAD)} are split by head.")

    def __str__(self) -> str:
        if self.heads is not None:
            heads = ",".join(f"{self.layer}.{head}" for head in self.heads)
            return heads if self.site == "z" else f"{self.site}[{heads}]"
        return self.site if self.layer is None else f"{self.site}[{self.layer}]"

    @property
    def place(self) -> tuple[str, int]:
        """Site and layer, once the layer is a number."""
        assert isinstance(self.layer, int)
        return self.site, self.layer

    def within(self, model: "Model") -> "list[Target]":
        """The target in every layer of this model that it means.

        Raises:
            UnservedSite: where a layer has what is meant but does not serve it, or no layer has it.
        """
        if self.layer != EVERY:
            return [self]
        anatomy = model.anatomy
        layers: Iterable[int] = range(model.n_layers)
        if self.site in (*BY_HEAD, "attn_out"):
            layers = anatomy.attending
        elif self.site == "mlp_out":
            # Attention-only layers add nothing else; a layer that is not understood must not pass for one.
            layers = [i for i, layer in enumerate(anatomy.layers) if layer.mlp_term or not layer.complete]
        return [replace(self, layer=layer) for layer in layers]

    def check(self, model: "Model", doing: str) -> None:
        """Raise unless this model has the layer, the heads and the site."""
        if self.layer is None or self.layer == EVERY:
            raise BadArgument(
                f"cannot {doing} {self.site!r} without a layer: write ({self.site!r}, layer), "
                "or fill the layer in with hs.grid."
            )
        if self.site in ("head_out", "logits"):
            raise UnservedSite(
                f"cannot {doing} {self.site!r}: it is computed from what the model has, not part of its forward "
                "pass. Act on 'z' (or on heads) instead."
            )
        model.require_site(self.site, self.layer, edited=True)
        for head in self.heads or ():
            if self.site in ("k", "v"):
                count = model.key_heads(self.layer)
                if not 0 <= head < count:
                    raise OutOfRange.index(doing, "key/value head", head, count, f"layer {self.layer}")
            else:
                model.require_head(Head(self.layer, head), doing)

    def at_site(self, site: str) -> Self:
        """The same layer and heads at another site."""
        return replace(self, site=site)


def merged(targets: Iterable[Target]) -> tuple[Target, ...]:
    """The same targets, none of them twice: heads of one site and layer together, all heads before some."""
    by_place: dict[tuple[str, object], Target] = {}
    for target in targets:
        place = (target.site, target.layer)
        known = by_place.get(place)
        if known is None:
            by_place[place] = target
        elif known.heads is None or target.heads is None:
            by_place[place] = replace(known, heads=None)
        else:
            more = tuple(head for head in target.heads if head not in known.heads)
            by_place[place] = replace(known, heads=(*known.heads, *more))
    return tuple(by_place.values())


TargetLike = (
    Target
    | Head
    | str
    | int
    | tuple[str, int | str | Sequence[int]]
    | Iterable["Head | str | int | Target | tuple[str, int]"]
)


def targets_of(given: TargetLike) -> tuple[Target, ...]:
    """Targets from heads, numbers of layers, sites with their layers, or a mixture of them.

    >>> targets_of([Head(1, 0), Head(0, 2), Head(1, 3)])
    (Target(site='z', layer=0, heads=(2,)), Target(site='z', layer=1, heads=(0, 3)))
    >>> targets_of(("resid_pre", [3, 4]))
    (Target(site='resid_pre', layer=3, heads=None), Target(site='resid_pre', layer=4, heads=None))
    >>> targets_of(("v", "all"))
    (Target(site='v', layer='all', heads=None),)

    Two numbers in a tuple are refused: whoever writes (0, 2) may mean head 0.2. Layers are listed: [0, 2].

    Raises:
        BadArgument: for anything else, or an empty list.
    """
    heads: list[Head] = []
    others: list[Target] = []
    for item in _items(given):
        match item:
            case Head():
                heads.append(item)
            case str() if _HEADS.fullmatch(item):
                heads += heads_of(item)
            case _:
                others += _targets_of_one(item)
    by_layer = groupby(sorted(set(heads)), key=lambda head: head.layer)
    whole = [Target("z", layer, tuple(head.index for head in group)) for layer, group in by_layer]
    return (*whole, *others)


def _items(given: object) -> list[object]:
    """What was given, one by one; a site with its layers is one thing."""
    if isinstance(given, tuple) and len(given) == 2 and (pair := whole_numbers(given)):
        layer, head = pair
        raise BadArgument(
            f"cannot tell whether {given!r} is a head or two layers: write Head({layer}, {head}) or '{layer}.{head}' "
            f"for the head, {list(pair)} for all heads of both layers."
        )
    match given:
        case (str(site), layers) if not _HEADS.fullmatch(site) and isinstance(given, tuple):
            if not isinstance(layers, str | Head | Target) or layers == EVERY:
                return [given]
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [given]
    listed = list(given)
    if not listed:
        raise BadArgument("cannot act on an empty list of heads: name at least one, for example Head(1, 4).")
    return listed


def _targets_of_one(item: object) -> list[Target]:
    """Targets of a site, with or without layers, or of all heads of a layer."""
    match item:
        case Target():
            return [item]
        case str():
            return [Target(site_named(item).name, None)]
        case (str(site), str(word)) if word == EVERY:
            return [Target(site_named(site).name, EVERY)]
        case (str(site), given) if layers := whole_numbers(given):
            return [Target(site_named(site).name, layer) for layer in layers]
        case _ if hasattr(item, "__index__") and (layers := whole_numbers(item)):
            return [Target("z", layer) for layer in layers]
    raise BadArgument(f"cannot act on {item!r}: name a head, heads, a layer, or a site and its layer.")
