"""Selection kept apart from estimation: heads are picked on one half of the prompts and measured on the other.

In: anything that gives some of its rows (prompts, detector prompts, samples). Out: a `Split`, whose type says that
its halves have different duties. Whoever picks the largest of many scores and reports that score on the same prompts
reports luck with it; on other prompts of the same kind the luck is gone and an interval means what it says. Prompts
of even number select, those of odd number estimate, so that a text that changes along the way gives like halves.
Generate twice the prompts that an estimate needs. Not done here: counting looks at many heads
(measures.simultaneous), and prompts that are drawn twice: a generator must not give the same one to both halves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

SELECTION = slice(0, None, 2)
ESTIMATION = slice(1, None, 2)


class Rows(Protocol):
    """What can be split: it gives some of its rows as one of its own kind."""

    def rows(self, chosen: slice, /) -> Self: ...


T = TypeVar("T")
U = TypeVar("U")
Splittable = TypeVar("Splittable", bound=Rows)


@dataclass(frozen=True)
class Split(Generic[T]):
    """What chooses, and what is judged."""

    selection: T
    estimation: T

    def map(self, function: Callable[[T], U]) -> "Split[U]":
        """The same done to both halves, apart.

        >>> Split("ab", "c").map(len)
        Split(selection=2, estimation=1)
        """
        return Split(function(self.selection), function(self.estimation))

    def __iter__(self) -> Iterator[T]:
        return iter((self.selection, self.estimation))


def halves(prompts: Splittable) -> Split[Splittable]:
    """The half that selects and the half that estimates; with an odd number, selection has one more.

    >>> from headscope.tasks.prompts import Prompts
    >>> [half.tokens for half in halves(Prompts.of([[1], [2], [3]]))]
    [((1,), (3,)), ((2,),)]
    """
    return Split(prompts.rows(SELECTION), prompts.rows(ESTIMATION))
