"""Numbers, spans of layers and tables as Markdown: what the parts of the page have in common."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# What one command left: "command", and once it was run "cpu_seconds" and "told", the JSON that it printed.
Run = Mapping[str, Any]
Printed = Mapping[str, Run]
TITLES = {"smollm2": "SmolLM2-135M-Instruct", "gemma": "Gemma 3 270M"}
NOT_RUN = "Not run yet: `make real-models` runs it."


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would break a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(run: Run, tell: Callable[[Any], str]) -> str:
    """A heading that is the command, and what is told of what it printed."""
    return f"### `{run['command']}`\n\n{tell(run['told']) if 'told' in run else NOT_RUN}"


def bounded(numbers: Sequence[float | None], *, sign: str = "") -> str:
    """Mean and 95% bounds, with a sign where `sign` is "+".

    >>> bounded([0.5, 0.25, 0.75], sign="+"), bounded([0.0, float("nan"), float("nan")])
    ('+0.50 [+0.25, +0.75]', '0.00 (no bounds)')
    """
    mean, low, high = (math.nan if number is None else number + 0.0 for number in numbers)
    if math.isnan(mean):
        return "undefined"
    told = f"{_zero(mean):{sign}.2f}"
    return f"{told} (no bounds)" if math.isnan(low) else f"{told} [{_zero(low):{sign}.2f}, {_zero(high):{sign}.2f}]"


def _zero(value: float) -> float:
    """Never "-0.00"."""
    return round(value, 2) + 0.0


def layers(given: Iterable[int]) -> str:
    """Whole numbers as spans.

    >>> layers([3, 2, 4, 9, 9])
    '2-4, 9'
    """
    spans: list[list[int]] = []
    for layer in sorted(set(given)):
        if spans and spans[-1][1] == layer - 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans) or "all layers"


def layer_of(head: str) -> int:
    """The layer of a head that is written as 1.4."""
    return int(head.split(".")[0])


def short(value: float) -> str:
    """Two decimals without the zero before them."""
    return f"{value:.2f}".removeprefix("0")
