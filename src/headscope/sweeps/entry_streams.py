"""How cells leave the base run: the residual streams of their edited positions, where each of them enters.

In: the base run, jobs, and the prepared edits of their cells. Out: for each job the residual stream [prompt,
position, model] at its edited positions, before the layer that it joins. Nothing else differs from the base run
there.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from headscope.models.baserun import BaseRun
from headscope.models.execution import edited
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.models.replay import Replay
from headscope.models.stacked import Block, stacked
from headscope.models.tap import Tap, finish, pass_through
from headscope.sweeps.plan import OF_ATTENTION, Job
from headscope.tasks.prompts import Prompts

AnyEdit = SiteEdit | CallEdit
_ORDER = ("resid_post", "embed", "resid_pre")  # in which the forward pass meets edits before a layer


class EntryStreams:
    """Entries into one model from one base run; `edits[cell]` are the prepared edits of each cell."""

    def __init__(self, replay: Replay, base: BaseRun, edits: Mapping[int, Sequence[AnyEdit]]) -> None:
        self._replay, self._base, self._edits = replay, base, edits
        self._prompts: dict[int, Prompts] = {}

    def of(self, jobs: Sequence[Job]) -> dict[int, Tensor]:
        """The edited streams of these jobs, by cell; jobs that differ in nothing from the base run have none."""
        groups: dict[tuple[str, int, int], list[Job]] = defaultdict(list)
        for job in jobs:
            groups[job.entry, job.layer, job.stop - job.first].append(job)
        streams_of: dict[int, Tensor] = {}
        kept, differ = [], []
        for (entry, layer, _), group in groups.items():
            if entry in ("whole", "kept"):
                continue
            streams = (self._stream if entry == "stream" else self._inside)(layer, group)
            join = layer + (entry == "inside")
            before = torch.stack([self._base.stream[join][:, job.first : job.stop] for job in group])
            differ.append((streams != before).flatten(1).any(1))
            kept.append((group, streams))
        if not kept:
            return streams_of
        # The one moment at which a batch waits for the device.
        flags = iter(torch.cat(differ).tolist())
        for group, streams in kept:
            for job, stream in zip(group, streams, strict=True):
                if next(flags) or job.edits_later:
                    streams_of[job.cell] = stream
        return streams_of

    def layout(self, start: int, stop: int, *, cells: int = 1) -> Layout:
        """The layout of a pass over positions `start` to `stop`, earlier ones being in the cache.

        Of the base run's prompts, once for each of so many cells, one below the other.
        """
        if cells not in self._prompts:
            self._prompts[cells] = repeated(self._base.prompts, cells)
        layout = Layout.of(self._prompts[cells], self._base.layout.lengths.device)
        if start:
            layout.advance(start)
        layout.advance(stop - start)
        return layout

    def _consumed(self, job: Job) -> list[AnyEdit]:
        return [edit for index, edit in enumerate(self._edits[job.cell]) if index in job.consumed]

    def _stream(self, layer: int, jobs: Sequence[Job]) -> Tensor:
        """[job, prompt, position, model]"""
        streams = []
        for job in jobs:
            value, layout = self._base.stream[layer][:, job.first : job.stop], self.layout(job.first, job.stop)
            edits = [edit for edit in self._consumed(job) if isinstance(edit, SiteEdit)]
            for edit in sorted(edits, key=lambda edit: _ORDER.index(edit.site)):
                value = edit.change(value, layout)
            streams.append(value)
        return torch.stack(streams)

    def _inside(self, layer: int, jobs: Sequence[Job]) -> Tensor:
        """[job, prompt, position, model]"""
        base, prompts = self._base, len(self._base.prompts)
        blocks, redone = [], {}
        for index, job in enumerate(jobs):
            edits = self._consumed(job)
            inner = [edit for edit in edits if of_attention(edit)]
            layout = self.layout(job.first, job.stop)
            if inner:
                redone[job.cell] = self._attend(layer, job, inner, layout)
            own = [edit for edit in base.edits if edit.layer == layer and not of_attention(edit)]
            rows = slice(index * prompts, (index + 1) * prompts)
            blocks.append(Block(rows, [*own, *(edit for edit in edits if edit not in inner)], layout))

        def edited_part(kept: Tensor) -> Tensor:
            whole = kept.reshape(prompts, base.stop, -1)
            return torch.cat([whole[:, job.first : job.stop] for job in jobs])

        def attended() -> Tensor:
            sites = {getattr(edit, "site", "") for block in blocks for edit in block.edits}
            if not redone and "z" not in sites and not self._ends_inside(layer):
                return edited_part(base.attended[layer])
            z = torch.cat(
                [
                    redone[job.cell]
                    if job.cell in redone
                    else base.z[layer].reshape(prompts, base.stop, -1)[:, job.first : job.stop]
                    for job in jobs
                ]
            )
            projection = self._replay.anatomy.layers[layer].projection
            assert projection is not None
            projected: Tensor = projection(z)
            if self._replay.projecting_last[layer]:
                return projected
            # Something follows the projection inside the module (bloom adds the residual stream there): keep it.
            return edited_part(base.attended[layer]) + (projected - edited_part(base.projected[layer]))

        stream = self._through(layer, edited_part(base.stream[layer]), attended, blocks, jobs[0])
        return stream.reshape(len(jobs), prompts, *stream.shape[1:])

    def _ends_inside(self, layer: int) -> bool:
        """Whether what attention adds is made inside its module, which adds more to it (bloom)."""
        anatomy = self._replay.anatomy.layers[layer]
        term = anatomy.attention_term
        return term is not None and anatomy.projection is term.module

    def _through(
        self, layer: int, stream: Tensor, attended: Callable[[], Tensor], blocks: list[Block], job: Job
    ) -> Tensor:
        edits = stacked(blocks)
        if not edits:
            return self._replay.after_attention(layer, stream, attended)
        layout = self.layout(job.first, job.stop, cells=len(blocks))
        self._replay.arguments(stream, 0, stream.shape[1])  # now, while nothing is edited
        with edited(self._replay.hf, self._replay.anatomy, layout, edits=edits):
            return self._replay.after_attention(layer, stream, attended)

    def _attend(self, layer: int, job: Job, edits: Sequence[AnyEdit], layout: Layout) -> Tensor:
        """What attention hands to the projection under edits of the call itself, [prompt, position, width]."""
        whole = job.first == 0 and job.stop == self._base.stop
        queries = slice(None) if whole else slice(job.first, job.stop)
        call = self._base.calls[layer].part(layout, queries=queries)
        tap = Tap({}, layout, edits=edits)
        if tap.changes(layer, "q", "k", "v"):
            pass_through(call, [tap])
        else:
            finish(call, [tap])
        return call.out.flatten(2)


def repeated(prompts: Prompts, cells: int) -> Prompts:
    """The prompts once for each cell, cell by cell."""
    return prompts if cells == 1 else prompts.rows(list(range(len(prompts))) * cells)


def of_attention(edit: AnyEdit) -> bool:
    """Whether it changes what an attention call is made of, rather than a place of the residual stream."""
    return isinstance(edit, CallEdit) or edit.site in OF_ATTENTION
