"""Heads and layers as they are written in a setting, and sets of heads as a table names them.

In: text such as "10,11" (all heads of these layers) or "10.5 10.7 13.6". Out: heads; and the other way round, where
all heads of some layers are named by their layers. Not done here: what is done to them (interventions).
"""

import re
from collections.abc import Collection, Iterable, Sequence

from headscope.errors import BadArgument
from headscope.models.model import Model
from headscope.vocabulary import Head


def parse_heads(text: str) -> tuple[int | Head, ...]:
    """Layers and heads as they are written, in their order.

    >>> parse_heads("10, 11"), parse_heads("0.1 1.2")
    ((10, 11), (Head(0, 1), Head(1, 2)))

    Raises:
        BadArgument: for anything else, or nothing.
    """
    words = re.split(r"[\s,]+", text.strip()) if isinstance(text, str) else [""]
    if not all(re.fullmatch(r"\d+(\.\d+)?", word) for word in words):
        raise BadArgument(f"cannot read heads from {text!r}: write layers (10,11) or heads (10.5 10.7), from 0.")
    return tuple(Head.parse(word) if "." in word else int(word) for word in words)


def heads_among(model: Model, named: Iterable[int | Head]) -> tuple[Head, ...]:
    """The heads that are named, a layer standing for all of its own.

    Raises:
        OutOfRange: for a layer or a head that the model does not have.
        BadArgument: for a layer without heads.
    """
    heads: dict[Head, None] = {}
    for each in named:
        if isinstance(each, Head):
            model.require_head(each, "ablate")
            heads[each] = None
            continue
        own = [Head(each, index) for index in range(model.layer(each, "ablate the heads of a layer").heads)]
        if not own:
            raise BadArgument(f"cannot ablate layer {each}: it has no heads.")
        heads |= dict.fromkeys(own)
    return tuple(heads)


def whole_layers(model: Model, heads: Collection[Head]) -> tuple[int, ...] | None:
    """The layers that these heads are all heads of; None if they leave out some head of a layer."""
    layers = sorted({head.layer for head in heads})
    every = sum(model.layer(layer).heads for layer in layers)
    return tuple(layers) if every == len(set(heads)) else None


def set_name(model: Model, heads: Sequence[Head]) -> str:
    """A set of heads in words: "nothing", "layers 2, 3", "heads 0.1 1.2"."""
    layers = whole_layers(model, heads)
    if not heads:
        return "nothing"
    if layers is None:
        return f"{'head' if len(heads) == 1 else 'heads'} {' '.join(map(str, heads))}"
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(map(str, layers))}"
