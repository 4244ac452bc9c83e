"""The words that everything else uses: heads, sites, positions, and the names of axes.

A *head* is written `1.4` (layer 1, head 4, both from 0), as the field writes it. A *site* is a place in
the forward pass with a fixed shape. *Positions* say where along a prompt something happens: they count
the real tokens of each example from 0, negative ones from its end; padding does not exist for a user.

Nothing here touches a tensor or a model: these values are hashed, printed, written to disk and keys of tables.
"""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from headscope.errors import BadArgument, UnknownName

# What long work calls now and then: the stage that it is in, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]
# Some of the examples: a tensor takes either as an index.
Rows = slice | list[int]


def silent(stage: str, done: int, of: int) -> None:
    """The progress of who does not want to know."""


def staged(progress: Progress, stage: str) -> Progress:
    """The same progress with a stage named by the caller, who knows better what is being done and why."""
    return lambda _, done, of: progress(stage, done, of)


@dataclass(frozen=True, order=True)
class Head:
    """One attention head: layer and index, both counted from 0.

    >>> Head(1, 4)
    Head(1, 4)
    >>> str(Head.parse("1.4"))
    '1.4'
    """

    layer: int
    index: int

    def __post_init__(self) -> None:
        # Whole numbers of any library are ours from here on: they are hashed and written.
        object.__setattr__(self, "layer", operator.index(self.layer))
        object.__setattr__(self, "index", operator.index(self.index))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1.4`.

        Raises:
            BadArgument: if the text is not two whole numbers joined by a point.
        """
        match = re.fullmatch(r"\s*(\d+)\.(\d+)\s*", text)
        if match is None:
            raise BadArgument(f"cannot read the head {text!r}: write layer.index, for example 1.4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"

    def __repr__(self) -> str:
        return f"Head({self.layer}, {self.index})"


@dataclass(frozen=True)
class Site:
    """A place in the forward pass: its name, its axes, and one line on what it holds."""

    name: str
    axes: tuple[str, ...]
    holds: str

    @property
    def per_layer(self) -> bool:
        """False for the two sites that exist once per model: `embed` and `logits`."""
        return self.name not in ("embed", "logits")


_STREAM = ("batch", "position", "model")
_QUERY_HEADS = ("batch", "position", "head", "head_dim")
_KEY_HEADS = ("batch", "position", "kv_head", "head_dim")

SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("embed", _STREAM, "what enters the first layer"),
        Site("resid_pre", _STREAM, "the residual stream before a layer"),
        Site("resid_mid", _STREAM, "the residual stream between attention and MLP"),
        Site("resid_post", _STREAM, "the residual stream after a layer"),
        Site("attn_out", _STREAM, "what the attention block adds to the residual stream"),
        Site("mlp_out", _STREAM, "what the MLP adds to the residual stream"),
        Site("q", _QUERY_HEADS, "queries as the kernel receives them (after rotary)"),
        Site("k", _KEY_HEADS, "keys as the kernel receives them (after rotary)"),
        Site("v", _KEY_HEADS, "values as the kernel receives them"),
        Site("pattern", ("batch", "head", "query", "key"), "attention probabilities"),
        Site("z", _QUERY_HEADS, "the input of the output projection, by head"),
        Site(
            "head_out",
            ("batch", "position", "head", "model"),
            "z through its slice of W_O, before what follows on the way to attn_out",
        ),
        Site("logits", ("batch", "position", "vocab"), "next-token scores"),
    )
}


def site_named(name: str) -> Site:
    """The site of that name.

    Raises:
        UnknownName: naming the sites that exist.
    """
    if name not in SITES:
        raise UnknownName.among("site", name, SITES)
    return SITES[name]


@dataclass(frozen=True)
class Positions:
    """Positions of each example: all of them, some by index, or those that carry a role.

    >>> Positions.of(-1)
    Positions(indices=(-1,), role=None)
    >>> Positions.of("query").role
    'query'
    >>> Positions.of("all") == ALL
    True
    """

    indices: tuple[int, ...] | None = None
    role: str | None = None

    @classmethod
    def of(cls, given: "PositionsLike") -> Self:
        """From an index, several, a role's name, `"all"`, or positions.

        Raises:
            BadArgument: if the list is empty or holds anything but whole numbers.
        """
        if isinstance(given, Positions):
            return cls(given.indices, given.role)
        if isinstance(given, str):
            return cls() if given == "all" else cls(role=given)
        indices = whole_numbers(given)
        if not indices:
            raise BadArgument(
                f"cannot read the positions {given!r}: give a whole number, a list of them, a role, or 'all'."
            )
        return cls(indices=indices)

    def __str__(self) -> str:
        if self.role is not None:
            return self.role
        return "all" if self.indices is None else ",".join(map(str, self.indices))


def whole_numbers(given: object) -> tuple[int, ...] | None:
    """One whole number of any library, or several, as Python's own; None for anything else, truth values among it.

    >>> whole_numbers(3), whole_numbers(range(2)), whole_numbers([True])
    ((3,), (0, 1), None)
    """
    several = isinstance(given, Iterable) and getattr(given, "ndim", None) != 0  # an array of no axis is a number
    listed = list(given) if several else [given]  # type: ignore[call-overload]
    if any(isinstance(each, bool) for each in listed):
        return None
    try:
        return tuple(map(operator.index, listed))
    except TypeError:
        return None


ALL = Positions()
PositionsLike = Positions | int | Sequence[int] | str


def heads_of(given: "Head | str | Iterable[Head | str]") -> tuple[Head, ...]:
    """Heads from a head, its written form, or several of either.

    >>> heads_of(["0.1", Head(1, 2)])
    (Head(0, 1), Head(1, 2))

    Raises:
        BadArgument: for anything else; a pair of numbers is no head.
    """
    if isinstance(given, Head):
        return (given,)
    if isinstance(given, str):
        return tuple(Head.parse(part) for part in given.split(","))
    if not isinstance(given, Iterable):
        raise BadArgument(f"cannot read {given!r} as a head: write Head(0, 2) or '0.2'.")
    return tuple(head for item in given for head in heads_of(item))
