"""The engine: runs a plan. Cells resume from one base run, and cells that start alike run as rows of one batch.

In: a model, prompts, the edits that hold in every cell, cells, measures. Out: values per cell and example,
equal to those of full passes (sweeps.naive) up to rounding. Layers are walked once per batch; rows join
where their cell enters, and only read positions go through the unembedding. Nothing waits for the device
but once per batch, to leave out cells that change nothing, and to fetch the values.

What a cell computes that edits layer 2 at position 3 and is read at position 5 (a row of `rows` in `_walk`):

    layer 4   | k k k h h # |   # computed for this cell; h of the last layer only keys and values (`step_from`)
    layer 3   | k k k # # # |   k keys and values kept from the base run, which # attends to (`base.past`)
    layer 2   | k k k E # # |   E the edited position, with which the cell enters (sweeps.entry_streams)
    layer 1   | . . . . . . |   . not computed again: what enters layer 2 elsewhere is the base run's (`base.stream`)
    layer 0   | . . . . . . |
      position  0 1 2 3 4 5     start = 3, join = 2, read_first = 5, read_stop = 6
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headscope.measures.readouts import Measure, ReadOut
from headscope.models.baserun import BaseRun, Needs, base_run, resumed_run
from headscope.models.execution import edited
from headscope.models.model import Model
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.models.replay import Replay
from headscope.models.stacked import Block, stacked
from headscope.sweeps.calibrate import PARTS
from headscope.sweeps.entry_streams import EntryStreams, of_attention, repeated
from headscope.sweeps.kept_streams import KeptStreams
from headscope.sweeps.naive import OWN, with_own_position
from headscope.sweeps.plan import Batch, Costs, Job, Traits, batches, job_of
from headscope.sweeps.sweep import Setting, Work

_UNENTERED = frozenset({"whole", "kept"})
_READ_TOGETHER = 512  # read positions that go through the unembedding at once, at least


class Engine:
    """Runs prepared cells over some prompts.

    With `own_positions`, cells of many positions share a pass; `kept` is what an earlier round left behind.
    """

    _base: BaseRun  # once it runs

    def __init__(
        self,
        model: Model,
        setting: Setting,
        works: Sequence[Work],
        traits: Traits,
        costs: Costs,
        *,
        own_positions: bool = False,
        kept: KeptStreams | None = None,
        leave_out: Collection[int] = (),
    ) -> None:
        self._model, self._setting, self._works = model, setting, works
        self._read_cells: dict[tuple[ReadOut, int | None], Tensor] = {}
        earlier = None if kept is None else kept.replay
        self._replay = earlier or Replay(model.hf, model.anatomy, with_cache=traits.positions)
        self.jobs: list[Job] = []
        self.unchanged: list[int] = []
        for cell, work in enumerate(works):
            if cell in leave_out:
                continue
            job = job_of(cell, work.places, setting.base_places, traits, self._reads(work))
            if job is None:
                self.unchanged.append(cell)
            else:
                self.jobs.append(job if kept is None else kept.job(job))
        self._kept, count = kept, len(setting.prompts)
        self.batches = batches(self.jobs, count, traits.layers, costs, own_positions=own_positions)
        self._same: dict[int | None, list[Tensor]] = {}

    def run(self, done: Collection[int] = ()) -> Iterator[tuple[int, list[Tensor]]]:
        """(cell, one tensor of values [example] per measure), in the order in which they are done.

        Batches that go through the unembedding together are left out where all of their cells are `done`: never a
        part of them, since rounding depends on what runs side by side.
        """
        with self._replay.running():
            self._base = base = self._base_run()
            if self._kept is not None:
                self._kept.base, self._kept.replay, self._kept.changed_from = base, self._replay, None
            entries = EntryStreams(self._replay, base, {i: work.edits for i, work in enumerate(self._works)})
        for cell in self.unchanged:
            if cell not in done:
                yield cell, self._unchanged(cell)
        for together in self._read_together():
            if not all(job.cell in done for batch in together for job in batch.jobs):
                yield from self._run_together(together, entries)

    def _read_together(self) -> Iterator[list[Batch]]:
        """Batches in their order, as many as share one unembedding."""
        # An unembedding of few rows takes as long as reading all its weights: several batches share it.
        together: list[Batch] = []
        count = 0
        for batch in self.batches:
            together.append(batch)
            at = (self._at(each, self._works[j.cell].position) for j in batch.jobs for each in self._setting.measures)
            count += sum(each.numel() for each in at)
            if count >= _READ_TOGETHER:
                yield together
                together, count = [], 0
        if together:
            yield together

    def _run_together(self, together: Sequence[Batch], entries: EntryStreams) -> Iterator[tuple[int, list[Tensor]]]:
        waiting: list[tuple[Job, list[Tensor]]] = []
        for batch in together:
            with self._replay.running():
                entered = entries.of(batch.jobs)
                live = [job for job in batch.jobs if job.entry in _UNENTERED or job.cell in entered]
                if live:
                    walk = self._own_positions if batch.own_positions else self._walk
                    streams, first = walk(replace(batch, jobs=tuple(live)), entered, entries)
                    waiting += zip(live, self._read(live, streams, first), strict=True)
            for job in batch.jobs:
                if job not in live:
                    yield job.cell, self._unchanged(job.cell)
        yield from self._measured(waiting)

    def _base_run(self) -> BaseRun:
        layers = self._replay.anatomy.layers
        inside = frozenset(job.layer for job in self.jobs if job.entry == "inside")
        redone = frozenset(
            job.layer
            for job in self.jobs
            if job.entry == "inside" and any(of_attention(self._works[job.cell].edits[i]) for i in job.consumed)
        )
        streams = frozenset({job.join for job in self.jobs} | {job.layer for job in self.jobs}) - {len(layers)}
        keys = any(job.start > 0 or job.own_position for job in self.jobs)
        needs = Needs(streams, inside, redone, keys)
        stop = max((self._reads(work)[1] for work in self._works), default=1)
        setting, kept = self._setting, self._kept
        if kept is not None and kept.base is not None and kept.changed_from is not None:
            return resumed_run(self._replay, kept.base, setting.base_edits, kept.needs, kept.changed_from)
        if kept is not None:
            kept.needs = needs
        return base_run(self._replay, setting.prompts, self._model.device, setting.base_edits, needs, stop)

    def _reads(self, work: Work) -> tuple[int, int]:
        """The first position that is read in this cell, and the one after the last."""
        cells = [self._at(measure, work.position) for measure in self._setting.measures]
        # A pattern has all keys of the prompt, whatever is read.
        whole = any(place.site == "pattern" for place in (*work.places, *self._setting.base_places))
        stop = self._setting.prompts.longest if whole else max(int(at.max()) for at in cells) + 1
        return min(int(at[at >= 0].min()) for at in cells), stop

    def _at(self, measure: Measure, position: int | None) -> Tensor:
        """The positions that a measure reads, int64 [prompt, read]."""
        read_out = measure.read_out
        own = position if read_out.positions.role == OWN else None
        if (read_out, own) not in self._read_cells:
            self._read_cells[read_out, own] = read_out.cells(with_own_position(self._setting.prompts, own))
        return self._read_cells[read_out, own]

    def _unchanged(self, cell: int) -> list[Tensor]:
        """The values of the base run, which such a cell has."""
        work = self._works[cell]
        own = any(measure.read_out.positions.role == OWN for measure in self._setting.measures)
        position = work.position if own else None
        if position not in self._same:
            job = Job(cell, "whole", 0, 0, 1, 0, 0, *self._reads(work))
            with self._replay.running():
                stream = self._base.stream[self._model.n_layers][:, job.read_first : job.read_stop]
                reads = self._read([job], stream, job.read_first)
            ((_, self._same[position]),) = self._measured([(job, reads[0])])
        return self._same[position]

    def _walk(self, batch: Batch, entered: dict[int, Tensor], entries: EntryStreams) -> tuple[Tensor, int]:
        """Streams [job * prompt, position, model] after the last layer, and their first position."""
        base, layers = self._base, self._model.n_layers
        wanted = min(job.read_first for job in batch.jobs)
        start, present, rows = batch.start, [], None
        for layer in range(min(job.join for job in batch.jobs), layers + 1):
            joining = [job for job in batch.jobs if job.join == layer]
            if joining:
                fresh = self._joining(layer, [[job] for job in joining], batch, entered)[:, start - batch.start :]
                rows = fresh if rows is None else torch.cat([rows, fresh])
                present += joining
            if layer == layers:
                break
            assert rows is not None
            if self._kept is not None:
                self._kept.put(layer, present, rows, start)
            past = base.past(layer, start) if self._replay.with_cache else None
            edits = self._edits(layer, present, batch, entries)
            if edits:
                layout = entries.layout(start, batch.stop, cells=len(present))
                self._replay.arguments(rows, start, batch.stop)  # now, while nothing is edited
                with edited(self._replay.hf, self._replay.anatomy, layout, edits=edits):
                    rows = self._replay.step(layer, rows, start, past)
            elif layer == layers - 1 and wanted > start:
                rows, start = self._replay.step_from(layer, rows, start, wanted, past), wanted
            else:
                rows = self._replay.step(layer, rows, start, past)
        assert rows is not None
        if wanted < start:  # nothing has changed there
            before = base.stream[layers][:, wanted:start]
            rows = torch.cat([before.repeat(len(present), 1, 1), rows], 1)
        return rows, min(start, wanted)

    def _joining(
        self, layer: int, lanes: Sequence[Sequence[Job]], batch: Batch, entered: dict[int, Tensor]
    ) -> Tensor:
        """The residual streams with which jobs join: those of the base run, edited where the jobs entered.

        Jobs of one lane share a row.
        """
        before = self._base.stream[layer][:, batch.start : batch.stop]
        fresh = before.expand(len(lanes), *before.shape).clone()
        for index, job in ((index, job) for index, lane in enumerate(lanes) for job in lane):
            if job.entry == "kept":
                assert self._kept is not None
                own = slice(job.start - batch.start, job.read_stop - batch.start)
                fresh[index, :, own] = self._kept.streams[job.cell, layer]
            elif job.cell in entered:
                fresh[index, :, job.first - batch.start : job.stop - batch.start] = entered[job.cell]
        return fresh.flatten(0, 1)

    def _edits(
        self, layer: int, present: Sequence[Job], batch: Batch, entries: EntryStreams
    ) -> list[SiteEdit | CallEdit]:
        """The edits of this layer: those of the base run in all rows, the cells' own in theirs."""
        prompts, shared = len(self._setting.prompts), [e for e in self._setting.base_edits if e.layer == layer]
        blocks = []
        layout = None
        for index, job in enumerate(present):
            own = []
            if job.edits_later or job.entry in _UNENTERED:
                edits = enumerate(self._works[job.cell].edits)
                own = [edit for i, edit in edits if edit.layer == layer and i not in job.consumed]
            if own or shared:
                layout = layout or entries.layout(batch.start, batch.stop)
                rows = slice(index * prompts, (index + 1) * prompts)
                blocks.append(Block(rows, [*shared, *own], layout))
        return stacked(blocks)

    def _own_positions(self, batch: Batch, entered: dict[int, Tensor], entries: EntryStreams) -> tuple[Tensor, int]:
        """As `_walk`, for jobs that each concern one position: all positions of a lane share a row.

        The query at a position sees the base run's keys before it and its own: no cell sees another.
        """
        base, layers = self._base, self._model.n_layers
        lanes = _lanes(batch.jobs)
        rows, present = None, 0
        for layer in range(batch.jobs[0].join, layers + 1):
            joining = [lane for lane in lanes if lane[0].join == layer]
            if joining:
                fresh = self._joining(layer, joining, batch, entered)
                rows = fresh if rows is None else torch.cat([rows, fresh])
                present += len(joining)
            if layer == layers:
                break
            assert rows is not None
            given = dict(self._replay.arguments(rows, 0, batch.stop)[layer])
            given["attention_mask"] = _own_and_earlier(given.get("attention_mask"), rows, batch.stop)
            past = base.past(layer, batch.stop)
            shared = [edit for edit in self._setting.base_edits if edit.layer == layer]
            if shared:
                count, layout = len(rows) // present, entries.layout(0, batch.stop)
                blocks = [Block(slice(i * count, (i + 1) * count), shared, layout) for i in range(present)]
                whole = entries.layout(0, batch.stop, cells=present)
                with edited(self._replay.hf, self._replay.anatomy, whole, edits=stacked(blocks)):
                    rows = self._replay.call(layer, rows, given, past)
            else:
                rows = self._replay.call(layer, rows, given, past)
        assert rows is not None
        by_lane = rows.reshape(len(lanes), len(base.prompts), *rows.shape[1:])
        chosen = [by_lane[i, :, job.first : job.stop] for i, lane in enumerate(lanes) for job in lane]
        return torch.cat(chosen), -1

    def _read(self, jobs: Sequence[Job], streams: Tensor, first: int) -> list[list[Tensor]]:
        """For each job and measure the residual streams at the read positions, [prompt, read, model].

        `streams` [job * prompt, position, model] begin at position `first`; a `first` of -1 says that each job
        has its own single position.
        """
        by_job = streams.reshape(len(jobs), -1, *streams.shape[1:])
        reads: list[list[Tensor]] = [[] for _ in jobs]
        for measure in self._setting.measures:
            at = torch.stack([self._at(measure, self._works[job.cell].position) for job in jobs])
            origin = torch.tensor([job.read_first if first < 0 else first for job in jobs])[:, None, None]
            index = (at - origin).clamp(min=0).to(streams.device)
            read = by_job.gather(2, index[..., None].expand(*index.shape, streams.shape[-1]))
            for own, value in zip(reads, read, strict=True):
                own.append(value)
        return reads

    @torch.no_grad()
    def _measured(self, waiting: Sequence[tuple[Job, list[Tensor]]]) -> list[tuple[int, list[Tensor]]]:
        """Values of the measures from the residual streams at the read positions."""
        jobs = [job for job, _ in waiting]
        values: list[list[Tensor]] = [[] for _ in jobs]
        for number, measure in enumerate(self._setting.measures if jobs else ()):
            read = torch.stack([reads[number] for _, reads in waiting])
            at = torch.stack([self._at(measure, self._works[job.cell].position) for job in jobs])
            # Logits, once more in float32, and once more as log-probabilities.
            bytes_each = 12 * at[0].numel() * self._model.vocab_size
            for some in self._model.batches(len(jobs), bytes_each=bytes_each, share=PARTS):
                logits = self._replay.logits(read[some].flatten(0, 1))
                rows = self._values(measure, logits, jobs[some], at[some]).double().cpu()
                for own, value in zip(values[some], rows, strict=True):
                    own.append(value)
        return [(job.cell, value) for job, value in zip(jobs, values, strict=True)]

    def _values(self, measure: Measure, logits: Tensor, jobs: Sequence[Job], at: Tensor) -> Tensor:
        """[job, prompt]"""
        prompts = self._setting.prompts
        if measure.split is not None:  # it holds something per example: cell by cell
            by_job = logits.reshape(*at.shape, -1)
            parts = zip(by_job, at, strict=True)
            return torch.stack([measure.compute(own, prompts, cells) for own, cells in parts])
        flat = measure.compute(logits, repeated(prompts, len(jobs)), at.flatten(0, 1))
        return flat.reshape(len(jobs), len(prompts))


def _lanes(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in order, a new lane wherever a position or a joining layer comes again."""
    lanes: list[list[Job]] = []
    taken: set[int] = set()
    for job in jobs:
        if not lanes or lanes[-1][0].join != job.join or job.start in taken:
            lanes.append([])
            taken = set()
        lanes[-1].append(job)
        taken.add(job.start)
    return lanes


def _own_and_earlier(mask: Tensor | None, like: Tensor, count: int) -> Tensor:
    """A mask over keys [base run | own]: those before the query that its layer lets it see, and its own.

    `mask` is what the layer would get for all positions; the new one is of its kind (bool or additive).
    """
    earlier = torch.ones(count, count, dtype=torch.bool, device=like.device).tril(-1)[None, None]
    if mask is not None:
        visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        earlier = earlier & visible[..., :count]
    own = torch.eye(count, dtype=torch.bool, device=like.device).expand_as(earlier)
    seen = torch.cat([earlier, own], -1)
    if mask is None or mask.dtype == torch.bool:
        return seen
    return torch.zeros(seen.shape, dtype=mask.dtype, device=like.device).masked_fill(
        ~seen, torch.finfo(mask.dtype).min
    )
