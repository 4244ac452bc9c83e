"""The detectors by name: what each looks at, on which prompts, and against which null.

A name may carry a parameter after a colon: `lookback:3`. The null of a detector that needs repetition is
the same (query, key) pairs on prompts of the same shape in which nothing repeats; the null of one that is
about distance alone is an equal number of other visible keys.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from headscope.detectors import pairs
from headscope.detectors.pairs import KeySets
from headscope.errors import BadArgument, UnknownName
from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class Detector:
    """One kind of head: its key sets, the prompts it is judged on, its null, and one line of meaning."""

    name: str
    key_sets: Callable[[Prompts], KeySets]
    prompts: Literal["natural", "repeated", "pairs"]
    meaning: str
    # How many tokens back it looks, where that is what defines it: prompts must be longer.
    reach: int = 0

    @property
    def null(self) -> str:
        """What attention on the keys is compared with."""
        return {"natural": "other keys", "repeated": "nothing repeats", "pairs": "other roles"}[self.prompts]


_FIXED = {
    detector.name: detector
    for detector in (
        Detector("previous_token", pairs.previous_token, "natural", "attends to the token before"),
        Detector("current_token", pairs.current_token, "natural", "attends to its own token"),
        Detector("bos", pairs.first_token, "natural", "attends to the first token"),
        Detector("duplicate_token", pairs.duplicate_token, "repeated", "attends to earlier copies of its token"),
        Detector(
            "induction", pairs.prefix_matching, "repeated", "attends to what followed earlier copies of its token"
        ),
    )
}
# The most telling first: in this order they are computed, listed and drawn.
DEFAULT = ("induction", "previous_token", "duplicate_token", "current_token", "bos")
KNOWN = (*_FIXED, "lookback:N")


def detector(name: str) -> Detector:
    """The detector of that name.

    >>> detector("lookback:3").meaning
    'attends 3 tokens back'

    Raises:
        UnknownName, BadArgument: naming the known ones, or the range of the parameter.
    """
    if name in _FIXED:
        return _FIXED[name]
    kind, _, parameter = name.partition(":")
    if kind != "lookback":
        raise UnknownName.among("detector", name, KNOWN)
    if not parameter.isdecimal() or int(parameter) < 1:
        raise BadArgument(f"cannot read the detector {name!r}: write lookback:N with N at least 1.")
    distance = int(parameter)
    keys = partial(pairs.lookback, distance=distance)
    return Detector(name, keys, "natural", f"attends {distance} tokens back", distance)


def detectors(names: str | Iterable[str]) -> list[Detector]:
    """Several detectors, by a list of names or one string with commas.

    Raises:
        BadArgument: if there is none.
    """
    listed = [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)
    chosen = [detector(name) for name in dict.fromkeys(listed) if name]
    if not chosen:
        raise BadArgument(f"cannot detect nothing: name at least one of {', '.join(KNOWN)}.")
    return chosen
