"""What the redundancy study cuts in A: layers or heads as they are written, and how their outputs are removed.

In: text such as "10,11" (all heads of these layers) or "10.5 10.7 13.6", and three settings. Out: heads, and the
intervention that cuts them: by zero, or by what label-shuffled prompts have there, their mean or one of them at
random. A mean over the same task would contain the task. Where all prompts are equally long, the mean is taken at the
same position; else over all positions of the reference.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

from headscope.errors import BadArgument, UnknownName
from headscope.interventions import Intervention, mean, resample, zero
from headscope.models.model import Model
from headscope.sweeps.controls import random_sets
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import ALL, Head, Positions

At = Literal["last", "all"]
By = Literal["zero", "mean", "resample"]
Heads = tuple[Head, ...]
_MOST_SETS = 5000


@dataclass(frozen=True, eq=False)
class Scissors:
    """How heads are cut: `by` what, `at` which positions of A, with what of the `reference` in their place."""

    by: By
    at: At
    reference: Prompts
    aligned: bool
    seed: int = 0

    def cut(self, heads: Sequence[Head]) -> list[Intervention]:
        """The intervention that cuts these heads together; none for no heads."""
        return [self._of(heads, self.by)] if heads else []

    def by_mean(self) -> Intervention:
        """The template that puts the mean over the reference in place of one head."""
        return self._of("z", "mean")

    def by_zero(self, head: Head) -> Intervention:
        return self._of([head], "zero")

    @property
    def positions(self) -> Positions:
        return Positions.of(-1) if self.at == "last" else ALL

    def _of(self, heads: Sequence[Head] | str, by: By) -> Intervention:
        if by == "zero":
            return zero(heads, self.positions)
        how = {"over": self.reference, "per_position": self.aligned, "positions": self.positions}
        return mean(heads, **how) if by == "mean" else resample(heads, seed=self.seed, **how)  # type: ignore[arg-type]


def checked(name: str, given: str, kinds: object) -> None:
    """Raise UnknownName unless a setting is one of the words of its type."""
    known = get_args(kinds)
    if given not in known:
        raise UnknownName.among(name, given, known)


def parse(text: str) -> tuple[int | Head, ...]:
    """Layers and heads as they are written, in their order.

    >>> parse("10, 11"), parse("0.1 1.2")
    ((10, 11), (Head(0, 1), Head(1, 2)))

    Raises:
        BadArgument: for anything else, or nothing.
    """
    words = re.split(r"[\s,]+", text.strip()) if isinstance(text, str) else [""]
    if not all(re.fullmatch(r"\d+(\.\d+)?", word) for word in words):
        raise BadArgument(f"cannot cut {text!r}: write layers (10,11) or heads (10.5 10.7), numbered from 0.")
    return tuple(Head.parse(word) if "." in word else int(word) for word in words)


def heads_among(model: Model, named: Iterable[int | Head]) -> Heads:
    """The heads that are named, a layer standing for all of its own.

    Raises:
        OutOfRange: for a layer or a head that the model does not have.
        BadArgument: for a layer without heads.
    """
    found: dict[Head, None] = {}
    for each in named:
        if isinstance(each, Head):
            model.require_head(each, "cut")
            found[each] = None
            continue
        own = [Head(each, index) for index in range(model.layer(each, "cut the heads of a layer").heads)]
        if not own:
            raise BadArgument(f"cannot cut layer {each}: it has no heads.")
        found |= dict.fromkeys(own)
    return tuple(found)


def layers_in(model: Model, heads: Sequence[Head]) -> tuple[int, ...] | None:
    """The layers that these heads are all heads of; None if they leave out some head of a layer."""
    layers = sorted({head.layer for head in heads})
    every = sum(model.layer(layer).heads for layer in layers)
    return tuple(layers) if every == len(set(heads)) else None


def written(model: Model, heads: Sequence[Head]) -> str:
    """A cut in words: "nothing", "layers 2, 3", "heads 0.1 1.2"."""
    layers = layers_in(model, heads)
    if not heads:
        return "nothing"
    if layers is None:
        return f"{'head' if len(heads) == 1 else 'heads'} {' '.join(map(str, heads))}"
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(map(str, layers))}"


def as_many_at_random(model: Model, heads: Sequence[Head], *, count: int, seed: int) -> list[Heads]:
    """Up to `count` other cuts of the same size: as many layers for whole layers, else as many heads."""
    layers = layers_in(model, heads)
    if layers is None:
        return random_sets(model.heads, heads, count=count, seed=seed)
    attending, own = model.anatomy.attending, set(layers)
    rng = random.Random(seed)
    drawn: dict[tuple[int, ...], None] = {}
    every = list(combinations(attending, len(layers))) if len(attending) <= 12 else []
    if every:
        others = [each for each in every if set(each) != own]
        drawn = dict.fromkeys(others if len(others) <= count else rng.sample(others, count))
    tries = 0
    while not every and len(drawn) < count and tries < _MOST_SETS:
        tries += 1
        chosen = tuple(sorted(rng.sample(attending, len(layers))))
        if set(chosen) != own:
            drawn[chosen] = None
    return [heads_among(model, chosen) for chosen in drawn]
