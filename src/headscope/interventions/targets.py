"""What an intervention acts on: heads, whole layers, or sites of the stream, in one small value.

A head is its slice of `z`, the input of the output projection; a layer given by its number alone means
all heads of that layer. A site named without a layer is a *template* that `hs.grid` fills in.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from headscope.errors import BadArgument, UnservedSite
from headscope.vocabulary import Head, site_named

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True)
class Target:
    """A site in a layer, all of it or only some heads; `layer` is None in a template."""

    site: str
    layer: int | None
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.heads is not None:
            return ",".join(f"{self.layer}.{head}" for head in self.heads)
        return self.site if self.layer is None else f"{self.site}[{self.layer}]"

    def check(self, model: "Model", doing: str) -> None:
        """Raise unless this model has the layer, the heads and the site."""
        if self.layer is None:
            raise BadArgument(
                f"cannot {doing} {self.site!r} without a layer: write ({self.site!r}, layer), "
                "or fill the layer in with hs.grid."
            )
        if self.site in ("head_out", "logits"):
            raise UnservedSite(
                f"cannot {doing} {self.site!r}: it is computed from what the model has, not part of its forward "
                "pass. Act on 'z' (or on heads) instead."
            )
        model.require_site(self.site, self.layer)
        for head in self.heads or ():
            model.require_head(Head(self.layer, head), doing)


TargetLike = Target | Head | str | int | tuple[str, int] | Iterable[Head | str]


def targets_of(given: TargetLike) -> tuple[Target, ...]:
    """Targets from a head, heads, a layer's number, a site's name, or a site and its layer.

    >>> targets_of([Head(1, 0), Head(0, 2), Head(1, 3)])
    (Target(site='z', layer=0, heads=(2,)), Target(site='z', layer=1, heads=(0, 3)))
    >>> targets_of(("resid_pre", 3))
    (Target(site='resid_pre', layer=3, heads=None),)

    Raises:
        BadArgument: for anything else, or an empty list of heads.
    """
    if isinstance(given, Target):
        return (given,)
    if isinstance(given, bool):
        raise BadArgument(f"cannot act on {given!r}: name a head, heads, a layer, or a site and its layer.")
    if isinstance(given, int):
        return (Target("z", given),)
    if (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[0], str)
        and isinstance(given[1], int)
    ):
        return (Target(site_named(given[0]).name, given[1]),)
    if isinstance(given, str) and not re.fullmatch(r"[\d., ]+", given):
        return (Target(site_named(given).name, None),)
    if isinstance(given, str):
        return _of_heads([Head.parse(part) for part in given.split(",")])
    if isinstance(given, Head):
        return _of_heads([given])
    if isinstance(given, Iterable):
        listed = list(given)
        if all(isinstance(head, Head | str) for head in listed):
            return _of_heads([head if isinstance(head, Head) else Head.parse(head) for head in listed])
    raise BadArgument(f"cannot act on {given!r}: name a head, heads, a layer, or a site and its layer.")


def _of_heads(heads: list[Head]) -> tuple[Target, ...]:
    if not heads:
        raise BadArgument("cannot act on an empty list of heads: name at least one, for example Head(1, 4).")
    by_layer = groupby(sorted(set(heads)), key=lambda head: head.layer)
    return tuple(Target("z", layer, tuple(head.index for head in group)) for layer, group in by_layer)
