"""Selection kept apart from estimation: heads are picked on one half of the prompts and measured on the other.

In: anything that gives some of its rows (prompts, detector prompts). Out: its two halves. Whoever picks the
largest of many scores and reports that score on the same prompts reports luck with it; on other prompts of
the same kind the luck is gone and an interval means what it says. Prompts of even number select, those of odd
number estimate, so that a text that changes along the way gives like halves. Generate twice the prompts that
an estimate needs. Not done here: counting looks at many heads (measures.simultaneous), and prompts that are drawn
twice: a generator must not give the same one to both halves.
"""

from typing import Protocol, Self, TypeVar

SELECTION = slice(0, None, 2)
ESTIMATION = slice(1, None, 2)


class Rows(Protocol):
    """What can be split: it gives some of its rows as one of its own kind."""

    def rows(self, chosen: slice, /) -> Self: ...


Split = TypeVar("Split", bound=Rows)


def halves(prompts: Split) -> tuple[Split, Split]:
    """The half that selects and the half that estimates; with an odd number, selection has one more.

    >>> from headscope.tasks.prompts import Prompts
    >>> [half.tokens for half in halves(Prompts.of([[1], [2], [3]]))]
    [((1,), (3,)), ((2,),)]
    """
    return prompts.rows(SELECTION), prompts.rows(ESTIMATION)
