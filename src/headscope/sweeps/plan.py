"""The plan of a sweep: where each cell leaves the base run, and which cells run together.

In: for each cell the places of its edits, and what is read. Out: jobs (a cell, the place where it enters the
model, the positions and layers that it still needs) and batches of jobs. Pure: numbers in, numbers out.

An edit in layer l at position p changes nothing in earlier layers, nor at earlier positions, nor, in its own
layer, what attention gave other positions (unless it changes keys or values). So a job enters in one of
three ways: "stream", with an edited residual stream before a layer; "inside", after the attention of its first layer,
of which only the edited positions are computed; "whole", through the first edited layer as a whole. It then
walks through the later layers at the positions from its first edited one to the last that is read. A cell
that cannot reach a read position is no job: it has the values of the base run.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

# Keys and values reach every later query, and a pattern has an axis of all keys.
TO_THE_END = frozenset({"k", "v", "pattern"})
OF_ATTENTION = frozenset({"q", "k", "v", "pattern", "call"})
ENTERING = frozenset({"embed", "resid_pre"})
_LOOK_BACK = 64


@dataclass(frozen=True)
class Place:
    """Where one edit acts: a site ("call": a whole attention call) of a layer, positions `first` to `last`."""

    site: str
    layer: int
    first: int
    last: int

    @property
    def boundary(self) -> int | None:
        """The layer before which the residual stream is edited (the number of layers: after the last); else None."""
        if self.site in ENTERING:
            return self.layer
        return self.layer + 1 if self.site == "resid_post" else None


@dataclass(frozen=True)
class Traits:
    """What of a model the planner must know.

    `inside[layer]`: it can be entered after its attention; `calls[layer]`: its attention call can be run again
    by itself. Without `positions` (something but attention remembers) every job starts at position 0.
    """

    inside: tuple[bool, ...]
    calls: tuple[bool, ...]
    positions: bool = True

    @property
    def layers(self) -> int:
        return len(self.inside)


@dataclass(frozen=True)
class Job:
    """One cell that must be run.

    It enters at `layer` in the way `entry`, where positions `first` to `stop` are edited, walks from layer
    `join` on at positions `start` to `read_stop`, and is read from `read_first` on. `consumed` are its edits
    (by index) that are done at the entry. The entry "kept" is that of a cell that was run before: with the
    residual stream that it had then before layer `join`.
    """

    cell: int
    entry: Literal["stream", "inside", "whole", "kept"]
    layer: int
    first: int
    stop: int
    join: int
    start: int
    read_first: int
    read_stop: int
    consumed: frozenset[int] = frozenset()
    edits_later: bool = False

    @property
    def own_position(self) -> bool:
        """Whether one position is edited, once, and read, so that cells of many positions can share a pass."""
        single = self.stop - self.first == 1 and self.first == self.start == self.read_first
        return single and self.read_stop == self.stop and self.entry != "whole" and not self.edits_later


@dataclass(frozen=True)
class Batch:
    """Jobs that run together at positions `start` to `stop`, in the order in which they join."""

    start: int
    stop: int
    jobs: tuple[Job, ...]
    own_positions: bool = False


@dataclass(frozen=True)
class Costs:
    """`pass_tokens` is what one more call of a layer costs, in tokens of one layer; `most_tokens` fit in one.

    Each row holds a copy of the keys and values before it: one position takes the room of `key_tokens` tokens.
    """

    pass_tokens: float
    most_tokens: int
    key_tokens: float = 0.0

    def room(self, prompts: int, start: int, stop: int) -> float:
        """How much of `most_tokens` one job at these positions takes."""
        return prompts * (stop - start + self.key_tokens * start)


def job_of(
    cell: int, places: Sequence[Place], base: Collection[Place], traits: Traits, reads: tuple[int, int]
) -> Job | None:
    """The job of a cell, or None if it has the values of the base run; `reads` is (first, stop).

    `base` has the places of the edits of the base run itself.
    """
    reach = [place for place in places if place.first <= place.last and place.first < reads[1]]
    if not reach:
        return None
    start = min(place.first for place in reach)
    depth = min(_depth(place) for place in reach)
    layer, entry = int(depth), _entry(reach, base, traits, depth)
    consumed = [index for index, place in enumerate(places) if _consumed(place, entry, layer, base)]
    own = [places[index] for index in consumed if places[index] in reach]
    first = min((place.first for place in own), default=start)
    stop = min(reads[1], max((place.last + 1 for place in own), default=reads[1]))
    if any(place.site in TO_THE_END for place in own):
        stop = reads[1]
    if entry == "inside" and not traits.positions:
        first, stop = 0, reads[1]  # what runs beside the attention sees all positions
    join = layer + (entry == "inside")
    last = join == traits.layers and (stop <= reads[0] or first >= reads[1])
    if last and len(own) == len(reach):
        return None
    start = start if traits.positions else 0
    later = len(own) < len(reach)
    return Job(cell, entry, layer, first, stop, join, start, *reads, frozenset(consumed), later)


def kept_job(job: Job, layer: int) -> Job:
    """The job of a cell that was run before and whose base run is another from this layer on."""
    return replace(job, entry="kept", layer=layer, join=layer, edits_later=True)


def _depth(place: Place) -> float:
    """Layer by layer: 3 is the residual stream before layer 3, 3.5 within it."""
    return place.layer + 0.5 if place.boundary is None else float(place.boundary)


def _entry(
    reach: Sequence[Place], base: Collection[Place], traits: Traits, depth: float
) -> Literal["stream", "inside", "whole"]:
    layer = int(depth)
    if depth == layer:
        # The base run's own edits on entering a layer come before the cell's: both are made in the layer.
        left = any(place.site == "resid_post" and place.boundary == layer for place in reach)
        return "stream" if left or not _entered(base, layer) else "whole"
    redone = any(place.site in OF_ATTENTION and place.layer == layer for place in reach)
    edited = any(place.site in OF_ATTENTION and place.layer == layer for place in base)
    possible = traits.inside[layer] and (not redone or (traits.calls[layer] and not edited))
    return "inside" if possible else "whole"


def _consumed(place: Place, entry: str, layer: int, base: Collection[Place]) -> bool:
    if entry == "stream":
        return place.boundary == layer and (place.site == "resid_post" or not _entered(base, layer))
    if entry == "inside":
        return place.layer == layer and place.site not in ENTERING
    return False


def _entered(base: Collection[Place], layer: int) -> bool:
    """Whether the base run's own edits change the residual stream as it enters a layer."""
    return any(place.site in ENTERING and place.layer == layer for place in base)


