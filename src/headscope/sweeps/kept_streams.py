"""What cells leave behind for the next round: the residual streams with which they entered each layer.

When a round of iterative ablation adds edits in some layer to the base run, a cell that acts before that layer
enters it as it did before: it resumes there. Streams are kept while they fit in a budget; a cell whose streams are
not kept is run from its own entry again.
"""

from collections.abc import Sequence

from torch import Tensor

from headscope.models.baserun import BaseRun, Needs
from headscope.models.replay import Replay
from headscope.sweeps.plan import Job, kept_job


class KeptStreams:
    """Streams of cells by (cell, layer), [prompt, position, model], within `budget_bytes`.

    They hold the positions from the cell's first to the last that is read.

    `changed_from` is the layer from which the next base run differs from `base`.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.streams: dict[tuple[int, int], Tensor] = {}
        self.base: BaseRun | None = None
        self.replay: Replay | None = None
        self.needs = Needs(frozenset())
        self.changed_from: int | None = None
        self._left = budget_bytes

    def put(self, layer: int, jobs: Sequence[Job], rows: Tensor, start: int) -> None:
        """Keep what these jobs enter a layer with, rows [job * prompt, position, model] from `start` on."""
        by_job = rows.reshape(len(jobs), -1, *rows.shape[1:])
        for job, whole in zip(jobs, by_job, strict=True):
            stream = whole[:, job.start - start : job.read_stop - start]
            bytes_each = stream.numel() * stream.element_size()
            known = (job.cell, layer) in self.streams
            if known or self._left >= bytes_each:
                self._left -= 0 if known else bytes_each
                self.streams[job.cell, layer] = stream.clone()

    def job(self, job: Job) -> Job:
        """The job, from where the base run changes if the cell can resume there."""
        layer = self.changed_from
        if layer is None or job.layer >= layer or (job.cell, layer) not in self.streams:
            return job
        return kept_job(job, layer)
