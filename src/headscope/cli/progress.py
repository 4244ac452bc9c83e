"""Progress on stderr: each stage as it begins, how far it is, and what is left of it at the pace so far.

A terminal has one line that moves; anything else (a log, a pipe) gets a line as a stage begins, and one more
every `SAID_SECONDS` while it lasts. What is left is told of the stage, since nobody knows the stages to come.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from headscope.cli.common import stderr
from headscope.vocabulary import Progress, silent

SAID_SECONDS = 20.0


class Pace:
    """What a stage has done since it began; what was done before (kept by an earlier run) took no time."""

    def __init__(self) -> None:
        self._stage, self._began, self._before, self._last = "", 0.0, 0, 0

    def left(self, stage: str, done: int, of: int) -> str:
        """How long the rest of the stage takes at this pace, in words; empty while that is unknown."""
        now = time.monotonic()
        if stage != self._stage or done < self._last:
            self._stage, self._began, self._before = stage, now, done
        self._last = done
        if done <= self._before or done >= of:
            return ""
        return f"about {_duration((now - self._began) * (of - done) / (done - self._before))} left"


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A callback `(stage, done, of)` that draws one line on a terminal and prints lines elsewhere."""
    if quiet:
        yield silent
        return
    pace = Pace()
    if not stderr.is_terminal:
        seen: set[str] = set()
        said = time.monotonic()

        def say(stage: str, done: int, of: int) -> None:
            nonlocal said
            left = pace.left(stage, done, of)
            if stage not in seen:
                seen.add(stage)
                stderr.print(f"{stage} ...", markup=False, soft_wrap=True)
            elif time.monotonic() - said >= SAID_SECONDS and done < of:
                stderr.print(f"{stage}: {done} of {of}{left and ', ' + left}", markup=False, soft_wrap=True)
            else:
                return
            said = time.monotonic()

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    left = TextColumn("{task.fields[left]}")
    with Bar(*columns, TimeElapsedColumn(), left, console=stderr, transient=True) as bar:
        task = bar.add_task("starting", total=1, left="")
        yield lambda stage, done, of: bar.update(
            task, description=stage, completed=done, total=of, left=pace.left(stage, done, of)
        )


def _duration(seconds: float) -> str:
    """A length of time in the unit that suits it.

    >>> _duration(40.2), _duration(840), _duration(9000)
    ('40 s', '14 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