def batches(
    jobs: Iterable[Job], prompts: int, layers: int, costs: Costs, *, own_positions: bool = False
) -> list[Batch]:
    """Jobs in batches: those that start at nearby positions together where padding costs less than a pass."""
    listed = list(jobs)
    if own_positions:
        mine = [job for job in listed if job.own_position]
        rest = [job for job in listed if not job.own_position]
        return _diagonal(mine, prompts, costs) + batches(rest, prompts, layers, costs)
    by_start: dict[int, list[Job]] = {}
    for job in listed:
        by_start.setdefault(job.start, []).append(job)
    grouped = []
    for starts in _merged(by_start, prompts, layers, costs):
        group = sorted((job for start in starts for job in by_start[start]), key=lambda job: job.join)
        stop = max(job.read_stop for job in group)
        grouped += [
            Batch(starts[0], max(job.read_stop for job in part), tuple(part))
            for part in _parts(group, costs.room(prompts, starts[0], stop), costs)
        ]
    return grouped


def _merged(by_start: dict[int, list[Job]], prompts: int, layers: int, costs: Costs) -> list[list[int]]:
    """Neighbouring starts in groups of least total cost, by dynamic programming from the last one."""
    starts = sorted(by_start)
    best = [0.0] * (len(starts) + 1)
    ends = [0] * len(starts)
    for index in reversed(range(len(starts))):
        best[index] = math.inf
        walked, tokens, stop, deepest = 0, 0, 0, layers
        for end in range(index, min(index + _LOOK_BACK, len(starts))):
            for job in by_start[starts[end]]:
                walked += layers - job.join
                tokens += 1
                stop, deepest = max(stop, job.read_stop), min(deepest, job.join)
            width = stop - starts[index]
            room = tokens * costs.room(prompts, starts[index], stop)
            passes = max(1, math.ceil(room / costs.most_tokens))
            cost = costs.pass_tokens * passes * (layers - deepest + 1) + walked * prompts * width
            if cost + best[end + 1] < best[index]:
                best[index], ends[index] = cost + best[end + 1], end + 1
    groups, index = [], 0
    while index < len(starts):
        groups.append(starts[index : ends[index]])
        index = ends[index]
    return groups


def _parts(group: Sequence[Job], tokens_per_job: float, costs: Costs) -> list[Sequence[Job]]:
    """A group in equal parts, each within the budget."""
    count = math.ceil(len(group) * tokens_per_job / costs.most_tokens)
    size = math.ceil(len(group) / min(max(1, count), len(group)))
    return [group[index : index + size] for index in range(0, len(group), size)]


def _diagonal(jobs: Sequence[Job], prompts: int, costs: Costs) -> list[Batch]:
    """Jobs of different positions side by side in one pass over all positions."""
    lanes: dict[tuple[int, int], list[Job]] = {}
    taken: dict[tuple[int, int], int] = {}
    for job in jobs:
        lane = taken.get((job.join, job.start), 0)
        taken[job.join, job.start] = lane + 1
        lanes.setdefault((job.join, lane), []).append(job)
    ordered = [lanes[key] for key in sorted(lanes)]
    if not ordered:
        return []
    stop = max(job.stop for job in jobs)
    size = max(1, costs.most_tokens // (prompts * stop))
    return [
        Batch(0, stop, tuple(job for lane in ordered[index : index + size] for job in lane), own_positions=True)
        for index in range(0, len(ordered), size)
    ]
