"""A budget of time, and settings that fit into it.

In: how long a study may take, its settings, what it asks of a model (`stages`). Out: a `Budget` that knows what is
spent and left, and settings whose forecast fits, with a sentence for everything that was reduced. What may shrink a
study says in the fields of its settings (`setting(..., least=...)`); what was chosen stays as chosen. All fields
shrink together, by the same share of their way to the least, which bisection finds. A study that does not fit at the
least is refused, with the time that it takes.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from headscope.errors import BadArgument
from headscope.models.model import Model
from headscope.sweeps.cost import clock

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)", re.IGNORECASE)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
KEPT_BACK = 0.2  # share of a budget that is not planned with: a forecast is no measurement
_STEPS = 12  # bisections
_WORTH_IT = 1.5  # times as many prompts, at least, are worth asking again for

S = TypeVar("S")


def seconds_of(written: str | float) -> float:
    """Seconds in a written length of time; a number is one already.

    >>> seconds_of("90s"), seconds_of("10m"), seconds_of("1.5h")
    (90.0, 600.0, 5400.0)

    Raises:
        BadArgument: for anything else, and for no time at all.
    """
    match = _WRITTEN.fullmatch(written.strip()) if isinstance(written, str) else None
    number = isinstance(written, int | float) and not isinstance(written, bool)
    seconds = float(match[1]) * _UNITS[match[2].lower()] if match else float(written) if number else 0.0
    if not 0 < seconds < float("inf"):
        raise BadArgument(f"cannot study within a budget of {written!r}: write a time such as 90s, 10m or 1h.")
    return seconds


def in_words(seconds: float) -> str:
    """A length of time as one says it.

    >>> in_words(40), in_words(840), in_words(9000)
    ('40 s', '14 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Budget:
    """`seconds` in all, since it was made; `reduced` says what runs smaller for its sake.

    On a CPU seconds of the main thread, which the clock would show on an idle machine; on a GPU the clock's.
    """

    seconds: float
    now: Callable[[], float]
    began: float
    reduced: tuple[str, ...] = ()

    @classmethod
    def starting(cls, seconds: float, model: Model, reduced: Sequence[str] = ()) -> "Budget":
        """One that begins now."""
        now = clock(model)
        return cls(seconds, now, now(), tuple(reduced))

    @property
    def spent(self) -> float:
        return self.now() - self.began

    @property
    def left(self) -> float:
        """Below zero where it is overrun."""
        return self.seconds - self.spent

    def to_json(self) -> dict[str, Any]:
        """For the record: what was given, spent so far, and reduced."""
        return {"seconds": self.seconds, "spent_seconds": round(self.spent, 1), "reduced": list(self.reduced)}


def told_of(budget: Budget | None, settings: Any = None, still_open: int = 0) -> list[str]:
    """What a record says of its budget; with claims `still_open` and time left, how many prompts that has room for.

    They are not added here: whoever looks, adds prompts and looks again, until a claim is decided, decides wrongly
    more often than the intervals say. The next study decides with prompts of its own.
    """
    if budget is None:
        return []
    given = f"The study was given {in_words(budget.seconds)}"
    if budget.reduced:
        given += f", and was made smaller for it: {'; '.join(budget.reduced)}"
    overrun = f" It took {in_words(budget.spent)} all the same." if budget.left < 0 else ""
    n, room = getattr(settings, "n", None), (1 - KEPT_BACK) * budget.seconds
    if not still_open or n is None or budget.spent > room / _WORTH_IT:
        return [f"{given}.{overrun}"]
    more, other = int(n * room / budget.spent), getattr(settings, "seed", 0) + 1
    claims = "1 claim is" if still_open == 1 else f"{still_open} claims are"
    return [
        f"{given}, and took {in_words(budget.spent)}. {claims} open: --n {more} --seed {other} asks again on other "
        "prompts, as many as fit into that time."
    ]


@dataclass(frozen=True)
class Fitted:
    """Settings that fit, what was reduced for it, in sentences, and the seconds of their forecast."""

    settings: Any
    reduced: tuple[str, ...]
    seconds: float


def shrinkable(settings: Any) -> dict[str, tuple[int, int]]:
    """Fields that may shrink, with their value and the least one: those left at their default, quick or not."""
    found = {}
    for each in dataclasses.fields(settings):
        value, least = getattr(settings, each.name), each.metadata.get("least")
        unchosen = value in (each.default, each.metadata.get("quick"))
        if least is not None and unchosen and isinstance(value, int) and value > least:
            found[each.name] = (value, least)
    return found


def fitted(settings: Any, needed: Callable[[Any], float], seconds: float, *, doing: str = "study a model") -> Fitted:
    """The largest settings whose forecast `needed(settings)` stays within `seconds`, a part of which is kept back.

    Raises:
        BadArgument: where the least settings do not fit, with the time that they take.
    """
    allowed = (1 - KEPT_BACK) * seconds
    whole = needed(settings)
    if whole <= allowed:
        return Fitted(settings, (), whole)
    fields = shrinkable(settings)

    def at(share: float) -> Any:
        values = {name: round(most - share * (most - least)) for name, (most, least) in fields.items()}
        return dataclasses.replace(settings, **values)

    least = needed(at(1.0))
    if least > allowed:
        smallest = ", ".join(f"{name}={least}" for name, (_, least) in fields.items())
        raise BadArgument(
            f"cannot {doing} within {in_words(seconds)}: at the least"
            f"{f' ({smallest})' if smallest else ', since nothing of what was chosen may shrink,'} it takes about "
            f"{in_words(least)}. Give it --budget {_written(least / (1 - KEPT_BACK))} or more."
        )
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(at(middle)) <= allowed else (middle, high)
    chosen = at(high)
    reduced = tuple(
        f"{name}={getattr(chosen, name)} in place of {most}"
        for name, (most, _) in fields.items()
        if getattr(chosen, name) != most
    )
    return Fitted(chosen, reduced, needed(chosen))


def _written(seconds: float) -> str:
    """A budget of at least so long, as the option takes it.

    >>> _written(61.2), _written(12.1)
    ('2m', '13s')
    """
    return f"{-int(-seconds // 60)}m" if seconds > 60 else f"{-int(-seconds // 1)}s"
